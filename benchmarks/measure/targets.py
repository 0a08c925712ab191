"""What the package is asked to reach: judge/reach.py judges it, sets.py times what it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from fastxent.benchmarks.measure.case import BACKENDS, combinations

Measure = Literal[
    "of_memory",  # bandwidth over the bytes that must move / that of a plain read or copy
    "of_peer",  # time of the fastest other library / our time
    "of_torch",  # time of eager PyTorch / our time
    "of_one_thread",  # our time with one thread / our time
    "of_float32",  # our time for float32 / our time
    "microseconds",  # our time: at most the bound, where all others are at least theirs
]
THREADS: Final = (1, 2)


@dataclass(frozen=True)
class Requirement:
    """A bound for every combination of its operations, dtypes, shapes, threads and backends."""

    row: str
    operations: tuple[str, ...]
    shapes: tuple[str, ...]
    measure: Measure
    bound: float
    dtypes: tuple[str, ...] = ("float32",)
    threads: tuple[int, ...] = THREADS
    backends: tuple[str, ...] = BACKENDS

    def timed(self) -> Iterator[tuple[str, str, str]]:
        """The (operation, dtype, shape) that it speaks of."""
        return combinations(self.operations, self.dtypes, self.shapes)


@dataclass(frozen=True)
class Behaviour:
    """A bound for one number of `measure/growth.py`."""

    row: str
    name: str
    text: str
    at_most: float
    threads: int


_LOSS: Final = ("loss",)
_GRADIENT: Final = ("loss_and_grad",)
_BOTH: Final = _LOSS + _GRADIENT
_SOFTMAX: Final = ("softmax", "log_softmax")

_LARGE: Final = ("65536x1000", "2048x32000", "512x128256")
_CACHED: Final = ("1024x1024", "4096x1024")
_FEW_CLASSES: Final = ("100000x10", "20000x100")
_SMALL: Final = ("8x10", "32x100")
_HALF: Final = ("bfloat16", "float16")

REQUIREMENTS: Final = (
    Requirement("loss, large", _LOSS, _LARGE, "of_memory", 0.95),
    Requirement("loss, large", _LOSS, _LARGE, "of_peer", 3),
    Requirement("gradient, large", _GRADIENT, _LARGE, "of_memory", 0.8, threads=(1,)),
    Requirement("gradient, large", _GRADIENT, _LARGE, "of_memory", 0.9, threads=(2,)),
    Requirement("gradient, large", _GRADIENT, _LARGE, "of_peer", 5),
    Requirement("in place", ("loss_and_grad_in_place",), _LARGE, "of_memory", 1.3, threads=(2,)),
    Requirement("in cache", _BOTH, _CACHED, "of_peer", 3),
    Requirement("in cache", _LOSS, _CACHED, "of_one_thread", 1.6, threads=(2,)),
    Requirement("in cache", _GRADIENT, _CACHED, "of_one_thread", 1.8, threads=(2,)),
    Requirement("few classes", _BOTH, _FEW_CLASSES, "of_peer", 3),
    Requirement("one long row", _LOSS, ("1x256000",), "of_torch", 3),
    Requirement("one long row", _LOSS, ("1x256000",), "of_one_thread", 1.6, threads=(2,)),
    Requirement("small", _LOSS, _SMALL, "of_torch", 1),
    Requirement("small", _LOSS, _SMALL, "microseconds", 3, backends=("cython",)),
    Requirement("small", _LOSS, _SMALL, "microseconds", 6, backends=("numba",)),
    Requirement("small", _GRADIENT, _SMALL, "of_torch", 3),
    Requirement("16 bits", _BOTH, ("2048x32000",), "of_float32", 1, dtypes=_HALF),
    Requirement("16 bits", _BOTH, ("2048x32000",), "of_torch", 5, dtypes=_HALF),
    Requirement(
        "float64", _BOTH, ("1024x32000",), "of_memory", 0.85, dtypes=("float64",), threads=(2,)
    ),
    Requirement("class axis 1", _GRADIENT, ("8x21x512x512-axis1",), "of_torch", 5),
    Requirement("soft labels", ("soft_loss_and_grad",), ("16384x1000",), "of_memory", 0.85),
    Requirement("soft labels", ("soft_loss_and_grad",), ("16384x1000",), "of_torch", 3),
    Requirement("softmax, large", _SOFTMAX, ("2048x32000",), "of_memory", 0.9),
    Requirement("softmax, in cache", _SOFTMAX, ("1024x1024",), "of_torch", 3),
)

# Twice the time a logit leaves room for leaving the cache; the next power would be 1000 times.
# Losses, labels and the sums of a row are a few numbers of 8 bytes.
BEHAVIOURS: Final = (
    Behaviour("linear", "time_rows", "time a logit, 1000 times the rows", 2, threads=1),
    Behaviour("linear", "time_classes", "time a logit, 1000 times the classes", 2, threads=1),
    Behaviour("linear", "bytes_a_row", "extra bytes a row, many rows", 64, threads=1),
    Behaviour("linear", "bytes_classes", "extra bytes, 1000 times the classes", 2, threads=1),
    Behaviour("busy core", "busy_median", "median beside a busy process", 3, threads=2),
    Behaviour("busy core", "busy_slowest", "95th percentile beside it to idle median", 3, 2),
)


def requirements(smoke: bool) -> tuple[Requirement, ...]:
    """All of them; for a trial of the machinery (`smoke`) with few rows."""
    if not smoke:
        return REQUIREMENTS
    return tuple(
        replace(each, shapes=tuple(dict.fromkeys(map(_few_rows, each.shapes))))
        for each in REQUIREMENTS
    )


def _few_rows(shape: str) -> str:
    """At most 32 along every axis but that of the classes: "65536x1000" becomes "32x1000"."""
    sizes, mark, axis = shape.partition("-axis")
    lengths = sizes.split("x")
    class_axis = int(axis) if mark else len(lengths) - 1
    cut = (n if i == class_axis else str(min(int(n), 32)) for i, n in enumerate(lengths))
    return "x".join(cut) + mark + axis


# Asked of these options, where the logits are larger than the caches: so many times the plain call.
OPTIONS_ASKED: Final = ("class_weight", "label_smoothing", "z_loss")
OPTIONS_AT_MOST: Final = 1.15
