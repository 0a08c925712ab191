"""A number as text: short enough to read, and exact enough to get the same bits back."""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, Final

import numpy as np

# The smallest numbers of a long double have 11 500 decimal digits.
_EXACT: Final = Context(prec=20_000, Emin=MIN_EMIN, Emax=MAX_EMAX)


def is_number(value: Any) -> bool:
    """Whether this is one number, of Python or of NumPy (ml_dtypes' among them)."""
    if isinstance(value, np.generic):
        # A dtype of another package, such as bfloat16, has the kind "V".
        return value.dtype.kind in "iuf" or value.dtype.name == "bfloat16"
    return isinstance(value, int | float) and not isinstance(value, bool)


def type_name(number: Any) -> str:
    """What kind of number it is: the name of its dtype, or of its Python type."""
    if isinstance(number, np.longdouble):  # NumPy calls it by the bytes it takes: float128
        return "longdouble"
    return str(number.dtype.name) if isinstance(number, np.generic) else type(number).__name__


def shortest(number: Any) -> str:
    """As few digits as its type needs to give the same number back; "NaN", "Infinity"."""
    value = float(number) if type_name(number) == "bfloat16" else number
    if value != value:
        return "NaN"
    if value in (math.inf, -math.inf):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value)


def decimal_digits(number: Any) -> str | None:
    """All digits of its decimal fraction; None where it is not finite."""
    ratio = _ratio(number)
    if ratio is None:
        return None
    return str(_EXACT.divide(Decimal(ratio[0]), Decimal(ratio[1])))


def hexadecimal(number: Any) -> str | None:
    """As C and `float.fromhex` write it, 0x1.8p+1, exact for any width; None if not finite."""
    ratio = _ratio(number)
    if ratio is None:
        return None
    numerator, denominator = ratio
    sign = "-" if numerator < 0 or (numerator == 0 and _is_minus_zero(number)) else ""
    magnitude = abs(numerator)
    if magnitude == 0:
        return f"{sign}0x0.0p+0"
    n_bits = magnitude.bit_length() - 1  # behind the leading 1
    n_digits = -(-n_bits // 4)
    fraction = (magnitude - (1 << n_bits)) << (4 * n_digits - n_bits)
    digits = f"{fraction:0{n_digits}x}".rstrip("0") if n_digits else ""
    exponent = n_bits - (denominator.bit_length() - 1)
    return f"{sign}0x1.{digits or '0'}p{exponent:+d}"


def _ratio(number: Any) -> tuple[int, int] | None:
    """The number as a fraction, whose denominator is a power of two."""
    if isinstance(number, int | np.integer):
        return int(number), 1
    value = number if hasattr(number, "as_integer_ratio") else float(number)
    if not np.isfinite(value):
        return None
    numerator, denominator = value.as_integer_ratio()
    return int(numerator), int(denominator)


def _is_minus_zero(number: Any) -> bool:
    return math.copysign(1.0, float(number)) < 0
