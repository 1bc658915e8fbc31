"""Several sources as one, by weights and with caps on epochs: still a pure function of (seed, step), at any step.

Weights are exact decimals, and so whole shares of a cycle: 0.7 and 0.3 are 7 and 3 items of every 10. One cycle is laid
out in advance; the item at any place is then found by one division. When a part has used its epochs, a cycle of the
others takes over: at most as many stretches as parts, computed once.
"""

import hashlib
import os.path
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import gcd, isfinite, lcm
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bedplate.data.text import BUILT_IN
from bedplate.errors import UserError

LONGEST_CYCLE = 10_000
ENDLESS = 2**48  # items: more than anyone trains on, and far from the end of int64
SYNTAX = "write CORPUS:WEIGHT, or CORPUS:WEIGHTxEPOCHS, for each part: pydocs:0.7,stdlib:0.3x2"
PART = re.compile(r"(.+?):([^,:]*)(?:,|$)")  # a comma inside a path is no border: a part ends with its weight


@dataclass(frozen=True)
class Share:
    """How much of a mixture one corpus makes, and how often each of its items may come."""

    corpus: str
    weight: Decimal = Decimal(1)
    epochs: Decimal | None = None  # None: without end

    def __str__(self) -> str:
        return f"{self.corpus}:{self.weight}" + (f"x{self.epochs}" if self.epochs else "")


@runtime_checkable
class Items(Protocol):
    """A source whose items can be asked for by number: all items of epoch 0, then those of epoch 1, without end."""

    @property
    def num_items(self) -> int: ...

    def items(self, numbers: Int64[np.ndarray, " batch"]) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Mixture:
    """Items of several sources. In every prefix of a stretch, each part has its share of items to within one item.

    A part that has used its epochs leaves its share to the others, by their weights. A part's items come in the order
    that the part alone would give. Raises UserError when a weight or a cap of epochs is of no use.
    """

    shares: tuple[Share, ...]
    sources: tuple[Items, ...]
    _: KW_ONLY
    batch_size: int

    def __post_init__(self) -> None:
        self.check_steps(1)  # lays out all stretches, so that no mistake waits until its step

    @property
    def num_items(self) -> int | None:
        """Items until every part has used its epochs; None when one has no cap."""
        return self._plan[1]

    def batch(self, step: int) -> dict[str, Tensor]:
        """The items of one step, as its parts give them. Raises UserError when all epochs are used up."""
        self.check_steps(step + 1)
        return self.items(np.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def items(self, numbers: Int64[np.ndarray, " batch"]) -> dict[str, Tensor]:
        """The items at these places of the mixture, as a batch."""
        parts, own_numbers = self.places(numbers)
        present = np.unique(parts)
        batches = [self.sources[part].items(own_numbers[parts == part]) for part in present]
        back = torch.from_numpy(np.argsort(np.argsort(parts, kind="stable")))
        return {name: torch.cat([batch[name] for batch in batches])[back] for name in batches[0]}

    def places(
        self, numbers: Int64[np.ndarray, " batch"]
    ) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Which part the items at these places come from, and their numbers there."""
        parts, own_numbers = np.empty_like(numbers), np.empty_like(numbers)
        which = np.searchsorted([stretch.start for stretch in self._stretches], numbers, side="right") - 1
        for index in np.unique(which):
            inside = which == index
            parts[inside], own_numbers[inside] = self._stretches[index].places(numbers[inside])
        return parts, own_numbers

    def check_steps(self, steps: int) -> None:
        """Raise UserError when the epochs allowed do not suffice for this many steps."""
        if self.num_items is not None and steps * self.batch_size > self.num_items:
            names = ",".join(map(str, self.shares))
            cause = f"the epochs of {names} are used up after {self.num_items} items, before the end of step {steps}"
            fix = f"allow more epochs, leave out a cap, or make at most {self.num_items // self.batch_size} steps"
            raise UserError(cause, fix=fix)

    @property
    def _stretches(self) -> list["_Stretch"]:
        return self._plan[0]

    @cached_property
    def _plan(self) -> tuple[list["_Stretch"], int | None]:
        caps = {part: self._cap(part) for part in range(len(self.shares))}
        whole = whole_weights(self.shares)
        stretches: list[_Stretch] = []
        start, before = 0, [0] * len(caps)
        while caps:
            stretch = _Stretch.lay_out(start, before, {part: whole[part] for part in caps})
            stretches.append(stretch)
            ends = {stretch.place_of(part, cap - 1) + 1: part for part, cap in caps.items() if cap < ENDLESS}
            if not ends:
                return stretches, None
            start = min(ends)
            before = stretch.counts(start)
            del caps[ends[start]]
        return stretches, start

    def _cap(self, part: int) -> int:
        share, source = self.shares[part], self.sources[part]
        if share.epochs is None:
            return ENDLESS
        cap = min(int(Fraction(share.epochs) * source.num_items), ENDLESS)
        if cap < 1:
            cause = f"{share} allows not one of the {source.num_items} windows of {share.corpus}"
            raise UserError(cause, fix="allow more of an epoch, or leave it out")
        return cap


@dataclass(frozen=True)
class _Stretch:
    """The places from `start` on, until a part is used up: one cycle of parts again and again."""

    start: int
    before: Int64[np.ndarray, " parts"]  # items of each part before `start`
    weights: Int64[np.ndarray, " parts"]  # items of each part in a cycle
    cycle: Int64[np.ndarray, " length"]  # the part at each place of a cycle
    ranks: Int64[np.ndarray, " length"]  # how many items of that part come before it in the cycle

    @classmethod
    def lay_out(cls, start: int, before: Sequence[int], weights: Mapping[int, int]) -> "_Stretch":
        common = gcd(*weights.values())
        array = np.zeros(len(before), np.int64)
        array[list(weights)] = [weight // common for weight in weights.values()]
        cycle, ranks = lay_out_cycle(array.tolist())
        return cls(start, np.array(before), array, cycle, ranks)

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cycles, places = np.divmod(numbers - self.start, len(self.cycle))
        parts = self.cycle[places]
        return parts, self.before[parts] + cycles * self.weights[parts] + self.ranks[places]

    def place_of(self, part: int, number: int) -> int:
        """Where an item of a part comes: the inverse of `places`."""
        cycles, rank = divmod(number - int(self.before[part]), int(self.weights[part]))
        return self.start + cycles * len(self.cycle) + int(np.flatnonzero(self.cycle == part)[rank])

    def counts(self, number: int) -> list[int]:
        """How many items of each part come before a place."""
        cycles, place = divmod(number - self.start, len(self.cycle))
        inside = np.bincount(self.cycle[:place], minlength=len(self.before))
        return (self.before + cycles * self.weights + inside).tolist()


def lay_out_cycle(weights: Sequence[int]) -> tuple[Int64[np.ndarray, " length"], Int64[np.ndarray, " length"]]:
    """The part at each place of a cycle of sum(weights) places, and the number of its items before that place.

    Each place goes to the part whose next item must come soonest, among those whose next item may come already. So
    after n places every part has its share of n to within one item (Tijdeman 1980, the chairman assignment problem).
    """
    length = sum(weights)
    counts = [0] * len(weights)
    cycle, ranks = np.empty(length, np.int64), np.empty(length, np.int64)
    for place in range(length):
        ready = [part for part, weight in enumerate(weights) if counts[part] * length < (place + 1) * weight]
        part = min(ready, key=lambda part: Fraction(counts[part] + 1, weights[part]))
        cycle[place], ranks[place] = part, counts[part]
        counts[part] += 1
    return cycle, ranks


def whole_weights(shares: Sequence[Share]) -> list[int]:
    """The smallest whole numbers in the proportion of the weights."""
    exact = [Fraction(share.weight) for share in shares]
    scale = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    common = gcd(*whole)
    if sum(whole) // common > LONGEST_CYCLE:
        cause = f"the weights of {','.join(map(str, shares))} are too fine for a cycle of {LONGEST_CYCLE} items"
        raise UserError(cause, fix="round them, such as 0.334 for 0.33391")
    return [weight // common for weight in whole]


def read_shares(corpus: str) -> tuple[Share, ...]:
    """The parts of a mixture, or one share of the built-in corpus, file or folder that is named plainly."""
    if corpus in BUILT_IN or ":" not in corpus or os.path.exists(os.path.expanduser(corpus)):
        return (Share(corpus),)
    shares: list[Share] = []
    end = 0
    while end < len(corpus):
        found = PART.match(corpus, end)
        if found is None:
            raise _wrong(corpus, f"{corpus[end:]!r} has no weight")
        weight, cap, epochs = found[2].partition("x")
        named = f"of {found[1]!r}"
        share = Share(found[1], _number(weight, corpus, f"the weight {named}"))
        shares.append(replace(share, epochs=_number(epochs, corpus, f"the cap {named}")) if cap else share)
        end = found.end()
    if twice := [name for name, times in Counter(share.corpus for share in shares).items() if times > 1]:
        raise UserError(f"the mixture {corpus!r} names {twice[0]!r} twice", fix="give it one weight")
    return tuple(shares)


def _number(word: str, corpus: str, what: str) -> Decimal:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise _wrong(corpus, f"{what} is {word!r}, no number above 0")
    return Decimal(word)


def _wrong(corpus: str, problem: str) -> UserError:
    return UserError(f"{corpus!r} is no path, and no mixture: {problem}", fix=SYNTAX)


def joint_receipt(shares: Sequence[Share], receipts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the texts of all parts are together: summed counts, and one hash over theirs."""
    sums = {
        key: sum(receipt.get(key, 0) for receipt in receipts)
        for key in ("documents", "characters", "bytes", "held_out_documents", "held_out_bytes")
    }
    skipped = sum((Counter(receipt.get("skipped", {})) for receipt in receipts), Counter[str]())
    return {
        "name": ",".join(str(replace(share, corpus=r["name"])) for share, r in zip(shares, receipts, strict=True)),
        "source": ",".join(receipt["source"] for receipt in receipts),
        "python": platform.python_version(),
        **sums,
        "sha256": hashlib.sha256(" ".join(receipt["sha256"] for receipt in receipts).encode()).hexdigest(),
        "skipped": dict(skipped),
    }
