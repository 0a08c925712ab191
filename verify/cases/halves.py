"""Cases with every value that the 16-bit types have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..case import DEFAULT, Array, DType, Problem, Random, case

# From so many classes on rows go through blocks.
_BLOCK_CLASSES: Final = 129


@case(dtypes=("float16",), level=DEFAULT)
def every_float16(random: Random, dtype: DType) -> Iterator[Problem]:
    """Every float16, with NaNs, infinities and subnormal numbers, among few and many classes."""
    yield from _every_value(random, dtype)


@case(dtypes=("bfloat16",), level=DEFAULT)
def every_bfloat16(random: Random, dtype: DType) -> Iterator[Problem]:
    """Every bfloat16, with NaNs, infinities and subnormal numbers, among few and many classes."""
    yield from _every_value(random, dtype)


def _every_value(random: Random, dtype: DType) -> Iterator[Problem]:
    values = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # half of the NaNs are signalling ones
        is_nan = np.isnan(values)
    yield _pairs(values, np.zeros_like(values), "[x, 0]")
    # From the lowest to the largest; -0 and 0 are neighbours.
    numbers = values[~is_nan]
    ascending = numbers[np.argsort(numbers.astype(np.float64), kind="stable")]
    yield _pairs(ascending[:-1], ascending[1:], "[x, the next larger]")
    # A row of neighbours, which are near enough to all matter, but for the largest. The last row is
    # filled up with 0.
    rows = np.zeros((-(-ascending.size // _BLOCK_CLASSES), _BLOCK_CLASSES), dtype)
    rows.reshape(-1)[: ascending.size] = ascending
    labels = random.integers(0, _BLOCK_CLASSES, len(rows))
    yield Problem(rows, labels, "129 neighbours")
    rows = np.zeros((int(is_nan.sum()), _BLOCK_CLASSES), dtype)
    rows[np.arange(len(rows)), np.arange(len(rows)) % _BLOCK_CLASSES] = values[is_nan]
    yield Problem(rows, np.arange(len(rows)) % 2, "a NaN among 129 classes")


def _pairs(first: Array, second: Array, note: str) -> Problem:
    """Rows of two logits, each with both labels."""
    logits = np.repeat(np.stack((first, second), axis=1), 2, axis=0)
    return Problem(logits, np.arange(len(logits)) % 2, note)


CASES: Final = (every_float16, every_bfloat16)
