"""Files that are whole or absent: JSON with clear errors, hashes, and folders that appear all at once."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from bedplate.errors import UserError


def cache_folder() -> Path:
    """Where what can be made again is kept: $BEDPLATE_CACHE, or ~/.cache/bedplate."""
    return Path(os.environ.get("BEDPLATE_CACHE") or "~/.cache/bedplate").expanduser()


def read_json(path: Path) -> Any:
    """The content of a JSON file; a UserError names the file and the place where it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", fix="check the path, or copy the file again") from error
    except json.JSONDecodeError as error:
        cause = f"{path} is not valid JSON (line {error.lineno}: {error.msg})"
        raise UserError(cause, fix="restore the file from its source") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deep", fix="restore the file from its source") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", fix="restore the file from its source") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", fix="fix its permissions") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The same for a file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object", fix="restore the file from its source")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; a UserError names the line that holds none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason})", fix="name a file of JSON lines") from error
    if not text.strip():
        raise UserError(f"{path} is empty", fix="write one JSON object a line")
    lines = text.removesuffix("\n").split("\n")  # and nowhere else: texts may hold other line borders
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deep")
        raise UserError(f"{place} is not JSON ({reason})", fix="write one object a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{place} is no JSON object", fix="write an object with fields")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; numbers that JSON does not have become null."""
    write_text(path, json.dumps(_standard(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write atomically: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            _sync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it is synced to disk and takes `path`'s place.

    Whatever goes wrong inside, including a kill, leaves what was at `path` untouched. A new folder appears in one
    rename. One that is replaced moves aside first: a kill in that instant leaves it as `.NAME.*.old.tmp`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        for path_inside in temporary.rglob("*"):
            path_inside.chmod(0o755 if path_inside.is_dir() else 0o644)  # safetensors writes for the owner only
            _sync_path(path_inside)
        _sync_path(temporary)
        temporary.chmod(0o755)
        replaced = temporary.with_suffix(".old.tmp")
        if path.exists():
            path.replace(replaced)
        try:
            temporary.replace(path)
        except OSError:
            if replaced.exists():
                replaced.replace(path)
            raise
        _sync_path(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that others may be looking for: a kill at any moment leaves it whole or gone, never in part."""
    hidden = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    path.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _standard(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _standard(part) for name, part in value.items()}
    return [_standard(part) for part in value] if isinstance(value, (list, tuple)) else value


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
