"""Roofs: what this machine allows, timed in the same group as those who run into it.

ROOFS says which belong to an operation. A read and a copy of the logits, by NumPy, are what
the memory allows. The exponentials of the logits where they lie are what arithmetic and memory
allow together: compiled for the instruction set that the Cython kernels are compiled for, run by
their driver in as many threads as a call would have. They are the roof of every backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.measure.case import Array, Case

Call = Callable[[], Any]

# What each operation cannot be faster than, by name in IMPLEMENTATIONS. The times of several add
# up: probabilities are read besides.
ROOFS: Final = {
    "loss": ("roof_exp_sum",),
    "loss_and_grad": ("roof_exp_write",),
    "loss_and_grad_fresh": ("roof_exp_write",),
    "loss_and_grad_in_place": ("roof_exp_write",),
    "softmax": ("roof_exp_write",),
    "log_softmax": ("roof_exp_write",),
    "soft_loss_and_grad": ("roof_exp_write", "roof_read"),
    "row_stats": ("roof_exp_sum",),
}

# Less than this is read in less time than another thread takes to wake up.
_BYTES_PER_THREAD: Final = 1 << 21


def operations_under(roof: str) -> tuple[str, ...]:
    """The operations that have this roof, alone or with others."""
    return tuple(operation for operation, roofs in ROOFS.items() if roof in roofs)


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


def no_compiled_roofs() -> str | None:
    """Why the bare exponentials are missing from the package that is measured."""
    try:
        roofs = importlib.import_module("fastxent.backends.roofs")
    except ImportError:
        return "this version of fastxent has no compiled roofs"
    obstacle: str | None = roofs.obstacle()
    return obstacle


def exp_sum(case: Case, logits: Array, labels: Array) -> Call:
    """Sum the exponentials of the logits."""
    roofs = importlib.import_module("fastxent.backends.roofs")
    call: Call = roofs.exp_sum(logits, case.threads)
    return call


def exp_write(case: Case, logits: Array, labels: Array) -> Call:
    """Write the exponentials of the logits: to where the operation writes."""
    roofs = importlib.import_module("fastxent.backends.roofs")
    if case.operation == "loss_and_grad_in_place":
        # again and again: the exponentials of small numbers are small numbers
        logits = logits.copy()
        return partial(roofs.exp_write(logits, case.threads), logits)
    write = roofs.exp_write(logits, case.threads)
    if case.operation == "loss_and_grad_fresh":
        return lambda: write(np.empty_like(logits))
    return partial(write, np.empty_like(logits))


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
