"""What parity tests share."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def assert_parity(
    ours: nn.Module, reference: nn.Module, ids: Tensor, *, bound: float, parameters: Mapping[str, str]
) -> None:
    """Equal logits, and equal gradients of the named parameters (ours -> theirs), relative to the largest value."""
    actual, expected = ours(ids), reference(ids).logits
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(actual, expected, bound=bound, name="logits")
    mine, theirs = dict(ours.named_parameters()), dict(reference.named_parameters())
    for own, other in parameters.items():
        assert_close(mine[own].grad, theirs[other].grad, bound=bound, name=f"gradient of {own}")


def assert_close(actual: Tensor | None, expected: Tensor | None, *, bound: float, name: str) -> None:
    """Largest difference, relative to the largest expected value."""
    assert actual is not None and expected is not None, name
    error = ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    assert error <= bound, f"{name}: {error:.1e} > {bound:.1e}"
