"""Power laws of loss (Kaplan et al. 2020, arXiv 2001.08361; Brown et al. 2020, figure 3.1), with intervals and a test.

    loss = floor + factor * x^-exponent

of compute, parameters or tokens x. GPT-3's law has no floor. Fitted by least squares on logarithms; a floor is searched
for between 0 and the lowest loss. Intervals come from drawing again by how much runs differ from the law (bootstrap); a
law is tested by leaving the largest runs out and predicting them.
"""

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bedplate.errors import UserError

DRAWS = 1000  # of the bootstrap
FLOORS = 200  # that are tried, each time in a narrower range
Runs = Sequence[tuple[float, float]]  # x and loss of each run


@dataclass(frozen=True, kw_only=True)
class Law:
    """loss = floor + factor * x^-exponent."""

    factor: float
    exponent: float
    floor: float = 0.0
    fit: float = math.nan  # R^2 of the logarithms

    def at(self, x: float) -> float:
        """The loss that the law predicts."""
        return self.floor + self.factor * x**-self.exponent

    def __str__(self) -> str:
        floor = f"{self.floor:.4g} + " if self.floor else ""
        return f"{floor}{self.factor:.4g} * x^{-self.exponent:.4g}"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a law of the smaller runs says of a larger one."""

    x: float
    loss: float  # mean of the runs that were left out
    predicted: float
    low: float  # 95 % interval of the prediction
    high: float


def fit(runs: Runs, *, with_floor: bool = False) -> Law:
    """The law of these runs. Raises UserError for fewer different x than the law has numbers."""
    needed = 3 if with_floor else 2
    if len({x for x, _ in runs}) < needed:
        raise UserError(f"a law needs runs of {needed} different sizes", fix="give more runs")
    if not with_floor:
        return _line(runs, 0.0)
    low, high = 0.0, min(loss for _, loss in runs) * (1 - 1e-9)
    for _ in range(3):  # each time around the best of the last
        floors = [low + (high - low) * step / FLOORS for step in range(FLOORS)]
        best = max(range(FLOORS), key=lambda place: _line(runs, floors[place]).fit)
        low, high = floors[max(0, best - 1)], floors[min(FLOORS - 1, best + 1)]
    return _line(runs, floors[best])


def interval(runs: Runs, *, with_floor: bool = False, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of the law's numbers, by drawing what runs differ from the law again and again."""
    laws = _drawn(runs, with_floor=with_floor, seed=seed)
    return {name: _middle([getattr(law, name) for law in laws]) for name in ("factor", "exponent", "floor")}


def hold_out(runs: Runs, count: int, *, with_floor: bool = False, seed: int = 0) -> list[Prediction]:
    """The `count` largest sizes as predicted from all smaller ones. The interval has two parts: how the law varies when
    its runs are drawn again, and how far single runs lie from it.
    """
    sizes = sorted({x for x, _ in runs})
    small = [run for run in runs if run[0] in sizes[:-count]]
    law = fit(small, with_floor=with_floor)
    laws = _drawn(small, with_floor=with_floor, seed=seed)
    chance = random.Random(seed)
    rest = [math.log(loss / law.at(x)) for x, loss in small]
    found = []
    for size in sizes[-count:]:
        losses = [loss for x, loss in runs if x == size]
        low, high = _middle([each.at(size) * math.exp(chance.choice(rest)) for each in laws])
        mean = sum(losses) / len(losses)
        found.append(Prediction(x=size, loss=mean, predicted=law.at(size), low=low, high=high))
    return found


def read_runs(path: Path, *, x: str, loss: str) -> list[tuple[float, float]]:
    """Two columns of a CSV file with a header. Raises UserError with the line of what is no number above 0."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason})", fix="name a CSV file with a header") from error
    for name in (x, loss):
        if not rows or name not in rows[0]:
            has = f"its columns are: {', '.join(rows[0])}" if rows else "write a header and rows"
            raise UserError(f"{path} has no column {name!r}", fix=has)
    runs = []
    for number, row in enumerate(rows, start=2):
        try:
            runs.append((float(row[x]), float(row[loss])))
            good = all(value > 0 and math.isfinite(value) for value in runs[-1])
        except (TypeError, ValueError):
            good = False
        if not good:
            raise UserError(f"{path}, line {number}: {x} and {loss} are not numbers above 0", fix="correct them")
    return runs


def _line(runs: Runs, floor: float) -> Law:
    """Least squares of log(loss - floor) on log x."""
    x, y = (
        np.log([value for value in column]) for column in zip(*((x, loss - floor) for x, loss in runs), strict=True)
    )
    slope, start = np.polyfit(x, y, 1)
    rest, spread = y - (start + slope * x), y - y.mean()
    fit = 1 - float(rest @ rest) / max(float(spread @ spread), 1e-300)
    return Law(factor=math.exp(start), exponent=-float(slope), floor=floor, fit=fit)


def _drawn(runs: Runs, *, with_floor: bool, seed: int) -> list[Law]:
    """Laws of residuals drawn again: with one run a size, drawing runs would draw nothing new."""
    law, chance = fit(runs, with_floor=with_floor), random.Random(seed)
    rest = [math.log(loss / law.at(x)) for x, loss in runs]
    wider = math.sqrt(len(runs) / max(1, len(runs) - (3 if with_floor else 2)))  # what fitting took out of them
    draws = DRAWS // 10 if with_floor else DRAWS
    return [
        fit([(x, law.at(x) * math.exp(wider * chance.choice(rest))) for x, _ in runs], with_floor=with_floor)
        for _ in range(draws)
    ]


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """What 95 % of the values lie between."""
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[min(len(ordered) - 1, int(0.975 * len(ordered)))]
