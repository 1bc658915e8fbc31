"""Guessing hidden tokens, and whether one span of text follows another (BERT, section 3.1)."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bedplate.nn.fast.linear_cross_entropy import IGNORE, linear_cross_entropy
from bedplate.nn.quantize import dense
from bedplate.objectives.objective import Batch, Loss

INPUTS = ("segments", "mask", "documents")  # of an encoder, beside the ids


@dataclass(frozen=True, kw_only=True)
class Masked:
    """The mean nats per hidden token, and, where a batch says which second spans follow, the mean nats per row of that.

    The two means have different denominators. So the second is weighed by the hidden tokens per row of the whole batch,
    which the source gives as a column, and both are divided by the number of hidden tokens: any split adds up.
    """

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids and targets [batch length], `IGNORE` where nothing is hidden; if rows are filled up, mask; if
        there are two spans, segments, next_sentence [batch] and hidden_per_row [batch]; if packed, documents.
        """
        features = model.bert(batch["ids"], **inputs_of(batch))
        hidden = batch["targets"] != IGNORE
        guessed = model.masked_head.features(features[hidden])  # the output matrix is far larger than all before it
        targets = batch["targets"][hidden]
        total = linear_cross_entropy(guessed, dense(model.output_weight), targets, bias=model.masked_head.bias)
        if "next_sentence" not in batch:
            return Loss(total=total, count=hidden.sum())
        answers, scores = batch["next_sentence"], model.next_sentence(features)
        scores = scores.to(total.dtype)
        weight = batch["hidden_per_row"][0].to(total.dtype)
        sums = {
            "masked_loss": total,
            "next_sentence_loss": weight * F.cross_entropy(scores, answers, reduction="sum"),
            "next_sentence_accuracy": weight * (scores.argmax(dim=1) == answers).sum(),
        }
        return Loss(total=total + sums["next_sentence_loss"], count=hidden.sum(), sums=sums)


def inputs_of(batch: Batch) -> dict[str, Tensor]:
    """What a batch gives an encoder beside the ids."""
    return {name: batch[name] for name in INPUTS if name in batch}
