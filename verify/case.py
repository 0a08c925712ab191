"""What a case is: a name, the reason it exists, and a maker of problems."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]
DType = np.dtype[Any]
Random = np.random.Generator

# In the order of the table.
DTYPES: Final = ("float32", "float64", "float16", "bfloat16")
HALVES: Final = ("float16", "bfloat16")

CROSS_ENTROPY: Final = "cross_entropy"
SOFTMAX: Final = "softmax"
LOG_SOFTMAX: Final = "log_softmax"
LOGSUMEXP: Final = "logsumexp"

# What `Problem.options` may hold.
OPTIONS: Final = (
    "class_weight",
    "sample_weight",
    "label_smoothing",
    "temperature",
    "softcap",
    "z_loss",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One call: what goes in, and how it lies in memory.

    `logits` is (n_rows, n_classes); `labels` holds integers (n_rows,) or probabilities
    (n_rows, n_classes). Rows are laid `padding` elements apart, the first of them `offset` bytes
    after a multiple of 64; with `in_place` the gradient overwrites the logits. `options` holds
    further keywords of the call, of those in `OPTIONS`.
    """

    logits: Array
    labels: Array
    note: str = ""
    ignore_index: int | None = None
    in_place: bool = False
    padding: int = 0
    offset: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_probs(self) -> bool:
        """Whether the labels are probabilities."""
        return self.labels.ndim == 2

    def row(self, i: int) -> Problem:
        """The problem of one row alone."""
        options = dict(self.options)
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"][i : i + 1]
        return replace(
            self,
            logits=self.logits[i : i + 1],
            labels=self.labels[i : i + 1],
            options=options,
        )


Maker = Callable[[Random, DType], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Case:
    """A named maker of problems; the same seed gives the same problems, whatever else is run."""

    name: str
    reason: str
    make: Maker
    dtypes: tuple[str, ...] = DTYPES
    operation: str = CROSS_ENTROPY
    quick: bool = True

    def problems(self, dtype: DType, seed: int) -> Iterator[Problem]:
        """The case's problems in this dtype."""
        keys = [zlib.crc32(text.encode()) for text in (self.name, dtype.name)]
        return self.make(np.random.default_rng([seed, *keys]), dtype)


Register = Callable[[Maker], Case]


def case(
    *, dtypes: tuple[str, ...] = DTYPES, operation: str = CROSS_ENTROPY, quick: bool = True
) -> Register:
    """Make a case of a function: its name is the case's, its docstring the reason."""

    def register(make: Maker) -> Case:
        name = getattr(make, "__name__", "")
        reason = " ".join((make.__doc__ or "").split())
        return Case(name, reason, make, dtypes, operation, quick)

    return register


def dtype_named(name: str) -> DType:
    """The NumPy dtype of this name; ModuleNotFoundError for bfloat16 without ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        dtype: DType = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return np.dtype(name)


def cast(values: Array, dtype: DType) -> Array:
    """`values` in the dtype, rounded; by way of float32 for bfloat16."""
    values = np.asarray(values)
    if dtype.name == "bfloat16":
        values = values.astype(np.float32)
    rounded: Array = values.astype(dtype)
    return rounded


def random_labels(random: Random, logits: Array) -> Array:
    """A class for every row, each as likely as any other."""
    labels: Array = random.integers(0, logits.shape[1], logits.shape[0])
    return labels


def normal(random: Random, n_rows: int, n_classes: int, dtype: DType, sigma: float = 1.0) -> Array:
    """Gaussian logits."""
    return cast(sigma * random.standard_normal((n_rows, n_classes)), dtype)


def uniform(random: Random, shape: tuple[int, ...]) -> Array:
    """Numbers from 0 to 1."""
    return random.uniform(0.0, 1.0, shape)
