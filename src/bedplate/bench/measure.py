"""Side-by-side measurement: both sides in one process, taking turns, so that a busy machine slows both alike."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bedplate.train.memory import memory_peak


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a benchmark; `ratio` above 1 means that ours is better."""

    name: str
    ours: float
    peer: float
    unit: str
    higher_is_better: bool

    @property
    def ratio(self) -> float:
        """How many times better ours is."""
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours


def take_turns(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Median seconds of each side over `repeats` alternating calls, after one call each that does not count."""
    ours(), peer()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for times, side in zip(seconds, (ours, peer), strict=True):
            started = time.perf_counter()
            side()
            times.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def peak_memory(module: str, *arguments: str) -> float:
    """Most gigabytes that `python -m module arguments` holds: the whole process, as a user pays for it.

    Each side is measured in a process of its own; within one, memory that the first side freed would hide the second's.
    """
    result = subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def print_own_peak() -> None:
    """What the process measured by `peak_memory` prints last."""
    print(memory_peak())


def conditions() -> dict[str, Any]:
    """What a reader must know to compare these numbers with others."""
    packages = {}
    for name in ("torch", "transformers", "tokenizers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    load = os.getloadavg()[0]
    return {"device": device, "threads": torch.get_num_threads(), "load": round(load, 2), "versions": packages}


def table(rows: list[Row]) -> dict[str, Any]:
    """Rows and conditions as written with --json."""
    lines = [{key: value for key, value in asdict(row).items() if key != "higher_is_better"} for row in rows]
    return {"rows": [line | {"ratio": row.ratio} for line, row in zip(lines, rows, strict=True)], **conditions()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
