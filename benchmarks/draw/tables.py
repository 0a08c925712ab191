"""Tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=170)  # a file or a pipe has no width to keep to
    console.print(table)
