"""The table, the progress bar and the failures, for a terminal or a plain file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import rich.box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .case import Case
from .result import Breach, Report, Result

_HEADER: Final = (
    "case", "backend", "dtype", "loss", "gradient", "bound", "reference", "verdict"
)  # fmt: skip
_TO_THE_RIGHT: Final = ("loss", "gradient", "bound")
_LEGEND: Final = (
    "bound = loss / gradient in units in the last place (ULP); reference: "
    "scipy = scipy.special.log_softmax in float64, extended = wider than float64"
)


def make_console() -> Console:
    """A console as wide as `COLUMNS` says, or the terminal; 80 characters if neither is there."""
    return Console(highlight=False)


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


def print_report(report: Report, console: Console, *, every: bool = False) -> None:
    """The table, every failure with the command that repeats it, and a summary.

    The table has one line for a case and backend, that of the dtype nearest to its bound, and
    all that failed; or with `every` a line for each dtype.
    """
    shown = report.results if every else _worst(report.results)
    _print_table(shown, console)
    console.print(_LEGEND, markup=False)
    if len(shown) < len(report.results):
        console.print("Shown is the dtype nearest to its bound; --all shows every dtype.")
    console.print()
    for result in report.failed:
        for breach in result.breaches.values():
            _print_breach(report, result, breach, console)
    for note in _notes(report):
        console.print(f"note: {note}", markup=False)
    _print_summary(report, console)


def _worst(results: list[Result]) -> list[Result]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.case, result.implementation), []).append(result)
    shown: list[Result] = []
    for group in groups.values():
        failed = [result for result in group if result.breaches]
        shown += failed or [max(group, key=lambda result: result.relative_error)]
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
        show(line([name, *others]), "bold red" if result.breaches else None)


def _cells(result: Result) -> list[str]:
    return [
        result.case,
        result.implementation,
        result.dtype,
        _number(result.loss_error, 2),
        _number(result.output_error, 2),
        f"{_number(result.bound.loss)} / {_number(result.bound.output)}",
        result.reference,
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
    if any(_is_function(result) for result in report.results):
        console.print("functions: softmax, log_softmax, logsumexp")
    for dtype in dict.fromkeys(result.dtype for result in report.results):
        parts = _worst_errors([result for result in report.results if result.dtype == dtype])
        if parts:
            console.print(f"{dtype}: {', '.join(parts)} ULP", soft_wrap=True)
    n_checked = sum(result.verdict != "left out" for result in report.results)
    n_cases = len({result.case for result in report.results})
    n_failed = len(report.failed)
    threads = " and ".join(map(str, report.thread_counts))
    verdict = "all within bounds" if report.ok else f"{n_failed} with a breach"
    if not n_checked:
        verdict = "nothing was checked"
    console.print(
        f"{_count(n_checked, 'check')} of {_count(n_cases, 'case')} with {threads} "
        f"thread{'' if report.thread_counts == (1,) else 's'}, seed {report.seed}, "
        f"{report.seconds:.1f} s: {verdict}",
        style="bold green" if report.ok else "bold red",
        soft_wrap=True,
    )


def _worst_errors(results: list[Result]) -> list[str]:
    errors: dict[str, list[float | None]] = {"losses": [], "gradients": [], "functions": []}
    for result in results:
        is_function = _is_function(result)
        errors["functions" if is_function else "losses"].append(result.loss_error)
        errors["functions" if is_function else "gradients"].append(result.output_error)
    worst = {
        name: max((value for value in values if value is not None), default=None)
        for name, values in errors.items()
    }
    return [
        f"{name} within {_number(value, 2)}" for name, value in worst.items() if value is not None
    ]


def _is_function(result: Result) -> bool:
    # Only cross-entropy has both a loss and a gradient.
    return result.bound.loss is None or result.bound.output is None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_cases(cases: list[Case], console: Console) -> None:
    """Every case with the reason why it exists."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("quick", no_wrap=True)
    table.add_column("why")
    for case in cases:
        table.add_row(case.name, "yes" if case.quick else "no", case.reason)
    console.print(table, markup=False)
