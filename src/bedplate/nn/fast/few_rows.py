"""x weight^T on a CPU for few rows, as in decoding: bound by reading the weights, each of which is read once.

What a row gives does not depend on the other rows, not even in its last bit. On two cores of an AMD EPYC (GPT-2 124M)
these kernels read float32 and bfloat16 weights at 44 to 56 GB/s, int8 at 37 to 61 and int4 at 30 to 41, where torch's
`F.linear` reads float32 at 14 and oneDNN's packed kernel at 29 to 47. Thirty-two rows take four to five times as long
as one.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from bedplate.nn.fast.compiled import called, inline, kernel, run
from bedplate.nn.fast.lanes import LANES, add, load, load_number, multiply_add, spread, store, total, zeros

GROUP = 32  # int4 weights that share a scale
FLOAT32 = np.float32(0)
KINDS = {  # how `load` is told what lies in memory
    torch.float32: FLOAT32,
    torch.bfloat16: np.uint16(0),
    torch.int8: np.int8(0),
    torch.uint8: np.uint8(0),
}
BLOCK = 8  # outputs that one thread computes before it takes the next: their weights stay in its cache
# Columns of the table that describes the matrices of one product: addresses, outputs of the matrix, outputs of those
# before it, blocks of outputs up to its end, and bytes of a row of weights.
WEIGHT, SCALE, BIAS, OUTPUTS, FIRST, BLOCKS, ROW_BYTES = range(7)

# As it is stored: float32 or bfloat16 numbers, int8 codes, or int4 codes in pairs; scales, float32 for each output of
# int8 and bfloat16 for each group of int4; and a bias.
Matrix = tuple[Tensor, Tensor | None, Tensor | None]


@inline
def _step(sums, weights, x, place):
    """Sixteen products more for one output of four rows."""
    return (
        multiply_add(weights, load(x[0], place, FLOAT32), sums[0]),
        multiply_add(weights, load(x[1], place, FLOAT32), sums[1]),
        multiply_add(weights, load(x[2], place, FLOAT32), sums[2]),
        multiply_add(weights, load(x[3], place, FLOAT32), sums[3]),
    )


@inline
def _group_step(sums, weight, scales, x, offsets, place, kind):
    """A group of products more, scaled together."""
    half = place // 2
    start = (
        load(offsets[0], half, FLOAT32),
        load(offsets[1], half, FLOAT32),
        load(offsets[2], half, FLOAT32),
        load(offsets[3], half, FLOAT32),
    )
    part = _step(start, load(weight, place, kind), x, place)
    part = _step(part, load(weight, place + 16, kind), x, place + 16)
    scale = spread(load_number(scales, place // GROUP, np.uint16(0)))
    return (
        multiply_add(part[0], scale, sums[0]),
        multiply_add(part[1], scale, sums[1]),
        multiply_add(part[2], scale, sums[2]),
        multiply_add(part[3], scale, sums[3]),
    )


@inline
def _sums(x, offsets, weight, scales, inputs, kind, grouped):
    """The sums of x[row][i] * weight[i] of four rows, each in the same order whatever the others are.

    Where the four are one and the same, the compiler sees it and computes that one.
    """
    none = (zeros(), zeros(), zeros(), zeros())
    one, two, three, four = none, none, none, none
    whole = inputs // 64 * 64
    if grouped is None:
        for i in range(0, whole, 64):
            one = _step(one, load(weight, i, kind), x, i)
            two = _step(two, load(weight, i + 16, kind), x, i + 16)
            three = _step(three, load(weight, i + 32, kind), x, i + 32)
            four = _step(four, load(weight, i + 48, kind), x, i + 48)
        for i in range(whole, inputs, 16):
            one = _step(one, load(weight, i, kind), x, i)
    else:
        for i in range(0, whole, 64):
            one = _group_step(one, weight, scales, x, offsets, i, kind)
            two = _group_step(two, weight, scales, x, offsets, i + 32, kind)
        for i in range(whole, inputs, 32):
            one = _group_step(one, weight, scales, x, offsets, i, kind)
    return (
        total(add(add(one[0], two[0]), add(three[0], four[0]))),
        total(add(add(one[1], two[1]), add(three[1], four[1]))),
        total(add(add(one[2], two[2]), add(three[2], four[2]))),
        total(add(add(one[3], two[3]), add(three[3], four[3]))),
    )


@inline
def _outputs(x, offsets, y, count, width, begin, end, inputs, part, kind, bias_kind, grouped):
    """Outputs `begin` to `end` of the first `count` of four rows; `part` is the line of the table."""
    for output in range(begin, end):
        weight = part[WEIGHT] + output * part[ROW_BYTES]
        scale, bias, scales = np.float32(1), FLOAT32, part[SCALE]
        if grouped is not None:
            scales += output * (inputs // GROUP * 2)
        elif scales:
            scale = load_number(scales, output, FLOAT32)
        if part[BIAS]:
            bias = load_number(part[BIAS], output, bias_kind)
        sums = _sums(x, offsets, weight, scales, inputs, kind, grouped)
        for row in range(count):
            store(y + row * width, part[FIRST] + output, sums[row] * scale + bias)


@called
def outputs_of_block(x, offsets, y, block, rows, inputs, table, kind, bias_kind, grouped):
    """The outputs of a block for every row."""
    part = 0
    while block >= table[part, BLOCKS]:
        part += 1
    width = (table[-1, FIRST] + table[-1, OUTPUTS]) * 4
    begin = (block - (table[part - 1, BLOCKS] if part else 0)) * BLOCK
    end = min(begin + BLOCK, table[part, OUTPUTS])
    row_bytes = inputs * 4
    fours = rows // 4 * 4
    for row in range(0, fours, 4):
        one = x + row * row_bytes
        four = (one, one + row_bytes, one + 2 * row_bytes, one + 3 * row_bytes)
        other = offsets + row * row_bytes // 2
        half = row_bytes // 2
        others = (other, other + half, other + 2 * half, other + 3 * half)
        _outputs(four, others, y + row * width, 4, width, begin, end, inputs, table[part], kind, bias_kind, grouped)
    for row in range(fours, rows):
        one = x + row * row_bytes
        other = offsets + row * row_bytes // 2
        same, others = (one, one, one, one), (other, other, other, other)
        _outputs(same, others, y + row * width, 1, width, begin, end, inputs, table[part], kind, bias_kind, grouped)


@inline
def offset_groups(x, offsets, count):
    """What the codes being 8 too large adds to the products of each group, to be taken off: half as many numbers."""
    for place in range(0, count, GROUP):
        both = add(load(x, place, FLOAT32), load(x, place + 16, FLOAT32))
        store(offsets, place // 2, multiply_add(both, spread(np.float32(-8)), zeros()))


@kernel
def _product(x, offsets, y, rows, inputs, table, kind, bias_kind, grouped):
    """y[row, output] for the outputs of all matrices of the table, side by side."""
    if grouped is not None:
        offset_groups(x, offsets, rows * inputs)
    for block in prange(table[-1, BLOCKS]):
        outputs_of_block(x, offsets, y, block, rows, inputs, table, kind, bias_kind, grouped)


def fits(inputs: int, codes: torch.dtype) -> bool:
    """Whether the kernel can compute with so many inputs."""
    return inputs % (GROUP if codes == torch.uint8 else LANES) == 0


def multiply(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """What all matrices give for x [*batch inputs], side by side, in float32. They are stored alike."""
    codes, _, bias = matrices[0]
    flat = x.float().contiguous()
    outputs = sum(codes.shape[0] for codes, _, _ in matrices)
    y = torch.empty(*x.shape[:-1], outputs, dtype=torch.float32, device="cpu")
    rows, inputs = flat.numel() // x.shape[-1], x.shape[-1]
    if any(inputs_of(each) != inputs for each, _, _ in matrices):  # the kernel would read what is not there
        raise ValueError(f"x has {inputs} numbers a row, the weight {inputs_of(codes)}")
    kind, bias_kind = KINDS[codes.dtype], KINDS[torch.float32 if bias is None else bias.dtype]
    grouped = 1 if codes.dtype == torch.uint8 else None
    table = table_of(tuple(map(line_of, matrices)))
    offsets = torch.empty(flat.numel() // 2 if grouped else 0, dtype=torch.float32, device="cpu")
    form = codes.dtype, None if bias is None else bias.dtype
    addresses = flat.data_ptr(), offsets.data_ptr(), y.data_ptr()
    run(_product, form, *addresses, rows, inputs, table, kind, bias_kind, grouped)
    return y


def inputs_of(codes: Tensor) -> int:
    """Of the matrix that is stored so."""
    return codes.shape[1] * (2 if codes.dtype == torch.uint8 else 1)


def line_of(matrix: Matrix) -> tuple[int, ...]:
    """Addresses of codes, scales and bias, the outputs, and the bytes of a row."""
    codes, scales, bias = matrix
    return (
        codes.data_ptr(),
        0 if scales is None else scales.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        codes.shape[0],
        codes.stride(0) * codes.itemsize,
    )


@functools.lru_cache(4096)
def table_of(lines: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """What the kernel reads about the matrices of a product."""
    table, first, blocks = [], 0, 0
    for weight, scale, bias, outputs, row_bytes in lines:
        blocks += -(-outputs // BLOCK)
        table.append([weight, scale, bias, outputs, first, blocks, row_bytes])
        first += outputs
    return np.array(table, dtype=np.int64)
