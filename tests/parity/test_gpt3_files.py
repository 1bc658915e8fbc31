"""GPT-Neo's files against transformers, and GPT-3's own: both directions, shards, old layouts, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.test_gpt3 import HUB
from tests.parity.gpt3_reference import CONFIGURATIONS, SMALL, models
from transformers import GPTNeoForCausalLM

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.gpt3 import GPT3, HF, Config, GPTNeo


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_gpt_neo_keeps_every_bit_both_ways(changes: dict[str, Any], shard: str, tmp_path: Path) -> None:
    _, reference, _ = models("GPT-Neo", torch.float32, **changes)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    ours = from_pretrained(tmp_path / "theirs")
    assert isinstance(ours, GPTNeo)
    (tmp_path / "ours").mkdir()
    save_pretrained(ours, tmp_path / "ours", end_id=0)
    again, report = GPTNeoForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    changed = {key for key, value in reference.config.to_dict().items() if again.config.to_dict().get(key) != value}
    assert changed <= {"transformers_version", "architectures", "dtype", "_name_or_path"}


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_gpt3_keeps_every_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = GPT3(Config(**SMALL | changes))
    save_pretrained(model, tmp_path, end_id=0)
    again = from_pretrained(tmp_path)
    assert type(again) is GPT3 and again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_layout_of_the_first_files_opens(tmp_path: Path) -> None:
    """As on the hub: masks as buffers, the tied head as a copy, every layer named in config.json."""
    _, reference, _ = models("GPT-Neo", torch.float32)
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(3):
        tensors[f"transformer.h.{layer}.attn.attention.bias"] = torch.ones(1, 1, 40, 40).tril()
        tensors[f"transformer.h.{layer}.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}, tmp_path / "model.safetensors")
    kinds = {"attention_types": [[["global", "local", "global"], 1]], "attention_layers": ["global", "local", "global"]}
    sizes = {"hidden_size": 24, "num_layers": 3, "num_heads": 3, "window_size": 5, "max_position_embeddings": 40}
    (tmp_path / "config.json").write_text(json.dumps(HUB | kinds | sizes | {"vocab_size": 101}))
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-4, atol=1e-4)


def test_gpt3_is_no_gpt_neo(tmp_path: Path) -> None:
    """What the layout cannot hold is not written in it."""
    with pytest.raises(UserError, match="cannot have its configuration"):
        HF[1].save(GPT3(Config(**SMALL)), tmp_path)
