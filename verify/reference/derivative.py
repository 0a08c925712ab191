"""Derivatives of the loss, from the loss itself: the gradient's formula has no part in them.

A logit gets an imaginary part h. Its loss, written down from the definition, is then complex, and

    loss(x + i h) = loss(x) + i h loss'(x) - h^2 loss''(x)/2 - ...     so     loss' = Im(loss)/h

up to a part of h^2, and no difference is formed that is not one of the loss. (W. Squire, G. Trapp,
"Using complex variables to estimate derivatives of real functions", SIAM Review 40, 1998.)

    y_j  = softcap * tanh(x_j / softcap) / temperature
    lse  = m + log(sum_j exp(y_j - m))                                 m the largest y_j, a number
    t_j  = w_j * ((1 - e) * b_j + [x_j > -inf] * e / n)
    loss = s * (sum_j t_j * (lse - y_j) + z * lse^2)

with the names of reference.py. Where all mass is that of one label y the sum is

    w_y * log1p(sum over j != y of exp(y_j - y_y))

which keeps the digits of confident rows.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from ..case import Array, Problem
from . import LONGDOUBLE_IS_EXTENDED, class_weight, sample_weight
from .pairs import Pair, divide, multiply, pair, tanh, two_sum

# h^2 must vanish beside 1 and beside temperature^2, and h times a small probability be no subnormal
# number. As a power of two it costs no rounding.
_STEP: Final = 2.0**-80
# Classes times pairs of row and column; each takes 340 bytes, so all of them 45 MB.
_AT_ONCE: Final = 2**17

_REAL: Final[Any] = np.longdouble if LONGDOUBLE_IS_EXTENDED else np.float64
# Where y_j - y_y is larger exp may overflow. log1p is not needed there: the label has no part in
# the sum of exponentials.
_FARTHEST: Final = 11000.0 if LONGDOUBLE_IS_EXTENDED else 700.0


def loss_derivatives(problem: Problem, rows: Array, columns: Array) -> tuple[Array, Array]:
    """The derivatives of losses[rows[k]] by logits[rows[k], columns[k]], and their scale.

    The scale is what the error of a derivative is counted beside, as a multiple of the rounding
    error of its type (64 times that is ample). It is the derivative itself where no digits cancel,
    that is for one label without smoothing and z-loss, and otherwise

        s * ((mass + 2 z max(|m|, |lse|)) * p_j + t_j) * dy_j/dx_j

    The type is longdouble, or float64 where that is no wider. There a derivative below 1e-284 has
    lost digits, and scales are never less.

    Not to be asked for: rows that hold NaN or +inf, or nothing but -inf; rows of which nothing is
    asked (ignored, of weight 0, or without a class that has mass); columns with a logit of -inf.
    The others may be -inf: such classes are no part of the sums, and the infinite cost of one with
    mass counts as a constant.
    """
    at_once = max(1, _AT_ONCE // problem.logits.shape[1])
    chunks = [slice(k, k + at_once) for k in range(0, max(1, rows.size), at_once)]
    found = [_loss_derivatives(problem, rows[chunk], columns[chunk]) for chunk in chunks]
    values, scales = zip(*found, strict=True)
    return np.concatenate(values), np.concatenate(scales)


class _Complex(NamedTuple):
    """Numbers of which the real part needs the digits of a pair."""

    real: Pair
    imaginary: Array

    def exp(self) -> Array:
        """The exponential."""
        rounded = np.exp(self.real.high + 1j * self.imaginary)
        exponential: Array = rounded * (1 + self.real.low)
        return exponential


def _loss_derivatives(problem: Problem, rows: Array, columns: Array) -> tuple[Array, Array]:
    options, k = problem.options, np.arange(rows.size)
    z = _REAL(options.get("z_loss", 0.0))
    s = sample_weight(problem, _REAL)[rows]
    x = problem.logits[rows].astype(np.float64).astype(_REAL)
    unmasked = x > -np.inf
    target = _target(problem, rows, unmasked)
    has_label = not problem.has_probs and not options.get("label_smoothing", 0.0)
    with np.errstate(all="ignore"):
        y = _transformed(np.where(unmasked, x, 0), columns, problem)
        largest = np.where(unmasked, y.real.high, -np.inf).argmax(axis=1)
        m = Pair(y.real.high[k, largest], y.real.low[k, largest])
        d = _less(y, _Complex(m, np.zeros_like(m.high)))
        terms = np.where(unmasked, d.exp(), 0)
        sum_exp = terms.sum(axis=1)
        log_sum = np.log(sum_exp)
        # What a masked class costs is infinite, but a constant.
        real = np.where(unmasked, d.real.high, 0)
        costs = target * (log_sum[:, None] - (real + 1j * d.imaginary))
        loss = np.where(target == 0, 0, costs).sum(axis=1)
        if has_label:
            label = problem.labels[rows]
            sharp = _label_loss(y, label, unmasked) * target[k, label]
            near = unmasked[k, label] & (d.real.high[k, label] > -_FARTHEST)
            loss = np.where(near, sharp, loss)
        lse = m.high + log_sum
        derivative = s * (loss + z * lse * lse).imag / _STEP
        scale = abs(derivative)
        if not has_label or z:
            size = target.sum(axis=1) + 2 * z * np.maximum(abs(m.high), abs(lse))
            p = abs(terms[k, columns] / sum_exp)
            slope = y.imaginary[k, columns] / _STEP
            scale = np.maximum(scale, s * (size * p + target[k, columns]) * slope)
    return derivative, np.maximum(scale, np.finfo(_REAL).smallest_normal / _STEP)


def _label_loss(y: _Complex, label: Array, unmasked: Array) -> Array:
    k = np.arange(label.size)
    of_label = Pair(y.real.high[k, label], y.real.low[k, label])
    d = _less(y, _Complex(of_label, y.imaginary[k, label]))
    terms = np.where(unmasked, d.exp(), 0)
    terms[k, label] = 0
    loss: Array = np.log1p(terms.sum(axis=1))
    return loss


def _transformed(x: Array, columns: Array, problem: Problem) -> _Complex:
    """y for finite logits, of which those in the columns get an imaginary part."""
    k = np.arange(columns.size)
    y, imaginary = pair(x, _REAL), np.zeros_like(x)
    imaginary[k, columns] = _STEP
    softcap = problem.options.get("softcap")
    if softcap is not None:
        # Double-double has all the digits, and takes an eighth of the time of longdouble's pairs.
        cap = pair(softcap, np.float64)
        # Beyond so many caps nothing changes, and quotients would overflow.
        most = 2.0**14 * cap.high
        ratio = divide(pair(np.clip(x, -most, most), np.float64), cap)
        y = _widened(multiply(cap, tanh(ratio)))
        at_columns = _widened(Pair(ratio.high[k, columns], ratio.low[k, columns]))
        step = _REAL(_STEP) / cap.high
        imaginary[k, columns] = cap.high * _imaginary_of_tanh(at_columns, step)
    temperature = pair(problem.options.get("temperature", 1.0), _REAL)
    if temperature.high != 1:
        y, imaginary = divide(y, temperature), imaginary / temperature.high
    return _Complex(y, imaginary)


def _widened(y: Pair) -> Pair:
    return Pair(y.high.astype(_REAL), y.low.astype(_REAL))


def _imaginary_of_tanh(real: Pair, imaginary: Array) -> Array:
    """Of (1 - q)/(1 + q), q = exp(-2 v), where the real part of v is positive: tanh is odd."""
    sign = np.sign(real.high)
    q = _Complex(Pair(-2 * sign * real.high, -2 * sign * real.low), -2 * imaginary).exp()
    result: Array = ((1 - q) / (1 + q)).imag
    return result


def _less(y: _Complex, of_row: _Complex) -> _Complex:
    """y less one number for each row."""
    high, error = two_sum(y.real.high, -of_row.real.high[:, None])
    low = error + (y.real.low - of_row.real.low[:, None])
    # The difference of two float64 may overflow.
    high = np.maximum(high, np.finfo(_REAL).min)
    return _Complex(
        Pair(high, np.where(np.isfinite(low), low, 0)),
        y.imaginary - of_row.imaginary[:, None],
    )


def _target(problem: Problem, rows: Array, unmasked: Array) -> Array:
    """The measure t."""
    if problem.has_probs:
        target = problem.labels[rows].astype(np.float64).astype(_REAL)
    else:
        target = np.zeros(unmasked.shape, _REAL)
        target[np.arange(rows.size), problem.labels[rows]] = 1
    smoothing = _REAL(problem.options.get("label_smoothing", 0.0))
    if smoothing:
        share = smoothing / unmasked.sum(axis=1, keepdims=True).astype(_REAL)
        target = (1 - smoothing) * target + np.where(unmasked, share, 0)
    measure: Array = class_weight(problem, _REAL) * target
    return measure
