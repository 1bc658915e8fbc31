"""How well a model predicts text, in a unit that can be compared across tokenizers: bits per byte."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bedplate.objectives.next_token import NextToken


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Nats summed over `tokens` predictions, which spell `bytes` bytes of UTF-8 text."""

    nats: float
    tokens: int
    bytes: int

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
    with torch.inference_mode():
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            loss = NextToken().loss(model, batch, None, 0)
            nats += loss.total.item()
            tokens += int(loss.count)
            spelled += int(batch["bytes"].sum())
    return Likelihood(nats=nats, tokens=tokens, bytes=spelled)
