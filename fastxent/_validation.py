"""Arrays in; canonical views, or a clear error, out."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from . import backends
from .backends.context import ELEMENTS

Array = np.ndarray[Any, Any]

# Candidate solutions tried before two arrays count as overlapping; the question is NP-complete.
# (NumPy's stubs know only two of the values it takes.)
_OVERLAP_WORK: Final = 100_000

# A dtype's name takes a microsecond to make up.
_NATIVE: Final = frozenset(map(np.dtype, ("float16", "float32", "float64")))


def as_array(value: object, name: str) -> Array:
    """`value` as a NumPy array, without a copy where it offers one of the array protocols."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        advice = (
            "logits.filled(-np.inf) masks classes, labels.filled(-100) with ignore_index=-100 "
            "leaves rows out"
        )
        if name.endswith("weight"):
            advice = f"{name}.filled(0) leaves out what is masked"
        raise TypeError(f"{name} is a masked array, whose mask would be lost; fill it: {advice}")
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a subclass may index and reshape by rules of its own
    if value is None:
        raise TypeError(f"{name} is None; pass an array")
    # __array__ first: a tensor that cannot be exported says why in its own words.
    protocols: tuple[tuple[str, Callable[[Any], Array]], ...] = (
        ("__array__", np.asarray),
        ("__dlpack__", np.from_dlpack),
    )
    for protocol, convert in protocols:
        if hasattr(value, protocol):
            try:
                return convert(value)
            except (TypeError, ValueError, RuntimeError, BufferError) as error:
                if protocol == "__array__" and hasattr(value, "__dlpack__"):
                    continue
                raise TypeError(
                    f"{name} is a {type(value).__name__} that cannot be read as an array on the "
                    f"CPU ({error}); pass a NumPy array"
                ) from error
    try:
        return np.asarray(value)
    except ValueError as error:
        raise TypeError(
            f"{name} must be an array; a {type(value).__name__} cannot be made into one: {error}"
        ) from error


def check_floats(array: Array, name: str) -> None:
    """TypeError where the kernels do not take the array's dtype."""
    if array.dtype in _NATIVE or array.dtype.name in ELEMENTS:
        return
    wanted = "np.float64" if array.dtype.kind == "f" else "np.float32"
    advice = (
        f"convert them with np.asarray({name}, {wanted})"
        if array.dtype.kind in "iufb"
        else "pass real numbers"
    )
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
        raise TypeError(
            f"axis must be an integer, not {axis!r}; it names the class axis of logits"
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


def logits_array(logits: object, axis: object) -> tuple[Array, int]:
    """The logits as an array, and their class axis."""
    array = as_array(logits, "logits")
    check_floats(array, "logits")
    class_axis = normalise_axis(axis, array.ndim)
    if array.shape[class_axis] == 0:
        raise ValueError(
            f"logits of shape {array.shape} has no classes along axis {class_axis}; "
            "there must be at least one"
        )
    return array, class_axis


def check_out(out: object, logits: Array, labels: Array | None, name: str = "labels") -> None:
    """An error unless `out` can take the result: logits' shape and dtype, writable, no overlap.

    `out` may be `logits` itself, or an array on exactly the same memory.
    """
    if backends.driver.is_apart(out, logits, labels):  # what follows takes 4 us
        return
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    if out.shape != logits.shape:
        raise ValueError(f"out has shape {out.shape}; it must have that of logits, {logits.shape}")
    if out.dtype != logits.dtype:
        raise TypeError(f"out has dtype {out.dtype}; it must have that of logits, {logits.dtype}")
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
