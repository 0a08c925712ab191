"""What is asked of an implementation: how far from the exact value it may be, and what else.

`strict` is what fastxent promises for itself: the bounds of `bounds.py`, the same bits whatever
the threads, batch, position and layout, and an error for labels that are no class.

`standard` asks for what a sound implementation of the plain formula gives. The error allowed is

    the error of the plain formula (plain.py) in the same precision, at the same element
    + TOLERANCE * u * magnitude + 16 times the smallest normal number

where u is the unit roundoff, `magnitude` what rounding in the plain formula is relative to, and
TOLERANCE is a quarter for 16-bit numbers. In both ways of writing the formula every exponential
carries the rounding of its argument, so the sum carries kappa = sum_j p_j (m - x_j) of them,
besides those of n additions, which are sigma = 1 + n / SUMMANDS together, and

    magnitude of a loss      mass * (cost + log_sum + sigma + kappa + |m|)     cost = m - x_y
              of a gradient  mass * p_j * (1 + sigma + (m - x_j) + kappa + |m|) + t_j
              of logsumexp   |m| + log_sum + sigma + kappa

The 1 in sigma is also that of log(1 + rest) in a confident row, and t_j is that of p_j - 1. Sums of
16-bit numbers are taken in float32: their n counts with its u. Results that are subnormal, or
nearly, may be flushed to 0. Nothing is asked of a row with a logit of +inf, for which there is no
agreed answer, nor where the plain formula itself gives no number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from .bounds import BOUNDS, Bound
from .case import CROSS_ENTROPY, HALVES, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Array, DType, Problem
from .metrics import differences, smallest_normal, spacing, unit_roundoff
from .plain import FORMS, measure, plain_results, row_weight, transformed
from .reference import Expected

ProfileName = Literal["strict", "standard"]
STRICT: Final = "strict"
STANDARD: Final = "standard"
PROFILES: Final[tuple[ProfileName, ...]] = (STRICT, STANDARD)

# In units of u * magnitude. The exponential and the logarithm of a mathematical library are right
# to one or two u each, and there are half a dozen roundings beside them.
TOLERANCE: Final = 16.0
# The same for 16-bit numbers, which are computed with in float32 and rounded once or twice.
HALF_TOLERANCE: Final = 4.0
# n equal terms added one after the other, as the plainest loop does it, lose up to n u / 8.
SUMMANDS: Final = 8 * TOLERANCE
# Vectorised exponentials give 0 somewhat before the smallest normal number.
_FLUSHED: Final = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two results of a call: what it must be, and how far away it may be.

    `unit` is one ULP of every element, `allowed` the largest |got - want|, and `asked` says where
    anything is asked at all.
    """

    name: str
    want: Array
    unit: Array
    allowed: Array
    asked: Array

    def of_rows(self, chosen: Any) -> Part:
        """The same for some of the rows."""
        arrays = (array[chosen] for array in (self.want, self.unit, self.allowed, self.asked))
        return Part(self.name, *arrays)


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a call: of its losses and of its output, as far as it has them."""

    losses: Part | None
    output: Part | None
    source: str

    def of_rows(self, chosen: Any) -> Demand:
        """The same for some of the rows."""
        return Demand(
            None if self.losses is None else self.losses.of_rows(chosen),
            None if self.output is None else self.output.of_rows(chosen),
            self.source,
        )


NOTHING: Final = Demand(None, None, "")


def loss_dtype(dtype: DType) -> DType:
    """The dtype that losses for logits of a dtype are kept in by fastxent."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def bound_of(profile: ProfileName, operation: str, dtype: DType) -> Bound | None:
    """The bounds in ULP, where the profile has such."""
    return BOUNDS[operation][dtype.name] if profile == STRICT else None


def demand(profile: ProfileName, operation: str, problem: Problem, want: Expected) -> Demand:
    """What the profile asks of a call that should give `want`."""
    make = _strict if profile == STRICT else _standard
    with np.errstate(all="ignore"):
        return make(operation, problem, want)


def _names(operation: str) -> tuple[str, str]:
    return ("loss", "gradient") if operation == CROSS_ENTROPY else (operation, operation)


def _strict(operation: str, problem: Problem, want: Expected) -> Demand:
    dtype = problem.logits.dtype
    bound = BOUNDS[operation][dtype.name]

    def part(
        name: str, exact: Array | None, scale: Array | None, rounded_to: DType, ulps: float | None
    ) -> Part | None:
        if exact is None or ulps is None:
            return None
        unit = spacing(exact if scale is None else scale, rounded_to)
        return Part(name, exact, unit, ulps * unit, np.ones(exact.shape, bool))

    loss_name, output_name = _names(operation)
    return Demand(
        part(loss_name, want.losses, want.losses_scale, loss_dtype(dtype), bound.loss),
        part(output_name, want.output, want.output_scale, dtype, bound.output),
        want.source,
    )


def _standard(operation: str, problem: Problem, want: Expected) -> Demand:
    dtype = problem.logits.dtype
    magnitudes = _magnitudes(operation, problem)
    errors = [plain_results(operation, problem, form) for form in FORMS]
    tiny = _FLUSHED * smallest_normal(dtype)
    has_answer = np.asarray(~np.isposinf(problem.logits.astype(np.float64)).any(axis=1))

    def part(name: str, exact: Array | None, scale: Array | None, k: int) -> Part | None:
        magnitude = magnitudes[k]
        if exact is None or magnitude is None:
            return None
        ordinary = np.zeros(exact.shape)
        for results in errors:
            result = results[k]
            assert result is not None
            ordinary = np.maximum(ordinary, differences(result, exact))
        asked = np.isfinite(ordinary) & (has_answer if exact.ndim == 1 else has_answer[:, None])
        tolerance = HALF_TOLERANCE if dtype.name in HALVES else TOLERANCE
        room = tolerance * unit_roundoff(dtype) * magnitude + tiny
        unit = spacing(exact if scale is None else scale, loss_dtype(dtype) if k == 0 else dtype)
        return Part(name, exact, unit, np.where(asked, ordinary, 0) + room, asked)

    loss_name, output_name = _names(operation)
    return Demand(
        part(loss_name, want.losses, want.losses_scale, 0),
        part(output_name, want.output, want.output_scale, 1),
        want.source,
    )


def _magnitudes(operation: str, problem: Problem) -> tuple[Array | None, Array | None]:
    """What roundings are relative to, in float64; NaN or infinite where a row has no softmax."""
    y, slope = transformed(problem, np.float64)
    m = y.max(axis=1, keepdims=True)
    below = m - y
    terms = np.exp(-below)
    total = terms.sum(axis=1, keepdims=True)
    probs = terms / total
    kappa = np.where(terms == 0, 0, probs * below).sum(axis=1, keepdims=True)
    # A cap and a temperature round the logits themselves, relatively.
    is_changed = "softcap" in problem.options or "temperature" in problem.options
    size = (abs(m) + below if is_changed else abs(m)) + np.zeros_like(below)
    dtype = problem.logits.dtype
    accumulator = unit_roundoff(loss_dtype(dtype)) / unit_roundoff(dtype)
    sigma = 1 + y.shape[1] / SUMMANDS * accumulator
    of_log = np.log(total) + sigma + kappa + abs(m)
    of_probs = np.where(terms == 0, 0, probs * (1 + sigma + below + kappa + size))
    if operation == SOFTMAX:
        return None, of_probs
    if operation == LOG_SOFTMAX:
        return None, below + of_log
    if operation == LOGSUMEXP:
        return of_log[:, 0], None
    target = measure(problem, np.float64)
    mass = target.sum(axis=1, keepdims=True)
    z = problem.options.get("z_loss", 0.0)
    z_part = 2 * z * of_log if z else 0
    losses = np.where(target == 0, 0, target * (below + of_log + size)).sum(axis=1)
    losses = losses + (z * of_log[:, 0] ** 2 if z else 0)
    gradient = ((mass + z_part) * of_probs + target) * np.maximum(abs(slope), 1e-3)
    weight = row_weight(problem, np.float64)
    return (
        np.where(weight == 0, 0, weight * losses),
        np.where(weight[:, None] == 0, 0, weight[:, None] * gradient),
    )
