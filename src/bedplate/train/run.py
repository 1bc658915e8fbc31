"""The run folder: what was asked (`run.json`), what happened (`metrics.jsonl`), where it stands (`checkpoints/`)."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import bedplate
from bedplate.errors import UserError
from bedplate.files import read_json_object, write_json

RECORD, METRICS = "run.json", "metrics.jsonl"


def start_run(folder: Path, record: dict[str, Any]) -> None:
    """Create a run folder; one that already holds a run is an error."""
    if (folder / RECORD).exists():
        raise UserError(
            f"{folder} already holds a run", fix=f"bedplate train --resume {folder}, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record | {"environment": environment()})
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror})", fix="choose another folder with --out"
        ) from error


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a run."""
    if not (folder / RECORD).exists():
        raise UserError(f"{folder} is not a run folder (no {RECORD})", fix="name a folder that bedplate train made")
    return read_json_object(folder / RECORD)


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "bedplate": bedplate.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "git": _git_state(),
    }


def rewind_metrics(folder: Path, step: int) -> None:
    """Drop what was logged after `step` updates: a resumed run writes those lines again."""
    lines = [json.dumps(line) for line in read_metrics(folder) if line["step"] <= step]
    path = folder / METRICS
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in lines))
    temporary.replace(path)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of the log; a last line cut by a kill is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def log_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Append one line, in one write, so that readers and kills see whole lines."""
    descriptor = os.open(folder / METRICS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (json.dumps(metrics) + "\n").encode())
    finally:
        os.close(descriptor)


def _git_state() -> str | None:
    """The commit of the working directory, with a mark when files differ from it; None outside a repository."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
