"""Vectors for Numba: 64 bytes of floats as one value, with the operations the kernels need.

Numba has no vector type. Here a `Vector` is LLVM's <lanes x float>, and every operation is a few
lines of LLVM IR. Nothing is left to the auto-vectoriser: without fast-math flags LLVM does not
vectorise a sum, and with them it undoes the rounding by a magic number; and the order of a sum is
the one that is written. LLVM splits a vector that is wider than the machine's registers.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

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


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


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
    return _call(builder, f"llvm.fma.{_suffix(a.type)}", a.type, [a, b, c])


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _multiply_add(builder, *arguments)

    return a(a, b, c), codegen


@intrinsic
def negate(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fneg(arguments[0])

    return x(x), codegen


@intrinsic
def magnitude(typingctx: Any, x: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _maximum(builder, arguments[0], builder.fneg(arguments[0]))

    return x(x), codegen


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float64 scalars, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, "llvm.fma.f64", ir.DoubleType(), list(arguments))

    return types.float64(types.float64, types.float64, types.float64), codegen


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
        return _call(
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
        _call(
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
            _call(
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
            _call(
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
def lane(typingctx: Any, vector: Any, k: Any) -> Any:
    """Lane `k` as a scalar."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(*arguments)

    return vector.real(vector, k), codegen


@intrinsic
def with_lane(typingctx: Any, vector: Any, k: Any, value: Any) -> Any:
    """The vector with `value` in lane `k`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, index, scalar = arguments
        return builder.insert_element(line, scalar, index)

    return vector(vector, k, value), codegen


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


_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _has_feature(name: str) -> bool:
    """Whether code is compiled for a CPU that has it (NUMBA_CPU_FEATURES may take it away)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


def table_bits(real_bits: int) -> int:
    """A line is looked up by lane in a table of 2 to this many entries with one instruction."""
    if _has_feature("avx512f"):
        return 4 if real_bits == 32 else 3
    return 3 if real_bits == 32 and _has_feature("avx2") else 0


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
                _call(builder, name, floats, [table, _part(builder, indices, first, width)])
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


@intrinsic
def all_within(typingctx: Any, x: Any, lowest: Any, highest: Any) -> Any:
    """Whether lowest <= x <= highest in all lanes; never with a NaN."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, low, high = arguments
        inside = builder.and_(
            builder.fcmp_ordered(">=", value, low), builder.fcmp_ordered("<=", value, high)
        )
        mask = builder.bitcast(inside, ir.IntType(x.lanes))
        return builder.icmp_signed("==", mask, mask.type(-1))

    return types.boolean(x, lowest, highest), codegen


@intrinsic
def any_equal(typingctx: Any, x: Any, y: Any) -> Any:
    """Whether x equals y in any lane."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        equal = builder.fcmp_ordered("==", *arguments)
        mask = builder.bitcast(equal, ir.IntType(x.lanes))
        return builder.icmp_unsigned("!=", mask, mask.type(0))

    return types.boolean(x, y), codegen


@intrinsic
def count_equal(typingctx: Any, x: Any, y: Any) -> Any:
    """In how many lanes x equals y."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        equal = builder.fcmp_ordered("==", *arguments)
        mask = builder.bitcast(equal, ir.IntType(x.lanes))
        return builder.zext(builder.ctpop(mask), _INT64)

    return types.int64(x, y), codegen


def _sum_error(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded a + b, and the exact sum minus it (Knuth), which is 0 where it is infinite."""
    total = builder.fadd(a, b)
    part = builder.fsub(total, a)
    error = builder.fadd(builder.fsub(a, builder.fsub(total, part)), builder.fsub(b, part))
    zero = ir.Constant(total.type, [0.0] * total.type.count)
    finite = builder.fcmp_ordered("==", builder.fsub(total, total), zero)
    return total, builder.select(finite, error, zero)


@intrinsic
def sum_error(typingctx: Any, a: Any, b: Any) -> Any:
    """The exact a + b minus its rounded value (Knuth); 0 where the sum is infinite."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _sum_error(builder, *arguments)[1]

    return a(a, b), codegen


class Pair(NamedTuple):
    """Two vectors whose exact sum is meant; `low` is far below `value`."""

    value: Any
    low: Any


def _pairing(emit: Callable[..., tuple[Any, Any]]) -> Any:
    """An intrinsic that makes a Pair of two vectors, or of two Pairs."""

    @intrinsic
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        pair = types.NamedUniTuple(a if isinstance(a, Vector) else a.dtype, 2, Pair)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            parts = [
                argument if isinstance(kind, Vector) else cgutils.unpack_tuple(builder, argument)
                for kind, argument in zip((a, b), arguments, strict=True)
            ]
            return context.make_tuple(builder, pair, emit(builder, *parts))

        return pair(a, b), codegen

    return operation


def _if_finite(builder: Any, value: Any) -> Any:
    """`value` where it is finite, 0 elsewhere."""
    zero = ir.Constant(value.type, [0.0] * value.type.count)
    finite = builder.fcmp_ordered("==", builder.fsub(value, value), zero)
    return builder.select(finite, value, zero)


def _product_error(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    product = builder.fmul(a, b)
    return product, _multiply_add(builder, a, b, builder.fneg(product))


def _ordered_sum_error(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    total = builder.fadd(a, b)
    return total, builder.fsub(b, builder.fsub(total, a))


def _pair_product(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    a_value, a_low = a
    b_value, b_low = b
    product, product_low = _product_error(builder, a_value, b_value)
    crossed = _multiply_add(builder, a_value, b_low, builder.fmul(a_low, b_value))
    return product, _if_finite(builder, builder.fadd(product_low, crossed))


# a + b exactly (Knuth); nothing is lost of a sum that is not finite.
exact_sum = _pairing(_sum_error)
# The same for finite |a| >= |b| (Dekker).
ordered_sum = _pairing(_ordered_sum_error)
# a * b exactly, unless it is infinite or what is lost is below the normal range.
exact_product = _pairing(_product_error)
# a * b, of Pairs, to twice the digits; what is not finite has no low part.
multiply_pairs = _pairing(_pair_product)


def _half(builder: Any, line: Any, first: int, lanes: int) -> Any:
    return builder.shuffle_vector(
        line,
        ir.Constant(line.type, ir.Undefined),
        ir.Constant(ir.VectorType(_INT32, lanes), list(range(first, first + lanes))),
    )


def _folding(add_three: Callable[[Any, Any, Any, Any], Any]) -> Any:
    @intrinsic
    def operation(typingctx: Any, sums: Any, lost: Any) -> Any:
        pair = types.UniTuple(types.float64, 2)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            line, missing = arguments
            half = sums.lanes // 2
            while half > 0:
                line, error = _sum_error(
                    builder, _half(builder, line, 0, half), _half(builder, line, half, half)
                )
                low, high = _half(builder, missing, 0, half), _half(builder, missing, half, half)
                missing = add_three(builder, low, high, error)
                half //= 2
            scalars = [builder.extract_element(vector, _INT32(0)) for vector in (line, missing)]
            return context.make_tuple(builder, pair, scalars)

        return pair(sums, lost), codegen

    return operation


# The lanes of `sums` folded in half until one is left, and what that and `lost` lose; with what is
# lost added up in the order of the Cython twin's fold_wide, or of its line_sum_total.
fold_sum_and_lost = _folding(lambda builder, a, b, c: builder.fadd(a, builder.fadd(b, c)))
fold_line_and_lost = _folding(lambda builder, a, b, c: builder.fadd(builder.fadd(a, b), c))


def _fold(name: str, combine: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def operation(typingctx: Any, vector: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            line = arguments[0]
            half = vector.lanes // 2
            while half > 0:
                line = combine(
                    builder, _half(builder, line, 0, half), _half(builder, line, half, half)
                )
                half //= 2
            return builder.extract_element(line, _INT32(0))

        return vector.real(vector), codegen

    return operation


# The lanes folded in half until one is left.
fold_sum = _fold("sum", lambda builder, a, b: builder.fadd(a, b))
fold_maximum = _fold("maximum", _maximum)


def _prefetching(writes: int, locality: int) -> Any:
    @intrinsic
    def operation(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))
            _call(
                builder,
                "llvm.prefetch.p0",
                ir.VoidType(),
                [place, _INT32(writes), _INT32(locality), _INT32(1)],
            )
            return context.get_dummy_value()

        return types.void(address), codegen

    return operation


# Asks for the line at an address, which need not be valid, to be brought into the second-level
# cache: asked into the first, lines came no sooner and were driven out again before they were
# used (65536 x 1000 float32, one thread: 17.7 ms against 16.3).
prefetch = _prefetching(writes=0, locality=2)
prefetch_to_write = _prefetching(writes=1, locality=3)


@intrinsic
def store_past_caches(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Writes the line at element `index`, which must start at a whole line of memory."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, start, line = arguments
        instruction = builder.store(line, _at(builder, place, start, line.type), align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
        return context.get_dummy_value()

    return types.void(pointer, index, value), codegen


@intrinsic
def finish_streams(typingctx: Any) -> Any:
    """Must follow what went past the caches, before another thread reads it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        if _has_feature("sse2"):
            _call(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """The address that a pointer holds."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], _INT64)

    return types.int64(pointer), codegen


@intrinsic
def pointer_at(typingctx: Any, address: Any, value: Any) -> Any:
    """A pointer to elements of `value`'s type at an address."""
    pointer = types.CPointer(value)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, value), codegen


def stack_buffer(size: int) -> Any:
    """An intrinsic that gives a pointer to `size` elements of its argument's type on the stack."""

    @intrinsic
    def buffer(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return cgutils.alloca_once(builder, context.get_value_type(value), size=_INT64(size))

        return types.CPointer(value)(value), codegen

    return buffer


# ---- floats in memory, other than those that are computed with ----


def _converts_float16() -> bool:
    """Whether LLVM has instructions for it; before F16C it calls functions that are not there."""
    return not _IS_X86 or _has_feature("f16c")


def _widen_float16(builder: Any, bits: Any, lanes: int) -> Any:
    if not _converts_float16():
        return _widen_float16_by_integers(builder, bits, lanes)
    halves = builder.bitcast(bits, ir.VectorType(ir.HalfType(), lanes))
    return builder.fpext(halves, _vector_type(types.float32, lanes))


def _widen_bfloat16(builder: Any, bits: Any, lanes: int) -> Any:
    wide = builder.zext(bits, ir.VectorType(_INT32, lanes))
    shifted = builder.shl(wide, ir.Constant(wide.type, [16] * lanes))
    return builder.bitcast(shifted, _vector_type(types.float32, lanes))


def _widen_float32(builder: Any, bits: Any, lanes: int) -> Any:
    return builder.bitcast(bits, _vector_type(types.float32, lanes))


def _widen_float64(builder: Any, bits: Any, lanes: int) -> Any:
    return builder.bitcast(bits, _vector_type(types.float64, lanes))


def _narrow_float16(builder: Any, line: Any, lanes: int) -> Any:
    if not _converts_float16():
        return _narrow_float16_by_integers(builder, line, lanes)
    halves = builder.fptrunc(line, ir.VectorType(ir.HalfType(), lanes))
    return builder.bitcast(halves, ir.VectorType(ir.IntType(16), lanes))


def _widen_float16_by_integers(builder: Any, bits: Any, lanes: int) -> Any:
    integers, floats = ir.VectorType(_INT32, lanes), _vector_type(types.float32, lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, [value] * lanes)

    wide = builder.zext(bits, integers)
    magnitude = builder.and_(wide, constant(0x7FFF))
    moved = builder.shl(magnitude, constant(13))
    # Exponent and mantissa land 112 too low; the product is exact, subnormals included.
    scale = ir.Constant(floats, [2.0**112] * lanes)
    finite = builder.bitcast(builder.fmul(builder.bitcast(moved, floats), scale), integers)
    special = builder.or_(moved, constant(0x7F800000))
    is_finite = builder.icmp_unsigned("<", magnitude, constant(0x7C00))
    sign = builder.shl(builder.and_(wide, constant(0x8000)), constant(16))
    return builder.bitcast(builder.or_(sign, builder.select(is_finite, finite, special)), floats)


def _narrow_float16_by_integers(builder: Any, line: Any, lanes: int) -> Any:
    integers, floats = ir.VectorType(_INT32, lanes), _vector_type(types.float32, lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, [value] * lanes)

    bits = builder.bitcast(line, integers)
    magnitude = builder.and_(bits, constant(0x7FFFFFFF))
    # Subnormal: adding 0.5 leaves the result, rounded to even, in the low bits.
    half = ir.Constant(floats, [0.5] * lanes)
    shifted = builder.bitcast(builder.fadd(builder.bitcast(magnitude, floats), half), integers)
    subnormal = builder.sub(shifted, constant(0x3F000000))
    odd = builder.and_(builder.lshr(magnitude, constant(13)), constant(1))
    rounded = builder.add(builder.add(magnitude, constant(0xFFF)), odd)
    normal = builder.lshr(builder.sub(rounded, constant(0x38000000)), constant(13))
    is_subnormal = builder.icmp_unsigned("<", magnitude, constant(0x38800000))
    result = builder.select(is_subnormal, subnormal, normal)
    overflows = builder.icmp_unsigned(">=", magnitude, constant(0x477FF000))
    result = builder.select(overflows, constant(0x7C00), result)
    is_nan = builder.icmp_unsigned(">", magnitude, constant(0x7F800000))
    result = builder.select(is_nan, constant(0x7E00), result)
    sign = builder.and_(builder.lshr(bits, constant(16)), constant(0x8000))
    return builder.trunc(builder.or_(sign, result), ir.VectorType(ir.IntType(16), lanes))


def _narrow_float32(builder: Any, line: Any, lanes: int) -> Any:
    return builder.bitcast(line, ir.VectorType(_INT32, lanes))


def _narrow_bfloat16(builder: Any, line: Any, lanes: int) -> Any:
    integers = ir.VectorType(_INT32, lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, [value] * lanes)

    bits = builder.bitcast(line, integers)
    upper = builder.lshr(bits, constant(16))
    odd = builder.and_(upper, constant(1))
    rounded = builder.lshr(builder.add(builder.add(bits, constant(0x7FFF)), odd), constant(16))
    quiet = builder.or_(upper, constant(0x40))
    nan = builder.fcmp_unordered("uno", line, line)
    return builder.trunc(builder.select(nan, quiet, rounded), ir.VectorType(ir.IntType(16), lanes))


def _reading(bits: int, widen: Callable[[Any, Any, int], Any]) -> tuple[Any, Any]:
    """Two intrinsics that read floats of `bits` bits at an address: a line's worth, and one."""

    def emit(context: Any, builder: Any, address: Any, vector: Vector, lanes: int) -> Any:
        stored = ir.VectorType(ir.IntType(bits), lanes)
        place = builder.inttoptr(address, ir.PointerType(stored))
        line = widen(builder, builder.load(place, typ=stored, align=bits // 8), lanes)
        wanted = _vector_type(vector.real, lanes)
        if line.type == wanted:
            return line
        narrower = line.type.element == ir.FloatType()
        return builder.fpext(line, wanted) if narrower else builder.fptrunc(line, wanted)

    @intrinsic
    def read_line(typingctx: Any, address: Any, value: Any) -> Any:
        vector = line_of(value)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(context, builder, arguments[0], vector, vector.lanes)

        return vector(address, value), codegen

    @intrinsic
    def read_one(typingctx: Any, address: Any, value: Any) -> Any:
        vector = line_of(value)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            line = emit(context, builder, arguments[0], vector, 1)
            return builder.extract_element(line, _INT32(0))

        return value(address, value), codegen

    return read_line, read_one


def _writing(bits: int, narrow: Callable[[Any, Any, int], Any]) -> tuple[Any, Any]:
    """Two intrinsics that write floats of `bits` bits at an address: a line, and a scalar."""

    def emit(builder: Any, address: Any, line: Any, lanes: int) -> None:
        single = _vector_type(types.float32, lanes)
        if line.type != single:
            line = builder.fptrunc(line, single)
        narrowed = narrow(builder, line, lanes)
        place = builder.inttoptr(address, ir.PointerType(narrowed.type))
        builder.store(narrowed, place, align=bits // 8)

    @intrinsic
    def write_line(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit(builder, arguments[0], arguments[1], value.lanes)
            return context.get_dummy_value()

        return types.void(address, value), codegen

    @intrinsic
    def write_one(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit(builder, arguments[0], _splat(builder, arguments[1], 1), 1)
            return context.get_dummy_value()

        return types.void(address, value), codegen

    return write_line, write_one


load_float16, load_one_float16 = _reading(16, _widen_float16)
load_bfloat16, load_one_bfloat16 = _reading(16, _widen_bfloat16)
load_float32, load_one_float32 = _reading(32, _widen_float32)
load_float64, load_one_float64 = _reading(64, _widen_float64)
store_float16, store_one_float16 = _writing(16, _narrow_float16)
store_bfloat16, store_one_bfloat16 = _writing(16, _narrow_bfloat16)
store_float32, store_one_float32 = _writing(32, _narrow_float32)


def called(dispatcher: Any, separately: bool) -> Any:
    """A compiled function as one that is compiled once, whether its arguments are constants or not.

    Numba compiles a function anew for a constant argument, even for a variable that only starts as
    one. It also links the code of a function into every caller, there to be optimised again, and
    again in the callers' callers: half of the time that `rows_evaluate` took to compile. With
    `separately` callers call the function without taking its code over.
    """

    @intrinsic
    def call(typingctx: Any, *arguments: Any) -> Any:
        wanted = tuple(types.unliteral(argument) for argument in arguments)
        template, _, _, _ = dispatcher.get_call_template(wanted, {})
        signature = template(typingctx).apply(wanted, {})
        compiled = dispatcher.overloads[signature.args]

        def codegen(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            values = cgutils.unpack_tuple(builder, arguments[0]) if signature.args else []
            if not separately:
                context.active_code_library.add_linking_library(compiled.library)
            return context.call_internal(builder, compiled.fndesc, signature, values)

        return signature.return_type(types.StarArgTuple(signature.args)), codegen

    return call


# Numba's passes for what these functions do not have: closures, `with`, exceptions, overloads that
# are inlined, loops over tuples, and array expressions.
_UNNEEDED_PASSES: Final = frozenset({
    "WithLifting", "InlineClosureLikes", "RewriteDynamicRaises", "MakeFunctionToJitFunction",
    "InlineInlinables", "FindLiterallyCalls", "LiteralUnroll", "LiteralPropagationSubPipelinePass",
    "InlineOverloads", "NopythonRewrites", "DumpParforDiagnostics",
})  # fmt: skip


class _Pipeline(CompilerBase):
    """Numba's compiler without those: 1 of 8 s."""

    def define_pipelines(self) -> list[Any]:
        full = DefaultPassBuilder.define_nopython_pipeline(self.state)
        lean = PassManager("lean")
        for each, description in full.passes:
            if each.__name__ not in _UNNEEDED_PASSES:
                lean.add_pass(each, description)
        lean.finalize()
        return [lean]


# Python never calls these functions, so they need no entry for it: 1.5 of 8.4 s to compile.
OPTIONS: Final[dict[str, Any]] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _Pipeline,
}


def inlined(function: Any) -> Any:
    """Made part of every caller."""
    return called(njit(forceinline=True, **OPTIONS)(function), separately=False)


def compiled(function: Any) -> Any:
    """Compiled by itself, and called."""
    return called(njit(**OPTIONS)(function), separately=True)
