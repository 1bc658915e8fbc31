"""Which evaluation texts a model may have seen in training, by words in a row that both hold (Brown et al. 2020, GPT-3,
section 4 and appendix C).

A text is dirty when any N words in a row of it stand in a training document, else clean. Case, punctuation and white
space do not count. N is the 5th percentile of the lengths of a set's texts, from 8 to 13. Matches are exact: hashes
only say where to look.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import floor
from typing import Any

import numpy as np

from bedplate.evaluate.interval import difference, mean_interval, wilson

SHORTEST, LONGEST, PERCENTILE = 8, 13, 5  # appendix C: words in a row
NO_WORD = re.compile(r"[^\w\s]|_")
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: takes neighbors far apart
ROOM = 16  # places in the table of hashes for each run of words


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text of an evaluation set, and how well a model did on it, if that is known."""

    name: str
    text: str
    score: float | None = None

    @cached_property
    def words(self) -> list[str]:
        """As they are compared."""
        return words_of(self.text)


@dataclass
class Found:
    """Where a run of words stands in the training text."""

    documents: int = 0
    first: str = ""  # name of a document


@dataclass(frozen=True, kw_only=True)
class Span:
    """Words in a row that training text holds, as long as they go on."""

    start: int  # place of the first word in the item
    words: str
    documents: int  # that hold the rarest run of N words in it
    first: str  # name of one of them


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An item and what of it stands in the training text."""

    item: Item
    spans: tuple[Span, ...]

    @property
    def dirty(self) -> bool:
        """Whether anything of it does."""
        return bool(self.spans)


def words_of(text: str) -> list[str]:
    """Lower case, without punctuation and symbols, split at white space; one spelling of each character (NFKC)."""
    return NO_WORD.sub("", unicodedata.normalize("NFKC", text).lower()).split()


def run_length(items: Iterable[Item]) -> int:
    """N, the words in a row that make a set's text dirty (appendix C)."""
    lengths = sorted(len(item.words) for item in items)
    at = lengths[floor(len(lengths) * PERCENTILE / 100)] if lengths else SHORTEST
    return min(max(at, SHORTEST), LONGEST)


def runs_of(words: Sequence[str], length: int) -> Iterator[str]:
    """All runs of so many words, with spaces between."""
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


@dataclass
class Runs:
    """Runs of `length` words to look for, and where they were found."""

    length: int
    found: dict[str, Found] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Item], length: int) -> "Runs":
        """Those of some items."""
        return cls(length, {run: Found() for item in items for run in runs_of(item.words, length)})

    def starts(self, words: Sequence[str]) -> list[tuple[int, str]]:
        """Where in a document runs begin, and which."""
        if len(words) < self.length or not self.found:
            return []
        windows = np.lib.stride_tricks.sliding_window_view(_hashes(words), self.length)
        likely = np.flatnonzero(self._table[self._places(windows)]).tolist()
        pairs = ((start, " ".join(words[start : start + self.length])) for start in likely)
        return [(start, run) for start, run in pairs if run in self.found]

    @cached_property
    def _table(self) -> np.ndarray:
        """True at the place of every run."""
        table = np.zeros(2**self._bits, dtype=bool)
        words = [word for run in self.found for word in run.split(" ")]
        table[self._places(_hashes(words).reshape(-1, self.length))] = True
        return table

    @cached_property
    def _bits(self) -> int:
        return max(10, (ROOM * len(self.found)).bit_length())

    def _places(self, runs: np.ndarray) -> np.ndarray:
        """Of runs, one a row of hashes of words."""
        mixed = np.zeros(len(runs), dtype=np.uint64)
        for column in runs.T:
            mixed = (mixed + column) * SPREAD
        return mixed >> np.uint64(64 - self._bits)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What of several sets stands in training text."""

    words: int  # of training text
    lengths: Mapping[str, int]  # N, by set
    checked: Mapping[str, list[Checked]]  # by set
    runs: tuple[Runs, ...]  # one for each N


def audit(
    sets: Mapping[str, Sequence[Item]],
    documents: Iterable[tuple[str, str]],
    *,
    length: int | None = None,
    common: int | None = None,
) -> Audit:
    """Look for the texts of named sets in named training texts, which are read once.

    `length`: N, instead of the rule. What more than `common` documents hold counts as boilerplate, not as a leak.
    """
    lengths = {name: length or run_length(items) for name, items in sets.items()}
    runs = {
        size: Runs.of([item for name, items in sets.items() if lengths[name] == size for item in items], size)
        for size in set(lengths.values())
    }
    words = search(documents, list(runs.values()))
    checked = {name: check(items, runs[lengths[name]], common=common) for name, items in sets.items()}
    return Audit(words=words, lengths=lengths, checked=checked, runs=tuple(runs.values()))


def search(documents: Iterable[tuple[str, str]], every: Sequence[Runs]) -> int:
    """Look through named training texts once, for runs of every length; returns how many words they have."""
    total = 0
    for name, text in documents:
        words = words_of(text)
        total += len(words)
        for runs in every:
            for run in {run for _, run in runs.starts(words)}:
                entry = runs.found[run]
                entry.documents += 1
                entry.first = entry.first or name
    return total


def check(items: Iterable[Item], runs: Runs, *, common: int | None = None) -> list[Checked]:
    """Each item with its spans; what more than `common` documents hold is taken for boilerplate, not for a leak."""
    return [Checked(item=item, spans=tuple(_spans(item, runs, common))) for item in items]


def table_row(name: str, checked: Sequence[Checked], length: int) -> dict[str, Any]:
    """How much of a set is dirty, with Wilson's 95 % interval; texts shorter than N words can only count as clean."""
    dirty = sum(each.dirty for each in checked)
    low, high = wilson(dirty, len(checked))
    short = sum(len(each.item.words) < length for each in checked)
    head = {"set": name, "N": length, "texts": len(checked), "too short": short}
    return head | {"dirty": dirty, "share": dirty / len(checked), "low": low, "high": high}


def score_rows(name: str, checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """Mean scores of all, clean and dirty texts and how far apart the last two are, with 95 % intervals."""
    parts: Mapping[str, list[float]] = {
        part: [each.item.score for each in checked if each.item.score is not None and each.dirty in kinds]
        for part, kinds in (("all", (False, True)), ("clean", (False,)), ("dirty", (True,)))
    }
    rows: list[dict[str, Any]] = []
    for part, scores in parts.items():
        if scores:
            low, high = mean_interval(scores)
            rows.append({"set": name, "texts are": part, "texts": len(scores), "score": sum(scores) / len(scores)})
            rows[-1] |= {"low": low, "high": high}
    if parts["clean"] and parts["dirty"]:
        middle, low, high = difference(parts["dirty"], parts["clean"])
        rows.append({"set": name, "texts are": "dirty - clean", "texts": len(parts["all"]), "score": middle})
        rows[-1] |= {"low": low, "high": high}
    return rows


def commonest(checked: Iterable[Checked]) -> list[tuple[str, int]]:
    """Spans with the number of items that hold them, the most frequent first: boilerplate stands out."""
    return Counter(span.words for each in checked for span in each.spans).most_common()


def _spans(item: Item, runs: Runs, common: int | None) -> Iterator[Span]:
    words, length = item.words, runs.length
    most = float("inf") if common is None else common
    found = [runs.found[run] for run in runs_of(words, length)]
    places = [place for place, entry in enumerate(found) if 1 <= entry.documents <= most]
    groups: list[list[int]] = []
    for place in places:
        if groups and place <= groups[-1][-1] + length:
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        rarest = min((found[place] for place in group), key=lambda entry: entry.documents)
        text = " ".join(words[group[0] : group[-1] + length])
        yield Span(start=group[0], words=text, documents=rarest.documents, first=rarest.first)


def _hashes(words: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
