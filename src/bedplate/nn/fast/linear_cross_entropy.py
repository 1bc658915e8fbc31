"""Cross-entropy of a linear layer's outputs without ever holding all logits.

For GPT-2 the logits of a 32 x 1,024 batch take 6.6 GB in float32. Here they are made a few rows at a time; their
gradient is formed in place and spent at once, so that memory stays flat in the number of tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100
ROWS = 1024  # rows of logits alive at a time: 200 MB for GPT-2's vocabulary in float32; fewer cost time in bfloat16


def linear_cross_entropy_plain(
    features: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " rows"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    factors: Float[Tensor, " rows"] | None = None,
    smoothing: float = 0.0,
    z: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum of -log softmax(features weight^T + bias)[target] over the rows whose target is not `IGNORE`.

    `smoothing` gives that share of the target to all tokens alike (Szegedy et al. 2016, section 7); `z` adds z log^2 of
    the softmax's normalizer (PaLM, section 5). `factors` multiply the loss of each row.
    """
    logits = F.linear(features, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    penalties = z * logits.logsumexp(dim=-1).square() * (targets != IGNORE)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    return ((losses + penalties) * (1 if factors is None else factors)).sum()


def linear_cross_entropy(
    features: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " rows"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    factors: Float[Tensor, " rows"] | None = None,
    smoothing: float = 0.0,
    z: float = 0.0,
) -> Float[Tensor, ""]:
    """The same sum as `linear_cross_entropy_plain`, value and gradient, in memory for `ROWS` rows of logits."""
    if not torch.is_grad_enabled():
        features, weight, bias = features.detach(), weight.detach(), None if bias is None else bias.detach()
    factors = torch.ones(len(targets), device=features.device) if factors is None else factors
    return _LinearCrossEntropy.apply(features, weight, bias, targets, factors, smoothing, z)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None,
        targets: Tensor, factors: Tensor, smoothing: float, z: float,
    ) -> Tensor:  # fmt: skip
        device = features.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        needs_grad = any(ctx.needs_input_grad)
        grad_features = torch.empty_like(features) if needs_grad else None
        total = torch.zeros((), dtype=torch.promote_types(dtype, torch.float32), device=features.device)
        exact = torch.promote_types(weight.dtype, torch.float32)  # many rows are added up
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_grad else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if needs_grad and bias is not None else None
        with torch.autocast(device, enabled=False):
            small, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(features), ROWS):
                rows = features[start : start + ROWS].to(dtype)
                logits = F.linear(rows, small, offset).to(total.dtype)
                counted = targets[start : start + ROWS], factors[start : start + ROWS]
                total += _loss_then_gradient_in_place(logits, *counted, smoothing, z)
                if grad_features is not None and grad_weight is not None:
                    gradient = logits.to(dtype)
                    grad_features[start : start + ROWS] = gradient @ small
                    _add_product(grad_weight, gradient, rows)
                    if grad_bias is not None:
                        grad_bias += gradient.sum(dim=0, dtype=exact)
                    del gradient
                del logits  # or they would stay while the next rows are made
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        return total

    @staticmethod
    @once_differentiable  # the gradient was made in forward: a second derivative would miss its largest part
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if grad is None else grad * grad_total.to(grad.dtype) for grad in ctx.saved_tensors)
        return *gradients, None, None, None, None


def _loss_then_gradient_in_place(
    logits: Tensor, targets: Tensor, factors: Tensor, smoothing: float, z: float
) -> Tensor:
    """Summed loss of the counted rows; `logits` becomes its gradient, zero in the rows that do not count."""
    counted = targets != IGNORE
    factors = torch.where(counted, factors, 0).to(logits.dtype)
    index = torch.where(counted, targets, 0)[:, None]
    log_normalizer = logits.logsumexp(dim=-1, keepdim=True)
    losses = (log_normalizer - (1 - smoothing) * logits.gather(1, index)).squeeze(1)
    if smoothing:
        losses -= smoothing * logits.mean(dim=-1)
    logits.sub_(log_normalizer).exp_()
    if z:
        losses += z * log_normalizer.squeeze(1).square()
        logits.mul_(1 + 2 * z * log_normalizer)
    if smoothing:
        logits.sub_(smoothing / logits.shape[-1])
    logits.scatter_add_(1, index, torch.full_like(losses, smoothing - 1)[:, None])
    logits.mul_(factors[:, None])
    return torch.where(counted, losses * factors, 0).sum()


def _add_product(total: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """total += gradient^T rows, in `total`'s own precision."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.T, rows)
    else:
        total += gradient.T @ rows
