"""Tables on the terminal."""

from __future__ import annotations

from fastxent.verify.reports.writers import printable
from rich.console import Console
from rich.table import Table
from rich.text import Text


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def plain(text: str) -> Text:
    """Text whose brackets are no markup, and which cannot command a terminal."""
    return Text(printable(text))


def print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)  # a file or a pipe has no width to keep to
    console.print(table)
