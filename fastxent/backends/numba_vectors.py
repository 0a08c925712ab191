"""Vectors for Numba: 64 bytes of floats as one value, with the operations that tiles need.

Numba has no vector type. Here a `Vector` is LLVM's <lanes x float>, and every operation is a few
lines of LLVM IR. LLVM splits a vector that is wider than the machine's registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .numba_scalars import call_llvm, has_feature

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class Vector(types.Type):
    """`lanes` floats of one type."""

    def __init__(self, real: Any, lanes: int) -> None:
        self.real = real
        self.lanes = lanes
        super().__init__(name=f"Vector({real}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _vector_type(vector.real, vector.lanes))


_SCALAR_TYPES = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def line_of(real: Any) -> Vector:
    """The vector that fills 64 bytes."""
    return Vector(real, 512 // int(real.bitwidth))


def _vector_type(real: Any, lanes: int) -> ir.VectorType:
    return ir.VectorType(_SCALAR_TYPES[real], lanes)


def _bytes_of(vector: Vector) -> int:
    """The bytes of one lane."""
    return int(vector.real.bitwidth) // 8


def _integer_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.IntType(int(vector.real.bitwidth)), vector.lanes)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    vector_type = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, _INT32(0))
    return builder.shuffle_vector(
        first,
        ir.Constant(vector_type, ir.Undefined),
        ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes),
    )


def _suffix(vector_type: ir.VectorType) -> str:
    width = {"float": "f32", "double": "f64"}[str(vector_type.element)]
    return f"v{vector_type.count}{width}"


def _at(builder: Any, pointer: Any, index: Any, target: Any) -> Any:
    """A pointer to a `target` (a vector) whose first lane is element `index` at `pointer`."""
    place = builder.gep(pointer, [index], source_etype=target.element)
    return builder.bitcast(place, ir.PointerType(target))


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        return a(a, b), codegen

    return operation


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


add = _binary(lambda builder, a, b: builder.fadd(a, b))
subtract = _binary(lambda builder, a, b: builder.fsub(a, b))
multiply = _binary(lambda builder, a, b: builder.fmul(a, b))
divide = _binary(lambda builder, a, b: builder.fdiv(a, b))
# a > b ? a : b, hence b where either is NaN: the order of the arguments matters.
maximum = _binary(_maximum)


def _choosing(relation: str) -> Any:
    @intrinsic
    def operation(typingctx: Any, x: Any, y: Any, yes: Any, no: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right, a, b = arguments
            return builder.select(builder.fcmp_ordered(relation, left, right), a, b)

        return yes(x, y, yes, no), codegen

    return operation


# `yes` in the lanes where x == y (or x > y), `no` elsewhere and where either is NaN.
choose_equal = _choosing("==")
choose_greater = _choosing(">")


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return call_llvm(builder, f"llvm.fma.{_suffix(a.type)}", a.type, [a, b, c])


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _multiply_add(builder, *arguments)

    return a(a, b, c), codegen


@intrinsic
def broadcast(typingctx: Any, value: Any) -> Any:
    """A line with `value` in every lane."""
    vector = line_of(value)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0], vector.lanes)

    return vector(value), codegen


@intrinsic
def zero_sums(typingctx: Any, value: Any) -> Any:
    """Float64 zeros, one for each lane of a line of `value`'s type."""
    sums = Vector(types.float64, line_of(value).lanes)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_vector_type(types.float64, sums.lanes), [0.0] * sums.lanes)

    return sums(value), codegen


def sums_of(lanes: int) -> Any:
    """An intrinsic that gives `lanes` float64 sums, each of them its argument."""
    sums = Vector(types.float64, lanes)

    @intrinsic
    def equal_sums(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _splat(builder, arguments[0], lanes)

        return sums(types.float64), codegen

    return equal_sums


@intrinsic
def add_to_sums(typingctx: Any, sums: Any, value: Any) -> Any:
    """`sums` (float64) plus the lanes of `value`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, line = arguments
        if line.type != total.type:
            line = builder.fpext(line, total.type)
        return builder.fadd(total, line)

    return sums(sums, value), codegen


@intrinsic
def load(typingctx: Any, pointer: Any, index: Any) -> Any:
    """The line that starts at element `index`."""
    vector = line_of(pointer.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector_type = _vector_type(vector.real, vector.lanes)
        place, start = arguments
        address = _at(builder, place, start, vector_type)
        return builder.load(address, typ=vector_type, align=_bytes_of(vector))

    return vector(pointer, index), codegen


@intrinsic
def store(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Writes the line that starts at element `index`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, start, line = arguments
        builder.store(line, _at(builder, place, start, line.type), align=_bytes_of(value))
        return context.get_dummy_value()

    return types.void(pointer, index, value), codegen


def _first_lanes(builder: Any, n: Any, lanes: int) -> Any:
    numbers = ir.Constant(ir.VectorType(_INT64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, n, lanes))


@intrinsic
def load_partial(typingctx: Any, pointer: Any, index: Any, n: Any, fill: Any) -> Any:
    """A line of which only the first `n` lanes are read; the others hold `fill`."""
    vector = line_of(pointer.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, start, count, other = arguments
        vector_type = _vector_type(vector.real, vector.lanes)
        count = context.cast(builder, count, n, types.int64)
        other = context.cast(builder, other, fill, vector.real)
        address = _at(builder, place, start, vector_type)
        return call_llvm(
            builder,
            f"llvm.masked.load.{_suffix(vector_type)}.p0",
            vector_type,
            [
                address,
                _INT32(_bytes_of(vector)),
                _first_lanes(builder, count, vector.lanes),
                _splat(builder, other, vector.lanes),
            ],
        )

    return vector(pointer, index, n, fill), codegen


@intrinsic
def store_partial(typingctx: Any, pointer: Any, index: Any, value: Any, n: Any) -> Any:
    """Writes only the first `n` lanes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, start, line, count = arguments
        count = context.cast(builder, count, n, types.int64)
        call_llvm(
            builder,
            f"llvm.masked.store.{_suffix(line.type)}.p0",
            ir.VoidType(),
            [
                line,
                _at(builder, place, start, line.type),
                _INT32(_bytes_of(value)),
                _first_lanes(builder, count, value.lanes),
            ],
        )
        return context.get_dummy_value()

    return types.void(pointer, index, value, n), codegen


@intrinsic
def store_sums(typingctx: Any, pointer: Any, value: Any) -> Any:
    """Writes the lanes of float64 sums."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, lanes = arguments
        builder.store(lanes, builder.bitcast(place, ir.PointerType(lanes.type)), align=8)
        return context.get_dummy_value()

    return types.void(pointer, value), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Rows and columns of a square exchanged: as many lines as a line has lanes."""
    count = len(rows)
    half = 1
    while half < count:
        low = [count + (k ^ half) if k & half else k for k in range(count)]
        high = [count + k if k & half else k ^ half for k in range(count)]
        masks = [ir.Constant(ir.VectorType(_INT32, count), lanes) for lanes in (low, high)]
        for k in range(count):
            if not k & half:
                a, b = rows[k], rows[k + half]
                rows[k], rows[k + half] = (builder.shuffle_vector(a, b, mask) for mask in masks)
        half *= 2
    return rows


def _lanes_of_row(builder: Any, k: int, n: Any, width: Any, lanes: int) -> Any:
    """The first `width` lanes, if row k is one of n; else none."""
    is_there = builder.icmp_signed("<", _INT64(k), n)
    return _first_lanes(builder, builder.select(is_there, width, _INT64(0)), lanes)


def _place_of_row(builder: Any, address: Any, k: int, stride: Any, vector_type: Any) -> Any:
    place = builder.add(address, builder.mul(_INT64(k), stride))
    return builder.inttoptr(place, ir.PointerType(vector_type))


@intrinsic
def load_square(
    typingctx: Any, address: Any, stride: Any, n: Any, width: Any, pointer: Any, index: Any
) -> Any:
    """Reads `width` floats of each of n rows, `stride` bytes apart, and writes them transposed.

    The columns become lines from element `index` at `pointer` on, as many as a line has lanes.
    """
    vector = line_of(pointer.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, apart, count, wide, place, start = arguments
        vector_type = _vector_type(vector.real, vector.lanes)
        zeros = ir.Constant(vector_type, [0.0] * vector.lanes)
        rows = [
            call_llvm(
                builder,
                f"llvm.masked.load.{_suffix(vector_type)}.p0",
                vector_type,
                [
                    _place_of_row(builder, source, k, apart, vector_type),
                    _INT32(_bytes_of(vector)),
                    _lanes_of_row(builder, k, count, wide, vector.lanes),
                    zeros,
                ],
            )
            for k in range(vector.lanes)
        ]
        first = _at(builder, place, start, vector_type)
        for k, line in enumerate(_transposed(builder, rows)):
            builder.store(line, builder.gep(first, [_INT64(k)], source_etype=vector_type), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, pointer, index), codegen


@intrinsic
def store_square(
    typingctx: Any, pointer: Any, index: Any, address: Any, stride: Any, n: Any, width: Any
) -> Any:
    """load_square the other way round."""
    vector = line_of(pointer.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, start, destination, apart, count, wide = arguments
        vector_type = _vector_type(vector.real, vector.lanes)
        first = _at(builder, place, start, vector_type)
        lines = [
            builder.load(
                builder.gep(first, [_INT64(k)], source_etype=vector_type),
                typ=vector_type,
                align=_bytes_of(vector),
            )
            for k in range(vector.lanes)
        ]
        for k, row in enumerate(_transposed(builder, lines)):
            call_llvm(
                builder,
                f"llvm.masked.store.{_suffix(vector_type)}.p0",
                ir.VoidType(),
                [
                    row,
                    _place_of_row(builder, destination, k, apart, vector_type),
                    _INT32(_bytes_of(vector)),
                    _lanes_of_row(builder, k, count, wide, vector.lanes),
                ],
            )
        return context.get_dummy_value()

    return types.void(pointer, index, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def exponent_and_mantissa(typingctx: Any, value: Any) -> Any:
    """k and f of float64 lanes 2^k f, with f from sqrt(1/2) to sqrt(2); both as floats."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = _integer_type(value)

        def constant(number: int) -> Any:
            return ir.Constant(integers, [number] * value.lanes)

        floats = arguments[0].type
        bits = builder.bitcast(arguments[0], integers)
        half = constant(0x3FE6A09E667F3BCD)
        exponent = builder.ashr(builder.sub(bits, half), constant(52))
        mantissa = builder.sub(bits, builder.shl(exponent, constant(52)))
        # the exponent as a float: its bits put below those of 1.5 * 2^52
        rounder = constant(0x4338000000000000)
        moved = builder.bitcast(builder.add(exponent, rounder), floats)
        whole = builder.fsub(moved, builder.bitcast(rounder, floats))
        pair = [whole, builder.bitcast(mantissa, floats)]
        return context.make_tuple(builder, types.UniTuple(value, 2), pair)

    return types.UniTuple(value, 2)(value), codegen


@intrinsic
def shift_bits(typingctx: Any, rounded: Any, n: Any) -> Any:
    """The float whose bits are those of `rounded`, n places further up."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = _integer_type(rounded)
        bits = builder.bitcast(arguments[0], integers)
        shift = context.cast(builder, arguments[1], n, types.int64)
        if integers.element != _INT64:
            shift = builder.trunc(shift, integers.element)
        shifted = builder.shl(bits, _splat(builder, shift, rounded.lanes))
        return builder.bitcast(shifted, arguments[0].type)

    return rounded(rounded, n), codegen


@intrinsic
def add_bits(typingctx: Any, a: Any, b: Any) -> Any:
    """The float whose bits are the sum of two floats' bits, as integers."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = [builder.bitcast(argument, _integer_type(a)) for argument in arguments]
        return builder.bitcast(builder.add(*integers), arguments[0].type)

    return a(a, b), codegen


def table_bits(real_bits: int) -> int:
    """A line is looked up by lane in a table of 2 to this many entries with one instruction."""
    if has_feature("avx512f"):
        return 4 if real_bits == 32 else 3
    return 3 if real_bits == 32 and has_feature("avx2") else 0


# Instructions that look all lanes of a register up in another register.
_LOOKUPS = {
    (32, 4): ("llvm.x86.avx512.permvar.sf.512", 16),
    (32, 3): ("llvm.x86.avx2.permps", 8),
    (64, 3): ("llvm.x86.avx512.permvar.df.512", 8),
}


def lookup_in(real_bits: int, bits: list[int]) -> Any:
    """An intrinsic: the line whose lanes are `bits[k]`, k being the low bits of each lane's index.

    `bits` are the bits of the floats, 2^table_bits of them.
    """
    name, width = _LOOKUPS[real_bits, table_bits(real_bits)]

    @intrinsic
    def lookup(typingctx: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            integers = ir.VectorType(ir.IntType(real_bits), width)
            floats = _vector_type(index.real, width)
            table = builder.bitcast(ir.Constant(integers, bits), floats)
            indices = builder.bitcast(arguments[0], _integer_type(index))
            parts = [
                call_llvm(builder, name, floats, [table, _part(builder, indices, first, width)])
                for first in range(0, index.lanes, width)
            ]
            return parts[0] if len(parts) == 1 else _joined(builder, *parts)

        return index(index), codegen

    return lookup


def _part(builder: Any, line: Any, first: int, lanes: int) -> Any:
    """Lanes `first` and those after it."""
    if lanes == line.type.count:
        return line
    return _half(builder, line, first, lanes)


def _joined(builder: Any, low: Any, high: Any) -> Any:
    lanes = ir.Constant(ir.VectorType(_INT32, 2 * low.type.count), list(range(2 * low.type.count)))
    return builder.shuffle_vector(low, high, lanes)


@intrinsic
def clear_equal(typingctx: Any, value: Any, x: Any, y: Any) -> Any:
    """`value` where x differs from y (or either is NaN) and 0 where they are equal."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kept, a, b = arguments
        differs = builder.fcmp_unordered("!=", a, b)
        return builder.select(differs, kept, ir.Constant(kept.type, [0.0] * value.lanes))

    return value(value, x, y), codegen


def _half(builder: Any, line: Any, first: int, lanes: int) -> Any:
    return builder.shuffle_vector(
        line,
        ir.Constant(line.type, ir.Undefined),
        ir.Constant(ir.VectorType(_INT32, lanes), list(range(first, first + lanes))),
    )
