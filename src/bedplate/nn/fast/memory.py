"""Returning freed memory to the system."""

import ctypes
import gc
import sys


def give_back() -> None:
    """Make freed pages count as free again (Linux): glibc keeps them after blocks of some megabytes are freed."""
    if sys.platform == "linux":
        gc.collect(0)
        ctypes.CDLL(None).malloc_trim(0)
