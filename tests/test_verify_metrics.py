"""How errors are measured, and memory that knows what was written to it."""

from __future__ import annotations

import numpy as np
import pytest
from fastxent.verify.case import DTYPES, Layout, dtype_named
from fastxent.verify.memory import Placed, guarded_copy
from fastxent.verify.metrics import (
    differences,
    in_units,
    relative_errors,
    scaled_errors,
    spacing,
    ulp_errors,
)


@pytest.mark.parametrize("name", DTYPES)
def test_the_spacing_is_that_of_the_dtype(name: str) -> None:
    dtype = dtype_named(name)
    for value in (1.0, 1.5, 2.0, 0.75, 1000.0, 0.0):
        number = np.array(value).astype(dtype)
        above = number.astype(np.float64) + spacing(np.array(value), dtype)
        bits = np.dtype(f"u{dtype.itemsize}")
        following = (number.reshape(1).view(bits) + bits.type(1)).view(dtype)
        assert float(above) == float(following[0])


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        (1.0, 1.0, 0.0),
        (1.0 + 2.0**-22, 1.0, 2.0),
        (1.0, 1.0 + 2.0**-24, 0.5),
        (-0.0, 0.0, 0.0),
        (2.0**-149, 0.0, 1.0),
        (0.0, 2.0**-147, 4.0),
        (np.nan, np.nan, 0.0),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.inf),
        (np.inf, np.inf, 0.0),
        (np.inf, 1e39, 0.0),
        (-np.inf, np.inf, np.inf),
        (np.inf, 1.0, np.inf),
        (1.0, np.inf, np.inf),
        (np.nan, np.inf, np.inf),
    ],
)
def test_the_error_is_defined_everywhere(got: float, want: float, error: float) -> None:
    errors = ulp_errors(np.array([got], np.float32), np.array([want], np.longdouble))
    assert errors[0] == error


def test_the_error_of_a_difference_is_measured_at_the_larger_term() -> None:
    got, want = np.array([2.0**-24], np.float32), np.array([0.0])
    assert ulp_errors(got, want, scale=np.array([1.0]))[0] == 0.5
    assert ulp_errors(got, want)[0] > 1e30


def test_a_relative_error_beside_zero_is_zero_or_infinite() -> None:
    want = np.array([0.0, 0.0, 2.0, np.inf])
    got = np.array([0.0, 1e-300, 3.0, np.inf])
    assert relative_errors(differences(got, want), want).tolist() == [0.0, np.inf, 0.5, 0.0]


def test_a_scaled_error_is_counted_beside_the_largest_of_the_row() -> None:
    want = np.array([[1e-9, 2.0, -np.inf], [0.0, 0.25, np.nan]])
    got = np.array([[0.0, 2.0, -np.inf], [0.0, 0.5, np.nan]])
    errors = scaled_errors(differences(got, want), want)
    assert errors.tolist() == [[5e-10, 0.0, 0.0], [0.0, 1.0, 0.0]]
    losses, exact = np.array([0.1, 30.0]), np.array([0.0, 20.0])
    assert scaled_errors(differences(losses, exact), exact).tolist() == [0.1, 0.5]


def test_an_infinite_difference_is_within_no_bound() -> None:
    shares = in_units(np.array([np.inf, 1.0, 0.0]), np.array([np.inf, np.inf, np.nan]))
    assert shares.tolist() == [np.inf, 0.0, 0.0]


LAYOUTS = {
    "packed": Layout(),
    "padded": Layout(padding=3, offset=1),
    "strided": Layout(step=3),
    "fortran": Layout(fortran=True),
    "fortran padded": Layout(fortran=True, padding=2),
    "axis 1": Layout(inner=2),
    "before a guard": Layout(guard="after"),
    "after a guard": Layout(guard="before"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("name", DTYPES)
def test_placed_memory_starts_as_nan_and_keeps_its_rows(name: str, layout: Layout) -> None:
    dtype = dtype_named(name)
    placed = Placed((4, 5), dtype, layout)
    assert np.isnan(placed.array.astype(np.float64)).all()
    rows = np.arange(20).reshape(4, 5).astype(dtype)
    placed.put(rows)
    assert placed.is_intact()
    assert (placed.rows_of(placed.array) == rows).all()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_placed_memory_notices_strangers(layout: Layout) -> None:
    for place in ("before", "behind"):
        if layout.guard == ("before" if place == "before" else "after"):
            continue  # it would end the process
        placed = Placed((4, 5), np.dtype(np.float32), layout)
        placed.put(np.zeros((4, 5), np.float32))
        extent = sum(
            (n - 1) * s for n, s in zip(placed.array.shape, placed.array.strides, strict=True)
        )
        shift = -4 if place == "before" else extent + 4
        base = placed.array.__array_interface__["data"][0]
        np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 1).from_address(base + shift))[0] = 1
        assert not placed.is_intact()


def test_other_byte_orders_and_read_only_arrays_hold_the_same_numbers() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    placed = Placed((2, 3), np.dtype(np.float64), Layout(swapped=True, read_only=True))
    placed.put(rows)
    assert not placed.array.dtype.isnative
    assert not placed.array.flags.writeable
    assert (placed.rows_of(placed.array) == rows).all()
    assert placed.rows_of(placed.array).dtype.isnative


@pytest.mark.parametrize("guard", ["before", "after", ""])
def test_a_guarded_copy_is_a_copy(guard: str) -> None:
    labels = np.arange(1000)
    copy = guarded_copy(labels, guard)
    assert (copy == labels).all()
    assert not np.shares_memory(copy, labels)
