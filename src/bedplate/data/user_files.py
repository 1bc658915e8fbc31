"""Text from a user's file or folder. Whatever cannot be read is an error with the place of the fault, never silence."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bedplate.errors import UserError, require

HEAD = 8192  # bytes searched for NUL, which no text holds
Named = Iterator[tuple[str, str]]


def read_path(path: Path, skipped: Counter[str]) -> Named:
    """Name and text of each document in a file or folder, in the order of paths; `skipped` counts what is left out."""
    if path.is_dir():
        for file in _walk(path, skipped):
            name = os.fsencode(file.relative_to(path).as_posix()).decode("utf-8", errors="backslashreplace")
            yield from _read_file(file, name, skipped)
        return
    if not path.exists():
        fix = "check the path, or name a built-in corpus: pydocs, stdlib"
        raise UserError(f"{path} does not exist", fix=fix)
    if path.suffix.lower() not in READERS:
        cause = f"{path} has the suffix {path.suffix!r}, which is not known as text"
        raise UserError(cause, fix=f"give a file of one of the kinds {' '.join(READERS)}")
    documents = list(_read_file(path, path.name, skipped))
    if not documents:
        raise UserError(f"{path} is empty", fix="give a file with text")
    yield from documents


def _walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})", fix="change its permissions") from error

    files: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=stop):
        skipped["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    for file in sorted(files, key=Path.as_posix):
        if file.suffix.lower() in READERS:
            yield file
        else:
            skipped["of another kind"] += 1


def _read_file(path: Path, name: str, skipped: Counter[str]) -> Named:
    for part, text in READERS[path.suffix.lower()](path):
        if text.strip():
            yield name + part, text
        else:
            skipped["empty"] += 1


def _read_text(path: Path) -> Named:
    yield "", _decode(path)


def _read_jsonl(path: Path) -> Named:
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            yield f":{number}", _record_text(line, f"line {number} of {path}")


def _record_text(line: str, place: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} is not valid JSON ({getattr(error, 'msg', 'nested too deep')})",
            fix="write one JSON object on each line",
        ) from error
    if not isinstance(record, dict) or "text" not in record:
        has = f"has the fields {', '.join(record) or 'none'}" if isinstance(record, dict) else "is not an object"
        raise UserError(f'{place} has no field "text" (it {has})', fix='give each line a field "text"')
    return _string(record["text"], place)


def _read_parquet(path: Path) -> Named:
    raw = _read_bytes(path)
    pyarrow, parquet = require("pyarrow", extra="data"), require("pyarrow.parquet", extra="data")
    try:
        with parquet.ParquetFile(pyarrow.BufferReader(raw)) as file:
            columns = file.schema_arrow.names
            if "text" not in columns:
                cause = f'{path} has no column "text" (it has {", ".join(columns)})'
                raise UserError(cause, fix='name the column of text "text"')
            rows = [row for batch in file.iter_batches(columns=["text"]) for row in batch.column(0).to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable parquet file ({problem})", fix="write the file again") from error
    for number, row in enumerate(rows):
        yield f":{number}", _string("" if row is None else row, f"row {number} of {path}")


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f'"text" in {place} is not a string but {type(value).__name__}', fix="store text as a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f'"text" in {place} holds half of a surrogate pair', fix="write the character whole") from error
    return value


def _decode(path: Path) -> str:
    raw = _read_bytes(path)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16 text", fix=f"convert it: iconv -f UTF-16 -t UTF-8 {path}")
    if (at := raw.find(b"\0", 0, HEAD)) >= 0:
        raise UserError(f"{path} is binary (byte {at} is NUL)", fix="give text, or remove the file")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        cause = f"{path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x})"
        raise UserError(cause, fix=f"convert it: iconv -f LATIN1 -t UTF-8 {path}") from error


def _read_bytes(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file", fix="give a file or a folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", fix="change its permissions") from error


READERS: dict[str, Callable[[Path], Named]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
