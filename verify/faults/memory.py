"""Faults with memory: slots unwritten, strays, strides, in place, guards, forms.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..case import Array
from ..cases import layouts
from .correct import CrossEntropy
from .correct_rows import Call
from .fault import fault

_fault_of_layout = fault(cases=layouts.CASES)

# ---- slots ---------------------------------------------------------------------------------------


@fault()
class first_slot_unwritten(CrossEntropy):
    """The loop over the output starts at 1."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        before = out[0, 0].copy()
        super().store(call, out, rows, gradient)
        out[0, 0] = before


@fault()
class last_slot_unwritten(CrossEntropy):
    """The last element of the last row is not written."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        before = out[-1, -1].copy()
        super().store(call, out, rows, gradient)
        out[-1, -1] = before


@fault()
class last_vector_unwritten(CrossEntropy):
    """Only whole vectors of the gradient are written."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        n_whole = gradient.shape[1] // self.vector * self.vector
        super().store(call, out[:, :n_whole], rows, gradient[:, :n_whole])


@_fault_of_layout
class last_pixels_unwritten(CrossEntropy):
    """Classes along axis 1: only whole vectors of pixels are written."""

    def put_back(self, rows: Array, out: Array) -> None:
        before = out.copy()
        super().put_back(rows, out)
        n_whole = out.shape[1] // self.vector * self.vector
        out[:, n_whole:] = before[:, n_whole:]


@fault()
class gradient_added_to_out(CrossEntropy):
    """The gradient is added to what `out` holds, as to an accumulated .grad."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        super().store(call, out, rows, gradient + out[rows].astype(gradient.dtype))


@fault()
class class_at_the_block_boundary_twice(CrossEntropy):
    """Blocks of the gradient overlap by one class, and what is there is added twice."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        gradient = gradient.copy()
        gradient[:, self.block :: self.block] *= 2
        super().store(call, out, rows, gradient)


@fault()
class gradient_transposed(CrossEntropy):
    """The gradient is laid down class by class, and read row by row."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        super().store(call, out, rows, gradient.T.reshape(gradient.shape))


# ---- in place, and what may not be written to ----------------------------------------------------


@_fault_of_layout
class label_read_after_the_gradient(CrossEntropy):
    """The label's logit is read last: in place, the gradient is there by then."""

    def chunk(self, call: Call, rows: slice, losses: Array, out: Array | None) -> None:
        super().chunk(call, rows, losses, out)
        super().chunk(call, rows, losses, None)


@_fault_of_layout
class last_vector_read_twice(CrossEntropy):
    """The last vector overlaps the one before: in place, it reads gradients for logits."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        n = gradient.shape[1]
        is_in_place = np.shares_memory(out, call.logits)
        super().store(call, out, rows, gradient)
        if is_in_place and n % self.vector and n > self.vector:
            again = slice(n - self.vector, n // self.vector * self.vector)
            out[rows, again] = np.exp(gradient[:, again])


@fault()
class logits_overwritten(CrossEntropy):
    """The maximum is subtracted from the logits where they are."""

    def read(self, call: Call, rows: slice) -> Array:
        x = super().read(call, rows)
        if call.logits.flags.writeable:
            call.logits[rows] -= call.logits[rows].max(axis=1, keepdims=True)
        return x


@fault()
class labels_overwritten(CrossEntropy):
    """Ignored labels are set to 0 in the caller's array, so that they can be looked up."""

    def label(self, call: Call, rows: slice) -> Array:
        found = super().label(call, rows)
        if call.labels.flags.writeable:
            call.labels[rows] = found
        return found


@fault()
class writes_past_the_end(CrossEntropy):
    """One element after the output is written to."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        super().store(call, out, rows, gradient)
        if out.flags.c_contiguous:
            as_strided(out.reshape(-1), (out.size + 1,))[-1] = 0


@_fault_of_layout
class writes_between_rows(CrossEntropy):
    """Whole vectors are stored where rows are padded, over what lies behind their end."""

    def store(self, call: Call, out: Array, rows: slice, gradient: Array) -> None:
        n_rows, n_classes = out.shape
        super().store(call, out, rows, gradient)
        if out.strides[1] == out.itemsize and out.strides[0] > n_classes * out.itemsize:
            as_strided(out, (n_rows - 1, n_classes + 1))[:, -1] = 0


# ---- reading what is not there -------------------------------------------------------------------


@fault(cases=[layouts.guarded_pages])
class reads_past_the_end(CrossEntropy):
    """A whole vector is loaded where less is left: it ends behind the array."""

    def read(self, call: Call, rows: slice) -> Array:
        if call.logits.flags.c_contiguous:
            as_strided(call.logits.reshape(-1), (call.logits.size + 1,)).astype(np.float64)
        return super().read(call, rows)


@fault(cases=[layouts.guarded_pages])
class reads_before_the_start(CrossEntropy):
    """The first load is aligned downwards: it starts before the array."""

    def read(self, call: Call, rows: slice) -> Array:
        flat = call.logits.reshape(-1)
        if call.logits.flags.c_contiguous and flat.size > 1:
            # From the second element backwards.
            as_strided(flat[1:], (3,), (-flat.itemsize,)).astype(np.float64)
        return super().read(call, rows)


@fault(cases=[layouts.guarded_pages])
class reads_past_the_labels(CrossEntropy):
    """Labels are gathered a vector at a time."""

    def label(self, call: Call, rows: slice) -> Array:
        if call.labels.flags.c_contiguous:
            as_strided(call.labels, (call.labels.size + 1,)).copy()
        return super().label(call, rows)


@_fault_of_layout
class row_stride_ignored(CrossEntropy):
    """Rows are taken to lie one behind the other."""

    def read(self, call: Call, rows: slice) -> Array:
        n_rows, n_classes = call.logits.shape
        size = call.logits.itemsize
        if call.logits.strides[1] != size:
            return super().read(call, rows)
        packed = as_strided(call.logits, (n_rows, n_classes), (n_classes * size, size))
        return packed[rows].astype(call.real)


@_fault_of_layout
class class_stride_ignored(CrossEntropy):
    """The classes of a row are taken to lie one behind the other."""

    def read(self, call: Call, rows: slice) -> Array:
        strides = (call.logits.strides[0], call.logits.itemsize)
        return as_strided(call.logits, strides=strides)[rows].astype(call.real)


@_fault_of_layout
class start_rounded_down(CrossEntropy):
    """The array is taken to start at a whole element: one that does not is read from before."""

    def read(self, call: Call, rows: slice) -> Array:
        size = call.logits.itemsize
        address = call.logits.__array_interface__["data"][0]
        if address % size == 0:
            return super().read(call, rows)
        count = call.logits.size * size
        flat = np.ascontiguousarray(call.logits).view(np.uint8).reshape(-1)
        moved = np.concatenate([np.full(address % size, 0xFF, np.uint8), flat])[:count]
        return np.asarray(moved.view(call.logits.dtype).reshape(call.logits.shape)[rows]).astype(
            call.real
        )


@_fault_of_layout
class byte_order_ignored(CrossEntropy):
    """Logits of the other byte order are taken for numbers of this one."""

    def read(self, call: Call, rows: slice) -> Array:
        native = call.logits.view(call.logits.dtype.newbyteorder("="))
        return native[rows].astype(np.float64).astype(call.real)


@_fault_of_layout
class axis_taken_for_the_last(CrossEntropy):
    """(n_images, n_classes, n_pixels) is reshaped to rows without being transposed."""

    def as_rows(self, array: Array, axis: int) -> Array:
        return array.reshape(-1, array.shape[axis])


# ---- forms ---------------------------------------------------------------------------------------


@fault()
class out_ignored(CrossEntropy):
    """`out` is accepted, and a new array is returned."""

    def __call__(
        self,
        logits: Array,
        labels: Array,
        *,
        out: Array | None = None,
        axis: int = -1,
        **options: Any,
    ) -> tuple[Array, Array]:
        return super().__call__(logits, labels, axis=axis, **options)


@fault(in_standard=False)
class losses_in_float64(CrossEntropy):
    """Losses of float32 logits come in the type that they were added up in."""

    def shaped(self, losses: Array, logits: Array, axis: int) -> Array:
        return super().shaped(losses, logits, axis).astype(np.float64)


@fault()
class losses_as_a_column(CrossEntropy):
    """Losses come as (n_rows, 1), as from a maximum with keepdims."""

    def shaped(self, losses: Array, logits: Array, axis: int) -> Array:
        return super().shaped(losses, logits, axis)[..., None]


@fault()
class sum_of_the_losses(CrossEntropy):
    """One number is returned where a loss for each row was asked for."""

    def shaped(self, losses: Array, logits: Array, axis: int) -> Array:
        return losses.sum(keepdims=True)
