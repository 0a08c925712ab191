"""The error of a result in units in the last place (ULP), defined everywhere.

    error = |got - want| / spacing,   spacing = distance of the dtype's numbers at |want|

- The spacing is that of |want| rounded to the dtype, and never less than its smallest subnormal.
- Where the result is a difference that cancels by nature, the spacing is taken at the larger of
  the two terms instead: that is the `scale`. There are three such results: the gradient where
  mass lies on several classes (probabilities, smoothed labels), A*p_j - t_j; logsumexp,
  m + log(sum_exp); and z-loss, which is made of that one's square.
- NaN must meet NaN, and an infinity (or a value that rounds to one) the same infinity: the error
  is 0 then, and infinite otherwise.
- -0 equals 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .case import Array, DType, cast

# Bits of the mantissa behind the point, and the exponent of the smallest normal number.
_FORMATS: Final = {
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "float32": (23, -126),
    "float64": (52, -1022),
}


def ulp_errors(got: Array, want: Array, scale: Array | None = None) -> Array:
    """The error of every element of `got`, in ULP of its dtype."""
    with np.errstate(all="ignore"):
        value = got.astype(np.float64).astype(want.dtype)
        rounded = _rounded(want, got.dtype)
        errors = abs(value - want) / spacing(want if scale is None else scale, got.dtype)
        same_infinity = np.isinf(rounded) & (value == rounded)
        both_nan = np.isnan(value) & np.isnan(want)
        defined = np.isfinite(rounded) & np.isfinite(value)
        errors = np.where(defined, errors, np.inf)
        return np.where(same_infinity | both_nan, 0.0, errors).astype(np.float64)


def spacing(magnitude: Array, dtype: DType) -> Array:
    """The distance from |magnitude|, rounded to the dtype, to the next larger number."""
    mantissa_bits, lowest = _FORMATS[dtype.name]
    rounded = abs(_rounded(magnitude, dtype))
    _, exponent = np.frexp(rounded)
    exponent = np.where(rounded > 0, np.maximum(exponent - 1, lowest), lowest)
    # What rounds to infinity counts as the largest finite number.
    exponent = np.where(np.isinf(rounded), 1 - lowest, exponent)
    distance: Array = np.ldexp(np.ones((), magnitude.dtype), exponent - mantissa_bits)
    return distance


def _rounded(values: Array, dtype: DType) -> Array:
    return cast(values, dtype).astype(np.float64).astype(values.dtype)
