"""Runs seen from outside: which there are and how they stand, and where two of them differ. Needs no torch."""

import json
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.errors import UserError
from bedplate.files import read_json_object
from bedplate.train.report import HELD_OUT, RESULT
from bedplate.train.run import METRICS, PROCESS, RECORD, is_held, log_is_gone, read_metrics, read_run
from bedplate.train.track import tracker_names

ABSENT = "(absent)"


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for every run in `folder` and below, the one that was active last first.

    `state` is one of: running (a process holds it), finished, failed (`reason` says why), stopped (by Ctrl-C or a
    kill), damaged (its record or log cannot be read). `age` counts seconds since its log or record was written.
    """
    return sorted((_describe(run) for run in _find(folder)), key=lambda row: (row["age"], row["run"]))


def resume_words(folder: Path) -> list[str]:
    """The words after `bedplate` that go on with a run, watched where it was."""
    names = tracker_names(folder)
    return ["train", "--resume", str(folder), *(["--track", ",".join(names)] if names else [])]


def _find(folder: Path) -> Iterator[Path]:
    """Folders that hold a record; what is inside a run is no run."""
    for place, inside, names in os.walk(folder):
        if RECORD in names:
            inside.clear()
            yield Path(place)
        inside[:] = sorted(name for name in inside if not name.startswith("."))


def _describe(run: Path) -> dict[str, Any]:
    age = time.time() - max(_changed(run / RECORD), _changed(run / METRICS))
    row: dict[str, Any] = {"run": str(run), "recipe": None, "state": "damaged", "reason": None, "step": None}
    row |= {"steps": None, "loss": None, "best": None, "best_step": None, "age": max(0.0, age), "resume": None}
    try:
        record = read_run(run)
        _check_log(run)
        row |= {"recipe": record["recipe"], "steps": record["settings"].get("steps")} | _log_in_short(run / METRICS)
        row["state"], row["reason"] = _state(run, row["steps"])
    except UserError as error:
        return row | {"reason": error.cause}
    if row["state"] in ("stopped", "failed"):
        row["resume"] = shlex.join(["bedplate", *resume_words(run)])
    return row


def _check_log(run: Path) -> None:
    if log_is_gone(run):
        raise UserError(f"{run / METRICS} is gone", fix="restore it; a resumed run begins a new one")


def _state(run: Path, steps: int | None) -> tuple[str, str | None]:
    """In which state a run is, and why it failed if it did."""
    if is_held(run):
        return "running", None
    if (run / RESULT).exists() and read_json_object(run / RESULT).get("step") == steps:
        return "finished", None
    try:
        reason = read_json_object(run / PROCESS).get("failed")
    except UserError:  # killed while it was written, or a run from before it existed
        reason = None
    return ("failed", reason) if reason else ("stopped", None)


def _log_in_short(path: Path) -> dict[str, Any]:
    """Last step and loss, and the best held-out measure; only the lines that hold them are parsed: logs are long."""
    wanted, last = HELD_OUT.encode(), b""
    best: tuple[float, int] = (math.inf, -1)
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # cut by a kill
                last = line
                if wanted in line:
                    measured = json.loads(line)
                    best = min(best, (measured[HELD_OUT], measured["step"]))
        end = json.loads(last) if last else {"step": 0, "loss": None}
        found = {"step": end["step"], "loss": end["loss"]}
    except FileNotFoundError:
        found = {"step": 0, "loss": None}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", fix="fix its permissions") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged", fix="remove the line that is no JSON") from error
    return found | ({"best": best[0], "best_step": best[1]} if best[1] >= 0 else {})


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def compare_runs(left: Path, right: Path) -> dict[str, Any]:
    """Every difference between two runs in settings, data, versions, losses and results; `same` when there is none.

    Logged values are compared bit for bit. Times are not compared.
    """
    folders = [path.parent if path.name == RECORD else path for path in (left, right)]
    records = [read_run(folder) for folder in folders]
    for folder in folders:
        _check_log(folder)
    logs = [read_metrics(folder) for folder in folders]
    differences = _beside("recipe", *({"recipe": record["recipe"]} for record in records))
    for part in ("settings", "data", "environment"):
        differences += _beside(part, *(_flat(record[part]) for record in records))
    differences = [row for row in differences if not _equal(row["left"], row["right"])]
    loss = _compare_losses(*logs)
    values = _beside("values", *map(_values, folders, logs))
    agree = all(_equal(row["left"], row["right"]) for row in values) and loss["first_different_step"] is None
    return {
        "left": str(folders[0]),
        "right": str(folders[1]),
        "same": agree and not differences,
        "differences": differences,
        "loss": loss,
        "values": values,
    }


def _beside(part: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every name, with its value on either side."""
    names = [*left, *(name for name in right if name not in left)]
    return [
        {"part": part, "name": name, "left": left.get(name, ABSENT), "right": right.get(name, ABSENT)} for name in names
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _compare_losses(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine, theirs = ({line["step"]: line["loss"] for line in log if "loss" in line} for log in (left, right))
    common = sorted(mine.keys() & theirs.keys())
    different = [step for step in common if not _equal(mine[step], theirs[step])]
    found: dict[str, Any] = {"common_steps": len(common), "different_steps": len(different)}
    found |= {"first_different_step": None, "left": None, "right": None, "difference": None}
    found |= {"largest_relative": None, "largest_relative_step": None}
    if different:
        first = different[0]
        found |= {"first_different_step": first, "left": mine[first], "right": theirs[first]}
        found["difference"] = abs(mine[first] - theirs[first])
        relative = {step: _relative(mine[step], theirs[step]) for step in different}
        worst = max(different, key=lambda step: relative[step])
        found |= {"largest_relative": relative[worst], "largest_relative_step": worst}
    return found


def _values(folder: Path, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a run came, and how well."""
    measured = [(line[HELD_OUT], line["step"]) for line in log if HELD_OUT in line]
    best = min(measured, default=(None, None))
    values = {
        "steps logged": len(log),
        "last loss": log[-1].get("loss") if log else None,
        "best held-out sample, bits per byte": best[0],
        "step of the best": best[1],
        "last held-out sample, bits per byte": measured[-1][0] if measured else None,
    }
    result = read_json_object(folder / RESULT) if (folder / RESULT).exists() else {}
    return values | {"all held-out text, bits per byte": result.get("bits_per_byte")}


def _relative(left: float, right: float) -> float:
    """The difference beside the larger value; infinite where one is not finite."""
    if not (math.isfinite(left) and math.isfinite(right)):
        return math.inf
    return abs(left - right) / max(abs(left), abs(right))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right
