"""PaLM's own folders: both directions, shards, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_palm import CONFIGURATIONS, TINY

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.palm import HF, Config, PaLM
from bedplate.weights.files import write_tensors


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_folders_keep_every_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = PaLM(Config(**TINY | changes))
    save_pretrained(model, tmp_path, end_id=0)
    tensors = load_file(tmp_path / "model.safetensors")
    for shard_bytes in (10**9, 5000):
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        write_tensors(tensors, tmp_path, shard_bytes=shard_bytes)
        again = from_pretrained(tmp_path)
        assert again.config == model.config and isinstance(again, PaLM)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


def test_names_without_prefix_open_and_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    model = PaLM(Config(**TINY))
    save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, tmp_path / "model.safetensors")
    assert torch.equal(from_pretrained(tmp_path).token_embedding.weight, model.token_embedding.weight)
    save_file(bare | {"lm_head.weight": torch.zeros(101, 24)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"unexpected tensor 'lm_head.weight'"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {"hidden_act": "gelu"}, {"attention_bias": True}])
def test_what_is_not_palm_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        HF.config_from(HF.config_to(Config(**TINY)) | changes)
