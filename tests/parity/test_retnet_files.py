"""RetNet in torchscale's names: both directions, shards, its buffers, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_retnet import CONFIGURATIONS, SMALL

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.retnet import Config, RetNet
from bedplate.weights.files import write_tensors

GATED = Config(**SMALL | CONFIGURATIONS["untied"])
NAMES = {
    "embed_tokens.weight", "output_projection.weight", "layer_norm.weight", "retnet_rel_pos.angle",
    "retnet_rel_pos.decay",
    *(f"layers.{layer}.{name}.weight" for layer in (0, 1) for name in (
        "retention_layer_norm", "final_layer_norm", "ffn.fc1", "ffn.gate", "ffn.fc2", "retention.q_proj",
        "retention.k_proj", "retention.v_proj", "retention.g_proj", "retention.out_proj",
    )),
}  # fmt: skip


def saved(config: Config, folder: Path) -> RetNet:
    torch.manual_seed(0)
    model = RetNet(config)
    save_pretrained(model, folder)
    return model


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_folders_keep_every_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = saved(Config(**SMALL | changes), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for shard_bytes in (10**9, 5000):
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        write_tensors(tensors, tmp_path, shard_bytes=shard_bytes)
        again = from_pretrained(tmp_path)
        assert again.config == model.config and isinstance(again, RetNet)
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


def test_names_and_buffers_are_torchscales(tmp_path: Path) -> None:
    saved(GATED, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == NAMES
    angles = tensors["retnet_rel_pos.angle"]  # 24 / 3 numbers, of pairs, from 1 to 1/10000
    torch.testing.assert_close(angles[::2], torch.tensor([1, 0.046416, 0.002154, 0.0001]), rtol=1e-3, atol=0)
    assert torch.equal(angles[::2], angles[1::2])
    expected = torch.log(1 - 2 ** (-5 - torch.arange(3, dtype=torch.float)))
    torch.testing.assert_close(tensors["retnet_rel_pos.decay"], expected)


def test_other_decays_and_missing_buffers_are_refused(tmp_path: Path) -> None:
    saved(GATED, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    other = tensors | {"retnet_rel_pos.decay": torch.log(torch.tensor([0.9, 0.99, 0.999]))}
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"retnet_rel_pos.decay is not what config.json says"):
        from_pretrained(tmp_path)
    del tensors["retnet_rel_pos.decay"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensor\(s\) missing, the first is 'retnet_rel_pos.decay'"):
        from_pretrained(tmp_path)


def test_a_copy_of_the_embedding_opens_and_another_matrix_is_refused(tmp_path: Path) -> None:
    model, path = saved(Config(**SMALL), tmp_path), tmp_path / "model.safetensors"
    tensors, copy = load_file(path), "output_projection.weight"
    save_file(tensors | {copy: tensors["embed_tokens.weight"] + 0}, path)
    assert torch.equal(from_pretrained(tmp_path).token_embedding.weight, model.token_embedding.weight)
    save_file(tensors | {copy: tensors["embed_tokens.weight"] + 1}, path)
    with pytest.raises(UserError, match='differs .*; set "share_decoder_input_output_embed": false'):
        from_pretrained(tmp_path)
