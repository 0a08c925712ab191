"""A table of what options cost, from results of `measure/test_options.py`."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.measure.case import DTYPES, Case
from fastxent.benchmarks.measure.targets import OPTIONS_ASKED, OPTIONS_AT_MOST
from rich.table import Table


def options_table(results: dict[str, Any]) -> Table | None:
    """Times with each option over those of the plain call; None where none were timed.

    A row for each case and backend, in which what is asked and missed is marked.
    """
    rows: dict[tuple[Case, str], dict[str, float]] = defaultdict(dict)
    plain: dict[tuple[Case, str], float] = {}
    for entry in results["benchmarks"]:
        info = entry["extra_info"]
        if "of_plain" in info:
            case = Case(info["operation"], info["dtype"], info["shape"], info["threads"])
            rows[case, info["backend"]][info["options"]] = info["of_plain"]
            plain[case, info["backend"]] = info["plain_median"]
    if not rows:
        return None
    names = list(dict.fromkeys(name for found in rows.values() for name in found))
    table = Table(
        title="Time with options / time of the plain call in the same rounds",
        caption=f"Asked, beyond the caches: at most {OPTIONS_AT_MOST} for "
        f"{', '.join(OPTIONS_ASKED)}; ! is more. The column plain is the plain call beside itself.",
    )
    for heading in ("case", "backend"):
        table.add_column(heading, no_wrap=True)
    table.add_column("plain takes", no_wrap=True, justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for (case, backend), found in rows.items():
        cells = [_ratio(case, name, found.get(name)) for name in names]
        table.add_row(case.group, backend, duration(plain[case, backend]), *cells)
    return table


def _ratio(case: Case, name: str, ratio: float | None) -> str:
    if ratio is None:
        return "-"
    beyond_caches = case.n_logits * DTYPES[case.dtype].itemsize > 64 << 20
    missed = name in OPTIONS_ASKED and beyond_caches and ratio > OPTIONS_AT_MOST
    return f"{ratio:.2f}{'!' if missed else ''}"
