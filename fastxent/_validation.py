"""Arrays in; canonical views, or a clear error, out."""

from __future__ import annotations

import math
import operator
from typing import Final

import numpy as np

from . import backends
from ._conversion import Array as Array
from ._conversion import as_array as as_array
from ._conversion import is_masked
from .backends.context import ELEMENTS

# Candidate solutions tried before two arrays count as overlapping; the question is NP-complete.
# (NumPy's stubs know only two of the values it takes.)
_OVERLAP_WORK: Final = 100_000

# A dtype's name takes a microsecond to make up.
_NATIVE: Final = frozenset(map(np.dtype, ("float16", "float32", "float64")))


def check_floats(array: Array, name: str) -> None:
    """TypeError where the kernels do not take the array's dtype."""
    if array.dtype in _NATIVE or array.dtype.name in ELEMENTS:
        return
    kind = array.dtype.kind
    wanted = "np.float64" if kind == "f" else "np.float32"
    advice = f"convert them with np.asarray({name}, {wanted})"
    bits = f"{name}.view(ml_dtypes.bfloat16)"
    if kind == "c":
        advice = f"pass real numbers, np.real({name}) say"
    elif array.dtype == np.uint16:
        advice = f"bits of bfloat16, as files hold them, are read by {bits}"
    elif array.dtype == np.int16:
        advice += f", or, if they are the bits of bfloat16, read them by {bits}"
    raise TypeError(
        f"{name} must be float16, bfloat16, float32 or float64, not {array.dtype.name}; {advice}"
    )


def normalise_axis(axis: object, ndim: int) -> int:
    """`axis` counted from 0; an error where `logits` has no such axis."""
    try:
        index = operator.index(axis)  # type: ignore[arg-type]
        if isinstance(axis, bool):
            raise TypeError
    except TypeError:
        several = axis is None or isinstance(axis, tuple | list)
        advice = "; pass logits.reshape(-1), if all of it is one row" if several else ""
        raise TypeError(
            f"axis must be an integer, not {axis!r}; it names the class axis of logits{advice}"
        ) from None
    if ndim == 0:
        raise ValueError(
            "logits is a single number; it must have at least one axis, that of the classes"
        )
    if not -ndim <= index < ndim:
        raise ValueError(
            f"axis {index} is out of range for logits with {ndim} dimension(s); "
            f"it must be from {-ndim} to {ndim - 1}"
        )
    return index % ndim


def as_rows(array: Array, axis: int) -> Array:
    """The array as the kernels take it: (n_rows, n_classes), the classes contiguous.

    Its class axis comes last, all others are merged; a copy only where it must be.
    """
    moved = array if axis == array.ndim - 1 else np.moveaxis(array, axis, -1)
    n_classes = moved.shape[-1]
    rows = moved.reshape(moved.size // n_classes if n_classes else 0, n_classes)
    packed = rows.flags.c_contiguous or n_classes == 1 or rows.strides[1] == rows.itemsize
    if not (packed and rows.dtype.isnative and rows.flags.aligned):
        rows = np.array(rows, dtype=rows.dtype.newbyteorder("="), order="C", copy=True)
    return rows


def as_planes(array: Array, axis: int) -> Array | None:
    """The array with three axes, the classes along the second, without a copy.

    None where the classes come last in memory, where it takes a copy, or where there is nothing.
    """
    if array.ndim == 2 and axis == 1 and array.flags.f_contiguous:
        array, axis = array.T, 0
    n_classes = array.shape[axis]
    n_outer = math.prod(array.shape[:axis])
    n_inner = math.prod(array.shape[axis + 1 :])
    if (
        n_inner <= 1
        or n_outer == 0
        or not (array.flags.c_contiguous and array.dtype.isnative and array.flags.aligned)
    ):
        return None
    return array.reshape(n_outer, n_classes, n_inner)


def logits_array(logits: object, axis: object, labels: object = None) -> tuple[Array, int]:
    """The logits as an array, and their class axis; `labels` tell whether the two are swapped."""
    array = as_array(logits, "logits")
    if labels is not None and array.dtype.kind in "iu":
        check_order(array, as_array(labels, "labels"))
    check_floats(array, "logits")
    class_axis = normalise_axis(axis, array.ndim)
    if array.shape[class_axis] == 0:
        raise ValueError(
            f"logits of shape {array.shape} has no classes along axis {class_axis}; "
            "there must be at least one"
        )
    return array, class_axis


def check_order(logits: Array, labels: Array, order: str = "logits come first") -> None:
    """TypeError where logits are class indices for what is given as labels."""
    n_axes = labels.ndim
    if (
        logits.dtype.kind in "iu"
        and labels.dtype.kind in "fV"
        and n_axes == logits.ndim + 1
        and any(logits.shape == labels.shape[:k] + labels.shape[k + 1 :] for k in range(n_axes))
    ):
        raise TypeError(
            f"logits are {logits.dtype.name} of shape {logits.shape}, and labels are "
            f"{labels.dtype.name} of shape {labels.shape}: the two look swapped; {order}"
        )


def check_out(out: object, logits: Array, labels: Array | None, name: str = "labels") -> None:
    """An error unless `out` can take the result: logits' shape and dtype, writable, no overlap.

    `out` may be `logits` itself, or an array on exactly the same memory.
    """
    if backends.driver.is_apart(out, logits, labels):  # what follows takes 4 us
        return
    if not isinstance(out, np.ndarray) or is_masked(out):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}{_array_on(out)}")
    if out.shape != logits.shape:
        raise ValueError(f"out has shape {out.shape}; it must have that of logits, {logits.shape}")
    if out.dtype != logits.dtype:
        is_bits = logits.dtype.name == "bfloat16" and out.dtype.str[1:] in ("i2", "u2", "V2")
        advice = "; out.view(ml_dtypes.bfloat16) does" if is_bits else ""
        raise TypeError(
            f"out has dtype {out.dtype}; it must have that of logits, {logits.dtype}{advice}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass an array that can be written to")
    if _overlaps_itself(out):
        raise ValueError(
            "out has elements that share memory with each other; pass an array with memory for each"
        )
    same = _layout(out) == _layout(logits)
    if not same and _overlap(out, logits):
        raise ValueError(
            "out overlaps logits without being the same array; pass out=logits to work in place, "
            "or an array with memory of its own"
        )
    if labels is not None and _overlap(out, labels):
        raise ValueError(f"out overlaps {name}; pass an array with memory of its own")


def _array_on(out: object) -> str:
    """How to come by a NumPy array on the memory of something else."""
    if str(getattr(out, "dtype", "")) == "torch.bfloat16":
        return "; pass out.view(torch.int16).numpy().view(ml_dtypes.bfloat16), on the same memory"
    if type(out).__module__.partition(".")[0] == "torch":
        return "; pass out.numpy(), on the same memory"
    return "; pass one like np.empty_like(logits)"


def _layout(array: Array) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return array.__array_interface__["data"][0], array.shape, array.strides


def _overlaps_itself(array: Array) -> bool:
    """Whether elements may share memory: exact for all slices and transposes of whole arrays."""
    if array.size == 0:
        return False
    extent = array.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True)):
        if n > 1 and stride < extent:
            return True
        extent += stride * (n - 1)
    return False


def _overlap(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # not decided within the work allowed: refuse rather than corrupt


class Destination:
    """Where a result of logits' shape and dtype goes: to `rows` first, then to `result()`.

    `rows` is laid out as `as_rows` or, with `planes` of logits, as `as_planes` would do it.
    """

    __slots__ = ("_array", "_axis", "rows")

    def __init__(self, out: Array | None, logits: Array, axis: int, planes: Array | None) -> None:
        # Axes keep their order in memory, whatever the strides of logits.
        self._array = np.empty(logits.shape, logits.dtype) if out is None else out
        self._axis = axis
        array = np.asarray(self._array)
        if planes is None:
            self.rows = as_rows(array, axis)
        else:
            found = as_planes(array, axis)
            self.rows = np.empty(planes.shape, planes.dtype) if found is None else found

    def result(self) -> Array:
        """The array asked for, filled: a copy only where its rows do not lie as the kernels say."""
        if not np.may_share_memory(self.rows, self._array):
            class_axis = -1 if self.rows.ndim == 2 else 0
            rows = self.rows if self.rows.ndim == 2 else np.moveaxis(self.rows, 1, 0)
            moved = np.moveaxis(np.asarray(self._array), self._axis, class_axis)
            moved[...] = rows.reshape(moved.shape)
        return self._array
