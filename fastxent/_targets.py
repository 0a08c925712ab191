"""Labels -> the target measure that the loss is taken against."""

from __future__ import annotations

import operator
from typing import Final

import numpy as np

from . import backends
from ._conversion import Array, at
from ._validation import as_rows, check_floats

_LARGEST: Final = 2**63 - 1

# A row of probabilities in bfloat16 need not sum to 1 more closely.
_NEAR_1: Final = 0.02


def make_target(
    array: Array, logits: Array, axis: int, ignore_index: object
) -> tuple[Array, int | None]:
    """Labels as the kernels take them, and the index to ignore; an error where they do not fit.

    That is an int64 for every row, or rows of probabilities. The kernels look at the values, and
    `bad_row` says what is wrong with one.
    """
    ignored = _check_ignore_index(ignore_index)
    expected = logits.shape[:axis] + logits.shape[axis + 1 :]
    if array.size == 0 and array.shape == expected:
        array = array.astype(np.int64)  # np.array([]) is float64, whatever it is meant to hold
    if array.dtype.kind in "iu":
        return _label_target(array, logits, axis, ignored)
    if array.dtype.kind == "b":
        advice = (
            "as probabilities they must be floats: np.asarray(labels, np.float32)"
            if array.shape == logits.shape
            else "pass class indices (for two classes np.asarray(labels, np.int64)) or "
            "probabilities as floats"
        )
        raise TypeError(f"labels are booleans; {advice}")
    if array.dtype.kind not in "fV":
        raise TypeError(
            f"labels must be integers (class indices) or floats (probabilities), "
            f"not {array.dtype.name}"
        )
    probs = _probs_target(array, logits, axis)
    if ignored is not None:
        raise ValueError(
            "ignore_index goes with integer labels; with probabilities pass sample_weight, 0 for "
            "the rows to leave out"
        )
    return probs, None


def _label_target(
    labels: Array, logits: Array, axis: int, ignore_index: int | None
) -> tuple[Array, int | None]:
    """One class a row."""
    expected = logits.shape[:axis] + logits.shape[axis + 1 :]
    if labels.shape != expected:
        advice = _shape_advice(labels, logits, expected)
        raise ValueError(
            f"integer labels of shape {labels.shape} do not fit logits of shape {logits.shape} "
            f"with classes along axis {axis}: they must have shape {expected}{advice}"
        )
    return _as_int64(labels.reshape(-1), ignore_index)


def _shape_advice(labels: Array, logits: Array, expected: tuple[int, ...]) -> str:
    """What would make integer labels of the wrong shape fit, if something obvious would."""
    if labels.shape == logits.shape:
        if labels.dtype == np.uint16:
            return "; bits of bfloat16 are read by labels.view(ml_dtypes.bfloat16)"
        return "; as probabilities they must be floats: np.asarray(labels, np.float32)"
    if labels.size and _without_ones(labels.shape) == expected:
        return f"; np.reshape(labels, {expected}) does"
    for axis in range(logits.ndim):
        if labels.shape == logits.shape[:axis] + logits.shape[axis + 1 :]:
            return f"; they fit with axis={axis}"
    return ""


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _probs_target(labels: Array, logits: Array, axis: int) -> Array:
    """A probability for every class of every row."""
    check_floats(labels, "labels")
    if labels.shape != logits.shape:
        expected = logits.shape[:axis] + logits.shape[axis + 1 :]
        are_indices = labels.shape == expected or _without_ones(labels.shape) == expected
        advice = _index_advice(labels, expected) if labels.size and are_indices else ""
        raise ValueError(
            f"labels are floats, hence probabilities, of shape {labels.shape}; they must have "
            f"that of logits, {logits.shape}{advice}"
        )
    return as_rows(labels, axis)


def _index_advice(labels: Array, expected: tuple[int, ...]) -> str:
    """How floats of the batch's shape become class indices, or what is in the way."""
    with np.errstate(all="ignore"):
        wide = labels.astype(np.float64)
        wrong = ~((wide == np.rint(wide)) & (np.abs(wide) < _LARGEST))
    given = "labels" if labels.shape == expected else f"np.reshape(labels, {expected})"
    if not wrong.any():
        return f"; class indices must be integers: np.asarray({given}, np.int64)"
    place = np.unravel_index(int(wrong.argmax()), labels.shape)
    found = f"; {at('labels', place)} is {wide[place]}"
    if not np.isnan(wide[wrong]).all():
        return f"{found}, which is neither a class index nor a probability for every class"
    return (
        f"{found}, a label that is missing: np.nan_to_num({given}, nan=-100).astype(np.int64), "
        "with ignore_index=-100, leaves such rows out"
    )


def bad_row(
    row: int, labels: Array, logits: Array, axis: int, ignore_index: object, is_shard: bool
) -> ValueError:
    """What is wrong with the labels of a row; of a shard they may be classes that others hold."""
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    place = [int(k) for k in np.unravel_index(row, batch)]
    if labels.dtype.kind in "iu":
        n_classes = logits.shape[axis]
        found = int(labels[tuple(place)])
        advice = ""
        if found < 0 and ignore_index is None:
            advice = f"; pass ignore_index={found} to leave such rows out"
        elif found == n_classes and not is_shard and labels.min() == 1:
            advice = "; classes count from 0, as labels - 1 does"
        wanted = "a class" if is_shard else f"one of the {n_classes} classes (0 to {n_classes - 1})"
        return ValueError(f"{at('labels', tuple(place))} is {found}, which is not {wanted}{advice}")
    largest = backends.largest_prob(logits.dtype)
    probs = np.moveaxis(labels, axis, -1)[tuple(place)].astype(np.float64)
    j = int(np.argmin((probs >= 0) & (probs <= largest)))
    row_of_logits = np.moveaxis(logits, axis, -1)[tuple(place)].astype(np.float64)
    sums_to_1 = (row_of_logits >= 0).all() and abs(row_of_logits.sum() - 1) < _NEAR_1
    advice = "; logits look like probabilities, and they come first" if sums_to_1 else ""
    place.insert(axis, j)
    return ValueError(
        f"{at('labels', tuple(place))} is {probs[j]}, which is not a probability: labels "
        f"given as floats must be finite and not negative, and at most {largest:.3g} with "
        f"{logits.dtype.name} logits{advice}"
    )


def _check_ignore_index(ignore_index: object) -> int | None:
    if ignore_index is None:
        return None
    try:
        index = operator.index(ignore_index)  # type: ignore[arg-type]
        if isinstance(ignore_index, bool):
            raise TypeError
    except TypeError:
        several = isinstance(ignore_index, list | tuple | set | np.ndarray)
        advice = "; make one of several by np.where(np.isin(labels, ...), -100, labels)"
        raise TypeError(
            f"ignore_index must be an integer or None, not {ignore_index!r}"
            f"{advice if several else ''}"
        ) from None
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
    if not flat.flags.aligned:
        flat = flat.copy()
    fits = ignore_index is not None and -_LARGEST - 1 <= ignore_index <= _LARGEST
    return flat, ignore_index if fits else None
