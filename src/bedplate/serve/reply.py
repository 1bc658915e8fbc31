"""Answering over HTTP: whole, or as a stream of server-sent events; a client that leaves gives its slots back."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from bedplate.generate.chat import ChatTemplate
from bedplate.generate.engine import Update
from bedplate.serve.texts import Job, Limits, begin, check, completion_logprobs_of, echo, late, whole_reply
from bedplate.serve.wire import FINISH, ApiError, Asked, ChatRequest, Offsets, chat_logprobs, head, printable
from bedplate.serve.worker import Ticket, Worker


async def answer(asked: Asked, worker: Worker, template: ChatTemplate, limits: Limits, http: HttpRequest) -> Response:
    """Run a request and reply; a client that leaves gives its slots back."""
    job = begin(asked, worker, template, limits)
    if asked.stream:
        return StreamingResponse(_events(job), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    gone = asyncio.create_task(_disconnected(http))
    whole = asyncio.create_task(whole_reply(job))
    try:
        await asyncio.wait({gone, whole}, return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            return JSONResponse(whole.result())
        return Response(status_code=499)  # nobody reads it
    finally:
        gone.cancel()
        whole.cancel()
        job.drop()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(job: Job) -> AsyncIterator[str]:
    """Server-sent events of all choices, in the order in which they come."""
    common = head("chat.completion.chunk" if job.chat else "text_completion", job.asked.model, chat=job.chat)
    common["truncated"] = job.truncated
    options = job.asked.stream_options
    with_usage = bool(options and options.include_usage)
    common |= {"usage": None} if with_usage else {}
    written, offsets = 0, [Offsets() for _ in job.tickets]
    try:
        async with asyncio.timeout(job.limits.seconds):
            firsts = [_first(job, index) for index in range(len(job.tickets))]
            if begin := _chunks(common, firsts):
                yield begin
            async for news in _merged(job.tickets):
                written += sum(update.token is not None for _, update in news)
                if chunks := _chunks(common, [_chunk(job, *each, offsets[each[0]]) for each in news]):
                    yield chunks
        if with_usage:
            yield _event(common | {"choices": [], "usage": job.usage(written)})
        yield "data: [DONE]\n\n"
    except TimeoutError:
        yield _event(ApiError(408, late(job), kind="timeout_error").body)
    except ApiError as error:
        yield _event(error.body)
    finally:
        job.drop()


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _chunks(common: Mapping[str, Any], choices: Sequence[dict[str, Any] | None]) -> str:
    """An event for each choice that has something to say; they are sent at once, as a step makes them at once."""
    return "".join(_event({**common, "choices": [choice]}) for choice in choices if choice)


async def _merged(tickets: Sequence[Ticket]) -> AsyncIterator[list[tuple[int, Update]]]:
    """The updates of several tickets, as they come: one for each that has news."""
    waiting = {asyncio.ensure_future(ticket.updates.get()): index for index, ticket in enumerate(tickets)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            news = [(waiting.pop(each), each.result()) for each in done]
            for _, update in news:
                check(update)
            yield news
            for index, update in news:
                if not update.generation:
                    waiting[asyncio.ensure_future(tickets[index].updates.get())] = index
    finally:
        for each in waiting:
            each.cancel()


def _first(job: Job, index: int) -> dict[str, Any] | None:
    """What a stream begins with: the role of a chat, the echo of a completion."""
    if job.chat:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    text = echo(job, index)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None} if text else None


def _chunk(job: Job, index: int, update: Update, offsets: Offsets) -> dict[str, Any] | None:
    finish = FINISH[update.generation.finish_reason] if update.generation else None
    tokens = [update.token] if update.token else []
    choice: dict[str, Any] = {"index": index, "finish_reason": finish}
    if isinstance(job.asked, ChatRequest):
        logprobs = chat_logprobs(tokens, job.tokenizer) if job.asked.logprobs else None
        delta = {"content": printable(update.text)} if update.text else {}
        choice |= {"delta": delta, "logprobs": logprobs}
    else:
        logprobs = completion_logprobs_of(job, tokens, offsets)
        choice |= {"text": update.text, "logprobs": logprobs}
    return choice if update.text or finish or logprobs else None
