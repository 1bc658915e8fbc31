"""How well a model predicts text, in a unit that can be compared across tokenizers: bits per byte."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bedplate.generate.engine import evaluating
from bedplate.objectives.next_token import NextToken


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Nats summed over `tokens` predictions, which spell `bytes` bytes of UTF-8 text."""

    nats: float
    tokens: int
    bytes: int

    @classmethod
    def total(cls, parts: Collection["Likelihood"]) -> "Likelihood":
        """That of several texts together."""
        sums = {field.name: sum(getattr(part, field.name) for part in parts) for field in fields(cls)}
        return cls(**sums)

    @property
    def bits_per_byte(self) -> float:
        """Independent of the tokenizer."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity_per_token(self) -> float:
        """exp of the mean loss; comparable only between models with the same tokenizer."""
        return math.exp(self.nats / self.tokens)


def likelihood(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Likelihood:
    """Likelihood of the text in disjoint windows, as `data.source.sequential_windows` gives them."""
    device = next(model.parameters()).device
    nats, tokens, spelled = 0.0, 0, 0
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            loss = NextToken().loss(model, batch, None, 0)
            nats += loss.total.item()
            tokens += int(loss.count)
            spelled += int(batch["bytes"].sum())
    return Likelihood(nats=nats, tokens=tokens, bytes=spelled)


class Score(NamedTuple):
    """log p(continuation | context) in nats, and whether the likeliest token at each place would have given it."""

    logprob: float
    greedy: bool


def continuation_logprobs(
    model: nn.Module, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 16
) -> list[float]:
    """log p(continuation | context) in nats for each pair of id lists; a context must hold at least one token.

    This is how GPT-2 and its successors choose between answers without training for the task (GPT-2, section 3).
    """
    return [score.logprob for score in score_continuations(model, pairs, batch_size=batch_size)]


def score_continuations(
    model: Any, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 16
) -> list[Score]:
    """The same with a second answer: is the continuation what greedy decoding gives?"""
    device = next(model.parameters()).device
    scores: list[Score] = []
    todo = list(pairs)
    for start in range(0, len(todo), batch_size):
        group = todo[start : start + batch_size]
        rows = [torch.tensor([*context, *continuation][:-1]) for context, continuation in group]
        # Padding stands on the right, where a causal model's earlier positions cannot see it.
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        with evaluating(model), torch.inference_mode():
            for features, (context, continuation) in zip(model.features(ids), group, strict=True):
                first = len(context) - 1  # logits of the continuation alone: those of all places can fill a memory
                logits = model.logits(features[None, first : first + len(continuation)])[0]
                chosen = torch.tensor(continuation, dtype=torch.long, device=device)
                exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
                logprobs = exact.log_softmax(-1).gather(1, chosen[:, None])
                greedy = bool((logits.argmax(-1) == chosen).all())
                scores.append(Score(logprob=logprobs.double().sum().item(), greedy=greedy))
    return scores
