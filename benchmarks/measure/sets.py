"""The named sets: what is timed in each, and who is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from fastxent.benchmarks.measure.case import OPERATIONS, combinations
from fastxent.benchmarks.measure.targets import requirements


@dataclass(frozen=True)
class Timed:
    """Every combination of operations, dtypes and shapes.

    threads: with each number of threads that is asked for, or the smallest, or the largest alone.
    """

    operations: tuple[str, ...]
    shapes: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32",)
    threads: Literal["each", "one", "all"] = "each"

    def combinations(self) -> Iterator[tuple[str, str, str]]:
        return combinations(self.operations, self.dtypes, self.shapes)


@dataclass(frozen=True)
class Set:
    """One set; a benchmark takes its seconds and rounds from here, whichever is more."""

    text: str
    throughput: tuple[Timed, ...] = ()
    with_options: tuple[Timed, ...] = ()
    options: tuple[str, ...] | None = None  # names in measure/options.py; None is all
    cold_start: bool = False
    peers: tuple[str, ...] | None = None  # None is all
    roofs: bool = True
    # One process for all numbers of threads, where to start and to compile takes most of the time.
    one_process: bool = False
    seconds: float = 0.1
    rounds: int = 5
    peer_seconds: float = 0.1


_LOSS: Final = ("loss",)
_GRADIENT: Final = ("loss_and_grad",)
_BOTH: Final = _LOSS + _GRADIENT
_OTHER_DTYPES: Final = ("float16", "bfloat16", "float64")

_REACH: Final = tuple(
    Timed(each.operations, each.shapes, each.dtypes) for each in requirements(smoke=False)
)
_REACH_SMOKE: Final = tuple(
    Timed(each.operations, each.shapes, each.dtypes) for each in requirements(smoke=True)
)

SETS: Final = {
    # Every operation that others have, both axes, rows and one row shared by threads. The peers are
    # those that start fast. No float64, for which Numba would compile again: 5 to 9 s.
    "smoke": Set(
        "small sizes of each operation, under 30 s",
        (
            Timed(OPERATIONS, ("32x100",)),
            Timed(_GRADIENT, ("512x1024", "2x21x8x8-axis1")),
            Timed(_LOSS, ("1x300000",)),
            Timed(_GRADIENT, ("32x100",), ("float16", "bfloat16")),
        ),
        with_options=(Timed(_LOSS, ("64x1000",), threads="one"),),
        options=("class_weight", "z_loss"),
        peers=("scipy", "sklearn", "torch"),
        one_process=True,
        seconds=0.02,
        rounds=3,
        peer_seconds=0.02,
    ),
    # A grid of batches and classes, and one case of each kind beside it.
    "standard": Set(
        "a grid of batches and classes, with other libraries, under 5 min",
        (
            Timed(_BOTH, ("32x10", "32x1000", "32x32000", "1024x10", "1024x1000", "1024x32000")),
            Timed(_BOTH, ("16384x1000",)),
            Timed(("softmax",), ("1024x1000",)),
            Timed(_GRADIENT, ("8x21x128x128-axis1",)),
            Timed(_GRADIENT, ("1024x1000",), ("bfloat16",)),
            Timed(_LOSS, ("1x256000",)),
        ),
        peer_seconds=0.05,
    ),
    "full": Set(
        "everything that is asked of the package, and more, a quarter of an hour",
        (
            *_REACH,
            Timed(("loss_and_grad_fresh", "soft_loss_and_grad"), ("1024x1024",)),
            Timed(("loss_and_grad_fresh",), ("2048x32000",)),
            Timed(_GRADIENT, ("1x256000",)),
            Timed(_LOSS, ("8x21x512x512-axis1",)),
            Timed(_BOTH, ("32x100", "1024x1024"), _OTHER_DTYPES),
        ),
        seconds=0.4,
        rounds=7,
    ),
    "readme": Set(
        "what the tables of speed show: README and docs/benchmarks.md",
        (
            Timed(_BOTH, ("8x10", "1024x1024", "2048x32000"), threads="all"),
            Timed(_GRADIENT, ("100000x10", "65536x1000", "512x128256"), threads="all"),
            Timed(_GRADIENT, ("2048x32000",), ("bfloat16",), threads="all"),
            Timed(_GRADIENT, ("1024x32000",), ("float64",), threads="all"),
            Timed(_GRADIENT, ("8x21x512x512-axis1",), threads="all"),
            Timed(_LOSS, ("1x256000",), threads="all"),
            Timed(("soft_loss_and_grad",), ("16384x1000",), threads="all"),
            Timed(("softmax",), ("2048x32000",), threads="all"),
        ),
        seconds=0.4,
        rounds=7,
    ),
    "options": Set(
        "what options cost, each beside the plain call",
        with_options=(
            Timed(_BOTH, ("65536x1000", "2048x32000", "512x128256", "1024x1024", "100000x10")),
        ),
        peers=(),
        roofs=False,
        seconds=0.3,
        rounds=9,
    ),
    "cold-start": Set(
        "imports, the first call in a fresh process, calls of next to nothing",
        (Timed(_BOTH, ("1x2", "8x10"), threads="one"),),
        cold_start=True,
        peers=("scipy", "torch"),
        one_process=True,
        rounds=7,
    ),
    # Short, since every benchmark is timed in many processes: the backends alone. Every kind of
    # kernel, in the caches and beyond them; what only threads can slow down with all of them.
    "compare": Set(
        "what two versions are compared by: backends only",
        (
            Timed(_BOTH, ("8x10",), threads="one"),
            Timed(_LOSS, ("8x10",), ("float64",), threads="one"),
            Timed(_BOTH, ("1024x1000", "16384x1000")),
            Timed(("softmax", "log_softmax", "soft_loss_and_grad"), ("1024x1000",), threads="one"),
            Timed(_BOTH, ("20000x10",), threads="one"),
            Timed(_GRADIENT, ("8x21x64x64-axis1",), threads="one"),
            Timed(_LOSS, ("1x256000",)),
            Timed(_GRADIENT, ("1024x1000",), ("bfloat16", "float16", "float64"), threads="one"),
            Timed(("grad_hess", "hvp", "row_stats"), ("512x1000",), threads="one"),
            Timed(("loss_in_python_threads",), ("2048x1000",), threads="all"),
        ),
        with_options=(Timed(_GRADIENT, ("1024x1000",), threads="one"),),
        options=("class_weight", "label_smoothing", "softcap"),
        peers=(),
        roofs=False,
        one_process=True,
    ),
    "reach": Set(
        "what `fastxent bench reach` judges",
        _REACH,
        seconds=0.4,
        rounds=7,
    ),
    "reach-smoke": Set(
        "the same with few rows: a trial, whose times say nothing",
        _REACH_SMOKE,
        seconds=0.02,
        rounds=3,
        peer_seconds=0.02,
    ),
}
DEFAULT: Final = "standard"
