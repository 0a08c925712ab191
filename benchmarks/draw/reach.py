"""What is asked of the package beside what was measured, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from fastxent.benchmarks.draw.tables import duration, ratio
from fastxent.benchmarks.judge.reach import Verdict
from rich.table import Table


def as_table(verdicts: Sequence[Verdict]) -> Table:
    met = sum(verdict.met is True for verdict in verdicts)
    short = sum(verdict.met is False for verdict in verdicts)
    table = Table(
        caption=f"{met} met, {short} SHORT, {len(verdicts) - met - short} missing. "
        "Medians of one run. Of memory: of the bandwidth of a plain read (loss) or a copy (all "
        "else). Of roof: time of the bare exponentials / ours."
    )
    for heading in ("asked of", "case", "backend"):
        table.add_column(heading, no_wrap=True)
    table.add_column("threads", no_wrap=True, justify="right")
    table.add_column("asked", no_wrap=True)
    for heading in ("measured", "median", "of roof"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    previous = None
    for verdict in verdicts:
        if previous and (previous.row, previous.asked) != (verdict.row, verdict.asked):
            table.add_section()
        table.add_row(
            verdict.row,
            verdict.case,
            verdict.backend,
            str(verdict.threads),
            verdict.asked + (f" ({verdict.peer})" if verdict.peer else ""),
            "-" if verdict.measured is None else f"{verdict.measured:.3g}",
            "-" if verdict.median is None else duration(verdict.median),
            ratio(verdict.of_roof),
            {True: "met", False: "SHORT", None: "missing"}[verdict.met],
        )
        previous = verdict
    return table
