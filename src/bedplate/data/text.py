"""Corpora: named documents, split into training and held-out text."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bedplate.data.python_library import read_packages, read_pydocs, read_stdlib
from bedplate.data.user_files import read_path
from bedplate.errors import UserError

HELD_OUT_FROM = int(0.9 * 2**64)  # a document is held out when the first 64 bits of sha256(name) reach this
BUILT_IN = {"pydocs": read_pydocs, "stdlib": read_stdlib, "packages": read_packages}


@dataclass(frozen=True)
class Document:
    """One text and its name, which is unique in its corpus."""

    name: str
    text: str


@dataclass(frozen=True)
class Side:
    """The documents to learn from, or those to measure on, in order, as often as they are asked for.

    Text from a user's files is read again each time, a file at a time, so that no corpus has to fit into memory.

    Names decide, so that adding a document never moves another. Where they leave one side empty, as they do for a
    single document, each document is `cut` at 90 % of its characters.
    """

    read: Callable[[], Iterable[Document]]
    held_out: bool
    cut: bool

    def __iter__(self) -> Iterator[Document]:
        for document in self.read():
            if self.cut:
                at = _border(document.text)
                if text := document.text[at:] if self.held_out else document.text[:at]:
                    yield Document(document.name, text)
            elif is_held_out(document.name) == self.held_out:
                yield document


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from and documents to measure on."""

    name: str
    source: str
    train: Iterable[Document]
    held_out: Iterable[Document]
    skipped: Mapping[str, int] = field(default_factory=dict)  # files and records left out, by reason

    def receipt(self) -> dict[str, Any]:
        """What this text is: counts over both sides, and one hash over every name and text in order."""
        return dict(self._receipt)

    @cached_property
    def _receipt(self) -> dict[str, Any]:
        counts, digest = Counter[str](), hashlib.sha256()
        for side, documents in (("train", self.train), ("held_out", self.held_out)):
            for document in documents:
                text = document.text.encode()
                digest.update(f"{side} {len(text)} {document.name}\n".encode())
                digest.update(text)
                counts.update(documents=1, characters=len(document.text), bytes=len(text))
                if side == "held_out":
                    counts.update(held_out_documents=1, held_out_bytes=len(text))
        return {
            "name": self.name,
            "source": self.source,
            "python": platform.python_version(),
            **counts,
            "sha256": digest.hexdigest(),
            "skipped": dict(self.skipped),
        }


def open_corpus(name_or_path: str | Path) -> Corpus:
    """A built-in corpus (`pydocs`, `stdlib`), or the text in a file or folder of .txt .md .py .jsonl .parquet.

    Raises UserError naming the file, and the line or byte, for whatever cannot be read as text.
    """
    name, skipped = str(name_or_path), Counter[str]()
    if not name:
        raise UserError("no text is named", fix=f"name a file, a folder, or {' or '.join(BUILT_IN)}")
    if not name.isprintable():
        raise UserError(f"the path {name!r} holds characters that cannot be printed", fix="rename it")
    if name in BUILT_IN:
        source = f"{platform.python_implementation()} {platform.python_version()}"
        documents = [Document(*pair) for pair in BUILT_IN[name](skipped)]  # small, and slow to make
        train, held_out = split(lambda: documents)
    else:
        path = Path(name).expanduser()
        name, source = path.resolve().name, str(path)
        first = (Document(*pair) for pair in read_path(path, skipped))
        train, held_out = split(lambda: (Document(*pair) for pair in read_path(path, Counter())), first=first)
    if not any(train) and not any(held_out):
        cause = f"{source} holds no readable documents (skipped: {skipped.total()})"
        raise UserError(cause, fix="give text in .txt .md .py .jsonl or .parquet files")
    if not any(train) or not any(held_out):
        raise UserError(f"{source} holds too little text to split", fix="give at least a few lines")
    return Corpus(name=name, source=source, train=train, held_out=held_out, skipped=+skipped)


def split(read: Callable[[], Iterable[Document]], *, first: Iterable[Document] | None = None) -> tuple[Side, Side]:
    """Training and held-out documents of what `read` gives each time; `first`: the same, for the first reading."""
    sides = {is_held_out(document.name) for document in (read() if first is None else first)}
    cut = len(sides) < 2
    return Side(read, held_out=False, cut=cut), Side(read, held_out=True, cut=cut)


def is_held_out(name: str) -> bool:
    """Whether a document of this name is never trained on."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >= HELD_OUT_FROM


def _border(text: str) -> int:
    """Where to cut: 90 % of the characters, or the last line border in the tenth before that."""
    at = len(text) * 9 // 10
    return text.rfind("\n", len(text) * 8 // 10, at) + 1 or at
