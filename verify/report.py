"""The table, the progress bar and the failures, for a terminal or a plain file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import rich.box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .case import Case
from .result import Breach, Report, Result

_PLAIN_WIDTH = 120


def make_console() -> Console:
    """A console as wide as the terminal, or of a fixed width where the output is a file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    return console


@contextlib.contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """What the runner tells its progress to; shown on terminals only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("starting", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=f"{name:<40}", completed=done, total=total)

        yield show


def print_report(report: Report, console: Console) -> None:
    """The table, every failure with the command that repeats it, and a summary."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # On a narrow terminal only the names of the cases are broken.
    table.add_column("case", overflow="fold")
    table.add_column("backend", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("loss\nULP", justify="right", no_wrap=True)
    table.add_column("gradient\nULP", justify="right", no_wrap=True)
    table.add_column("bound", justify="right", no_wrap=True)
    table.add_column("reference", no_wrap=True)
    table.add_column("bits", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for result in report.results:
        bad = result.verdict == "BREACH"
        table.add_row(*_cells(result), style="bold red" if bad else None)
    console.print(table)
    for result in report.failed:
        for breach in result.breaches.values():
            _print_breach(report, result, breach, console)
    for note in _notes(report):
        console.print(f"note: {note}", markup=False)
    _print_summary(report, console)


def _cells(result: Result) -> list[str]:
    bound = f"{_number(result.bound.loss)} / {_number(result.bound.output)}"
    return [
        result.case,
        result.implementation,
        result.dtype,
        _number(result.loss_error, 2),
        _number(result.output_error, 2),
        bound,
        result.reference,
        result.bits,
        result.verdict,
    ]


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "-"
    if digits is None:
        return f"{value:g}"
    return f"{value:.{digits}f}" if value < 1e4 else f"{value:.2g}"


def _print_breach(report: Report, result: Result, breach: Breach, console: Console) -> None:
    where = f" ({breach.note})" if breach.note else ""
    facts: dict[str, object] = {
        "backend": result.implementation,
        "dtype": result.dtype,
        "row": breach.row,
        "column": breach.column,
        "input": breach.input,
        "got": breach.got,
        "wanted": breach.want,
        "error": f"{breach.error:.6g} ULP" if math.isfinite(breach.error) else None,
        "bound": None if breach.bound is None else f"{breach.bound:g} ULP",
        "repeat": report.command(result),
    }
    lines = [f"BREACH {result.case}{where}: {breach.kind}"]
    lines += [f"  {name:<8} {value!s}" for name, value in facts.items() if value is not None]
    console.print("\n".join(lines) + "\n", markup=False, soft_wrap=True)


def _notes(report: Report) -> list[str]:
    left_out = {
        f"{result.implementation} {reason}: problems of the case {result.case} were left out"
        for result in report.results
        for reason in result.left_out
    }
    return [*report.notes, *sorted(left_out)]


def _print_summary(report: Report, console: Console) -> None:
    n_checked = sum(result.verdict != "left out" for result in report.results)
    n_cases = len({result.case for result in report.results})
    n_failed = len(report.failed)
    threads = " and ".join(map(str, report.thread_counts))
    verdict = "all within bounds" if report.ok else f"{n_failed} with a breach"
    if not n_checked:
        verdict = "nothing was checked"
    console.print(
        f"{n_checked} checks of {n_cases} cases with {threads} thread(s), seed {report.seed}, "
        f"{report.seconds:.1f} s: {verdict}",
        style="bold green" if report.ok else "bold red",
        soft_wrap=True,
    )


def print_cases(cases: list[Case], console: Console) -> None:
    """Every case with the reason why it exists."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("quick", no_wrap=True)
    table.add_column("why")
    for case in cases:
        table.add_row(case.name, "yes" if case.quick else "no", case.reason)
    console.print(table, markup=False)
