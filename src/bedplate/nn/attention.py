"""Multi-head attention (Vaswani et al. 2017, section 3.2), its kernels and its cache."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bedplate.nn.position import Causal, rotate

Heads = Float[Tensor, "batch heads query head_dim"]
KeyHeads = Float[Tensor, "batch kv_heads key head_dim"]
NewHeads = Float[Tensor, "batch kv_heads new head_dim"]
# A bias is added to the scores when it is floating point, and says "may look" when it is boolean.
Bias = Causal | Bool[Tensor, "#batch #heads query key"] | Float[Tensor, "#batch #heads query key"] | None


def attend(
    query: Heads, key: KeyHeads, value: KeyHeads, *, bias: Bias = None, scale: float | None = None, dropout: float = 0.0
) -> Heads:
    """softmax(query key^T * scale + bias) value by the fastest kernel that these inputs allow.

    `scale` defaults to head_dim ** -0.5. Fewer key heads than query heads are shared by equal groups of query heads.
    A `Causal` bias never becomes a matrix unless the queries are a proper part of the keys.
    """
    causal = isinstance(bias, Causal) and query.shape[2] > 1
    if isinstance(bias, Causal):
        partial = causal and query.shape[2] != key.shape[2]
        bias = bias.dense(query.shape[2], key.shape[2], query.device) if partial else None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=causal and bias is None,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def attend_plain(
    query: Heads, key: KeyHeads, value: KeyHeads, *, bias: Bias = None, scale: float | None = None
) -> Heads:
    """The formula as the paper writes it (eq. 1): the twin that `attend` is tested against."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(bias, Causal):
        bias = bias.dense(query.shape[2], key.shape[2], query.device)
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
    return scores.softmax(dim=-1) @ value


class KVCache:
    """Keys and values of the tokens that one attention layer has seen, in memory set aside once.

    `lengths[b]` tokens of sequence b are held. While all sequences are equally long, `append` is a slice copy.
    """

    def __init__(
        self, batch: int, num_kv_heads: int, capacity: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = torch.zeros(batch, num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.longest = 0
        self.ragged = False

    @property
    def capacity(self) -> int:
        """Tokens per sequence that fit."""
        return self.keys.shape[2]

    def append(self, key: NewHeads, value: NewHeads) -> tuple[KeyHeads, KeyHeads]:
        """Store new tokens behind each sequence's last one; returns all keys and values, up to the longest sequence."""
        start, end = self.longest, self.longest + key.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {end} were given")
        if self.ragged:
            rows = torch.arange(len(key), device=key.device)[:, None]
            columns = self.lengths[:, None] + torch.arange(key.shape[2], device=key.device)
            self.keys[rows, :, columns] = key.transpose(1, 2)
            self.values[rows, :, columns] = value.transpose(1, 2)
        else:
            self.keys[:, :, start:end] = key
            self.values[:, :, start:end] = value
        self.lengths += key.shape[2]
        self.longest = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def truncate(self, lengths: Int[Tensor, " batch"]) -> None:
        """Forget all but the first `lengths[b]` tokens of each sequence, for instance the padding of a prefill."""
        if ((lengths < 0) | (lengths > self.lengths)).any():
            raise ValueError(f"the cache holds {self.lengths.tolist()} tokens, not {lengths.tolist()}")
        self.lengths = lengths.clone()
        self.longest = int(lengths.max()) if len(lengths) else 0
        self.ragged = bool((lengths != self.longest).any())

    def select(self, indices: Int[Tensor, " kept"]) -> None:
        """Keep only these sequences, in this order."""
        self.keys, self.values, self.lengths = self.keys[indices], self.values[indices], self.lengths[indices]
        self.truncate(self.lengths)


class Attention(nn.Module):
    """Queries from `x`, keys and values from `x` or from `memory`; multi-query and grouped heads by `num_kv_heads`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or dim // num_heads
        self.scale = scale
        self.dropout = dropout
        self.query = nn.Linear(dim, self.num_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(self.num_heads * self.head_dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch query dim"],
        *,
        memory: Float[Tensor, "batch key dim"] | None = None,
        bias: Bias = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        state: KVCache | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        source = x if memory is None else memory
        query = self.query(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        key = self.key(source).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        value = self.value(source).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if state is not None:
            key, value = state.append(key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, bias=bias, scale=self.scale, dropout=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))
