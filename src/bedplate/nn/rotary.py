"""Frequencies of rotary positions (Su et al. 2021, arXiv 2104.09864), plain and as published models stretch them.

They are in float32, and so are the angles made of them, as in the models that were trained that way: an exact angle
would not be theirs (at position 100,000 float32 is off by up to 0.004). Frequencies depend on sizes alone, never on
what else is in a batch.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.errors import UserError

Frequencies = Float[Tensor, " half"]
Numbers = partial(torch.arange, dtype=torch.float32, device="cpu")


def frequencies(head_dim: int, *, base: float = 10000.0) -> Frequencies:
    """base^(-2i / head_dim) for pair i (section 3.2.2), in float32."""
    return 1 / base ** (Numbers(0, head_dim, 2) / head_dim)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Positions divided by `factor` (Chen et al. 2023, arXiv 2306.15595, section 2.3)."""

    gain: ClassVar[float] = 1.0  # of cosines and sines
    factor: float

    def frequencies(self, head_dim: int, *, base: float) -> Frequencies:
        """For texts of any length."""
        return frequencies(head_dim, base=base) / self.factor


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """A base that grows with the text once it is longer than the context that was trained: "dynamic NTK" (Peng et al.
    2023, arXiv 2309.00071, section 3.3). Every angle then depends on how long the text is, so that a text that grows
    needs all of its keys anew.
    """

    gain: ClassVar[float] = 1.0  # of cosines and sines
    factor: float

    def frequencies(self, head_dim: int, *, base: float) -> Frequencies:
        """Up to the context that was trained."""
        return frequencies(head_dim, base=base)

    def beyond(self, head_dim: int, *, base: float, length: int, context: int) -> Frequencies:
        """For a text of `length` tokens, more than the `context` that was trained."""
        grown = self.factor * torch.tensor(length, device="cpu") / context - (self.factor - 1)  # in float32
        return 1 / (base * grown ** (head_dim / (head_dim - 2))) ** (Numbers(0, head_dim, 2) / head_dim)


@dataclass(frozen=True, kw_only=True)
class YaRN:
    """Slow pairs are divided by `factor`, fast ones kept, those between mixed (Peng et al. 2023, section 3.2); scores
    grow by the square of a gain (section 3.4).
    """

    factor: float
    context: int  # that was trained
    fast: float = 32.0  # turns within the context from which on a pair is kept
    slow: float = 1.0  # turns up to which it is divided
    attention_factor: float | None = None  # the gain; 0.1 log(factor) + 1
    truncate: bool = True  # round the limits to whole pairs, as the released code does

    @property
    def gain(self) -> float:
        """Of cosines and sines."""
        grown = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
        return grown if self.attention_factor is None else self.attention_factor

    def frequencies(self, head_dim: int, *, base: float) -> Frequencies:
        """For texts of any length."""
        first, last = (self._pair(turns, head_dim, base) for turns in (self.fast, self.slow))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        kept = 1 - ((Numbers(head_dim // 2) - first) / ((last - first) or 0.001)).clamp(0, 1)
        periods = base ** (Numbers(0, head_dim, 2) / head_dim)
        return 1 / (self.factor * periods) * (1 - kept) + 1 / periods * kept

    def _pair(self, turns: float, head_dim: int, base: float) -> float:
        """The pair, as a number between pairs, that turns so often within the context."""
        return head_dim * math.log(self.context / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """As YaRN with limits given as wavelengths and a mix that is linear in the frequency (released code of Llama 3.1):
    above context / low they are divided, below context / high kept.
    """

    gain: ClassVar[float] = 1.0  # of cosines and sines
    factor: float
    context: int  # that was trained
    low: float  # 1 as published
    high: float  # 4 as published

    def __post_init__(self) -> None:
        if self.high <= self.low:
            cause = f"high_freq_factor {self.high} is not above low_freq_factor {self.low}"
            raise UserError(cause, fix="give wavelengths between which there is room")

    def frequencies(self, head_dim: int, *, base: float) -> Frequencies:
        """For texts of any length."""
        plain = frequencies(head_dim, base=base)
        waves = 2 * math.pi / plain
        kept = (self.context / waves - self.low) / (self.high - self.low)
        mixed = (1 - kept) * plain / self.factor + kept * plain
        stretched = torch.where(waves > self.context / self.low, plain / self.factor, mixed)
        return torch.where(waves < self.context / self.high, plain, stretched)


Stretch = Linear | Dynamic | YaRN | Smooth
