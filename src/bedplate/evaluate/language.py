"""How well a model predicts text, in a unit that can be compared across tokenizers: bits per byte."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

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


def continuation_logprobs(
    model: nn.Module, pairs: Iterable[tuple[Sequence[int], Sequence[int]]], *, batch_size: int = 16
) -> list[float]:
    """log p(continuation | context) in nats for each pair of id lists; a context must hold at least one token.

    This is how GPT-2 and its successors choose between answers without training for the task (GPT-2, section 3).
    """
    device = next(model.parameters()).device
    scores: list[float] = []
    todo = list(pairs)
    for start in range(0, len(todo), batch_size):
        group = todo[start : start + batch_size]
        rows = [torch.tensor([*context, *continuation]) for context, continuation in group]
        # Padding stands on the right, where a causal model's earlier positions cannot see it.
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        with evaluating(model), torch.inference_mode():
            logprobs = model(ids[:, :-1]).float().log_softmax(-1)
            chosen = logprobs.gather(2, ids[:, 1:, None]).squeeze(2).cpu()
        for row, (context, continuation) in zip(chosen, group, strict=True):
            first = len(context) - 1
            scores.append(row[first : first + len(continuation)].double().sum().item())
    return scores
