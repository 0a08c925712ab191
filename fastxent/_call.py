"""One call: from the arguments of a public function to losses and output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy import ndarray

from . import backends
from ._conversion import Array, as_array
from ._options import Asked, make_options
from ._plan import Plan, make_plan
from ._reduce import reduced, result_dtype
from ._targets import bad_row, make_target
from ._validation import Destination, as_planes, as_rows, check_out, logits_array
from .backends.context import OUTPUT_NOTHING, Options

NO_LABELS: Final = object()

# What takes a whole state a row is done for so many rows at a time, whose states are 4 MiB:
# row_stats of 10^6 x 2 float32 took 227 ms, in parts of half the size 222, at once 263.
ROWS_AT_A_TIME: Final = 1 << 15
_LAST: Final = -1


def call(
    logits: object,
    labels: object,
    axis: object,
    backend: object,
    n_threads: object,
    *,
    ignore_index: object = None,
    reduction: str | None = None,
    output_kind: int = OUTPUT_NOTHING,
    out: Array | None = None,
    asked: Asked | None = None,
) -> tuple[Any, Any]:
    """Losses, reduced, and an output of logits' shape.

    With `NO_LABELS` there is no target, and a loss is the row's logsumexp. No losses without a
    `reduction`, and no output without its kind: they are None.
    """
    # Most arrays are such as the kernels take. To look at each and bring it into form would be two
    # thirds of what a small call costs, so it is tried on them first: the driver looks at them in
    # any case, and leaves alone what it does not take or what is wrong.
    if (
        asked is None
        and axis is _LAST  # what only equals it may be a float
        and type(logits) is ndarray
        and (type(labels) is ndarray or labels is NO_LABELS)
        and logits.size
    ):
        target: Any = None if labels is NO_LABELS else labels
        shape = logits.shape
        if shape and (out is None or backends.driver.is_apart(out, logits, target)):
            n_classes = shape[-1]
            plan = make_plan(logits.size // n_classes, n_classes, backend, n_threads)
            losses = np.empty(shape[:-1], result_dtype(logits)) if reduction == "none" else None
            output = out
            if out is None and output_kind != OUTPUT_NOTHING:
                output = np.empty(shape, logits.dtype)
            answer = backends.evaluate(
                plan, logits, target, ignore_index, losses, output, output_kind,
                reduction == "mean",
            )  # fmt: skip
            if answer is not None and answer[0] < 0:
                return reduced(losses, answer, reduction), output

    output = None  # frees what was made for it above
    batch = Batch(logits, labels, axis, backend, n_threads, ignore_index, asked, reduction)
    return batch.evaluate(reduction, output_kind, out)


class Batch:
    """The arguments of a call in the form that the kernels take, or a clear error."""

    __slots__ = (
        "_first_row", "_given", "_ignore_index", "_ignored", "_target", "asked", "axis", "logits",
        "options", "plan", "shape",
    )  # fmt: skip

    def __init__(
        self,
        logits: object,
        labels: object,
        axis: object,
        backend: object,
        n_threads: object,
        ignore_index: object = None,
        asked: Asked | None = None,
        reduction: str | None = None,
    ) -> None:
        has_labels = labels is not NO_LABELS
        self.logits, self.axis = logits_array(logits, axis, labels if has_labels else None)
        given = as_array(labels, "labels") if has_labels else None
        array, class_axis = self.logits, self.axis
        self._given = given, array, class_axis
        self._first_row = 0
        n_classes = array.shape[class_axis]
        self.plan: Plan = make_plan(array.size // n_classes, n_classes, backend, n_threads)
        self.shape = array.shape[:class_axis] + array.shape[class_axis + 1 :]
        self._ignore_index = ignore_index
        self._target, self._ignored = None, None
        if given is not None:
            self._target, self._ignored = make_target(given, array, class_axis, ignore_index)
        self.asked = asked
        self.options: Options | None = None
        if asked is not None:
            has_indices = self._target is not None and not self.has_probs
            with backends.driver.default_float_mode():  # as the kernels compute
                self.options = make_options(asked, array, class_axis, has_indices, reduction)

    @property
    def has_probs(self) -> bool:
        """Whether the labels are probabilities."""
        return self._target is not None and self._target.dtype.kind != "i"

    @property
    def labels(self) -> Array | None:
        """The labels as they were passed."""
        return self._given[0]

    @property
    def ignored(self) -> Array:
        """Which rows are ignored, in the shape of the batch."""
        if self._ignored is None or self._target is None or self.has_probs:
            return np.zeros(self.shape, np.bool_)
        mask: Array = (self._target == self._ignored).reshape(self.shape)
        return mask

    def parts(self) -> Iterator[tuple[slice, Batch]]:
        """The rows in order, up to ROWS_AT_A_TIME of them, each time as a batch of one axis."""
        logits = as_rows(self.logits, self.axis)
        for first in range(0, len(logits), ROWS_AT_A_TIME):
            rows = slice(first, first + ROWS_AT_A_TIME)
            part = copy.copy(self)
            part._first_row = first
            part.logits, part.axis = logits[rows], 1
            part.shape = part.logits.shape[:1]
            if self._target is not None:
                part._target = self._target[rows]
            if self.options is not None and self.options.row_weights is not None:
                part.options = self.options._replace(row_weights=self.options.row_weights[rows])
            # some chunks for every thread, though few rows with few classes are one for the plan
            share = -(-part.shape[0] // (8 * self.plan.n_threads))
            part.plan = replace(self.plan, chunk=min(self.plan.chunk, share))
            yield rows, part

    def evaluate(
        self,
        reduction: str | None,
        output_kind: int = OUTPUT_NOTHING,
        out: Array | None = None,
        task: str = "loss",
        options: Options | None = None,
    ) -> tuple[Any, Any]:
        """Losses, reduced, and an output of logits' shape; either may be None."""
        array, class_axis, plan = self.logits, self.axis, self.plan
        options = options or self.options
        if out is not None:
            check_out(out, array, self.labels)
        takes_planes = task == "loss" and backends.takes_planes(
            array.dtype, array.shape[class_axis], self.has_probs, output_kind, options
        )
        planes = as_planes(array, class_axis) if takes_planes else None
        rows = as_rows(array, class_axis) if planes is None else planes
        losses = np.empty(self.shape, result_dtype(array)) if reduction == "none" else None
        output = None
        if output_kind != OUTPUT_NOTHING:
            destination = Destination(out, array, class_axis, planes)
            output = destination.rows
        target = self._target
        if target is not None and not self.has_probs:
            target = target.reshape(rows.shape[:1] + rows.shape[2:])
        divides_sum = (
            reduction == "sum" and self.asked is not None and self.asked.normalizer is not None
        )
        answer = backends.evaluate(
            plan, rows, target, self._ignored, losses, output, output_kind,
            reduction == "mean" or divides_sum, planes is not None, task, options,
        )  # fmt: skip
        assert answer is not None  # they are in the form that the kernels take
        labels, logits, axis = self._given
        if answer[0] >= 0 and labels is not None:
            is_shard = options is not None and options.n_labels > array.shape[class_axis]
            row = self._first_row + answer[0]
            raise bad_row(row, labels, logits, axis, self._ignore_index, is_shard)
        empty = "nan" if self.asked is None else self.asked.empty
        with backends.driver.default_float_mode():
            loss = reduced(losses, answer, reduction, empty, divides_sum)
        if output is not None:
            output = destination.result()
        return loss, output
