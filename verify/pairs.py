"""Numbers as unevaluated sums of two longdoubles: twice the digits, for the transformed logits.

Where logits are divided by a temperature or capped, exp(y_j - m) needs more digits of y than a
longdouble has: a relative error e of y is a relative error |y| e of the exponential. After
Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik
18 (1971), and Knuth, "The Art of Computer Programming", volume 2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from .case import Array

_DIGITS: Final = np.finfo(np.longdouble).nmant + 1
_SPLIT: Final = np.longdouble(2) ** ((_DIGITS + 1) // 2) + 1
_LOG_2: Final = "0.69314718055994530941723212145817656807550013436025525412068000949339"
# expm1 halves its argument so often that few terms of the series matter, the last of them so
# little that one longdouble holds them.
_HALVINGS: Final = 7
_TERMS: Final = 11
_TERMS_IN_PAIRS: Final = 5
# Beyond it tanh is 1 less a number below 1e-170.
_SATURATED: Final = 200.0


class Pair(NamedTuple):
    """high + low, where high is the sum rounded."""

    high: Array
    low: Array

    def __neg__(self) -> Pair:
        return Pair(-self.high, -self.low)


def pair(number: Any) -> Pair:
    """Longdoubles, or numbers that are exact as longdoubles."""
    high = np.asarray(number, np.longdouble)
    return Pair(high, np.zeros_like(high))


def add(a: Pair, b: Pair) -> Pair:
    """a + b."""
    high, error = two_sum(a.high, b.high)
    low, rest = two_sum(a.low, b.low)
    high, error = _normalised(high, error + low)
    return _normalised(high, error + rest)


def multiply(a: Pair, b: Pair) -> Pair:
    """a * b."""
    high, error = _two_product(a.high, b.high)
    return _normalised(high, error + (a.high * b.low + a.low * b.high))


def divide(a: Pair, b: Pair) -> Pair:
    """a / b, as by hand: three digits, each of a longdouble."""
    first = a.high / b.high
    rest = add(a, -multiply(pair(first), b))
    second = rest.high / b.high
    rest = add(rest, -multiply(pair(second), b))
    return add(_normalised(first, second), pair(rest.high / b.high))


def expm1(x: Pair) -> Pair:
    """exp(x) - 1 for |x| < 1000, with all its digits around 0 too."""
    nearest, one = np.rint(x.high / np.longdouble(_LOG_2)), pair(1)
    reduced = add(x, -multiply(pair(nearest), _LN_2))
    small = Pair(reduced.high / 2**_HALVINGS, reduced.low / 2**_HALVINGS)
    last = np.ones_like(x.high)
    for n in range(_TERMS, _TERMS_IN_PAIRS, -1):
        last = 1 + small.high * last / n
    series = pair(last)
    for n in range(_TERMS_IN_PAIRS, 1, -1):
        series = add(one, multiply(multiply(small, series), _INVERSES[n]))
    result = multiply(small, series)
    for _ in range(_HALVINGS):
        result = add(Pair(2 * result.high, 2 * result.low), multiply(result, result))
    power = np.ldexp(one.high, nearest.astype(np.int64))
    return add(Pair(result.high * power, result.low * power), Pair(*two_sum(power, -one.high)))


def tanh(x: Pair) -> Pair:
    """The hyperbolic tangent."""
    sign = np.copysign(np.longdouble(1), x.high)
    saturated = abs(x.high) > _SATURATED
    size = Pair(
        np.where(saturated, _SATURATED, x.high * sign), np.where(saturated, 0, x.low * sign)
    )
    e = expm1(Pair(-2 * size.high, -2 * size.low))
    result = divide(-e, add(e, pair(2)))
    return Pair(result.high * sign, result.low * sign)


def sech_squared(x: Pair) -> Array:
    """The derivative of tanh, to the last digits of a longdouble."""
    u = np.exp(-2 * abs(x.high)) * (1 - 2 * np.sign(x.high) * x.low)
    derivative: Array = 4 * u / (1 + u) ** 2
    return derivative


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum rounded, and exactly what it lacks."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _normalised(a: Array, b: Array) -> Pair:
    total = a + b
    return Pair(total, b - (total - a))


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = _SPLIT * a
    high = scaled - (scaled - a)
    return high, a - high


def _nearest(fraction: Fraction) -> Pair:
    """The pair nearest to a number."""
    high = np.longdouble(float(fraction))
    # float64 has a part of the digits only.
    high += np.longdouble(float(fraction - Fraction(*high.as_integer_ratio())))
    low = np.longdouble(float(fraction - Fraction(*high.as_integer_ratio())))
    return Pair(np.asarray(high), np.asarray(low))


_LN_2: Final = _nearest(Fraction(_LOG_2))
_INVERSES: Final = {n: _nearest(Fraction(1, n)) for n in range(2, _TERMS_IN_PAIRS + 1)}
