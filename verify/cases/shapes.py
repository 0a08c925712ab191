"""Cases by shape: class counts, long rows, many rows, threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..case import DType, Problem, Random, case, cast, normal, random_labels, uniform


@case()
def one_class(random: Random, dtype: DType) -> Iterator[Problem]:
    """A single class has probability 1: loss 0 and gradient 0, or NaN for a NaN or an infinity."""
    logits = normal(random, 9, 1, dtype, sigma=100.0)
    logits[[2, 5, 6], 0] = np.nan, np.inf, -np.inf
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
    # The last class decides: a tail that is left out cannot hide among so many.
    logits[0, -1] = 14.0
    yield Problem(logits, np.array([299_990]))


@case(level="default")
def long_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Three split rows: one rises, one is ignored, one starts with masked segments."""
    logits = normal(random, 3, 140_000, dtype, sigma=2.0)
    logits[0] = cast(np.linspace(-30.0, 30.0, 140_000), dtype)
    logits[1, 77] = np.nan
    logits[2, :40_000] = -np.inf
    yield Problem(logits, np.array([139_000, -1, 139_999]), ignore_index=-1)
    yield Problem(logits[::2], np.array([3, 40_001]), "in place", in_place=True)


@case(level="default")
def long_rows_soft(random: Random, dtype: DType) -> Iterator[Problem]:
    """Split rows with probabilities."""
    logits = normal(random, 2, 140_000, dtype, sigma=2.0)
    probs = uniform(random, logits.shape) / 70_000
    probs[1, :50_000] = 0.0
    yield Problem(logits, probs.astype(np.float64 if dtype.name == "float64" else np.float32))


@case(level="default")
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


@case(level="default")
def very_many_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """More rows than 16 bits count, and two classes."""
    logits = normal(random, 140_001, 2, dtype, sigma=5.0)
    yield Problem(logits, random_labels(random, logits))


@case(level="default")
def other_class_counts(random: Random, dtype: DType) -> Iterator[Problem]:
    """Vocabularies, powers of two, and counts that nobody thought of, others for each seed."""
    drawn = np.exp(random.uniform(np.log(71), np.log(16_384), 16)).astype(int)
    return _counts(random, dtype, [*map(int, drawn), 8191, 8192, 8193, 32_768, 50_257, 65_536])


@case(level="default", dtypes=("float32", "float64"))
def large_output(random: Random, dtype: DType) -> Iterator[Problem]:
    """A gradient larger than the caches, which may be written past them; rows end inside a line."""
    n_rows = 280 if dtype.name == "float32" else 140
    logits = normal(random, n_rows, 32_003, dtype, sigma=3.0)
    logits[::3, -1] = 15.0
    yield Problem(logits, random_labels(random, logits))


@case()
def prime_sizes(random: Random, dtype: DType) -> Iterator[Problem]:
    """Rows and classes are prime numbers: no block, tile or chunk comes out even."""
    for n_rows, n_classes in ((17, 11), (7, 127), (5, 131), (11, 997), (3, 4099)):
        logits = normal(random, n_rows, n_classes, dtype, sigma=3.0)
        yield Problem(logits, random_labels(random, logits), f"{n_rows} x {n_classes}")


@case()
def thread_counts(random: Random, dtype: DType) -> Iterator[Problem]:
    """More threads than cores, more than rows, and counts that divide nothing."""
    for n_rows, n_classes in ((263, 1009), (1, 200_003)):
        logits = normal(random, n_rows, n_classes, dtype, sigma=3.0)
        logits[0, -1] = 20.0
        labels = random_labels(random, logits)
        note = f"{n_rows} x {n_classes}"
        yield Problem(logits, labels, note, thread_counts=(1, 3, 5, 16))


CASES = (
    one_class,
    class_counts_to_70,
    class_counts_around_blocks,
    class_counts_around_segments,
    other_class_counts,
    prime_sizes,
    shared_rows,
    thread_counts,
    many_rows,
    very_many_rows,
    large_output,
    long_row,
    long_rows,
    long_rows_soft,
)
