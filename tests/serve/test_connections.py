"""Clients whose connections do not go as they should: too early, too much, too slow, cut off."""

import asyncio
import json
import socket
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlparse

import pytest
from tests.serve.running import running

from bedplate.serve import guard
from bedplate.serve.guard import Guard
from bedplate.serve.run import take_port

SCOPE = {"type": "http", "path": "/v1/completions", "headers": []}
HALF = {"type": "http.request", "body": b'{"mod', "more_body": True}
GONE = {"type": "http.disconnect"}


def guarded(*messages: MutableMapping[str, Any]) -> tuple[Guard, list[MutableMapping[str, Any]]]:
    """A guard that is sent these messages and then nothing, before an application that must not be reached."""

    async def application(*_: object) -> None:
        raise AssertionError("the application was reached")

    async def run() -> tuple[Guard, list[MutableMapping[str, Any]]]:
        coming, sent = list(messages), []

        async def receive() -> MutableMapping[str, Any]:
            return coming.pop(0) if coming else await asyncio.Future()

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        watch = Guard(application, keys=(), largest_body=100)
        await asyncio.wait_for(watch(dict(SCOPE), receive, send), 20)
        return watch, sent

    return asyncio.run(run())


def test_a_client_that_comes_before_the_server_is_ready_waits() -> None:
    with take_port("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=10).close()


def test_who_sends_far_too_much_before_reading_still_reads_why_it_is_refused() -> None:
    body = b" " * 8 * 2**20
    with running() as (address, _):
        url = urlparse(address)
        with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            reply = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert reply.startswith(b"HTTP/1.1 413") and b"body_too_large" in reply


def test_what_a_step_writes_for_several_choices_is_sent_at_once() -> None:
    """Many small writes cost more, and into a connection that is gone they make asyncio complain on stderr."""
    body = b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": 30, "n": 8, "stream": true}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    pieces: list[bytes] = []
    with running() as (address, _):
        url = urlparse(address)
        with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            with connection.makefile("rb") as reply:
                while reply.readline().strip():
                    pass
                while size := int(reply.readline(), 16):
                    pieces.append(reply.read(size + 2))
    events = b"".join(pieces).count(b"data: ")
    assert events > 100 and len(pieces) < events / 2


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SENDER_SECONDS", 0.05)
    monkeypatch.setattr(guard, "LINGER_SECONDS", 0.05)
    watch, (start, body, end) = guarded(HALF)
    assert start["status"] == 408 and (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["error"]["type"] == "timeout_error"
    assert not end.get("more_body") and watch.replies == {("(none)", 408): 1}


def test_a_client_that_leaves_within_its_body_gets_and_counts_nothing() -> None:
    watch, sent = guarded(HALF, GONE)
    assert not sent and not watch.replies
