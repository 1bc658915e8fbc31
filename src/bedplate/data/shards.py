"""Tokenized text on disk: memory-mapped shards with a manifest of sizes and hashes.

A folder holds `manifest.json`, `tokens-00000.bin` ... (uint16, or uint32 where the vocabulary needs it),
`documents.bin` (int64: where each document starts) and `token_bytes.bin` (uint32: the bytes of text of each id, 0 for
the end mark).
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from bedplate.data.text import Corpus, Document
from bedplate.data.tokenize.byte_bpe import ByteBPE, split_text
from bedplate.errors import UserError
from bedplate.files import read_json, sha256_file, write_json

FORMAT = 1
SHARD_TOKENS = 2**27
GROUP = 64  # pieces of text encoded at a time
MANIFEST, DOCUMENTS, TOKEN_BYTES = "manifest.json", "documents.bin", "token_bytes.bin"


@dataclass(frozen=True)
class TokenShards:
    """The documents of one side of a corpus as one sequence of ids; each document ends with the end mark."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> "TokenShards":
        """Open a folder that `write_shards` wrote. Raises UserError when a file is missing or has another size."""
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise _damaged(folder / MANIFEST, "is not a manifest of token shards")
        for name, entry in manifest["files"].items():
            path = folder / name
            size = path.stat().st_size if path.exists() else 0
            if size != entry["bytes"]:
                raise _damaged(path, f"has {size} bytes instead of {entry['bytes']}")
        return cls(folder, manifest)

    def check(self) -> "TokenShards":
        """Compare every file with its hash in the manifest; raises UserError naming the first that differs."""
        for name, entry in self.manifest["files"].items():
            if sha256_file(self.folder / name) != entry["sha256"]:
                raise _damaged(self.folder / name, "was altered (its hash differs)")
        return self

    @property
    def num_tokens(self) -> int:
        """Ids in all shards, end marks included."""
        return self.manifest["num_tokens"]

    @property
    def end_id(self) -> int:
        """The id that ends each document."""
        return self.manifest["end_id"]

    def read(self, start: int, stop: int) -> Int64[np.ndarray, " length"]:
        """The ids from `start` up to `stop`, across shard borders."""
        size: int = self.manifest["shard_tokens"]
        parts: list[np.ndarray] = []
        while start < stop:
            shard, offset = divmod(start, size)
            part = self._tokens[shard][offset : min(size, offset + stop - start)]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts, dtype=np.int64) if parts else np.empty(0, np.int64)

    def document_of(self, positions: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """The number of the document that each position belongs to."""
        return np.searchsorted(self._documents, positions, side="right") - 1

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes of text for each id: uint32 [vocab]."""
        return np.fromfile(self.folder / TOKEN_BYTES, dtype="<u4")

    @cached_property
    def _tokens(self) -> list[np.ndarray]:
        names = sorted(name for name in self.manifest["files"] if name.startswith("tokens-"))
        return [np.memmap(self.folder / name, dtype=self.manifest["dtype"], mode="r") for name in names]

    @cached_property
    def _documents(self) -> np.ndarray:
        return np.memmap(self.folder / DOCUMENTS, dtype="<i8", mode="r")


def write_shards(
    documents: Iterable[Document],
    tokenizer: ByteBPE,
    folder: Path | str,
    *,
    receipt: Mapping[str, Any] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenShards:
    """Tokenize documents into a new folder, which appears whole or not at all.

    Where several processes write the same shards at once, the first to finish wins and all of them open the winner's.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            manifest = _write_files(documents, tokenizer, temporary, shard_tokens)
            write_json(temporary / MANIFEST, manifest | {"corpus": dict(receipt or {})})
            temporary.chmod(0o755)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        cause = f"cannot write token shards at {folder} ({error.strerror or error})"
        raise UserError(cause, fix="free space there, or set BEDPLATE_CACHE to another folder") from error
    return TokenShards.open(folder)


def cached(corpus: Corpus, tokenizer: ByteBPE, folder: Path | str | None = None) -> tuple[TokenShards, TokenShards]:
    """Training and held-out shards of a corpus, tokenized on first use.

    Kept under `folder`, by default $BEDPLATE_CACHE or ~/.cache/bedplate, by the hashes of text and vocabulary.
    """
    root = folder or os.environ.get("BEDPLATE_CACHE") or "~/.cache/bedplate"
    receipt = corpus.receipt()
    key = hashlib.sha256(f"{FORMAT} {receipt['sha256']} {tokenizer.digest}".encode()).hexdigest()[:16]
    home = Path(root).expanduser() / "tokens" / f"{corpus.name[:40]}-{key}"
    sides = []
    for side, documents in (("train", corpus.train), ("held_out", corpus.held_out)):
        if not (home / side).exists():
            write_shards(documents, tokenizer, home / side, receipt=receipt)
        sides.append(TokenShards.open(home / side).check())
    return sides[0], sides[1]


def _write_files(documents: Iterable[Document], tokenizer: ByteBPE, folder: Path, shard_tokens: int) -> dict[str, Any]:
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    borders = [0]  # the start of each document, and at last the end of all
    num_tokens = 0
    for group in _groups(documents):
        ids: list[int] = []
        for (_, is_last), piece_ids in zip(group, tokenizer.encode_batch([text for text, _ in group]), strict=True):
            ids += piece_ids
            if is_last:
                ids.append(tokenizer.end_id)
                borders.append(num_tokens + len(ids))
        _append(np.asarray(ids, dtype), folder, num_tokens, shard_tokens)
        num_tokens += len(ids)
    np.asarray(borders[:-1], "<i8").tofile(folder / DOCUMENTS)
    lengths = np.zeros(tokenizer.vocab_size, "<u4")
    for id in tokenizer.tokens:
        lengths[id] = 0 if id == tokenizer.end_id else len(tokenizer.token_bytes(id))
    lengths.tofile(folder / TOKEN_BYTES)
    paths = sorted(folder.iterdir())
    return {
        "format": FORMAT,
        "dtype": dtype,
        "num_tokens": num_tokens,
        "num_documents": len(borders) - 1,
        "shard_tokens": shard_tokens,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "tokenizer_sha256": tokenizer.digest,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths},
    }


def _groups(documents: Iterable[Document]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of text, each with whether it is the last of its document, in groups that are encoded together."""
    group: list[tuple[str, bool]] = []
    for document in documents:
        *pieces, last = split_text(document.text)
        for piece in (*((piece, False) for piece in pieces), (last, True)):
            group.append(piece)
            if len(group) == GROUP:
                yield group
                group = []
    if group:
        yield group


def _append(ids: np.ndarray, folder: Path, position: int, shard_tokens: int) -> None:
    while len(ids):
        shard, offset = divmod(position, shard_tokens)
        part = ids[: shard_tokens - offset]
        with (folder / f"tokens-{shard:05d}.bin").open("ab") as file:
            part.tofile(file)
        ids, position = ids[len(part) :], position + len(part)


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        if TokenShards.open(folder).manifest["files"] != read_json(temporary / MANIFEST)["files"]:
            raise UserError(f"{folder} already holds something else", fix="delete it or name another folder") from None


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}", fix=f"delete {path.parent} and run again")
