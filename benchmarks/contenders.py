"""Who is timed: fastxent's backends, the limits of this machine's memory, and other libraries.

To add one, write a factory and enter it in CONTENDERS; it then takes part in every group that it
can do. A factory gets (case, logits, labels), does all that is not to be timed, and returns what
is timed: a function without arguments.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal

import numpy as np
import pytest

import fastxent

from . import peers
from .cases import DTYPES, OPERATIONS, Array, Case

Call = Callable[[], Any]
Factory = Callable[[Case, Array, Array], Call]

# Less than this is read in less time than another thread takes to wake up.
_BYTES_PER_THREAD: Final = 1 << 21


@dataclass(frozen=True)
class Contender:
    """One name in every group that it can do.

    A call of a "backend" or a "peer" returns the mean loss, (mean loss, gradient), or the softmax.
    The result of a "limit" means nothing.
    """

    kind: Literal["backend", "peer", "limit"]
    factory: Factory
    requires: tuple[str, ...] = ()  # modules that need not be installed
    operations: tuple[str, ...] = OPERATIONS
    dtypes: tuple[str, ...] = tuple(DTYPES)
    any_axis: bool = True  # or the classes must lie along the last
    threads_of_process: bool = False  # as many as the process has CPUs; no call changes that
    always_moves: int | None = None  # arrays read or written, where the case does not say

    def can_do(self, case: Case) -> bool:
        return (
            case.operation in self.operations
            and case.dtype in self.dtypes
            and (self.any_axis or case.axis == -1)
        )

    def bytes_moved(self, case: Case, logits: Array) -> int:
        return (self.always_moves or case.arrays_moved) * logits.nbytes

    def skip_or_fail_if_missing(self) -> None:
        missing = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if not missing:
            return
        message = f"not installed: {', '.join(missing)}"
        if os.environ.get("FASTXENT_REQUIRE_PEERS") == "1":
            pytest.fail(f"{message}, and FASTXENT_REQUIRE_PEERS=1")
        pytest.skip(f"{message}; the extra 'peers' brings it")

    def skip_if_threads_differ(self, threads: int) -> None:
        if self.threads_of_process and (granted := count_cpus()) != threads:
            pytest.skip(
                f"it takes a thread for each CPU that its process may use (here {granted}), and "
                f"{threads} are asked for: `taskset` or benchmarks/reach.py restrict a process"
            )


def count_cpus() -> int:
    """How many this process may use: its affinity, where the operating system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fastxent_with(backend: str) -> Factory:
    """The package itself."""

    def factory(case: Case, logits: Array, labels: Array) -> Call:
        settings = {"axis": case.axis, "backend": backend, "n_threads": case.threads}
        if case.operation == "loss":
            return partial(fastxent.cross_entropy, logits, labels, **settings)
        if case.operation in ("softmax", "log_softmax"):
            function = getattr(fastxent, case.operation)
            return partial(function, logits, out=np.empty_like(logits), **settings)
        if case.operation == "loss_and_grad_in_place":
            # From the second call on the logits are the last gradient: other numbers, equal work.
            out = logits = logits.copy()
        elif case.operation == "loss_and_grad_fresh":
            out = None
        else:
            out = np.empty_like(logits)
        return partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **settings)

    return factory


def plain_read(case: Case, logits: Array, labels: Array) -> Call:
    """Read every byte of the logits once.

    Of NumPy's reductions, OR over 64-bit integers was the fastest on 262 MB with one thread of
    an AMD EPYC (Zen 5): 30.4 GB/s; dot of float32 29.6, sum of int64 29.2, max of float32 28.6,
    sum of float32 25.0, max of int32 19.6.
    """
    parts = np.array_split(_words(logits), _useful_threads(logits, case.threads))
    return partial(_in_threads, [partial(np.bitwise_or.reduce, part) for part in parts])


def plain_copy(case: Case, logits: Array, labels: Array) -> Call:
    """Read the logits and write as much: to a fresh array where the operation does so."""
    n_parts = _useful_threads(logits, case.threads)
    sources = np.array_split(_words(logits), n_parts)

    def copy_to(out: Array) -> Array:
        targets = np.array_split(_words(out), n_parts)
        pairs = zip(targets, sources, strict=True)
        _in_threads([partial(np.copyto, target, source) for target, source in pairs])
        return out

    if case.operation == "loss_and_grad_fresh":
        return lambda: copy_to(np.empty_like(logits))
    return partial(copy_to, np.empty_like(logits))


# Nobody but fastxent overwrites the logits.
_NOT_IN_PLACE: Final = tuple(name for name in OPERATIONS if name != "loss_and_grad_in_place")

# The libraries come last, those whose threads go on spinning after a call behind the others.
CONTENDERS: Final = {
    "limit_read": Contender("limit", plain_read, always_moves=1),
    "limit_copy": Contender("limit", plain_copy, always_moves=2),
    "cython": Contender("backend", fastxent_with("cython")),
    "numba": Contender("backend", fastxent_with("numba")),
    "scipy": Contender("peer", peers.scipy_expression, operations=_NOT_IN_PLACE),
    "sklearn": Contender(
        "peer",
        peers.sklearn_loss,
        requires=("sklearn",),
        operations=("loss", "loss_and_grad", "loss_and_grad_fresh"),
        dtypes=("float32", "float64"),
        any_axis=False,
    ),
    "jax": Contender(
        "peer",
        peers.jax_jitted,
        requires=("jax", "optax"),
        operations=_NOT_IN_PLACE,
        threads_of_process=True,
    ),
    "tensorflow": Contender(
        "peer",
        peers.tensorflow_function,
        requires=("tensorflow",),
        operations=_NOT_IN_PLACE,
        any_axis=False,
        threads_of_process=True,
    ),
    "torch": Contender("peer", peers.torch_eager, requires=("torch",), operations=_NOT_IN_PLACE),
    "torch_compile": Contender(
        "peer", peers.torch_compiled, requires=("torch",), operations=_NOT_IN_PLACE
    ),
}


def _words(array: Array) -> Array:
    return array.reshape(-1).view(np.int64)


def _useful_threads(array: Array, threads: int) -> int:
    return max(1, min(threads, array.nbytes // _BYTES_PER_THREAD))


@lru_cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers)


def _in_threads(tasks: list[Call]) -> list[Any]:
    """The tasks' results: the first task runs here, the others in threads."""
    first, *others = tasks
    waiting = [_pool(len(others)).submit(task) for task in others]
    return [first(), *(future.result() for future in waiting)]
