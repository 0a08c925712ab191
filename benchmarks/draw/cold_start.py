"""A table of imports and first results, from results of `measure/test_cold_start.py`."""

from __future__ import annotations

from typing import Any

from fastxent.benchmarks.draw.tables import duration
from rich.table import Table


def cold_start_table(results: dict[str, Any]) -> Table | None:
    """Medians of fresh processes; None where none were timed."""
    timed = [entry for entry in results["benchmarks"] if "starts" in entry["extra_info"]]
    if not timed:
        return None
    table = Table(caption="A fresh process from its start to its end, that of Python included.")
    for heading in ("from nothing to", "with"):
        table.add_column(heading, no_wrap=True)
    table.add_column("median", no_wrap=True, justify="right")
    shown = None
    for entry in timed:
        if entry["group"] != shown:
            table.add_section()
        group = entry["group"] if entry["group"] != shown else ""
        table.add_row(group, entry["extra_info"]["starts"], duration(entry["stats"]["median"]))
        shown = entry["group"]
    return table
