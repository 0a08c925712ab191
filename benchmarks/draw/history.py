"""The history on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from fastxent.benchmarks.draw.tables import plain
from fastxent.benchmarks.draw.wording import amount, changes, changes_text, short_name
from fastxent.benchmarks.judge.history import Series
from rich.table import Table


def changes_table(history: Sequence[Series]) -> Table:
    """The newest change comes first."""
    found = changes(history)
    table = Table(caption=changes_text(history, len(found)), show_header=bool(found))
    for heading in ("since", "revision", "the one before"):
        table.add_column(heading, no_wrap=True)
    table.add_column("benchmark", overflow="fold")
    for heading in ("before", "after", "change"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    for change in found:
        keys = ("date", "revision", "previous", "name", "before", "after", "change", "verdict")
        table.add_row(*(plain(change[key]) for key in keys))
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
            plain(short_name(newest.name)),
            str(len(series.entries)),
            plain(newest.revision[:12]),
            plain(newest.fingerprint),
            amount(series, newest.median),
        )
    return table
