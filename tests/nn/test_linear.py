"""Linear layers in inference: their kernels against torch, and what a row gives whatever its neighbors are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.nn import linear as linear_module
from bedplate.nn.linear import Linear, QuantizedLinear, linear_plain, project, quantize, together
from bedplate.nn.quantize import KINDS, Quantized, QuantizedEmbedding


def layers(inputs: int, outputs: int, *, bias: bool = True) -> list[nn.Module]:
    """A layer in every form in which a weight can be stored."""
    torch.manual_seed(0)
    plain = Linear(inputs, outputs, bias=bias)
    kinds = [kind for kind in KINDS if kind != "int4" or inputs % 32 == 0]
    return [
        plain,
        copy.deepcopy(plain).bfloat16(),
        *(QuantizedLinear(Quantized.of(plain.weight, kind), plain.bias) for kind in kinds),
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [16, 32, 48, 64, 224, 24])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 40), (9, 1)])
def test_every_form_equals_its_plain_twin(bias: bool, inputs: int, shape: tuple[int, ...]) -> None:
    for layer in layers(inputs, 37, bias=bias):
        x = torch.randn(*shape, inputs)
        x = x.to(layer.weight.dtype) if isinstance(layer.weight, Tensor) else x
        bound = 0.02 if x.dtype == torch.bfloat16 else 1e-5
        with torch.no_grad():
            expected = linear_plain(x, layer.weight, layer.bias)
            torch.testing.assert_close(layer(x), expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("inputs", [24, 48, 96, 256])
def test_neighbors_change_no_bit(inputs: int) -> None:
    for layer in layers(inputs, 30):
        x = torch.randn(11, 1, inputs)
        x = x.to(layer.weight.dtype) if isinstance(layer.weight, Tensor) else x
        with torch.inference_mode():
            all_together = layer(x)
            for count in (1, 2, 3, 4, 6, 11):
                assert torch.equal(layer(x[:count].contiguous()), all_together[:count])
            assert torch.equal(layer(x[5:8]), all_together[5:8])


def test_layers_together_are_each_alone() -> None:
    for query, key in zip(layers(64, 20), layers(64, 9, bias=False), strict=True):
        x = torch.randn(3, 1, 64)
        x = x.to(query.weight.dtype) if isinstance(query.weight, Tensor) else x
        with torch.no_grad():
            for mine, own in zip(together(x, query, key), (query, key), strict=True):
                assert torch.equal(mine, own(x))


def test_a_watched_layer_is_called() -> None:
    one, other = Linear(16, 8), Linear(16, 8)
    seen: list[int] = []
    other.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        together(torch.randn(2, 1, 16), one, other)
    assert seen == [1]


def test_training_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Linear(16, 8)
    x = torch.randn(4, 16)
    theirs = F.linear(x, ours.weight, ours.bias)
    assert torch.equal(ours(x), theirs)
    ours(x).sum().backward()
    assert ours.weight.grad is not None


def test_weights_that_change_are_read_anew() -> None:
    layer, x = Linear(32, 8), torch.randn(1, 1, 32)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        layer.bias = nn.Parameter(torch.ones(8))
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_without_numba_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in layers(64, 30):
        x = torch.randn(5, 1, 64)
        x = x.to(layer.weight.dtype) if isinstance(layer.weight, Tensor) else x
        with torch.no_grad(), monkeypatch.context() as patched:
            expected = layer(x)
            patched.setattr(linear_module, "kernels", lambda: None)
            bound = 0.02 if x.dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(layer(x), expected, rtol=bound, atol=bound)
            assert torch.equal(layer(x)[2], layer(x[2:3])[0])


@pytest.mark.parametrize(("kind", "bound"), [("bf16", 0.003), ("int8", 0.008), ("int4", 0.09)])
def test_quantized_weights_are_near(kind: str, bound: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 96)
    quantized = Quantized.of(weight, kind)
    assert quantized.shape == weight.shape
    assert (quantized.dense() - weight).norm() / weight.norm() < bound
    rows = torch.tensor([3, 3, 49])
    assert torch.equal(quantized.dense(rows), quantized.dense()[rows])
    assert torch.equal(Quantized.of(torch.zeros(4, 32), kind).dense(), torch.zeros(4, 32))


def test_what_int4_can_hold_it_holds_exactly() -> None:
    codes = torch.arange(-8, 8).repeat(2, 4).float()
    torch.testing.assert_close(Quantized.of(codes * 0.5, "int4").dense(), codes * 0.5, rtol=0, atol=0)


def test_a_model_is_quantized_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(40, 32), Linear(32, 64), nn.ReLU(), Linear(64, 32, bias=False))
    model.output_weight = model[0].weight  # type: ignore[assignment]
    quantize(model, "int8")
    assert isinstance(model[0], QuantizedEmbedding) and isinstance(model[1], QuantizedLinear)
    assert model(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 32)
    with torch.no_grad():
        assert project(torch.randn(1, 32), model[0].weight).shape == (1, 40)


def test_bad_kinds_and_shapes_are_user_errors() -> None:
    with pytest.raises(UserError, match="did you mean 'int8'"):
        Quantized.of(torch.zeros(2, 32), "int88")
    with pytest.raises(UserError, match="groups of 32.*choose int8"):
        Quantized.of(torch.zeros(2, 48), "int4")


def test_what_is_not_finite_is_refused_before_anything_changes() -> None:
    model = nn.Sequential(Linear(32, 8), Linear(8, 32))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        quantize(model, "int8")
    assert type(model[0]) is Linear


def test_layers_stored_differently_are_not_mixed_up() -> None:
    torch.manual_seed(0)
    one, other = Linear(32, 8), Linear(32, 8)
    mixed = QuantizedLinear(Quantized.of(one.weight, "int4"), one.bias)
    x = torch.randn(2, 1, 32)
    with torch.no_grad():
        found = together(x, mixed, other)
        torch.testing.assert_close(found[0], linear_plain(x, mixed.weight, mixed.bias), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], linear_plain(x, other.weight, other.bias), rtol=1e-5, atol=1e-5)
        with pytest.raises(RuntimeError, match="shape"):
            F.linear(torch.randn(1, 1, 48), other.weight)
        with pytest.raises(ValueError, match="48 numbers a row"):
            project(torch.randn(1, 1, 48), other.weight)
