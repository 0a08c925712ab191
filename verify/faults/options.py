"""Faults in the options: weights, smoothing, z-loss, temperature, cap, probabilities.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..case import Array
from ..cases import options, targets
from .correct import CrossEntropy, Target
from .correct_rows import Call, State
from .fault import fault

_fault = fault(cases=options.CASES)
_fault_of_probabilities = fault(cases=targets.CASES)


class _Apart(CrossEntropy):
    """Losses with some options, the gradient with others."""

    def for_losses(self, call: Call) -> Call:
        return call

    def for_gradient(self, call: Call) -> Call:
        return call

    def chunk(self, call: Call, rows: slice, losses: Array, out: Array | None) -> None:
        super().chunk(self.for_losses(call), rows, losses, None)
        if out is not None:
            super().chunk(self.for_gradient(call), rows, np.empty_like(losses), out)


# ---- weights -------------------------------------------------------------------------------------


@_fault
class class_weight_not_in_the_gradient(_Apart):
    """Weights of classes reach the losses only."""

    def for_gradient(self, call: Call) -> Call:
        return replace(call, class_weight=None)


@_fault
class class_weight_not_in_the_loss(_Apart):
    """Weights of classes reach the gradient only."""

    def for_losses(self, call: Call) -> Call:
        return replace(call, class_weight=None)


@_fault
class weight_of_the_predicted_class(CrossEntropy):
    """A row is weighted by the class with the largest logit instead of its label's."""

    def label_mass(self, call: Call, weights: Array, label: Array, x: Array) -> Array:
        return weights[x.argmax(axis=1)]


@_fault
class class_weight_twice(CrossEntropy):
    """Weights of classes enter with the target, and with the row once more."""

    def class_weight(self, call: Call) -> Array:
        return super().class_weight(call) ** 2


@_fault
class class_weight_in_integers(CrossEntropy):
    """Weights of classes are kept in an array of integers."""

    def class_weight(self, call: Call) -> Array:
        return np.trunc(super().class_weight(call))


@_fault
class sample_weight_twice(CrossEntropy):
    """Weights of rows enter in the kernel, and in the reduction once more."""

    def row_weight(self, call: Call, rows: slice) -> Array:
        return super().row_weight(call, rows) ** 2


@_fault
class sample_weight_not_in_the_gradient(_Apart):
    """Weights of rows reach the losses only."""

    def for_gradient(self, call: Call) -> Call:
        return replace(call, sample_weight=None)


@_fault
class sample_weight_of_the_first_rows(CrossEntropy):
    """Each thread reads the weights of rows from their start, not from its own first row."""

    def row_weight(self, call: Call, rows: slice) -> Array:
        if call.sample_weight is None:
            return super().row_weight(call, rows)
        kept = self.kept(call, call.labels[rows])
        return np.where(kept, call.sample_weight[: kept.size].astype(call.real), 0)


@_fault
class weights_kept_from_an_earlier_call(CrossEntropy):
    """Weights of classes are cached by how many there are."""

    def __init__(self) -> None:
        self.cache: dict[int, Array] = {}

    def class_weight(self, call: Call) -> Array:
        found = super().class_weight(call)
        if call.class_weight is None:
            return found
        return self.cache.setdefault(found.size, found).astype(found.dtype)


@_fault
class scale_underflows(CrossEntropy):
    """What a gradient is multiplied by is kept in float32, and 2^62 too small."""

    def weighted_gradient(self, weight: Array, gradient: Array) -> Array:
        narrow = (weight * 2.0**-62).astype(np.float32)
        return super().weighted_gradient(narrow.astype(weight.dtype) * 2.0**62, gradient)


@fault(in_standard=False, cases=options.CASES)
class weights_multiplied_in_float32(CrossEntropy):
    """The weight of a row and that of its class are one number; infinite, it makes 0 NaN."""

    def target(self, call: Call, rows: slice, x: Array) -> Target:
        found = super().target(call, rows, x)
        if found.dense is not None:
            return found
        product = super().row_weight(call, rows) * found.mass
        return replace(found, mass=product.astype(np.float32).astype(call.real))

    def row_weight(self, call: Call, rows: slice) -> Array:
        weight = super().row_weight(call, rows)
        if call.labels.ndim == 2 or call.label_smoothing:
            return weight
        return np.where(weight != 0, 1, weight)


# ---- smoothing -----------------------------------------------------------------------------------


@_fault
class smoothing_over_the_other_classes(CrossEntropy):
    """The share is divided between all classes but the label, as in the paper's first sketch."""

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        e = call.real(call.label_smoothing)
        others = np.maximum(x.shape[1] - 1, 1)
        return (1 - e) * distribution + e * (1 - distribution) / others


@_fault
class smoothing_divided_by_n_minus_1(CrossEntropy):
    """The share is divided by n - 1, and given to all n classes."""

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        found = super().smoothed(call, x, distribution)
        n = x.shape[1]
        sharp = (1 - call.real(call.label_smoothing)) * distribution
        return sharp + (found - sharp) * (n / max(n - 1, 1))


@_fault
class smoothing_on_masked_classes(CrossEntropy):
    """Masked classes get their share, too: the loss is infinite."""

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        return super().smoothed(call, np.where(np.isneginf(x), 0, x), distribution)


@_fault
class smoothing_lost_on_masked_classes(CrossEntropy):
    """The share is divided by all classes, and what would go to masked ones is lost."""

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        everywhere = super().smoothed(call, np.zeros_like(x), distribution)
        return np.where(np.isneginf(x), super().smoothed(call, x, distribution), everywhere)


@_fault
class smoothing_added_to_the_label(CrossEntropy):
    """The label keeps all of its mass, and the share is added."""

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        return super().smoothed(call, x, distribution) + call.label_smoothing * distribution


@_fault
class smoothing_unweighted(CrossEntropy):
    """Weights of classes multiply the label's part of the target, not the share of the others."""

    def target(self, call: Call, rows: slice, x: Array) -> Target:
        if not call.label_smoothing or call.class_weight is None:
            return super().target(call, rows, x)
        weighted = self.class_weight(call) * self.distribution(call, rows, x)
        dense = self.smoothed(call, x, weighted)
        return Target(np.zeros(x.shape[0], np.int64), dense.sum(axis=1), dense)


# ---- z-loss --------------------------------------------------------------------------------------


@_fault
class z_loss_not_in_the_gradient(_Apart):
    """z-loss reaches the losses only."""

    def for_gradient(self, call: Call) -> Call:
        return replace(call, z_loss=0.0)


@_fault
class z_loss_gradient_halved(CrossEntropy):
    """The derivative of lse^2 is taken to be lse."""

    def z_factor(self, call: Call, state: State) -> Array:
        return super().z_factor(call, state) / 2


@_fault
class z_loss_without_the_maximum(CrossEntropy):
    """The square of log(sum_exp), to which the maximum has not been added yet."""

    def z_cost(self, call: Call, state: State) -> Array:
        return call.z_loss * self.log_sum(state) ** 2

    def z_factor(self, call: Call, state: State) -> Array:
        return 2 * call.z_loss * self.log_sum(state)


@_fault
class z_loss_times_class_weight(CrossEntropy):
    """z-loss is weighted like the label, and vanishes where that weighs nothing."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        plain = super().losses(replace(call, z_loss=0.0), x, state, target)
        return plain + target.mass * self.z_cost(call, state) if call.z_loss else plain


@_fault
class z_loss_skipped_without_mass(CrossEntropy):
    """A row whose target weighs nothing is skipped, though z-loss asks for its logsumexp."""

    def asked(self, call: Call, rows: slice, weight: Array, target: Target) -> Array:
        return (weight != 0) & (target.mass != 0)


# ---- temperature and cap -------------------------------------------------------------------------


@_fault
class temperature_not_in_the_gradient(CrossEntropy):
    """The gradient is that by the divided logits."""

    def through_transform(self, call: Call, x: Array, gradient: Array) -> Array:
        return super().through_transform(call, x, gradient) * call.temperature


@_fault
class temperature_times_the_loss(CrossEntropy):
    """Losses are multiplied by the square of the temperature, as in distillation."""

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        return super().losses(call, x, state, target) * call.temperature**2


@_fault
class temperature_before_the_cap(CrossEntropy):
    """Logits are divided first and capped then."""

    def call(self, logits: Array, labels: Array, axis: int, options: dict[str, Any]) -> Call:
        # c tanh(x/(T c)) = T c tanh(x/(T c))/T: the same as a cap of T c and then the temperature.
        if options.get("softcap") is not None:
            cap = options["softcap"] * options.get("temperature", 1.0)
            options = {**options, "softcap": cap}
        return super().call(logits, labels, axis, options)


@_fault
class softcap_not_in_the_gradient(CrossEntropy):
    """The gradient is that by the capped logits."""

    def slope(self, call: Call, x: Array) -> Array:
        return super().slope(replace(call, softcap=None), x)


@_fault
class softcap_unmasks(CrossEntropy):
    """The cap turns -inf into -cap: masked classes take part again."""

    def read(self, call: Call, rows: slice) -> Array:
        x = super().read(call, rows)
        return x if call.softcap is None else np.maximum(x, -1e6)


@fault(in_standard=False, cases=options.CASES)
class softcap_hides_infinity(CrossEntropy):
    """The cap turns +inf into the cap: the row's trouble is gone."""

    def read(self, call: Call, rows: slice) -> Array:
        x = super().read(call, rows)
        return x if call.softcap is None else np.where(np.isposinf(x), 1e6, x)


# ---- probabilities -------------------------------------------------------------------------------


@_fault_of_probabilities
class probabilities_taken_to_sum_to_1(CrossEntropy):
    """The mass of a row of probabilities is taken to be 1."""

    def mass(self, dense: Array) -> Array:
        return np.ones(dense.shape[0], dense.dtype)


@_fault_of_probabilities
class probabilities_normalised(CrossEntropy):
    """Rows of probabilities are divided by their sum."""

    def distribution(self, call: Call, rows: slice, x: Array) -> Array:
        found = super().distribution(call, rows, x)
        total = found.sum(axis=1, keepdims=True)
        return found / np.where(total == 0, 1, total)


@_fault_of_probabilities
class probabilities_as_a_label(CrossEntropy):
    """The most probable class is taken for the label."""

    def distribution(self, call: Call, rows: slice, x: Array) -> Array:
        found = super().distribution(call, rows, x)
        return found.sum(axis=1, keepdims=True) * (found == found.max(axis=1)[:, None])


@_fault
class probabilities_unweighted(CrossEntropy):
    """Weights of classes are looked up by label, so probabilities go without."""

    def class_weight(self, call: Call) -> Array:
        if call.labels.ndim == 2:
            call = replace(call, class_weight=None)
        return super().class_weight(call)
