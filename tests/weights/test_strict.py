"""Folders that do not fit are refused, each with a line that names what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.gpt2 import GPT2, HF, Config
from bedplate.weights.files import write_tensors

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_pretrained(GPT2(Config(vocab_size=30, context_length=8, dim=8, num_layers=2, num_heads=2)), tmp_path)
    return tmp_path


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


FIRST = "transformer.h.0.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(FIRST), ["missing", FIRST]),
        (lambda t: t.update({"transformer.h.0.mlp.fc.weight": t.pop(FIRST)}), ["transformer.h.0.mlp.fc.weight", FIRST]),
        (lambda t: t.update({"extra.weight": torch.zeros(2)}), ["unexpected", "extra.weight"]),
        (lambda t: t.update({FIRST: t[FIRST].T.contiguous()}), ["shape", "[32, 8]", "[8, 32]"]),
        (lambda t: t.update({FIRST: t[FIRST].int()}), ["I32", FIRST]),
        (lambda t: t.update({"lm_head.weight": torch.zeros(30, 8)}), ["lm_head.weight", "tie"]),
        (lambda t: t.update({"transformer.h.2.ln_1.bias": torch.zeros(8)}), ["transformer.h.2.ln_1.bias"]),
    ],
    ids=["missing", "renamed", "extra", "transposed", "integers", "untied", "one layer too many"],
)
def test_tensors_that_do_not_fit(folder: Path, change: Callable[[Tensors], Any], words: list[str]) -> None:
    change_tensors(folder, change)
    with pytest.raises(UserError) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 300, -8])
def test_a_truncated_file(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"attention_kind": "strange"}, "attention_kind"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"activation_function": "gelu_neo"}, "gelu_new"),
        ({"n_embd": "8"}, "n_embd"),
        ({"n_head": 2.5}, "n_head"),
        ({"n_head": True}, "n_head"),
        ({"n_head": 3}, "num_heads"),
        ({"n_layer": 0}, "num_layers"),
        ({"embd_pdrop": 0.3}, "embd_pdrop"),
        ({"model_type": "gpt-2"}, "gpt2"),
        ({"model_type": ["gpt2"]}, "model type"),
    ],
)
def test_settings_that_are_not_supported(folder: Path, values: dict[str, Any], word: str) -> None:
    change_config(folder, **values)
    with pytest.raises(UserError, match=word):
        from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'"text"'])
def test_a_config_that_is_no_object(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        from_pretrained(folder)


def test_pickles_are_refused_unless_asked_for(folder: Path) -> None:
    expected = from_pretrained(folder).state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="allow_pickle=True"):
        from_pretrained(folder)
    opened = from_pretrained(folder, allow_pickle=True).state_dict()
    assert all(torch.equal(opened[name], value) for name, value in expected.items())


def test_a_pickle_that_runs_code_is_refused_even_when_asked_for(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (folder / "owned",))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="pytorch_model.bin"):
        from_pretrained(folder, allow_pickle=True)
    assert not (folder / "owned").exists()


def test_shards_that_are_missing_or_lie_elsewhere(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_tensors(tensors, folder, shard_bytes=2000)
    opened = from_pretrained(folder)
    assert opened.config.num_layers == 2
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        from_pretrained(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shards[1].name, "../../etc/passwd"))
    with pytest.raises(UserError, match="passwd"):
        from_pretrained(folder)
    index.write_text("{")
    with pytest.raises(UserError, match="line 1"):
        from_pretrained(folder)


def test_every_tensor_of_ours_has_one_line_in_the_table() -> None:
    for tied in (True, False):
        config = Config(vocab_size=30, context_length=8, dim=8, num_layers=2, num_heads=2, tied=tied)
        ours = GPT2(config).state_dict()
        theirs = HF.to_theirs(dict(ours), config)
        back = HF.to_ours(dict(theirs), config)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[name], value) for name, value in ours.items())
