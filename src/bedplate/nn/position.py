"""Where a token stands and what it may see: positions and attention biases, made once per forward pass."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Causal:
    """The bias "each query sees the keys up to itself", kept symbolic so that attention can take its fused path.

    Queries are the last positions of the keys: query i of n sees the first `keys - n + i + 1` keys.
    """

    def dense(self, query: int, key: int, device: torch.device) -> Bool[Tensor, "query key"]:
        """The same bias written out: True where a query may look."""
        return torch.ones(query, key, dtype=torch.bool, device=device).tril(key - query)


CAUSAL = Causal()


def within_documents(documents: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch 1 length length"]:
    """Causal bias for packed rows: a token sees itself and earlier tokens of its own document only."""
    same = documents[:, :, None] == documents[:, None, :]
    return (same & CAUSAL.dense(documents.shape[1], documents.shape[1], documents.device))[:, None]


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
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim)
    angles = positions[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch heads length head_dim"],
    angles: tuple[Float[Tensor, "#batch 1 length half"], Float[Tensor, "#batch 1 length half"]],
) -> Float[Tensor, "batch heads length head_dim"]:
    """Turn each pair (x[i], x[i + head_dim/2]) by its angle; the two halves are paired as in GPT-NeoX and Llama."""
    cosine, sine = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
