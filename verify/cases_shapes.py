"""Cases by shape and layout: class counts, long rows, many rows, strides, alignment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .case import DType, Problem, Random, case, cast, normal, random_labels, uniform


@case()
def one_class(random: Random, dtype: DType) -> Iterator[Problem]:
    """A single class has probability 1: loss 0 and gradient 0."""
    logits = normal(random, 9, 1, dtype, sigma=100.0)
    yield Problem(logits, np.zeros(9, np.int64))


def _counts(random: Random, dtype: DType, counts: Iterable[int]) -> Iterator[Problem]:
    for n_classes in counts:
        logits = normal(random, 3, n_classes, dtype, sigma=4.0)
        labels = np.array([0, n_classes - 1, n_classes // 2])
        # In the second row the last class decides: one that is left out cannot hide.
        logits[1, -1] = cast(np.array(10.0), dtype)
        yield Problem(logits, labels, f"{n_classes} classes")


@case()
def class_counts_to_70(random: Random, dtype: DType) -> Iterator[Problem]:
    """Every class count from 1 to 70: all remainders of all vector widths."""
    return _counts(random, dtype, range(1, 71))


@case()
def class_counts_around_blocks(random: Random, dtype: DType) -> Iterator[Problem]:
    """One class fewer, as many, and one more than vectors, blocks and several blocks hold."""
    middles = (96, 128, 256, 512, 1024, 2048, 4096)
    return _counts(random, dtype, (n + k for n in middles for k in (-1, 0, 1)))


@case()
def class_counts_around_segments(random: Random, dtype: DType) -> Iterator[Problem]:
    """The same around the 16384 classes after which sums start afresh."""
    return _counts(random, dtype, (16383, 16384, 16385, 32769))


@case()
def long_row(random: Random, dtype: DType) -> Iterator[Problem]:
    """One row that is long enough to be split over threads."""
    logits = normal(random, 1, 300_001, dtype, sigma=2.0)
    yield Problem(logits, np.array([299_990]))


@case(quick=False)
def long_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Three split rows: one rises, one is ignored, one starts with masked segments."""
    logits = normal(random, 3, 140_000, dtype, sigma=2.0)
    logits[0] = cast(np.linspace(-30.0, 30.0, 140_000), dtype)
    logits[1, 77] = np.nan
    logits[2, :40_000] = -np.inf
    yield Problem(logits, np.array([139_000, -1, 139_999]), ignore_index=-1)
    yield Problem(logits[::2], np.array([3, 40_001]), "in place", in_place=True)


@case(quick=False)
def long_rows_soft(random: Random, dtype: DType) -> Iterator[Problem]:
    """Split rows with probabilities."""
    logits = normal(random, 2, 140_000, dtype, sigma=2.0)
    probs = uniform(random, logits.shape) / 70_000
    probs[1, :50_000] = 0.0
    yield Problem(logits, probs.astype(np.float64 if dtype.name == "float64" else np.float32))


@case(quick=False)
def many_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Enough rows to be shared out between threads."""
    for n_rows, n_classes in ((3001, 100), (40_001, 7)):
        logits = normal(random, n_rows, n_classes, dtype, sigma=3.0)
        yield Problem(logits, random_labels(random, logits), f"{n_rows} rows")


@case()
def shared_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """The smallest batch that two threads share row by row."""
    logits = normal(random, 265, 1000, dtype, sigma=3.0)
    yield Problem(logits, random_labels(random, logits))


def _in_both_targets(random: Random, dtype: DType, n_classes: int) -> Iterator[Problem]:
    logits = normal(random, 6, n_classes, dtype, sigma=3.0)
    yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")
    probs = uniform(random, logits.shape) / n_classes
    yield Problem(logits, cast(probs, dtype), f"{n_classes} classes, probabilities")


@case()
def in_place(random: Random, dtype: DType) -> Iterator[Problem]:
    """The gradient overwrites the logits."""
    for n_classes in (5, 1000, 2049, 17000):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, in_place=True)


@case()
def padded_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Rows lie further apart than they are long, with NaN between them."""
    for n_classes, padding in ((5, 3), (31, 1), (1000, 24), (1025, 7)):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, padding=padding)


@case()
def misaligned(random: Random, dtype: DType) -> Iterator[Problem]:
    """The first logit lies one element, or a single byte, after a cache line's start."""
    for offset in (dtype.itemsize, 1):
        for problem in _in_both_targets(random, dtype, 1000):
            note = f"{problem.note}, offset {offset} bytes"
            yield replace(problem, offset=offset, note=note)


CASES = (
    one_class,
    class_counts_to_70,
    class_counts_around_blocks,
    class_counts_around_segments,
    shared_rows,
    many_rows,
    long_row,
    long_rows,
    long_rows_soft,
    in_place,
    padded_rows,
    misaligned,
)
