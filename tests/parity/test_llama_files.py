"""Folders of Llama, Mistral and Qwen2 against transformers: both directions, shards, old layouts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_llama import CONFIGURATIONS, reference_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bedplate.models import from_pretrained, save_pretrained


@pytest.mark.parametrize(("kind", "changes"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_files_keep_every_bit_both_ways(kind: type, changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(kind, changes)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path / "theirs"), tmp_path / "ours", end_id=0)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(reference) and not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    mine, theirs = again.config.to_dict(), reference.config.to_dict()
    ignored = {"transformers_version", "architectures", "dtype", "_name_or_path"}
    differing = {key for key, value in theirs.items() if mine.get(key) != value} - ignored
    assert differing <= {"hidden_act"}, differing  # of several spellings the first is written


def test_no_prefix_old_buffers_and_a_copied_head_open(tmp_path: Path) -> None:
    reference = reference_model(LlamaConfig, {"tie_word_embeddings": True})
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    old |= {f"layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(3) for layer in range(2)}
    save_file(old, tmp_path / "model.safetensors")
    assert_same(tmp_path, reference)
    save_file(old | {"lm_head.weight": old["embed_tokens.weight"].clone()}, tmp_path / "model.safetensors")
    assert_same(tmp_path, reference)


def assert_same(folder: Path, reference: LlamaForCausalLM) -> None:
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(folder)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)
