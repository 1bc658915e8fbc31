"""Text with hidden spans: what T5 is pre-trained on (Raffel et al. 2020, section 3.1.4)."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from bedplate.data.order import Permutation
from bedplate.data.shards import TokenShards
from bedplate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Spans:
    """How much is hidden: `density` of the tokens, in spans of `mean` tokens on average."""

    density: float = 0.15
    mean: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or not 1 <= self.mean <= 100:
            cause = f"density is {self.density}, the mean span {self.mean}"
            raise UserError(cause, fix="give a share above 0 and below 1, and a span from 1 to 100 tokens")

    def counts(self, length: int) -> tuple[int, int]:
        """Hidden tokens and spans in `length` tokens."""
        hidden = min(max(round(length * self.density), 1), length - 1)
        return hidden, min(max(round(hidden / self.mean), 1), hidden, length - hidden)

    def raw_length(self, inputs: int) -> tuple[int, int]:
        """The most tokens whose source (with marks and end) has at most `inputs`, and the length of their target."""
        length = max(inputs, 3)
        while self._lengths(length + 1)[0] <= inputs:
            length += 1
        while length > 2 and self._lengths(length)[0] > inputs:
            length -= 1
        return length, self._lengths(length)[1]

    def _lengths(self, length: int) -> tuple[int, int]:
        hidden, spans = self.counts(length)
        return length - hidden + spans + 1, hidden + spans + 1

    def mask(self, length: int, chooser: np.random.Generator) -> Bool[np.ndarray, " length"]:
        """True where a token is hidden: as many spans as counted, of random lengths, the first after what is seen."""
        hidden, spans = self.counts(length)
        pieces = [_pieces(total, spans, chooser) for total in (length - hidden, hidden)]
        lengths = np.stack(pieces, axis=1).reshape(-1)
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _pieces(total: int, number: int, chooser: np.random.Generator) -> Int64[np.ndarray, " number"]:
    """`total` as a sum of `number` whole numbers from 1 up, all such sums alike."""
    borders = np.sort(chooser.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], borders, [total]])).astype(np.int64)


def corrupt(
    tokens: Sequence[int], hidden: Bool[np.ndarray, " length"], *, first_sentinel: int, end_id: int
) -> tuple[list[int], list[int]]:
    """Source and target: each hidden span becomes a mark in the source, and stands behind that mark in the target.

    Marks are counted down from `first_sentinel`; both sides end with `end_id`. Where text follows the last span, one
    more mark says so in the target.
    """
    sides: tuple[list[int], list[int]] = ([], [])
    mark, before = first_sentinel, False
    for token, here in zip(tokens, hidden.tolist(), strict=True):
        if here and not before:
            for side in sides:
                side.append(mark)
            mark -= 1
        sides[here].append(int(token))
        before = here
    return [*sides[0], end_id], [*sides[1], *([] if before else [mark]), end_id]


@dataclass(frozen=True)
class CorruptedWindows:
    """Windows of text with hidden spans, in a new order each epoch, without end."""

    shards: TokenShards
    _: KW_ONLY
    spans: Spans
    length: int  # of the source
    batch_size: int
    seed: int
    start_id: int
    first_sentinel: int

    def __post_init__(self) -> None:
        if self.num_items < 1:
            cause = f"the text holds {self.shards.num_tokens} tokens, too few for a window of {self.raw_length}"
            raise UserError(cause, fix="use more text, or a smaller model.context_length")

    @property
    def raw_length(self) -> int:
        """Tokens of a window before any is hidden."""
        return self.spans.raw_length(self.length)[0]

    @property
    def num_items(self) -> int:
        """Windows in an epoch."""
        return self.shards.num_tokens // self.raw_length

    def batch(self, step: int) -> dict[str, Tensor]:
        """source and mask [batch source], ids and targets [batch length]; all rows are equally long."""
        return self.items(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def items(self, numbers: Int64[np.ndarray, " batch"]) -> dict[str, Tensor]:
        """The windows that come at these places of the endless order; each time other spans are hidden."""
        epochs, places = np.divmod(numbers, self.num_items)
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            order = Permutation(self.num_items, seed=self.seed, epoch=int(epoch))
            windows[epochs == epoch] = order[places[epochs == epoch]]
        return self._corrupted(windows, [(self.seed, int(number)) for number in numbers])

    def sequential(self, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
        """Every window once, always with the same spans hidden."""
        for first in range(0, self.num_items, batch_size):
            windows = np.arange(first, min(first + batch_size, self.num_items))
            yield self._corrupted(windows, [(2**32, int(number)) for number in windows])

    def _corrupted(self, windows: Int64[np.ndarray, " batch"], seeds: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        tokens = self.shards.read_windows(windows * self.raw_length, length=self.raw_length)
        pairs = [
            corrupt(
                row.tolist(), self.spans.mask(self.raw_length, np.random.default_rng(seed)),
                first_sentinel=self.first_sentinel, end_id=self.shards.end_id,
            )
            for row, seed in zip(tokens, seeds, strict=True)
        ]  # fmt: skip
        source, targets = (torch.tensor(side) for side in zip(*pairs, strict=True))
        ids = torch.cat((torch.full_like(targets[:, :1], self.start_id), targets[:, :-1]), dim=1)
        marks = (targets > self.start_id) | (targets == self.shards.end_id)
        spelled = self.shards.token_bytes[np.where(marks, 0, targets)] * ~marks.numpy()
        return {
            "source": source,
            "mask": torch.ones_like(source, dtype=torch.bool),
            "ids": ids,
            "targets": targets,
            "bytes": torch.from_numpy(spelled.sum(axis=1, dtype=np.int64)),
        }
