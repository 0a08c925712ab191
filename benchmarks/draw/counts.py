"""Counts of instructions for people: what changed."""

from __future__ import annotations

from collections.abc import Sequence

from fastxent.benchmarks.judge.counts import Count, Judgement
from rich.table import Table

_HEADINGS = ("kernel", "before", "now", "change", "")


def as_table(counts: Sequence[Count], threshold: float) -> Table:
    table = Table()
    kernel, *numbers, change = _HEADINGS
    table.add_column(kernel, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column(change, no_wrap=True)
    for count in counts:
        table.add_row(*_cells(count, threshold))
    return table


def as_markdown(judgement: Judgement) -> str:
    """The verdict, the table of what changed, and the summary."""
    lines = [f"**Instruction counts: {judgement.verdict}**", ""]
    if judgement.changed:
        lines += [_line(_HEADINGS), "| --- | ---: | ---: | ---: | --- |"]
        lines += [_line(_cells(count, judgement.threshold)) for count in judgement.changed]
        lines.append("")
    return "\n\n".join(["\n".join(lines).rstrip(), *judgement.summary()]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(count: Count, threshold: float) -> tuple[str, ...]:
    change = "-" if count.ratio is None else f"{100 * (count.ratio - 1):+.2f} %"
    return (
        count.name,
        "-" if count.base is None else f"{count.base:,}",
        "-" if count.head is None else f"{count.head:,}",
        change,
        count.change(threshold).replace("same", ""),
    )
