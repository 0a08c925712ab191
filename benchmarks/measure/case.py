"""One thing that is timed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

BACKENDS: Final = ("cython", "numba")
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
# What other libraries have no one call for. In the last, as many Python threads as there are
# threads call at once, each with one thread of its own: calls that waited for each other would
# take as long as one thread takes.
OWN_OPERATIONS: Final = ("grad_hess", "hvp", "row_stats", "loss_in_python_threads")
ALL_OPERATIONS: Final = OPERATIONS + OWN_OPERATIONS

DTYPES: Final = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}

# Arrays like the logits that a call must read or write; others: the logits and an output.
_ARRAYS_MOVED: Final = {
    "loss": 1,
    "row_stats": 1,
    "loss_in_python_threads": 1,
    "soft_loss_and_grad": 3,
    "grad_hess": 3,
    "hvp": 3,
}


def combinations(
    operations: Iterable[str], dtypes: Iterable[str], shapes: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    """Every (operation, dtype, shape); those that share arrays are neighbours."""
    for dtype, shape, operation in product(dtypes, shapes, operations):
        yield operation, dtype, shape


@dataclass(frozen=True)
class Case:
    """An operation on a shape and dtype with so many threads: one group of benchmarks."""

    operation: str
    dtype: str
    shape: str  # "2048x32000"; "8x21x512x512-axis1" where the classes are not along the last axis
    threads: int

    @property
    def group(self) -> str:
        return f"{self.operation} {self.dtype} {self.shape} {self._threads}"

    @property
    def test_id(self) -> str:
        return f"{self.shape}-{self.dtype}-{self._threads}-{self.operation}"

    @property
    def _threads(self) -> str:
        return "1thread" if self.threads == 1 else f"{self.threads}threads"

    @property
    def dimensions(self) -> tuple[int, ...]:
        return tuple(map(int, self.shape.partition("-axis")[0].split("x")))

    @property
    def axis(self) -> int:
        return int(self.shape.partition("-axis")[2] or -1)

    @property
    def soft(self) -> bool:
        """Whether labels are probabilities."""
        return self.operation.startswith("soft_")

    @property
    def arrays_moved(self) -> int:
        """How often a call must read or write as many bytes as the logits have."""
        return _ARRAYS_MOVED.get(self.operation, 2)

    @property
    def n_logits(self) -> int:
        return math.prod(self.dimensions)

    def memory(self, with_peers: bool) -> int:
        """About how many bytes it takes: logits, what else is moved, and a copy's target.

        Other libraries have arrays of their own besides, those of 16 bits widened to 32.
        """
        itemsize = int(DTYPES[self.dtype].itemsize)
        own = (1 + self.arrays_moved) * itemsize
        return self.n_logits * (own + (4 * max(itemsize, 4) if with_peers else 0))
