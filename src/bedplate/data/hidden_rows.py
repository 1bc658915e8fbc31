"""Rows that are held in memory, to learn from by guessing hidden tokens or every next one."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bedplate.data.masking import Marks, Masking
from bedplate.data.order import Permutation
from bedplate.nn.fast.linear_cross_entropy import IGNORE

Ids = Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class Rows:
    """Rows in a new order each epoch, without end: a pure function of seed and step."""

    rows: Sequence[Ids]
    marks: Marks
    _: KW_ONLY
    batch_size: int
    seed: int

    def chosen(self, step: int) -> list[tuple[int, Ids]]:
        """The rows of a step, each with its place in the endless order."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, len(self.rows))
        chosen = np.empty_like(within)
        for epoch in np.unique(epochs):
            order = Permutation(len(self.rows), seed=self.seed, epoch=int(epoch))
            chosen[epochs == epoch] = order[within[epochs == epoch]]
        return [(place, self.rows[number]) for place, number in zip(places.tolist(), chosen.tolist(), strict=True)]


@dataclass(frozen=True)
class HiddenRows(Rows):
    """With hidden tokens, other ones each time."""

    _: KW_ONLY
    masking: Masking = field(default_factory=Masking)

    def batch(self, step: int) -> dict[str, Tensor]:
        """ids, mask and targets [batch length], filled up to the longest row."""
        pairs = [
            self.masking.hide(row, self.marks, np.random.default_rng((self.seed, place)))
            for place, row in self.chosen(step)
        ]
        ids, targets = (
            stacked([seen for seen, _ in pairs], self.marks.pad),
            stacked([true for _, true in pairs], IGNORE),
        )
        lengths = torch.tensor([[len(seen)] for seen, _ in pairs])
        return {"ids": ids, "mask": torch.arange(ids.shape[1]) < lengths, "targets": targets}


@dataclass(frozen=True)
class NextRows(Rows):
    """Each token with the one after it."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """ids and targets [batch length], filled up on the right, where a causal model does not look."""
        rows = [row for _, row in self.chosen(step)]
        return {
            "ids": stacked([row[:-1] for row in rows], self.marks.pad),
            "targets": stacked([row[1:] for row in rows], IGNORE),
        }


def stacked(rows: Sequence[Ids], filling: int) -> Int64[Tensor, "batch length"]:
    """Rows filled up on the right to the longest."""
    width = max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(row, (0, width - len(row)), constant_values=filling) for row in rows]))
