"""Folders with files that are missing, cut, doubled or of another kind: one line each, which names the file."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bedplate.errors import UserError
from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.gpt2 import GPT2, Config
from bedplate.weights.files import write_tensors

CONFIG = Config(vocab_size=30, context_length=8, dim=8, num_layers=2, num_heads=2)
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_pretrained(GPT2(CONFIG), tmp_path)
    return tmp_path


def refused(folder: Path, *words: str, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        from_pretrained(folder, **options)
    assert "\n" not in str(caught.value) and caught.value.fix
    for word in words:
        assert word in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "does not exist")


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "config.json", "does not exist")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, str(folder), "model.safetensors")


def test_a_folder_in_place_of_the_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    refused(folder, "model.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_file_cut_anywhere(folder: Path, share: float) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    try:
        (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * share)])
        refused(folder, "model.safetensors", "truncated")
    finally:
        (folder / "model.safetensors").write_bytes(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_header_is_a_user_error_or_harmless(folder: Path, place: int, value: int) -> None:
    """Never another exception, whatever byte of the header is changed."""
    whole = (folder / "model.safetensors").read_bytes()
    try:
        hurt = bytearray(whole)
        hurt[place] = value
        (folder / "model.safetensors").write_bytes(hurt)
        try:
            from_pretrained(folder)
        except UserError as error:
            assert str(folder) in str(error)
    finally:
        (folder / "model.safetensors").write_bytes(whole)


def test_one_tensor_under_both_spellings(folder: Path) -> None:
    """Which of the two would be meant?"""
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"wte.weight": torch.zeros(30, 8)}, folder / "model.safetensors")
    refused(folder, "wte.weight", "twice")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn], ids=lambda dtype: str(dtype)
)
def test_number_formats_that_are_not_read(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.h.1.ln_2.bias"
    save_file(tensors | {name: tensors[name].to(dtype)}, folder / "model.safetensors")
    refused(folder, name, "type")


def test_an_untied_head_that_is_missing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    refused(folder, "lm_head.weight", "missing")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"activation_function": ["gelu_new"]}, "activation_function"),
        ({"activation_function": None}, "activation_function"),
        ({"n_inner": 0}, "mlp_dim"),
        ({"n_inner": -3}, "mlp_dim"),
        ({"n_inner": "32"}, "n_inner"),
        ({"layer_norm_epsilon": -1e-5}, "norm_eps"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
        ({"attn_pdrop": None}, "attn_pdrop"),
        ({"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.2}, "attn_pdrop"),
        ({"resid_pdrop": 1.5, "embd_pdrop": 1.5, "attn_pdrop": 1.5}, "dropout"),
        ({"scale_attn_weights": 1}, "scale_attn_weights"),
        ({"n_layers": 2}, "n_layer"),
        ({"rope_scaling": None}, "rope_scaling"),
        ({"add_cross_attention": "yes"}, "add_cross_attention"),
        ({"model_type": None}, "model type"),
        ({"n_positions": 9}, "wpe"),
        ({"vocab_size": 31}, "wte"),
        ({"n_layer": 3}, "h.2."),
        ({"n_layer": 1}, "h.1."),
    ],
)
def test_settings_that_do_not_fit(folder: Path, values: dict[str, Any], word: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    refused(folder, word)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '{"weight_map": []}', '{"weight_map": null}', '{"weight_map": {"a": 1}}', "{}",
     '{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": "/etc/hostname"}}', '{"weight_map": {"a": "config.json"}}'],
)  # fmt: skip
def test_a_damaged_index(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, str(folder))


def shard(folder: Path) -> dict[str, Any]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_tensors(tensors, folder, shard_bytes=3000)
    return json.loads((folder / "model.safetensors.index.json").read_text())


def test_an_index_that_lists_too_much_and_shards_that_hold_too_much(folder: Path) -> None:
    index = shard(folder)
    name, file = next(iter(index["weight_map"].items()))
    more = index | {"weight_map": index["weight_map"] | {"transformer.h.9.ln_1.bias": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(more))
    refused(folder, "transformer.h.9.ln_1.bias")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(load_file(folder / file) | {"stray": torch.zeros(1)}, folder / file)
    refused(folder, "stray")
    tensors = load_file(folder / file)
    del tensors["stray"], tensors[name]
    save_file(tensors or {"stray": torch.zeros(1)}, folder / file)
    refused(folder, str(folder))


def test_a_cut_shard_is_named(folder: Path) -> None:
    shard(folder)
    second = sorted(folder.glob("model-*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:-4])
    refused(folder, second.name)


def pickled(folder: Path, change: Callable[[Tensors], Any]) -> None:
    torch.save(change(load_file(folder / "model.safetensors")), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "change",
    [lambda t: list(t.values()), lambda t: t | {"x": 3}, lambda t: {"state_dict": t}, lambda t: 7,
     lambda t: {name: value.int() for name, value in t.items()}],
    ids=["list", "number inside", "nested", "number", "integers"],
)  # fmt: skip
def test_a_pickle_of_something_else(folder: Path, change: Callable[[Tensors], Any]) -> None:
    pickled(folder, change)
    refused(folder, str(folder), allow_pickle=True)


@pytest.mark.parametrize(
    "content", [b"", b"junk" * 99, b"\x80\x04", pickle.dumps({"a": 1}), b"PK\x03\x04" + b"\0" * 99]
)
def test_a_damaged_pickle(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    refused(folder, "pytorch_model.bin", allow_pickle=True)


def test_an_old_pickle_with_its_masks_opens(folder: Path) -> None:
    expected = from_pretrained(folder).state_dict()
    pickled(folder, lambda t: t | {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 8, 8).bool() for i in range(2)})
    opened = from_pretrained(folder, allow_pickle=True).state_dict()
    assert all(torch.equal(opened[name], value) for name, value in expected.items())


def test_safetensors_are_read_even_where_pickles_are_allowed(folder: Path) -> None:
    expected = from_pretrained(folder).state_dict()
    torch.save({"transformer.wte.weight": torch.zeros(30, 8)}, folder / "pytorch_model.bin")
    opened = from_pretrained(folder, allow_pickle=True).state_dict()
    assert all(torch.equal(opened[name], value) for name, value in expected.items())


@pytest.mark.parametrize("name", ["pytorch_model.bin.index.json", "model.pt", "model.pth"])
def test_no_way_is_offered_that_does_not_lead_on(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"{}")
    with pytest.raises(UserError, match=name) as caught:
        from_pretrained(folder)
    assert "allow_pickle" not in str(caught.value)


def test_nothing_is_changed_by_a_refusal(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(folder, "config.json", "line 1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
