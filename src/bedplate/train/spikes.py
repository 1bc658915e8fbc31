"""Losses that stand out from those just before, told from the log alone, so that a resumed run judges alike."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 50  # losses to compare with
FACTOR = 6.0  # robust standard deviations above their median


class Spikes:
    """Judges each loss by the last `WINDOW` that were no spikes."""

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        usual = [line["loss"] for line in history if "spike" not in line and "loss" in line]
        self._usual: deque[float] = deque(usual[-WINDOW:], maxlen=WINDOW)

    def judge(self, loss: float) -> dict[str, float]:
        """`{"spike": deviations}` for a loss that stands out, to be logged with its step; else nothing."""
        if len(self._usual) == WINDOW:
            median = statistics.median(self._usual)
            # 1.4826 makes the median of deviations the standard deviation of a normal distribution.
            spread = 1.4826 * statistics.median(abs(each - median) for each in self._usual)
            deviations = (loss - median) / max(spread, 1e-3 * abs(median), 1e-12)
            if deviations > FACTOR:
                return {"spike": deviations}
        self._usual.append(loss)
        return {}
