"""How kernels are compiled, kept and run: once for each processor, as many threads as torch takes, one at a time."""

import hashlib
import inspect
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.extending
import torch

from bedplate.files import cache_folder


def _folder() -> str:
    """For compiled kernels: another one for other sources, which numba does not look at beyond a single file."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = cache_folder() / "kernels" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="bedplate-kernels-")


config: Any = numba.config
config.CACHE_DIR = _folder()
intrinsic: Callable[..., Any] = numba.extending.intrinsic  # an operation in LLVM's own terms


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is called from Python. The tests' checks of shapes wrap functions, of which numba takes the inside."""
    return numba.njit(parallel=True, nogil=True, cache=True)(inspect.unwrap(function))


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """What kernels consist of."""
    return numba.njit(forceinline=True)(inspect.unwrap(function))


def called(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part large enough to be compiled once and called."""
    return numba.njit(inspect.unwrap(function))


class Alone:
    """A context in which a kernel runs."""

    _lock = threading.Lock()  # not every thread pool of numba's takes work from two threads at once
    _threads = threading.local()

    def __enter__(self) -> None:
        self._lock.acquire()
        count = min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)
        if getattr(self._threads, "count", None) != count:
            numba.set_num_threads(count)
            self._threads.count = count

    def __exit__(self, *_: object) -> None:
        self._lock.release()


alone = Alone()
