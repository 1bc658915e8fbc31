"""Perplexity of a text in the three units that papers use, by windows that slide over each document.

A token is predicted once, from at least `context - stride` tokens before it where there are as many. The first token of
a document is predicted from an end mark alone. A stride as long as the context cuts the text into disjoint windows,
which is fastest and gives the worst numbers; GPT-2's WikiText results slide by 32 tokens.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F

from bedplate.errors import UserError
from bedplate.generate.prompt import evaluating, reads_a_source

BATCH = 8  # windows that go through the model together


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Nats summed over all predicted tokens, and what they were predictions of."""

    nats: float
    tokens: int
    words: int  # parts of the text between white space
    bytes: int  # of UTF-8
    context: int
    stride: int
    sha256: str  # of all ids, in order: the receipt

    @property
    def per_token(self) -> float:
        """exp(nats / tokens)."""
        return math.exp(self.nats / self.tokens)

    @property
    def per_word(self) -> float:
        """exp(nats / words)."""
        return math.exp(min(self.nats / max(self.words, 1), 700))

    @property
    def bits_per_byte(self) -> float:
        """nats / ln 2 / bytes."""
        return self.nats / math.log(2) / self.bytes

    def rows(self) -> list[dict[str, Any]]:
        """The table: each unit, with what it can be compared with."""
        return [
            {"unit": "perplexity per token", "value": self.per_token, "compares": "models of one tokenizer"},
            {
                "unit": "perplexity per word", "value": self.per_word,
                "compares": "papers' WikiText and PTB numbers (GPT-2, table 3), on the same text and its spacing",
            },
            {
                "unit": "bits per byte", "value": self.bits_per_byte,
                "compares": "any models on the same text; papers' enwik8 and Pile numbers",
            },
        ]  # fmt: skip


def perplexity(
    model: Any, tokenizer: Any, texts: Iterable[str], *, context: int | None = None, stride: int | None = None
) -> Perplexity:
    """Of a causal language model on texts. `context` defaults to the model's, `stride` to half of it."""
    if reads_a_source(model):
        raise UserError(
            "an encoder-decoder model has no perplexity of a text alone", fix="name a decoder, such as gpt2"
        )
    longest = model.config.context_length
    context = longest if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= context <= longest:
        raise UserError(f"the context is {context} tokens", fix=f"give a number from 1 to {longest}, the model's")
    if not 1 <= stride <= context:
        raise UserError(f"the stride is {stride} tokens", fix=f"give a number from 1 to {context}, the context")
    nats, tokens, words, size, digest = 0.0, 0, 0, 0, hashlib.sha256()
    for text in texts:
        ids = tokenizer.encode(text)
        digest.update(repr(ids).encode())
        tokens, words, size = tokens + len(ids), words + len(text.split()), size + len(text.encode())
        nats += _nats(model, [tokenizer.end_id, *ids], context, stride)
    if not tokens:
        raise UserError("the text has no tokens", fix="give text to measure on")
    return Perplexity(
        nats=nats, tokens=tokens, words=words, bytes=size, context=context, stride=stride, sha256=digest.hexdigest()
    )


def windows(length: int, *, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first): inputs begin ... end - 1, of which those from `first` on predict their next token."""
    first = 0
    while first < length:
        end = min(length, context if first == 0 else first + stride)
        yield max(0, end - context), end, first
        first = end


def _nats(model: Any, ids: Sequence[int], context: int, stride: int) -> float:
    """Of all ids but the first."""
    device = next(model.parameters()).device
    total = 0.0
    pieces = list(windows(len(ids) - 1, context=context, stride=stride))
    with evaluating(model), torch.inference_mode():
        while pieces:
            size = pieces[0][1] - pieces[0][0]
            group = list(takewhile(lambda piece, size=size: piece[1] - piece[0] == size, pieces[:BATCH]))
            del pieces[: len(group)]
            features = model.features(torch.tensor([ids[begin:end] for begin, end, _ in group], device=device))
            for row, (begin, end, first) in zip(features, group, strict=True):
                logits = model.logits(row[None, first - begin :])[0]
                targets = torch.tensor(ids[first + 1 : end + 1], device=device)
                exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
                total += F.cross_entropy(exact, targets, reduction="sum").double().item()
    return total
