"""Sharded folders, both ways, to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.test_gpt2 import reference_model
from transformers import GPT2LMHeadModel

from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.gpt2 import HF
from bedplate.weights.files import write_tensors


@pytest.mark.parametrize("size", ["5KB", "20KB", "60KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_their_shards_open_here(tmp_path: Path, size: str, tied: bool) -> None:
    reference = reference_model(tie_word_embeddings=tied)
    reference.save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours = from_pretrained(tmp_path)
    back = HF.to_theirs(dict(ours.state_dict()), ours.config)
    assert back.keys() == reference.state_dict().keys() - ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in back.items())


@pytest.mark.parametrize("shard_bytes", [1, 5_000, 60_000])
def test_our_shards_open_there(tmp_path: Path, shard_bytes: int) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path / "theirs"), tmp_path / "ours", end_id=0)
    whole = tmp_path / "ours" / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    write_tensors(tensors, tmp_path / "ours", shard_bytes=shard_bytes)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    shards = list((tmp_path / "ours").glob("model-*.safetensors"))
    assert len(shards) > 1 and (len(shards) == len(tensors)) == (shard_bytes == 1)
    again, report = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(again.state_dict()[name], value) for name, value in reference.state_dict().items())
    ours = from_pretrained(tmp_path / "ours").state_dict()
    assert all(
        torch.equal(value, ours[name]) for name, value in from_pretrained(tmp_path / "theirs").state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_number_format_travels(tmp_path: Path, dtype: torch.dtype) -> None:
    reference = reference_model().to(dtype)
    reference.save_pretrained(tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs", dtype=dtype)
    (tmp_path / "ours").mkdir()
    save_pretrained(ours, tmp_path / "ours", end_id=0)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == dtype
    assert all(torch.equal(again.state_dict()[name], value) for name, value in reference.state_dict().items())
