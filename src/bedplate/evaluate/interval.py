"""Intervals around measured shares."""

import math

NORMAL_95 = 1.959963984540054  # the normal distribution has 95 % within so many deviations


def wilson(right: int, count: int, *, deviations: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): stays within 0 and 1, and is right for few answers too."""
    if not 0 <= right <= count or not count:
        raise ValueError(f"{right} of {count} is no share")
    share, square = right / count, deviations**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    width = deviations * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, min(share, middle - width)), min(1.0, max(share, middle + width))  # in spite of rounding
