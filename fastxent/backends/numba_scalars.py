"""What the Numba twin needs besides Python's own operations, an intrinsic each.

Loops over them are vectorised like those over additions: none is a call in the machine code.
"""

from __future__ import annotations

import platform
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def has_feature(name: str) -> bool:
    """Whether code is compiled for a CPU that has it (NUMBA_CPU_FEATURES may take it away)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


def call_llvm(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def _integers(kind: Any) -> Any:
    """LLVM's integers of a float's width."""
    return ir.IntType(int(kind.bitwidth))


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), codegen


@intrinsic
def shift_bits(typingctx: Any, x: Any, n: Any) -> Any:
    """The float whose bits are those of x, n places further up."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = _integers(x)
        places = context.cast(builder, arguments[1], n, types.int64)
        if integers.width < 64:
            places = builder.trunc(places, integers)
        bits = builder.shl(builder.bitcast(arguments[0], integers), places)
        return builder.bitcast(bits, arguments[0].type)

    return x(x, n), codegen


@intrinsic
def bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float, as an integer with a sign: LLVM vectorises its maximum."""
    integer = types.int32 if x.bitwidth == 32 else types.int64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _integers(x))

    return integer(x), codegen


@intrinsic
def float_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float of these bits."""
    real = types.float32 if bits.bitwidth == 32 else types.float64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(real))

    return real(bits), codegen


def _prefetching(writes: int, locality: int) -> Any:
    @intrinsic
    def operation(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(8)))
            hints = [_INT32(writes), _INT32(locality), _INT32(1)]
            call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *hints])
            return context.get_dummy_value()

        return types.void(address), codegen

    return operation


# Asks for the line at an address, which need not be valid, to be brought into the second-level
# cache: asked into the first, lines came no sooner and were driven out again before they were
# used (65536 x 1000 float32, one thread: 17.7 ms against 16.3).
prefetch = _prefetching(writes=0, locality=2)
prefetch_to_write = _prefetching(writes=1, locality=3)


@intrinsic
def copy_line_past_caches(typingctx: Any, source: Any, j: Any, destination: Any, k: Any) -> Any:
    """Copies 64 bytes, from element j to element k, which must start a line of memory."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = context.get_value_type(source.dtype)
        line = ir.VectorType(real, 512 // int(source.dtype.bitwidth))

        def line_at(pointer: Any, index: Any) -> Any:
            place = builder.gep(pointer, [index], source_etype=real)
            return builder.bitcast(place, ir.PointerType(line))

        first, first_index, second, second_index = arguments
        value = builder.load(line_at(first, first_index), typ=line, align=4)
        instruction = builder.store(value, line_at(second, second_index), align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))
        return context.get_dummy_value()

    return types.void(source, j, destination, k), codegen


# The bytes of a row of a square that is transposed: what a register of AVX2 holds.
SQUARE_BYTES: Final = 32


@intrinsic
def transpose_square(
    typingctx: Any, source: Any, stride: Any, destination: Any, other_stride: Any, value: Any
) -> Any:
    """Reads the rows of a square at an address, `stride` bytes apart, and writes its columns.

    These become rows, `other_stride` bytes apart. A row has SQUARE_BYTES of `value`'s type.
    """
    side = 8 * SQUARE_BYTES // int(value.bitwidth)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, apart, other_address, other_apart, _ = arguments
        row_type = ir.VectorType(context.get_value_type(value), side)
        align = SQUARE_BYTES // side

        def place(start: Any, k: int, stride: Any) -> Any:
            row = builder.add(start, builder.mul(_INT64(k), stride))
            return builder.inttoptr(row, ir.PointerType(row_type))

        rows = [
            builder.load(place(address, k, apart), typ=row_type, align=align) for k in range(side)
        ]
        for k, column in enumerate(_transposed(builder, rows)):
            builder.store(column, place(other_address, k, other_apart), align=align)
        return context.get_dummy_value()

    integers = (types.int64,) * 4
    return types.void(*integers, value), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Rows and columns exchanged: blocks of 1, then of 2, 4, ... off the diagonal change places."""
    side = len(rows)
    half = 1
    while half < side:
        low = [side + (k ^ half) if k & half else k for k in range(side)]
        high = [side + k if k & half else k ^ half for k in range(side)]
        masks = [ir.Constant(ir.VectorType(_INT32, side), lanes) for lanes in (low, high)]
        for k in range(side):
            if not k & half:
                pair = rows[k], rows[k + half]
                rows[k], rows[k + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        half *= 2
    return rows


@intrinsic
def finish_streams(typingctx: Any) -> Any:
    """Must follow what went past the caches, before another thread reads it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        if has_feature("sse2"):
            call_llvm(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
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
            buffer = cgutils.alloca_once(builder, context.get_value_type(value), size=_INT64(size))
            buffer.align = 64  # a vector that two lines of memory hold takes twice the time
            return buffer

        return types.CPointer(value)(value), codegen

    return buffer
