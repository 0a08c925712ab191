"""The command `fastxent bench run`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from fastxent.benchmarks.commands.errors import ending_with_a_message
from fastxent.benchmarks.draw.cold_start import cold_start_table
from fastxent.benchmarks.draw.not_measured import print_not_measured
from fastxent.benchmarks.draw.options import options_table
from fastxent.benchmarks.draw.summary import as_table, summarise
from fastxent.benchmarks.draw.tables import print_table
from fastxent.benchmarks.machine import busy_warning, count_cpus
from fastxent.benchmarks.measure.run_selection import run_selection
from fastxent.benchmarks.measure.selection import LISTS, SET_HELP, Selection, select
from fastxent.benchmarks.results import read_timings
from fastxent.verify.reports.writers import check_target, write_text

from fastxent.config import check_environment

_CHOOSE_CODE: Final = (
    "FASTXENT_BACKEND", "FASTXENT_ISA", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
)  # fmt: skip


def _lists(name: str) -> Any:
    return typer.Option(f"--{name}", metavar="LIST", help=LISTS[name].capitalize() + ".")


def run(
    name: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help=f"What is timed. {SET_HELP}.")
    ] = None,
    batch: Annotated[list[str] | None, _lists("batch")] = None,
    classes: Annotated[list[str] | None, _lists("classes")] = None,
    dtype: Annotated[list[str] | None, _lists("dtype")] = None,
    operation: Annotated[list[str] | None, _lists("operation")] = None,
    backend: Annotated[list[str] | None, _lists("backend")] = None,
    threads: Annotated[list[str] | None, _lists("threads")] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Without other libraries.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results to this file.")
    ] = None,
) -> None:
    """Time the backends beside the roofs and other libraries, and show the ratios.

    A LIST has commas between its values; the option may be repeated as well. Exit status 1 where a
    benchmark failed, as with a wrong answer, which is not timed; 2 for a wrong command; 130 after
    Ctrl-C, where the results of processes that had finished are shown, and written with --json.
    """
    lists = {
        "batch": batch,
        "classes": classes,
        "dtype": dtype,
        "operation": operation,
        "backend": backend,
        "threads": threads,
    }
    with ending_with_a_message("fastxent bench run"):
        check_environment()
        selection = select(name, lists, not no_peers)
        selection.check_memory()
        _check_cpus(selection)
        if json_path:
            check_target(json_path)  # not after all has been measured
        if warning := busy_warning():
            print(warning, file=sys.stderr, flush=True)
        results: dict[str, Any] = {"command": _command(name, lists, no_peers)}
        try:
            run_selection(selection, results)
        except KeyboardInterrupt:
            if results.get("benchmarks"):
                print("interrupted: this is what processes that had ended measured", flush=True)
                _finish(results, json_path)
            raise
        _finish(results, json_path)
    if results["not_measured"]["failed"]:
        raise typer.Exit(1)


def _command(name: str | None, lists: Mapping[str, list[str] | None], no_peers: bool) -> str:
    """What repeats it: the command, behind the variables that choose other machine code."""
    words = [f"{key}={os.environ[key]}" for key in _CHOOSE_CODE if os.environ.get(key)]
    words += ["fastxent", "bench", "run", *(["--set", name] if name else [])]
    for option, values in lists.items():
        words += [word for value in values or () for word in (f"--{option}", value)]
    return shlex.join([*words, *(["--no-peers"] if no_peers else [])])


def _check_cpus(selection: Selection) -> None:
    if (most := max(selection.threads)) > (granted := count_cpus()):
        raise ValueError(
            f"--threads: each thread needs a CPU of its own, and {most} are more than the "
            f"{granted} that this process may use"
        )


def _finish(results: dict[str, Any], json_path: Path | None) -> None:
    timings = read_timings(results)
    if timings:
        print_table(as_table(summarise(timings)))
    for table in (options_table(results), cold_start_table(results)):
        if table:
            print_table(table)
    print_not_measured(results)
    if json_path:
        write_text(json_path, json.dumps(results, indent=1))
