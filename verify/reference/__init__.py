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

It is NumPy's longdouble where that has 63 bits or more, else, and for capped float64 logits, pairs
of float64 ("double-double"), whose results are rounded to longdouble in the end, once. (Where that
is float64, errors are known to half a unit.) `check_against_mpmath` holds both against mpmath.

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

import numpy as np
import scipy.special

from ..case import CROSS_ENTROPY, LOG_SOFTMAX, SOFTMAX, Array, DType, Problem
from .pairs import (
    Pair,
    add,
    divide,
    exp,
    log,
    log1p,
    multiply,
    pair,
    sech_squared,
    sech_squared_pair,
    shift,
    tanh,
    total,
    two_sum,
    where,
)

LONGDOUBLE_IS_EXTENDED: Final = np.finfo(np.longdouble).nmant >= 63
# Below it SciPy's absolute error of 2^-53 shows in a float32 result.
_LEAST_LOG_SUM: Final = 2.0**-20
# Logits of so many caps have reached it in every type, and their slope is 0.
_SATURATED: Final = 2.0**14
# tanh(r) is r there, to all digits of a pair.
_UNCAPPED: Final = 2.0**-64
# Double-double keeps exponentials and slopes times 2^512: as they are, those below 2^-968 would be
# short of digits. So all digits are there down to exp(-1026), beyond float64's smallest number.
_SCALE: Final = 512
# Below it log(1 + x) is x, to all digits of a pair of float64.
_LINEAR: Final = 2.0**-120
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
    with np.errstate(all="ignore"):  # a cast warns of signalling NaNs
        x = logits.astype(np.float64)
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
            ),
            maximum,
        )


def extended_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In extended precision."""
    # A cap of float64 logits needs pairs in any case, and those of float64 take a third of the time
    # of those of longdouble.
    needs_pairs = transform.softcap is not None and logits.dtype.name == "float64"
    if needs_pairs or not LONGDOUBLE_IS_EXTENDED:
        return pair_softmax(logits, transform)
    return longdouble_softmax(logits, transform)


def longdouble_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In NumPy's longdouble; transformed logits in pairs of it."""
    x = logits.astype(np.float64).astype(np.longdouble)
    with np.errstate(all="ignore"):
        # Only float64 results need a pair's digits of tanh.
        d = _differences(x, transform, in_pairs=logits.dtype.name == "float64")
        terms = np.exp(d.y.high) * (1 + d.y.low)
        above = d.count - 1 + np.where(d.is_maximum, 0, terms).sum(axis=1)
        sum_exp = (1 + above)[:, None]
        without = np.where(d.is_maximum, above[:, None], sum_exp - terms)
        slope = np.ones_like(x) if d.ratio is None else sech_squared(d.ratio)
        rows = Softmax(
            np.where(d.is_maximum, 0, -(d.y.high + d.y.low)),
            np.log1p(above),
            d.maximum.high,
            terms / sum_exp,
            without / sum_exp,
            slope if transform.temperature == 1 else slope / np.longdouble(transform.temperature),
        )
        return _spoil_rows(rows, d.largest)


def pair_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In double-double, with every result rounded to longdouble.

    Valid for a temperature from 1e-25 on, a softcap up to 1e200, and a softcap/temperature up to
    1e9: capped logits have an error of that times 2^-103, which is that of their exponentials.
    """
    x = logits.astype(np.float64)
    one = pair(1.0, x.dtype)
    with np.errstate(all="ignore"):
        unit = _unit(x)
        d = _differences(x, transform, in_pairs=True, unit=unit)
        terms = exp(shift(d.y, unit), _SCALE)
        rest = total(where(d.is_maximum, pair(0.0, x.dtype), terms))
        above = add(shift(pair(d.count - 1, x.dtype), _SCALE), rest).at(np.s_[:, None])
        sum_exp = add(shift(above, -_SCALE), one)
        without = where(d.is_maximum, above, add(shift(sum_exp, _SCALE), -terms))
        slope = shift(pair(np.ones_like(x), x.dtype), _SCALE)
        if d.ratio is not None:
            slope = sech_squared_pair(d.ratio, _SCALE)
        rows = Softmax(
            np.where(d.is_maximum, 0, _rounded(-d.y, unit)),
            _rounded(_scaled_log1p(above), -_SCALE)[:, 0],
            _rounded(d.maximum, unit[:, 0]),
            _rounded(divide(terms, sum_exp), -_SCALE),
            _rounded(divide(without, sum_exp), -_SCALE),
            _rounded(divide(slope, pair(transform.temperature, x.dtype)), -_SCALE),
        )
        return _spoil_rows(rows, d.largest)


def _unit(x: Array) -> Array:
    """The powers of two that float64 rows are divided by first, as exponents.

    Differences of the largest numbers overflow, and so do products; a quotient of subnormal
    numbers has no digits. What has been divided lies between 2^-946 and 2^896.
    """
    size = np.where(np.isfinite(x), abs(x), 0).max(axis=1, keepdims=True)
    unit: Array = np.clip(np.frexp(size)[1], -128, 128)
    return unit


def _scaled_log1p(x: Pair) -> Pair:
    """2^_SCALE log(1 + x/2^_SCALE) for x >= 0."""
    value = shift(x, -_SCALE)
    is_small, one = value.high < 0.5, pair(1.0, x.high.dtype)
    small = log1p(where(is_small, value, pair(0.0, x.high.dtype)))
    result = shift(where(is_small, small, log(add(one, value))), _SCALE)
    return where(value.high < _LINEAR, x, result)


def _rounded(a: Pair, exponent: Any) -> Array:
    """The number a * 2^exponent."""
    number: Array = np.ldexp(a.high.astype(np.longdouble) + a.low, exponent)
    return number


@dataclass(frozen=True, slots=True)
class _Differences:
    """A batch of rows relative to their maxima."""

    y: Pair  # y_j - m <= 0
    maximum: Pair  # m
    is_maximum: Array
    count: Array
    largest: Array  # the largest logit as it is
    ratio: Pair | None  # x_j/softcap


def _differences(x: Array, transform: Transform, in_pairs: bool, unit: Any = 0) -> _Differences:
    """The logits transformed; y and maximum divided by 2^unit."""
    # The transform keeps the order, though it can make different logits equal here.
    first = x.argmax(axis=1)[:, None]
    largest = np.take_along_axis(x, first, axis=1)
    is_maximum = x == largest
    finite = np.isfinite(x)
    y, ratio = pair(np.ldexp(np.where(finite, x, 0), -unit), x.dtype), None
    if transform.softcap is not None:
        softcap = pair(np.ldexp(x.dtype.type(transform.softcap), -unit), x.dtype)
        most = _SATURATED * softcap.high
        ratio = divide(pair(np.clip(y.high, -most, most), x.dtype), softcap)
        capped = multiply(softcap, tanh(ratio) if in_pairs else pair(np.tanh(ratio.high), x.dtype))
        # The ratio of a subnormal logit has lost digits; the logit itself has them all.
        y = where(abs(ratio.high) < _UNCAPPED, y, capped)
    m = Pair(*(np.take_along_axis(part, first, axis=1) for part in y))
    # y - m = difference + error exactly (Knuth); 64 bits alone would lose a third of a
    # float64 unit where the difference is large.
    difference, error = two_sum(y.high, -m.high)
    y = Pair(difference, error + (y.low - m.low))
    # Divided last: of the difference, not of the logits themselves, digits would be lost.
    if transform.temperature != 1:
        temperature = pair(transform.temperature, x.dtype)
        y, m = divide(y, temperature), divide(m, temperature)
    # An infinity and a NaN are not capped.
    y = Pair(np.where(finite, y.high, -np.inf), np.where(finite, y.low, 0))
    m = where(np.isfinite(largest), m, pair(largest, x.dtype))
    return _Differences(
        y, m.at(np.s_[:, 0]), is_maximum, is_maximum.sum(axis=1), largest[:, 0], ratio
    )


def _spoil_rows(rows: Softmax, largest: Array) -> Softmax:
    # A NaN or +inf logit, or -inf alone, leaves a row without a softmax.
    bad = ~np.isfinite(largest)
    for array in (rows.below, rows.log_sum, rows.probs, rows.others):
        array[bad] = np.nan
    return rows


def check_against_mpmath() -> float:
    """The largest relative error, over known rows, of longdouble and of double-double.

    longdouble is left out where it is no wider than float64.
    """
    from . import in_mpmath

    return in_mpmath.largest_error()


def mpmath_softmax(logits: Array, transform: Transform = _AS_THEY_ARE) -> Softmax:
    """In mpmath, slowly: what the others are checked against."""
    from . import in_mpmath

    return in_mpmath.mpmath_softmax(logits, transform)


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
    weight = np.where(kept, sample_weight(problem, rows.probs.dtype), 0)
    asked = (weight != 0) & ((z_loss != 0) | _has_mass(problem))
    if losses_scale is not None:
        losses_scale = np.where(asked, weight * losses_scale, 0)
    factor = weight[:, None] * rows.slope
    # 4 q / (1 + q)^2 of a subnormal q is not exact to its last place.
    size = weight[:, None] * np.maximum(rows.slope, 4 * smallest_normal(problem.logits.dtype))
    # A subnormal softmax has an absolute error, which weight and slope multiply.
    scale = np.maximum(scale, np.finfo(rows.probs.dtype).smallest_normal)
    is_scaled = not sharp or bool(z_loss) or "softcap" in problem.options
    is_scaled |= not LONGDOUBLE_IS_EXTENDED
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
    mass = class_weight(problem, rows.probs.dtype)[label]
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
    target = class_weight(problem, rows.probs.dtype) * target
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


def class_weight(problem: Problem, precision: Any) -> Array:
    """The weight of every class, rounded first as the arithmetic's type does it."""
    weight = problem.options.get("class_weight")
    if weight is None:
        return np.ones(problem.logits.shape[1], precision)
    dtype = np.float64 if problem.logits.dtype.name == "float64" else np.float32
    rounded: Array = np.asarray(weight).astype(dtype).astype(precision)
    return rounded


def sample_weight(problem: Problem, precision: Any) -> Array:
    """The weight of every row."""
    weight = problem.options.get("sample_weight")
    if weight is None:
        return np.ones(problem.logits.shape[0], precision)
    exact: Array = np.asarray(weight).astype(np.float64).astype(precision)
    return exact
