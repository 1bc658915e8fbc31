"""The key-value cache of one attention layer."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bedplate.nn.attend import Bias, Heads, attend
from bedplate.nn.linear import inferring, kernels
from bedplate.nn.position import CAUSAL, Alibi, Causal

NewHeads = Float[Tensor, "batch kv_heads new head_dim"]


class KVCache:
    """Keys and values of the tokens that one attention layer has seen, in memory set aside once.

    `lengths[b]` tokens of sequence b are held. Equally long sequences are attended to in one call, others each in a
    call of its own, without padding: what a sequence gives does not depend on its neighbors, not even in its last bit.
    """

    def __init__(
        self, batch: int, num_kv_heads: int, capacity: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = torch.zeros(batch, num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self._held = [0] * batch  # tokens in each row of the memory, shared by all views of it
        self.rows = list(range(batch))  # the rows that this view looks at

    @property
    def capacity(self) -> int:
        """Tokens per sequence that fit."""
        return self.keys.shape[2]

    @property
    def lengths(self) -> list[int]:
        """Tokens held of each sequence."""
        return [self._held[row] for row in self.rows]

    def next_positions(self, new: int) -> Int[Tensor, "#batch new"]:
        """Where the next `new` tokens of each sequence stand; one row when all sequences are equally long."""
        lengths = self.lengths
        starts = torch.tensor(lengths[:1] if len(set(lengths)) == 1 else lengths, device=self.keys.device)
        return starts[:, None] + torch.arange(new, device=self.keys.device)

    def view(self, rows: Sequence[int]) -> "KVCache":
        """These sequences alone, in the same memory: what is done to the view is done to them."""
        part = copy.copy(self)
        part.rows = [self.rows[row] for row in rows]
        return part

    def append(self, key: NewHeads, value: NewHeads) -> None:
        """Store new tokens behind each sequence's last one."""
        new, lengths = key.shape[2], self.lengths
        if max(lengths) + new > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, {max(lengths) + new} were given")
        block = self._block(lengths)
        if block is not None:
            start, end = lengths[0], lengths[0] + new
            self.keys[block, :, start:end], self.values[block, :, start:end] = key, value
        else:
            for place, (row, start) in enumerate(zip(self.rows, lengths, strict=True)):
                self.keys[row, :, start : start + new] = key[place]
                self.values[row, :, start : start + new] = value[place]
        self.count(new)

    def count(self, new: int) -> None:
        """Note that `new` tokens more of each sequence are held."""
        for row in self.rows:
            self._held[row] += new

    def attend(
        self, query: Heads, key: NewHeads, value: NewHeads, *, bias: Bias = None, scale: float | None = None
    ) -> Heads:
        """Append, then attend to everything held. A dense `bias` covers the keys of the longest sequence."""
        lengths = self.lengths
        full = bias is None or bias == CAUSAL
        if key.shape[2] == 1 and full and inferring(query) and max(lengths) < self.capacity:
            kernel = kernels()
            if kernel is not None and kernel.attend_one.fits(query, key, value, self.keys, self.rows):
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                held = {"keys": self.keys, "values": self.values, "rows": self.rows, "lengths": lengths}
                mixed = kernel.attend_one.attend_one(query, key, value, scale=scale, **held)
                self.count(1)
                return mixed
        self.append(key, value)
        lengths = self.lengths
        block = self._block(lengths)
        if block is not None:
            end = lengths[0]
            return attend(query, self.keys[block, :, :end], self.values[block, :, :end], bias=bias, scale=scale)
        mixed = []
        for place, (row, end) in enumerate(zip(self.rows, lengths, strict=True)):
            held = self.keys[row, None, :, :end], self.values[row, None, :, :end]
            mixed.append(attend(query[place, None], *held, bias=_of_sequence(bias, place, end), scale=scale))
        return torch.cat(mixed)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of each sequence; 0 begins anew."""
        if any(not 0 <= length <= held for length, held in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"the cache holds {self.lengths} tokens, not {list(lengths)}")
        for row, length in zip(self.rows, lengths, strict=True):
            self._held[row] = length

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences, in this order, each as often as it is named."""
        lengths = self.lengths
        rows = torch.tensor([self.rows[index] for index in indices], dtype=torch.long, device=self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]
        self._held = [lengths[index] for index in indices]
        self.rows = list(range(len(indices)))

    def fork(self, source: int, target: int, length: int) -> bool:
        """Let sequence `target` begin with the first `length` tokens of `source`; False when that cannot be done."""
        read, write = self.rows[source], self.rows[target]
        if read != write:
            self.keys[write, :, :length] = self.keys[read, :, :length]
            self.values[write, :, :length] = self.values[read, :, :length]
        self._held[write] = length
        return True

    def _block(self, lengths: Sequence[int]) -> slice | None:
        """The rows as one piece of the memory, when they lie side by side and are equally long."""
        first, count = self.rows[0], len(self.rows)
        same = self.rows == list(range(first, first + count)) and lengths.count(lengths[0]) == count
        return slice(first, first + count) if same else None


def _of_sequence(bias: Bias, place: int, keys: int) -> Tensor | Causal | Alibi | None:
    if not isinstance(bias, Tensor):
        return bias
    return bias[place if len(bias) > 1 else 0, None, :, :, :keys]
