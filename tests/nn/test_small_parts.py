"""Positions, MLP, and the fast kernels beside their plain twins."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bedplate.nn.fast.linear_cross_entropy import IGNORE, ROWS, linear_cross_entropy, linear_cross_entropy_plain
from bedplate.nn.mlp import MLP, GatedMLP, gelu_tanh
from bedplate.nn.position import restarting_positions, rotary, rotate, within_documents


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_packed_documents(lengths: list[int]) -> None:
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    assert restarting_positions(documents)[0].tolist() == [i for length in lengths for i in range(length)]
    allowed = within_documents(documents)[0, 0]
    for query in range(sum(lengths)):
        for key in range(sum(lengths)):
            expected = key <= query and bool(documents[0, key] == documents[0, query])
            assert bool(allowed[query, key]) == expected


def test_rotary_turns_complex_numbers_and_sees_only_differences() -> None:
    x = torch.randn(1, 1, 7, 6, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 5, 9, 100, 1000]])
    turned = rotate(x, rotary(positions, 6))
    frequencies = 10000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    as_complex = torch.complex(x[..., :3], x[..., 3:]) * torch.exp(1j * positions[0, :, None] * frequencies)
    torch.testing.assert_close(turned, torch.cat([as_complex.real, as_complex.imag], dim=-1), rtol=0, atol=1e-12)
    query, key = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)
    near, far = (
        (rotate(query, rotary(torch.tensor([[p + 3]]), 6)) * rotate(key, rotary(torch.tensor([[p]]), 6))).sum()
        for p in (0, 500)
    )
    torch.testing.assert_close(near, far, rtol=0, atol=1e-11)


def test_gelu_has_its_published_values() -> None:
    values = gelu_tanh(torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(values, torch.tensor([0.841192, -0.158808], dtype=torch.float64), rtol=0, atol=5e-7)


def test_mlp_is_its_formula() -> None:
    mlp, x = MLP(4, 9, activation=gelu_tanh).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    inner = x @ mlp.up.weight.T + mlp.up.bias
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, ROWS, ROWS + 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-3)])
@pytest.mark.parametrize("options", [{}, {"smoothing": 0.1}, {"z": 0.3}, {"smoothing": 0.2, "z": 1e-2}])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_cross_entropy_equals_its_plain_twin(
    rows: int, dtype: torch.dtype, bound: float, options: dict[str, float], biased: bool
) -> None:
    torch.manual_seed(0)
    features, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((rows, 6), (11, 6), (11,)))
    targets = torch.randint(11, (rows,))
    targets[::3] = IGNORE
    gradients = []
    for form in (linear_cross_entropy, linear_cross_entropy_plain):
        leaves = [each.clone().requires_grad_() for each in (features, weight, *([bias] if biased else []))]
        loss = form(*leaves[:2], targets, bias=leaves[2] if biased else None, **options)
        gradients.append((loss, *torch.autograd.grad(3 * loss, leaves)))
    for mine, theirs in zip(*gradients, strict=True):
        # Sums over all rows: float32 rounding grows with them, relative to the largest value.
        torch.testing.assert_close(mine, theirs.to(mine.dtype), rtol=1e-5, atol=bound)


def test_linear_cross_entropy_of_nothing_and_without_gradients() -> None:
    features, weight = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    nothing = linear_cross_entropy(features, weight, torch.full((5,), IGNORE))
    nothing.backward()
    assert nothing == 0 and not features.grad.any() and not weight.grad.any()
    with torch.no_grad():
        assert not linear_cross_entropy(features, weight, torch.zeros(5, dtype=torch.long)).requires_grad


def test_linear_cross_entropy_in_bfloat16_is_near() -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(64, 32, requires_grad=True), (torch.randn(50, 32) / 6).requires_grad_()
    targets = torch.randint(50, (64,))
    exact = linear_cross_entropy_plain(features, weight, targets)
    (expected,) = torch.autograd.grad(exact, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(features, weight, targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.float32
    assert (loss - exact).abs() / exact < 0.01  # bfloat16 keeps 8 bits
    assert (gradient - expected).norm() / expected.norm() < 0.02


def test_gated_mlp_is_its_formula() -> None:
    mlp, x = GatedMLP(4, 9, activation=torch.nn.functional.silu).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    gate, up = (x @ layer.weight.T + layer.bias for layer in (mlp.gate, mlp.up))
    inner = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias, rtol=0, atol=1e-12)
