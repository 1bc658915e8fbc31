"""Texts and what is to be written from them, such as sentences and their translations."""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bedplate.data.generated_translation import Pair, generated_pair
from bedplate.data.order import Permutation
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

GENERATED = "generated"  # the name of the built-in task
GENERATED_PAIRS = {"train": range(20_000), "held_out": range(10**9, 10**9 + 500)}
POOL = 16  # batches that are made together, of sentences of like lengths each
HELD_OUT_SHARE = 0.05  # of pairs for which no other held-out ones are named


@dataclass(frozen=True)
class ParallelText:
    """Pairs to learn from and pairs to measure on."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    source: str  # where they are from

    @property
    def digest(self) -> str:
        """SHA-256 of all texts in order, in hexadecimal."""
        digest = hashlib.sha256()
        for pair in (*self.train, *self.held_out):
            digest.update(f"{pair.source}\n{pair.target}\n".encode())
        return digest.hexdigest()


def open_pairs(names: str, held_out: str = "") -> ParallelText:
    """The built-in task, or the lines of two files (source,target; also .gz), of which one in twenty is held out unless
    two more are named. Raises UserError for files that cannot be read or do not belong together.
    """
    if names == GENERATED:
        made = {side: [generated_pair(number) for number in numbers] for side, numbers in GENERATED_PAIRS.items()}
        seen = {pair.source for pair in made["train"]}
        return ParallelText(made["train"], [pair for pair in made["held_out"] if pair.source not in seen], GENERATED)
    pairs = read_pairs(names)
    if held_out:
        return ParallelText(pairs, read_pairs(held_out), names)
    sides: dict[bool, list[Pair]] = {False: [], True: []}
    for pair in pairs:
        first = int.from_bytes(hashlib.sha256(pair.source.encode()).digest()[:8], "big")
        sides[first < HELD_OUT_SHARE * 2**64].append(pair)
    if not all(sides.values()):
        raise UserError(f"{names} hold too few lines to split", fix="give at least a few hundred")
    return ParallelText(sides[False], sides[True], names)


def read_pairs(names: str) -> list[Pair]:
    """Line by line, from source,target; pairs of which one side is empty are left out."""
    if names.count(",") != 1 or not all(names.split(",")):
        raise UserError(f"{names!r} are not two files", fix="name both sides: data.corpus=train.de,train.en")
    source, target = names.split(",")
    lines, others = (_read_lines(Path(name).expanduser()) for name in (source, target))
    if len(lines) != len(others):
        cause = f"{source} has {len(lines)} lines, {target} {len(others)}"
        raise UserError(cause, fix="give two files whose lines are translations of each other")
    return [Pair(*pair) for pair in zip(lines, others, strict=True) if all(pair)]


def _read_lines(path: Path) -> list[str]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [line.strip() for line in data.decode("utf-8").split("\n")[: -1 if data.endswith(b"\n") else None]]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason})", fix="name a file of UTF-8 lines, also .gz") from error


@dataclass(frozen=True)
class PairBatches:
    """Batches of pairs of like lengths in a new order each epoch, without end; a pure function of seed and step.

    Sources and targets end with `end_id`; what the decoder reads begins with `start_id`. Pairs that are longer than
    `length` tokens on either side are left out.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    _: KW_ONLY
    length: int
    batch_size: int
    seed: int
    start_id: int
    end_id: int

    def __post_init__(self) -> None:
        if not len(self.kept):
            cause = f"of {len(self.sources)} pairs none fits into {self.length} tokens"
            raise UserError(cause, fix="raise model.context_length, or give more pairs")

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "pairs 2"]:
        """Tokens of each source and each target."""
        pairs = zip(self.sources, self.targets, strict=True)
        return np.array([[len(source), len(target)] for source, target in pairs], dtype=np.int64).reshape(-1, 2)

    @cached_property
    def kept(self) -> Int64[np.ndarray, " kept"]:
        """Numbers of the pairs that fit."""
        return np.flatnonzero((self.lengths < self.length).all(axis=1))

    def batch(self, step: int) -> dict[str, Tensor]:
        """source and mask [batch source], ids and targets [batch length], padded to the longest of the batch."""
        pool, place = divmod(step, POOL)
        size = self.batch_size * POOL
        numbers = np.arange(pool * size, (pool + 1) * size)
        epochs, places = np.divmod(numbers, len(self.kept))
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs):
            order = Permutation(len(self.kept), seed=self.seed, epoch=int(epoch))
            chosen[epochs == epoch] = self.kept[order[places[epochs == epoch]]]
        chosen = chosen[np.lexsort((self.lengths[chosen, 0], self.lengths[chosen, 1]))]
        turn = Permutation(POOL, seed=self.seed + 1, epoch=pool)[place]
        return self.items(chosen[turn * self.batch_size : (turn + 1) * self.batch_size].tolist())

    def items(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """These pairs as a batch."""
        sources = [[*self.sources[number], self.end_id] for number in numbers]
        targets = [[*self.targets[number], self.end_id] for number in numbers]
        return {
            "source": _padded(sources, self.start_id),
            "mask": _padded([[1] * len(source) for source in sources], 0).bool(),
            "ids": _padded([[self.start_id, *target[:-1]] for target in targets], self.start_id),
            "targets": _padded(targets, IGNORE),
        }

    def sequential(self, batch_size: int = 64) -> Iterator[dict[str, Tensor]]:
        """Every pair once, in order of length."""
        order = self.kept[np.argsort(self.lengths[self.kept, 1], kind="stable")].tolist()
        for first in range(0, len(order), batch_size):
            yield self.items(order[first : first + batch_size])


def _padded(rows: Sequence[Sequence[int]], filling: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])
