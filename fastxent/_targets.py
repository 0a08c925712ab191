"""Labels -> the target measure that the loss is taken against."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np

from . import backends
from ._plan import Plan
from ._validation import Array, Rows, as_array, as_rows, element_of

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Target:
    """Integer labels, or probabilities: one of the two is None."""

    labels: Array | None = None  # int64 (n_rows,)
    ignore_index: int | None = None
    probs: Rows | None = None
    n_kept: int = 0  # the rows that a mean divides by


def make_target(
    labels: object,
    logits: Array,
    axis: int,
    rows: Rows,
    plan: Plan,
    ignore_index: object = None,
) -> tuple[Array, Target]:
    """The labels as an array, and the target; an error names the first row that is wrong."""
    array = as_labels(labels)
    ignored = _check_ignore_index(ignore_index)
    if array.dtype.kind in "iu":
        return array, label_target(array, logits, axis, rows, plan, ignored)
    if array.dtype.kind == "b":
        advice = (
            "as probabilities they must be floats: labels.astype(np.float32)"
            if array.shape == logits.shape
            else "pass class indices (for two classes labels.astype(np.int64)) or probabilities "
            "as floats"
        )
        raise TypeError(f"labels are booleans; {advice}")
    if array.dtype.kind not in "fV":
        raise TypeError(
            f"labels must be integers (class indices) or floats (probabilities), "
            f"not {array.dtype.name}"
        )
    if ignored is not None:
        raise ValueError(
            "ignore_index goes with integer labels; a row of probabilities that are all 0 has loss "
            "and gradient 0, but counts in a mean: use reduction='sum' and divide yourself"
        )
    return array, probs_target(array, logits, axis, rows, plan)


def as_labels(labels: object) -> Array:
    """The labels as an array; an empty list has no dtype of its own and counts as integers."""
    array = as_array(labels, "labels")
    if array.size == 0 and not hasattr(labels, "dtype"):
        return array.astype(np.int64)
    return array


def label_target(
    labels: Array, logits: Array, axis: int, rows: Rows, plan: Plan, ignore_index: int | None
) -> Target:
    """One class a row."""
    expected = logits.shape[:axis] + logits.shape[axis + 1 :]
    if labels.shape != expected:
        advice = _shape_advice(labels, logits, expected)
        raise ValueError(
            f"integer labels of shape {labels.shape} do not fit logits of shape {logits.shape} "
            f"with classes along axis {axis}: they must have shape {expected}{advice}"
        )
    flat, ignored = _as_int64(labels.reshape(-1), ignore_index)
    bad, n_kept = backends.check_labels(plan, rows, flat, ignored)
    if bad >= 0:
        position = np.unravel_index(bad, expected)
        found = int(labels[position])
        where = f"[{', '.join(str(int(k)) for k in position)}]" if position else ""
        advice = (
            f"; pass ignore_index={found} to leave such rows out"
            if found < 0 and ignore_index is None
            else ""
        )
        raise ValueError(
            f"labels{where} is {found}, which is not one of the {rows.n_classes} classes "
            f"(0 to {rows.n_classes - 1}){advice}"
        )
    return Target(labels=flat, ignore_index=ignored, n_kept=n_kept)


def _shape_advice(labels: Array, logits: Array, expected: tuple[int, ...]) -> str:
    """What would make integer labels of the wrong shape fit, if something obvious would."""
    if labels.shape == logits.shape:
        return "; as probabilities they must be floats: labels.astype(np.float32)"
    if labels.size and tuple(n for n in labels.shape if n != 1) == expected:
        return f"; labels.reshape({expected}) would"
    for axis in range(logits.ndim):
        if labels.shape == logits.shape[:axis] + logits.shape[axis + 1 :]:
            return f"; they fit with axis={axis}"
    return ""


def probs_target(labels: Array, logits: Array, axis: int, rows: Rows, plan: Plan) -> Target:
    """A probability for every class of every row."""
    element = element_of(labels, "labels")
    if labels.shape != logits.shape:
        advice = (
            "; class indices must be integers: labels.astype(np.int64)"
            if labels.shape == logits.shape[:axis] + logits.shape[axis + 1 :]
            else ""
        )
        raise ValueError(
            f"labels are floats, hence probabilities, of shape {labels.shape}; they must have "
            f"that of logits, {logits.shape}{advice}"
        )
    probs = as_rows(labels, axis, element)
    largest = float(np.finfo(np.float64 if rows.real_bits == 64 else np.float32).max)
    bad = backends.check_probs(plan, probs, largest)
    if bad >= 0:
        row = probs.array[bad].astype(np.float64)
        j = int(np.argmin((row >= 0) & (row <= largest)))
        batch = np.unravel_index(bad, labels.shape[:axis] + labels.shape[axis + 1 :])
        position = [int(k) for k in batch]
        position.insert(axis, j)
        where = ", ".join(map(str, position))
        raise ValueError(
            f"labels[{where}] is {row[j]}, which is not a probability: labels given as floats "
            f"must be finite and not negative, and at most {largest:.3g} with {logits.dtype.name} "
            "logits"
        )
    return Target(probs=probs, n_kept=rows.n_rows)


def _check_ignore_index(ignore_index: object) -> int | None:
    if ignore_index is None:
        return None
    try:
        index = operator.index(ignore_index)  # type: ignore[arg-type]
        if isinstance(ignore_index, bool):
            raise TypeError
    except TypeError:
        raise TypeError(f"ignore_index must be an integer or None, not {ignore_index!r}") from None
    return index


def _as_int64(labels: Array, ignore_index: int | None) -> tuple[Array, int | None]:
    """Labels and the index to ignore as the kernels take them: both int64."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize == 8:
        # Those beyond int64 must not come out as negative numbers, one of which may be ignored.
        flat = np.minimum(labels, np.uint64(_LARGEST)).astype(np.int64)
        if ignore_index is None or not 0 <= ignore_index <= 2 * _LARGEST + 1:
            return flat, None
        flat[labels == np.uint64(ignore_index)] = -1
        return flat, -1
    flat = np.ascontiguousarray(labels, dtype=np.int64)
    fits = ignore_index is not None and -_LARGEST - 1 <= ignore_index <= _LARGEST
    return flat, ignore_index if fits else None
