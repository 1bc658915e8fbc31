"""What a decoder holds while it writes: a cache of its own tokens, and the keys and values of what it reads from."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.nn.attend import Heads, attend
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Weight

SourceHeads = Float[Tensor, "1 kv_heads key head_dim"]


class Memory:
    """Keys and values of each sequence's source, for one layer of cross-attention.

    They are as long as the source: nothing is padded, so that what a sequence reads does not depend on its neighbors.
    """

    def __init__(self, batch: int) -> None:
        self._held: list[tuple[SourceHeads, SourceHeads] | None] = [None] * batch  # shared by all views
        self.rows = list(range(batch))

    def fill(self, key: SourceHeads, value: SourceHeads) -> None:
        """Let every sequence of this view read from these."""
        for row in self.rows:
            self._held[row] = key, value

    def view(self, rows: Sequence[int]) -> "Memory":
        """These sequences alone: what is done to the view is done to them."""
        part = copy.copy(self)
        part.rows = [self.rows[row] for row in rows]
        return part

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences, in this order, each as often as it is named."""
        self._held = [self._held[self.rows[index]] for index in indices]
        self.rows = list(range(len(indices)))

    def attend(self, query: Heads, *, bias: Tensor | None = None, scale: float | None = None) -> Heads:
        """Attend to the source of each sequence; sequences that share one (beams) do it together."""
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(self.rows):
            groups.setdefault(id(self._held[row]), []).append(place)
        mixed = torch.empty_like(query)
        for places in groups.values():
            held = self._held[self.rows[places[0]]]
            if held is None:
                raise ValueError("a sequence has no source to read from: call read_source first")
            queries = query[places].transpose(0, 1).flatten(1, 2)[None]  # of all of them, one behind the other
            found = attend(queries, *held, bias=bias, scale=scale)
            mixed[places] = found[0].unflatten(1, (len(places), -1)).transpose(0, 1)
        return mixed


class DecoderState:
    """Of one layer: `own` caches what was written, `memory` what is read from. Sequences are those of `own`."""

    goes_back = True

    def __init__(self, own: KVCache, memory: Memory) -> None:
        self.own, self.memory = own, memory

    @property
    def nbytes(self) -> int:
        """Bytes of the cache; what is read from is as large as its source."""
        return self.own.nbytes

    @property
    def capacity(self) -> int:
        """Tokens per sequence that fit."""
        return self.own.capacity

    @property
    def lengths(self) -> list[int]:
        """Tokens written into each sequence."""
        return self.own.lengths

    def next_positions(self, new: int) -> Int[Tensor, "#batch new"]:
        """Where the next tokens stand, see `KVCache.next_positions`."""
        return self.own.next_positions(new)

    def view(self, rows: Sequence[int]) -> "DecoderState":
        """These sequences alone, in the same memory."""
        return DecoderState(self.own.view(rows), self.memory.view(rows))

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget all but the first tokens written; what is read from stays."""
        self.own.truncate(lengths)

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences, in this order, each as often as it is named."""
        self.own.select(indices)
        self.memory.select(indices)

    def fork(self, source: int, target: int, length: int) -> bool:
        """Equal beginnings of two texts mean nothing where their sources differ: never shared."""
        return False


def new_decoder_state(
    layers: int, batch: int, num_heads: int, capacity: int, head_dim: int, *, like: Weight
) -> list[DecoderState]:
    """Of each layer of a decoder, with numbers of the type of `like` and where it is."""
    return [
        DecoderState(KVCache(batch, num_heads, capacity, head_dim, dtype=like.dtype, device=like.device), Memory(batch))
        for _ in range(layers)
    ]


def let_read(state: Sequence[DecoderState], blocks: nn.ModuleList, source: Float[Tensor, "1 source dim"]) -> None:
    """Let the sequences of a state read from what an encoder made of a source."""
    for place, layer in enumerate(state):
        attention: Any = blocks.get_submodule(f"{place}.cross_attention")
        layer.memory.fill(*attention.read(source))
