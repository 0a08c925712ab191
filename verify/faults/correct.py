"""A correct implementation, written to be broken: each of its steps is a method of its own.

It computes as fastxent's kernels do, in blocks, segments and chunks, with a state of (maximum,
count, rest), but in NumPy, for all rows at once, and in a wider type than that of the logits:
float64, or longdouble for float64. So it needs none of the kernels' care for the last digits. The
planted faults (`faults.py`) override its steps. The formula and the names are those of
docs/options.md; y(x) are the logits after cap and temperature.
"""

# The types of NumPy often end in Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastxent.backends.float_mode import default_float_mode

from ..case import DTYPES, LOG_SOFTMAX, LOGSUMEXP, OPTIONS, SOFTMAX, Array, cast
from ..implementation import KEYWORDS, Implementation
from ..profile import loss_dtype
from ..reference import LONGDOUBLE_IS_EXTENDED
from .correct_rows import Call, Rows, State

# Without a longdouble of more digits there is nothing to compute float64 results in.
CORRECT_DTYPES: Final = tuple(
    name for name in DTYPES if name != "float64" or LONGDOUBLE_IS_EXTENDED
)


@dataclass(slots=True)
class Target:
    """The measure t: the mass of each row, at the label or, if `dense` is there, as that says."""

    label: Array
    mass: Array
    dense: Array | None = None


class CrossEntropy(Rows):
    """f(logits, labels) -> (losses, grad_logits), with all options."""

    def __call__(
        self,
        logits: Array,
        labels: Array,
        *,
        out: Array | None = None,
        axis: int = -1,
        **options: Any,
    ) -> tuple[Array, Array]:
        """The gradient is written to `out`, whatever that holds; it may be the logits."""
        with self.float_mode():
            call = self.call(logits, labels, axis, options)
            result = np.empty(logits.shape, logits.dtype) if out is None else out
            is_flat = result.ndim == 2 and axis in (-1, 1)
            rows = result if is_flat else np.empty(call.logits.shape, logits.dtype)
            losses = self.computed(call, rows)
        if not is_flat:
            self.put_back(rows, np.moveaxis(result, axis, -1))
        return self.shaped(losses, logits, axis), result

    def loss_alone(self, logits: Array, labels: Array, *, axis: int = -1, **options: Any) -> Array:
        """The losses without the gradient."""
        with self.float_mode():
            losses = self.computed(self.call(logits, labels, axis, options), None)
        return self.shaped(losses, logits, axis)

    def float_mode(self) -> contextlib.AbstractContextManager[None]:
        """How floats are computed with: the same whatever the caller's mode is."""
        return default_float_mode()

    # ---- the arguments ---------------------------------------------------------------------------

    def call(self, logits: Array, labels: Array, axis: int, options: dict[str, Any]) -> Call:
        """All arguments, checked."""
        if labels.ndim == logits.ndim:
            labels = self.as_rows(labels, axis)
        else:
            labels = labels.reshape(-1)
        if options.get("sample_weight") is not None:
            weight = np.asarray(options["sample_weight"]).reshape(-1)
            options = {**options, "sample_weight": weight}
        call = Call(self.as_rows(logits, axis), labels, **options)
        if labels.ndim == 1:
            self.check_labels(call)
        return call

    def as_rows(self, array: Array, axis: int) -> Array:
        """An array with its classes last, and one axis for all rows."""
        moved = np.moveaxis(array, axis, -1)
        return moved if moved.ndim == 2 else moved.reshape(-1, moved.shape[-1])

    def check_labels(self, call: Call) -> None:
        """ValueError if a label is no class."""
        is_wrong = (call.labels < 0) | (call.labels >= call.logits.shape[1])
        if (is_wrong & self.kept(call, call.labels)).any():
            raise ValueError("a label is no class")

    def kept(self, call: Call, labels: Array) -> Array:
        """Which rows are not ignored."""
        if call.ignore_index is None or labels.ndim == 2:
            return np.ones(labels.shape[0], bool)
        return labels != call.ignore_index

    # ---- threads and chunks ----------------------------------------------------------------------

    def computed(self, call: Call, out: Array | None) -> Array:
        """The losses; the gradient is written to `out`."""
        losses = np.empty(call.logits.shape[0], loss_dtype(call.logits.dtype))

        def work(rows: slice) -> None:
            with np.errstate(all="ignore"):
                self.chunk(call, rows, losses, out)

        self.run(work, self.chunks(call))
        return losses

    def chunks(self, call: Call) -> list[slice]:
        """The rows of each thread."""
        n_rows = call.logits.shape[0]
        ends = [n_rows * k // call.n_threads for k in range(call.n_threads + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(ends) if start < stop]

    def run(self, work: Callable[[slice], None], chunks: Sequence[slice]) -> None:
        """Do all chunks. They share nothing but the arguments, so one after another will do."""
        for rows in chunks:
            work(rows)

    def chunk(self, call: Call, rows: slice, losses: Array, out: Array | None) -> None:
        """Losses and gradients of some rows."""
        x = self.read(call, rows)
        state = self.state(call, x)
        target = self.target(call, rows, x)
        weight = self.row_weight(call, rows)
        asked = self.asked(call, rows, weight, target)
        found = weight * self.losses(call, x, state, target)
        self.store_losses(call, losses, rows, self.selected(asked, found))
        if out is not None:
            gradient = self.gradient(call, x, state, target)
            gradient = self.weighted_gradient(weight, gradient)
            self.store(call, out, rows, self.selected(asked, gradient))

    # ---- the target ------------------------------------------------------------------------------

    def target(self, call: Call, rows: slice, x: Array) -> Target:
        """The measure of some rows."""
        weights = self.class_weight(call)
        if call.labels.ndim == 1 and not call.label_smoothing:
            label = self.label(call, rows)
            return Target(label, self.label_mass(call, weights, label, x))
        dense = weights * self.smoothed(call, x, self.distribution(call, rows, x))
        return Target(np.zeros(x.shape[0], np.int64), self.mass(dense), dense)

    def label(self, call: Call, rows: slice) -> Array:
        """The label of each row; of ignored ones, whose label may be any number, 0."""
        labels = call.labels[rows]
        return np.where(self.kept(call, labels), labels, 0)

    def class_weight(self, call: Call) -> Array:
        """The weight of each class."""
        if call.class_weight is None:
            return np.ones(call.logits.shape[1], call.real)
        return np.asarray(call.class_weight).astype(call.kernel_real).astype(call.real)

    def label_mass(self, call: Call, weights: Array, label: Array, x: Array) -> Array:
        """What the label's class weighs."""
        return weights[label]

    def distribution(self, call: Call, rows: slice, x: Array) -> Array:
        """The probabilities, or 1 at the label."""
        if call.labels.ndim == 2:
            return call.labels[rows].astype(np.float64).astype(call.real)
        one_hot = np.zeros_like(x)
        kept = np.flatnonzero(self.kept(call, call.labels[rows]))
        one_hot[kept, self.label(call, rows)[kept]] = 1
        return one_hot

    def smoothed(self, call: Call, x: Array, distribution: Array) -> Array:
        """A share of the mass is spread over the classes that are not masked."""
        smoothing = call.real(call.label_smoothing)
        if smoothing == 0:
            return distribution
        is_open = ~np.isneginf(x)
        share = smoothing / is_open.sum(axis=1, keepdims=True).astype(call.real)
        return (1 - smoothing) * distribution + np.where(is_open, share, 0)

    def mass(self, dense: Array) -> Array:
        """The mass of each row."""
        return dense.sum(axis=1)

    def asked(self, call: Call, rows: slice, weight: Array, target: Target) -> Array:
        """Which rows are asked anything; the others give 0, whatever they hold."""
        return (weight != 0) & ((target.mass != 0) | (call.z_loss != 0))

    def row_weight(self, call: Call, rows: slice) -> Array:
        """The weight of each row; 0 for those that are ignored."""
        kept = self.kept(call, call.labels[rows])
        if call.sample_weight is None:
            return kept.astype(call.real)
        return np.where(kept, call.sample_weight[rows].astype(call.real), 0)

    # ---- the results -----------------------------------------------------------------------------

    def losses(self, call: Call, x: Array, state: State, target: Target) -> Array:
        """The losses of rows of weight 1."""
        losses = self.costs(call, x, state, target) + target.mass * self.log_sum(state)
        if call.z_loss:
            losses = losses + self.z_cost(call, state)
        return losses

    def costs(self, call: Call, x: Array, state: State, target: Target) -> Array:
        """sum_j t_j (y(maximum) - y_j), where 0 times infinity is 0."""
        if target.dense is None:
            cost = -self.difference(call, self.label_logit(x, target), state.maximum)
            return self.without_nothing(target.mass, cost)
        below = -self.difference(call, x, state.maximum[:, None])
        return self.without_nothing(target.dense, below).sum(axis=1)

    def label_logit(self, x: Array, target: Target) -> Array:
        """The logit of each row's label."""
        return x[np.arange(x.shape[0]), target.label]

    def without_nothing(self, mass: Array, cost: Array) -> Array:
        """mass * cost, and 0 without mass."""
        return np.where(mass == 0, 0, mass * cost)

    def z_cost(self, call: Call, state: State) -> Array:
        """The square of logsumexp."""
        return call.real(call.z_loss) * self.logsumexp(call, state) ** 2

    def z_factor(self, call: Call, state: State) -> Array:
        """What z-loss adds to the factor of the softmax."""
        if not call.z_loss:
            return np.zeros_like(state.rest)
        return 2 * call.real(call.z_loss) * self.logsumexp(call, state)

    def gradient(self, call: Call, x: Array, state: State, target: Target) -> Array:
        """((mass + 2 z lse) p_j - t_j) dy_j/dx_j of rows of weight 1."""
        probs = self.softmax(call, x, state)
        z_part = self.z_factor(call, state)[:, None] * probs
        if target.dense is None:
            gradient = target.mass[:, None] * probs
            i = np.arange(x.shape[0])
            gradient[i, target.label] = self.at_label(call, x, state, target)
        else:
            gradient = target.mass[:, None] * probs - target.dense
        return self.through_transform(call, x, gradient + z_part)

    def at_label(self, call: Call, x: Array, state: State, target: Target) -> Array:
        """mass (p_y - 1) = -mass (the sum of all terms but the label's) / sum_exp."""
        logit = self.label_logit(x, target)
        term = self.exponential(self.difference(call, logit, self.finite(state.maximum)))
        sum_exp = state.count + state.rest
        is_maximum = logit == state.maximum
        others = np.where(is_maximum, state.count - 1 + state.rest, sum_exp - term)
        return np.where(self.is_trouble(state), np.nan, -target.mass * others / sum_exp)

    def through_transform(self, call: Call, x: Array, gradient: Array) -> Array:
        """The gradient by x from that by y."""
        if call.softcap is None and call.temperature == 1:
            return gradient
        return gradient * self.slope(call, x)

    def weighted_gradient(self, weight: Array, gradient: Array) -> Array:
        """Each row times its weight."""
        return weight[:, None] * gradient

    def selected(self, asked: Array, values: Array) -> Array:
        """0 in rows of which nothing is asked; and one NaN in place of all the NaNs."""
        values = np.where(asked if values.ndim == 1 else asked[:, None], values, 0)
        return np.where(np.isnan(values), np.nan, values)

    def store_losses(self, call: Call, losses: Array, rows: slice, values: Array) -> None:
        """Round and write the losses."""
        losses[rows] = values

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        """Round and write the gradient."""
        out[rows] = cast(gradient, call.logits.dtype)

    def put_back(self, rows: Array, out: Array) -> None:
        """Write rows to an output of more axes, whose classes have been moved to the end."""
        out[...] = rows.reshape(out.shape)

    def shaped(self, losses: Array, logits: Array, axis: int) -> Array:
        """The losses in the shape of the batch."""
        return losses.reshape(np.moveaxis(logits, axis, -1).shape[:-1])


class Functions(CrossEntropy):
    """softmax, log_softmax and logsumexp of the same steps."""

    def of(self, operation: str) -> Callable[..., Array]:
        """The function of this name, f(logits, *, out, axis, n_threads)."""

        def function(
            logits: Array, *, out: Array | None = None, axis: int = -1, n_threads: int = 1
        ) -> Array:
            rows = self.as_rows(logits, axis)
            call = Call(rows, np.zeros(rows.shape[0], np.int64), n_threads=n_threads)
            with np.errstate(all="ignore"), self.float_mode():
                x = self.read(call, slice(None))
                values = self.values(operation, call, x, self.state(call, x))
                is_lse = operation == LOGSUMEXP
                values = cast(values, loss_dtype(logits.dtype) if is_lse else logits.dtype)
            if is_lse:
                return self.shaped(values, logits, axis)
            result = np.empty(logits.shape, logits.dtype) if out is None else out
            self.put_back(values, np.moveaxis(result, axis, -1))
            return result

        return function

    def values(self, operation: str, call: Call, x: Array, state: State) -> Array:
        """The results of whole rows."""
        if operation == SOFTMAX:
            return self.softmax(call, x, state)
        if operation == LOG_SOFTMAX:
            return self.log_softmax(call, x, state)
        lse = self.logsumexp(call, state)
        return np.where(self.is_trouble(state), state.maximum, lse)

    def log_softmax(self, call: Call, x: Array, state: State) -> Array:
        """-((m - x_j) + log_sum): two parts of one sign."""
        d = self.difference(call, x, state.maximum[:, None])
        return d - self.log_sum(state)[:, None]


def implementation(name: str, steps: CrossEntropy, dtypes: tuple[str, ...]) -> Implementation:
    """What the harness is given."""
    functions = {}
    if isinstance(steps, Functions):
        functions = {each: steps.of(each) for each in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)}
    return Implementation(
        name,
        steps,
        steps.loss_alone,
        functions,
        frozenset({"probs", *KEYWORDS, *OPTIONS}),
        dtypes,
    )


CORRECT: Final = implementation("correct", Functions(), CORRECT_DTYPES)
