"""BERT's rows: two spans of text, of which the second follows the first or is from elsewhere, with hidden tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bedplate.data.masking import Ids, Marks, Masking
from bedplate.data.order import Permutation
from bedplate.data.shards import TokenShards
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

MARKS = 3  # of a row: [CLS] A [SEP] B [SEP]
SCAN = 2**20  # ids read at a time when document borders are looked for
Span = Int64[np.ndarray, " _"]
FOLLOWS, ELSEWHERE = 0, 1  # the released code's classes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, not yet filled up."""

    ids: Ids
    segments: Ids
    targets: Ids
    next_sentence: int


@dataclass(frozen=True)
class SentencePairs:
    """Rows [CLS] A [SEP] B [SEP] in a new order each epoch, without end; a pure function of seed and step.

    Every document is cut into stretches that fill a row; each comes once in an epoch (what is left of a document's end
    stands alone if it has two tokens). A is the beginning of a stretch, B its rest or, every other time, as many tokens
    of another document. Where the released code counts in sentences, this counts in tokens, and the rest that B
    replaced waits for another epoch instead of the next row.
    """

    shards: TokenShards
    marks: Marks
    _: KW_ONLY
    length: int  # of a row, marks included
    batch_size: int
    seed: int
    short: float = 0.1  # of rows are shorter, of any length: a model must know such, too
    elsewhere: float = 0.5  # of second spans come from another document
    masking: Masking = field(default_factory=Masking)
    maskings: int = 0  # different ones of a stretch, which then take turns (static masks); 0: new ones every time

    def __post_init__(self) -> None:
        if self.length < MARKS + 2:
            raise UserError(f"a row of {self.length} tokens holds no two spans", fix="raise model.context_length")
        if len(self.documents) < 2 or not self.num_items:
            cause = "the text holds fewer than two documents of two tokens"
            raise UserError(cause, fix="give more files: a span from elsewhere needs another document")

    @cached_property
    def documents(self) -> Int64[np.ndarray, "documents 2"]:
        """Where each document begins and ends, its end mark left out; those of fewer than two tokens are left out."""
        ends = []
        for first in range(0, self.shards.num_tokens, SCAN):
            ids = self.shards.read(first, min(first + SCAN, self.shards.num_tokens))
            ends.append(first + np.flatnonzero(ids == self.shards.end_id))
        stops = np.concatenate(ends).astype(np.int64)
        starts = np.concatenate([[0], stops[:-1] + 1]).astype(np.int64)
        return np.stack([starts, stops], axis=1)[stops - starts >= 2]

    @cached_property
    def _until(self) -> Int64[np.ndarray, " documents"]:
        """Stretches of all documents up to and including each."""
        sizes = self.documents[:, 1] - self.documents[:, 0]
        whole, rest = np.divmod(sizes, self._room)
        return (whole + (rest >= 2)).cumsum()

    @property
    def _room(self) -> int:
        return self.length - MARKS

    @property
    def num_items(self) -> int:
        """Stretches in an epoch."""
        return int(self._until[-1])

    def batch(self, step: int) -> dict[str, Tensor]:
        """See `items`."""
        return self.items(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def items(self, numbers: Int64[np.ndarray, " batch"]) -> dict[str, Tensor]:
        """The rows that come at these places of the endless order, filled up to the longest, as a batch:
        ids, segments and targets, int64 [batch length]; mask, bool [batch length]; next_sentence, int64 [batch], 0 when
        B follows A; hidden_per_row, float64 [batch]: a fact of the whole batch, the same in every row.
        """
        rows = [self._row(int(number)) for number in numbers]
        width = max(len(row.ids) for row in rows)
        targets = _stacked([row.targets for row in rows], width, IGNORE)
        hidden = (targets != IGNORE).sum().double()
        return {
            "ids": _stacked([row.ids for row in rows], width, self.marks.pad),
            "segments": _stacked([row.segments for row in rows], width, 0),
            "mask": torch.arange(width) < torch.tensor([[len(row.ids)] for row in rows]),
            "targets": targets,
            "next_sentence": torch.tensor([row.next_sentence for row in rows]),
            "hidden_per_row": (hidden / len(rows)).repeat(len(rows)),
        }

    def sequential(self, *, batch_size: int = 32) -> Iterator[dict[str, Tensor]]:
        """The rows of the first epoch, to measure on: of held-out text always the same ones."""
        for first in range(0, self.num_items, batch_size):
            yield self.items(np.arange(first, min(first + batch_size, self.num_items)))

    def _row(self, number: int) -> Row:
        epoch, place = divmod(number, self.num_items)
        stretch = Permutation(self.num_items, seed=self.seed, epoch=epoch)[place]
        again = epoch % self.maskings if self.maskings else epoch
        chance = np.random.default_rng((self.seed, stretch, again))
        first, second, next_sentence = self._spans(stretch, chance)
        marks = self.marks
        ids = np.concatenate([[marks.start], first, [marks.separator], second, [marks.separator]])
        seen, targets = self.masking.hide(ids, marks, chance)
        segments = (np.arange(len(ids)) > len(first) + 1).astype(np.int64)
        return Row(ids=seen, segments=segments, targets=targets, next_sentence=next_sentence)

    def _spans(self, stretch: int, chance: np.random.Generator) -> tuple[Span, Span, int]:
        document = int(np.searchsorted(self._until, stretch, side="right"))
        start, stop = self.documents[document].tolist()
        before = int(self._until[document - 1]) if document else 0
        start += (stretch - before) * self._room
        size = min(self._room, stop - start)
        if chance.random() < self.short:
            size = int(chance.integers(2, size + 1))
        border = int(chance.integers(1, size))
        if chance.random() >= self.elsewhere:
            both = self.shards.read(start, start + size)
            return both[:border], both[border:], FOLLOWS
        other = int(chance.integers(len(self.documents) - 1))
        begin, end = self.documents[other + (other >= document)].tolist()
        begin = int(chance.integers(begin, end))
        second = self.shards.read(begin, min(end, begin + size - border))
        return self.shards.read(start, start + border), second, ELSEWHERE


def _stacked(rows: Sequence[Span], width: int, filling: int) -> Int64[Tensor, "batch width"]:
    return torch.from_numpy(np.stack([np.pad(row, (0, width - len(row)), constant_values=filling) for row in rows]))
