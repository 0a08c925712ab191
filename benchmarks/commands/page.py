"""The command `fastxent bench page`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from fastxent.benchmarks.commands.errors import ending_with_a_message
from fastxent.benchmarks.draw.content import Content
from fastxent.benchmarks.draw.markdown import markdown_text
from fastxent.benchmarks.draw.measured import read_measured
from fastxent.benchmarks.draw.readme import in_small, with_speeds
from fastxent.benchmarks.judge.history import read_history, series_of
from fastxent.benchmarks.judge.verdicts import read_verdict
from fastxent.benchmarks.results import read_results
from fastxent.verify.reports.writers import check_target, write_text


def page(
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", metavar="FILE", help="Results; may be repeated."),
    ] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `history add` keeps.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `compare --json` wrote.")
    ] = None,
    gate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `gate --json` wrote.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page to this file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write some 50 lines of Markdown to it.")
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the speeds between its two markers."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="With --readme: status 1 if it is not up to date, no change."),
    ] = False,
    small: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what --readme needs of one file of results."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, help="Smaller changes are no change points.")
    ] = 2.0,
) -> None:
    """Draw results, history and verdicts: a page, Markdown, the README's table."""
    with ending_with_a_message("fastxent bench page"):
        written = [path for path in (html, markdown, readme, small) if path]
        if not written:
            raise ValueError("nothing to write: --html, --markdown, --readme or --small is needed")
        if not (results or history or compare or gate):
            raise ValueError("nothing to draw: --results, --history, --compare or --gate is needed")
        if check and not readme:
            raise ValueError("--check goes with --readme")
        if (readme or small) and not results:
            raise ValueError("--readme and --small need --results")
        if small and len(results or ()) != 1:
            raise ValueError("--small takes one --results")
        for path in written:
            check_target(path)
        measured = read_measured(results or [])
        if html or markdown:
            found = read_history(history) if history else None
            for problem in found.problems if found else ():
                print(problem, file=sys.stderr)
            content = Content(
                measured=measured,
                history=series_of(found.entries, threshold / 100) if found else None,
                history_problems=found.problems if found else (),
                verdicts=[
                    read_verdict(path, kind)
                    for path, kind in ((compare, "compare"), (gate, "gate"))
                    if path
                ],
            )
            if html:
                # Matplotlib takes half a second, which the other commands do not pay.
                from fastxent.benchmarks.draw.page import html_text

                write_text(html, html_text(content))
            if markdown:
                write_text(markdown, markdown_text(content))
        if small and results:
            write_text(small, json.dumps(in_small(read_results(results[0])), indent=1) + "\n")
        if readme:
            before = _text_of(readme)
            after = with_speeds(before, measured, readme)
            if not check:
                write_text(readme, after)
            elif after != before:
                print(f"{readme} is not up to date: the same command without --check writes it")
                raise typer.Exit(1)


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OSError(f"{path} cannot be read: {reason}") from error
