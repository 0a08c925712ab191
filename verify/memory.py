"""Arrays laid out in memory as a problem asks, with guards around them."""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import Any, Final

import numpy as np

from .case import PACKED, Array, DType, Layout

_LINE: Final = 64
# Every element made of these bytes is NaN, in all four dtypes.
_NAN_BYTE: Final = 0xFF
_NO_ACCESS: Final = 0


class Placed:
    """An array of NaN in the layout asked for, and NaN around and between its elements.

    `array` is what an implementation gets: (n_rows, n_classes), or (outer, n_classes, inner).
    """

    def __init__(self, shape: tuple[int, int], dtype: DType, layout: Layout = PACKED) -> None:
        n_rows, n_classes = shape
        size = dtype.itemsize
        self._inner = layout.inner
        if layout.inner > 1:
            array_shape: tuple[int, ...] = (n_rows // layout.inner, n_classes, layout.inner)
            strides: tuple[int, ...] = (n_classes * layout.inner * size, layout.inner * size, size)
        elif layout.fortran:
            array_shape, strides = shape, (size, (n_rows + layout.padding) * size)
        else:
            class_stride = layout.step * size
            row_stride = (n_classes - 1) * class_stride + size * (1 + layout.padding)
            array_shape, strides = shape, (row_stride, class_stride)
        extent = size + sum((n - 1) * s for n, s in zip(array_shape, strides, strict=True))
        if layout.swapped:
            dtype = dtype.newbyteorder()
        self._memory = _guarded_memory(extent) if layout.guard else _lines(extent + layout.offset)
        start = self._start(extent, layout)
        self._place = (array_shape, dtype, start, strides)
        self.array = self._view(self._memory)
        self._is_read_only = layout.read_only

    def _start(self, extent: int, layout: Layout) -> int:
        if layout.guard == "before":
            return 0
        if layout.guard == "after":
            return self._memory.size - extent
        address: int = self._memory.__array_interface__["data"][0]
        return -address % _LINE + _LINE + layout.offset

    def _view(self, memory: Array) -> Array:
        shape, dtype, start, strides = self._place
        return np.ndarray(shape, dtype, memory.data, start, strides)

    def put(self, rows: Array) -> None:
        """Fill the array with (n_rows, n_classes) logits."""
        if self._inner > 1:
            outer, n_classes, inner = self.array.shape
            rows = rows.reshape(outer, inner, n_classes).transpose(0, 2, 1)
        self.array[...] = rows
        self.array.flags.writeable = not self._is_read_only

    def rows_of(self, output: Array) -> Array:
        """An output of the array's shape as (n_rows, n_classes), in native byte order."""
        if self._inner > 1:
            output = output.transpose(0, 2, 1).reshape(-1, output.shape[1])
        if not output.dtype.isnative:
            output = output.astype(output.dtype.newbyteorder("="))
        return output

    def is_intact(self) -> bool:
        """Whether nothing but the array itself has been written to."""
        shape, dtype, start, strides = self._place
        surroundings = self._memory.copy()
        places = (*shape, dtype.itemsize)
        own = np.ndarray(places, np.uint8, surroundings.data, start, (*strides, 1))
        own[...] = _NAN_BYTE
        return bool((surroundings == _NAN_BYTE).all())


def _lines(n_bytes: int) -> Array:
    return np.full(n_bytes + 3 * _LINE, _NAN_BYTE, np.uint8)


def _guarded_memory(n_bytes: int) -> Array:
    """Whole pages between two that may not be touched; the last element's end is their end."""
    page = mmap.PAGESIZE
    inside = -(-max(n_bytes, 1) // page) * page
    memory = np.frombuffer(mmap.mmap(-1, inside + 2 * page), np.uint8)
    memory[...] = _NAN_BYTE
    for place in (0, page + inside):
        _protect(memory.ctypes.data + place, page)
    return memory[page : page + inside]


@functools.cache
def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _protect(address: int, n_bytes: int) -> None:
    if _c_library().mprotect(address, n_bytes, _NO_ACCESS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"memory cannot be guarded: mprotect ended with errno {code}")


def guarded_copy(array: Array, guard: str) -> Array:
    """A packed copy that touches a page which may not be touched; a plain copy without a guard."""
    if not guard:
        return array.copy()
    memory = _guarded_memory(array.nbytes)
    start = 0 if guard == "before" else memory.size - array.nbytes
    placed: Array = np.ndarray(array.shape, array.dtype, memory.data, start)
    placed[...] = array
    return placed


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays agree in shape, dtype and every bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def first_difference(a: Array, b: Array) -> tuple[int, ...] | None:
    """Where two arrays of one shape and dtype first differ in a bit."""
    if same_bits(a, b):
        return None
    bits = np.dtype(f"u{a.itemsize}")
    unequal: Any = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)
    return tuple(int(k) for k in np.unravel_index(int(unequal.argmax()), a.shape))
