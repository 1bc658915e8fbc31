"""Labeled texts: files of JSON lines, and snippets of Python's standard library with the package they are from.

The fields of a line say what kind of task it is: `text`; `premise` and `hypothesis`; `first` and `second` (in either
order the same); or `context` and `answers`. `label` is the name of the class, or the number of the right answer.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.data.python_library import read_packages
from bedplate.data.tasks import Item, Marks
from bedplate.data.text import Corpus, Document, is_held_out
from bedplate.errors import UserError

TRANSFORMATIONS: dict[tuple[str, ...], Callable[..., list[list[int]]]] = {
    ("text",): Marks.classification,
    ("premise", "hypothesis"): Marks.entailment,
    ("first", "second"): Marks.similarity,
    ("context", "answers"): Marks.multiple_choice,
}
PACKAGES_TASK = "packages"
SNIPPET = 8  # lines, blank ones not counted
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Texts by their fields, a label, and the name that decides whether it is held out."""

    name: str
    texts: dict[str, str | list[str]]
    label: str | int

    def item(self, marks: Marks, encode: Encode, classes: Sequence[str | int]) -> Item:
        """As sequences of ids, with the label as a number."""
        ids = [[encode(each) for each in text] if isinstance(text, list) else encode(text) for text in self._in_order()]
        return Item(sequences=TRANSFORMATIONS[self.fields](marks, *ids), label=classes.index(self.label))

    @property
    def fields(self) -> tuple[str, ...]:
        """Which texts there are."""
        return next(fields for fields in TRANSFORMATIONS if set(fields) == set(self.texts))

    def _in_order(self) -> Iterator[str | list[str]]:
        return (self.texts[field] for field in self.fields)

    def document(self) -> Document:
        """All of its text, for tokenizers and for the likelihood of language."""
        parts = [part for text in self._in_order() for part in (text if isinstance(text, list) else [text])]
        return Document(self.name, "\n".join(parts))


@dataclass(frozen=True, kw_only=True)
class Task:
    """Records to learn from and to measure on, and the classes (or numbers of answers) in order."""

    name: str
    source: str
    train: tuple[Record, ...]
    held_out: tuple[Record, ...]
    classes: tuple[str | int, ...]

    def corpus(self) -> Corpus:
        """The texts without their labels."""
        train, held_out = ([record.document() for record in side] for side in (self.train, self.held_out))
        return Corpus(name=self.name, source=self.source, train=train, held_out=held_out)

    @property
    def chooses(self) -> bool:
        """Whether the classes are the numbers of answers."""
        return "answers" in self.train[0].texts


def open_task(name_or_path: str, *, labels: int, seed: int) -> Task:
    """The built-in task `packages`, or a file of JSON lines; `labels` records to learn from, 0 for all.

    They are drawn by the seed, equally many of each class. Raises UserError naming the line that cannot be read.
    """
    if name_or_path == PACKAGES_TASK:
        name, records = name_or_path, list(read_snippets())
    else:
        path = Path(name_or_path).expanduser()
        name, records = path.name, list(_read_lines(path))
    train, held_out = ([record for record in records if is_held_out(record.name) == side] for side in (False, True))
    if not train or not held_out:
        cause = f"{name_or_path} holds {len(train)} records to learn from and {len(held_out)} to measure on"
        raise UserError(cause, fix="give at least a few dozen: one in ten is held out, by its text")
    classes: Iterable[str | int] = sorted(
        {record.label for record in records}, key=lambda label: (str(type(label)), label)
    )
    if "answers" in records[0].texts:
        classes = range(len(records[0].texts["answers"]))
    if name_or_path == PACKAGES_TASK:
        held_out = balanced(held_out, 0, seed=0)
    if labels:
        train = balanced(train, labels, seed=seed)
    return Task(name=name, source=name_or_path, train=tuple(train), held_out=tuple(held_out), classes=tuple(classes))


def balanced(records: Iterable[Record], number: int, *, seed: int) -> list[Record]:
    """Equally many records of each class, `number` in all (0: as many as there are), in an order by the seed."""
    by_class: dict[str | int, list[Record]] = defaultdict(list)
    for record in records:
        by_class[record.label].append(record)
    share = number // len(by_class) or min(map(len, by_class.values()))
    if short := [name for name, found in by_class.items() if len(found) < share]:
        cause = f"class {short[0]!r} has {len(by_class[short[0]])} labeled texts, {share} of each class are asked for"
        raise UserError(cause, fix=f"set data.labels to {len(by_class) * min(map(len, by_class.values()))} or less")
    chance = random.Random(seed)
    chosen = [record for name in sorted(by_class, key=str) for record in chance.sample(by_class[name], share)]
    chance.shuffle(chosen)
    return chosen


def read_snippets() -> Iterator[Record]:
    """Snippets of five packages of the standard library, labeled by the package. The file decides the side."""
    for name, text in read_packages(Counter()):
        lines = [line for line in text.splitlines() if line.strip()]
        for start in range(0, len(lines) - SNIPPET + 1, SNIPPET):
            texts: dict[str, str | list[str]] = {"text": "\n".join(lines[start : start + SNIPPET])}
            yield Record(name=name, texts=texts, label=name.partition("/")[0])


def _read_lines(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path} cannot be read ({reason})", fix="give `packages` or a file of JSON lines") from error
    kinds = set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = _record(line, f"line {number} of {path}")
            kinds.add(record.fields)
            if len(kinds) > 1:
                raise UserError(f"line {number} of {path} is of another kind", fix="give all lines the same fields")
            yield record


def _record(line: str, place: str) -> Record:
    try:
        content: Any = json.loads(line)
        label = content.pop("label")
        fields = next(fields for fields in TRANSFORMATIONS if set(fields) == set(content))
    except (ValueError, KeyError, AttributeError, TypeError, StopIteration) as error:
        kinds = "; ".join(" and ".join(fields) for fields in TRANSFORMATIONS)
        fix = f"give a JSON object with label and one of: {kinds}"
        raise UserError(f"{place} is not a labeled text", fix=fix) from error
    several = content.get("answers", [""])
    texts = [*(content[field] for field in fields if field != "answers"), *(several if type(several) is list else [0])]
    if not several or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{place} holds a text that is none", fix="give strings, and answers as a list of strings")
    if "answers" in fields and (type(label) is not int or not 0 <= label < len(several)):
        raise UserError(f"{place} has the label {label!r}", fix=f"give an answer's number, 0 to {len(several) - 1}")
    if type(label) not in (str, int):
        raise UserError(f"{place} has the label {label!r}", fix="give a name or a number")
    return Record(name=line, texts=content, label=label)
