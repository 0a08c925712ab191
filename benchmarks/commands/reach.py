"""The command `fastxent bench reach`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from fastxent.benchmarks.commands.errors import STATUS, ending_with_a_message
from fastxent.benchmarks.draw.not_measured import print_not_measured
from fastxent.benchmarks.draw.reach import as_table
from fastxent.benchmarks.draw.tables import print_table
from fastxent.benchmarks.judge.reach import (
    Verdict,
    judge_behaviours,
    judge_timings,
    measure,
)
from fastxent.benchmarks.machine import busy_warning
from fastxent.benchmarks.measure.case import BACKENDS
from fastxent.benchmarks.measure.targets import requirements
from fastxent.benchmarks.results import read_results, read_timings
from fastxent.verify.reports.writers import check_target, write_text

from fastxent.config import check_environment


def reach(
    results_path: Annotated[
        Path | None,
        typer.Option("--results", metavar="FILE", help="Read these results, measure nothing."),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the results in this file.")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Few rows: a trial, whose times say nothing.")
    ] = False,
) -> None:
    """What is asked of the package, beside what this machine measures: some 15 minutes.

    Exit status 1 where something falls short or a benchmark failed, 3 where something that is asked
    was not measured; in a trial neither times nor what is missing count.
    """
    with ending_with_a_message("fastxent bench reach"):
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        backends = (backend,) if backend else BACKENDS
        if json_path:
            check_target(json_path)  # not after 15 minutes
        if results_path:
            results = read_results(results_path)
        else:
            check_environment()
            if warning := busy_warning():
                print(warning, file=sys.stderr, flush=True)
            results = {}
            try:
                measure(backends, smoke, results)
            except KeyboardInterrupt:
                if json_path and results.get("benchmarks"):
                    write_text(json_path, json.dumps(results, indent=1))
                raise
        try:
            timings = read_timings(results)
        except ValueError as error:
            raise ValueError(f"{results_path or 'what was measured'}: {error}") from error
        verdicts: list[Verdict] = [
            *judge_timings(requirements(smoke), timings, backends),
            *judge_behaviours(results.get("behaviour", {}), backends),
        ]
        print_table(as_table(verdicts))
        print_not_measured(results)
        if json_path:
            write_text(json_path, json.dumps(results, indent=1))
    found = set() if smoke else {verdict.met for verdict in verdicts}
    if False in found or results.get("not_measured", {}).get("failed"):
        raise typer.Exit(STATUS["fail"])
    if None in found:
        raise typer.Exit(STATUS["inconclusive"])
