"""What the kernel of a whole block must know of it, and whether that is still true."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.nn.attention import Attention
from bedplate.nn.fast.few_rows import KINDS, fits, inputs_of, line_of, table_of
from bedplate.nn.fast.lanes import LANES
from bedplate.nn.linear import Linear, QuantizedLinear, stored_matrix
from bedplate.nn.mlp import MLP, gelu_tanh
from bedplate.nn.norm import LayerNorm


class Ready(NamedTuple):
    """A block as the kernel reads it."""

    numbers: np.ndarray
    eps: np.float32
    tables: tuple[np.ndarray, ...]
    kind: np.generic
    grouped: int | None
    scale: np.float32
    room: int  # numbers for what lies between, for each row


class Prepared:
    """What the kernel must know of a block, and how to tell that it is still true."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self.modules = list(block.modules())
        self._children = [(each._modules, *child) for each in self.modules for child in each._modules.items()]
        self._places = [place for module in self.modules for place in _places(module)]
        self._layers = _layers(block)
        self._read: tuple[Any, Ready | None] = (None, None)  # what it was read from, and what was found

    def __deepcopy__(self, memo: object) -> None:
        """A copy of a block is prepared anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def current(self) -> bool:
        """Whether the block still consists of these modules."""
        return all(children.get(name) is child for children, name, child in self._children)

    def ready(self) -> Ready | None:
        """What the kernel reads; None where it cannot compute the block. Read anew when something has changed."""
        tensors = [held.get(name) for held, name in self._places]
        found = [None if each is None else (each.data_ptr(), each.dtype, each.shape, each.stride()) for each in tensors]
        attention, norms = self._block.attention, (self._block.attention_norm, self._block.mlp_norm)
        plain = self._block.mlp.activation, attention.scale, attention.num_heads, *(norm.eps for norm in norms)
        state = found, plain
        if state != self._read[0]:
            self._read = state, self._find()
        return self._read[1]

    def _find(self) -> Ready | None:
        block, attention, norms = self._block, self._block.attention, (self._block.attention_norm, self._block.mlp_norm)
        known = (
            type(attention) is Attention
            and type(block.mlp) is MLP
            and block.mlp.activation is gelu_tanh
            and type(block.dropout) is nn.Dropout
            and all(type(layer) in (Linear, QuantizedLinear) for layer in self._layers)
            and all(type(norm) is LayerNorm and norm.eps == norms[0].eps for norm in norms)
        )
        matrices: list[Any] = [stored_matrix(layer.weight, layer.bias) for layer in self._layers] if known else [None]
        if None in matrices:
            return None
        dim, mlp_dim = len(matrices[3][0]), len(matrices[4][0])
        heads, kv_heads, head_dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
        wide, narrow = heads * head_dim, kv_heads * head_dim
        shapes = [(wide, dim), (narrow, dim), (narrow, dim), (dim, wide), (mlp_dim, dim), (dim, mlp_dim)]
        numbers = [each for norm in norms for each in (norm.weight, norm.bias)]
        floats = [*numbers, *(layer.bias for layer in self._layers)]
        sizes = [dim] * len(numbers) + [outputs for outputs, _ in shapes]
        codes = {each.dtype for each, _, _ in matrices}
        usable = (
            len(codes) == 1
            and [(len(each), inputs_of(each)) for each, _, _ in matrices] == shapes
            and all(each is not None and each.dtype == torch.float32 and each.is_cpu for each in floats)
            and [each.numel() for each in floats] == sizes
            and all(fits(inputs, kind) for _, inputs in shapes for kind in codes)
            and head_dim % LANES == 0
        )
        if not usable:
            return None
        (kind,) = codes
        lines = [line_of(matrix) for matrix in matrices]
        return Ready(
            numbers=np.array([*(each.data_ptr() for each in numbers), dim, mlp_dim, heads, kv_heads, head_dim]),
            eps=np.float32(norms[0].eps),
            tables=(table_of(tuple(lines[:3])), *(table_of((line,)) for line in lines[3:])),
            kind=KINDS[kind],
            grouped=1 if kind == torch.uint8 else None,
            scale=np.float32(head_dim**-0.5 if attention.scale is None else attention.scale),
            room=dim + wide + max(wide + 2 * narrow, mlp_dim) + max(dim, wide, mlp_dim) // 2,
        )


def _layers(block: Any) -> list[Any]:
    attention, mlp = block.attention, block.mlp
    return [attention.query, attention.key, attention.value, attention.out, mlp.up, mlp.down]


def _places(module: nn.Module) -> list[tuple[Any, str]]:
    """Where the tensors of a module are found."""
    return [(held, name) for held in (module._parameters, module._buffers) for name in held]


def belongs(x: Tensor, state: Any, ready: Ready) -> bool:
    """Whether the block can go on from such a cache with such an input."""
    dim, _, _, kv_heads, head_dim = ready.numbers[4:].tolist()
    keys = state.keys
    return (
        x.shape == (len(state.rows), 1, dim)
        and (keys.shape[1], keys.shape[3]) == (kv_heads, head_dim)
        and x.dtype == keys.dtype == torch.float32
        and keys.is_cpu
        and keys.is_contiguous()
        and max(state.lengths) < state.capacity
    )
