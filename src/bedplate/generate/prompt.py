"""Prompts: from text to ids that fit, and through the model to the state after them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError

CHUNK = 128  # prompt tokens that go through the model at a time


def reads_a_source(model: Any) -> bool:
    """Whether this is an encoder-decoder model: it reads a prompt as its source, and writes from a start token on."""
    return hasattr(model, "read_source")


def prompt_ids(model: Any, tokenizer: Any, prompt: str, *, keep: int, truncate: bool) -> list[int]:
    """The ids of a prompt, an end mark for an empty one; raises UserError when it is too long and not to be cut.

    A source ends with an end mark, as the sources that encoder-decoder models are trained on do.
    """
    if reads_a_source(model):
        ids = [*tokenizer.encode(prompt), end_mark(tokenizer)]
        return fit(model, ids, keep=model.config.context_length - 1, truncate=truncate)
    ids = tokenizer.encode(prompt) or [end_mark(tokenizer)]
    return fit(model, ids, keep=keep, truncate=truncate)


def beginning(model: Any, prompt: Sequence[int]) -> list[int]:
    """What the decoder reads before it writes."""
    return [model.config.start_id] if reads_a_source(model) else list(prompt)


def fit(model: Any, ids: Sequence[int], *, keep: int, truncate: bool) -> list[int]:
    """Ids that leave room for a token after them: the last `keep` with `truncate`, else all or a UserError."""
    context, vocab = model.config.context_length, model.config.vocab_size
    if not ids:
        raise UserError("the prompt has no tokens", fix="begin with the end mark, which starts a new text")
    if not 0 <= min(ids) <= max(ids) < vocab:
        wrong = max(ids) if max(ids) >= vocab else min(ids)
        cause = f"the prompt holds id {wrong}, the model has {vocab} tokens"
        raise UserError(cause, fix="use the tokenizer that belongs to the model")
    if truncate:
        return list(ids[-max(keep, 1) :])
    if len(ids) >= context:
        cause = f"the prompt has {len(ids)} tokens, the context of the model holds {context}"
        raise UserError(
            cause,
            fix=f"shorten it to at most {context - 1} tokens, or drop its beginning with truncate=True (--truncate)",
        )
    return list(ids)


@torch.inference_mode()
def prefill(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[Tensor, list[Any]]:
    """Features [batch dim] at the last token of each prompt, and the state after it."""
    texts = [beginning(model, prompt) for prompt in prompts]
    longest = max(len(text) for text in texts)
    state = model.new_state(len(prompts), capacity=min(model.config.context_length, longest + max_new_tokens))
    features = []
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        own = [layer.view([row]) for layer in state]
        if reads_a_source(model):
            read_source(model, own, prompt)
        features.append([read(model, own, text[start : start + CHUNK]) for start in range(0, len(text), CHUNK)][-1])
    return torch.cat(features), state


def read_source(model: Any, state: Sequence[Any], ids: Sequence[int]) -> None:
    """Let one sequence read its source."""
    device = next(model.parameters()).device
    model.read_source(torch.tensor([ids], device=device), state=state)


def read(model: Any, state: Sequence[Any], ids: Sequence[int]) -> Tensor:
    """Let one sequence read these ids; features [1 dim] at the last of them."""
    device = next(model.parameters()).device
    return model.features(torch.tensor([ids], device=device), state=state)[:, -1]


@contextmanager
def evaluating(model: nn.Module, modules: Sequence[nn.Module] | None = None) -> Iterator[None]:
    """Evaluation mode inside; afterwards exactly the layers that were training are training again.

    `modules`: those of the model, where they have been listed before.
    """
    training = [module for module in modules or model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
