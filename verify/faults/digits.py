"""Faults that cost digits: rounding, exponential and logarithm, overflow, underflow.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ..case import HALVES, Array, cast, dtype_named
from ..cases import options, targets
from ..metrics import smallest_normal
from .correct import CrossEntropy, Target
from .correct_rows import Call, State
from .fault import fault

_ULP: Final = 2.0**-23


def _rounded(values: Array, dtype: Any = np.float32) -> Array:
    """Values as if they had been computed in a narrower type."""
    return cast(values, np.dtype(dtype)).astype(values.dtype)


@fault(in_standard=False)
class label_gradient_through_one(CrossEntropy):
    """The gradient at the label is p - 1: nothing is left of it in a confident row."""

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        probs = self.softmax(call, x, state)[np.arange(x.shape[0]), target.label]
        return target.mass * (_rounded(probs) - 1)


@fault(in_standard=False)
class loss_through_one(CrossEntropy):
    """log(1 + rest) in place of log1p(rest): 0 in a confident row."""

    def log_sum(self, state: State) -> Array:
        found = np.log(_rounded(state.count + state.rest))
        return np.where(self.is_trouble(state), np.nan, found)


@fault(in_standard=False)
class loss_from_rounded_logsumexp(CrossEntropy):
    """logsumexp - x_y: where all logits share an offset its digits are lost."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        offset = self.transformed(call, state.maximum)
        low = _rounded(self.logsumexp(call, state)) - offset - self.log_sum(state)
        return super().losses(call, x, state, target) + target.mass * low


@fault(in_standard=False)
class softmax_from_rounded_logsumexp(CrossEntropy):
    """exp(x_j - logsumexp) with both rounded: the usual gradient, 20 to 60 ULP off."""

    def softmax(self, call: Call, x: Array, state: State) -> Array:
        lse = _rounded(self.logsumexp(call, state))[:, None]
        return np.exp(_rounded(self.transformed(call, x) - lse))


@fault(in_standard=False)
class difference_rounded(CrossEntropy):
    """x_j - m is rounded, and the exponential carries that, times its size."""

    def difference(self, call: Call, x: Array, maximum: Array) -> Array:
        return _rounded(super().difference(call, x, maximum))


@fault(dtypes=("float64",))
class float32_for_float64(CrossEntropy):
    """A kernel for float32 is given float64: everything converts, nothing warns."""

    def read(self, call: Call, rows: slice) -> Array:
        return _rounded(super().read(call, rows))


@fault()
class logits_in_bfloat16(CrossEntropy):
    """Logits are rounded to bfloat16 first, as by autocast or a matrix unit's fast mode."""

    def read(self, call: Call, rows: slice) -> Array:
        return _rounded(super().read(call, rows), dtype_named("bfloat16"))


@fault(dtypes=("float16",))
class float16_overflow(CrossEntropy):
    """Exponentials to base 2 in float16: 60000 times log2(e) is infinite."""

    def read(self, call: Call, rows: slice) -> Array:
        to_base_2 = np.log2(np.e)
        return _rounded(super().read(call, rows) * to_base_2, np.float16) / to_base_2


@fault(in_standard=False)
class large_logits_reduced_inexactly(CrossEntropy):
    """n ln2 is rounded where n is large: the exponential is wrong beyond some hundreds."""

    def difference(self, call: Call, x: Array, maximum: Array) -> Array:
        sign = np.where(np.floor(64 * x) % 2 == 0, 1, -1)
        error = np.where(np.isfinite(x) & (abs(x) > 220), sign * x * 2.0**-27, 0)
        return super().difference(call, x, maximum) + error


@fault(in_standard=False)
class exp_8_ulp_off(CrossEntropy):
    """A fast exponential, up to 8 ULP off."""

    def exponential(self, d: Array) -> Array:
        sign = np.where(np.floor(64 * d) % 2 == 0, 1, -1)
        return super().exponential(d) * (1 + 8 * _ULP * sign)


@fault(in_standard=False)
class exp_8_ulp_off_in_an_interval(CrossEntropy):
    """One entry of the exponential's table is wrong: from -5.01 to -5 it is 8 ULP off."""

    def exponential(self, d: Array) -> Array:
        return super().exponential(d) * np.where((d > -5.01) & (d < -5.0), 1 + 8 * _ULP, 1)


@fault()
class exp_with_a_wrong_coefficient(CrossEntropy):
    """1/6 typed as 0.166 in the exponential's polynomial: 3e-5 off at most."""

    def exponential(self, d: Array) -> Array:
        n = np.rint(np.where(np.isfinite(d), d, 0) / np.log(2))
        r = np.where(np.isfinite(d), d, 0) - n * np.log(2)
        return super().exponential(d) * (1 + (0.166 - 1 / 6) * r**3 * np.exp(-r))


@fault(in_standard=False)
class log_8_ulp_off(CrossEntropy):
    """A fast logarithm, 8 ULP off."""

    def logarithm(self, x: Array) -> Array:
        return super().logarithm(x) * (1 + 8 * _ULP)


@fault(in_standard=False)
class exponent_clamped_at_87(CrossEntropy):
    """Arguments of the exponential end at -87, so that it need not make subnormal numbers."""

    def exponential(self, d: Array) -> Array:
        return super().exponential(np.maximum(d, -87))


@fault()
class exponent_clamped_at_20(CrossEntropy):
    """Arguments of the exponential end at -20, as in code for tables and for fixed point."""

    def exponential(self, d: Array) -> Array:
        return super().exponential(np.maximum(d, -20))


@fault()
class log_of_the_probability(CrossEntropy):
    """-log(p_y), which is infinite where p_y underflows."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        losses = super().losses(call, x, state, target)
        if target.dense is not None:
            return losses
        probs = _rounded(self.softmax(call, x, state))[np.arange(x.shape[0]), target.label]
        return np.where(probs < 2.0**-126, np.where(target.mass > 0, np.inf, 0), losses)


@fault()
class log_of_probability_and_epsilon(CrossEntropy):
    """-log(p_y + 1e-7), the guard against log(0) of many a loss written by hand."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        losses = super().losses(call, x, state, target)
        if target.dense is not None:
            return losses
        probs = self.softmax(call, x, state)[np.arange(x.shape[0]), target.label]
        # -log(p + e) = -log(p) - log(1 + e/p)
        return losses - np.where(target.mass > 0, target.mass * np.log1p(1e-7 / probs), 0)


def _flushed(values: Array, dtype: Any) -> Array:
    return np.where(abs(values) < smallest_normal(np.dtype(dtype)), 0, values)


@fault(in_standard=False)
class subnormal_losses_flushed(CrossEntropy):
    """A library switched subnormal numbers off for the whole thread: losses below 1e-38 are 0."""

    def store_losses(self, call: Call, losses: Array, rows: slice, values: Array) -> None:
        super().store_losses(call, losses, rows, _flushed(values, losses.dtype))


@fault(in_standard=False, dtypes=("float32", "float16"))
class subnormal_gradients_flushed(CrossEntropy):
    """The same for gradients: small probabilities become 0, in float16 those below 6e-5."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        super().store(call, out, rows, _flushed(gradient, call.logits.dtype))


@fault(dtypes=("float64",))
class losses_through_float32(CrossEntropy):
    """Losses of float64 logits are kept in float32 on their way."""

    def store_losses(self, call: Call, losses: Array, rows: slice, values: Array) -> None:
        super().store_losses(call, losses, rows, _rounded(values))


@fault(in_standard=False, dtypes=HALVES)
class losses_through_16_bits(CrossEntropy):
    """Losses of 16-bit logits are rounded to the logits' type before they are float32."""

    def store_losses(self, call: Call, losses: Array, rows: slice, values: Array) -> None:
        super().store_losses(call, losses, rows, _rounded(values, call.logits.dtype))


@fault(in_standard=False, dtypes=HALVES, cases=targets.CASES)
class probabilities_in_the_logits_type(CrossEntropy):
    """Probabilities in float32 are rounded to the type of 16-bit logits."""

    def distribution(self, call: Call, rows: slice, x: Array) -> Array:
        found = super().distribution(call, rows, x)
        return _rounded(found, call.logits.dtype)


@fault(in_standard=False, cases=options.CASES)
class softcap_slope_as_a_difference(CrossEntropy):
    """1 - tanh^2 for the derivative of the cap: nothing is left of it where that saturates."""

    def slope(self, call: Call, x: Array) -> Array:
        slope = super().slope(call, x)
        if call.softcap is None:
            return slope
        t = _rounded(np.tanh(x / call.real(call.softcap)))
        difference = (1 - _rounded(t * t)) / call.real(call.temperature)
        return np.where(np.isfinite(x), difference, slope)


@fault(in_standard=False, cases=options.CASES)
class weighted_label_gradient_rounded(CrossEntropy):
    """w p_y - w: a weight costs a confident row the digits that p_y - 1 would have kept."""

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        found = super().at_label(call, x, state, target)
        if call.class_weight is None:
            return found
        return _rounded(found + target.mass) - target.mass
