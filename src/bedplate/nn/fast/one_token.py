"""A whole pre-norm Transformer block for one new token of each sequence, as one call: for decoding on a CPU.

Run as separate operations, a block of GPT-2 124M spends some 130 microseconds on two cores outside of its matrices,
more than int4 weights take to be read. What a sequence gives does not depend on the others, not even in its last bit.
"""

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from bedplate.nn.fast.attend_one import attend_heads, first_seen, scratch
from bedplate.nn.fast.compiled import inline, kernel, run
from bedplate.nn.fast.few_rows import BLOCKS, offset_groups, outputs_of_block
from bedplate.nn.fast.lanes import add, divide, exponential, load, multiply_add, spread, store, total, zeros
from bedplate.nn.fast.prepared_block import Prepared, belongs
from bedplate.nn.linear import watched

FLOAT32 = np.float32(0)
PIECES = 8  # in which the activation is shared out to threads


@inline
def _normalize(x, output, weight, bias, dim, eps):
    """Layer norm of one row (Ba et al. 2016)."""
    sums = zeros()
    for place in range(0, dim, 16):
        sums = add(sums, load(x, place, FLOAT32))
    shift, squares = spread(-total(sums) / np.float32(dim)), zeros()
    for place in range(0, dim, 16):
        centered = add(load(x, place, FLOAT32), shift)
        squares = multiply_add(centered, centered, squares)
    scale = spread(np.float32(1) / np.sqrt(total(squares) / np.float32(dim) + eps))
    for place in range(0, dim, 16):
        centered = multiply_add(add(load(x, place, FLOAT32), shift), scale, zeros())
        store(output, place, multiply_add(centered, load(weight, place, FLOAT32), load(bias, place, FLOAT32)))


@inline
def _gelu_tanh(address, first, end):
    """x / (1 + e^-2u) with u = sqrt(2/pi) (x + 0.044715 x^3), which is the tanh form, in place."""
    for place in range(first, end, 16):
        x = load(address, place, FLOAT32)
        square = multiply_add(x, x, zeros())
        inner = multiply_add(
            square, spread(np.float32(-2 * 0.7978845608028654 * 0.044715)), spread(np.float32(-2 * 0.7978845608028654))
        )
        grown = exponential(multiply_add(inner, x, zeros()))
        store(address, place, divide(x, add(grown, spread(np.float32(1)))))


@inline
def _add(x, y, count):
    for place in range(0, count, 16):
        store(x, place, add(load(x, place, FLOAT32), load(y, place, FLOAT32)))


@inline
def _normalize_rows(x, output, offsets, count, dim, weight, bias, eps, grouped):
    for row in range(count):
        _normalize(x + row * dim * 4, output + row * dim * 4, weight, bias, dim, eps)
    if grouped is not None:
        offset_groups(output, offsets, count * dim)


@inline
def _attend(
    wide, mixed, keys, values, capacity, rows, starts, lengths, scores, place, heads, kv_heads, head_dim, scale
):
    """The heads of one sequence that share keys and values, from query, key and value side by side in `wide`."""
    row, head, group = place // kv_heads, place % kv_heads, heads // kv_heads
    held = ((rows[row] * kv_heads + head) * capacity + starts[row]) * head_dim * 4
    query = wide + row * (heads + 2 * kv_heads) * head_dim * 4 + head * group * head_dim * 4
    key = wide + row * (heads + 2 * kv_heads) * head_dim * 4 + (heads + head) * head_dim * 4
    value, output = key + kv_heads * head_dim * 4, mixed + (row * heads + head * group) * head_dim * 4
    own, stride = scores.ctypes.data + place * scores.shape[1] * 4, head_dim * 4
    seen = lengths[row] - starts[row]
    attend_heads(query, key, value, keys + held, values + held, output, own, group, stride, seen, head_dim, scale)


@kernel
def _block(
    x, spare, numbers, eps, joint, out, up, down, kind, grouped, keys, values, capacity, rows, starts, lengths, scores,
    scale,
):  # fmt: skip
    """x [row dim] becomes the output of the block; `spare` has room for what lies between."""
    count = len(rows)
    first_norm, first_bias, second_norm, second_bias = numbers[0], numbers[1], numbers[2], numbers[3]
    dim, mlp_dim, heads, kv_heads, head_dim = numbers[4], numbers[5], numbers[6], numbers[7], numbers[8]
    all_heads, width = heads * head_dim, max((heads + 2 * kv_heads) * head_dim, mlp_dim)
    normed, mixed, wide = spare, spare + count * dim * 4, spare + count * (dim + all_heads) * 4
    offsets = wide + count * width * 4
    _normalize_rows(x, normed, offsets, count, dim, first_norm, first_bias, eps, grouped)
    for block in prange(joint[-1, BLOCKS]):
        outputs_of_block(normed, offsets, wide, block, count, dim, joint, kind, FLOAT32, grouped)
    for place in prange(count * kv_heads):
        _attend(
            wide, mixed, keys, values, capacity, rows, starts, lengths, scores, place, heads, kv_heads, head_dim, scale
        )
    if grouped is not None:
        offset_groups(mixed, offsets, count * all_heads)
    for block in prange(out[-1, BLOCKS]):
        outputs_of_block(mixed, offsets, normed, block, count, all_heads, out, kind, FLOAT32, grouped)
    _add(x, normed, count * dim)
    _normalize_rows(x, normed, offsets, count, dim, second_norm, second_bias, eps, grouped)
    for block in prange(up[-1, BLOCKS]):
        outputs_of_block(normed, offsets, wide, block, count, dim, up, kind, FLOAT32, grouped)
    pieces = count * mlp_dim // 16
    for piece in prange(PIECES):
        _gelu_tanh(wide, piece * pieces // PIECES * 16, (piece + 1) * pieces // PIECES * 16)
    if grouped is not None:
        offset_groups(wide, offsets, count * mlp_dim)
    for block in prange(down[-1, BLOCKS]):
        outputs_of_block(wide, offsets, normed, block, count, mlp_dim, down, kind, FLOAT32, grouped)
    _add(x, normed, count * dim)


def one_token(block: Any, x: Tensor, state: Any, window: int | None) -> Tensor | None:
    """What the block gives for x [batch 1 dim] after what the cache holds, of which it sees all or the last `window`
    tokens, x among them; None where the kernel cannot compute it.
    """
    prepared = block.__dict__.get("_prepared")
    if prepared is None or not prepared.current():
        prepared = block.__dict__["_prepared"] = Prepared(block)
    ready = None if any(each.training or watched(each) for each in prepared.modules) else prepared.ready()
    if ready is None or not belongs(x, state, ready):
        return None
    lengths = state.lengths
    output = x.clone(memory_format=torch.contiguous_format)
    spare = torch.empty(len(x) * ready.room, dtype=torch.float32, device="cpu")
    scores = scratch(len(x) * state.keys.shape[1], max(lengths) + 1)
    run(
        _block, type(ready.kind),
        output.data_ptr(), spare.data_ptr(), ready.numbers, ready.eps, *ready.tables, ready.kind, ready.grouped,
        state.keys.data_ptr(), state.values.data_ptr(), state.capacity, np.array(state.rows),
        first_seen(lengths, window), np.array(lengths), scores, ready.scale,
    )  # fmt: skip
    state.count(1)
    return output
