"""The table of ratios, from made-up results."""

from __future__ import annotations

import io
from typing import Any

import pytest
from made_up_results import bare_entry as entry

pytest.importorskip("cpuinfo", reason="the extra 'bench' brings it")

from fastxent.benchmarks.draw.cold_start import cold_start_table
from fastxent.benchmarks.draw.options import options_table
from fastxent.benchmarks.draw.summary import as_table, summarise
from fastxent.benchmarks.measure.targets import OPTIONS_AT_MOST
from fastxent.benchmarks.results import read_timings
from rich.console import Console
from rich.table import Table


def cells(table: Table) -> list[list[str]]:
    """The cells of every row, its heading included."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def summary(*entries: dict[str, Any]) -> list[list[str]]:
    return cells(as_table(summarise(read_timings({"benchmarks": entries}))))


def test_the_summary_compares_with_the_roof_and_the_fastest_peer() -> None:
    group = "loss_and_grad float32 65536x1000 2threads"
    _, cython, numba = summary(
        entry(group, "roof_read", "roof", 0.010, arrays=1),
        entry(group, "roof_copy", "roof", 0.030, arrays=2),
        entry(group, "roof_exp_write", "roof", 0.020, arrays=2),
        entry(group, "cython", "backend", 0.040, arrays=2),
        entry(group, "numba", "backend", 0.080, arrays=2),
        entry(group, "scipy", "peer", 0.8, arrays=2),
        entry(group, "torch", "peer", 0.2, arrays=2),
    )
    assert cython == [group, "cython", "40 ms", "0.50", "0.75", "torch", "5.00"]
    assert numba == ["", "numba", "80 ms", "0.25", "0.38", "torch", "2.50"]


def test_the_times_of_several_roofs_add_up() -> None:
    group = "soft_loss_and_grad float32 16384x1000 2threads"
    _, cython = summary(
        entry(group, "roof_read", "roof", 0.010, arrays=1),
        entry(group, "roof_exp_write", "roof", 0.020, arrays=2),
        entry(group, "cython", "backend", 0.040, arrays=3),
    )
    assert cython[3] == "0.75"


def test_the_summary_compares_bandwidths_where_more_must_move() -> None:
    group = "soft_loss_and_grad float32 16384x1000 2threads"
    _, cython = summary(
        entry(group, "roof_copy", "roof", 0.020, arrays=2),
        entry(group, "cython", "backend", 0.030, arrays=3),
    )
    assert cython[3:5] == ["-", "1.00"]


def test_the_summary_keeps_groups_apart_and_shows_what_is_missing() -> None:
    _, first, second = summary(
        entry("loss float32 8x10 1thread", "roof_read", "roof", 1e-6),
        entry("loss float32 8x10 1thread", "cython", "backend", 4e-6),
        entry("loss float64 8x10 1thread", "cython", "backend", 2.0),
        entry("loss float64 8x10 1thread", "scipy", "peer", 1.0),
    )
    assert first == ["loss float32 8x10 1thread", "cython", "4 us", "-", "0.25", "-", "-"]
    assert second == ["loss float64 8x10 1thread", "cython", "2 s", "-", "-", "scipy", "0.50"]


def with_options(shape: str, options: str, of_plain: float) -> dict[str, Any]:
    info = {"operation": "loss", "dtype": "float32", "shape": shape, "threads": 1}
    info |= {"options": options, "backend": "cython", "plain_median": 0.01, "of_plain": of_plain}
    return {"group": "options", "extra_info": info, "stats": {"median": 0.01 * of_plain}}


def test_what_an_option_costs_is_marked_where_it_is_more_than_is_asked() -> None:
    too_much = OPTIONS_AT_MOST + 0.01
    entries = [
        with_options("65536x1000", "plain", 1.0),
        with_options("65536x1000", "z_loss", too_much),
        with_options("65536x1000", "softcap", too_much),  # of which nothing is asked
        with_options("1024x1024", "z_loss", too_much),  # in the caches
    ]
    table = options_table({"benchmarks": entries})
    assert table is not None
    _, large, small = cells(table)
    cost = f"{too_much:.2f}"
    group = "loss float32 65536x1000 1thread"
    assert large == [group, "cython", "10 ms", "1.00", cost + "!", cost]
    assert small[3:] == ["-", cost, "-"]


def test_there_is_no_table_of_what_was_not_timed() -> None:
    results = {"benchmarks": [entry("loss float32 8x10 1thread", "cython", "backend", 1e-6)]}
    assert options_table(results) is None
    assert cold_start_table(results) is None


def test_fresh_processes_are_shown_by_what_they_start() -> None:
    entries = [
        {"group": group, "extra_info": {"starts": name}, "stats": {"median": seconds}}
        for group, name, seconds in (("import", "python", 0.01), ("import", "numpy", 0.1))
    ]
    table = cold_start_table({"benchmarks": entries})
    assert table is not None
    assert cells(table)[1:] == [["import", "python", "10 ms"], ["", "numpy", "100 ms"]]
