"""Learning to write a target from a source: translation (Sutskever et al. 2014; Vaswani et al. 2017), T5's tasks."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy
from bedplate.objectives.objective import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence:
    """Cross-entropy of each target token given the source and the target tokens before it, in nats."""

    label_smoothing: float = 0.0  # share of each target given to all tokens alike (Vaswani et al. 2017, section 5.4)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"objective.label_smoothing is {self.label_smoothing}", fix="give a share from 0 to below 1"
            )

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: source and mask [batch source], ids and targets [batch length]; padding of targets is -100."""
        memory = model.encode(batch["source"], mask=batch["mask"])
        features = model.features(batch["ids"], memory=memory, mask=batch["mask"])
        targets = batch["targets"]
        bias = getattr(model, "output_bias", None)
        total = linear_cross_entropy(
            features.flatten(0, 1), model.output_weight, targets.flatten(),
            bias=None if bias is None else bias.flatten(), smoothing=self.label_smoothing,
        )  # fmt: skip
        return Loss(total=total, count=(targets != IGNORE).sum())
