"""A table of ratios from the results of the benchmarks.

pytest benchmarks/ --benchmark-json=results.json
python benchmarks/summarise.py results.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case import Case
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """One contender in one group."""

    kind: str  # "backend", "peer" or "limit"
    median: float  # seconds
    n_bytes: int  # that must be read or written

    @property
    def bandwidth(self) -> float:
        return self.n_bytes / self.median


Timings = dict[Case, dict[str, Timing]]


@dataclass(frozen=True)
class Row:
    """One backend in one group; None where the group has nothing to compare it with."""

    case: Case
    backend: str
    median: float
    of_limit: float | None
    best_peer: str | None
    times_peer: float | None


def read_results(path: Path) -> dict[str, Any]:
    """What --benchmark-json, or reach.py, wrote; OSError or ValueError, naming the path."""
    try:
        results = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON, which --benchmark-json writes: {error}") from error
    if not isinstance(results, dict) or "benchmarks" not in results:
        raise ValueError(f"{path} has no results of benchmarks, which --benchmark-json writes")
    return results


def read_timings(results: dict[str, Any]) -> Timings:
    """Cases and their contenders, in the order in which they were timed."""
    timings: Timings = defaultdict(dict)
    for entry in results["benchmarks"]:
        info = entry["extra_info"]
        if "contender" not in info:  # options.py has a table of its own
            continue
        case = Case(info["operation"], info["dtype"], info["shape"], info["threads"])
        timing = Timing(info["kind"], entry["stats"]["median"], info["bytes"])
        timings[case][info["contender"]] = timing
    return timings


def of_limit(case: Case, timings: dict[str, Timing], backend: str) -> float | None:
    """Bandwidth as a share of a plain read's (loss) or copy's: 1 is as fast as the memory."""
    limit = timings.get("limit_read" if case.operation == "loss" else "limit_copy")
    return timings[backend].bandwidth / limit.bandwidth if limit else None


def best_peer(timings: dict[str, Timing]) -> str | None:
    peers = {name: timing.median for name, timing in timings.items() if timing.kind == "peer"}
    return min(peers, key=peers.__getitem__, default=None)


def times_faster(timings: dict[str, Timing], backend: str, other: str | None) -> float | None:
    """Time of another contender / time of the backend: above 1 the backend wins."""
    if other not in timings:
        return None
    return timings[other].median / timings[backend].median


def summarise(timings: Timings) -> Iterator[Row]:
    for case, contenders in timings.items():
        peer = best_peer(contenders)
        for name, timing in contenders.items():
            if timing.kind == "backend":
                yield Row(
                    case=case,
                    backend=name,
                    median=timing.median,
                    of_limit=of_limit(case, contenders, name),
                    best_peer=peer,
                    times_peer=times_faster(contenders, name, peer),
                )


def as_table(rows: Iterable[Row]) -> Table:
    table = Table(
        caption="of limit: bandwidth over the bytes that must move, as a share of that of a plain "
        "read (loss) or copy (all else) of the logits. "
        "times: how often as fast as the fastest other library."
    )
    for heading in ("group", "backend"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "of limit"):
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
            ratio(row.of_limit),
            row.best_peer or "-",
            ratio(row.times_peer),
        )
        shown = row.case
    return table


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios from the results of the benchmarks.")
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote")
    try:
        results = read_results(parser.parse_args().results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print_table(as_table(summarise(read_timings(results))))


if __name__ == "__main__":
    main()
