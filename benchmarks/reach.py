"""What is asked of the package beside what this machine measures, in one table.

python benchmarks/reach.py                           both backends: some 15 minutes
python benchmarks/reach.py --json reach.json         and keeps what was measured
python benchmarks/reach.py --results reach.json      the table again, without measuring
python benchmarks/reach.py --smoke                   a trial with few rows, whose times say nothing

There is a process for each number of threads, which may use as many CPUs: JAX and TensorFlow take
their threads from that. The bounds are in requirements.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from case import Case
from fastxent.verify.reports.writers import check_target, write_text
from requirements import BACKENDS, BEHAVIOURS, THREADS, Measure, Requirement, requirements
from rich.table import Table
from summarise import (
    Timings,
    best_peer,
    duration,
    of_limit,
    print_table,
    read_results,
    read_timings,
    times_faster,
)

from fastxent.config import check_environment

HERE: Final = Path(__file__).resolve().parent

_TEXTS: Final = {
    "of_limit": "of the limit",
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
    peer: str | None = None  # the one that was compared with


def main() -> None:
    parser = argparse.ArgumentParser(description="What is asked, beside what is measured.")
    parser.add_argument("--results", type=Path, help="read these results, measure nothing")
    parser.add_argument("--json", type=Path, help="keep the results in this file")
    parser.add_argument("--backend", choices=BACKENDS, help="only this one")
    parser.add_argument("--smoke", action="store_true", help="few rows: a trial of the machinery")
    arguments = parser.parse_args()
    backends = (arguments.backend,) if arguments.backend else BACKENDS
    not_written = ""
    try:
        if arguments.json:
            check_target(arguments.json)  # not after 15 minutes
        if arguments.results:
            results = read_results(arguments.results)
        else:
            check_environment()
            results = measure(backends, arguments.smoke)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if arguments.json:
        try:
            write_text(arguments.json, json.dumps(results, indent=1))
        except OSError as error:
            not_written = f"{parser.prog}: error: {error}\n"
    verdicts = [
        *judge_timings(requirements(arguments.smoke), read_timings(results), backends),
        *judge_behaviours(results.get("behaviour", {}), backends),
    ]
    print_table(as_table(verdicts))
    if not_written:
        parser.exit(2, not_written)


def measure(backends: Iterable[str], smoke: bool) -> dict[str, Any]:
    """The results of all processes, merged; their output is the progress.

    `python -P` leaves the folder it starts in out of the path: the root of a checkout would shadow
    the installed package.
    """
    flags = ["--smoke"] if smoke else []
    left_out = [f"not {name}" for name in BACKENDS if name not in backends]
    results: dict[str, Any] = {"benchmarks": [], "behaviour": {}}
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The machine is busy (load {load:.1f}). Libraries whose threads wait for each other")
        print("suffer most from that: what is measured against them is worth little.", flush=True)
    for threads in THREADS:
        with on_cpus(threads) as granted, tempfile.TemporaryDirectory() as folder:
            if granted < threads:
                print(f"{threads} threads: not measured, there are {granted} CPUs", flush=True)
                continue
            print(f"Benchmarks, threads: {threads}", flush=True)
            written = Path(folder) / "results.json"
            done = subprocess.run(
                [
                    *(sys.executable, "-P", "-m", "pytest"),
                    *(str(HERE / "test_cross_entropy.py"), "--reach", f"--threads={threads}"),
                    *("--benchmark-quiet", f"--benchmark-json={written}"),
                    *("-q", "--no-header", "-p", "no:cacheprovider"),
                    *(("-k", left_out[0]) if left_out else ()),
                    *flags,
                ],
                cwd=HERE.parent,
                check=False,
            )
            if done.returncode:
                print(
                    f"pytest's status is {done.returncode}: what failed is missing from the table"
                )
            if written.exists():
                part = json.loads(written.read_text())
                for entry in part["benchmarks"]:
                    del entry["stats"]["data"]  # the time of every single round
                results["benchmarks"] += part.pop("benchmarks")
                results.update(part)  # the machine
    for backend in backends:
        print(f"Growth, memory and a busy core: {backend}", flush=True)
        with on_cpus(max(THREADS)):
            command = [sys.executable, str(HERE / "behaviour.py"), backend, *flags]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        results["behaviour"][backend] = json.loads(done.stdout)
    return results


@contextlib.contextmanager
def on_cpus(count: int) -> Iterator[int]:
    """Processes started in here may use so many CPUs, or all where there are fewer; how many."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[-count:]
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)


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
    contenders = timings.get(case, {})
    measured, peer = None, None
    if backend in contenders:
        peer = best_peer(contenders) if requirement.measure == "of_peer" else None
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
        median=contenders[backend].median if backend in contenders else None,
        peer=peer,
    )


def _measure(measure: Measure, case: Case, timings: Timings, backend: str) -> float | None:
    """None where there is nothing to compare with."""
    contenders = timings[case]
    median = contenders[backend].median
    if measure == "microseconds":
        return median * 1e6
    if measure == "of_limit":
        return of_limit(case, contenders, backend)
    if measure == "of_peer":
        return times_faster(contenders, backend, best_peer(contenders))
    if measure == "of_torch":
        return times_faster(contenders, backend, "torch")
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


def as_table(verdicts: list[Verdict]) -> Table:
    met = sum(verdict.met is True for verdict in verdicts)
    short = sum(verdict.met is False for verdict in verdicts)
    table = Table(
        caption=f"{met} met, {short} SHORT, {len(verdicts) - met - short} missing. "
        "Medians of one run. The limit: bandwidth of a plain read (loss) or a copy (all else)."
    )
    for heading in ("asked of", "case", "backend"):
        table.add_column(heading, no_wrap=True)
    table.add_column("threads", no_wrap=True, justify="right")
    table.add_column("asked", no_wrap=True)
    for heading in ("measured", "median"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    previous = None
    for verdict in verdicts:
        if previous and (previous.row, previous.asked) != (verdict.row, verdict.asked):
            table.add_section()
        table.add_row(
            verdict.row,
            verdict.case,
            verdict.backend,
            str(verdict.threads),
            verdict.asked + (f" ({verdict.peer})" if verdict.peer else ""),
            "-" if verdict.measured is None else f"{verdict.measured:.3g}",
            "-" if verdict.median is None else duration(verdict.median),
            {True: "met", False: "SHORT", None: "missing"}[verdict.met],
        )
        previous = verdict
    return table


if __name__ == "__main__":
    main()
