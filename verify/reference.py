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

The options of a problem come before and after that:

    y_j     = softcap * tanh(x_j / softcap) / temperature     in place of x_j, as a pair
    t_j     = w_j * ((1 - e) * b_j + [x_j > -inf] * e / n)    n: how many classes have x_j > -inf
    loss    = s * (sum_j t_j * (lse - y_j) + z * lse^2)
    grad_j  = s * ((mass + 2 z lse) * p_j - t_j) * dy_j/dx_j

b is the labels' distribution, e the smoothing, w and s the weights of classes and rows. The slope
dy_j/dx_j of a masked class is that without a cap. A row that nothing is asked of, by its label or
by weights of 0, gives 0 whatever it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import mpmath
import numpy as np
import scipy.special

from .case import CROSS_ENTROPY, LOG_SOFTMAX, SOFTMAX, Array, DType, Problem
from .pairs import Pair, divide, multiply, pair, sech_squared, tanh, two_sum

LONGDOUBLE_IS_EXTENDED: Final = np.finfo(np.longdouble).nmant >= 63
# Below it SciPy's absolute error of 2^-53 shows in a float32 result.
_LEAST_LOG_SUM: Final = 2.0**-20
_DIGITS: Final = 40
# With z-loss, the part of A*p_j that the errors of a gradient may be measured at in any case.
_BESIDE_MASS: Final = 2.0**-20

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
    slope: Array  # dy_j/dx_j: 1 unless the logits are transformed


@dataclass(frozen=True, slots=True)
class Transform:
    """What is done to the logits first; nothing by default."""

    temperature: float = 1.0
    softcap: float | None = None

    @property
    def is_needed(self) -> bool:
        """Whether it changes anything."""
        return self.temperature != 1.0 or self.softcap is not None


_AS_THEY_ARE: Final = Transform()


def expected(operation: str, problem: Problem) -> Expected:
    """The exact results of an operation on a problem."""
    options = problem.options
    transform = Transform(options.get("temperature", 1.0), options.get("softcap"))
    if problem.logits.dtype.name == "float64" or transform.is_needed:
        return results(operation, problem, extended_softmax(problem.logits, transform), EXTENDED)
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
            Softmax(
                maximum[:, None] - x,
                log_sum,
                maximum,
                probs,
                -np.expm1(log_probs),
                np.ones_like(x),
            )
        )


def extended_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In extended precision."""
    make = longdouble_softmax if LONGDOUBLE_IS_EXTENDED else mpmath_softmax
    return make(logits, transform)


def longdouble_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In NumPy's longdouble."""
    x = logits.astype(np.float64).astype(np.longdouble)
    with np.errstate(all="ignore"):
        # The transform keeps the order, though it can make different logits equal here.
        first = x.argmax(axis=1)[:, None]
        is_maximum = x == np.take_along_axis(x, first, axis=1)
        y, slope = _transformed(x, transform, in_pairs=logits.dtype.name == "float64")
        m = Pair(*(np.take_along_axis(part, first, axis=1) for part in y))
        # y - m = difference + error exactly (Knuth); 64 bits alone would lose a third of a
        # float64 unit where the difference is large.
        difference, error = two_sum(y.high, -m.high)
        error = np.where(np.isfinite(error), error + (y.low - m.low), 0)
        terms = np.exp(difference) * (1 + error)
        count = is_maximum.sum(axis=1)
        rest = np.where(is_maximum, 0, terms).sum(axis=1)
        sum_exp = (count + rest)[:, None]
        log_sum = np.where(count == 1, np.log1p(rest), np.log(count + rest))
        without = np.where(is_maximum, (count - 1 + rest)[:, None], sum_exp - terms)
        below = np.where(is_maximum, 0, -(difference + error))
        probs, others = terms / sum_exp, without / sum_exp
        return _spoil_rows(Softmax(below, log_sum, m.high[:, 0], probs, others, slope))


def _transformed(x: Array, transform: Transform, in_pairs: bool) -> tuple[Pair, Array]:
    """The logits transformed, and the derivatives of that.

    Only float64 results need a pair's digits of tanh.
    """
    slope = np.ones_like(x)
    finite = np.isfinite(x)
    y = pair(np.where(finite, x, 0))
    if transform.softcap is not None:
        softcap = pair(transform.softcap)
        ratio = divide(y, softcap)
        y = multiply(softcap, tanh(ratio) if in_pairs else pair(np.tanh(ratio.high)))
        slope = np.where(finite, sech_squared(ratio), 1)
    if transform.temperature != 1.0:
        y = divide(y, pair(transform.temperature))
        slope = slope / np.longdouble(transform.temperature)
    # An infinity and a NaN stay what they are, and are not capped.
    return Pair(np.where(finite, y.high, x), np.where(finite, y.low, 0)), slope


def _spoil_rows(rows: Softmax) -> Softmax:
    # A NaN or +inf logit, or -inf alone, leaves a row without a softmax.
    bad = ~np.isfinite(rows.maximum)
    for array in (rows.below, rows.log_sum, rows.probs, rows.others):
        array[bad] = np.nan
    return rows


def mpmath_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In mpmath with 40 digits, one number at a time."""
    x = logits.astype(np.float64)
    with mpmath.workdps(_DIGITS):
        rows = [_mpmath_row(row, transform) for row in x]
    columns = [np.array([row[k] for row in rows], np.longdouble) for k in range(6)]
    below, log_sum, maximum, probs, others, slope = columns
    n_rows, n_classes = x.shape
    shape = (n_rows, n_classes)
    return Softmax(
        below.reshape(shape),
        log_sum,
        maximum,
        probs.reshape(shape),
        others.reshape(shape),
        slope.reshape(shape),
    )


def _mpmath_row(row: Array, transform: Transform) -> tuple[Any, Any, Any, Any, Any, Any]:
    maximum = np.longdouble(row.max())
    if not np.isfinite(maximum):
        nan = np.full(row.size, np.nan, np.longdouble)
        return nan, np.longdouble(np.nan), maximum, nan, nan, nan
    transformed = [_mpmath_transformed(float(value), transform) for value in row]
    values = [value for value, _ in transformed]
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
    slopes = longdoubles([slope for _, slope in transformed])
    return below, longdouble_of(log_sum), longdouble_of(m), probs, longdoubles(others), slopes


def _mpmath_transformed(logit: float, transform: Transform) -> tuple[Any, Any]:
    value, slope = mpmath.mpf(logit), mpmath.mpf(1)
    if transform.softcap is not None and mpmath.isfinite(value):
        ratio = value / transform.softcap
        value = transform.softcap * mpmath.tanh(ratio)
        slope = mpmath.sech(ratio) ** 2
    return value / transform.temperature, slope / transform.temperature


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
    with np.errstate(all="ignore"):
        if operation == CROSS_ENTROPY:
            return _cross_entropy(problem, rows, source)
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


def _cross_entropy(problem: Problem, rows: Softmax, source: str) -> Expected:
    kept = _kept(problem)
    smoothing = problem.options.get("label_smoothing", 0.0)
    sharp = not problem.has_probs and smoothing == 0
    make = _from_labels if sharp else _from_measure
    losses, gradient, scale, mass = make(problem, rows, kept)
    z_loss = _number(problem, "z_loss", 0.0, rows)
    losses_scale: Array | None = None
    if z_loss:
        lse = rows.maximum + rows.log_sum
        # lse = m + log_sum cancels by nature, and so does what is made of it.
        size = np.maximum(abs(rows.maximum), abs(lse))
        losses = losses + z_loss * lse**2
        losses_scale = np.maximum(losses, z_loss * size**2)
        gradient = gradient + (2 * z_loss * lse)[:, None] * rows.probs
        scale = np.maximum(scale, (2 * z_loss * size)[:, None] * rows.probs)
        # mass + 2 z lse is one number, and a float64 is enough for it.
        scale = np.maximum(scale, _BESIDE_MASS * mass[:, None] * rows.probs)
        scale = np.maximum(scale, abs(gradient))
    # NaN times 0 is NaN: rows of which nothing is asked come last.
    weight = np.where(kept, _sample_weight(problem, rows), 0)
    asked = (weight != 0) & ((z_loss != 0) | _has_mass(problem))
    if losses_scale is not None:
        losses_scale = np.where(asked, weight * losses_scale, 0)
    factor = weight[:, None] * rows.slope
    # 4 q / (1 + q)^2 of a subnormal q is not exact to its last place.
    size = weight[:, None] * np.maximum(rows.slope, 4 * smallest_normal(problem.logits.dtype))
    is_scaled = not sharp or bool(z_loss) or "softcap" in problem.options
    return Expected(
        np.where(asked, weight * losses, 0),
        np.where(asked[:, None], factor * gradient, 0),
        losses_scale,
        np.where(asked[:, None], size * scale, 0) if is_scaled else None,
        source,
    )


def _from_labels(problem: Problem, rows: Softmax, kept: Array) -> tuple[Array, ...]:
    """Losses, gradients and their scale for rows of weight 1, and the mass of each."""
    i = np.arange(problem.logits.shape[0])
    label = np.where(kept, problem.labels, 0)
    mass = _class_weight(problem, rows)[label]
    cost = np.where(mass == 0, 0, mass * rows.below[i, label])
    gradient = mass[:, None] * rows.probs
    gradient[i, label] = -mass * rows.others[i, label]
    return cost + mass * rows.log_sum, gradient, abs(gradient), mass


def _from_measure(problem: Problem, rows: Softmax, kept: Array) -> tuple[Array, ...]:
    """The same where the mass lies on many classes."""
    smoothing = _number(problem, "label_smoothing", 0.0, rows)
    shape = problem.logits.shape
    if problem.has_probs:
        target = problem.labels.astype(np.float64).astype(rows.probs.dtype)
    else:
        target = np.zeros(shape, rows.probs.dtype)
        i = np.flatnonzero(kept)
        target[i, problem.labels[i]] = 1
    if smoothing:
        unmasked = problem.logits.astype(np.float64) > -np.inf
        share = smoothing / unmasked.sum(axis=1, keepdims=True).astype(target.dtype)
        target = (1 - smoothing) * target + np.where(unmasked, share, 0)
    target = _class_weight(problem, rows) * target
    mass = target.sum(axis=1)
    # A class without mass costs nothing, whatever its logit.
    costs = np.where(target == 0, 0, target * rows.below).sum(axis=1)
    softmax_part = mass[:, None] * rows.probs
    # A*p_j - t_j cancels by nature: measured at the larger of the two.
    scale = np.maximum(softmax_part, target)
    return costs + mass * rows.log_sum, softmax_part - target, scale, mass


def smallest_normal(dtype: DType) -> Any:
    """Of the type that the arithmetic for logits of a dtype is in."""
    return np.finfo(np.float64 if dtype.name == "float64" else np.float32).smallest_normal


def _kept(problem: Problem) -> Array:
    """Which rows are not left out by their label."""
    if problem.has_probs or problem.ignore_index is None:
        return np.ones(problem.logits.shape[0], bool)
    kept: Array = problem.labels != problem.ignore_index
    return kept


def _has_mass(problem: Problem) -> Array:
    """Which rows have a class with mass; ignored rows may be any."""
    n_rows, n_classes = problem.logits.shape
    weighs = np.asarray(problem.options.get("class_weight", np.ones(n_classes))) != 0
    smoothing = problem.options.get("label_smoothing", 0.0)
    found = np.zeros(n_rows, bool)
    if smoothing > 0:
        found |= (weighs & (problem.logits.astype(np.float64) != -np.inf)).any(axis=1)
    if smoothing < 1 and problem.has_probs:
        found |= (weighs & (problem.labels != 0)).any(axis=1)
    elif smoothing < 1:
        found |= weighs[np.where(_kept(problem), problem.labels, 0)]
    return found


def _number(problem: Problem, name: str, default: float, rows: Softmax) -> Any:
    return rows.probs.dtype.type(problem.options.get(name, default))


def _class_weight(problem: Problem, rows: Softmax) -> Array:
    """The weight of every class, rounded first as the arithmetic's type does it."""
    weight = problem.options.get("class_weight")
    if weight is None:
        return np.ones(problem.logits.shape[1], rows.probs.dtype)
    dtype = np.float64 if problem.logits.dtype.name == "float64" else np.float32
    rounded: Array = np.asarray(weight).astype(dtype).astype(rows.probs.dtype)
    return rounded


def _sample_weight(problem: Problem, rows: Softmax) -> Array:
    weight = problem.options.get("sample_weight")
    if weight is None:
        return np.ones(problem.logits.shape[0], rows.probs.dtype)
    exact: Array = np.asarray(weight).astype(np.float64).astype(rows.probs.dtype)
    return exact
