"""One call: from the arguments of a public function to losses and output."""

from __future__ import annotations

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
        "_ignore_index", "_ignored", "_labels", "_planes", "_rows", "_target", "asked", "axis",
        "logits", "options", "plan", "shape",
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
        self._labels = as_array(labels, "labels") if has_labels else None
        array, class_axis = self.logits, self.axis
        n_classes = array.shape[class_axis]
        self.plan: Plan = make_plan(array.size // n_classes, n_classes, backend, n_threads)
        self.shape = array.shape[:class_axis] + array.shape[class_axis + 1 :]
        self._ignore_index = ignore_index
        self._target, self._ignored = None, None
        if self._labels is not None:
            self._target, self._ignored = make_target(self._labels, array, class_axis, ignore_index)
        self.asked = asked
        self.options: Options | None = None
        if asked is not None:
            has_indices = self._target is not None and not self.has_probs
            with backends.driver.default_float_mode():  # as the kernels compute
                self.options = make_options(asked, array, class_axis, has_indices, reduction)
        self._planes: Array | None = None
        self._rows: Array | None = None

    @property
    def has_probs(self) -> bool:
        """Whether the labels are probabilities."""
        return self._target is not None and self._target.dtype.kind != "i"

    @property
    def labels(self) -> Array | None:
        """The labels as they were passed."""
        return self._labels

    @property
    def ignored(self) -> Array:
        """Which rows are ignored, in the shape of the batch."""
        if self._ignored is None or self._target is None or self.has_probs:
            return np.zeros(self.shape, np.bool_)
        mask: Array = (self._target == self._ignored).reshape(self.shape)
        return mask

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
            check_out(out, array, self._labels)
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
        if answer[0] >= 0 and self._labels is not None:
            is_shard = options is not None and options.n_labels > array.shape[class_axis]
            raise bad_row(answer[0], self._labels, array, class_axis, self._ignore_index, is_shard)
        empty = "nan" if self.asked is None else self.asked.empty
        with backends.driver.default_float_mode():
            loss = reduced(losses, answer, reduction, empty, divides_sum)
        if output is not None:
            output = destination.result()
        return loss, output
