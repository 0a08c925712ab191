"""A selection timed: a process for each number of threads, or one for all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks.machine import facts, fingerprint
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.measure.processes import merge, run_pytest
from fastxent.benchmarks.measure.selection import Selection
from fastxent.benchmarks.results import read_timings, share_of_roof

FILES: Final = ("test_throughput.py", "test_options.py", "test_cold_start.py")
_PROGRESS: Final = "fastxent.benchmarks.measure.progress"


def run_selection(selection: Selection, results: dict[str, Any]) -> None:
    """Put what each process measures into the results as soon as it ends.

    They are those of pytest-benchmark, and besides "machine", the facts of this machine, and
    "not_measured": {"failed": {name: reason}, "skipped": {name: reason}}.
    """
    machine = facts()
    results["benchmarks"] = []
    results["machine"] = {**machine, "fingerprint": fingerprint(machine)}
    missing = results["not_measured"] = {"failed": {}, "skipped": {}}
    for threads in selection.processes():
        cpus = max(threads)
        print(
            f"{' and '.join(map(str, threads))} {'thread' if cpus == 1 else 'threads'}, "
            f"in a process that may use {cpus} CPU{'' if cpus == 1 else 's'}",
            flush=True,
        )
        part, not_measured = _run_process(selection, threads)
        part.pop("machine", None)  # of a process that may not use all CPUs
        if part:
            _add_shares(part)
        merge(results, part)
        for outcome, found in not_measured.items():
            missing[outcome].update(found)


def _add_shares(part: dict[str, Any]) -> None:
    """ "of_roof", where the group of a benchmark has its roof, which pytest does not know yet."""
    timings = read_timings(part)
    for entry in part["benchmarks"]:
        info = entry["extra_info"]
        if info.get("kind") == "backend" and "implementation" in info:
            case = Case(info["operation"], info["dtype"], info["shape"], info["threads"])
            share = share_of_roof(case, timings[case], info["implementation"])
            if share is not None:
                info["of_roof"] = round(share, 4)


def _run_process(
    selection: Selection, threads: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    others = [f"--threads={count}" for count in threads[:-1]]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "not_measured.json"
        options = [*selection.given, *others, "-p", _PROGRESS, f"--not-measured={written}"]
        # What failed is said in a line each at the end.
        part = run_pytest(max(threads), [*options, "--tb=no", "-rN"], FILES)
        if written.exists():
            return part, json.loads(written.read_text("utf-8"))
    name = f"the process with {', '.join(map(str, threads))} threads"
    return part, {"failed": {name: "it ended early: see above"}, "skipped": {}}
