"""GPT-2's files against transformers: both directions, shards, old layouts, half precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_gpt2 import CONFIGURATIONS, reference_model
from transformers import GPT2LMHeadModel, GPT2Model

from bedplate.models import from_pretrained, save_pretrained


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_files_keep_every_bit_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_pretrained(ours, tmp_path / "ours", end_id=0)
    again, report = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    ignored = {"transformers_version", "architectures", "dtype", "_name_or_path"}
    differing = {k for k, v in reference.config.to_dict().items() if again.config.to_dict().get(k) != v} - ignored
    # Spellings of one activation become the first; what changes nothing in float32 is not kept.
    assert differing <= {"activation_function", "reorder_and_upcast_attn"}


def test_shards_open(tmp_path: Path) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_layout_of_the_first_files_opens(tmp_path: Path) -> None:
    """OpenAI's own on the hub: no prefix, the causal mask as a buffer, sometimes the tied head as a copy."""
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for layer in range(3):
        old[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
        old[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    old["lm_head.weight"] = old["wte.weight"].clone()
    save_file(old, tmp_path / "model.safetensors")
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_model_without_its_head_opens(tmp_path: Path) -> None:
    reference = reference_model()
    base = GPT2Model(reference.config)
    base.load_state_dict(reference.transformer.state_dict())
    base.save_pretrained(tmp_path)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_open(tmp_path: Path, dtype: torch.dtype) -> None:
    reference = reference_model().to(dtype)
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), reference.double()(ids).logits, rtol=0, atol=1e-10)
