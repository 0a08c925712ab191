"""How a call behaves where one median says nothing: growth, memory, a busy core.

`judge/reach.py` runs it, in a process for each backend.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastxent

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Growth, memory and a busy core, as JSON.")
    parser.add_argument("backend")
    parser.add_argument("--smoke", action="store_true", help="grow 10-fold, with few calls")
    arguments = parser.parse_args()
    try:
        fastxent.set_backend(arguments.backend)
    except ValueError as error:
        parser.error(str(error))
    if arguments.smoke:
        numbers = {**growth(10), **beside_a_busy_process(20)}
    else:
        numbers = {**growth(1000), **beside_a_busy_process(300)}
    print(json.dumps(numbers))


def growth(factor: int) -> dict[str, float]:
    """Time and memory of loss and gradient, as the rows and the classes of 100 x 1000 grow."""
    n_rows, n_classes = 100, 1000
    base_time, base_traced, _ = _time_and_memory(n_rows, n_classes)
    rows_time, rows_traced, rows_resident = _time_and_memory(n_rows * factor, n_classes)
    classes_time, classes_traced, _ = _time_and_memory(n_rows, n_classes * factor)
    return {
        "time_rows": rows_time / base_time / factor,
        "time_classes": classes_time / base_time / factor,
        # The operating system counts whole pages: too coarse for few rows.
        "bytes_a_row": max(rows_traced, rows_resident) / (n_rows * factor),
        "bytes_classes": classes_traced / base_traced,
    }


def _time_and_memory(n_rows: int, n_classes: int) -> tuple[float, int, int]:
    """Seconds of a call with one thread; bytes that it took, by NumPy and by the process.

    The first call counts for the process's memory, whose highest mark cannot be reset.
    """
    logits = np.empty((n_rows, n_classes), np.float32)
    np.random.default_rng(0).standard_normal(out=logits, dtype=np.float32)
    call = partial(
        fastxent.cross_entropy_with_grad,
        logits,
        np.zeros(n_rows, np.int64),
        out=np.ones_like(logits),  # np.empty would take its memory only when it is written
        n_threads=1,
    )
    before = _highest_resident()
    call()
    resident = _highest_resident() - before
    tracemalloc.start()
    call()
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    n_calls = 7 if logits.size > 10_000_000 else 300
    return statistics.median(_times(call, n_calls)), traced, resident


def _highest_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def beside_a_busy_process(n_calls: int) -> dict[str, float]:
    """Times of a call of some 0.2 ms beside a process that keeps one core busy / idle median."""
    logits = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    call = partial(fastxent.cross_entropy, logits, np.zeros(1024, np.int64), n_threads=2)
    _times(call, n_calls)
    idle = statistics.median(_times(call, n_calls))
    busy = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(busy.pid, {min(os.sched_getaffinity(0))})
        assert busy.stdout is not None
        busy.stdout.readline()  # it has started
        times = _times(call, n_calls)
    finally:
        busy.kill()
        busy.communicate()
    return {
        "busy_median": statistics.median(times) / idle,
        "busy_slowest": statistics.quantiles(times, n=20)[-1] / idle,
    }


def _times(call: Call, n_calls: int) -> list[float]:
    times = []
    for _ in range(n_calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
