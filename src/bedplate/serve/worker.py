"""The one thread that owns a model's engine, and the tickets through which requests talk to it.

Whoever waits does so in the event loop; the thread never waits for anybody. What it has to say about a request is at
most `max_new_tokens` updates long, so that a slow reader holds neither the engine nor much memory.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bedplate.errors import UserError
from bedplate.generate.engine import Engine, Request, Update


class Busy(Exception):
    """The queue is full."""


@dataclass
class Ticket:
    """A request under way; its updates arrive in the event loop that asked."""

    request: Request
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Update] = field(default_factory=asyncio.Queue)
    number: int = 0  # in the engine; 0: not yet handed in
    ended: bool = False  # the engine is done with it, or it was given up


class Worker:
    """Serves one model: `slots` requests at a time, up to `queue_length` more wait."""

    def __init__(self, language_model: Any, *, slots: int, queue_length: int) -> None:
        self.language_model = language_model
        self.slots, self._most = slots, slots + queue_length
        self._engine = self._new_engine()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # by number
        self._open = 0  # tickets that have not ended; changed in the event loop only
        self.tokens = 0  # written since the start
        self._warm_up()
        self._thread = threading.Thread(target=self._work, name="bedplate engine", daemon=True)
        self._thread.start()

    def _warm_up(self) -> None:
        """Two tokens, so that no client waits for kernels to be compiled or read from the disk."""
        self._engine.submit(Request(prompt=[max(0, self.language_model.tokenizer.end_id)], max_new_tokens=2))
        while self._engine.busy:
            self._engine.step()

    @property
    def open(self) -> int:
        """Requests that run or wait."""
        return self._open

    @property
    def running(self) -> int:
        """Requests in the engine's slots."""
        return self._engine.running

    def submit(self, requests: Sequence[Request]) -> list[Ticket]:
        """Hand in requests, all or none; raises Busy when they do not fit into the queue."""
        if self._open + len(requests) > self._most:
            raise Busy
        loop = asyncio.get_running_loop()
        tickets = [Ticket(request, loop) for request in requests]
        self._open += len(tickets)
        for ticket in tickets:
            self._inbox.put(lambda ticket=ticket: self._begin(ticket))
        return tickets

    def drop(self, ticket: Ticket) -> None:
        """Give a request up; its slot is free before the next step. One that has ended stays as it is."""
        if not ticket.ended:
            self._end(ticket)
            self._inbox.put(lambda: self._cancel(ticket))

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run something beside the engine's steps, in its thread."""
        if self._open >= self._most:
            raise Busy
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            try:
                result, error = function(), None
            except Exception as caught:
                result, error = None, caught
            loop.call_soon_threadsafe(_settle, future, result, error)

        self._open += 1
        self._inbox.put(run)
        try:
            return await future
        finally:
            self._open -= 1

    def close(self) -> None:
        """End the thread after its current step."""
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                while (job := self._inbox.get(block=not self._engine.busy)) is not None:
                    job()
                return
            except queue.Empty:
                pass
            try:
                updates = self._engine.step()
            except Exception as error:  # such as no memory: what ran is lost, what comes is served
                logging.getLogger("uvicorn.error").exception("the engine failed and begins anew")
                self._engine = self._new_engine()
                reason = f"the engine failed ({type(error).__name__})"
                updates = [Update(number=number, error=reason) for number in self._tickets]
            self._tell(updates)

    def _new_engine(self) -> Engine:
        return Engine(self.language_model.model, self.language_model.tokenizer, slots=self.slots)

    def _begin(self, ticket: Ticket) -> None:
        if ticket.ended:
            return
        try:
            ticket.number = self._engine.submit(ticket.request)
        except UserError as error:
            update = Update(number=0, error=str(error))
            ticket.loop.call_soon_threadsafe(self._deliver, ticket, update)
        else:
            self._tickets[ticket.number] = ticket

    def _cancel(self, ticket: Ticket) -> None:
        self._engine.cancel(ticket.number)
        self._tickets.pop(ticket.number, None)

    def _tell(self, updates: Sequence[Update]) -> None:
        """What one step made reaches each event loop at once: choices of one reply then travel together."""
        mail: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Update]]] = {}
        for update in updates:
            ticket = self._tickets[update.number]
            if update.generation or update.error:
                del self._tickets[update.number]
            mail.setdefault(ticket.loop, []).append((ticket, update))
        self.tokens += sum(update.token is not None for update in updates)
        for loop, letters in mail.items():
            loop.call_soon_threadsafe(self._deliver_all, letters)

    def _deliver_all(self, letters: Sequence[tuple[Ticket, Update]]) -> None:
        for ticket, update in letters:
            self._deliver(ticket, update)

    def _deliver(self, ticket: Ticket, update: Update) -> None:
        if ticket.ended:
            return
        ticket.updates.put_nowait(update)
        if update.generation or update.error:
            self._end(ticket)

    def _end(self, ticket: Ticket) -> None:
        ticket.ended = True
        self._open -= 1


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # whoever asked has left
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
