"""config.json of Llama, Mistral and Qwen2 as transformers 4 and 5 write it, and what is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.test_llama import SMALL, YARN, reference_model
from transformers import AutoModelForCausalLM, LlamaConfig

from bedplate.errors import UserError
from bedplate.models import from_pretrained
from bedplate.models.llama import HF
from bedplate.nn.rotary import YaRN


@pytest.mark.parametrize("changes", [
    {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", "rope_type": "yarn", "factor": 4.0}},
    {"rope_theta": 500.0, "rope_scaling": None},
    {"rope_theta": 500.0, "max_sequence_length": 64, "pretraining_tp": 2},
])  # fmt: skip
def test_config_files_of_transformers_4_open(changes: dict[str, Any], tmp_path: Path) -> None:
    reference_model(LlamaConfig, {}).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    ids, reference = torch.arange(60)[None], AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
    ({"rope_scaling": YARN | {"mscale": 0.7}}, "'mscale' of rope_type 'yarn'"),
    ({"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -2}}, "factor of rope_type 'linear' is -2"),
    ({"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_scaling": [4]}, "rope_scaling is \\[4\\]"),
    ({"hidden_act": "mish"}, "hidden_act 'mish'"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
])  # fmt: skip
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HF[0].config_from(SMALL | changes)


@pytest.mark.parametrize("changes", [{"use_sliding_window": True}, {"layer_types": ["sliding_attention"] * 2}])
def test_windows_of_some_layers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        HF[2].config_from(SMALL | changes)


def test_missing_keys_mean_what_they_mean_to_transformers() -> None:
    stretched = HF[0].config_from({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 7.0}, **SMALL})
    assert stretched.stretch == YaRN(factor=2.0, context=64) and stretched.rotary_base == 7.0
    known = {config.model_type: config for config in AutoModelForCausalLM._model_mapping}
    for table in HF:
        values = known[table.model_type]().to_dict()
        values |= {"head_dim": None} if "head_dim" in values else {}
        ours, theirs = table.config_from({}), table.config_from(values)
        assert replace(ours, num_kv_heads=ours.kv_heads) == theirs, table.model_type
