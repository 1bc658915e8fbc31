"""The run folder: what was asked (`run.json`), what happened (`metrics.jsonl`), where it stands (`checkpoints/`).

Nothing here needs torch until a run begins, so that runs can be listed and compared at once.
"""

import errno
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bedplate
from bedplate.errors import UserError
from bedplate.files import read_json_object, write_json, write_text

RECORD, METRICS, PROCESS = "run.json", "metrics.jsonl", "process.json"
RECORD_KEYS = {"recipe": str, "settings": dict, "data": dict, "environment": dict}


@contextmanager
def new_run(folder: Path, record: dict[str, Any]) -> Iterator[None]:
    """Create a run folder: what the block writes comes first and `run.json` last, so that no run is half begun.

    Raises UserError when the folder holds a run already or cannot be written.
    """
    check_no_run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        write_json(folder / RECORD, record | {"environment": environment()})
    except OSError as error:
        cause = f"cannot write to {folder} ({error.strerror})"
        raise UserError(cause, fix="choose another folder with --out") from error


def check_no_run(folder: Path) -> None:
    """A folder that holds a run takes no other."""
    if (folder / RECORD).exists():
        fix = f"bedplate train --resume {folder}, or choose another --out"
        raise UserError(f"{folder} already holds a run", fix=fix)


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a run."""
    if not (folder / RECORD).exists():
        raise UserError(f"{folder} is not a run folder (no {RECORD})", fix="name a folder that bedplate train made")
    record = read_json_object(folder / RECORD)
    for key, kind in RECORD_KEYS.items():
        if not isinstance(record.get(key), kind):
            raise UserError(f"{folder / RECORD} is damaged (no {key!r})", fix="restore the file, or train again")
    return record


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    import torch

    return {
        "bedplate": bedplate.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "git": _git_state(),
    }


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run while it is trained: no other process trains it, and `bedplate runs` can tell that one does.

    The system releases the lock on `process.json` however the process ends; what went wrong is noted there where it can
    be. Raises UserError when another process holds the run.
    """
    try:
        descriptor = os.open(folder / PROCESS, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})", fix="check its permissions") from error
    try:
        _lock(descriptor, folder)
        about = {"pid": os.getpid(), "host": platform.node()}
        _rewrite(descriptor, about)
        try:
            yield
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            _rewrite(descriptor, about | {"failed": reason.strip().splitlines()[0][:500]})
            raise
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process trains this run right now."""
    import fcntl

    try:
        descriptor = os.open(folder / PROCESS, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def rewind_metrics(folder: Path, step: int) -> None:
    """Drop what was logged after `step` updates, readable or not: a resumed run writes those lines again."""
    kept: list[dict[str, Any]] = []
    lines = _logged(folder)
    while (kept[-1]["step"] if kept else 0) < step and (line := next(lines, None)) and line["step"] <= step:
        kept.append(line)
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))


def log_is_gone(folder: Path) -> bool:
    """Whether a run has come somewhere and lacks its log."""
    return not (folder / METRICS).exists() and any((folder / "checkpoints").glob("step-*"))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of the log; a last line cut by a kill is left out."""
    return list(_logged(folder))


def _logged(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / METRICS
    lines = path.read_text("utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, start=1):
        yield _parsed(line, f"line {number} of {path}")


def log_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Append one line, in one write, so that readers and kills see whole lines. Raises OSError on a full disk."""
    line = (json.dumps(metrics) + "\n").encode()
    descriptor = os.open(folder / METRICS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):  # half a line would spoil the next one
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / METRICS))
    finally:
        os.close(descriptor)


def sync_metrics(folder: Path) -> None:
    """Have the log on the disk before a checkpoint that follows from it."""
    descriptor = os.open(folder / METRICS, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    import fcntl  # not everywhere that a model can be used can it be trained

    for patience in range(20):  # whoever lists runs holds the lock for an instant, too
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05 * (patience > 0))
        except OSError:  # a file system without locks
            return
    try:
        holder = json.loads(os.pread(descriptor, 10_000, 0))
        who = f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    raise UserError(f"{folder} is being trained by {who}", fix="wait for it to end, or stop it")


def _rewrite(descriptor: int, about: dict[str, Any]) -> None:
    """In place: a new file would not be the one that is locked."""
    with suppress(OSError):  # a full disk; the lock holds without
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(about) + "\n").encode(), 0)


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        metrics = json.loads(line)
        return metrics | {"step": int(metrics["step"])}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{place} is damaged", fix="remove the line") from error


def _git_state() -> str | None:
    """The commit of the working directory, with a mark when files differ from it; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
