"""What an objective is: the contract between what is learned and the one training loop.

An objective is a frozen dataclass with

    loss(model, batch, companion, step) -> Loss

and, if it needs them,

    setup(model) -> nn.Module          a companion it owns (teacher, value head, opponent), saved with the run
    before_step(model, companion, step, sums)   after gradients are complete and normalized, before clipping
    after_step(model, companion, step, sums)    after the optimizer

`sums` holds `loss`, `count` and the loss's own sums over the whole batch, over every micro-batch and rank. So `loss`
itself stays without side effects, and whatever needs the whole batch (the center of DINO, an adaptive weight) is exact
under any split. Parameters of the companion that require gradients are trained beside the model's.

`docs/design/objectives.md` works it out for five very different systems.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Mapping[
    str, Any
]  # tensors or lists; the leading axis counts items, so that micro-batches and ranks can slice it


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss as a sum and the number of items summed, so that any split of a batch gives the same gradient."""

    total: Tensor  # scalar, differentiable, summed over items
    count: Tensor  # scalar: tokens, images, pairs, boxes
    sums: dict[str, Tensor] = field(default_factory=dict)  # further sums over the same items; scalars are logged


@runtime_checkable
class Objective(Protocol):
    """The part of the contract that every objective has."""

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss: ...
