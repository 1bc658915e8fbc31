"""GPT-1's files against transformers: both directions, shards, old layouts, and switches that are not supported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_gpt1 import every_configuration, reference_model
from transformers import OpenAIGPTLMHeadModel, OpenAIGPTModel

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained


@every_configuration
def test_files_keep_every_bit_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    again, report = OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    ignored = {"transformers_version", "architectures", "dtype", "_name_or_path", "afn"}
    differing = {k for k, v in reference.config.to_dict().items() if again.config.to_dict().get(k) != v} - ignored
    assert not differing


def assert_opens(folder: Path, reference: OpenAIGPTLMHeadModel) -> None:
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(folder)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)


def test_shards_open(tmp_path: Path) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_opens(tmp_path, reference)


def test_the_layout_of_the_first_files_opens(tmp_path: Path) -> None:
    """On the hub: no prefix, the causal mask as a buffer, keys of 2018, sometimes positions and the head as copies."""
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 40, 40).tril() for layer in range(3)}
    old |= {"position_ids": torch.arange(40.0), "lm_head.weight": old["tokens_embed.weight"].clone()}
    save_file(old, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"n_ctx": 40, "n_special": 0, "predict_special_tokens": True, "summary_activation": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_opens(tmp_path, reference)


def test_a_model_without_its_head_opens(tmp_path: Path) -> None:
    reference = reference_model()
    base = OpenAIGPTModel(reference.config)
    base.load_state_dict(reference.transformer.state_dict())
    base.save_pretrained(tmp_path)
    assert_opens(tmp_path, reference)


@pytest.mark.parametrize(("key", "value"), [("afn", "gelu_new"), ("scale_attn_weights", False), ("n_inner", 7)])
def test_a_switch_that_is_not_supported_is_named(key: str, value: object, tmp_path: Path) -> None:
    """transformers 5.23 itself has no activation "gelu_new" here, and neither of the other keys."""
    reference_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=key):
        from_pretrained(tmp_path)
