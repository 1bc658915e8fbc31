"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1) under any bias, by the fastest kernel that fits."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bedplate.nn.position import Alibi, Causal

Heads = Float[Tensor, "batch heads query head_dim"]
KeyHeads = Float[Tensor, "batch kv_heads key head_dim"]
# A bias is added to the scores when it is floating point, and says "may look" when it is boolean.
Bias = Causal | Alibi | Bool[Tensor, "#batch #heads #query key"] | Float[Tensor, "#batch #heads #query key"] | None


def attend(
    query: Heads, key: KeyHeads, value: KeyHeads, *, bias: Bias = None, scale: float | None = None, dropout: float = 0.0
) -> Heads:
    """softmax(query key^T * scale + bias) value.

    `scale` defaults to head_dim ** -0.5. Fewer key heads than query heads are shared by equal groups of query heads.
    A symbolic bias (`Causal`, with or without a window, `Alibi`) becomes a matrix only where the queries are a proper
    part of the keys, which a cache makes few.
    """
    if isinstance(bias, Causal) and bias.window:
        seen = bias.window + query.shape[2] - 1  # keys that any of the queries sees
        key, value = key[:, :, -seen:], value[:, :, -seen:]
        if bias.window < query.shape[2] == key.shape[2]:
            return _attend_banded(query, key, value, window=bias.window, scale=scale, dropout=dropout)
    queries, keys = query.shape[2], key.shape[2]
    if isinstance(bias, Alibi) and 1 < queries == keys:
        return _attend_alibi(query, key, value, bias=bias, scale=scale, dropout=dropout)
    causal = isinstance(bias, Causal) and 1 < queries == keys
    if isinstance(bias, Causal | Alibi):
        everything = causal or (isinstance(bias, Causal) and queries == 1)
        bias = None if everything else bias.dense(queries, keys, query.device).to(_kind(bias, query))
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=causal,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def attend_plain(
    query: Heads, key: KeyHeads, value: KeyHeads, *, bias: Bias = None, scale: float | None = None
) -> Heads:
    """The formula as the paper writes it: the twin that `attend` is tested against."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(bias, Causal | Alibi):
        bias = bias.dense(query.shape[2], key.shape[2], query.device)
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.to(scores.dtype)
    return scores.softmax(dim=-1) @ value


def _kind(bias: Causal | Alibi, query: Tensor) -> torch.dtype:
    return torch.bool if isinstance(bias, Causal) else query.dtype


def _attend_banded(
    query: Heads, key: KeyHeads, value: KeyHeads, *, window: int, scale: float | None, dropout: float
) -> Heads:
    """Each query sees `window` keys up to its own. In blocks of the window, which see themselves and the block before:
    the cost grows with the length times the window, not with the square of the length.
    """
    length = query.shape[2]
    missing = -length % window
    query, key, value = (F.pad(part, (0, 0, 0, missing)) for part in (query, key, value))  # seen by no real query
    first = [part[:, :, :window] for part in (query, key, value)]
    begin = attend(*first, bias=Causal(), scale=scale, dropout=dropout)
    blocks = [_blocks(query[:, :, window:], window, window)]
    blocks += [_blocks(part, window, 2 * window) for part in (key, value)]
    seen = Causal(window=window).dense(window, 2 * window, query.device)
    rest = attend(*blocks, bias=seen[None, None], scale=scale, dropout=dropout)
    rest = rest.unflatten(0, (len(query), -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat((begin, rest), dim=2)[:, :, :length]


def _blocks(
    x: Float[Tensor, "batch heads length head_dim"], step: int, size: int
) -> Float[Tensor, "batch_blocks heads size head_dim"]:
    """Pieces of `size` tokens that begin `step` tokens apart, as rows of a batch."""
    return x.unfold(2, size, step).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _attend_alibi(
    query: Heads, key: KeyHeads, value: KeyHeads, *, bias: Alibi, scale: float | None, dropout: float
) -> Heads:
    """Slope times key position is one more product in each score, so that the kernel needs no matrix of biases."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    slopes, positions = bias.factors(key.shape[2], scale=scale, like=key)
    query = torch.cat((query, slopes[None, :, None].expand(len(query), -1, query.shape[2], -1)), dim=-1)
    key = torch.cat((key, positions.expand(*key.shape[:2], -1, -1)), dim=-1)
    width, rest = value.shape[-1], -query.shape[-1] % 16
    query, key = (F.pad(part, (0, rest)) for part in (query, key))
    value = F.pad(value, (0, query.shape[-1] - width))  # the kernel wants equal widths
    seen = Causal() if bias.seen is None else bias.seen
    return attend(query, key, value, bias=seen, scale=scale, dropout=dropout)[..., :width]
