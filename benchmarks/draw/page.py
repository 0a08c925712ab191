"""Results, history and verdicts as one page: no other file and no network is needed to read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from fastxent.benchmarks.draw.content import Content
from fastxent.benchmarks.draw.measured import Grid, Measured
from fastxent.benchmarks.draw.plots import Key, Plot, history_plot, keys, throughput_plots
from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.draw.wording import (
    GATES,
    HEADINGS,
    amount,
    amount_of,
    case_text,
    changes,
    changes_text,
    count,
    interval,
    percent,
    rate,
    sentence,
    shape_text,
    short_name,
    times,
)
from fastxent.benchmarks.judge.history import Series
from fastxent.benchmarks.judge.verdicts import Change, Verdict
from fastxent.benchmarks.measure.case import Case
from fastxent.verify.reports.page_parts import render

_TEMPLATE: Final = "page.html.jinja"
# Pictures of series beyond these would be the most of the page.
_MOST_SERIES: Final = 24


def html_text(content: Content) -> str:
    """The page, the same for the same content."""
    return render(
        files(__package__).joinpath(_TEMPLATE),
        heading=HEADINGS[content.verdict],
        state={"pass": "good", "fail": "bad"}.get(content.verdict or "", "empty"),
        verdicts=[_verdict(each) for each in content.verdicts],
        machines=[_machine(each, f"m{i}") for i, each in enumerate(content.measured)],
        histories=_histories(content.history or ()),
        history_problems=content.history_problems,
        missing=list(content.missing),
    )


# ---- verdicts ----------------------------------------------------------------------------------


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "title": GATES[verdict.kind],
        "state": {"pass": "good", "fail": "bad"}.get(verdict.verdict, "empty"),
        "verdict": verdict.verdict,
        "sentence": sentence(verdict),
        "notes": verdict.notes,
        "is_timed": verdict.kind == "compare",
        "notable": [_change(verdict, each) for each in verdict.notable],
        "others": [_change(verdict, each) for each in verdict.changes if each.verdict == "same"],
    }


def _change(verdict: Verdict, change: Change) -> dict[str, str]:
    amount = amount_of(verdict)
    return {
        "name": short_name(change.name),
        "verdict": change.verdict,
        "change": "" if change.ratio is None else percent(change.ratio),
        "interval": interval(change),
        "base": amount(change.base),
        "head": amount(change.head),
    }


# ---- a machine's results -----------------------------------------------------------------------


def _machine(measured: Measured, place: str) -> dict[str, Any]:
    # What most readers look for comes first, and is open.
    wanted = [grid for grid in measured.grids if _is_wanted(grid)]
    grids = wanted + [grid for grid in measured.grids if grid not in wanted]
    n_wanted = len(wanted)
    return {
        "title": measured.title,
        "facts": list(machine_facts(measured)),
        "grids": [
            _grid(grid, f"{place}g{i}", is_open=i < max(1, n_wanted))
            for i, grid in enumerate(grids)
        ],
        "elsewhere": _table(measured, measured.outside_grids),
        "others": [
            (each.name, each.group or "", duration(each.median), duration(each.spread), each.rounds)
            for each in measured.others
        ],
    }


def _is_wanted(grid: Grid) -> bool:
    in_brief = (grid.dtype, grid.threads) == ("float32", grid.measured.threads[-1])
    return in_brief and grid.operation in ("loss", "loss_and_grad")


def machine_facts(measured: Measured) -> Iterable[tuple[str, str]]:
    """Names and values, those that are known."""
    machine = measured.machine
    facts: dict[str, Any] = {
        "measured": measured.date,
        "with": measured.command,
        "CPU": machine.get("cpu"),
        "CPUs": machine.get("cpus"),
        "instruction set of the Cython backend": measured.instruction_set,
        "caches": ", ".join(f"{k} {_bytes(v)}" for k, v in (machine.get("caches") or {}).items()),
        "memory": _bytes(machine["memory"]) if machine.get("memory") else None,
        "load when it began": machine.get("load"),
        "governor": machine.get("governor"),
        "system": " ".join(
            str(machine[name]) for name in ("system", "architecture") if machine.get(name)
        ),
        "versions": ", ".join(f"{name} {text}" for name, text in measured.versions.items()),
        "fingerprint": machine.get("fingerprint"),
    }
    return ((name, str(value)) for name, value in facts.items() if value not in (None, ""))


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n / 1024:.3g} KiB"


def _grid(grid: Grid, place: str, is_open: bool) -> dict[str, Any]:
    backends, peers = grid.names("backend"), grid.names("peer")
    has_roof = any(grid.roof(batch) for batch in grid.batches)
    sizes = [(batch, n) for batch in grid.batches for n in grid.classes if (batch, n) in grid.cells]
    plots: list[Plot] = throughput_plots(grid, place) if backends or peers else []
    marks: list[Key] = keys(grid.measured, [*backends, *peers], has_roof, place) if plots else []
    return {
        "title": grid.title,
        "id": place,
        "is_open": is_open,
        "plots": plots,
        "keys": marks,
        "heat_maps": [_heat_map(grid, backend, peer) for backend in backends for peer in peers],
        "table": _table(grid.measured, [grid.cells[size] for size in sizes]),
    }


@dataclass(frozen=True)
class _Cell:
    """A ratio, and how it is coloured; empty where a size was not timed."""

    text: str = ""
    style: str = ""


def _heat_map(grid: Grid, backend: str, peer: str) -> dict[str, Any]:
    def cell(batch: int, classes: int) -> _Cell:
        ratio = grid.ratio(batch, classes, backend, peer)
        return _Cell() if ratio is None else _Cell(times(ratio), heat(ratio))

    return {
        "title": f"{backend} against {peer}",
        "classes": grid.classes,
        "rows": [(batch, [cell(batch, n) for n in grid.classes]) for batch in grid.batches],
    }


# Orange, nothing, blue: people with any kind of colour vision can tell them apart.
_SLOWER, _EVEN, _FASTER = (213, 94, 0), (238, 238, 234), (24, 92, 158)
_FULL_AT: Final = 16.0


def heat(ratio: float) -> str:
    """The style of a cell: blue where the backend is faster, orange where the other one is."""
    share = max(-1.0, min(1.0, math.log(ratio) / math.log(_FULL_AT)))
    end = _FASTER if share > 0 else _SLOWER
    colour = [round(a + (b - a) * abs(share)) for a, b in zip(_EVEN, end, strict=True)]
    text = "#000" if _luminance(colour) > 0.18 else "#fff"  # a contrast of 4.5 at least
    return f"background:#{bytes(colour).hex()};color:{text}"


def _luminance(colour: Sequence[int]) -> float:
    """As WCAG 2 defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _table(measured: Measured, cases: Sequence[Case]) -> dict[str, Any] | None:
    """Medians of all that was timed in some cases; None where that is nothing."""
    if not cases:
        return None
    backends, peers = measured.names("backend", cases), measured.names("peer", cases)
    of_roof = any(measured.roof_seconds(case) for case in cases)
    return {
        "cases": [case_text(case) for case in cases],
        "backends": backends,
        "peers": peers,
        "of_roof": of_roof,
        "rows": [_row(measured, case, backends, peers, of_roof) for case in cases],
        "mixed": len({(case.operation, case.dtype, case.threads) for case in cases}) > 1,
    }


def _row(
    measured: Measured, case: Case, backends: list[str], peers: list[str], of_roof: bool
) -> tuple[str, list[str]]:
    def median(name: str) -> str:
        timing = measured.timings[case].get(name)
        return duration(timing.median) if timing else ""

    cells = []
    for name in backends:
        timing = measured.timings[case].get(name)
        cells += [median(name), rate(case, timing.median) if timing else ""]
        if of_roof:
            share = measured.share_of_roof(case, name) if timing else None
            cells.append("" if share is None else f"{share:.2f}")
    if of_roof:
        seconds = measured.roof_seconds(case)
        cells.append("" if seconds is None else duration(seconds))
    return shape_text(case), [*cells, *map(median, peers)]


# ---- history -----------------------------------------------------------------------------------


def _histories(history: Sequence[Series]) -> list[dict[str, Any]]:
    """For each fingerprint: its changes, newest first, and its series."""
    groups: dict[str, list[Series]] = {}
    for series in history:
        groups.setdefault(series.newest.fingerprint, []).append(series)
    return [
        _history(fingerprint, group, f"h{i}")
        for i, (fingerprint, group) in enumerate(groups.items())
    ]


def _history(fingerprint: str, group: Sequence[Series], place: str) -> dict[str, Any]:
    in_order = sorted(group, key=lambda series: not series.change_points)
    drawn = [series for series in in_order if len(series.entries) > 1][:_MOST_SERIES]
    machine = group[0].newest.machine
    return {
        "title": machine.get("cpu") or fingerprint,
        "fingerprint": fingerprint,
        "n_runs": count(len({entry.time for each in group for entry in each.entries}), "run"),
        "n_series": count(len(group), "benchmark"),
        "changes": changes(group),
        "summary": changes_text(group, 0),
        "plots": [history_plot(series, f"{place}-{i}") for i, series in enumerate(drawn)],
        "n_left_out": len(group) - len(drawn),
        "newest": [
            (
                short_name(series.newest.name),
                len(series.entries),
                series.newest.revision[:12],
                amount(series, series.newest.median),
                amount(series, series.newest.spread) if series.newest.unit == "seconds" else "",
            )
            for series in group
        ],
    }
