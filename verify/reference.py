"""The exact values that results are held against.

SciPy's log_softmax in float64 is the first reference; it is independent of this project. It has
no digits left where log(sum_exp) is small beside its rounding error of 1e-16 (confident rows),
and none to spare where the results are float64 themselves. There an extended precision takes
over, which computes from

    m      the largest logit           count  how many logits equal m
    rest   the sum of exp(x_j - m) over the others

    log_sum = log1p(rest) if count == 1 else log(count + rest)
    loss    = sum_j t_j * (m - x_j) + mass * log_sum               every term is >= 0
    p_y - 1 = -(the sum of all terms but that of y) / (count + rest)

It is NumPy's longdouble where that has 63 bits or more, else mpmath (whose results are then
rounded to float64, so that errors are known to half a unit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mpmath
import numpy as np
import scipy.special

from .case import CROSS_ENTROPY, LOG_SOFTMAX, SOFTMAX, Array, Problem

LONGDOUBLE_IS_EXTENDED: Final = np.finfo(np.longdouble).nmant >= 63
# Below it SciPy's absolute error of 2^-53 shows in a float32 result.
_LEAST_LOG_SUM: Final = 2.0**-20
_DIGITS: Final = 40

SCIPY: Final = "scipy"
EXTENDED: Final = "extended"
BOTH: Final = "both"


@dataclass(frozen=True, slots=True)
class Expected:
    """Exact results; `*_scale` is the magnitude their error is measured at, None for their own."""

    losses: Array | None
    output: Array | None
    losses_scale: Array | None = None
    output_scale: Array | None = None
    source: str = EXTENDED


@dataclass(frozen=True, slots=True)
class Softmax:
    """A batch of rows, normalised: what every result is made of."""

    below: Array  # m - x_j >= 0
    log_sum: Array  # log(sum_exp) = logsumexp - m >= 0
    maximum: Array
    probs: Array  # p_j
    others: Array  # 1 - p_j, to full relative precision


def expected(operation: str, problem: Problem) -> Expected:
    """The exact results of an operation on a problem."""
    if problem.logits.dtype.name == "float64":
        return results(operation, problem, extended_softmax(problem.logits), EXTENDED)
    coarse = scipy_softmax(problem.logits)
    with np.errstate(invalid="ignore"):
        fine_rows = coarse.log_sum < _LEAST_LOG_SUM
    if not fine_rows.any():
        return results(operation, problem, coarse, SCIPY)
    fine = extended_softmax(problem.logits[fine_rows])
    source = EXTENDED if fine_rows.all() else BOTH
    return results(operation, problem, _replace_rows(coarse, fine, fine_rows), source)


def _replace_rows(coarse: Softmax, fine: Softmax, where: Array) -> Softmax:
    def merged(name: str) -> Array:
        whole: Array = getattr(coarse, name).astype(np.longdouble)
        whole[where] = getattr(fine, name)
        return whole

    return Softmax(*(merged(name) for name in Softmax.__dataclass_fields__))


def scipy_softmax(logits: Array) -> Softmax:
    """By SciPy in float64, from logits widened first."""
    x = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        log_probs = scipy.special.log_softmax(x, axis=1)
        maximum = x.max(axis=1)
        probs = np.exp(log_probs)
        # log_softmax at the maximum is -log_sum
        log_sum = -log_probs.max(axis=1)
        return _spoil_rows(
            Softmax(maximum[:, None] - x, log_sum, maximum, probs, -np.expm1(log_probs))
        )


def extended_softmax(logits: Array) -> Softmax:
    """In extended precision."""
    return longdouble_softmax(logits) if LONGDOUBLE_IS_EXTENDED else mpmath_softmax(logits)


def longdouble_softmax(logits: Array) -> Softmax:
    """In NumPy's longdouble."""
    x = logits.astype(np.float64).astype(np.longdouble)
    with np.errstate(all="ignore"):
        maximum = x.max(axis=1)
        m = maximum[:, None]
        difference = x - m
        # x - m = difference + error exactly (Knuth); 64 bits alone would lose a third of a
        # float64 unit where the difference is large.
        base = difference - x
        error = (x - (difference - base)) - (m + base)
        error = np.where(np.isfinite(error), error, 0)
        terms = np.exp(difference) * (1 + error)
        is_maximum = x == m
        count = is_maximum.sum(axis=1)
        rest = np.where(is_maximum, 0, terms).sum(axis=1)
        sum_exp = (count + rest)[:, None]
        log_sum = np.where(count == 1, np.log1p(rest), np.log(count + rest))
        without = np.where(is_maximum, (count - 1 + rest)[:, None], sum_exp - terms)
        return _spoil_rows(
            Softmax(-difference, log_sum, maximum, terms / sum_exp, without / sum_exp)
        )


def _spoil_rows(rows: Softmax) -> Softmax:
    # A NaN or +inf logit, or -inf alone, leaves a row without a softmax.
    bad = ~np.isfinite(rows.maximum)
    for array in (rows.below, rows.log_sum, rows.probs, rows.others):
        array[bad] = np.nan
    return rows


def mpmath_softmax(logits: Array) -> Softmax:
    """In mpmath with 40 digits, one number at a time."""
    x = logits.astype(np.float64)
    with mpmath.workdps(_DIGITS):
        rows = [_mpmath_row(row) for row in x]
    columns = [np.array([row[k] for row in rows], np.longdouble) for k in range(5)]
    below, log_sum, maximum, probs, others = columns
    n_rows, n_classes = x.shape
    shape = (n_rows, n_classes)
    return Softmax(
        below.reshape(shape), log_sum, maximum, probs.reshape(shape), others.reshape(shape)
    )


def _mpmath_row(row: Array) -> tuple[Any, Any, Any, Any, Any]:
    maximum = np.longdouble(row.max())
    if not np.isfinite(maximum):
        nan = np.full(row.size, np.nan, np.longdouble)
        return nan, np.longdouble(np.nan), maximum, nan, nan
    values = [mpmath.mpf(float(value)) for value in row]
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

    def longdoubles(numbers: list[Any]) -> Array:
        return np.array([longdouble_of(number) for number in numbers], np.longdouble)

    below = longdoubles([m - value for value in values])
    probs = longdoubles([term / sum_exp for term in terms])
    return below, longdouble_of(log_sum), maximum, probs, longdoubles(others)


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


def results(operation: str, problem: Problem, rows: Softmax, source: str) -> Expected:
    """An operation's results, made from the normalised rows."""
    make: Callable[[Problem, Softmax], Expected]
    with np.errstate(all="ignore"):
        if operation == CROSS_ENTROPY:
            make = _from_probs if problem.has_probs else _from_labels
            made = make(problem, rows)
            return Expected(made.losses, made.output, None, made.output_scale, source)
        log_sum = rows.log_sum[:, None]
        if operation == SOFTMAX:
            return Expected(None, rows.probs, source=source)
        if operation == LOG_SOFTMAX:
            # Two parts of one sign: nothing cancels.
            return Expected(None, -(rows.below + log_sum), source=source)
        total = np.where(np.isfinite(rows.maximum), rows.maximum + rows.log_sum, rows.maximum)
        # m + log_sum cancels by nature where m < 0: measured at the larger of the two.
        scale = np.maximum(abs(rows.maximum), np.fmax(rows.log_sum, abs(total)))
        return Expected(total, None, losses_scale=scale, source=source)


def _from_labels(problem: Problem, rows: Softmax) -> Expected:
    n_rows = problem.logits.shape[0]
    kept = (
        np.ones(n_rows, bool)
        if problem.ignore_index is None
        else problem.labels != problem.ignore_index
    )
    i = np.arange(n_rows)
    label = np.where(kept, problem.labels, 0)
    losses = np.where(kept, rows.below[i, label] + rows.log_sum, 0)
    gradient = rows.probs.copy()
    gradient[i, label] = -rows.others[i, label]
    gradient[~kept] = 0
    return Expected(losses, gradient)


def _from_probs(problem: Problem, rows: Softmax) -> Expected:
    target = problem.labels.astype(np.float64).astype(rows.probs.dtype)
    mass = target.sum(axis=1)
    # A class without mass costs nothing, whatever its logit.
    costs = np.where(target == 0, 0, target * rows.below).sum(axis=1)
    softmax_part = mass[:, None] * rows.probs
    # A*p_j - t_j cancels by nature: measured at the larger of the two.
    scale = np.maximum(softmax_part, target)
    return Expected(costs + mass * rows.log_sum, softmax_part - target, output_scale=scale)
