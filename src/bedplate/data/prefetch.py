"""Batches that are made before they are asked for. Nothing about them changes, only when they are made."""

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

AHEAD = 2  # batches: one may take as long as two steps before anyone waits


@runtime_checkable
class Pure(Protocol):
    """A source whose batches depend on the step alone."""

    def batch(self, step: int) -> Mapping[str, Any]: ...


class Prefetched:
    """A pure source with a thread that makes the next batches while the current one is learned.

    Reading waits for the disk and NumPy leaves the lock, so one thread suffices, and it needs no copies between
    processes. A step that was not expected is made on the spot; what goes wrong in the thread is raised at its step.

    with Prefetched(source) as source:
        train(model, source, ...)
    """

    def __init__(self, source: Pure, *, ahead: int = AHEAD) -> None:
        if hasattr(source, "attach") or hasattr(source, "state"):
            raise TypeError("the batches of this source depend on what is trained: they cannot be made in advance")
        self.source = source
        self.ahead = ahead
        self._futures: dict[int, Future[Mapping[str, Any]]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bedplate-prefetch")
        self._process = os.getpid()

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batch(self, step: int) -> Mapping[str, Any]:
        """The batch of the source at this step; those of the next steps are then on their way."""
        if os.getpid() != self._process:  # a fork has no threads: nobody would ever make the batch
            return self.source.batch(step)
        future = self._futures.pop(step, None)
        coming = range(step + 1, step + 1 + self.ahead)
        for other in [other for other in self._futures if other not in coming]:
            self._futures.pop(other).cancel()
        for other in coming:
            if other not in self._futures:
                self._futures[other] = self._pool.submit(self.source.batch, other)
        return future.result() if future else self.source.batch(step)

    def close(self) -> None:
        """End the thread, after the batch that it is making."""
        if os.getpid() == self._process:
            self._pool.shutdown(cancel_futures=True)
            self._futures.clear()
