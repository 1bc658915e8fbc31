"""Fine-tuning an encoder: classes of texts or of tokens, and answers that are a span of the text (BERT, section 4)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.masked import inputs_of
from bedplate.objectives.objective import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class Classification:
    """-log P(label) of each text, or of each token that has a label."""

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids, segments and mask [batch length], labels [batch] or [batch length], `IGNORE` where there is
        none.
        """
        scores, labels = _exact(model(batch["ids"], **inputs_of(batch))).flatten(0, -2), batch["labels"].flatten()
        total = F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="sum")
        counted = labels != IGNORE
        right = (scores.argmax(dim=1) == labels) & counted
        return Loss(total=total, count=counted.sum(), sums={"accuracy": right.sum()})


@dataclass(frozen=True, kw_only=True)
class SpanAnswer:
    """The mean of -log P(start) and -log P(end) of each text, over its own tokens (section 4.2)."""

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """`batch`: ids, segments and mask [batch length], labels [batch 2]: the places of the first and the last token;
        0 and 0, the place of [CLS], where there is no answer (section 4.3).
        """
        scores = _exact(model(batch["ids"], **inputs_of(batch)))
        scores = scores.masked_fill(~batch["mask"][..., None], -torch.inf)  # else a row would depend on its company
        total = F.cross_entropy(scores, batch["labels"], reduction="sum") / 2
        right = (scores.argmax(dim=1) == batch["labels"]).all(dim=1)
        return Loss(total=total, count=torch.tensor(len(right)), sums={"accuracy": right.sum()})


def _exact(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
