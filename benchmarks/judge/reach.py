"""What is asked of the package beside what this machine measures.

There is a process for each number of threads, which may use as many CPUs: JAX and TensorFlow take
their threads from that. The bounds are in measure/targets.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fastxent.benchmarks.machine import count_cpus, on_cpus
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.measure.run_selection import run_selection
from fastxent.benchmarks.measure.selection import select
from fastxent.benchmarks.measure.targets import (
    BEHAVIOURS,
    THREADS,
    Measure,
    Requirement,
)
from fastxent.benchmarks.results import (
    Timings,
    best_peer,
    of_memory,
    share_of_roof,
    times_faster,
)

import fastxent

GROWTH: Final = "fastxent.benchmarks.measure.growth"

_TEXTS: Final = {
    "of_memory": "of memory",
    "of_peer": "times the best peer",
    "of_torch": "times torch",
    "of_one_thread": "times 1 thread",
    "of_float32": "times float32",
    "microseconds": "us",
}


@dataclass(frozen=True)
class Verdict:
    """A line of the table; None where nothing was measured."""

    row: str
    case: str
    backend: str
    threads: int
    asked: str
    measured: float | None
    met: bool | None
    median: float | None = None  # seconds
    of_roof: float | None = None  # shown, not judged
    peer: str | None = None  # the one that was compared with


def measure(backends: Iterable[str], smoke: bool, results: dict[str, Any]) -> None:
    """Fill the results: what `run_selection` puts there, and "behaviour", of growth.py."""
    flags = ["--smoke"] if smoke else []
    available = [name for name in backends if name in fastxent.available_backends()]
    granted = count_cpus()
    for threads in THREADS:
        if granted < threads:
            print(f"{threads} threads: not measured, there are {granted} CPUs", flush=True)
    lists = {
        "backend": available,
        "threads": [str(threads) for threads in THREADS if threads <= granted],
    }
    selection = select("reach-smoke" if smoke else "reach", lists, peers=True)
    selection.check_memory()
    run_selection(selection, results)
    for backend in available:
        print(f"Growth, memory and a busy core: {backend}", flush=True)
        with on_cpus(max(THREADS)):
            command = [sys.executable, "-P", "-m", GROWTH, backend, *flags]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            failed = f"it ended with status {done.returncode}: see above"
            results["not_measured"]["failed"][f"growth of {backend}"] = failed
        else:
            results.setdefault("behaviour", {})[backend] = json.loads(done.stdout)


def judge_timings(
    asked: Iterable[Requirement], timings: Timings, backends: Iterable[str]
) -> Iterator[Verdict]:
    for requirement in asked:
        for operation, dtype, shape in requirement.timed():
            for threads in requirement.threads:
                for backend in (name for name in backends if name in requirement.backends):
                    case = Case(operation, dtype, shape, threads)
                    yield _judge(requirement, case, timings, backend)


def _judge(requirement: Requirement, case: Case, timings: Timings, backend: str) -> Verdict:
    implementations = timings.get(case, {})
    measured, of_roof, peer = None, None, None
    if backend in implementations:
        of_roof = share_of_roof(case, implementations, backend)
        peer = best_peer(implementations) if requirement.measure == "of_peer" else None
        measured = _measure(requirement.measure, case, timings, backend)
    at_most = requirement.measure == "microseconds"
    met = None
    if measured is not None:
        met = measured <= requirement.bound if at_most else measured >= requirement.bound
    return Verdict(
        row=requirement.row,
        case=f"{case.operation} {case.dtype} {case.shape}",
        backend=backend,
        threads=case.threads,
        asked=f"{'<=' if at_most else '>='} {requirement.bound:g} {_TEXTS[requirement.measure]}",
        measured=measured,
        met=met,
        median=implementations[backend].median if backend in implementations else None,
        of_roof=of_roof,
        peer=peer,
    )


def _measure(measure: Measure, case: Case, timings: Timings, backend: str) -> float | None:
    """None where there is nothing to compare with."""
    implementations = timings[case]
    median = implementations[backend].median
    if measure == "microseconds":
        return median * 1e6
    if measure == "of_memory":
        return of_memory(case, implementations, backend)
    if measure == "of_peer":
        return times_faster(implementations, backend, best_peer(implementations))
    if measure == "of_torch":
        return times_faster(implementations, backend, "torch")
    changed: dict[str, Any] = {"threads": 1} if measure == "of_one_thread" else {"dtype": "float32"}
    other = timings.get(replace(case, **changed), {}).get(backend)
    return other.median / median if other else None


def judge_behaviours(
    measured: dict[str, dict[str, float]], backends: Iterable[str]
) -> Iterator[Verdict]:
    for behaviour in BEHAVIOURS:
        for backend in backends:
            number = measured.get(backend, {}).get(behaviour.name)
            yield Verdict(
                row=behaviour.row,
                case=behaviour.text,
                backend=backend,
                threads=behaviour.threads,
                asked=f"<= {behaviour.at_most:g}",
                measured=number,
                met=None if number is None else number <= behaviour.at_most,
            )
