"""Completions and chat: from a checked request to a job, and to the reply as a whole."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError
from bedplate.generate.chat import PLAIN_STOPS, ChatTemplate
from bedplate.generate.engine import Request, Token, Update
from bedplate.generate.prompt import fit
from bedplate.generate.text import Generation
from bedplate.serve.wire import (
    FINISH,
    ApiError,
    Asked,
    ChatRequest,
    CompletionRequest,
    Offsets,
    chat_logprobs,
    completion_logprobs,
    head,
    printable,
    usage,
)
from bedplate.serve.worker import Busy, Ticket, Worker


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_tokens: int = 4096
    seconds: float = 600.0


@dataclass
class Job:
    """The choices of one request, under way."""

    asked: Asked
    worker: Worker
    limits: Limits
    prompts: list[list[int]]
    texts: list[str]  # of the prompts, for echo
    truncated: bool
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def chat(self) -> bool:
        """Whether it is a chat."""
        return isinstance(self.asked, ChatRequest)

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.worker.language_model.tokenizer

    def drop(self) -> None:
        """Give up what has not ended."""
        for ticket in self.tickets:
            self.worker.drop(ticket)

    def usage(self, written: int) -> dict[str, int]:
        """Each prompt counts once, however many choices it has."""
        return usage(sum(map(len, self.prompts)), written)


def begin(asked: Asked, worker: Worker, template: ChatTemplate, limits: Limits) -> Job:
    """Check what depends on the model, and hand the choices to the engine."""
    model, tokenizer = worker.language_model.model, worker.language_model.tokenizer
    stops, constraint = asked.stops(), None
    if isinstance(asked, ChatRequest):
        messages = [{"role": each.role, "content": each.text} for each in asked.messages]
        prompts: list[Any] = [template.render(messages)]
        stops += PLAIN_STOPS if template.plain else ()
        constraint = grammar_of(asked, tokenizer)
        top = (asked.top_logprobs or 0) if asked.logprobs else 0
    else:
        assert isinstance(asked, CompletionRequest)
        prompts, top = _several(asked.prompt), asked.logprobs or 0
        if asked.echo and asked.logprobs is not None:
            raise ApiError(400, "echo does not go with logprobs: leave one of them out", param="echo")
    ids = [tokenizer.encode(each) or [end_mark(tokenizer)] if isinstance(each, str) else each for each in prompts]
    fitted = []
    for prompt in ids:
        room = model.config.context_length - len(prompt)
        new = _new_tokens(asked, limits, room)
        fitted.append(fit(model, prompt, keep=model.config.context_length - new, truncate=asked.truncate))
    truncated = any(len(short) < len(long) for short, long in zip(fitted, ids, strict=True))
    requests = [
        Request(
            prompt=prompt,
            max_new_tokens=_new_tokens(asked, limits, model.config.context_length - len(prompt)),
            sampling=asked.sampling(),
            seed=seed,
            stop=stops,
            top_logprobs=top,
            constraint=constraint.start() if constraint else None,
        )
        for prompt in fitted
        for seed in asked.seeds()
    ]
    texts = [each if isinstance(each, str) else tokenizer.decode(each) for each in prompts]
    job = Job(asked, worker, limits, fitted, texts, truncated)
    try:
        job.tickets = worker.submit(requests)
    except Busy:
        cause = "the queue of this server is full: try again soon"
        raise ApiError(429, cause, kind="rate_limit_error", code="queue_full", headers={"Retry-After": "1"}) from None
    return job


def grammar_of(asked: ChatRequest, tokenizer: Any) -> Any:
    """What `response_format` allows; None: anything."""
    form = asked.response_format
    if form is None or form.type == "text":
        return None
    from bedplate.generate.constrain import Grammar

    schema: Any = {"type": "object"}
    if form.type == "json_schema":
        schema = (form.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise ApiError(
                400, "response_format.json_schema.schema is missing: give a JSON Schema", param="response_format"
            )
    return Grammar.from_schema(schema, tokenizer)


def _several(prompt: Any) -> list[Any]:
    """OpenAI's four forms of a prompt as a list of texts or of ids."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    if not prompt:
        raise ApiError(400, "the prompt is empty: give a text or token ids", param="prompt")
    return list(prompt)


def _new_tokens(asked: Asked, limits: Limits, room: int) -> int:
    """How many tokens a choice may have; more than the server allows is an error, never a silent cut."""
    if isinstance(asked, ChatRequest):
        wanted, name = asked.max_completion_tokens or asked.max_tokens, "max_completion_tokens"
    else:
        assert isinstance(asked, CompletionRequest)
        wanted, name = asked.max_tokens or 16, "max_tokens"
    if wanted is None:
        return max(1, min(limits.max_tokens, room))
    if wanted > limits.max_tokens:
        raise ApiError(400, f"{name} is {wanted}: this server allows up to {limits.max_tokens}", param=name)
    return wanted


async def _finish(job: Job, ticket: Ticket) -> tuple[Generation, list[Token]]:
    tokens: list[Token] = []
    while True:
        update = await ticket.updates.get()
        check(update)
        tokens += [update.token] if update.token else []
        if update.generation:
            return update.generation, tokens


def check(update: Update) -> None:
    """A request that died in the engine is told why."""
    if update.error:
        raise ApiError(422, f"{update.error}: change the request, or see to the model", kind="model_error")


async def whole_reply(job: Job) -> dict[str, Any]:
    """The reply to a request that is not streamed."""
    try:
        async with asyncio.timeout(job.limits.seconds):
            done = [await _finish(job, ticket) for ticket in job.tickets]
    except TimeoutError:
        raise ApiError(408, late(job), kind="timeout_error") from None
    kind = "chat.completion" if job.chat else "text_completion"
    choices = [_choice(job, index, *each) for index, each in enumerate(done)]
    written = sum(len(generation.ids) for generation, _ in done)
    reply = head(kind, job.asked.model, chat=job.chat)
    return reply | {"choices": choices, "usage": job.usage(written), "truncated": job.truncated}


def late(job: Job) -> str:
    """What a request that took too long is told."""
    return f"the request took longer than {job.limits.seconds:g} s: ask for fewer tokens"


def _choice(job: Job, index: int, generation: Generation, tokens: Sequence[Token]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": FINISH[generation.finish_reason]}
    if isinstance(job.asked, ChatRequest):
        message = {"role": "assistant", "content": printable(generation.text), "refusal": None}
        logprobs = chat_logprobs(tokens, job.tokenizer) if job.asked.logprobs else None
        return choice | {"message": message, "logprobs": logprobs}
    return choice | {
        "text": echo(job, index) + generation.text,
        "logprobs": completion_logprobs_of(job, tokens, Offsets()),
    }


def echo(job: Job, index: int) -> str:
    """The prompt of a choice, where it is to be repeated."""
    asked = job.asked
    return job.texts[index // (asked.n or 1)] if isinstance(asked, CompletionRequest) and asked.echo else ""


def completion_logprobs_of(job: Job, tokens: Sequence[Token], offsets: Offsets) -> dict[str, Any] | None:
    """Log-probabilities of a completion, where they were asked for."""
    asked = job.asked
    wanted = isinstance(asked, CompletionRequest) and asked.logprobs is not None
    return completion_logprobs(tokens, job.tokenizer, offsets) if wanted else None


def user_error(error: UserError) -> ApiError:
    """A mistake that the library names, as an answer."""
    return ApiError(400, f"{error.cause}: {error.fix}" if error.fix else error.cause)
