"""Where a token stands and what it may see: positions and attention biases, made once per forward pass."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Causal:
    """The bias "each query sees the keys up to itself", kept symbolic so that attention can take its fused path.

    Queries are the last positions of the keys: query i of n sees the first `keys - n + i + 1` keys. With a `window`
    (Child et al. 2019, arXiv 1904.10509) it sees only the last `window` of these, itself among them.
    """

    window: int | None = None

    def dense(self, query: int, key: int, device: torch.device) -> Bool[Tensor, "query key"]:
        """The same bias written out: True where a query may look."""
        seen = torch.ones(query, key, dtype=torch.bool, device=device).tril(key - query)
        return seen if self.window is None else seen.triu(key - query - self.window + 1)


CAUSAL = Causal()


@dataclass(frozen=True, eq=False)
class Alibi:
    """Causal, and a score falls with the distance to the key by each head's slope: attention with linear biases (Press,
    Smith and Lewis 2022, arXiv 2108.12409, section 3). Kept symbolic, as `Causal` is.

    `seen` says which keys a query may look at, where that is less than all up to itself: packed documents.
    """

    slopes: Float[Tensor, " heads"]
    seen: Bool[Tensor, "batch 1 length length"] | None = None

    def dense(self, query: int, key: int, device: torch.device) -> Float[Tensor, "#batch heads query key"]:
        """The same bias written out: slope * (key position - query position), -inf for keys that are not seen."""
        places = torch.arange(key, device=device, dtype=self.slopes.dtype)
        distances = places - places[key - query :, None]
        bias = self.slopes.to(device)[:, None, None] * distances
        seen = CAUSAL.dense(query, key, device)[None, None] if self.seen is None else self.seen
        return torch.where(seen, bias, -torch.inf)

    def factors(
        self, keys: int, *, scale: float, like: Tensor
    ) -> tuple[Float[Tensor, "heads n"], Float[Tensor, "keys n"]]:
        """Factors whose products, scaled, are slope * (key position - last position). Half precision holds neither a
        slope nor a position beyond 256 in one number, so there both come in two parts.
        """
        places = torch.arange(1 - keys, 1, device=like.device)
        slopes = self.slopes.to(like.device) / scale
        if like.dtype in (torch.float32, torch.float64):
            return slopes[:, None].to(like.dtype), places[:, None].to(like.dtype)
        large = slopes.to(like.dtype).to(slopes.dtype)
        small = slopes - large
        parts = torch.stack((places // 256, places % 256), dim=1).repeat(1, 2)
        return torch.stack((large * 256, large, small * 256, small), dim=1).to(like.dtype), parts.to(like.dtype)


def alibi_slopes(num_heads: int) -> Float[Tensor, " heads"]:
    """2^(-8 h / n) for head h of n, a power of two; for other numbers the slopes of the next smaller power of two, then
    every other one of twice that power, as the released code has them. In float64.
    """
    power = 2 ** (num_heads.bit_length() - 1)
    first = 2.0 ** (-8 * torch.arange(1, power + 1, dtype=torch.float64) / power)
    between = 2.0 ** (-4 * torch.arange(1, 2 * power + 1, 2, dtype=torch.float64) / power)
    return torch.cat((first, between[: num_heads - power]))


def within_documents(
    documents: Int[Tensor, "batch length"], *, causal: Causal = CAUSAL
) -> Bool[Tensor, "batch 1 length length"]:
    """Causal bias for packed rows: a token sees itself and earlier tokens of its own document only."""
    return same_document(documents) & causal.dense(documents.shape[1], documents.shape[1], documents.device)


def same_document(documents: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch 1 length length"]:
    """Bias of packed rows whose tokens see both sides: a token sees all tokens of its own document and no others."""
    return (documents[:, :, None] == documents[:, None, :])[:, None]


def restarting_positions(documents: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Positions that count from 0 again wherever a new document starts in a packed row."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def rotary(
    positions: Int[Tensor, "batch length"], head_dim: int, *, base: float = 10000.0
) -> tuple[Float[Tensor, "batch 1 length half"], Float[Tensor, "batch 1 length half"]]:
    """Cosines and sines of rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34), in float64."""
    return turns(
        positions, base ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim)
    )


def turns(
    positions: Int[Tensor, "batch length"], frequencies: Float[Tensor, " half"], *, gain: float = 1.0
) -> tuple[Float[Tensor, "batch 1 length half"], Float[Tensor, "batch 1 length half"]]:
    """`gain` times cosines and sines of the angle position * frequency, in the format of the frequencies."""
    angles = positions[:, None, :, None] * frequencies
    return angles.cos() * gain, angles.sin() * gain


def rotate(
    x: Float[Tensor, "batch heads length head_dim"],
    angles: tuple[Float[Tensor, "#batch 1 length half"], Float[Tensor, "#batch 1 length half"]],
) -> Float[Tensor, "batch heads length head_dim"]:
    """Turn each pair (x[i], x[i + head_dim/2]) by its angle; the two halves are paired as in GPT-NeoX and Llama."""
    cosine, sine = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
