"""The key-value cache of one attention layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.nn.attend import Bias, Heads, attend
from bedplate.nn.linear import inferring, kernels
from bedplate.nn.position import Alibi, Causal
from bedplate.nn.sequences import Sequences

NewHeads = Float[Tensor, "batch kv_heads new head_dim"]


class KVCache(Sequences):
    """Keys and values of the tokens that one attention layer has seen, in memory set aside once.

    `lengths[b]` tokens of sequence b are held. Equally long sequences are attended to in one call, others each in a
    call of its own, without padding: what a sequence gives does not depend on its neighbors, not even in its last bit.
    """

    goes_back = True

    def __init__(
        self, batch: int, num_kv_heads: int, capacity: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(batch, device=device)
        self.keys = torch.zeros(batch, num_kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        """Tokens per sequence that fit."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.keys.nbytes + self.values.nbytes

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

    def attend(
        self, query: Heads, key: NewHeads, value: NewHeads, *, bias: Bias = None, scale: float | None = None
    ) -> Heads:
        """Append, then attend to everything held. A dense `bias` covers the keys of the longest sequence."""
        lengths = self.lengths
        symbolic = bias is None or isinstance(bias, Causal)
        if key.shape[2] == 1 and symbolic and inferring(query) and max(lengths) < self.capacity:
            kernel = kernels()
            if kernel is not None and kernel.attend_one.fits(query, key, value, self.keys, self.rows):
                scale = query.shape[-1] ** -0.5 if scale is None else scale
                held = {"keys": self.keys, "values": self.values, "rows": self.rows, "lengths": lengths}
                window = None if bias is None else bias.window
                mixed = kernel.attend_one.attend_one(query, key, value, scale=scale, window=window, **held)
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
        return self._side_by_side() if lengths.count(lengths[0]) == len(lengths) else None


def _of_sequence(bias: Bias, place: int, keys: int) -> Tensor | Causal | Alibi | None:
    if not isinstance(bias, Tensor):
        return bias
    return bias[place if len(bias) > 1 else 0, None, :, :, :keys]
