"""The command `fastxent bench compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from fastxent.benchmarks.commands.errors import STATUS, ending_with_a_message
from fastxent.benchmarks.draw.compared import as_table
from fastxent.benchmarks.draw.markdown import verdict_text
from fastxent.benchmarks.draw.tables import print_table
from fastxent.benchmarks.judge.paired import Comparison, Options, compare
from fastxent.benchmarks.judge.verdicts import verdict_of
from fastxent.benchmarks.machine import busy_warning
from fastxent.verify.reports.writers import check_target, write_text
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastxent.config import check_environment


def compare_command(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="A git revision of the checkout you are in, a wheel, a folder with the package "
            "in it, or the folder of a Python environment.",
        ),
    ],
    head: Annotated[
        str | None, typer.Argument(metavar="[HEAD]", help="The same; default: what is installed.")
    ] = None,
    benchmarks: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Your own benchmarks, by pytest-benchmark, instead of fastxent's; "
            "may be repeated.",
        ),
    ] = None,
    set_name: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="NAME",
            help="Which of fastxent's benchmarks; with --benchmarks it says nothing.",
        ),
    ] = "compare",
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
    keyword: Annotated[
        str | None, typer.Option("-k", metavar="EXPRESSION", help="As for pytest.")
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many fresh processes of each version; a repeat has twice as many. "
            "[default: what fits into 8 minutes, 4 to 10]",
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", help="Slower by more than this fails.")
    ] = 5.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all that was found.")
    ] = None,
    markdown_path: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write what has changed.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            metavar="FOLDER",
            help="Where wheels of revisions are kept. [default: the user's cache]",
        ),
    ] = None,
) -> None:
    """Run two versions in turns of milliseconds, and say whether one is slower.

    Exit status: 0 if nothing is slower; 1 if something is, and a repeat confirms it; 2 for a wrong
    command, or where nothing can be measured; 3 where not enough is known for a verdict: the
    machine was not quiet enough, or a benchmark failed or is missing in one version; 130 after
    Ctrl-C.
    """
    with ending_with_a_message("fastxent bench compare"):
        check_environment()
        options = Options(
            files=tuple(benchmarks or ()),
            set_name=set_name,
            backends=tuple(backend or ()),
            keyword=keyword,
            blocks=blocks,
            threshold=threshold / 100,
            cache=cache,
        )
        for path in (json_path, markdown_path):
            if path:
                check_target(path)  # not after all has been measured
        if warning := busy_warning("this may take longer and end without a verdict."):
            print(warning, file=sys.stderr, flush=True)
        found = _with_progress(base, head, options)
        print_table(as_table(found))
        if json_path:
            write_text(json_path, json.dumps(found.as_json(), indent=1) + "\n")
        if markdown_path:
            write_text(markdown_path, verdict_text(verdict_of(found.as_json())))
    raise typer.Exit(STATUS[found.verdict])


def _with_progress(base: str, head: str | None, options: Options) -> Comparison:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        told = ""

        def progress(text: str, done: int, total: int) -> None:
            nonlocal task, told
            # What a process takes is learnt anew: a repeat runs fewer benchmarks.
            if done == 0:
                shown.remove_task(task)
                task = shown.add_task(text, total=total or None)
            shown.update(task, description=text, completed=done, total=total or None)
            if not shown.console.is_terminal and (what := text.partition(" ")[0]) != told:
                told = what  # a line for each part: a log has no bar
                shown.console.print(text, markup=False, highlight=False)

        return compare(base, head, options, progress)
