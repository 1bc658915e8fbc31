"""What an audit of contamination reads: evaluation texts with their scores, and training text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.data.text import BUILT_IN, open_corpus
from bedplate.data.user_files import read_path
from bedplate.errors import UserError
from bedplate.evaluate.contamination import Item
from bedplate.files import read_json_lines


def training_text(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every document; of a built-in corpus the part that is trained on, of paths all."""
    for name in names:
        if name in BUILT_IN:
            yield from ((f"{name}:{document.name}", document.text) for document in open_corpus(name).train)
        else:
            yield from read_path(Path(name).expanduser(), Counter())


def read_items(name: str, *, fields: Sequence[str] = ("text",), score: str | None = None) -> list[Item]:
    """The texts of an evaluation set: the `fields` of each JSON line, or each document of a file or folder.

    `score`: the field that says how well a model did on it, a number or true or false. Of a built-in corpus the
    held-out part is taken. Raises UserError for a field that a line lacks.
    """
    if name.lower().endswith(".jsonl"):
        records = read_json_lines(Path(name).expanduser())
        return [_item(record, f"{Path(name).name}:{line}", fields, score) for line, record in enumerate(records, 1)]
    if score is not None:
        raise UserError(f"{name} has no field {score!r}", fix="scores are read from JSON lines (.jsonl)")
    if name in BUILT_IN:
        return [Item(name=document.name, text=document.text) for document in open_corpus(name).held_out]
    return [Item(name=part, text=text) for part, text in read_path(Path(name).expanduser(), Counter())]


def _item(record: Mapping[str, Any], name: str, fields: Sequence[str], score: str | None) -> Item:
    for needed in (*fields, *([] if score is None else [score])):
        if needed not in record:
            raise UserError(f"{name} has no field {needed!r}", fix=f"it has: {', '.join(record)}")
    text = "\n".join(part for needed in fields for part in _texts(record[needed], name, needed))
    value = None if score is None else record[score]
    if value is not None and not isinstance(value, int | float):
        raise UserError(f"{name}: {score} is {value!r}", fix="a score is a number, or true or false")
    return Item(name=name, text=text, score=None if value is None else float(value))


def _texts(value: Any, name: str, field: str) -> list[str]:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise UserError(f"{name}: {field} is no text", fix="name fields of text, or of lists of texts, with --fields")
    return parts
