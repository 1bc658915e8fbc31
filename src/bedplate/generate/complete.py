"""Continuing texts: a list of prompts at once, or one piece by piece."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from bedplate.errors import UserError
from bedplate.generate.engine import NOT_A_NUMBER, NOTHING_ALLOWED, Engine, Request
from bedplate.generate.prompt import beginning, prompt_ids
from bedplate.generate.sample import Sampling
from bedplate.generate.text import Generation

FIXES = {
    NOT_A_NUMBER: "check its weights, or load it with dtype=torch.float32",
    NOTHING_ALLOWED: "forbid fewer tokens",
}
SLOTS = 32  # sequences that go through the model together


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    truncate: bool = False,
    grammar: Any | None = None,
) -> list[Generation]:
    """Continue each prompt, up to `max_new_tokens`, a stop string (the text leaves it out) or the end of the context.

    Sequence i draws with `seeds[i]`, by default `seed + i`: its sample does not depend on what else is in the batch.
    A prompt as long as the context or longer is a UserError; with `truncate` its beginning is dropped to make room for
    `max_new_tokens`. An empty prompt starts a new text. `grammar`: what may be written, a `constrain.Grammar`.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is one text", fix="give a list of texts")
    seeds = [seed + row for row in range(len(prompts))] if seeds is None else seeds
    if len(seeds) != len(prompts):
        raise UserError(f"there are {len(prompts)} prompts and {len(seeds)} seeds", fix="give one seed for each prompt")
    requests = [
        _request(model, tokenizer, prompt, max_new_tokens, sampling, stop, own, truncate, grammar)
        for prompt, own in zip(prompts, seeds, strict=True)
    ]
    if not requests:
        return []
    engine = _engine(model, tokenizer, requests)
    numbers = [engine.submit(request) for request in requests]
    results = {}
    while engine.busy:
        for update in engine.step():
            if update.error:
                raise UserError(update.error, fix=FIXES[update.error])
            if update.generation:
                results[update.number] = update.generation
    return [results[number] for number in numbers]


def stream(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    truncate: bool = False,
    grammar: Any | None = None,
) -> Iterator[str]:
    """Continue one prompt, piece by piece; the pieces add up to the text that `generate` returns.

    What cannot be released yet is held back: a character whose bytes are not complete, what may begin a stop string.
    """
    request = _request(model, tokenizer, prompt, max_new_tokens, sampling, stop, seed, truncate, grammar)
    engine = _engine(model, tokenizer, [request])
    engine.submit(request)
    return _pieces(engine)


def _pieces(engine: Engine) -> Iterator[str]:
    while engine.busy:
        for update in engine.step():
            if update.error:
                raise UserError(update.error, fix=FIXES[update.error])
            if update.text:
                yield update.text


def _request(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling | None,
    stop: str | Sequence[str],
    seed: int,
    truncate: bool,
    grammar: Any | None,
) -> Request:
    keep = model.config.context_length - max_new_tokens
    ids = prompt_ids(model, tokenizer, prompt, keep=keep, truncate=truncate)
    stops = [stop] if isinstance(stop, str) else stop
    return Request(
        prompt=ids, max_new_tokens=max_new_tokens, sampling=sampling or Sampling(), seed=seed, stop=stops,
        constraint=grammar.start() if grammar else None,
    )  # fmt: skip


def _engine(model: Any, tokenizer: Any, requests: Sequence[Request]) -> Engine:
    """An engine just large enough."""
    longest = max(len(beginning(model, request.prompt)) + request.max_new_tokens for request in requests)
    capacity = min(longest, model.config.context_length)
    return Engine(model, tokenizer, slots=min(len(requests), SLOTS), capacity=capacity)
