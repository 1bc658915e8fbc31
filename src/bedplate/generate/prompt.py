"""Prompts: from text to ids that fit, and through the model to the state after them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.errors import UserError

CHUNK = 128  # prompt tokens that go through the model at a time


def prompt_ids(model: Any, tokenizer: Any, prompt: str, *, keep: int, truncate: bool) -> list[int]:
    """The ids of a prompt, an end mark for an empty one; raises UserError when it is too long and not to be cut."""
    ids = tokenizer.encode(prompt) or [tokenizer.end_id]
    return fit(model, ids, keep=keep, truncate=truncate)


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
    longest = max(len(prompt) for prompt in prompts)
    state = model.new_state(len(prompts), capacity=min(model.config.context_length, longest + max_new_tokens))
    features = []
    for row, prompt in enumerate(prompts):
        own = [layer.view([row]) for layer in state]
        features.append([read(model, own, prompt[start : start + CHUNK]) for start in range(0, len(prompt), CHUNK)][-1])
    return torch.cat(features), state


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
