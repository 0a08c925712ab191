"""The commands `fastxent bench history add` and `fastxent bench history show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from fastxent.benchmarks.commands.errors import ending_with_a_message
from fastxent.benchmarks.draw.history import changes_table, newest_table
from fastxent.benchmarks.draw.tables import print_table
from fastxent.benchmarks.draw.wording import count
from fastxent.benchmarks.judge.history import (
    append,
    entries_from,
    read_history,
    selects,
    series_of,
)

_HELP = """\
Keep medians and counts of every run in a file, and find out when they changed.
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def add(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS..", help="JSON of pytest-benchmark, of run or of gate."),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="The history; it may not be there yet.")
    ],
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="R", help="What was measured. [default: that of the checkout where it was]"
        ),
    ] = None,
) -> None:
    """Append a line for each benchmark of these results, but not twice."""
    with ending_with_a_message("fastxent bench history add"):
        entries = [entry for path in results for entry in entries_from(path, revision)]
        n_added, problems = append(to, entries)
        for problem in problems:
            print(problem, file=sys.stderr)
        known = f", {len(entries) - n_added} were there" if n_added < len(entries) else ""
        print(f"{to}: {count(n_added, 'line')} added{known}")


@app.command()
def show(
    history: Annotated[Path, typer.Argument(metavar="FILE", help="The history.")],
    expression: Annotated[
        str | None,
        typer.Option("-k", metavar="EXPR", help="Only these, as in 'cython and not 1thread'."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, help="Smaller changes are left out.")
    ] = 2.0,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show the newest run of every benchmark too.")
    ] = False,
) -> None:
    """When benchmarks became slower or faster: only runs of the same machine are compared."""
    with ending_with_a_message("fastxent bench history show"):
        found = read_history(history)
        for problem in found.problems:
            print(problem, file=sys.stderr)
        chosen = [
            entry
            for entry in found.entries
            if expression is None or selects(expression, f"{entry.name} {entry.group or ''}")
        ]
        if not chosen:
            what = "is empty" if expression is None else f"has nothing for -k {expression!r}"
            raise ValueError(f"{history} {what}")
        series = series_of(chosen, threshold / 100)
        if show_all:
            print_table(newest_table(series))
        print_table(changes_table(series))
