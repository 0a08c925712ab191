"""Faults with labels, ignored rows, and what a batch is divided by.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Array
from ..cases import targets
from .correct import CrossEntropy, Target
from .correct_rows import Call, State
from .fault import fault

# The profile standard asks for no errors.
_fault_of_checks = fault(in_standard=False, cases=targets.CASES)


@fault()
class label_of_the_next_row(CrossEntropy):
    """Row i is given the label of row i + 1."""

    def label(self, call: Call, rows: slice) -> Array:
        label = super().label(call, slice(None))
        return np.roll(label, -1)[rows]


@fault()
class labels_from_1(CrossEntropy):
    """Labels are taken to count from 1, as in Fortran, MATLAB and R."""

    def label(self, call: Call, rows: slice) -> Array:
        return (super().label(call, rows) - 1) % call.logits.shape[1]


@fault()
class labels_in_8_bits(CrossEntropy):
    """Labels are read as 8 bits."""

    def label(self, call: Call, rows: slice) -> Array:
        return super().label(call, rows) & 0xFF


@fault()
class labels_in_16_bits(CrossEntropy):
    """Labels are read as 16 bits with a sign: from 32768 on they are negative."""

    def label(self, call: Call, rows: slice) -> Array:
        label = super().label(call, rows).astype(np.int16).astype(np.int64)
        return label % call.logits.shape[1]


@fault()
class labels_of_half_the_size(CrossEntropy):
    """The memory of 64-bit labels is read as 32-bit labels: every second one is 0."""

    def label(self, call: Call, rows: slice) -> Array:
        label = super().label(call, slice(None)).astype(np.int64)
        return label.view(np.int32)[: label.size][rows]


@_fault_of_checks
class negative_labels_wrap(CrossEntropy):
    """Label -1 is the last class, as Python's indices have it."""

    def call(self, logits: Array, labels: Array, axis: int, options: dict[str, Any]) -> Call:
        n_classes = logits.shape[axis]
        ignored = options.get("ignore_index")
        if labels.ndim < logits.ndim:
            wraps = (labels < 0) & (labels >= -n_classes) & (labels != ignored)
            labels = np.where(wraps, labels + n_classes, labels)
        return super().call(logits, labels, axis, options)


@_fault_of_checks
class label_n_classes_accepted(CrossEntropy):
    """label > n_classes in place of >=: the first logit of the next row is read."""

    def check_labels(self, call: Call) -> None:
        wrong = (call.labels < 0) | (call.labels > call.logits.shape[1])
        if (wrong & self.kept(call, call.labels)).any():
            raise ValueError("a label is no class")

    def label(self, call: Call, rows: slice) -> Array:
        return super().label(call, rows) % call.logits.shape[1]


@_fault_of_checks
class labels_unchecked(CrossEntropy):
    """Whatever lies where a wrong label points is taken for a logit."""

    def check_labels(self, call: Call) -> None:
        pass

    def label(self, call: Call, rows: slice) -> Array:
        return super().label(call, rows) % call.logits.shape[1]


@_fault_of_checks
class labels_checked_in_32_bits(CrossEntropy):
    """Labels are cut to 32 bits before they are checked: 2^40 becomes class 0."""

    def call(self, logits: Array, labels: Array, axis: int, options: dict[str, Any]) -> Call:
        if labels.ndim < logits.ndim:
            labels = labels.astype(np.int32)
        return super().call(logits, labels, axis, options)


@_fault_of_checks
class labels_checked_too_late(CrossEntropy):
    """The error about a label comes when the gradient of other rows has been written already."""

    def check_labels(self, call: Call) -> None:
        pass

    def label(self, call: Call, rows: slice) -> Array:
        return super().label(call, rows) % call.logits.shape[1]

    def computed(self, call: Call, out: Array | None) -> Array:
        losses = super().computed(call, out)
        if call.labels.ndim == 1:
            super().check_labels(call)
        return losses


@fault()
class label_subtracted_at_the_first_maximum(CrossEntropy):
    """Where the label is one of several maxima, the first of them gets the label's gradient."""

    def gradient(self, call: Call, x: Array, state: State, target: Target) -> Array:
        found = super().gradient(call, x, state, target)
        if target.dense is None:
            i, first = np.arange(x.shape[0]), x.argmax(axis=1)
            is_tied = self.label_logit(x, target) == state.maximum
            first = np.where(is_tied, first, target.label)
            at_label, at_first = found[i, target.label], found[i, first]
            found[i, target.label], found[i, first] = at_first, at_label
        return found


@fault(cases=targets.CASES)
class ignore_index_is_always_minus_100(CrossEntropy):
    """The default of another library is built in."""

    def kept(self, call: Call, labels: Array) -> Array:
        if labels.ndim == 2 or call.ignore_index is None:
            return super().kept(call, labels)
        return labels != -100


@fault(cases=targets.CASES)
class losses_scaled_by_kept_rows(CrossEntropy):
    """Each loss is weighted for a mean over the rows that are not ignored."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        kept = self.kept(call, call.labels)
        found = super().losses(call, x, state, target)
        return found * (kept.size / max(int(kept.sum()), 1))


@fault()
class gradient_of_the_mean(CrossEntropy):
    """The gradient is divided by the batch, the losses are not."""

    def weighted_gradient(self, weight: Array, gradient: Array) -> Array:
        return super().weighted_gradient(weight, gradient) / weight.size


@fault()
class losses_of_the_mean(CrossEntropy):
    """The losses are divided by the batch, the gradient is not."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        return super().losses(call, x, state, target) / call.logits.shape[0]


@fault()
class gradient_of_the_opposite_sign(CrossEntropy):
    """t - p, the gradient of the likelihood."""

    def weighted_gradient(self, weight: Array, gradient: Array) -> Array:
        return -super().weighted_gradient(weight, gradient)


@fault()
class label_subtracted_twice(CrossEntropy):
    """A label in the last partial vector is subtracted by the vector loop and by what follows."""

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        n_whole = x.shape[1] // self.vector * self.vector
        found = super().at_label(call, x, state, target)
        return found - np.where(target.label >= n_whole, target.mass, 0)


@fault()
class gradient_without_the_label(CrossEntropy):
    """The softmax is returned where its difference from the target was asked for."""

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        return super().at_label(call, x, state, target) + target.mass


@fault()
class label_gradient_is_minus_one(CrossEntropy):
    """The label's element is set to -1 instead of being lowered by 1."""

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        return np.where(self.is_trouble(state), np.nan, -target.mass)
