"""Side-by-side measurement: both sides in one process, taking turns, so that a busy machine slows both alike."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    peer: float | None  # None: there is nothing to compare with
    unit: str
    higher_is_better: bool

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours

    def line(self) -> dict[str, Any]:
        """The row as it is printed and written."""
        return {"name": self.name, "ours": self.ours, "peer": self.peer, "unit": self.unit, "ratio": self.ratio}


def take_turns(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int) -> tuple[float, float]:
    """Median seconds of each side over `repeats` alternating calls, after one call each that does not count."""
    ours(), peer()
    turns = [(seconds_once(ours), seconds_once(peer)) for _ in range(repeats)]
    return statistics.median(turn[0] for turn in turns), statistics.median(turn[1] for turn in turns)


def seconds_of(side: Callable[[], object], *, repeats: int) -> float:
    """Median seconds of `repeats` calls, after one that does not count."""
    side()
    return statistics.median(seconds_once(side) for _ in range(repeats))


def seconds_once(side: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


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


def table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows and conditions as written with --json."""
    return {"rows": list(rows), **conditions()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
