"""How well hidden tokens are guessed, and whether one span of text follows another."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bedplate.generate.prompt import evaluating
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.masked import inputs_of


@dataclass(frozen=True, kw_only=True)
class Guessing:
    """Sums over `hidden` tokens and `rows` rows."""

    nats: float = 0.0
    right: int = 0
    hidden: int = 0
    next_right: int = 0
    rows: int = 0

    @property
    def loss(self) -> float:
        """Nats per hidden token."""
        return self.nats / self.hidden

    @property
    def accuracy(self) -> float:
        """The share of hidden tokens that were the likeliest."""
        return self.right / self.hidden

    def table(self) -> dict[str, Any]:
        """As it is stored with a run."""
        measured = {
            "masked_loss": self.loss,
            "masked_perplexity": math.exp(self.loss),
            "masked_accuracy": self.accuracy,
        }
        measured |= {"next_sentence_accuracy": self.next_right / self.rows} if self.rows else {}
        return measured | {"hidden_tokens": self.hidden}


def guessing(model: Any, batches: Iterable[Mapping[str, Tensor]]) -> Guessing:
    """Of rows as `data.sentence_pairs` gives them; of a model without a second head the second question is left out."""
    device = next(model.parameters()).device
    sums = {"nats": 0.0, "right": 0, "hidden": 0, "next_right": 0, "rows": 0}
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            features, at = model.bert(batch["ids"], **inputs_of(batch)), batch["targets"] != IGNORE
            logits, targets = model.masked_head(features[at], model.output_weight).float(), batch["targets"][at]
            sums["nats"] += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            sums["right"] += int((logits.argmax(dim=1) == targets).sum())
            sums["hidden"] += len(targets)
            if "next_sentence" in batch and hasattr(model, "next_sentence"):
                sums["next_right"] += int((model.next_sentence(features).argmax(dim=1) == batch["next_sentence"]).sum())
                sums["rows"] += len(features)
    return Guessing(**sums)
