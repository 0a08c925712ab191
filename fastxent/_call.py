"""One call: from the arguments of a public function to losses and output."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy import ndarray

from . import backends
from ._plan import make_plan
from ._reduce import reduced, result_dtype
from ._targets import as_labels, bad_row, make_target
from ._validation import Array, Destination, as_planes, as_rows, check_out, logits_array
from .backends.context import OUTPUT_NOTHING

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
) -> tuple[Any, Any]:
    """Losses, reduced, and an output of logits' shape.

    With `NO_LABELS` there is no target, and a loss is the row's logsumexp. No losses without a
    `reduction`, and no output without its kind: they are None.
    """
    # Most arrays are such as the kernels take. To look at each and bring it into form would be two
    # thirds of what a small call costs, so it is tried on them first: the driver looks at them in
    # any case, and leaves alone what it does not take or what is wrong.
    if (
        axis is _LAST  # what only equals it may be a float
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
    array, class_axis = logits_array(logits, axis)
    labels_array = None if labels is NO_LABELS else as_labels(labels)
    n_classes = array.shape[class_axis]
    plan = make_plan(array.size // n_classes, n_classes, backend, n_threads)
    if out is not None:
        check_out(out, array, labels_array)
    target, ignored = None, None
    if labels_array is not None:
        target, ignored = make_target(labels_array, array, class_axis, ignore_index)
    has_probs = target is not None and target.dtype.kind != "i"
    planes = None
    if backends.takes_planes(array.dtype, n_classes, has_probs):
        planes = as_planes(array, class_axis)
    rows = as_rows(array, class_axis) if planes is None else planes
    shape = array.shape[:class_axis] + array.shape[class_axis + 1 :]
    losses = np.empty(shape, result_dtype(array)) if reduction == "none" else None
    if output_kind != OUTPUT_NOTHING:
        destination = Destination(out, array, class_axis, planes)
        output = destination.rows
    if target is not None and not has_probs:
        target = target.reshape(rows.shape[:1] + rows.shape[2:])
    answer = backends.evaluate(
        plan, rows, target, ignored, losses, output, output_kind, reduction == "mean",
        planes is not None,
    )  # fmt: skip
    assert answer is not None  # they are in the form that the kernels take
    if answer[0] >= 0 and labels_array is not None:
        raise bad_row(answer[0], labels_array, array, class_axis, ignore_index)
    if output is not None:
        output = destination.result()
    return reduced(losses, answer, reduction), output
