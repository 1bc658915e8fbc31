"""Corpora: named documents, split into training and held-out text."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bedplate.data.python_library import read_pydocs, read_stdlib
from bedplate.data.user_files import read_path
from bedplate.errors import UserError

HELD_OUT_FROM = int(0.9 * 2**64)  # a document is held out when the first 64 bits of sha256(name) reach this
BUILT_IN = {"pydocs": read_pydocs, "stdlib": read_stdlib}


@dataclass(frozen=True)
class Document:
    """One text and its name, which is unique in its corpus."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents to learn from and documents to measure on."""

    name: str
    source: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)  # files and records left out, by reason

    def receipt(self) -> dict[str, Any]:
        """What this text is: counts over both sides, and one hash over every name and text in order."""
        both = (*self.train, *self.held_out)
        return {
            "name": self.name,
            "source": self.source,
            "python": platform.python_version(),
            "documents": len(both),
            "characters": sum(len(document.text) for document in both),
            "bytes": _bytes(both),
            "held_out_documents": len(self.held_out),
            "held_out_bytes": _bytes(self.held_out),
            "sha256": self._digest(),
            "skipped": dict(self.skipped),
        }

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for side, documents in (("train", self.train), ("held_out", self.held_out)):
            for document in documents:
                text = document.text.encode()
                digest.update(f"{side} {len(text)} {document.name}\n".encode())
                digest.update(text)
        return digest.hexdigest()


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
        source, pairs = f"{platform.python_implementation()} {platform.python_version()}", BUILT_IN[name](skipped)
    else:
        path = Path(name).expanduser()
        name, source, pairs = path.resolve().name, str(path), read_path(path, skipped)
    documents = [Document(*pair) for pair in pairs]
    if not documents:
        cause = f"{source} holds no readable documents (skipped: {skipped.total()})"
        raise UserError(cause, fix="give text in .txt .md .py .jsonl or .parquet files")
    train, held_out = split(documents)
    if not held_out or not train:
        raise UserError(f"{source} holds too little text to split", fix="give at least a few lines")
    return Corpus(name=name, source=source, train=train, held_out=held_out, skipped=+skipped)


def split(documents: Iterable[Document]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Training and held-out documents: by name, so that adding a document never moves another.

    Where names leave one side empty, as they do for a single document, each document is cut at 90 % of its characters.
    """
    documents = tuple(documents)
    held_out = tuple(document for document in documents if _is_held_out(document.name))
    if 0 < len(held_out) < len(documents):
        return tuple(document for document in documents if not _is_held_out(document.name)), held_out
    borders = [_border(document.text) for document in documents]
    heads = (Document(document.name, document.text[:at]) for document, at in zip(documents, borders, strict=True))
    tails = (Document(document.name, document.text[at:]) for document, at in zip(documents, borders, strict=True))
    return tuple(head for head in heads if head.text), tuple(tail for tail in tails if tail.text)


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >= HELD_OUT_FROM


def _border(text: str) -> int:
    """Where to cut: 90 % of the characters, or the last line border in the tenth before that."""
    at = len(text) * 9 // 10
    return text.rfind("\n", len(text) * 8 // 10, at) + 1 or at


def _bytes(documents: Iterable[Document]) -> int:
    return sum(len(document.text.encode()) for document in documents)
