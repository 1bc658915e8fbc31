"""A client of the load test: one connection at a time, and answers held against the known ones."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from load_cases import CHAT, Case, Choice


class Wrong(Exception):
    """An answer that is not what it must be."""


@dataclass
class Tally:
    """What the clients saw."""

    replies: Counter[tuple[str, int]] = field(default_factory=Counter)  # by kind and status
    seconds: list[float] = field(default_factory=list)  # of each whole answer
    tokens: int = 0  # in whole answers
    unseen: int = 0  # requests whose client did not wait for a status
    ids: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def once(self, id: str) -> None:
        """Note an answer; the same one must not come again."""
        if id in self.ids:
            raise Wrong(f"the answer {id} came twice")
        self.ids.add(id)


class Connection:
    """Just enough of HTTP/1.1, by hand: a client library would neither send half a body nor see surplus bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.headers: dict[str, str] = {}

    async def ask(self, path: str, body: bytes, *, pieces: int = 1, sent: int | None = None) -> None:
        """Send a request, in pieces with pauses between them, or only its first `sent` bytes."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        whole = whole[:sent]
        size = -(-len(whole) // pieces)
        for start in range(0, len(whole), size):
            self.writer.write(whole[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(0.05 if pieces > 1 else 0)

    async def status(self) -> int:
        """Read the head of the reply."""
        assert self.reader
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; what follows it would be taken for the next reply, and be wrong as such."""
        assert self.reader
        if "content-length" in self.headers:
            yield await self.reader.readexactly(int(self.headers["content-length"]))
        elif self.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        if self.headers.get("connection") == "close":
            self.leave()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    def leave(self) -> None:
        """Close it; the next request opens it anew."""
        if self.writer:
            self.writer.close()
        self.writer = None


async def whole_answer(connection: Connection, case: Case, tally: Tally) -> None:
    """Read the answer and hold it against the known one."""
    reply = json.loads(await connection.body())
    tally.once(reply["id"])
    got = tuple(
        Choice(
            each["message"]["content"] if case.path == CHAT else each["text"], each["finish_reason"], each["logprobs"]
        )
        for each in reply["choices"]
    )
    _compare(got, case)
    if reply["usage"]["completion_tokens"] != case.tokens or reply["truncated"]:
        raise Wrong(f"usage {reply['usage']} of {case.tokens} tokens")


async def streamed_answer(connection: Connection, case: Case, tally: Tally, *, events: int | None = None) -> None:
    """Put a stream together and hold it against the known answer; with `events` leave after so many."""
    texts, ends, logprobs = ([[] for _ in case.choices] for _ in range(3))
    id, done, usage = "", False, {"completion_tokens": 0}
    async for event in _events(connection):
        if done:
            raise Wrong("something follows the end of a stream")
        done = event == "[DONE]"
        if done:
            continue
        chunk = json.loads(event)
        if "error" in chunk:
            raise Wrong(f"a stream ends with {chunk['error']}")
        id, usage = chunk["id"], chunk["usage"] or usage
        for each in chunk["choices"]:
            index = each["index"]
            texts[index].append(each["delta"].get("content", "") if case.path == CHAT else each["text"])
            ends[index] += [each["finish_reason"]] if each["finish_reason"] else []
            logprobs[index] += [each["logprobs"]] if each["logprobs"] else []
        if events is not None and (events := events - 1) <= 0:
            connection.leave()
            break
    if events is not None:
        if not all(choice.text.startswith("".join(text)) for choice, text in zip(case.choices, texts, strict=True)):
            raise Wrong("the beginning of a stream differs")
        return
    tally.once(id)
    if not done or any(len(each) != 1 for each in ends) or usage["completion_tokens"] != case.tokens:
        raise Wrong(f"a stream ended {ends}, done: {done}, usage {usage} of {case.tokens} tokens")
    each_choice = zip(texts, ends, logprobs, strict=True)
    _compare(tuple(Choice("".join(text), end[0], _joined(parts)) for text, end, parts in each_choice), case)


async def _events(connection: Connection) -> AsyncIterator[str]:
    left = ""
    async for piece in connection.pieces():
        *events, left = (left + piece.decode()).split("\n\n")
        for event in events:
            if not event.startswith("data: "):
                raise Wrong(f"no event: {event!r}")
            yield event.removeprefix("data: ")


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Log-probabilities of a stream's pieces, as a whole answer gives them."""
    if not parts:
        return None
    return {key: sum((part[key] for part in parts), []) if first else first for key, first in parts[0].items()}


def _compare(got: tuple[Choice, ...], case: Case) -> None:
    for index, (ours, known) in enumerate(itertools.zip_longest(got, case.choices)):
        if ours != known:
            differences = [
                f"{name} is {getattr(ours, name, None)}, not {getattr(known, name, None)}"
                for name in ("text", "finish", "logprobs")
                if getattr(ours, name, None) != getattr(known, name, None)
            ]
            raise Wrong(f"choice {index} of {json.dumps(case.body)}: {'; '.join(differences)}")
