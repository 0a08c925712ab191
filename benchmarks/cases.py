"""What is timed: shapes, dtypes, operations and threads, and the arrays that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import ml_dtypes
import numpy as np

from .case import Case
from .requirements import requirements

Array = np.ndarray[Any, Any]

# The gradient's memory is what sets the first four apart: an array that is used again, a fresh one
# in every call (the operating system has to supply it), or that of the logits.
OPERATIONS: Final = (
    "loss",
    "loss_and_grad",
    "loss_and_grad_fresh",
    "loss_and_grad_in_place",
    "softmax",
    "log_softmax",
    "soft_loss_and_grad",
)

DTYPES: Final = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}

_BOTH: Final = ("loss", "loss_and_grad")
_OTHER_DTYPES: Final = ("float16", "bfloat16", "float64")

# Beside what requirements.py names.
_OTHERS: Final = {
    "float32": {
        "1024x1024": ("loss_and_grad_fresh", "soft_loss_and_grad"),
        "2048x32000": ("loss_and_grad_fresh",),
        "1x256000": ("loss_and_grad",),
        "8x21x512x512-axis1": ("loss",),
    },
    **{dtype: {"32x100": _BOTH, "1024x1024": _BOTH} for dtype in _OTHER_DTYPES},
}

# Every operation, dtype and axis, rows and one row shared by threads; few, for the sake of the
# libraries that compile each.
_SMOKE: Final = {
    "float32": {
        "32x100": OPERATIONS,
        "512x1024": ("loss_and_grad",),
        "1x300000": ("loss",),
        "2x21x8x8-axis1": ("loss_and_grad",),
    },
    **{dtype: {"32x100": ("loss_and_grad",)} for dtype in _OTHER_DTYPES},
}


def all_cases(smoke: bool, reach: bool, threads: Sequence[int]) -> list[Case]:
    """The cases of a run; neighbours share their arrays.

    `reach` leaves only what requirements.py names. `smoke` leaves small shapes.
    """
    timed: set[tuple[str, str, str]] = set()
    if reach or not smoke:
        timed.update(group for each in requirements(smoke) for group in each.timed())
    if not reach:
        timed.update(_flat(_SMOKE if smoke else _OTHERS))
    dtypes = list(DTYPES)
    in_order = sorted(
        timed, key=lambda case: (dtypes.index(case[1]), case[2], OPERATIONS.index(case[0]))
    )
    return [Case(*each, threads=count) for each in in_order for count in sorted(set(threads))]


def _flat(table: dict[str, dict[str, tuple[str, ...]]]) -> Iterator[tuple[str, str, str]]:
    for dtype, shapes in table.items():
        for shape, operations in shapes.items():
            for operation in operations:
                yield operation, dtype, shape


def make_arrays(case: Case) -> tuple[Array, Array]:
    """Seeded logits and labels. Nobody may write to them: the next benchmark has them too."""
    logits = _logits(case.dimensions, case.dtype)
    return logits, _labels(case.dimensions, case.axis, case.dtype if case.soft else None)


# The arrays are large, and the cases come in order.
@lru_cache(maxsize=1)
def _logits(dimensions: tuple[int, ...], dtype: str) -> Array:
    logits = np.random.default_rng(0).standard_normal(dimensions, dtype=np.float32)
    logits *= 3
    logits = logits.astype(DTYPES[dtype], copy=False)
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
        weights = rng.random(dimensions, dtype=np.float32)
        weights /= weights.sum(axis=axis, keepdims=True)
        labels = weights.astype(DTYPES[dtype], copy=False)
    labels.flags.writeable = False
    return labels
