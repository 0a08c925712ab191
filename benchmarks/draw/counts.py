"""Counts of instructions for people: what changed."""

from __future__ import annotations

from collections.abc import Sequence

from fastxent.benchmarks.draw.tables import plain
from fastxent.benchmarks.judge.counts import Count
from rich.table import Table
from rich.text import Text


def as_table(counts: Sequence[Count], threshold: float) -> Table:
    table = Table()
    table.add_column("kernel", no_wrap=True)
    for heading in ("before", "after", "change"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("")
    for count in counts:
        table.add_row(*_cells(count, threshold))
    return table


def _cells(count: Count, threshold: float) -> tuple[Text | str, ...]:
    change = "-" if count.ratio is None else f"{100 * (count.ratio - 1):+.2f} %"
    return (
        plain(count.name),
        "-" if count.base is None else f"{count.base:,}",
        "-" if count.head is None else f"{count.head:,}",
        change,
        count.change(threshold).replace("same", ""),
    )
