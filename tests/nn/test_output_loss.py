"""The output layer's loss beside its plain twin: any rows, any targets, frozen or scaled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.nn.fast import linear_cross_entropy as module
from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy, linear_cross_entropy_plain


def leaves(rows: int, *, dim: int = 5, vocab: int = 9, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = ((rows, dim), (vocab, dim))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([IGNORE, *range(9)]), max_size=12), st.integers(1, 13), st.sampled_from([1.0, 2.0**16]))
def test_any_rows_and_any_targets(targets: list[int], rows_at_a_time: int, scale: float) -> None:
    features, weight = leaves(len(targets))
    target = torch.tensor(targets, dtype=torch.long)
    before, module.ROWS = module.ROWS, rows_at_a_time
    try:
        fast = linear_cross_entropy(features, weight, target)
        mine = torch.autograd.grad(fast * scale, (features, weight))
    finally:
        module.ROWS = before
    plain = linear_cross_entropy_plain(features, weight, target)
    theirs = torch.autograd.grad(plain * scale, (features, weight))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-11)
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left / scale, right / scale, rtol=0, atol=1e-11)


def test_gradcheck() -> None:
    features, weight = leaves(6)
    targets = torch.tensor([1, IGNORE, 8, 0, IGNORE, 3])
    assert torch.autograd.gradcheck(lambda f, w: linear_cross_entropy(f, w, targets), (features, weight))


def test_a_row_may_count_for_more_or_less() -> None:
    features, weight = leaves(6)
    targets, factors = torch.tensor([1, IGNORE, 8, 0, IGNORE, 3]), torch.tensor([0.5, 9.0, 0.0, 2.0, 1.0, 0.1]).double()
    for options in ({}, {"smoothing": 0.1, "z": 0.2}):
        found, expected = (
            (loss := function(features, weight, targets, factors=factors, **options),
             *torch.autograd.grad(loss, (features, weight)))
            for function in (linear_cross_entropy, linear_cross_entropy_plain)
        )  # fmt: skip
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-11)
    rows = [linear_cross_entropy_plain(features[i : i + 1], weight, targets[i : i + 1]) * factors[i] for i in range(6)]
    torch.testing.assert_close(linear_cross_entropy(features, weight, targets, factors=factors), sum(rows))


@pytest.mark.parametrize("frozen", ["features", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    features, weight = leaves(4)
    features.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "features")
    loss = linear_cross_entropy(features, weight, torch.arange(4))
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        loss.backward()
    assert (features.grad is None) == (frozen != "weight") and (weight.grad is None) == (frozen != "features")


def test_extreme_logits_stay_finite() -> None:
    features, weight = (leaf.detach() * 1e4 for leaf in leaves(4, dtype=torch.float32))
    features, weight = features.requires_grad_(), weight.requires_grad_()
    loss = linear_cross_entropy(features, weight, torch.arange(4))
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all() and weight.grad.isfinite().all()
    plain = linear_cross_entropy_plain(features.detach(), weight.detach(), torch.arange(4))
    torch.testing.assert_close(loss.detach(), plain, rtol=1e-5, atol=0)


def test_gradients_add_up_over_calls() -> None:
    """As in gradient accumulation: the weight is used twice before it is read."""
    features, weight = leaves(8)
    targets = torch.arange(8)
    for part in (slice(0, 3), slice(3, 8)):
        linear_cross_entropy(features[part], weight, targets[part]).backward()
    plain = linear_cross_entropy_plain(features, weight, targets)
    expected = torch.autograd.grad(plain, (features, weight))
    torch.testing.assert_close(features.grad, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(weight.grad, expected[1], rtol=0, atol=1e-12)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    features, weight = leaves(4)
    squared = linear_cross_entropy(features, weight, torch.arange(4)) ** 2
    (gradient,) = torch.autograd.grad(squared, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_bfloat16_autocast_computes_as_the_plain_twin_does() -> None:
    """Both round the same logits to bfloat16; what is summed afterwards is float32."""
    features, weight = leaves(50, dim=16, vocab=30, dtype=torch.float32)
    targets = torch.arange(50) % 30
    targets[::7] = IGNORE
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast, plain = (form(features, weight, targets) for form in (linear_cross_entropy, linear_cross_entropy_plain))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(x, (features, weight)) for x in (fast, plain)), strict=True):
        assert (mine - theirs).norm() / theirs.norm() < 0.01
