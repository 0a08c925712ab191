"""What a case is: a name, the reason it exists, and a maker of problems."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

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
FUNCTIONS: Final = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)

# What `Problem.options` may hold: keywords of a call.
OPTIONS: Final = (
    "class_weight",
    "sample_weight",
    "label_smoothing",
    "temperature",
    "softcap",
    "z_loss",
)


# Where memory that may not be touched begins: "before" the array, or "after" it.
Guard = Literal["", "before", "after"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array of (n_rows, n_classes) lies in memory.

    padding : elements between the end of a row and the next row (with `fortran`, of a class)
    offset : bytes from a multiple of 64 to the first element
    step : elements from a class to the next
    fortran : the rows of a class are next to each other, not the classes of a row
    swapped : the other byte order
    read_only : the array may not be written to
    inner : with more than 1 an array (n_rows / inner, n_classes, inner), classes along axis 1
    guard : where the array touches a page of memory that ends the process when it is read
    """

    padding: int = 0
    offset: int = 0
    step: int = 1
    fortran: bool = False
    swapped: bool = False
    read_only: bool = False
    inner: int = 1
    guard: Guard = ""


PACKED: Final = Layout()


@dataclass(frozen=True, slots=True)
class Problem:
    """One call: what goes in, and how it lies in memory.

    `logits` is (n_rows, n_classes); `labels` holds integers (n_rows,) or probabilities
    (n_rows, n_classes). With `in_place` the gradient overwrites the logits. `options` holds
    further keywords of the call, of those in `OPTIONS`. With `must_raise` the call is wrong, and
    an error is the only right answer. `thread_counts` replaces those of the run.
    """

    logits: Array
    labels: Array
    note: str = ""
    ignore_index: int | None = None
    in_place: bool = False
    layout: Layout = PACKED
    options: Mapping[str, Any] = field(default_factory=dict)
    must_raise: bool = False
    thread_counts: tuple[int, ...] = ()

    @property
    def has_probs(self) -> bool:
        """Whether the labels are probabilities."""
        return self.labels.ndim == 2

    def rows(self, chosen: slice) -> Problem:
        """The problem of some of the rows, packed."""
        options = dict(self.options)
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"][chosen]
        return replace(
            self,
            logits=self.logits[chosen],
            labels=self.labels[chosen],
            layout=PACKED if self.layout.inner > 1 else self.layout,
            options=options,
        )

    def classes(self, order: Array) -> Problem:
        """The same problem with its classes in another order."""
        options = dict(self.options)
        if "class_weight" in options:
            options["class_weight"] = options["class_weight"][order]
        labels = self.labels
        if self.has_probs:
            labels = labels[:, order]
        else:
            place = np.empty(order.size, labels.dtype)
            place[order] = np.arange(order.size)
            is_class = (labels >= 0) & (labels < order.size)
            if self.ignore_index is not None:
                is_class &= labels != self.ignore_index
            labels = np.where(is_class, place[np.where(is_class, labels, 0)], labels)
        return replace(self, logits=self.logits[:, order], labels=labels, options=options)


Maker = Callable[[Random, DType], Iterator[Problem]]
# What a case does instead of making problems: f(implementation, result, thread_counts) judges into
# the result, and says from time to time how far it is.
Sweep = Callable[[Any, Any, Sequence[int]], Iterator[str]]
# From which runs on a case is run.
Level = Literal["quick", "default", "full"]
QUICK: Final = "quick"
DEFAULT: Final = "default"
FULL: Final = "full"
LEVELS: Final[tuple[Level, ...]] = (QUICK, DEFAULT, FULL)


@dataclass(frozen=True, slots=True)
class Case:
    """A named maker of problems; the same seed gives the same problems, whatever else is run.

    `standard` names the dtypes in which an ordinary implementation can be judged by it, too: not
    those in which the plain formula has no digits at all to give. `quick_dtypes` are those of quick
    runs. `sweep` replaces the problems.
    """

    name: str
    reason: str
    make: Maker
    dtypes: tuple[str, ...] = DTYPES
    operation: str = CROSS_ENTROPY
    level: Level = QUICK
    standard: tuple[str, ...] = DTYPES
    sweep: Sweep | None = None
    quick_dtypes: tuple[str, ...] = DTYPES

    @property
    def quick(self) -> bool:
        """Whether quick runs include it."""
        return self.level == QUICK

    def problems(self, dtype: DType, seed: int) -> Iterator[Problem]:
        """The case's problems in this dtype."""
        keys = [zlib.crc32(text.encode()) for text in (self.name, dtype.name)]
        return self.make(np.random.default_rng([seed, *keys]), dtype)


Register = Callable[[Maker], Case]


def case(
    *,
    dtypes: tuple[str, ...] = DTYPES,
    operation: str = CROSS_ENTROPY,
    level: Level = QUICK,
    standard: tuple[str, ...] = DTYPES,
) -> Register:
    """Make a case of a function: its name is the case's, its docstring the reason."""

    def register(make: Maker) -> Case:
        name = getattr(make, "__name__", "")
        return Case(name, reason_of(make), make, dtypes, operation, level, standard)

    return register


def reason_of(made: Any) -> str:
    """The docstring of a function or class in a line.

    `python -OO` leaves docstrings out: then it comes from the source, and is empty without one.
    """
    text = made.__doc__
    if text is None and sys.flags.optimize > 1:
        with contextlib.suppress(OSError, SyntaxError):
            found = ast.parse(textwrap.dedent(inspect.getsource(made))).body[0]
            if isinstance(found, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(found)
    return " ".join((text or "").split())


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
