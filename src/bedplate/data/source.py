"""Sources: what training reads. A batch is a pure function of (seed, step), so that resuming is an integer."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bedplate.data.order import Permutation
from bedplate.data.shards import TokenShards
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE


@dataclass(frozen=True)
class TokenWindows:
    """Windows of `length` tokens in a new order each epoch, without end; every window comes once in each epoch.

    With `isolate`, documents packed into one window do not see each other: the batch says which document each token
    belongs to. An end mark is the last target of its document and opens the next one, so that every token is learned,
    and the first one of a text from an end mark alone.
    """

    shards: TokenShards
    _: KW_ONLY
    length: int
    batch_size: int
    seed: int
    isolate: bool = False

    def __post_init__(self) -> None:
        if self.num_items < 1:
            tokens = self.shards.num_tokens
            cause = f"the training text holds {tokens} tokens, too few for a window of {self.length} and its next token"
            raise UserError(cause, fix=f"use more text, or windows of at most {max(tokens - 1, 0)} tokens")

    @property
    def num_items(self) -> int:
        """Windows in an epoch. The tokens after the last whole window are not used."""
        return (self.shards.num_tokens - 1) // self.length

    def batch(self, step: int) -> dict[str, Tensor]:
        """ids and targets, int64 [batch length]; with `isolate` also documents, counted from 0 in each window."""
        return self.items(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def items(self, numbers: Int64[np.ndarray, " batch"]) -> dict[str, Tensor]:
        """The windows that come at these places of the endless order, as a batch."""
        epochs, places = np.divmod(numbers, self.num_items)
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            order = Permutation(self.num_items, seed=self.seed, epoch=int(epoch))
            windows[epochs == epoch] = order[places[epochs == epoch]]
        tokens = self.shards.read_windows(windows * self.length, length=self.length + 1)
        batch = {"ids": tokens[:, :-1], "targets": tokens[:, 1:]}
        if self.isolate:
            batch["documents"] = documents_of_windows(batch["ids"], end_id=self.shards.end_id)
        return _tensors(batch)


def sequential_windows(
    shards: TokenShards, *, length: int, batch_size: int = 8, isolate: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Windows that predict every token of every document once, in order, to measure bits per byte.

    Batches hold ids and targets, int64 [batch length], with `isolate` also documents, and bytes, int64 [batch]: the
    UTF-8 bytes of the text of each window. Where tokens spell other bytes than the text has (lost characters, an added
    space), each window gets its share of the text by what it spells, and all of them together have its bytes.

    End marks are not predicted, for they spell nothing; the first window begins with one, and the last is filled up
    with positions that do not count.
    """
    (text, spelled), seen = shards.text_bytes, 0
    for first in range(0, shards.num_tokens, length * batch_size):
        last = min(first + length * batch_size, shards.num_tokens)
        rows = -(-(last - first) // length)
        before = shards.read(first - 1, first) if first else [shards.end_id]
        filling = np.full(rows * length - (last - first), shards.end_id)
        tokens = np.concatenate([before, shards.read(first, last), filling])
        batch = {"ids": tokens[:-1].reshape(rows, length), "targets": tokens[1:].reshape(rows, length)}
        if isolate:
            batch["documents"] = documents_of_windows(batch["ids"], end_id=shards.end_id)
        batch["targets"] = np.where(batch["targets"] == shards.end_id, IGNORE, batch["targets"])
        counted = batch["targets"] != IGNORE
        lengths = np.where(counted, shards.token_bytes[batch["targets"] * counted], 0)
        ends = [seen, *(seen + lengths.sum(axis=1, dtype=np.int64).cumsum()).tolist()]
        seen = ends[-1]
        shares = [end * text // max(spelled, 1) for end in ends]  # whole numbers of any size
        yield _tensors(batch | {"bytes": np.diff(np.asarray(shares, np.int64))})


def documents_of_windows(ids: Int64[np.ndarray, "batch length"], *, end_id: int) -> Int64[np.ndarray, "batch length"]:
    """Which document each token of each window belongs to, counted from 0; an end mark belongs to the one it opens."""
    opened = (ids == end_id).cumsum(axis=1)
    return opened - opened[:, :1]


def _tensors(batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}
