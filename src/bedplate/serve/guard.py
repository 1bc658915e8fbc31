"""What stands before the application: keys, the size of bodies, clients that neither send nor read, and counting."""

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from bedplate.serve.wire import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/health", "/ready", "/metrics", "/docs", "/openapi.json")  # need no key
READER_SECONDS = 30.0  # that a client may leave its connection full
SENDER_SECONDS = 30.0  # within which the whole body must have come
LINGER_SECONDS = 5.0  # that a refused body is still taken from the connection


class Guard:
    """ASGI middleware around the application."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, keys: Sequence[str], largest_body: int
    ) -> None:
        self._app, self._largest = app, largest_body
        self._keys = [key.encode() for key in keys]
        self.replies: Counter[tuple[str, int]] = Counter()  # by path and status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def patient_send(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                route = scope.get("route")
                self.replies[getattr(route, "path", "(none)"), message["status"]] += 1
            async with asyncio.timeout(READER_SECONDS):
                await send(message)

        try:
            self._check_key(scope)
            body = await self._body(scope, receive)
            if body is None:
                return  # the client has left
            await self._app(scope, _replayed(body, receive), patient_send)
        except ApiError as error:
            await _answer(patient_send, receive, error)
        except TimeoutError:  # the reader is too slow: the connection ends
            if not begun:
                raise

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in OPEN:
            return
        headers = dict(scope["headers"])
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # Every key is compared, and each in the same time, so that the time tells nothing.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if kind.lower() != b"bearer" or not any(matches):
            fix = "send the header 'Authorization: Bearer KEY' with one of this server's keys"
            raise ApiError(401, f"no valid API key: {fix}", kind="authentication_error", code="invalid_api_key")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, in time; None: the client has left before its end."""
        try:
            async with asyncio.timeout(SENDER_SECONDS):
                return await self._measured(scope, receive)
        except TimeoutError:
            cause = f"the body did not come within {SENDER_SECONDS:g} s: send it faster, or less"
            raise ApiError(408, cause, kind="timeout_error") from None

    async def _measured(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, which may be no larger than allowed, whatever its headers say."""
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(stated) if stated.isdigit() else 0
        parts: list[bytes] = []
        while size <= self._largest:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size = max(size, sum(map(len, parts)))
            if size > self._largest or not message.get("more_body"):
                break
        if size > self._largest:
            raise ApiError(413, f"the body is larger than {self._largest} bytes", code="body_too_large")
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, in one piece, and after it whatever comes."""
    told = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, receive: Receive, error: ApiError) -> None:
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    unread = error.status in (408, 413)
    if unread:
        headers["connection"] = "close"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": unread})
    if unread:
        await _discard(receive)
        await send({"type": "http.response.body"})


async def _discard(receive: Receive) -> None:
    """Take what else a client sends, for a while: a connection that is closed over unread bytes is reset, and then the
    client may never see its answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (message := await receive())["type"] != "http.disconnect" and message.get("more_body"):
                pass
