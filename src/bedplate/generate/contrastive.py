"""Text that is likely and not dull: contrastive decoding and contrastive search. Both are deterministic.

Contrastive decoding (Li et al. 2022, arXiv 2210.15097) takes the token that an expert likes much better than an amateur
does, among those that the expert finds plausible. Contrastive search (Su et al. 2022, arXiv 2202.06417) needs one model
only, and takes among its likeliest tokens one that says something new.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.generate.beam import Beams, search_text
from bedplate.generate.complete import generate
from bedplate.generate.prompt import evaluating, prompt_ids
from bedplate.generate.sample import Sampling
from bedplate.generate.text import Generation, TextStream, Writer

GREEDY = Sampling(temperature=0)


class Contrast(nn.Module):
    """An expert and an amateur as one model, whose logits are the contrastive scores (Li et al., section 3.3)."""

    def __init__(self, expert: Any, amateur: Any, *, vocab_size: int, alpha: float, temperature: float) -> None:
        super().__init__()
        if not 0 < alpha <= 1:
            raise UserError(f"alpha is {alpha}", fix="give a share above 0 and up to 1")
        if not 0 < temperature < float("inf"):
            raise UserError(f"the amateur's temperature is {temperature}", fix="give a number above 0")
        self.expert, self.amateur = expert, amateur
        self.alpha, self.temperature = alpha, temperature
        context = min(expert.config.context_length, amateur.config.context_length)
        self.config = SimpleNamespace(context_length=context, vocab_size=vocab_size)

    def features(self, ids: Int[Tensor, "batch length"], *, state: list[Any]) -> Float[Tensor, "batch length dims"]:
        """The features of both, side by side."""
        layers = self.expert.config.num_layers
        both = self.expert.features(ids, state=state[:layers]), self.amateur.features(ids, state=state[layers:])
        return torch.cat(both, dim=-1)

    def logits(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch vocab"]:
        """log p_expert - log p_amateur where the expert finds a token plausible, -inf elsewhere."""
        parts = features.split((self.expert.config.dim, self.amateur.config.dim), dim=-1)
        expert = _log_probabilities(self.expert, parts[0])[:, : self.config.vocab_size]
        amateur = _log_probabilities(self.amateur, parts[1], self.temperature)[:, : self.config.vocab_size]
        plausible = expert >= expert.amax(dim=-1, keepdim=True) + math.log(self.alpha)  # section 3.2
        return (expert - amateur).masked_fill(~plausible, -torch.inf)

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[Any]:
        """The state of the expert, then that of the amateur."""
        return [layer for model in (self.expert, self.amateur) for layer in model.new_state(batch, capacity=capacity)]


def contrast(
    expert: Any,
    amateur: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    alpha: float = 0.1,
    amateur_temperature: float = 1.0,
    width: int = 1,
    max_new_tokens: int = 40,
    stop: str | Sequence[str] = (),
    truncate: bool = False,
) -> list[Generation]:
    """Continue each prompt by contrastive decoding: greedily, or with `width` beams for the largest sum of scores.

    `alpha` is the share of the likeliest token's probability that a plausible one has; 1 leaves the expert's greedy
    decoding. Log-probabilities are the expert's. Both models have the vocabulary of `tokenizer`.
    """
    model = Contrast(expert, amateur, vocab_size=tokenizer.vocab_size, alpha=alpha, temperature=amateur_temperature)
    common = {"max_new_tokens": max_new_tokens, "truncate": truncate}
    if width == 1:
        found = generate(model, tokenizer, prompts, sampling=GREEDY, stop=stop, **common)
    elif stop:
        raise UserError("beams know no stop strings", fix="leave out the stop strings or the beams")
    else:
        beams = Beams(width=width, length_penalty=0.0)
        found = search_text(model, tokenizer, prompts, beams=beams, scores=lambda logits: logits, **common)
    keep = model.config.context_length - max_new_tokens
    starts = [prompt_ids(model, tokenizer, prompt, keep=keep, truncate=truncate) for prompt in prompts]
    return [replace(each, logprobs=_logprobs(expert, ids, each.ids)) for ids, each in zip(starts, found, strict=True)]


def search(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    alpha: float = 0.6,
    top_k: int = 4,
    max_new_tokens: int = 40,
    stop: str | Sequence[str] = (),
    truncate: bool = False,
) -> list[Generation]:
    """Continue each prompt by contrastive search: of the `top_k` likeliest tokens the best by eq. 5 of Su et al.

    `alpha` weighs the degeneration penalty; 0 leaves greedy decoding.
    """
    if not 0 <= alpha <= 1 or top_k < 1 or max_new_tokens < 1:
        cause = f"alpha is {alpha}, top_k {top_k}, max_new_tokens {max_new_tokens}"
        raise UserError(cause, fix="give alpha from 0 to 1, the others from 1 up")
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise UserError("a stop string is empty", fix="leave it out")
    context, found = model.config.context_length, []
    for prompt in prompts:
        ids = prompt_ids(model, tokenizer, prompt, keep=context - max_new_tokens, truncate=truncate)
        writer = Writer(tokenizer, TextStream(stops), max_new_tokens, context - len(ids))
        with evaluating(model):
            _search_one(model, ids, writer, alpha=alpha, top_k=min(top_k, tokenizer.vocab_size))
        found.append(writer.generation())
    return found


@torch.inference_mode()
def _search_one(model: Any, ids: Sequence[int], writer: Writer, *, alpha: float, top_k: int) -> None:
    device = next(model.parameters()).device
    state = model.new_state(1, capacity=len(ids) + min(writer.max_new_tokens, writer.room))
    features = model.features(torch.tensor([ids], device=device), state=state)[0]
    seen, last = _directions(features), features[-1:]
    while not writer.finish_reason:
        logprobs = _log_probabilities(model, last)[0]
        values, tokens = logprobs[: writer.tokenizer.vocab_size].topk(top_k)
        for layer in state:
            layer.select([0] * top_k)  # every candidate goes on from the same text
        features = model.features(tokens[:, None], state=state)[:, -1]
        similarity = (_directions(features) @ seen.T).amax(dim=-1)
        best = int(((1 - alpha) * values.exp() - alpha * similarity).argmax())  # eq. 5
        for layer in state:
            layer.select([best])
        last = features[best : best + 1]
        seen = torch.cat([seen, _directions(last)])
        writer.add(int(tokens[best]), float(values[best]))


def _directions(features: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """Of length 1, so that products are cosines."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _log_probabilities(
    model: Any, features: Float[Tensor, "rows dim"], temperature: float = 1.0
) -> Float[Tensor, "rows vocab"]:
    logits = model.logits(features.to(next(model.parameters()).dtype))
    logprobs = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(dim=-1)
    if not logprobs.amax(dim=-1).isfinite().all():
        raise UserError("a model's output is not a number", fix="check its weights, or load it in torch.float32")
    return logprobs


@torch.inference_mode()
def _logprobs(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
    """Of each id after the prompt, in one pass."""
    with evaluating(model):
        text = torch.tensor([[*prompt, *ids[:-1]]], device=next(model.parameters()).device)
        logprobs = _log_probabilities(model, model.features(text)[0, len(prompt) - 1 :])
    return [float(row[token]) for row, token in zip(logprobs, ids, strict=True)]
