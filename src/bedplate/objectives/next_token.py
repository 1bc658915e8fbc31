"""Next-token prediction: the language-model likelihood of GPT (Radford et al. 2018, eq. 1)."""

from dataclasses import dataclass
from math import inf
from typing import Any

from torch import nn

from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy
from bedplate.nn.quantize import dense
from bedplate.objectives.objective import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross-entropy of each token given those before it, in nats; targets of -100 do not count."""

    label_smoothing: float = 0.0  # share of each target given to all tokens alike; not with published GPTs
    z_loss: float = 0.0  # weight of log^2 of the softmax's normalizer, which keeps logits small; PaLM takes 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"objective.label_smoothing is {self.label_smoothing}", fix="give a share from 0 to below 1"
            )
        if not 0 <= self.z_loss < inf:
            raise UserError(f"objective.z_loss is {self.z_loss}", fix="give a weight from 0 up, such as 1e-4")

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids and targets [batch length], and documents [batch length] when rows are packed."""
        features = model.features(batch["ids"], documents=batch.get("documents"))
        targets = batch["targets"]
        total = linear_cross_entropy(
            features.flatten(0, 1), dense(model.output_weight), targets.flatten(),
            smoothing=self.label_smoothing, z=self.z_loss,
        )  # fmt: skip
        return Loss(total=total, count=(targets != IGNORE).sum())
