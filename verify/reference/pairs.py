"""Numbers as unevaluated sums of two floats: twice the digits of their type.

Pairs of float64 ("double-double") have 106 bits, pairs of x86's longdouble 128. The type is that
of the arguments. After Dekker, "A floating-point technique for extending the available
precision", Numerische Mathematik 18 (1971); Knuth, "The Art of Computer Programming", volume 2;
and Joldes, Muller, Popescu, "Tight and rigorous error bounds for basic building blocks of
double-word arithmetic", ACM Transactions on Mathematical Software 44 (2017).

u is the unit roundoff of the type: 2^-53 for float64, 2^-64 for x86's longdouble. Valid are

- sizes up to 2^996 (longdouble: 2^16350). A product splits its factors, and for that multiplies
  them by some u^(-1/2). Beyond, that overflows, inf - inf is NaN, and so is the whole pair. The
  same becomes of infinities and NaN, but where a docstring says otherwise.
- sizes from 2^-968 (longdouble: 2^-16317) on. Below, the last digits of a pair are less than the
  smallest subnormal number and are lost, which is an absolute error of about that number.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, log2
from typing import Any, Final, NamedTuple

import numpy as np

from ..case import Array, DType

_LOG_2: Final = "0.69314718055994530941723212145817656807550013436025525412068000949339"
_LOG_2_FLOAT: Final = float(_LOG_2)
# expm1 halves its argument so often that few terms of the series matter, and fewer still
# in pairs.
_HALVINGS: Final = 7
# Beyond it tanh is 1 less a number below 1e-170.
_SATURATED: Final = 200.0


class Pair(NamedTuple):
    """high + low, where high is the sum rounded."""

    high: Array
    low: Array

    def __neg__(self) -> Pair:
        return Pair(-self.high, -self.low)

    def at(self, index: Any) -> Pair:
        """The pairs at an index of the array."""
        return Pair(self.high[index], self.low[index])


class _Constants(NamedTuple):
    """What depends on the base type."""

    splitter: Any
    log_2: Pair
    # 1/(k + 1)! for x^k in (exp(x) - 1)/x: as pairs, then those for which one float will do
    leading: tuple[Pair, ...]
    others: tuple[Any, ...]
    # exponent of the smallest subnormal number
    lowest: int


def pair(number: Any, dtype: Any) -> Pair:
    """Numbers that are exact in the base type, as pairs of it."""
    high = np.asarray(number, dtype)
    return Pair(high, np.zeros_like(high))


def add(a: Pair, b: Pair) -> Pair:
    """a + b, with a relative error of 3 u^2 even where the two nearly cancel."""
    high, error = two_sum(a.high, b.high)
    low, rest = two_sum(a.low, b.low)
    high, error = _normalised(high, error + low)
    return _normalised(high, error + rest)


def multiply(a: Pair, b: Pair) -> Pair:
    """a * b, with a relative error below 8 u^2."""
    high, error = _two_product(a.high, b.high)
    return _normalised(high, error + (a.high * b.low + a.low * b.high))


def divide(a: Pair, b: Pair) -> Pair:
    """a / b, as by hand: three digits, each of a float. The relative error is below 8 u^2."""
    first = a.high / b.high
    rest = add(a, -_times(b, first))
    second = rest.high / b.high
    rest = add(rest, -_times(b, second))
    high, error = _normalised(first, second)
    return _normalised(high, error + rest.high / b.high)


def where(condition: Array, a: Pair, b: Pair) -> Pair:
    """Like numpy.where."""
    return Pair(np.where(condition, a.high, b.high), np.where(condition, a.low, b.low))


def shift(a: Pair, exponent: Any) -> Pair:
    """a * 2^exponent, exactly unless it leaves the range."""
    return Pair(np.ldexp(a.high, exponent), np.ldexp(a.low, exponent))


def total(a: Pair) -> Pair:
    """The sums along the last axis, of at least one number, by halves.

    For n numbers of one sign the relative error is below 3 u^2 (1 + log2(n)).
    """
    while (n := a.high.shape[-1]) > 1:
        half = n // 2
        rest = a.at(np.s_[..., 2 * half :])
        a = add(a.at(np.s_[..., :half]), a.at(np.s_[..., half : 2 * half]))
        if n % 2:
            a = Pair(*(np.concatenate(parts, axis=-1) for parts in zip(a, rest, strict=True)))
    return a.at(np.s_[..., 0])


def expm1(x: Pair) -> Pair:
    """exp(x) - 1 for |x| < 700, with a relative error below (8 + |x|) u^2, around 0 too."""
    e, nearest = _reduced_expm1(x)
    power = np.ldexp(np.ones_like(x.high), nearest)
    return add(Pair(e.high * power, e.low * power), Pair(*two_sum(power, -np.ones_like(power))))


def exp(x: Pair, scale: int = 0) -> Pair:
    """exp(x) * 2^scale, up to 2^996; of -inf, and where it is too small for the type, 0.

    The relative error is below (8 + |x|) u^2 where exp(x) * 2^scale has all its digits (see
    above), so what is far below 1 needs a scale.
    """
    vanishes = x.high < (_constants(x.high.dtype).lowest - 2 - scale) * _LOG_2_FLOAT
    zero = pair(0, x.high.dtype)
    e, nearest = _reduced_expm1(where(vanishes, zero, x))
    return where(vanishes, zero, shift(add(e, pair(1, x.high.dtype)), nearest + scale))


def log(x: Pair) -> Pair:
    """log(x) for x from 2^-900 to 2^900, with an error below 8 u^2 max(1, |log(x)|).

    That is no digit at all close to 1, where log1p has them.
    """
    first = pair(np.log(x.high), x.high.dtype)
    return _corrected(first, add(multiply(x, exp(-first)), pair(-1, x.high.dtype)))


def log1p(x: Pair) -> Pair:
    """log(1 + x) for -1/2 < x < 1, with a relative error below 8 u^2."""
    first = pair(np.log1p(x.high), x.high.dtype)
    back = expm1(-first)
    return _corrected(first, add(add(x, back), multiply(x, back)))


def tanh(x: Pair) -> Pair:
    """The hyperbolic tangent, with a relative error below 8 u^2."""
    sign = np.copysign(np.ones_like(x.high), x.high)
    saturated = abs(x.high) > _SATURATED
    size = where(saturated, pair(_SATURATED, x.high.dtype), Pair(x.high * sign, x.low * sign))
    e = expm1(Pair(-2 * size.high, -2 * size.low))
    result = divide(-e, add(e, pair(2, x.high.dtype)))
    return Pair(result.high * sign, result.low * sign)


def sech_squared(x: Pair) -> Array:
    """The derivative of tanh in the base type, with a relative error of a few u."""
    u = np.exp(-2 * abs(x.high)) * (1 - 2 * np.sign(x.high) * x.low)
    derivative: Array = 4 * u / (1 + u) ** 2
    return derivative


def sech_squared_pair(x: Pair, scale: int = 0) -> Pair:
    """The derivative of tanh times 2^scale, for the reason given at exp.

    The relative error is below (16 + 2 |x|) u^2.
    """
    sign = -np.sign(x.high)
    double = Pair(2 * sign * x.high, 2 * sign * x.low)
    scaled = exp(double, scale)
    one_plus = add(shift(scaled, -scale), pair(1, x.high.dtype))
    return divide(shift(scaled, 2), multiply(one_plus, one_plus))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum rounded, and exactly what it lacks."""
    rounded = a + b
    part = rounded - a
    return rounded, (a - (rounded - part)) + (b - part)


def _reduced_expm1(x: Pair) -> tuple[Pair, Array]:
    """exp(r) - 1 and n with x = n ln2 + r, |r| <= ln2/2, |n| < 2^15."""
    constants = _constants(x.high.dtype)
    nearest = np.rint(x.high / constants.log_2.high)
    # n times the first digits of ln2 is exact as a pair, so r has an error of n ln2 u^2 alone.
    product, error = _two_product(nearest, constants.log_2.high)
    reduced = add(x, Pair(-product, -(error + nearest * constants.log_2.low)))
    small = Pair(reduced.high / 2**_HALVINGS, reduced.low / 2**_HALVINGS)
    last = np.zeros_like(x.high)
    for coefficient in reversed(constants.others):
        last = coefficient + small.high * last
    series = pair(last, last.dtype)
    for leading in reversed(constants.leading):
        series = add(leading, multiply(small, series))
    e = multiply(small, series)
    for _ in range(_HALVINGS):
        e = add(Pair(2 * e.high, 2 * e.low), multiply(e, e))
    return e, nearest.astype(np.int32)


def _corrected(first: Pair, error: Pair) -> Pair:
    """first + log(1 + error); the cube of a rounding error no longer matters."""
    return add(first, add(error, pair(-error.high * error.high / 2, error.high.dtype)))


def _times(a: Pair, b: Array) -> Pair:
    high, error = _two_product(a.high, b)
    return _normalised(high, error + a.low * b)


def _normalised(a: Array, b: Array) -> Pair:
    rounded = a + b
    return Pair(rounded, b - (rounded - a))


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = _constants(a.dtype).splitter * a
    high = scaled - (scaled - a)
    return high, a - high


@cache
def _constants(dtype: DType) -> _Constants:
    real, info = dtype.type, np.finfo(dtype)
    digits = info.nmant + 1
    size = log2(0.3466) - _HALVINGS

    def weight(k: int) -> float:
        return k * size - log2(factorial(k + 1))

    # A term beside 1: one float holds those below u; those below u^2/4 are left out.
    n_leading = next(k for k in range(100) if weight(k) < 1 - digits)
    n_terms = next(k for k in range(100) if weight(k) < -2 * digits - 2)
    coefficients = [_nearest(Fraction(1, factorial(k + 1)), dtype) for k in range(n_terms)]
    return _Constants(
        splitter=real(2) ** ((digits + 1) // 2) + 1,
        log_2=_nearest(Fraction(_LOG_2), dtype),
        leading=tuple(coefficients[:n_leading]),
        others=tuple(number.high[()] for number in coefficients[n_leading:]),
        lowest=int(info.minexp) - int(info.nmant),
    )


def _nearest(fraction: Fraction, dtype: DType) -> Pair:
    """The pair nearest to a number."""

    def rounded(number: Fraction) -> Any:
        value = dtype.type(0)
        # float() rounds to float64, which has a part of the digits only.
        for _ in range(3):
            value += dtype.type(float(number - Fraction(*value.as_integer_ratio())))
        return value

    high = rounded(fraction)
    low = rounded(fraction - Fraction(*high.as_integer_ratio()))
    return Pair(np.asarray(high), np.asarray(low))
