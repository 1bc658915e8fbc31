"""Losses that stand out from those just before, told from the log alone, so that a resumed run judges alike."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 50  # losses to compare with
FACTOR = 6.0  # robust standard deviations above their median
PATIENCE = 10  # spikes in a row are no spikes, but a new level


class Spikes:
    """Judges each loss by the last `WINDOW` that were no spikes."""

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        self._usual: deque[float] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        for line in history:
            if "loss" in line:
                self._remember(line["loss"], spike="spike" in line)

    def judge(self, loss: float) -> dict[str, float]:
        """`{"spike": deviations}` for a loss that stands out, to be logged with its step; else nothing."""
        found: dict[str, float] = {}
        if len(self._usual) == WINDOW:
            median = statistics.median(self._usual)
            # 1.4826 makes the median of deviations the standard deviation of a normal distribution.
            spread = 1.4826 * statistics.median(abs(each - median) for each in self._usual)
            deviations = (loss - median) / max(spread, 1e-3 * abs(median), 1e-12)
            if deviations > FACTOR:
                found = {"spike": deviations}
        self._remember(loss, spike=bool(found))
        return found

    def _remember(self, loss: float, *, spike: bool) -> None:
        self._in_a_row = self._in_a_row + 1 if spike else 0
        if self._in_a_row == PATIENCE:
            self._usual.clear()
        elif not spike:
            self._usual.append(loss)
