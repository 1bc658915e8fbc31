"""Intervals around measured shares and means."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

NORMAL_95 = 1.959963984540054  # the normal distribution has 95 % within so many deviations


def wilson(right: int, count: int, *, deviations: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): stays within 0 and 1, and is right for few answers too."""
    if not 0 <= right <= count or not count:
        raise ValueError(f"{right} of {count} is no share")
    share, square = right / count, deviations**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    width = deviations * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, min(share, middle - width)), min(1.0, max(share, middle + width))  # in spite of rounding


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of a mean: Wilson's where all are 0 or 1, else the normal one, which wants some thirty values."""
    if set(values) <= {0, 1}:
        return wilson(round(sum(values)), len(values))
    width = NORMAL_95 * _standard_error(values)
    return mean(values) - width, mean(values) + width


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """How much larger the first mean is, and the 95 % interval of that: Newcombe's (1998, method 10) where all are 0 or
    1, else Welch's with the normal distribution.
    """
    middle = mean(first) - mean(second)
    if set(first) | set(second) <= {0, 1}:
        (low, high), (other_low, other_high) = mean_interval(first), mean_interval(second)
        below = math.hypot(mean(first) - low, other_high - mean(second))
        above = math.hypot(high - mean(first), mean(second) - other_low)
        return middle, middle - below, middle + above
    width = NORMAL_95 * math.hypot(_standard_error(first), _standard_error(second))
    return middle, middle - width, middle + width


def _standard_error(values: Sequence[float]) -> float:
    return math.inf if len(values) < 2 else stdev(values) / math.sqrt(len(values))
