"""What is timed: shapes, dtypes, operations and threads, and the arrays that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import ml_dtypes
import numpy as np

import fastxent

Array = np.ndarray[Any, Any]

# The gradient's memory is what sets these apart: an array that is used again, a fresh one in
# every call (the operating system has to supply it), or that of the logits.
OPERATIONS: Final = (
    "loss",
    "loss_and_grad",
    "loss_and_grad_fresh",
    "loss_and_grad_in_place",
)

_DTYPES: Final = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

_OTHER_DTYPES: Final = ("float16", "bfloat16", "float64")

# From a few microseconds to far outside every cache; many rows of few classes, and one long row.
_SHAPES: Final = {
    "float32": (
        "8x10",
        "32x100",
        "1024x1024",
        "4096x1024",
        "65536x1000",
        "2048x32000",
        "1x256000",
        "100000x10",
    ),
    **dict.fromkeys(_OTHER_DTYPES, ("32x100", "4096x1024", "16384x1000")),
}

_SMOKE_SHAPES: Final = {
    "float32": ("8x10", "32x100", "1x70000", "2000x10", "512x1024"),
    **dict.fromkeys(_OTHER_DTYPES, ("32x100",)),
}


def all_cases(smoke: bool) -> Iterator[tuple[str, str, int, str]]:
    """(shape, dtype, threads, operation); neighbours share their arrays."""
    for dtype, shapes in (_SMOKE_SHAPES if smoke else _SHAPES).items():
        for shape in shapes:
            for threads in sorted({1, fastxent.get_num_threads()}):
                for operation in OPERATIONS:
                    yield shape, dtype, threads, operation


@lru_cache(maxsize=1)  # the arrays are large, and the cases come in order
def make_arrays(shape: str, dtype: str) -> tuple[Array, Array]:
    """Seeded logits and labels. Nobody may write to them: the next benchmark has them too."""
    n_rows, n_classes = map(int, shape.split("x"))
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n_rows, n_classes), dtype=np.float32)
    logits *= 3
    logits = logits.astype(_DTYPES[dtype], copy=False)
    labels = rng.integers(0, n_classes, size=n_rows)
    logits.flags.writeable = False
    labels.flags.writeable = False
    return logits, labels
