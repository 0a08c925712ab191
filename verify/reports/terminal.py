"""The table, the progress bar and the failures, for a terminal or a plain file."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import rich.box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..case import FUNCTIONS, Case
from ..profile import STANDARD
from ..result import Report, Result
from .words import (
    breach_text,
    count,
    failures,
    left_out_lines,
    mistrusted_text,
    notes,
    peers_text,
    verdict_text,
)

_HEADER: Final = (
    "case", "checked", "dtype", "loss", "gradient", "share", "reference", "verdict"
)  # fmt: skip
_TO_THE_RIGHT: Final = ("loss", "gradient", "share")
_LEGEND: Final = (
    "loss, gradient: largest error in units in the last place (ULP); share: the larger one as "
    "a part of what the profile allows; reference: scipy = scipy.special.log_softmax in float64, "
    "extended = wider than float64"
)


# Where nobody sees a bar: a line so often, so that a log shows that something goes on.
_SECONDS_A_LINE: Final = 15.0

Show = Callable[[str, int, int], None]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end with status 1, which is that of a breach."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as `COLUMNS` says, or the terminal; 80 characters if neither is there."""
    return _Console(highlight=False, stderr=stderr)


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Show]:
    """What the runner tells its progress to: a bar on a terminal, else a line now and then.

    The bar is on the console or, where that is no terminal, on standard error, as the lines are.
    """
    console = console if console.is_terminal else make_console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=f"{name:<40}", completed=done, total=total)

        yield show


def _lines() -> Show:
    started = last = time.monotonic()

    def show(name: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_A_LINE:
            last = now
            with contextlib.suppress(OSError):
                text = f"{now - started:.0f} s: {done} of {total} steps done, now {name}"
                print(text, file=sys.stderr, flush=True)

    return show


def print_report(report: Report, console: Console, *, every: bool = False) -> None:
    """The table, every failure with the command that repeats it, and a summary.

    The table has one line for a case and backend, that of the dtype nearest to its bound, and
    all that failed; or with `every` a line for each dtype.
    """
    if report.peers:
        print_peers(report, console)
    shown = report.results if every else _worst(report.results)
    if report.peers and not every:
        shown = failures(report)  # the tables above have the rest
    if shown:
        _print_table(shown, console)
    console.print(_LEGEND, markup=False)
    if len(shown) < len(report.results):
        console.print("Shown is the dtype nearest to its bound; --all shows every dtype.")
    console.print()
    for result in failures(report):
        for breach in result.breaches.values():
            console.print(breach_text(report, result, breach), markup=False, soft_wrap=True)
        if result.is_mistrusted:
            console.print(mistrusted_text(report, result), markup=False, soft_wrap=True)
    for note in (*notes(report), *left_out_lines(report)):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    _print_summary(report, console)


def print_peers(report: Report, console: Console) -> None:
    """A table for each dtype: the largest error of every implementation in every case."""
    names = report.implementations
    for dtype in dict.fromkeys(result.dtype for result in report.results):
        table = Table(
            box=rich.box.SIMPLE_HEAD, pad_edge=False, title=f"{dtype}: largest error in ULP",
            title_justify="left",
        )  # fmt: skip
        table.add_column("case")
        for name in names:
            table.add_column(name, justify="right")
        for case, row in peers_rows(report, dtype).items():
            cells = [row.get(name, "-") for name in names]
            table.add_row(case, *(f"[red]{c}[/red]" if c.endswith("!") else c for c in cells))
        console.print(table)
    console.print(
        "The larger error of loss and gradient in units in the last place (ULP); - not asked or "
        f"not possible; ! more than the profile {report.profile} allows.\n"
    )


def peers_rows(report: Report, dtype: str) -> dict[str, dict[str, str]]:
    """For every case what each implementation's cell says."""
    rows: dict[str, dict[str, str]] = {}
    for result in report.results:
        if result.dtype == dtype and result.verdict != "left out":
            ulps = [part.ulp for part in (result.loss, result.output) if part is not None]
            text = _number(max(ulps), 2) if ulps else ""
            mark = "!" if result.is_wrong else ""
            rows.setdefault(result.case, {})[result.implementation] = f"{text}{mark}" or "ok"
    return rows


def _worst(results: list[Result]) -> list[Result]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case, result.implementation), []).append(result)
    shown: list[Result] = []
    for group in groups.values():
        failed = [result for result in group if result.is_wrong]
        shown += failed or [max(group, key=lambda result: result.of_allowed)]
    return shown


def _print_table(results: list[Result], console: Console) -> None:
    rows = [_cells(result) for result in results]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    # A name too long for what the other columns leave gets a line of its own.
    left = console.width - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = max(min(widths[0], left), len("case"))

    def line(cells: Sequence[str]) -> str:
        columns = zip(_HEADER, cells, widths, strict=True)
        padded = (
            cell.rjust(width) if name in _TO_THE_RIGHT else cell.ljust(width)
            for name, cell, width in columns
        )
        return "  ".join(padded).rstrip()

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    show(line(_HEADER), "bold")
    show("-" * (sum(widths) + 2 * len(widths[1:])))
    above = ""
    for result, (case, *others) in zip(results, rows, strict=True):
        name = "" if case == above else case
        above = case
        if len(name) > widths[0]:
            show(name)
            name = ""
        show(line([name, *others]), "bold red" if result.is_wrong else None)


def _cells(result: Result) -> list[str]:
    return [
        result.case,
        result.implementation,
        result.dtype,
        _number(None if result.loss is None else result.loss.ulp, 2),
        _number(None if result.output is None else result.output.ulp, 2),
        _number(result.of_allowed if result.of_allowed >= 0 else None, 2),
        result.reference,
        result.verdict,
    ]


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    if digits is None:
        return f"{value:g}"
    return f"{value:.{digits}f}" if value < 1e4 else f"{value:.2g}"


def _print_summary(report: Report, console: Console) -> None:
    if any(_is_function(result) for result in report.results):
        console.print("functions: softmax, log_softmax, logsumexp")
    for line in _worst_lines(report):
        console.print(line, markup=False, soft_wrap=True)
    n_checked = sum(result.verdict != "left out" for result in report.results)
    n_cases = len({result.case for result in report.results})
    threads = " and ".join(map(str, report.thread_counts))
    if report.peers:
        console.print(peers_text(report), soft_wrap=True)
    console.print(
        f"{count(n_checked, 'check')} of {count(n_cases, 'case')} with {threads} "
        f"thread{'' if report.thread_counts == (1,) else 's'}, profile {report.profile}, "
        f"seed {report.seed}, {report.seconds:.1f} s",
        soft_wrap=True,
    )
    console.print(
        verdict_text(report), style="bold green" if report.ok else "bold red", soft_wrap=True
    )


def _worst_lines(report: Report) -> list[str]:
    """The largest errors of each dtype.

    In profile standard no bound is what they are within, and they say something of an
    implementation alone.
    """
    groups: dict[str, list[Result]] = {}
    own = [each for each in report.results if each.implementation not in report.peers]
    is_alone = len({result.implementation for result in own}) == 1
    for result in own:
        names_it = report.profile == STANDARD and not is_alone
        key = f"{result.dtype}, {result.implementation}" if names_it else result.dtype
        groups.setdefault(key, []).append(result)
    lines = []
    for key, results in groups.items():
        errors = {name: _number(value, 2) for name, value in _worst_errors(results).items()}
        if errors and report.profile == STANDARD:
            parts = [f"{value} ULP in {name}" for name, value in errors.items()]
            lines.append(f"{key}: largest errors {', '.join(parts)}")
        elif errors:
            parts = [f"{name} within {value}" for name, value in errors.items()]
            lines.append(f"{key}: {', '.join(parts)} ULP")
    return lines


def _worst_errors(results: list[Result]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for result in results:
        is_function = _is_function(result)
        names = ("functions", "functions") if is_function else ("losses", "gradients")
        for name, part in zip(names, (result.loss, result.output), strict=True):
            if part is not None:
                worst[name] = max(worst.get(name, 0.0), part.ulp)
    order = ("losses", "gradients", "functions")
    return {name: worst[name] for name in order if name in worst}


def _is_function(result: Result) -> bool:
    return result.case in FUNCTIONS


def print_cases(cases: list[Case], console: Console) -> None:
    """Every case with the reason why it exists."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("why")
    for case in cases:
        table.add_row(case.name, case.level, case.reason)
    console.print(table, markup=False)
    if not all(case.reason for case in cases):
        console.print("python -OO has left out the reasons, which are docstrings.")
