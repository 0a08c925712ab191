"""Arrays laid out in memory as a problem asks, with guards around them."""

from __future__ import annotations

from typing import Final

import numpy as np

from .case import Array, DType

_LINE: Final = 64
# Every element made of these bytes is NaN, in all four dtypes.
_NAN_BYTE: Final = 0xFF


class Guarded:
    """A (n_rows, n_classes) array of NaN, and NaN around and between its rows."""

    def __init__(self, shape: tuple[int, int], dtype: DType, padding: int, offset: int) -> None:
        n_rows, n_classes = shape
        stride = (n_classes + padding) * dtype.itemsize
        memory = np.full(n_rows * stride + offset + 3 * _LINE, _NAN_BYTE, np.uint8)
        start = -memory.__array_interface__["data"][0] % _LINE + _LINE + offset
        self._memory = memory
        self._place = (shape, dtype, start, (stride, dtype.itemsize))
        self.array = self._view(memory)

    def _view(self, memory: Array) -> Array:
        shape, dtype, start, strides = self._place
        return np.ndarray(shape, dtype, memory.data, start, strides)

    def is_intact(self) -> bool:
        """Whether nothing but the array itself has been written to."""
        shape, dtype, start, strides = self._place
        surroundings = self._memory.copy()
        bytes_of_rows = np.ndarray(
            (shape[0], shape[1] * dtype.itemsize),
            np.uint8,
            surroundings.data,
            start,
            (strides[0], 1),
        )
        bytes_of_rows[...] = _NAN_BYTE
        return bool((surroundings == _NAN_BYTE).all())


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays agree in shape, dtype and every bit."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def first_difference(a: Array, b: Array) -> tuple[int, ...] | None:
    """Where two arrays of one shape and dtype first differ in a bit."""
    if same_bits(a, b):
        return None
    bits = np.dtype(f"u{a.itemsize}")
    unequal = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)
    return tuple(int(k) for k in np.unravel_index(int(unequal.argmax()), a.shape))
