"""How far a result is from the exact value: three measures, each defined everywhere.

    difference = |got - want|
    ULP error  = difference / spacing,   spacing = distance of the dtype's numbers at |want|
    relative   = difference / |want|
    scaled     = difference / the scale of the row

- NaN must meet NaN, and an infinity (or a value that rounds to one) the same infinity: the
  difference is 0 then, and infinite otherwise. -0 equals 0.
- The spacing is that of |want| rounded to the dtype, and never less than its smallest subnormal.
- Where the result is a difference that cancels by nature, the spacing is taken at the larger of
  the two terms instead: that is `Expected.losses_scale` and `output_scale`. There are three such
  results: the gradient where mass lies on several classes (probabilities, smoothed labels),
  A*p_j - t_j; logsumexp, m + log(sum_exp); and z-loss, which is made of that one's square.
- The relative error of a result that should be 0 is 0 or infinite.
- The scale of a row is 1 for a loss below 1 and the loss itself above; for outputs the largest
  finite magnitude in the row. So it says what an error is worth beside what the row gives.
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

# Numbers below it are finite in the dtype, and rounded to finite ones.
_LARGEST: Final = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308}


def differences(got: Array, want: Array) -> Array:
    """|got - want| for every element of `got`, in the precision of `want`."""
    with np.errstate(all="ignore"):
        value = got.astype(np.float64).astype(want.dtype)
        found: Array = abs(value - want)
        # Far from infinities and NaN, as nearly always, that is all.
        if found.size and found.max() < _LARGEST[got.dtype.name] > abs(want).max():
            return found
        rounded = _rounded(want, got.dtype)
        same_infinity = np.isinf(rounded) & (value == rounded)
        both_nan = np.isnan(value) & np.isnan(want)
        defined = np.isfinite(rounded) & np.isfinite(value)
        found = np.where(defined, found, np.inf)
        result: Array = np.where(same_infinity | both_nan, 0, found)
        return result


def ulp_errors(got: Array, want: Array, scale: Array | None = None) -> Array:
    """The error of every element of `got`, in ULP of its dtype."""
    return in_units(differences(got, want), spacing(want if scale is None else scale, got.dtype))


def relative_errors(difference: Array, want: Array) -> Array:
    """Differences beside the exact values."""
    return in_units(difference, abs(want))


def scaled_errors(difference: Array, want: Array) -> Array:
    """Differences beside the scale of their row."""
    size = np.where(np.isfinite(want), abs(want), 0)
    if want.ndim == 1:
        return in_units(difference, np.maximum(size, 1))
    return in_units(difference, size.max(axis=1, keepdims=True))


def in_units(difference: Array, unit: Array) -> Array:
    """difference / unit; 0 / 0 is 0, an infinite difference stays one, a unit of NaN is 1."""
    with np.errstate(all="ignore"):
        ratio = difference / np.where(np.isnan(unit), 1, unit)
        ratio = np.where(difference == 0, 0, np.where(np.isinf(difference), np.inf, ratio))
        result: Array = ratio.astype(np.float64)
        return result


def spacing(magnitude: Array, dtype: DType) -> Array:
    """The distance from |magnitude|, rounded to the dtype, to the next larger number."""
    with np.errstate(all="ignore"):
        mantissa_bits, lowest = _FORMATS[dtype.name]
        rounded = abs(_rounded(magnitude, dtype))
        _, exponent = np.frexp(rounded)
        exponent = np.where(rounded > 0, np.maximum(exponent - 1, lowest), lowest)
        # What rounds to infinity counts as the largest finite number.
        exponent = np.where(np.isinf(rounded), 1 - lowest, exponent)
        distance: Array = np.ldexp(np.ones((), magnitude.dtype), exponent - mantissa_bits)
        return distance


def unit_roundoff(dtype: DType) -> float:
    """Half the spacing at 1: what one rounding is, relatively."""
    return float(2.0 ** -(_FORMATS[dtype.name][0] + 1))


def smallest_normal(dtype: DType) -> float:
    """The smallest number of the dtype with all its digits."""
    return float(2.0 ** _FORMATS[dtype.name][1])


def _rounded(values: Array, dtype: DType) -> Array:
    return cast(values, dtype).astype(np.float64).astype(values.dtype)
