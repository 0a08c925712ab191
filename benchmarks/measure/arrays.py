"""The arrays that a case is timed on."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from fastxent.benchmarks.measure.case import DTYPES, Array, Case

# Large arrays repeat so many numbers: to draw 65 million took 0.9 s in every process, to repeat
# these takes 0.1 s. What is timed is the same. Every byte has a place of its own in memory, and
# neither caches nor prefetchers look at values; the period is far beyond what a branch predictor
# remembers; and it is prime, so that no row has the same numbers as one before, for any number of
# classes up to it. The largest logit of a row, on whose place some work depends, is elsewhere in
# every row.
_PERIOD: Final = 1_048_583


def make_arrays(case: Case) -> tuple[Array, Array]:
    """Seeded logits and labels. Nobody may write to them: the next benchmark has them too."""
    logits = _logits(case.dimensions, case.dtype)
    return logits, _labels(case.dimensions, case.axis, case.dtype if case.soft else None)


# The arrays are large, and the cases come in order.
@lru_cache(maxsize=1)
def _logits(dimensions: tuple[int, ...], dtype: str) -> Array:
    size = min(_PERIOD, int(np.prod(dimensions)))
    block = 3 * np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    logits = np.resize(block.astype(DTYPES[dtype]), dimensions)
    logits.flags.writeable = False
    return logits


@lru_cache(maxsize=1)
def _labels(dimensions: tuple[int, ...], axis: int, dtype: str | None) -> Array:
    """Probabilities of a dtype, or without one the indices of classes."""
    rng = np.random.default_rng(1)
    if dtype is None:
        without_classes = np.delete(dimensions, axis)
        labels = rng.integers(0, dimensions[axis], size=without_classes)
    else:
        block = rng.random(min(_PERIOD, int(np.prod(dimensions))), dtype=np.float32)
        weights = np.resize(block, dimensions)
        weights /= weights.sum(axis=axis, keepdims=True)
        labels = weights.astype(DTYPES[dtype], copy=False)
    labels.flags.writeable = False
    return labels
