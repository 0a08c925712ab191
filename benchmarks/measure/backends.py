"""The package itself, called as its users call it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
from fastxent.benchmarks.measure.case import Array, Case

import fastxent

Call = Callable[[], Any]


def fastxent_with(backend: str) -> Callable[[Case, Array, Array], Call]:
    """The factory of a backend's calls."""

    def factory(case: Case, logits: Array, labels: Array) -> Call:
        settings: dict[str, Any] = {"axis": case.axis, "backend": backend}
        if case.operation == "loss_in_python_threads":
            return _loss_in_python_threads(case, logits, labels, settings)
        settings["n_threads"] = case.threads
        if case.operation == "loss":
            return partial(fastxent.cross_entropy, logits, labels, **settings)
        if case.operation in ("softmax", "log_softmax"):
            function = getattr(fastxent, case.operation)
            return partial(function, logits, out=np.empty_like(logits), **settings)
        if case.operation == "row_stats":
            return partial(fastxent.row_stats, logits, labels, **settings)
        if case.operation == "grad_hess":
            function = fastxent.cross_entropy_grad_hess
            return partial(function, logits, labels, reduction="mean", **settings)
        if case.operation == "hvp":
            function = fastxent.cross_entropy_hvp
            return partial(function, logits, labels, logits.copy(), reduction="mean", **settings)
        if case.operation == "loss_and_grad_in_place":
            # From the second call on the logits are the last gradient: other numbers, equal work.
            out = logits = logits.copy()
        elif case.operation == "loss_and_grad_fresh":
            out = None
        else:
            out = np.empty_like(logits)
        return partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **settings)

    return factory


def _loss_in_python_threads(
    case: Case, logits: Array, labels: Array, settings: dict[str, Any]
) -> Call:
    """Each thread calls for its share of the first axis; classes must not lie along that."""
    shares = zip(
        np.array_split(logits, case.threads), np.array_split(labels, case.threads), strict=True
    )
    first, *others = (
        partial(fastxent.cross_entropy, *share, reduction="sum", n_threads=1, **settings)
        for share in shares
    )
    pool = _pool(len(others)) if others else None

    def mean_loss() -> Any:
        waiting = [pool.submit(call) for call in others] if pool else []
        return (first() + sum(future.result() for future in waiting)) / labels.size

    return mean_loss


@lru_cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers)


@lru_cache
def instruction_set(backend: str) -> str:
    """What its machine code is for: the build of the Cython twin, the CPU that Numba compiles for.

    Unlike the first, the second is a CPU's name ("znver4"), which stands for its instructions.
    """
    if backend == "cython":
        return str((fastxent.show_config(mode="dicts") or {})["backends"]["cython instruction set"])
    numba: Any = importlib.import_module("numba")
    llvm: Any = importlib.import_module("llvmlite.binding")
    return str(numba.config.CPU_NAME or llvm.get_host_cpu_name())
