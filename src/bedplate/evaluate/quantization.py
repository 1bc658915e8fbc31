"""What fewer bits a weight cost: bits per byte before and after on held-out text."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from bedplate.data.python_library import read_pydocs
from bedplate.data.text import is_held_out
from bedplate.data.tokenize.tokenizer import end_mark, spelled_bytes
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
    size = sum(size for _, size in documents)
    return Cost(
        kind=kind, before=before, after=after, text_bytes=size, memory_before=memory, memory_after=memory_of(model)
    )


def memory_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, each counted once."""
    tensors = {each.data_ptr(): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.numel() * each.itemsize for each in tensors.values())


def _documents(language_model: Any) -> list[tuple[list[int], int]]:
    """Beginnings of held-out documents, as long as the model's context allows: ids, and the bytes of their text."""
    tokens = min(language_model.config.context_length - 1, 256)
    tokenizer = language_model.tokenizer
    found: list[tuple[list[int], int]] = []
    for name, text in read_pydocs(Counter()):
        if sum(size for _, size in found) >= TEXT:
            break
        if is_held_out(name):
            text = text[: 8 * tokens]
            ids = tokenizer.encode(text)
            # Where a tokenizer loses or adds characters, what is kept has its share of the text.
            share = spelled_bytes(tokenizer, ids[:tokens]) / max(1, spelled_bytes(tokenizer, ids))
            found.append((ids[:tokens], round(len(text.encode()) * share)))
    if not found:
        raise UserError("this Python has no documentation to measure on", fix="use one with docstrings (no -OO)")
    return found


def _bits_per_byte(language_model: Any, documents: list[tuple[list[int], int]]) -> float:
    mark = [end_mark(language_model.tokenizer)]
    nats = -sum(continuation_logprobs(language_model.model, [(mark, ids) for ids, _ in documents], batch_size=1))
    return nats / math.log(2) / sum(size for _, size in documents)
