"""Next-token prediction: the language-model likelihood of GPT (Radford et al. 2018, eq. 1)."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy
from bedplate.objectives.objective import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross-entropy of each token given those before it, in nats; targets of -100 do not count."""

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids and targets [batch length], and documents [batch length] when rows are packed."""
        features = model.features(batch["ids"], documents=batch.get("documents"))
        targets = batch["targets"]
        total = linear_cross_entropy(features.flatten(0, 1), model.output_weight, targets.flatten())
        return Loss(total=total, count=(targets != IGNORE).sum())
