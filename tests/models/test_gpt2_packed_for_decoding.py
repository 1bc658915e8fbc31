"""A GPT-2 packed for decoding computes, holds and saves what it did before."""

import copy
from pathlib import Path

import pytest
import torch

from bedplate.models import from_pretrained, save_pretrained
from bedplate.models.gpt2 import GPT2, Config
from bedplate.nn.fast.packed_linear import PackedLinear, pack
from bedplate.objectives.next_token import NextToken
from bedplate.verify.contracts import verify


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> GPT2:
    torch.manual_seed(0)
    return GPT2(Config(vocab_size=50, context_length=16, dim=24, num_layers=2, num_heads=2, tied=request.param)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_and_state_stay(model: GPT2, dtype: torch.dtype) -> None:
    model.to(dtype)
    ids = torch.randint(50, (3, 11))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bound = 1e-5 if dtype == torch.float32 else 0.02
    with torch.no_grad():
        expected = model(ids)
        pack(model)
        assert any(isinstance(module, PackedLinear) for module in model.modules())
        torch.testing.assert_close(model(ids), expected, rtol=bound, atol=bound)
        state = model.new_state(3)
        parts = [model(part, state=state) for part in ids.split([4, *[1] * 7], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=bound, atol=bound)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_packing_twice_is_packing_once_and_saving_keeps_every_bit(model: GPT2, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack(model)
    pack(model)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in before.items())


def test_to_the_outside_a_packed_model_is_what_it_was(model: GPT2) -> None:
    ids = torch.randint(50, (2, 9))
    plain, other = copy.deepcopy(model), GPT2(model.config).eval()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    pack(model)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}
    with torch.no_grad():
        losses = [NextToken().loss(each, batch, None, 0).total for each in (model, plain)]
        torch.testing.assert_close(*losses)
        for source in (other, plain):
            model.load_state_dict(source.state_dict())
            torch.testing.assert_close(model(ids), source(ids), rtol=1e-5, atol=1e-5)
        model.to(torch.bfloat16)
        assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
        torch.testing.assert_close(model(ids), plain(ids).bfloat16(), rtol=0.02, atol=0.02)
    with pytest.raises(RuntimeError, match=r"convert a copy.deepcopy"):
        model.double()


def test_a_copy_is_ordinary_again_and_learns(model: GPT2) -> None:
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    pack(model)
    duplicate = copy.deepcopy(model).requires_grad_(True)
    assert not any(isinstance(module, PackedLinear) for module in duplicate.modules())
    assert all(torch.equal(value, expected[name]) for name, value in duplicate.state_dict().items())
    duplicate.train()(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert all(parameter.grad is not None for parameter in duplicate.parameters())
    assert {row.verdict for row in verify(model)} == {"pass"}


def test_training_is_refused(model: GPT2) -> None:
    pack(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="load it again"):
        model.train()(torch.zeros(1, 3, dtype=torch.long))
