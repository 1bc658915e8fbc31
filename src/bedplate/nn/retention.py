"""Retention (Sun et al. 2023, arXiv 2307.08621, section 2.1): each token reads from a fading sum of all tokens so far.

    out[n] = sum over m <= n of gamma^(n - m) (query[n] . key[m]) value[m]

One function in four forms, which tests equate: the parallel form multiplies with a matrix of decays as attention does
with its bias; the recurrent one carries the sum from token to token; the chunkwise one is parallel within chunks and
carries the sum from chunk to chunk, so that its cost grows with the length and not with its square; and the plain one
is the formula. What is held of a sequence is the sum alone, whatever its length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 64  # tokens that are parallel in the chunkwise form; on a CPU 32 and 128 are about as fast

Keys = Float[Tensor, "batch heads length key_dim"]
Values = Float[Tensor, "batch heads length value_dim"]
# The sum of decayed products of keys and values. What is summed when a query reads from it lies side by side, so that
# the order of summation depends on nothing but key_dim.
Sums = Float[Tensor, "batch heads value_dim key_dim"]


def power_decays(num_heads: int) -> tuple[float, ...]:
    """1 - 2^(-5 - head) (section 2.2, and the released code)."""
    return tuple(1 - 2.0 ** (-5 - head) for head in range(num_heads))


def spread_decays(num_heads: int) -> tuple[float, ...]:
    """From 1 - 1/32 to 1 - 1/512, whatever the number of heads, as in the paper's experiments (section 3.1)."""
    steps = [head / max(1, num_heads - 1) for head in range(num_heads)]
    return tuple(1 - math.exp(-math.log(32) - step * math.log(512 / 32)) for step in steps)


class Factors(NamedTuple):
    """What the chunkwise form multiplies with; the last axes are those of a chunk, [heads chunk] or, of packed rows,
    [batch heads chunk] come before them.
    """

    within: Float[Tensor, "*packed size size"]  # scores of a chunk's queries and keys
    across: Float[Tensor, "*packed size 1"]  # queries that read what chunks before left
    kept: Float[Tensor, "*packed size 1"]  # values on their way to the end of their chunk
    carried: Float[Tensor, "*packed 1 1"]  # what chunks before left, on its way to the end of this one


@dataclass(frozen=True, eq=False)
class Decay:
    """How fast each head forgets, and how far the documents of packed rows reach back.

    Made once for each pass through a model: all layers share what is computed here.
    """

    logs: Float[Tensor, " heads"]  # log gamma, in float64
    ages: Int[Tensor, "batch length"] | None = None  # tokens of its document before each token of packed rows
    _made: dict[tuple[int, int, int, torch.dtype], Factors] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, gammas: Sequence[float], *, ages: Tensor | None = None, device: torch.device) -> "Decay":
        """From the share that each head keeps from one token to the next."""
        return cls(torch.tensor([math.log(gamma) for gamma in gammas], dtype=torch.float64, device=device), ages)

    def powers(self, count: int) -> Float[Tensor, "heads count"]:
        """gamma^0, gamma^1 and so on; negative powers, which overflow, are never needed."""
        return (self.logs[:, None] * torch.arange(count, device=self.logs.device)).exp()

    def totals(self, positions: Int[Tensor, "batch new"]) -> Float[Tensor, "batch heads new"]:
        """The sum of gamma^m over a token and all before it, for the token at each position."""
        logs = self.logs[:, None]
        return torch.expm1((positions[:, None] + 1) * logs) / torch.expm1(logs)

    def factors(self, start: int, stop: int, size: int, dtype: torch.dtype) -> Factors:
        """For the tokens from `start` to `stop` in chunks of `size`."""
        key = (start if self.ages is not None else 0, stop if self.ages is not None else 0, size, dtype)
        if key not in self._made:
            made = self._factors(size)
            if self.ages is not None:
                made = _within_documents(made, self.ages[:, None, start:stop].unflatten(2, (-1, size)))
            self._made[key] = Factors(*(factor.to(dtype) for factor in made))
        return self._made[key]

    def _factors(self, size: int) -> Factors:
        powers = self.powers(size + 1)[:, None]
        place = torch.arange(size, device=powers.device)
        distance = place[:, None] - place
        within = powers[..., distance.clamp(min=0)] * (distance >= 0)
        return Factors(within, powers[..., 1:, None], powers[..., :size].flip(-1)[..., None], powers[..., size:, None])


def _within_documents(factors: Factors, ages: Int[Tensor, "batch 1 chunks size"]) -> Factors:
    """The same with 0 wherever a document begins between a key and its reader."""
    size = ages.shape[-1]
    place = torch.arange(size, device=ages.device)
    last = ages[..., -1:, None]  # of the last token of each chunk, where what is carried ends up
    return Factors(
        factors.within * (place[:, None] - place <= ages[..., None]),
        factors.across * (ages > place)[..., None],
        factors.kept * (size - 1 - place[:, None] <= last),
        factors.carried * (last >= size),
    )


def retain(query: Keys, key: Keys, value: Values, *, decay: Decay) -> Values:
    """Retention over whole sequences, by the form that is faster: where both multiply as often they take as long."""
    if query.shape[2] <= break_even(key.shape[3], value.shape[3]):
        return retain_parallel(query, key, value, decay=decay)
    return retain_chunkwise(query, key, value, decay=decay, sums=no_sums(key, value))[0]


def break_even(key_dim: int, value_dim: int) -> float:
    """Tokens up to which the parallel form multiplies less often than the chunkwise one."""
    return CHUNK + 2 * key_dim * value_dim / (key_dim + value_dim)


def no_sums(key: Keys, value: Values) -> Sums:
    """What is held of sequences that have not begun, in float32 at least: sums run over many tokens."""
    shape = (*value.shape[:2], value.shape[3], key.shape[3])
    return torch.zeros(shape, dtype=torch.promote_types(value.dtype, torch.float32), device=value.device)


def retain_parallel(query: Keys, key: Keys, value: Values, *, decay: Decay) -> Values:
    """(query key^T * D) value with D[n, m] = gamma^(n - m) for m <= n, else 0 (section 2.1)."""
    length = query.shape[2]
    within = decay.factors(0, length, length, query.dtype).within.squeeze(-3)
    return (query @ key.transpose(-1, -2) * within) @ value


def retain_chunkwise(
    query: Keys, key: Keys, value: Values, *, decay: Decay, sums: Sums, chunk: int = CHUNK
) -> tuple[Values, Sums]:
    """Parallel within chunks, recurrent from chunk to chunk (section 2.1); also the sums after the last token."""
    length, found = query.shape[2], []
    whole = length - length % chunk
    for start, stop, size in ((0, whole, chunk), (whole, length, length - whole)):
        if start < stop:
            parts = [part[:, :, start:stop].unflatten(2, (-1, size)) for part in (query, key, value)]
            factors = decay.factors(start, stop, size, query.dtype)
            mixed, sums = _retain_chunks(*parts, factors=factors, sums=sums)
            found.append(mixed)
    return torch.cat(found, dim=2), sums


def _retain_chunks(
    query: Float[Tensor, "batch heads chunks size key_dim"],
    key: Float[Tensor, "batch heads chunks size key_dim"],
    value: Float[Tensor, "batch heads chunks size value_dim"],
    *,
    factors: Factors,
    sums: Sums,
) -> tuple[Values, Sums]:
    inner = (query @ key.transpose(-1, -2) * factors.within) @ value
    left = (value * factors.kept).transpose(-1, -2) @ key
    before = []
    carried = factors.carried.expand(*factors.carried.shape[:-3], query.shape[2], 1, 1)
    for share, own in zip(carried.unbind(-3), left.unbind(2), strict=True):
        before.append(sums.to(query.dtype))
        sums = sums * share + own
    across = (query * factors.across) @ torch.stack(before, dim=2).transpose(-1, -2)
    return (inner + across).flatten(2, 3), sums


def retain_recurrent(query: Keys, key: Keys, value: Values, *, decay: Decay, sums: Sums) -> tuple[Values, Sums]:
    """sums = gamma sums + value key^T, out = sums query, token by token (section 2.1); also the sums at the end."""
    gamma, found = decay.powers(2)[:, 1, None, None].to(sums.dtype), []
    for place in range(query.shape[2]):
        at = [part[:, :, place].to(sums.dtype) for part in (query, key, value)]
        share = gamma if decay.ages is None else gamma * (decay.ages[:, place, None, None, None] > 0)
        sums = torch.addcmul(sums * share, at[2][..., None], at[1][..., None, :])
        found.append((sums * at[0][..., None, :]).sum(dim=-1).to(value.dtype))
    return torch.stack(found, dim=2), sums


def retain_plain(query: Keys, key: Keys, value: Values, *, decay: Decay) -> Values:
    """The formula as the paper writes it: the twin that the other forms are tested against."""
    found = torch.zeros_like(value)
    for n in range(query.shape[2]):
        for m in range(n + 1):
            share = (decay.logs * (n - m)).exp().to(query.dtype)
            if decay.ages is not None:
                share = share * (decay.ages[:, n, None] >= n - m)
            score = (query[:, :, n] * key[:, :, m]).sum(dim=-1) * share
            found[:, :, n] += score[..., None] * value[:, :, m]
    return found
