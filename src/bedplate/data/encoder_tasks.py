"""Labeled texts for an encoder from files: classes of texts and of pairs, tags of words, answers that are spans.

The fields say what kind of task it is. `text`, or `first` and `second`, with `label`; `words` and `tags`, lists of
equal length; `question`, `context`, `answer` and `start`, the character where it begins (an empty answer: there is
none). A file has a JSON object a line, or, for texts and pairs, columns with tabs between, named in the first line.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.data.encoder_rows import Row, span_row, tagged_row, text_row
from bedplate.data.known_answers import GENERATED, generated
from bedplate.data.masking import Marks
from bedplate.data.text import is_held_out
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError

KINDS = {
    "text": ("text", "label"), "pair": ("first", "second", "label"), "tags": ("words", "tags"),
    "spans": ("question", "context", "answer", "start"),
}  # fmt: skip
LISTS = ("words", "tags")
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EncoderTask:
    """Records to learn from and to measure on, of one kind, and the classes in order (none of spans)."""

    source: str
    kind: str
    train: Sequence[Record]
    held_out: Sequence[Record]
    classes: tuple[str, ...]

    def row(self, record: Record, tokenizer: WordPiece, *, room: int) -> Row:
        """A record as a row of at most `room` tokens."""
        marks = Marks.of(tokenizer)
        if self.kind == "tags":
            words = tokenizer.encode_batch(record["words"])
            return tagged_row(marks, words, [self.classes.index(str(tag)) for tag in record["tags"]], room=room)
        if self.kind == "spans":
            question, context = tokenizer.encode(record["question"]), record["context"]
            answer = answer_tokens(tokenizer, context, record["start"], record["answer"])
            return span_row(marks, question, tokenizer.encode(context), answer=answer, room=room)
        texts = [tokenizer.encode(record[field]) for field in KINDS[self.kind][:-1]]
        return text_row(marks, *texts, label=self.classes.index(str(record["label"])), room=room)

    def texts(self) -> list[str]:
        """All text to learn from, for a vocabulary."""
        fields = [field for field in KINDS[self.kind] if field not in ("label", "tags", "answer", "start")]
        values = [record[field] for record in self.train for field in fields]
        return [" ".join(value) if isinstance(value, list) else value for value in values]

    @property
    def digest(self) -> str:
        """SHA-256 of all records in order."""
        return hashlib.sha256(json.dumps([self.train, self.held_out]).encode()).hexdigest()


def answer_tokens(tokenizer: WordPiece, context: str, start: int, answer: str) -> tuple[int, int] | None:
    """Which tokens of a text spell an answer that begins at a character; a token that reaches into it counts."""
    if not answer:
        return None
    before, through = (len(tokenizer.encode(context[:end])) for end in (start, start + len(answer)))
    return min(before, through - 1), through - 1


def open_encoder_task(name_or_path: str) -> EncoderTask:
    """A file of labeled texts, or a generated task (`generated-text`, `-pair`, `-tags`, `-spans`).

    One record in ten is held out, by its content. Raises UserError naming the line that cannot be read.
    """
    if name_or_path.startswith(GENERATED):
        places = [(record, "the generated task") for record in generated(name_or_path.removeprefix(GENERATED))]
    else:
        places = _read(Path(name_or_path).expanduser())
    kinds = [_kind(record, place) for record, place in places]
    if not kinds or set(kinds) != {kinds[0]}:
        raise UserError(f"{name_or_path} holds {len(set(kinds))} kinds of records", fix="give lines of one kind")
    sides: dict[bool, list[Record]] = {False: [], True: []}
    for record, _ in places:
        sides[is_held_out(json.dumps(record, sort_keys=True))].append(record)
    if not all(sides.values()):
        cause = f"{name_or_path} holds {len(sides[False])} records to learn from and {len(sides[True])} to measure on"
        raise UserError(cause, fix="give at least a few dozen: one in ten is held out")
    labels = [record.get("tags", [record.get("label")]) for record, _ in places] if kinds[0] != "spans" else []
    classes = tuple(sorted({str(label) for several in labels for label in several}))
    return EncoderTask(source=name_or_path, kind=kinds[0], train=sides[False], held_out=sides[True], classes=classes)


def _read(path: Path) -> list[tuple[Record, str]]:
    """Records, each with its place for messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path} cannot be read ({reason})", fix="name a file of JSON lines or of columns") from error
    if path.suffix == ".tsv":
        found = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(record, f"line {number} of {path}") for number, record in enumerate(found, start=2)]
    lines = [
        (line, f"line {number} of {path}") for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    return [(_parsed(line, place), place) for line, place in lines]


def _parsed(line: str, place: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is no JSON ({error})", fix="write one JSON object a line") from error
    return record if isinstance(record, dict) else {}


def _kind(record: Record, place: str) -> str:
    """Raises UserError where the fields are those of no task, or hold something else than they should."""
    kind = next((kind for kind, fields in KINDS.items() if set(fields) == set(record)), "")
    if not kind:
        known = "; ".join(", ".join(fields) for fields in KINDS.values())
        raise UserError(f"{place} has not the fields of a task, but {list(record)}", fix=f"give one of: {known}")
    for field, value in record.items():
        parts = value if isinstance(value, list) and field in LISTS else [value]
        types = (str, int) if field in ("label", "tags") else int if field == "start" else str
        if (field in LISTS) != isinstance(value, list) or not all(isinstance(part, types) for part in parts):
            raise UserError(
                f"{place}: {field} is {value!r}", fix="give text, a number for start, lists for words and tags"
            )
    if kind == "tags" and len(record["words"]) != len(record["tags"]):
        cause = f"{place} has {len(record['words'])} words and {len(record['tags'])} tags"
        raise UserError(cause, fix="give a tag to each word")
    if kind == "spans":
        start, answer = record["start"], record["answer"]
        if record["context"][start : start + len(answer)] != answer:
            raise UserError(f"{place}: the answer does not begin at character {start}", fix="correct start")
    return kind
