"""Fine-tuning on a task, with language modeling beside it (GPT-1, section 3.2)."""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy
from bedplate.nn.quantize import dense
from bedplate.objectives.objective import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """-log P(label | sequences) of each item, eq. 4, and `language_weight` times the nats per token of its text, eq. 5.

    The model gives scores by `classify`, from its features at the last token of each sequence of an item.
    """

    language_weight: float = 0.5  # section 4.1: lambda

    def __post_init__(self) -> None:
        if not 0 <= self.language_weight < inf:
            cause = f"objective.language_weight is {self.language_weight}"
            raise UserError(cause, fix="give a weight from 0 up, such as 0.5")

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids [item sequence length], filled up on the right, lengths [item sequence] and labels [item]."""
        ids, lengths, labels = batch["ids"], batch["lengths"], batch["labels"]
        features = model.features(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        scores = model.classify(at_last_tokens(features, lengths))
        task = F.cross_entropy(scores.to(torch.promote_types(scores.dtype, torch.float32)), labels, reduction="sum")
        sums = {"task_loss": task, "accuracy": (scores.argmax(dim=1) == labels).sum()}
        total = task
        if self.language_weight:
            sums["language_loss"] = self._language(model, features, ids, lengths)
            total = task + self.language_weight * sums["language_loss"]
        return Loss(total=total, count=torch.tensor(len(labels)), sums=sums)

    def _language(self, model: Any, features: Tensor, ids: Tensor, lengths: Tensor) -> Float[Tensor, ""]:
        """Summed over items; of an item the mean over its sequences, each of which is a mean over its tokens. So the
        released code weighs them, and so an item counts the same in whatever company it is.
        """
        real = torch.arange(1, ids.shape[2], device=ids.device) < lengths[..., None]
        targets = torch.where(real, ids[..., 1:], IGNORE)
        exact = torch.promote_types(features.dtype, torch.float32)
        factors = 1 / ((lengths - 1) * ids.shape[1]).to(exact)
        return linear_cross_entropy(
            features[:, :, :-1].flatten(0, 2), dense(model.output_weight), targets.flatten(),
            factors=factors[..., None].expand_as(targets).flatten(),
        )  # fmt: skip


def at_last_tokens(
    features: Float[Tensor, "item sequence length dim"], lengths: Int[Tensor, "item sequence"]
) -> Float[Tensor, "item sequence dim"]:
    """The features at the last token of each sequence."""
    return features.take_along_dim((lengths - 1)[..., None, None], dim=2).squeeze(2)
