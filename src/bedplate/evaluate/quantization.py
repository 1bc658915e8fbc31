"""What fewer bits a weight cost: bits per byte before and after on held-out text."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from bedplate.data.python_library import read_pydocs
from bedplate.data.text import is_held_out
from bedplate.errors import UserError
from bedplate.evaluate.language import continuation_logprobs
from bedplate.nn.linear import quantize

TEXT = 8192  # bytes of held-out text


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of quantizing a model, in bits per byte of held-out documentation, and what it saves."""

    kind: str
    before: float  # bits per byte
    after: float
    text_bytes: int
    memory_before: int  # bytes of parameters
    memory_after: int

    def __str__(self) -> str:
        change = (self.after / self.before - 1) * 100
        quality = f"{self.before:.4f} -> {self.after:.4f} bits per byte ({change:+.2f} %)"
        text = f"{self.text_bytes:,} bytes of held-out Python documentation"
        memory = f"{self.memory_before / 1e6:,.0f} -> {self.memory_after / 1e6:,.0f} MB"
        return f"{self.kind} weights: {quality} on {text}, {memory}"


def quantize_measured(language_model: Any, kind: str) -> Cost:
    """Quantize the model in place (see `nn.quantize`) and measure what it cost."""
    model = language_model.model
    documents = _documents(language_model)
    before, memory = _bits_per_byte(language_model, documents), memory_of(model)
    quantize(model, kind)
    after = _bits_per_byte(language_model, documents)
    size = sum(_bytes(language_model.tokenizer, ids) for ids in documents)
    return Cost(
        kind=kind, before=before, after=after, text_bytes=size, memory_before=memory, memory_after=memory_of(model)
    )


def memory_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each counted once."""
    tensors = {each.data_ptr(): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.numel() * each.itemsize for each in tensors.values())


def _documents(language_model: Any) -> list[list[int]]:
    """Beginnings of held-out documents, as long as the model's context allows."""
    tokens = min(language_model.config.context_length - 1, 256)
    tokenizer = language_model.tokenizer
    found: list[list[int]] = []
    for name, text in read_pydocs(Counter()):
        if sum(_bytes(tokenizer, ids) for ids in found) >= TEXT:
            break
        if is_held_out(name):
            found.append(tokenizer.encode(text[: 8 * tokens])[:tokens])
    if not found:
        raise UserError("this Python has no documentation to measure on", fix="use one with docstrings (no -OO)")
    return found


def _bits_per_byte(language_model: Any, documents: list[list[int]]) -> float:
    tokenizer = language_model.tokenizer
    pairs = [([tokenizer.end_id], ids) for ids in documents]
    nats = -sum(continuation_logprobs(language_model.model, pairs, batch_size=1))
    return nats / math.log(2) / sum(_bytes(tokenizer, ids) for ids in documents)


def _bytes(tokenizer: Any, ids: list[int]) -> int:
    return sum(len(tokenizer.token_bytes(id)) for id in ids)
