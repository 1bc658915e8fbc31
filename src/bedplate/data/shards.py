"""Tokenized text on disk: shards with a manifest of sizes and hashes, of which only what is asked for is read.

A folder holds `manifest.json`, `tokens-00000.bin` ... (uint16, or uint32 where the vocabulary needs it) and
`token_bytes.bin` (uint32: the bytes that each id spells, 0 for the end mark); later also `checked.json`: which files
were compared with their hashes, and how they looked then.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from bedplate.data.text import Corpus, Document
from bedplate.data.tokenize.tokenizer import Tokenizer, checked, end_mark
from bedplate.errors import UserError
from bedplate.files import cache_folder, read_json, sha256_file, write_json

FORMAT = 2
SHARD_TOKENS = 2**27
GROUP = 64  # pieces of text encoded at a time
MANIFEST, TOKEN_BYTES, CHECKED = "manifest.json", "token_bytes.bin", "checked.json"
Stretches = Iterator[tuple[Integer[np.ndarray, " _"], int]]  # ids, and the bytes of their text
SETTLED = 2 * 10**9  # nanoseconds: a file changed twice within the grain of a file system's clock looks unchanged


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
        """Compare every file with its hash in the manifest; raises UserError naming the first that differs.

        Files that are as they were when last compared (size and times) are not read again.
        """
        checked = self._checked()
        for name, entry in self.manifest["files"].items():
            before, now = _state(self.folder / name, entry), time.time_ns()
            if checked.get(name) == before:
                continue
            if sha256_file(self.folder / name) != entry["sha256"]:
                raise _damaged(self.folder / name, "was altered (its hash differs)")
            if now - max(before[2:]) > SETTLED:
                checked[name] = before
        if checked != self._checked():
            with suppress(OSError):  # in a folder that cannot be written to, every check reads every file
                write_json(self.folder / CHECKED, checked)
        return self

    def _checked(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / CHECKED).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

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
        return self.read_windows(np.array([start]), length=stop - start)[0]

    def read_windows(self, starts: Int64[np.ndarray, " batch"], *, length: int) -> Int64[np.ndarray, "batch length"]:
        """`length` ids from each start, across shard borders. Raises UserError when a file cannot be read.

        Files are read, not mapped, and open for one call: no part of the corpus counts as memory of this process, and
        nothing is shared that threads or forked processes could disturb.
        """
        rows = np.empty((len(starts), length), self.manifest["dtype"])
        size: int = self.manifest["shard_tokens"]
        wanted: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for row, start in zip(rows, starts.tolist(), strict=True):
            while len(row):
                shard, offset = divmod(start, size)
                part, row = row[: size - offset], row[size - offset :]
                wanted[shard].append((offset * rows.itemsize, part))
                start += len(part)
        for shard, parts in wanted.items():
            _read_parts(self.folder / f"tokens-{shard:05d}.bin", parts)
        return rows.astype(np.int64)

    @property
    def text_bytes(self) -> tuple[int, int]:
        """The bytes of the text itself, and those that its tokens spell."""
        text = self.manifest["num_bytes"]
        return text, self.manifest.get("spelled_bytes", text)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Bytes that each id spells: uint32 [vocab]."""
        return np.fromfile(self.folder / TOKEN_BYTES, dtype="<u4")


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    receipt: Mapping[str, Any] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenShards:
    """Tokenize documents into a new folder, which appears whole or not at all.

    Where several processes write the same shards at once, the first to finish wins and all of them open the winner's.
    """
    stretches = _encoded(documents, tokenizer)
    return _write(stretches, tokenizer, Path(folder), receipt=receipt or {}, shard_tokens=shard_tokens)


def write_ids(
    stretches: Iterable[Integer[np.ndarray, " _"]],
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    receipt: Mapping[str, Any] | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenShards:
    """The same from ids that are made already, in stretches of any length; each document ends with the end mark.

    The text is taken to be what the ids spell.
    """
    spelled = _spelled(tokenizer)
    counted = ((ids, int(spelled[ids].sum(dtype=np.int64))) for ids in stretches)
    return _write(counted, tokenizer, Path(folder), receipt=receipt or {}, shard_tokens=shard_tokens)


def _write(
    stretches: Stretches, tokenizer: Tokenizer, folder: Path, *, receipt: Mapping[str, Any], shard_tokens: int
) -> TokenShards:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            manifest = _write_files(stretches, tokenizer, temporary, shard_tokens)
            write_json(temporary / MANIFEST, manifest | {"corpus": dict(receipt)})
            temporary.chmod(0o755)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        cause = f"cannot write token shards at {folder} ({error.strerror or error})"
        raise UserError(cause, fix="free space there, or set BEDPLATE_CACHE to another folder") from error
    return TokenShards.open(folder)


def cached(corpus: Corpus, tokenizer: Tokenizer, folder: Path | str | None = None) -> tuple[TokenShards, TokenShards]:
    """Training and held-out shards of a corpus, tokenized on first use.

    Kept under `folder`, by default $BEDPLATE_CACHE or ~/.cache/bedplate, by the hashes of text and vocabulary.
    """
    root = folder or cache_folder()
    receipt = corpus.receipt()
    key = hashlib.sha256(f"{FORMAT} {receipt['sha256']} {tokenizer.digest}".encode()).hexdigest()[:16]
    home = Path(root).expanduser() / "tokens" / f"{corpus.name[:40]}-{key}"
    for side, documents in (("train", corpus.train), ("held_out", corpus.held_out)):
        if not (home / side).exists():
            write_shards(documents, tokenizer, home / side, receipt=receipt)
    return open_sides(home)


def open_sides(folder: Path) -> tuple[TokenShards, TokenShards]:
    """The shards of both sides of a corpus, in the folders `train` and `held_out`, compared with their hashes."""
    return TokenShards.open(folder / "train").check(), TokenShards.open(folder / "held_out").check()


def _spelled(tokenizer: Tokenizer) -> np.ndarray:
    """The bytes that each id spells: uint32 [vocab]; the end mark spells nothing."""
    end, lengths = end_mark(tokenizer), np.zeros(tokenizer.vocab_size, "<u4")
    for id in tokenizer.tokens:
        lengths[id] = 0 if id == end else len(tokenizer.token_bytes(id))
    return lengths


def _write_files(stretches: Stretches, tokenizer: Tokenizer, folder: Path, shard_tokens: int) -> dict[str, Any]:
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    lengths = _spelled(tokenizer)
    lengths.tofile(folder / TOKEN_BYTES)
    num_tokens, num_documents, num_bytes, spelled_bytes = 0, 0, 0, 0
    for ids, size in stretches:
        _append(ids.astype(dtype), folder, num_tokens, shard_tokens)
        num_tokens += len(ids)
        num_documents += int((ids == tokenizer.end_id).sum())
        num_bytes += size
        spelled_bytes += int(lengths[ids].sum(dtype=np.int64))
    paths = sorted(folder.iterdir())
    return {
        "format": FORMAT,
        "dtype": dtype,
        "num_tokens": num_tokens,
        "num_documents": num_documents,
        "num_bytes": num_bytes,  # of text
        "spelled_bytes": spelled_bytes,  # of tokens: others where the tokenizer adds or loses characters
        "shard_tokens": shard_tokens,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "tokenizer_sha256": tokenizer.digest,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths},
    }


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Stretches:
    """Ids, and the bytes of the text that they stand for."""
    for group in _groups(documents, tokenizer):
        ids: list[int] = []
        encoded = tokenizer.encode_batch([text for text, _ in group])
        for (_, size), piece_ids in zip(group, encoded, strict=True):
            ids += piece_ids
            if size is not None:
                ids.append(tokenizer.end_id)
        yield np.asarray(ids, np.int64), sum(size or 0 for _, size in group)


def _groups(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[tuple[str, int | None]]]:
    """Pieces of text in groups that are encoded together, the last of each document with the document's bytes."""
    group: list[tuple[str, int | None]] = []
    for document in documents:
        *pieces, last = tokenizer.split_text(checked(document.text))
        for piece in (*((piece, None) for piece in pieces), (last, len(document.text.encode()))):
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


def _read_parts(path: Path, parts: list[tuple[int, np.ndarray]]) -> None:
    """Fill arrays with what stands in a file from the given bytes on."""
    try:
        with path.open("rb", buffering=0) as file:
            for position, part in parts:
                file.seek(position)
                if file.readinto(part.data) != part.nbytes:
                    raise _damaged(path, "ends too early")
    except OSError as error:
        fix = "check the disk, then go on with the run: bedplate train --resume RUN"
        raise UserError(f"{path} cannot be read ({error.strerror})", fix=fix) from error


def _state(path: Path, entry: Mapping[str, Any]) -> list[Any]:
    """What tells without reading that a file is another one: its hash as it should be, its size and its times."""
    found = path.stat()
    return [entry["sha256"], found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}", fix=f"delete {path.parent} and run again")
