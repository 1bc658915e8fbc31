"""How kernels are compiled, kept and run: once for each processor, as many threads as torch takes, one at a time."""

import hashlib
import inspect
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numba.extending
import torch

from bedplate.files import cache_folder

try:
    import fcntl
except ImportError:  # Windows, where kernels are compiled anew in each process
    fcntl = None  # type: ignore[assignment]

if platform.machine().lower() in ("x86_64", "amd64") and not llvmlite.binding.get_host_cpu_features().get("fma"):
    raise ImportError("this processor lacks fused multiply-add, without which the kernels are slow")


def _folder() -> Path | None:
    """For compiled kernels: another one for other sources, which numba does not look at beyond a single file."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = cache_folder() / "kernels" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if fcntl is not None and os.access(folder, os.W_OK) else None


config: Any = numba.config
intrinsic: Callable[..., Any] = numba.extending.intrinsic  # an operation in LLVM's own terms
FOLDER = _folder()
_lock = threading.Lock()  # not every thread pool of numba's takes work from two threads at once
_threads = threading.local()
_run_before: set[object] = set()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is called from Python. The tests' checks of shapes wrap functions, of which numba takes the inside.

    Loops are not fused: that one needs what another has written, at an address, numba cannot see.
    """
    options: Any = {"parallel": {"fusion": False}, "nogil": True, "cache": FOLDER is not None, "error_model": "numpy"}
    before = config.CACHE_DIR
    config.CACHE_DIR = str(FOLDER or before)
    try:
        compiler: Any = numba.njit(**options)
        return compiler(inspect.unwrap(function))
    finally:
        config.CACHE_DIR = before


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """What kernels consist of."""
    return numba.njit(forceinline=True, error_model="numpy")(inspect.unwrap(function))


def called(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part large enough to be compiled once and called."""
    return numba.njit(error_model="numpy")(inspect.unwrap(function))


def run(function: Callable[..., Any], form: object, *arguments: Any) -> None:
    """Run a kernel while no other one runs; `form` tells the types of its arguments apart."""
    with _lock:
        threads = torch.get_num_threads()
        count = min(threads, config.NUMBA_NUM_THREADS)
        if getattr(_threads, "count", None) != count:
            numba.set_num_threads(count)
            _threads.count = count
        if (function, form) in _run_before:
            function(*arguments)
            return
        with _alone_on_this_machine():
            function(*arguments)
        _run_before.add((function, form))
        if torch.get_num_threads() != threads:  # numba's pool, when it begins, sets the number for torch, too
            torch.set_num_threads(threads)


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """While a kernel is compiled and kept, or read: two processes that do so at once could mix up their files."""
    if FOLDER is None or fcntl is None:
        yield
        return
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
