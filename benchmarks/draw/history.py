"""The history on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fastxent.benchmarks.draw.wording import amount, changes, count, short_name
from fastxent.benchmarks.judge.change_points import FEWEST_RUNS
from fastxent.benchmarks.judge.history import Series
from rich.table import Table
from rich.text import Text


def changes_table(history: Sequence[Series]) -> Table:
    """The newest change comes first."""
    found = changes(history)
    machines = {series.newest.fingerprint for series in history}
    short = sum(
        series.newest.unit == "seconds" and len(series.entries) < 2 * FEWEST_RUNS
        for series in history
    )
    too_short = f" {short} with fewer than {2 * FEWEST_RUNS} runs cannot show any." if short else ""
    table = Table(
        caption=f"{count(len(found), 'change')} in {len(history)} series of "
        f"{count(len(machines), 'fingerprint')}.{too_short}"
    )
    for heading in ("since", "revision", "the one before"):
        table.add_column(heading, no_wrap=True)
    table.add_column("benchmark", overflow="fold")
    for heading in ("before", "after", "change"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    for change in found:
        keys = ("date", "revision", "previous", "name", "before", "after", "change", "verdict")
        table.add_row(*(Text(change[key]) for key in keys))  # brackets in a name are no markup
    return table


def newest_table(history: Sequence[Series]) -> Table:
    table = Table()
    table.add_column("benchmark", overflow="fold")
    table.add_column("runs", no_wrap=True, justify="right")
    for heading in ("revision", "machine or toolchain"):
        table.add_column(heading, no_wrap=True)
    table.add_column("newest", no_wrap=True, justify="right")
    for series in history:
        newest = series.newest
        table.add_row(
            Text(short_name(newest.name)),
            str(len(series.entries)),
            Text(newest.revision[:12]),
            Text(newest.fingerprint),
            amount(series, newest.median),
        )
    return table
