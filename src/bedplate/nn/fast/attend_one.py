"""Attention of one new token of each sequence to a cache on a CPU, for sequences of any lengths in one call.

What a sequence gives does not depend on the others, not even in its last bit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from bedplate.nn.fast.compiled import called, inline, kernel, run
from bedplate.nn.fast.lanes import LANES, add, exponential, load, load_number, multiply_add, spread, store, total, zeros

FLOAT32 = np.float32(0)  # what lies in memory


@inline
def _scores(query, keys, scores, length, dim, scale):
    """Scaled products with each key, into `scores`; the largest."""
    largest = np.float32(-np.inf)
    for key in range(length):
        sums = zeros()
        for place in range(0, dim, 16):
            sums = multiply_add(load(query, place, FLOAT32), load(keys + key * dim * 4, place, FLOAT32), sums)
        score = total(sums) * scale
        largest = max(largest, score)
        store(scores, key, score)
    return largest


@inline
def _shares(scores, length, largest):
    """e to each score less the largest, in place; one divided by their sum."""
    for key in range(length, -(-length // 16) * 16):
        store(scores, key, np.float32(-np.inf))
    sums, shift = zeros(), spread(-largest)
    for key in range(0, length, 16):
        share = exponential(add(load(scores, key, FLOAT32), shift))
        store(scores, key, share)
        sums = add(sums, share)
    return np.float32(1) / total(sums)


@inline
def _mix(scores, values, output, length, dim, part):
    """The values, weighted by `part` of the scores."""
    place = 0
    while place + 64 <= dim:
        one, two, three, four = zeros(), zeros(), zeros(), zeros()
        for key in range(length):
            weight, value = spread(load_number(scores, key, FLOAT32) * part), values + (key * dim + place) * 4
            one = multiply_add(weight, load(value, 0, FLOAT32), one)
            two = multiply_add(weight, load(value, 16, FLOAT32), two)
            three = multiply_add(weight, load(value, 32, FLOAT32), three)
            four = multiply_add(weight, load(value, 48, FLOAT32), four)
        store(output, place, one)
        store(output, place + 16, two)
        store(output, place + 32, three)
        store(output, place + 48, four)
        place += 64
    while place < dim:
        one = zeros()
        for key in range(length):
            weight, value = spread(load_number(scores, key, FLOAT32) * part), values + (key * dim + place) * 4
            one = multiply_add(weight, load(value, 0, FLOAT32), one)
        store(output, place, one)
        place += 16


@called
def attend_heads(query, key, value, keys, values, output, scores, heads, stride, length, dim, scale):
    """The query heads, `stride` bytes apart, that share one head of keys and values: these are stored first."""
    for place in range(0, dim, 16):
        store(keys + length * dim * 4, place, load(key, place, FLOAT32))
        store(values + length * dim * 4, place, load(value, place, FLOAT32))
    for head in range(heads):
        largest = _scores(query + head * stride, keys, scores, length + 1, dim, scale)
        part = _shares(scores, length + 1, largest)
        _mix(scores, values, output + head * dim * 4, length + 1, dim, part)


@kernel
def _attend(addresses, strides, rows, starts, lengths, scores, heads, kv_heads, capacity, dim, scale):
    query, key, value, keys, values, output = addresses
    group = heads // kv_heads
    for place in prange(len(rows) * kv_heads):
        row, head = place // kv_heads, place % kv_heads
        held = ((rows[row] * kv_heads + head) * capacity + starts[row]) * dim * 4
        attend_heads(
            query + row * strides[0] + head * group * strides[1],
            key + row * strides[2] + head * strides[3],
            value + row * strides[4] + head * strides[5],
            keys + held,
            values + held,
            output + (row * heads + head * group) * dim * 4,
            scores.ctypes.data + place * scores.shape[1] * 4,
            group,
            strides[1],
            lengths[row] - starts[row],
            dim,
            scale,
        )


def fits(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, rows: Sequence[int]) -> bool:
    """Whether the kernel can attend: one new token each, float32 heads of a multiple of sixteen numbers."""
    batch, heads, new, dim = query.shape
    return (
        {each.dtype for each in (query, key, value, keys)} == {torch.float32}
        and key.shape == value.shape == (len(rows), keys.shape[1], 1, keys.shape[3])
        and (batch, new, dim) == (len(rows), 1, keys.shape[3])
        and heads % keys.shape[1] == 0
        and dim % LANES == 0
        and keys.is_cpu
        and keys.is_contiguous()
    )


def attend_one(
    query: Tensor, key: Tensor, value: Tensor, *, keys: Tensor, values: Tensor, rows: Sequence[int],
    lengths: Sequence[int], scale: float, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Store `key` and `value` [batch kv_heads 1 dim] behind the `lengths` tokens that `rows` of the cache hold, and let
    `query` [batch heads 1 dim] attend to all of them, or to the last `window`.
    """
    batch, heads, _, dim = query.shape
    kv_heads, capacity = keys.shape[1], keys.shape[2]
    output = torch.empty(batch, 1, heads, dim, dtype=torch.float32, device="cpu")
    new = [each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value)]
    addresses = tuple(each.data_ptr() for each in (*new, keys, values, output))
    strides = np.array([stride * 4 for each in new for stride in each.stride()[:2]])
    scores = scratch(batch * kv_heads, max(lengths) + 1)
    run(
        _attend, None,
        addresses, strides, np.array(rows), first_seen(lengths, window), np.array(lengths), scores, heads, kv_heads,
        capacity, dim, np.float32(scale),
    )  # fmt: skip
    return output.transpose(1, 2)


def first_seen(lengths: Sequence[int], window: int | None) -> np.ndarray:
    """Place of the first token that the one after so many sees."""
    return np.array([0 if window is None else max(0, length + 1 - window) for length in lengths])


def scratch(heads: int, length: int) -> np.ndarray:
    """Room for the scores of each head, to the next multiple of sixteen."""
    return np.empty((heads, -(-length // LANES) * LANES), dtype=np.float32)
