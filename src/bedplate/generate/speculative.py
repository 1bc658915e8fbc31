"""Speculative decoding: something cheap proposes several tokens, the model judges all of them in one pass.

Leviathan, Kalman, Matias 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318): what is accepted and what is
drawn instead are such that every token has exactly the distribution that the model alone would draw it from (appendix
A.1; theorem 1). At temperature 0 the tokens are those of greedy decoding, up to the rounding of longer passes.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.errors import UserError
from bedplate.generate.prompt import evaluating, prompt_ids
from bedplate.generate.sample import Sampling, adjust, keep_top_k, keep_top_p
from bedplate.generate.text import Generation, TextStream, Writer


@dataclass(frozen=True, kw_only=True)
class Speculation(Generation):
    """What a model wrote, and what the proposals were worth."""

    passes: int  # of the model
    judged: int  # proposed tokens up to the first that was rejected, and that one
    accepted: int  # of these

    @property
    def acceptance_rate(self) -> float:
        """Share of the judged tokens that were accepted; alpha of Leviathan et al. (section 3.1)."""
        return self.accepted / max(self.judged, 1)

    @property
    def tokens_per_pass(self) -> float:
        """Tokens for each pass of the model; decoding without proposals gives 1."""
        return len(self.ids) / max(self.passes, 1)


class Lookup:
    """Proposes what followed the last tokens where they stood before (as in Yang et al. 2023, arXiv 2304.04487)."""

    def __init__(self, vocab_size: int, *, longest: int = 3) -> None:
        self._vocab_size, self._longest = vocab_size, longest

    def propose(
        self, ids: Sequence[int], count: int, generator: torch.Generator
    ) -> tuple[list[int], Float[Tensor, "count vocab"]]:
        """What followed the latest occurrence of the longest known ending; nothing where there is none."""
        for length in range(min(self._longest, len(ids) - 1), 0, -1):
            ending = ids[-length:]
            for start in range(len(ids) - length - 1, -1, -1):
                if ids[start : start + length] == ending:
                    text = list(ids)
                    for place in range(start + length, start + length + count):
                        text.append(text[place])  # which may itself be a proposal, where the text repeats itself
                    return text[len(ids) :], _certain(text[len(ids) :], self._vocab_size)
        return [], _certain([], self._vocab_size)


class DraftModel:
    """Proposes what a smaller model of the same vocabulary draws."""

    def __init__(self, model: Any, *, sampling: Sampling, start: int, vocab_size: int, capacity: int) -> None:
        self._reader = _Reader(model, capacity=min(capacity, model.config.context_length))
        self._sampling, self._start, self._vocab_size = sampling, start, vocab_size

    def propose(
        self, ids: Sequence[int], count: int, generator: torch.Generator
    ) -> tuple[list[int], Float[Tensor, "count vocab"]]:
        """Fewer than `count` tokens, or none, where the context of the smaller model ends."""
        ids, first = list(ids), len(ids)
        rows = [_certain([], self._vocab_size)]
        while len(ids) < first + count and len(ids) <= self._reader.capacity:
            logits = self._reader.logits(ids, last=1)[:, : self._vocab_size]
            rows.append(distribution(logits, self._sampling, histories=[ids], start=self._start))
            ids.append(_draw(rows[-1][0], generator))
        return ids[first:], torch.cat(rows)


def speculate(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    *,
    draft: Any | None = None,
    count: int = 4,
    max_new_tokens: int = 40,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Speculation:
    """Continue the ids of a prompt, judging up to `count` tokens a pass, from `draft` or looked up in the text itself.

    `draft` is a model of the same vocabulary. The text ends as in `generate.complete.generate`; the draws are others
    with the same seed, their distribution is the same.
    """
    if count < 1 or max_new_tokens < 1:
        raise UserError("count or max_new_tokens is below 1", fix="give numbers from 1 up")
    sampling = sampling or Sampling()
    room = model.config.context_length - len(prompt)
    writer = Writer(tokenizer, TextStream(stop), max_new_tokens, room)
    limit = len(prompt) + min(max_new_tokens, room)
    source: Lookup | DraftModel = Lookup(tokenizer.vocab_size)
    if draft is not None:
        sizes = {"start": len(prompt), "vocab_size": tokenizer.vocab_size, "capacity": limit}
        source = DraftModel(draft, sampling=sampling, **sizes)
    rounds = _Rounds(model, source, sampling, limit=limit, vocab_size=tokenizer.vocab_size, seed=seed)
    with ExitStack() as modes:
        for each in (model, draft):
            if each is not None:
                modes.enter_context(evaluating(each))
        for token, logprob in rounds.tokens(prompt, count=count):
            writer.add(token, logprob)
            if writer.finish_reason:
                break
    figures = {"passes": rounds.passes, "judged": rounds.judged, "accepted": rounds.accepted}
    return Speculation(**vars(writer.generation()), **figures)


def speculate_text(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    draft: Any | None = None,
    max_new_tokens: int = 40,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    truncate: bool = False,
    **options: Any,
) -> list[Speculation]:
    """Continue texts one after the other, text i with `seed + i`; further options are those of `speculate`."""
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise UserError("a stop string is empty", fix="leave it out")
    keep = model.config.context_length - max_new_tokens
    starts = [prompt_ids(model, tokenizer, prompt, keep=keep, truncate=truncate) for prompt in prompts]
    options |= {"draft": draft, "max_new_tokens": max_new_tokens, "stop": stops}
    return [speculate(model, tokenizer, ids, seed=seed + row, **options) for row, ids in enumerate(starts)]


class _Rounds:
    """Propose, judge, keep (algorithm 1 of Leviathan et al.), and a count of it."""

    def __init__(
        self, model: Any, draft: Lookup | DraftModel, sampling: Sampling, *, limit: int, vocab_size: int, seed: int
    ) -> None:
        self._reader, self._draft, self._sampling = _Reader(model, capacity=limit), draft, sampling
        self._limit, self._vocab_size = limit, vocab_size
        self._generator = torch.Generator().manual_seed(seed)
        self.passes = self.judged = self.accepted = 0

    def tokens(self, prompt: Sequence[int], *, count: int) -> Iterator[tuple[int, float]]:
        """Each new token with its log-probability under the model, up to `limit` ids."""
        ids = list(prompt)
        while len(ids) < self._limit:
            # One token comes from the pass itself, so that more than this is never needed.
            room = min(count, self._limit - len(ids) - 1)
            proposed, drawn_from = self._draft.propose(ids, room, self._generator)
            logits = self._reader.logits(ids + proposed, last=len(proposed) + 1)
            logprobs = logits.log_softmax(dim=-1)
            histories = [ids + proposed[:place] for place in range(len(proposed) + 1)]
            target = distribution(logits[:, : self._vocab_size], self._sampling, histories=histories, start=len(prompt))
            kept = judge(target, proposed, drawn_from, self._generator)
            self.passes += 1
            self.accepted += len(kept) - 1
            self.judged += min(len(kept), len(proposed))
            ids += kept
            yield from ((token, float(logprobs[place, token])) for place, token in enumerate(kept))


def judge(
    target: Float[Tensor, "places vocab"],
    proposed: Sequence[int],
    drawn_from: Float[Tensor, "count vocab"],
    generator: torch.Generator,
) -> list[int]:
    """The proposed tokens up to the first that is rejected, and one that the model draws itself.

    `target` holds the model's distribution at each place, the one after the last proposal included; `drawn_from` the
    distribution of each proposal (Leviathan et al., section 2.3).
    """
    for place, token in enumerate(proposed):
        p, q = target[place], drawn_from[place].to(target.device)
        chance = float(torch.rand(1, generator=generator, dtype=torch.float64))
        if chance * float(q[token]) >= float(p[token]):  # rejected with probability 1 - p / q
            left = (p - q).clamp(min=0)  # what the draft gives too rarely
            return [*proposed[:place], _draw(left if left.sum() > 0 else p, generator)]
    return [*proposed, _draw(target[-1], generator)]


def distribution(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, *, histories: Sequence[Sequence[int]], start: int
) -> Float[Tensor, "rows vocab"]:
    """The probabilities, in float64, from which `sample.choose` draws; a temperature of 0 makes one token certain."""
    if not sampling.plain:
        logits = adjust(logits, sampling, histories=histories, starts=[start] * len(histories))
    if sampling.temperature == 0:
        return _certain(logits.argmax(dim=-1).tolist(), logits.shape[-1]).to(logits.device)
    logits = logits.double()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    return keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p).softmax(dim=-1)


class _Reader:
    """A model and the text that its state holds."""

    def __init__(self, model: Any, *, capacity: int) -> None:
        self._model, self._state = model, model.new_state(1, capacity=capacity)
        if not all(layer.goes_back for layer in self._state):
            cause = "the state of this model cannot give up tokens that were rejected"
            raise UserError(cause, fix="decode it without speculation, or take a model with a key-value cache")
        self._device = next(model.parameters()).device
        self._held: list[int] = []
        self.capacity = capacity

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], *, last: int) -> Float[Tensor, "last vocab"]:
        """Logits after each of the last tokens. The text may differ from what was read; what agrees is kept."""
        pairs = zip(self._held, ids, strict=False)
        keep = min(len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))), len(ids) - last)
        for layer in self._state:
            layer.truncate([keep])
        self._held = list(ids)
        new = torch.tensor([self._held[keep:]], device=self._device)
        logits = self._model.logits(self._model.features(new, state=self._state)[0, -last:])
        if not logits.logsumexp(dim=-1).isfinite().all():
            raise UserError("a model's output is not a number", fix="check its weights, or load it in torch.float32")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _certain(ids: Sequence[int], vocab_size: int) -> Float[Tensor, "rows vocab"]:
    """Distributions that give one token each."""
    return torch.nn.functional.one_hot(torch.tensor(ids, dtype=torch.long), vocab_size).double()


def _draw(weights: Float[Tensor, " vocab"], generator: torch.Generator) -> int:
    """One token, in proportion to its weight: a uniform number looked up in the cumulative sum."""
    cumulative = weights.cumsum(dim=-1)
    target = torch.rand(1, generator=generator, dtype=torch.float64).to(weights.device) * cumulative[-1]
    return int(torch.searchsorted(cumulative, target, right=True))
