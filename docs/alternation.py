"""How short the turns of two versions must be: the table of docs/benchmarks.md.

    python docs/alternation.py

One call is timed for 40 seconds on one CPU, and its times are dealt out in the order A B B A, in
turns of so many milliseconds. A and B are the same, so every ratio but 1 is the machine's.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.machine import cpu_name, load, on_cpus

import fastxent

SECONDS: Final = 40.0
PART: Final = 4.0  # seconds that one estimate has
TURNS: Final = (2, 5, 20, 100, 500, 1000)  # milliseconds


def times_of_calls() -> np.ndarray[Any, Any]:
    """Seconds of each, one after another."""
    logits = np.random.default_rng(0).standard_normal((1024, 1000), np.float32)
    labels = np.zeros(1024, np.int64)
    times = []
    until = time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < until:
        fastxent.cross_entropy(logits, labels, n_threads=1, backend="cython")
        times.append(time.perf_counter() - start)
    return np.array(times[100:])


def ratios_of(times: np.ndarray[Any, Any], turn: float) -> np.ndarray[Any, Any]:
    """Logarithms of A / B, one for each A B B A, of the medians of turns."""
    turns = (np.cumsum(times) / turn).astype(int)
    ends = np.searchsorted(turns, np.arange(turns[-1] + 1))
    medians = [np.median(times[i:j]) for i, j in itertools.pairwise(ends) if j > i]
    n_rounds = len(medians) // 4
    logs = np.log(medians[: 4 * n_rounds]).reshape(n_rounds, 4)
    return (logs[:, 0] + logs[:, 3] - logs[:, 1] - logs[:, 2]) / 2


def main() -> None:
    """Print the table."""
    print(f"{cpu_name()}, load {load()}")
    with on_cpus(1):
        times = times_of_calls()
    fast, slow = np.percentile(times, [10, 90]) * 1e3
    print(f"of ten calls one is faster than {fast:.2f} ms, one slower than {slow:.2f} ms")
    print("| turn | spread of one round | of a median of 4 s |\n| ---: | ---: | ---: |")
    for milliseconds in TURNS:
        ratios = ratios_of(times, milliseconds / 1e3)
        n_rounds = round(PART / (4 * milliseconds / 1e3))
        parts = [ratios[i : i + n_rounds] for i in range(0, len(ratios) - n_rounds + 1, n_rounds)]
        medians = [np.median(part) for part in parts]
        print(f"| {milliseconds} ms | {ratios.std():.1%} | {np.std(medians):.1%} |")


if __name__ == "__main__":
    main()
