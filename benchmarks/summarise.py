"""A table of ratios from the results of the benchmarks.

pytest benchmarks/ --benchmark-json=results.json
python benchmarks/summarise.py results.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One backend in one group; None where the group has nothing to compare it with."""

    group: str
    backend: str
    median: float  # seconds
    of_read: float | None  # time of a plain read / time of the backend: 1 is the limit's speed
    of_copy: float | None
    best_peer: str | None
    times_peer: float | None  # time of the fastest peer / time of the backend: above 1 we win


def summarise(results: dict[str, Any]) -> Iterator[Row]:
    """The rows of the table, in the order in which they were timed."""
    groups: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    for entry in results["benchmarks"]:
        kind, median = entry["extra_info"]["kind"], entry["stats"]["median"]
        groups[entry["group"]][entry["params"]["contender"]] = kind, median
    for group, contenders in groups.items():
        limits = {name: time for name, (kind, time) in contenders.items() if kind == "limit"}
        peers = {name: time for name, (kind, time) in contenders.items() if kind == "peer"}
        best_peer = min(peers, key=peers.__getitem__, default=None)
        for name, (kind, median) in contenders.items():
            if kind == "backend":
                yield Row(
                    group=group,
                    backend=name,
                    median=median,
                    of_read=limits["read"] / median if "read" in limits else None,
                    of_copy=limits["copy"] / median if "copy" in limits else None,
                    best_peer=best_peer,
                    times_peer=peers[best_peer] / median if best_peer else None,
                )


def as_table(rows: Iterator[Row]) -> Table:
    table = Table(
        caption="of read, of copy: speed as a share of a plain read or copy of the logits. "
        "times: how often as fast as the fastest other library."
    )
    for heading in ("group", "backend"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "of read", "of copy"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("best peer", no_wrap=True)
    table.add_column("times", no_wrap=True, justify="right")
    shown = ""
    for row in rows:
        if row.group != shown:
            table.add_section()
        table.add_row(
            row.group if row.group != shown else "",
            row.backend,
            duration(row.median),
            ratio(row.of_read),
            ratio(row.of_copy),
            row.best_peer or "-",
            ratio(row.times_peer),
        )
        shown = row.group
    return table


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios from the results of the benchmarks.")
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote")
    results = json.loads(parser.parse_args().results.read_text())
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a file or a pipe has no width to keep to
    console.print(as_table(summarise(results)))


if __name__ == "__main__":
    main()
