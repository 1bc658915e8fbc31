"""Beam search: the likeliest whole continuations that a search of limited width finds.

Scores are sums of log-probabilities divided by a penalty of the length: length**length_penalty, as transformers has
it, or with `gnmt` the formula of Wu et al. (2016, eq. 14), which the Transformer's paper uses with 0.6. The choices at
every step are those of transformers 5, so that the same weights give the same text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bedplate.errors import UserError
from bedplate.generate.prompt import beginning, evaluating, prefill, prompt_ids, reads_a_source
from bedplate.generate.text import Generation, added_bytes

Penalty = Callable[[int, float], float]


def power(length: int, exponent: float) -> float:
    """length**exponent."""
    return length**exponent


def gnmt(length: int, exponent: float) -> float:
    """((5 + length) / 6)**exponent: weaker for short texts."""
    return ((5 + length) / 6) ** exponent


@dataclass(frozen=True)
class Beams:
    """How to search."""

    width: int = 4
    length_penalty: float = 1.0  # above 0 longer texts are preferred; 0 leaves the plain sum
    penalty: Penalty = power
    early_stopping: bool = False  # end a search as soon as `width` texts have ended

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width is {self.width}", fix="give a number of beams from 1 up")


@dataclass(frozen=True)
class Hypothesis:
    """A continuation that ended."""

    ids: list[int]  # without the prompt; an end mark is the last of them
    logprobs: list[float]  # of each id, in nats
    score: float


def log_probabilities(logits: Tensor) -> Tensor:
    """In nats, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)


def search_text(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    beams: Beams | None = None,
    truncate: bool = False,
    scores: Callable[[Tensor], Tensor] = log_probabilities,
) -> list[Generation]:
    """The best continuation of each prompt, up to its end mark, `max_new_tokens` or the end of the context."""
    context = model.config.context_length
    keep = context - max_new_tokens
    starts = [prompt_ids(model, tokenizer, prompt, keep=keep, truncate=truncate) for prompt in prompts]
    found = beam_search(
        model, starts, max_new_tokens=max_new_tokens, beams=beams or Beams(), end_ids=[tokenizer.end_id],
        vocab_size=tokenizer.vocab_size, scores=scores,
    )  # fmt: skip
    opens = reads_a_source(model)
    return [_generation(tokenizer, best, max_new_tokens, opens=opens) for best, *_ in found]


@torch.inference_mode()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    beams: Beams,
    end_ids: Sequence[int],
    vocab_size: int | None = None,
    scores: Callable[[Tensor], Tensor] = log_probabilities,
) -> list[list[Hypothesis]]:
    """The best `beams.width` continuations of each prompt (or fewer, where fewer ended), the best first.

    Prompts are lists of ids of any lengths; what is found after one does not depend on the others. `scores` turns
    logits [running vocab] into what is added up.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}", fix="give a number from 1 up")
    room = [model.config.context_length - len(beginning(model, prompt)) for prompt in prompts]
    searches = [_Search(beams, min(max_new_tokens, each)) for each in room]
    going = list(searches)
    if not going:
        return []
    with evaluating(model):
        features, state = prefill(model, prompts, max_new_tokens)
        while True:
            logprobs = scores(model.logits(features)[:, :vocab_size])
            rows, tokens, first = [], [], 0
            for search in going:
                count = len(search.running)
                chosen = search.advance(logprobs[first : first + count], end_ids)
                if search.open:
                    rows += [first + beam for beam, _ in chosen]
                    tokens += [token for _, token in chosen]
                first += count
            going = [search for search in going if search.open]
            if not going:
                return [search.ended for search in searches]
            for layer in state:
                layer.select(rows)
            features = model.features(torch.tensor(tokens, device=features.device)[:, None], state=state)[:, -1]


@dataclass(frozen=True)
class _Beam:
    """A continuation that goes on."""

    ids: list[int]
    logprobs: list[float]
    total: float

    def with_token(self, token: int, total: float, logprob: float) -> "_Beam":
        return _Beam([*self.ids, token], [*self.logprobs, logprob], total)


@dataclass
class _Search:
    """The search after one prompt."""

    beams: Beams
    limit: int  # new tokens
    running: list[_Beam] = field(default_factory=lambda: [_Beam([], [], 0.0)])
    ended: list[Hypothesis] = field(default_factory=list)
    open: bool = True

    def advance(self, logprobs: Tensor, end_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Take one step from the log-probabilities [running vocab]; returns (beam, token) of the beams that go on.

        Twice as many candidates as beams are looked at, so that enough go on however many end; only those among the
        first `width` may end.
        """
        width, vocab = self.beams.width, logprobs.shape[-1]
        before = torch.tensor([beam.total for beam in self.running], dtype=logprobs.dtype, device=logprobs.device)
        totals = (logprobs + before[:, None]).flatten()
        values, places = totals.topk(min((1 + max(1, len(end_ids))) * width, len(totals)))
        length = len(self.running[0].ids) + 1
        going: list[_Beam] = []
        chosen: list[tuple[int, int]] = []
        for rank, (total, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            beam, token = divmod(place, vocab)
            longer = self.running[beam].with_token(token, total, float(logprobs[beam, token]))
            if length < self.limit and token not in end_ids:
                going.append(longer)
                chosen.append((beam, token))
            elif rank < width:
                score = total / self.beams.penalty(length, self.beams.length_penalty)
                self.ended.append(Hypothesis(longer.ids, longer.logprobs, score))
        self.ended = sorted(self.ended, key=lambda each: -each.score)[:width]
        self.running = going[:width]
        self.open = bool(going) and self._may_improve(length)
        return chosen[:width]

    def _may_improve(self, length: int) -> bool:
        """Whether the best running beam would, if it ended now, be among the best; it is not looked further ahead."""
        if len(self.ended) < self.beams.width:
            return True
        best = self.running[0].total / self.beams.penalty(length, self.beams.length_penalty)
        return not self.beams.early_stopping and best > self.ended[-1].score


def _generation(tokenizer: Any, best: Hypothesis, max_new_tokens: int, *, opens: bool) -> Generation:
    ended = best.ids[-1] == tokenizer.end_id
    written = best.ids[:-1] if ended else best.ids
    text = b"".join(added_bytes(tokenizer, id, opens=opens and not place) for place, id in enumerate(written))
    reason = "end" if ended else "length" if len(best.ids) == max_new_tokens else "context"
    return Generation(text=text.decode(errors="replace"), ids=best.ids, logprobs=best.logprobs, finish_reason=reason)
