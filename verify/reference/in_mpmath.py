"""The exact softmax in mpmath, one number at a time: what faster references are checked against."""

from __future__ import annotations

from typing import Any, Final

import mpmath
import numpy as np

from ..case import Array
from . import (
    LONGDOUBLE_IS_EXTENDED,
    Softmax,
    Transform,
    longdouble_softmax,
    pair_softmax,
)

_DIGITS: Final = 40
_SEED: Final = 5

ROWS: Final = (
    (0.5, -1.25, 3.0, 0.125),
    (40.0, 0.0),
    (740.0, 0.0, 1.0),
    (745.0, 0.0),
    (1e8, 1e8 - 3.7, 1e8 - 20.0),
    (-1e8, -1e8 - 0.1, -1e8 - 700.0),
    (2.0, 2.0, -5.0, 2.0),
    (-np.inf, 3.0, -np.inf, 1.0),
    (7.0,),
    (0.1, -700.3, -703.77, -0.7),
    # one logit far below; the ends of float64's range
    (1e300, -1e300),
    (1.79e308, 1.5e308, -1.79e308),
    # subnormal numbers, alone and beside 1
    (3 * 2.0**-1074, -(2.0**-1074), 2.0**-1030, 0.0),
    (2.0**-1074, 1.0, -(2.0**-1060)),
    # equal only after capping, and beside a maximum that is shared as it is
    (50000.0, 60000.0, 60000.0, -60000.0, 1.0),
    # exponentials that are the smallest normal, subnormal, and smallest subnormal float64
    (0.3, -707.9, -708.4, -709.1, -730.2, -744.1, -744.9),
    (-np.inf, -np.inf),
    (np.nan, 1.0, -np.inf),
    (np.inf, 1.0, 2.0),
)
TRANSFORMS: Final = (
    Transform(),
    Transform(temperature=0.3),
    Transform(softcap=30.0),
    Transform(temperature=0.7, softcap=1000.3),
    Transform(temperature=1e-3, softcap=1e4),
)
# Gaussian rows of 300 logits
_SIGMAS: Final = (1.0, 4.0, 10.0, 30.0, 100.0)


def largest_error() -> float:
    """The largest relative error of longdouble (where it is extended) and double-double.

    What is below the smallest normal number counts beside that, m - x_j beside logsumexp - x_j:
    losses are made of both, and where transformed logits nearly tie, m - x_j alone has no digits.
    """
    random = np.random.default_rng(_SEED)
    rows = [np.array([row]) for row in ROWS]
    rows += [sigma * random.standard_normal((1, 300)) for sigma in _SIGMAS]
    largest = 0.0
    for i, logits in enumerate(rows):
        # Long rows take mpmath long: each has one transform.
        for transform in TRANSFORMS if logits.size < 300 else (TRANSFORMS[i % 5],):
            want = mpmath_softmax(logits, transform)
            if LONGDOUBLE_IS_EXTENDED:
                got = longdouble_softmax(logits, transform)
                largest = max(largest, *relative_errors(got, want, np.longdouble).values())
            got = pair_softmax(logits, transform)
            largest = max(largest, *relative_errors(got, want, np.float64).values())
    return largest


def relative_errors(got: Softmax, want: Softmax, range_of: Any) -> dict[str, float]:
    """The largest relative error of each part, as `largest_error` counts it.

    `range_of` is the type whose smallest normal number limits what is counted.
    """
    found = {}
    with np.errstate(all="ignore"):
        for name in Softmax.__dataclass_fields__:
            a, b = getattr(got, name), getattr(want, name)
            size = b + want.log_sum[:, None] if name == "below" else abs(b)
            error = abs(a - b) / np.maximum(size, np.finfo(range_of).smallest_normal)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            found[name] = float(np.where(same, 0, np.where(np.isnan(error), np.inf, error)).max())
    return found


def mpmath_softmax(logits: Array, transform: Transform) -> Softmax:
    """In mpmath with 40 digits, one number at a time."""
    x = logits.astype(np.float64)
    with mpmath.workdps(_DIGITS):
        rows = [_mpmath_row(row, transform) for row in x]
    return Softmax(*(np.array(column, np.longdouble) for column in zip(*rows, strict=True)))


def _mpmath_row(row: Array, transform: Transform) -> tuple[Any, Any, Any, Any, Any, Any]:
    transformed = [_mpmath_transformed(float(value), transform) for value in row]
    values = [value for value, _ in transformed]
    slopes = _longdoubles([slope for _, slope in transformed])
    maximum = np.longdouble(row.max())
    if not np.isfinite(maximum):
        nan = np.full(row.size, np.nan, np.longdouble)
        return nan, np.longdouble(np.nan), maximum, nan, nan, slopes
    m = max(values)
    terms = [mpmath.exp(value - m) for value in values]
    first = values.index(m)
    # One maximum adds exactly 1, so log1p of all the other terms loses nothing.
    rest = mpmath.fsum(terms[:first] + terms[first + 1 :])
    log_sum = mpmath.log1p(rest)
    sum_exp = 1 + rest
    others = [
        (rest if value == m else 1 + (rest - term)) / sum_exp
        for value, term in zip(values, terms, strict=True)
    ]
    below = _longdoubles([m - value for value in values])
    probs = _longdoubles([term / sum_exp for term in terms])
    return below, longdouble_of(log_sum), longdouble_of(m), probs, _longdoubles(others), slopes


def _mpmath_transformed(logit: float, transform: Transform) -> tuple[Any, Any]:
    value, slope = mpmath.mpf(logit), mpmath.mpf(1)
    if transform.softcap is not None and mpmath.isfinite(value):
        ratio = value / transform.softcap
        value = transform.softcap * mpmath.tanh(ratio)
        slope = mpmath.sech(ratio) ** 2
    return value / transform.temperature, slope / transform.temperature


def _longdoubles(numbers: list[Any]) -> Array:
    return np.array([longdouble_of(number) for number in numbers], np.longdouble)


def longdouble_of(number: Any) -> np.longdouble:
    """An mpmath number as a longdouble."""
    if not mpmath.isfinite(number):
        return np.longdouble(float(number))
    fraction, exponent = mpmath.frexp(number)
    high = float(fraction)
    low = float(fraction - high)
    # Far outside the range of every dtype the exact exponent no longer matters, only its sign.
    power = max(-100_000, min(100_000, int(exponent)))
    with np.errstate(over="ignore", under="ignore"):
        value: np.longdouble = np.ldexp(np.longdouble(high) + np.longdouble(low), power)
    return value
