"""Faults with NaN, infinities, masked classes, and rows of which nothing is asked.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from ..case import Array
from ..cases import options, targets
from .correct import CrossEntropy, Target
from .correct_rows import Call, State
from .fault import fault


@fault()
class nan_skipped(CrossEntropy):
    """A maximum and a clamp that give the other operand for NaN, as x86 does: it goes unnoticed."""

    def maximum(self, block: Array) -> Array:
        return np.fmax.reduce(block, axis=1)

    def exponential(self, d: Array) -> Array:
        return np.where(np.isnan(d), 0, super().exponential(d))


@fault()
class nan_read_as_zero(CrossEntropy):
    """nan_to_num on the logits, to be rid of a warning."""

    def read(self, call: Call, rows: slice) -> Array:
        return np.nan_to_num(super().read(call, rows), posinf=np.inf, neginf=-np.inf)


@fault()
class isnan_folded_away(CrossEntropy):
    """Compiled with -ffast-math, where isnan(x) is false: what was NaN comes out as 0."""

    def selected(self, asked: Array, values: Array) -> Array:
        return np.nan_to_num(super().selected(asked, values), nan=0.0, posinf=np.inf)


@fault(in_standard=False)
class infinite_logit_is_certain(CrossEntropy):
    """A logit of +inf is taken for a class of probability 1: its row gets 0 instead of NaN."""

    def read(self, call: Call, rows: slice) -> Array:
        x = super().read(call, rows)
        return np.where(np.isposinf(x), 1e30, x)


@fault()
class masked_row_gives_zero(CrossEntropy):
    """A row of nothing but -inf is left out, as if somebody had asked for that."""

    def asked(self, call: Call, rows: slice, weight: Array, target: Target) -> Array:
        is_masked = np.isneginf(self.read(call, rows)).all(axis=1)
        return super().asked(call, rows, weight, target) & ~is_masked


@fault()
class masked_row_gives_minus_infinity(CrossEntropy):
    """The loss of a row of nothing but -inf is the logarithm of its sum, that is of 0."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        found = super().losses(call, x, state, target)
        return np.where(np.isneginf(state.maximum), -np.inf, found)


@fault()
class masked_by_the_lowest_number(CrossEntropy):
    """-inf becomes the lowest finite number: a masked label costs 3e38, a masked row is uniform."""

    def read(self, call: Call, rows: slice) -> Array:
        return np.maximum(super().read(call, rows), np.finfo(np.float32).min)


@fault()
class cost_ends_at_100(CrossEntropy):
    """Logarithms are clamped at -100, as in PyTorch's binary loss: no loss is larger than 100."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        return np.minimum(super().losses(call, x, state, target), 100 * target.mass)


@fault()
class probabilities_clipped_from_below(CrossEntropy):
    """Probabilities are at least 1e-12: a masked class has a gradient."""

    def softmax(self, call: Call, x: Array, state: State) -> Array:
        return np.maximum(super().softmax(call, x, state), 1e-12)


@fault()
class nan_leaks_into_the_next_row(CrossEntropy):
    """A NaN stays in an accumulator that the next row starts with."""

    def is_trouble(self, state: State) -> Array:
        found = super().is_trouble(state)
        found[1:] |= found[:-1].copy()
        return found


@fault()
class nan_leaks_into_the_tile(CrossEntropy):
    """Sixteen rows are computed together, and a NaN of one is multiplied by 0 in the others."""

    def is_trouble(self, state: State) -> Array:
        found = super().is_trouble(state)
        for start in range(0, found.size, 16):
            found[start : start + 16] = found[start : start + 16].any()
        return found


@fault(cases=targets.CASES)
class ignored_rows_times_zero(CrossEntropy):
    """Rows of which nothing is asked are multiplied by 0: what is NaN stays NaN."""

    def selected(self, asked: Array, values: Array) -> Array:
        return values * (asked if values.ndim == 1 else asked[:, None])


@fault(cases=options.CASES)
class rows_of_weight_zero_times_zero(CrossEntropy):
    """Ignored rows are selected, but rows of weight 0 are multiplied by it."""

    def asked(self, call: Call, rows: slice, weight: Array, target: Target) -> Array:
        return self.kept(call, call.labels[rows])


@fault(cases=targets.CASES)
class ignored_gradients_unwritten(CrossEntropy):
    """Ignored rows are skipped before their gradient is set to 0."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        kept = self.kept(call, call.labels[rows])[:, None]
        super().store(call, out, rows, np.where(kept, gradient, out[rows].astype(gradient.dtype)))


@fault(cases=targets.CASES)
class nothing_times_infinity(CrossEntropy):
    """t_j (m - x_j) where t_j is 0 and x_j is masked: 0 times infinity."""

    def without_nothing(self, mass: Array, cost: Array) -> Array:
        return mass * cost


@fault(cases=targets.CASES)
class masked_label_has_a_gradient_of_nan(CrossEntropy):
    """A row whose label is masked takes its gradient from the infinite loss."""

    def gradient(self, call: Call, x: Array, state: State, target: Target) -> Array:
        found = super().gradient(call, x, state, target)
        if target.dense is not None:
            return found
        return np.where(np.isneginf(self.label_logit(x, target))[:, None], np.nan, found)


@fault(dtypes=("bfloat16",))
class nan_rounded_to_a_number(CrossEntropy):
    """Rounding to bfloat16 in integers: the carry makes -0 of a NaN whose bits are all set."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        super().store(call, out, rows, np.where(np.isnan(gradient), -0.0, gradient))
