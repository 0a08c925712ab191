"""What the Numba twin needs besides Python's own operations, an intrinsic each.

Loops over them are vectorised like those over additions: none is a call in the machine code. Beside
each stands what it does in Python, which takes its place with NUMBA_DISABLE_JIT=1: then all of the
twin is Python, for debuggers and to measure coverage.
"""

from __future__ import annotations

import ctypes
import math
import platform
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


# Whether Numba compiles; said once, for all of the twin.
COMPILES: Final = not config.DISABLE_JIT

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


def has_feature(name: str) -> bool:
    """Whether code is compiled for a CPU that has it (NUMBA_CPU_FEATURES may take it away)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


def call_llvm(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def or_in_python(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """A decorator of an intrinsic: the intrinsic, or where nothing is compiled a function."""
    return lambda intrinsic_: intrinsic_ if COMPILES else function


def _integers(kind: Any) -> Any:
    """LLVM's integers of a float's width."""
    return ir.IntType(int(kind.bitwidth))


def _as_in_c(function: Callable[[Any], float], pole: float = math.nan) -> Callable[[Any], Any]:
    """A function of `math` with the results of C where it raises, as a float64 of NumPy's.

    Divided by 0 that is infinite, and with a float32 it makes a float64: as it is compiled.
    """

    def call(x: Any) -> Any:
        try:
            return np.float64(function(x))
        except OverflowError:
            return np.float64(np.inf)
        except ValueError:
            return np.float64(-np.inf if x == pole else np.nan)

    return call


exp: Any = math.exp if COMPILES else _as_in_c(math.exp)
log: Any = math.log if COMPILES else _as_in_c(math.log, pole=0.0)
log1p: Any = math.log1p if COMPILES else _as_in_c(math.log1p, pole=-1.0)
ldexp: Any = math.ldexp if COMPILES else np.ldexp
frexp: Any = math.frexp if COMPILES else np.frexp


class Pointer:
    """In Python: elements of a type from an address on."""

    def __init__(self, address: int, dtype: Any) -> None:
        self.address = int(address)
        self.dtype = np.dtype(dtype)
        self._element = np.ctypeslib.as_ctypes_type(self.dtype)

    def _at(self, index: int) -> Any:
        return self._element.from_address(self.address + int(index) * self.dtype.itemsize)

    def __getitem__(self, index: int) -> Any:
        return self.dtype.type(self._at(index).value)

    def __setitem__(self, index: int, value: Any) -> None:
        self._at(index).value = self.dtype.type(value).item()


def _bits(x: Any) -> Any:
    return x.view(np.int32 if x.itemsize == 4 else np.int64)


def _nearest(exact: Fraction, dtype: Any) -> Any:
    """The number of a type that is nearest to a fraction; infinity beyond its range."""
    try:
        near = dtype(float(exact))
    except OverflowError:
        return dtype(np.inf if exact > 0 else -np.inf)
    if not np.isfinite(near):
        return near
    # rounded twice, it may be a neighbour of the nearest
    around = (near, np.nextafter(near, dtype(-np.inf)), np.nextafter(near, dtype(np.inf)))
    finite = [each for each in around if np.isfinite(each)]
    return min(finite, key=lambda each: abs(Fraction(float(each)) - exact))


def _fma(a: Any, b: Any, c: Any) -> Any:
    dtype = np.result_type(a, b, c).type
    rounded = dtype(a) * dtype(b) + dtype(c)
    if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(c)):
        return rounded
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    return _nearest(exact, dtype) if exact else rounded  # which has the sign of a zero


@or_in_python(_fma)
@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), codegen


def _shift_bits(x: Any, n: int) -> Any:
    return (_bits(x) << n).view(x.dtype)


@or_in_python(_shift_bits)
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


@or_in_python(_bits)
@intrinsic
def bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float, as an integer with a sign: LLVM vectorises its maximum."""
    integer = types.int32 if x.bitwidth == 32 else types.int64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _integers(x))

    return integer(x), codegen


def _float_of_bits(bits: Any) -> Any:
    return bits.view(np.float32 if bits.itemsize == 4 else np.float64)


@or_in_python(_float_of_bits)
@intrinsic
def float_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float of these bits."""
    real = types.float32 if bits.bitwidth == 32 else types.float64

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(real))

    return real(bits), codegen


def _nothing(*_: Any) -> None:
    """What only matters for speed, or to other processors, does nothing in Python."""


def _prefetching(writes: int, locality: int) -> Any:
    @or_in_python(_nothing)
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


def _copy_line(source: Pointer, j: int, destination: Pointer, k: int) -> None:
    size = source.dtype.itemsize
    ctypes.memmove(destination.address + int(k) * size, source.address + int(j) * size, 64)


@or_in_python(_copy_line)
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


def _transpose_square(
    source: int, stride: int, destination: int, other_stride: int, value: Any
) -> None:
    side = SQUARE_BYTES // value.itemsize
    rows = [[_pointer_at(source + k * stride, value)[j] for j in range(side)] for k in range(side)]
    for j in range(side):
        column = _pointer_at(destination + j * other_stride, value)
        for k in range(side):
            column[k] = rows[k][j]


@or_in_python(_transpose_square)
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


@or_in_python(_nothing)
@intrinsic
def finish_streams(typingctx: Any) -> Any:
    """Must follow what went past the caches, before another thread reads it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        if has_feature("sse2"):
            call_llvm(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _address_of(pointer: Pointer) -> int:
    return pointer.address


@or_in_python(_address_of)
@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """The address that a pointer holds."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], _INT64)

    return types.int64(pointer), codegen


_PYTHON_TYPES = {int: np.int64, float: np.float64}


def _pointer_at(address: int, value: Any) -> Pointer:
    return Pointer(address, _PYTHON_TYPES.get(type(value)) or value.dtype)


@or_in_python(_pointer_at)
@intrinsic
def pointer_at(typingctx: Any, address: Any, value: Any) -> Any:
    """A pointer to elements of `value`'s type at an address."""
    pointer = types.CPointer(value)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, value), codegen


class _Stack(threading.local):
    """In Python: what a thread has while a kernel runs."""

    def __init__(self) -> None:
        self.memory: list[Any] = []  # what is on the stack; addresses keep nothing alive
        self.error: BaseException | None = None  # C has no way to pass it on


stack = _Stack()


def stack_buffer(size: int) -> Any:
    """An intrinsic that gives a pointer to `size` elements of its argument's type on the stack."""

    def _buffer(value: Any) -> Pointer:
        pointer = _pointer_at(0, value)
        memory = ctypes.create_string_buffer(size * pointer.dtype.itemsize)
        stack.memory.append(memory)
        pointer.address = ctypes.addressof(memory)
        return pointer

    @or_in_python(_buffer)
    @intrinsic
    def buffer(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            buffer = cgutils.alloca_once(builder, context.get_value_type(value), size=_INT64(size))
            buffer.align = 64  # a vector that two lines of memory hold takes twice the time
            return buffer

        return types.CPointer(value)(value), codegen

    return buffer
