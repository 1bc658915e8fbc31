"""Sixteen float32 numbers as one value in numba code: what the kernels of `few_rows` are written with.

Numba's own loops leave the order of a sum to the compiler, which chooses it anew for every shape of a loop. Here the
order is what is written. LLVM turns the sixteen lanes into whatever vector registers the processor has.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from bedplate.nn.fast.compiled import inline, intrinsic

LANES = 16
FLOATS = ir.VectorType(ir.FloatType(), LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES)
WORDS = ir.VectorType(ir.IntType(16), LANES)
INTEGERS = ir.VectorType(ir.IntType(32), LANES)
INDEX = ir.IntType(32)


class Lanes(types.Type):
    """The type of such a value."""

    def __init__(self) -> None:
        super().__init__("Lanes")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, FLOATS)


lanes = Lanes()


@intrinsic
def zeros(context: Any) -> Any:
    """Sixteen zeros."""
    return lanes(), lambda *_: ir.Constant(FLOATS, [0.0] * LANES)


@intrinsic
def spread(context: Any, number: Any) -> Any:
    """The same number sixteen times."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), arguments[0], ir.Constant(INDEX, 0))
        return builder.shuffle_vector(one, one, ir.Constant(INTEGERS, [0] * LANES))

    return lanes(types.float32), build


@intrinsic
def multiply_add(context: Any, one: Any, other: Any, addend: Any) -> Any:
    """one * other + addend, rounded once."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        return builder.call(function, arguments)

    return lanes(lanes, lanes, lanes), build


@intrinsic
def add(context: Any, one: Any, other: Any) -> Any:
    """Lane by lane."""
    return lanes(lanes, lanes), lambda _, builder, __, arguments: builder.fadd(*arguments)


@intrinsic
def divide(context: Any, one: Any, other: Any) -> Any:
    """Lane by lane."""
    return lanes(lanes, lanes), lambda _, builder, __, arguments: builder.fdiv(*arguments)


@intrinsic
def limit(context: Any, values: Any, low: Any, high: Any) -> Any:
    """Values below `low` become it, those above `high` that."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        values, low, high = arguments
        values = builder.select(builder.fcmp_ordered("<", values, low), low, values)
        return builder.select(builder.fcmp_ordered(">", values, high), high, values)

    return lanes(lanes, lanes, lanes), build


@intrinsic
def nearest(context: Any, values: Any) -> Any:
    """Whole numbers."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32"), arguments)

    return lanes(lanes), build


@intrinsic
def power_of_two(context: Any, exponents: Any) -> Any:
    """2 to whole exponents from -126 to 127."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        exponent = builder.add(builder.fptosi(arguments[0], INTEGERS), ir.Constant(INTEGERS, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(INTEGERS, [23] * LANES)), FLOATS)

    return lanes(lanes), build


@inline
def exponential(values):
    """e to the values, which are kept between -87 and 88: 2 to the nearest whole exponent, times a Taylor series."""
    values = limit(values, spread(np.float32(-87.0)), spread(np.float32(88.0)))
    whole = nearest(multiply_add(values, spread(np.float32(1.4426950408889634)), zeros()))
    rest = multiply_add(whole, spread(np.float32(-0.693359375)), values)  # ln 2 in two parts, the first exact
    rest = multiply_add(whole, spread(np.float32(2.12194440054690583e-4)), rest)
    series = spread(np.float32(1 / 5040))
    series = multiply_add(series, rest, spread(np.float32(1 / 720)))
    series = multiply_add(series, rest, spread(np.float32(1 / 120)))
    series = multiply_add(series, rest, spread(np.float32(1 / 24)))
    series = multiply_add(series, rest, spread(np.float32(1 / 6)))
    series = multiply_add(series, rest, spread(np.float32(1 / 2)))
    series = multiply_add(series, rest, spread(np.float32(1)))
    series = multiply_add(series, rest, spread(np.float32(1)))
    return multiply_add(series, power_of_two(whole), zeros())


@intrinsic
def total(context: Any, values: Any) -> Any:
    """The sum of the lanes: halves are added until one number is left."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (values,), width = arguments, LANES
        while width > 1:
            width //= 2
            half = ir.VectorType(INDEX, width)
            low, high = ir.Constant(half, list(range(width))), ir.Constant(half, list(range(width, 2 * width)))
            left, right = (builder.shuffle_vector(values, values, places) for places in (low, high))
            values = builder.fadd(left, right)
        return builder.extract_element(values, ir.Constant(INDEX, 0))

    return types.float32(lanes), build


@intrinsic
def load(context: Any, address: Any, first: Any, kind: Any) -> Any:
    """Numbers `first` to `first + 15` (a multiple of 16) of what lies at `address`, as float32.

    The type of `kind` says what lies there: float32; uint16 for bfloat16; int8; uint8 for groups of 32 numbers from 0
    to 15 in 16 bytes, of which the low halves are the first sixteen, and the high halves the others.
    """

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        address, first, _ = arguments
        if kind == types.float32:
            return _read(builder, address, first, FLOATS, 4)
        if kind == types.uint16:
            wide = builder.zext(_read(builder, address, first, WORDS, 2), INTEGERS)
            return builder.bitcast(builder.shl(wide, ir.Constant(INTEGERS, [16] * LANES)), FLOATS)
        if kind == types.int8:
            return builder.sitofp(_read(builder, address, first, BYTES, 1), FLOATS)
        group = builder.and_(builder.lshr(first, ir.Constant(first.type, 1)), ir.Constant(first.type, -16))
        pairs = builder.zext(_read(builder, address, group, BYTES, 1), INTEGERS)
        high = builder.icmp_signed("!=", builder.and_(first, ir.Constant(first.type, 16)), ir.Constant(first.type, 0))
        upper = builder.lshr(pairs, ir.Constant(INTEGERS, [4] * LANES))
        lower = builder.and_(pairs, ir.Constant(INTEGERS, [15] * LANES))
        return builder.sitofp(builder.select(high, upper, lower), FLOATS)

    if kind not in (types.float32, types.uint16, types.int8, types.uint8):
        raise TypeError(f"no numbers of kind {kind} are known")
    return lanes(types.int64, types.int64, kind), build


@intrinsic
def load_number(context: Any, address: Any, index: Any, kind: Any) -> Any:
    """Number `index` of the float32 or bfloat16 numbers at `address`."""

    def build(_: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        address, index, _ = arguments
        if kind == types.float32:
            return _read(builder, address, index, ir.FloatType(), 4)
        wide = builder.zext(_read(builder, address, index, ir.IntType(16), 2), ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.int64, types.int64, kind), build


@intrinsic
def store(typing: Any, address: Any, first: Any, values: Any) -> Any:
    """Write lanes, or one number, as float32 from number `first` on."""

    def build(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        address, first, written = arguments
        builder.store(written, _place(builder, address, first, written.type, 4), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values), build


def _place(builder: Any, address: Any, first: Any, kind: Any, size: int) -> Any:
    offset = builder.mul(first, ir.Constant(first.type, size))
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _read(builder: Any, address: Any, first: Any, kind: Any, size: int) -> Any:
    return builder.load(_place(builder, address, first, kind, size), align=size)
