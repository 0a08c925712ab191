"""Floats of 16 bits for the Numba twin: their bits as float32, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .numba_scalars import IS_X86, has_feature, or_in_python

_INT16 = ir.IntType(16)
_INT32 = ir.IntType(32)
_FLOAT = ir.FloatType()


def _converts_float16() -> bool:
    """Whether LLVM has instructions for it; before F16C it calls functions that are not there."""
    return not IS_X86 or has_feature("f16c")


def _converting(
    source: Any, result: Any, emit: Callable[[Any, Any], Any], in_python: Callable[[Any], Any]
) -> Any:
    @or_in_python(in_python)
    @intrinsic
    def convert(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, arguments[0])

        return result(source), codegen

    return convert


def _widen_float16(builder: Any, bits: Any) -> Any:
    if _converts_float16():
        return builder.fpext(builder.bitcast(bits, ir.HalfType()), _FLOAT)
    wide = builder.zext(bits, _INT32)
    magnitude = builder.and_(wide, _INT32(0x7FFF))
    moved = builder.shl(magnitude, _INT32(13))
    # Exponent and mantissa land 112 too low; the product is exact, subnormals included.
    scaled = builder.fmul(builder.bitcast(moved, _FLOAT), _FLOAT(2.0**112))
    finite = builder.bitcast(scaled, _INT32)
    special = builder.or_(moved, _INT32(0x7F800000))
    is_finite = builder.icmp_unsigned("<", magnitude, _INT32(0x7C00))
    sign = builder.shl(builder.and_(wide, _INT32(0x8000)), _INT32(16))
    return builder.bitcast(builder.or_(sign, builder.select(is_finite, finite, special)), _FLOAT)


def _narrow_float16(builder: Any, value: Any) -> Any:
    if _converts_float16():
        return builder.bitcast(builder.fptrunc(value, ir.HalfType()), _INT16)
    bits = builder.bitcast(value, _INT32)
    magnitude = builder.and_(bits, _INT32(0x7FFFFFFF))
    # Subnormal: adding 0.5 leaves the result, rounded to even, in the low bits.
    shifted = builder.fadd(builder.bitcast(magnitude, _FLOAT), _FLOAT(0.5))
    subnormal = builder.sub(builder.bitcast(shifted, _INT32), _INT32(0x3F000000))
    odd = builder.and_(builder.lshr(magnitude, _INT32(13)), _INT32(1))
    rounded = builder.add(builder.add(magnitude, _INT32(0xFFF)), odd)
    normal = builder.lshr(builder.sub(rounded, _INT32(0x38000000)), _INT32(13))
    is_subnormal = builder.icmp_unsigned("<", magnitude, _INT32(0x38800000))
    result = builder.select(is_subnormal, subnormal, normal)
    overflows = builder.icmp_unsigned(">=", magnitude, _INT32(0x477FF000))
    result = builder.select(overflows, _INT32(0x7C00), result)
    is_nan = builder.icmp_unsigned(">", magnitude, _INT32(0x7F800000))
    result = builder.select(is_nan, _INT32(0x7E00), result)
    sign = builder.and_(builder.lshr(bits, _INT32(16)), _INT32(0x8000))
    return builder.trunc(builder.or_(sign, result), _INT16)


def _widen_bfloat16(builder: Any, bits: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(bits, _INT32), _INT32(16)), _FLOAT)


def _narrow_bfloat16(builder: Any, value: Any) -> Any:
    bits = builder.bitcast(value, _INT32)
    upper = builder.lshr(bits, _INT32(16))
    odd = builder.and_(upper, _INT32(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _INT32(0x7FFF)), odd), _INT32(16))
    quiet = builder.or_(upper, _INT32(0x40))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, quiet, rounded), _INT16)


def _narrow_bfloat16_in_python(value: Any) -> Any:
    bits = int(value.view(np.uint32))
    if np.isnan(value):
        return np.uint16(bits >> 16 | 0x40)
    return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


# From bits to a float32, and from a float32 to the bits of the nearest.
widen_float16 = _converting(
    types.uint16, types.float32, _widen_float16,
    lambda bits: np.float32(bits.view(np.float16)),
)  # fmt: skip
widen_bfloat16 = _converting(
    types.uint16, types.float32, _widen_bfloat16,
    lambda bits: (np.uint32(bits) << np.uint32(16)).view(np.float32),
)  # fmt: skip
narrow_float16 = _converting(
    types.float32, types.uint16, _narrow_float16,
    lambda value: np.float16(value).view(np.uint16),
)  # fmt: skip
narrow_bfloat16 = _converting(
    types.float32, types.uint16, _narrow_bfloat16, _narrow_bfloat16_in_python
)
