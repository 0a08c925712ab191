"""A table of ratios from results: our median beside the roof and the fastest other library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastxent.benchmarks.draw.tables import duration, ratio
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.results import Timings, best_peer, of_memory, share_of_roof, times_faster
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One backend in one group; None where the group has nothing to compare it with."""

    case: Case
    backend: str
    median: float
    of_roof: float | None
    of_memory: float | None
    best_peer: str | None
    times_peer: float | None


def summarise(timings: Timings) -> Iterator[Row]:
    for case, implementations in timings.items():
        peer = best_peer(implementations)
        for name, timing in implementations.items():
            if timing.kind == "backend":
                yield Row(
                    case=case,
                    backend=name,
                    median=timing.median,
                    of_roof=share_of_roof(case, implementations, name),
                    of_memory=of_memory(case, implementations, name),
                    best_peer=peer,
                    times_peer=times_faster(implementations, name, peer),
                )


def as_table(rows: Iterable[Row]) -> Table:
    table = Table(
        caption="of roof: time of the bare exponentials of the logits, summed (loss) or written, "
        "as a share of ours. "
        "of memory: bandwidth over the bytes that must move, as a share of that of a plain "
        "read (loss) or copy (all else) of the logits. "
        "times: how often as fast as the fastest other library."
    )
    for heading in ("group", "backend"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "of roof", "of memory"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("best peer", no_wrap=True)
    table.add_column("times", no_wrap=True, justify="right")
    shown = None
    for row in rows:
        if row.case != shown:
            table.add_section()
        table.add_row(
            row.case.group if row.case != shown else "",
            row.backend,
            duration(row.median),
            ratio(row.of_roof),
            ratio(row.of_memory),
            row.best_peer or "-",
            ratio(row.times_peer),
        )
        shown = row.case
    return table
