"""Leaks of evaluation texts: planted, to see which of them an audit finds, and cut out of training text."""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bedplate.evaluate.contamination import Item, Runs, check, search, words_of
from bedplate.evaluate.interval import wilson

# GPT-3, appendix C, all in characters but the last
MARGIN, SMALLEST = 200, 200  # cut out on both sides of a run; left out when no more remains in one piece
PIECES = 10  # a document that falls into more pieces is left out whole
REPLACED = 10  # every so-manieth word


def _shouted(text: str) -> str:
    words = text.upper().split()
    return ",\n".join(" - ".join(words[start : start + 3]) for start in range(0, len(words), 3)) + "!"


def _half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])


def _reworded(text: str) -> str:
    return " ".join(f"{word}x" if place % REPLACED == 0 else word for place, word in enumerate(text.split(), start=1))


CHANGES: Mapping[str, Callable[[str], str]] = {
    "as it is": str,
    "other case, punctuation, lines": _shouted,
    "its first half": _half,
    f"every {REPLACED}th word replaced": _reworded,
}


def plant(items: Sequence[Item], host: str, *, length: int, count: int, seed: int = 0) -> list[dict[str, object]]:
    """How many of `count` planted leaks are found, with Wilson's 95 % interval, by the way they were changed.

    Items of `length` words and more are drawn with `seed`, and each stands in the middle of the `host` text. Not found
    is what GPT-3's protocol cannot see; falsely found are items that were not planted, though the host lacks them.
    """
    known = _flagged(items, [("host", host)], length)
    fitting = [place for place, item in enumerate(items) if len(item.words) >= length and place not in known]
    drawn = set(random.Random(seed).sample(fitting, min(count, len(fitting))))
    before, after = host[: len(host) // 2], host[len(host) // 2 :]
    rows = []
    for name, change in CHANGES.items():
        texts = [(items[place].name, f"{before}\n{change(items[place].text)}\n{after}") for place in sorted(drawn)]
        flagged = _flagged(items, texts, length) - known
        row: dict[str, object] = {"leak": name, "planted": len(drawn), "found": len(flagged & drawn)}
        if drawn:
            low, high = wilson(len(flagged & drawn), len(drawn))
            row |= {"recall": len(flagged & drawn) / len(drawn), "low": low, "high": high}
        rows.append(row | {"falsely found": len(flagged - drawn)})
    return rows


def cut(text: str, every: Sequence[Runs], *, common: int | None = None) -> list[str]:
    """What is left of a training text without the runs that were found, and `MARGIN` characters around each: pieces of
    at least `SMALLEST` characters, none where there are more than `PIECES` (GPT-3, appendix C).

    Runs that more than `common` documents hold stay.
    """
    holes = sorted(_holes(text, every, common))
    pieces, at = [], 0
    for start, end in holes:
        pieces.append(text[at : max(at, start - MARGIN)])
        at = max(at, end + MARGIN)
    pieces = [piece for piece in (*pieces, text[at:]) if piece]
    if len(pieces) > PIECES:
        return []
    return [piece for piece in pieces if len(piece) >= SMALLEST] if holes else [text]


def _holes(text: str, every: Sequence[Runs], common: int | None) -> Iterator[tuple[int, int]]:
    """Where runs begin and end."""
    places = [(word, match.span()) for match in re.finditer(r"\S+", text) for word in words_of(match[0])]
    words = [word for word, _ in places]
    for runs in every:
        for start, run in runs.starts(words):
            if runs.found[run].documents and (common is None or runs.found[run].documents <= common):
                yield places[start][1][0], places[start + runs.length - 1][1][1]


def _flagged(items: Sequence[Item], documents: Iterable[tuple[str, str]], length: int) -> set[int]:
    runs = Runs.of(items, length)
    search(documents, [runs])
    return {place for place, each in enumerate(check(items, runs)) if each.dirty}
