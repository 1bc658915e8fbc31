"""Attention biases against loops, and the gradients that reach what is given to attention."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bedplate.nn.attend import attend, attend_plain
from bedplate.nn.mlp import ACTIVATIONS
from bedplate.nn.position import CAUSAL, Alibi, Causal, alibi_slopes, rotary, rotate


@given(st.integers(1, 7), st.integers(0, 7))
def test_a_causal_bias_written_out(query: int, before: int) -> None:
    """Queries are the last positions of the keys."""
    dense = CAUSAL.dense(query, before + query, torch.device("cpu"))
    assert dense.tolist() == [[key <= before + row for key in range(before + query)] for row in range(query)]


@given(st.integers(1, 7), st.integers(0, 7), st.integers(1, 9))
def test_a_window_written_out(query: int, before: int, window: int) -> None:
    dense = Causal(window=window).dense(query, before + query, torch.device("cpu")).tolist()
    for row, seen in enumerate(dense):
        assert seen == [before + row - window < key <= before + row for key in range(before + query)]


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 12), st.sampled_from([1, 2]))
def test_a_window_in_blocks_is_the_window(query: int, before: int, window: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    query_heads = torch.randn(2, 2, query, 4, dtype=torch.float64, requires_grad=True)
    key, value = torch.randn(2, 2, kv_heads, before + query, 4, dtype=torch.float64, requires_grad=True)
    bias = Causal(window=window)
    fast, plain = (form(query_heads, key, value, bias=bias, scale=0.7) for form in (attend, attend_plain))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    (mine,), (theirs,) = (torch.autograd.grad(each.square().sum(), (query_heads,)) for each in (fast, plain))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("heads", "first", "last"), [
    (1, [0.003906], 0.003906), (2, [0.0625], 0.003906), (8, [0.5, 0.25, 0.125], 0.003906),
    (12, [0.5, 0.25], 0.088388), (112, [0.917004, 0.840896, 0.771105], 0.016317),
])  # fmt: skip
def test_slopes_are_the_published_ones(heads: int, first: list[float], last: float) -> None:
    slopes = alibi_slopes(heads)
    assert len(slopes) == heads
    assert slopes[: len(first)].tolist() == pytest.approx(first, abs=1e-6) and slopes[-1].item() == pytest.approx(
        last, abs=1e-6
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize(("query", "key", "kv_heads"), [(1, 1, 3), (7, 7, 3), (600, 600, 1), (1, 9, 3), (4, 9, 1)])
def test_linear_biases_without_a_matrix(query: int, key: int, kv_heads: int, dtype: torch.dtype, bound: float) -> None:
    """In float32 scores of up to 150 (slope times distance) are rounded."""
    torch.manual_seed(0)
    heads = [torch.randn(2, n, length, 12, dtype=dtype) for n, length in ((3, query), (kv_heads, key), (kv_heads, key))]
    bias = Alibi(alibi_slopes(3))
    exact = attend_plain(*(each.double() for each in heads), bias=bias)
    torch.testing.assert_close(attend(*heads, bias=bias).double(), exact, rtol=0, atol=bound)


def test_one_query_behind_many_keys_sees_them_all() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (1, 6, 6))
    expected = attend_plain(query, key, value)
    for form in (attend, attend_plain):
        torch.testing.assert_close(form(query, key, value, bias=Causal()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (2, 1, 5, 7), (1, 4, 5, 7), (2, 4, 5, 7)])
def test_a_learned_bias_gets_its_gradient(shape: tuple[int, ...]) -> None:
    """Relative position biases (T5, Swin) are parameters."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    fast, plain = (
        torch.autograd.grad(form(query, key, value, bias=bias).square().sum(), bias)[0]
        for form in (attend, attend_plain)
    )
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-10)


@given(st.integers(0, 10_000), st.integers(-200, 200))
def test_rotary_scores_depend_on_distance_alone(start: int, distance: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=generator)

    def score(at: int, other: int) -> float:
        turned = (rotate(x, rotary(torch.tensor([[p]]), 8)) for x, p in ((query, at), (key, other)))
        first, second = turned
        return (first * second).sum().item()

    assert score(start + 200, start + 200 + distance) == pytest.approx(score(200, 200 + distance), abs=1e-9)


def test_rotary_keeps_lengths_and_leaves_position_zero() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    turned = rotate(x, rotary(torch.arange(5)[None], 6))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


FORMULAS = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "relu": lambda x: torch.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_their_formulas(name: str) -> None:
    x = torch.linspace(-6, 6, 97, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), FORMULAS[name](x), rtol=0, atol=1e-12)
