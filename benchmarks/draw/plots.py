"""The plots of the page: one small picture for each batch or benchmark, which fits a phone.

What all plots are made of is the verification's: `fastxent.verify.reports.plot_parts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from fastxent.benchmarks.draw.measured import Grid, Measured
from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.draw.wording import percent, short_name
from fastxent.benchmarks.judge.history import Series
from fastxent.verify.reports.plot_parts import (
    FOREGROUND,
    LIMIT,
    counts_on_x,
    label,
    our_settings,
    style,
    svg,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

# Inches of 72 units: at its own size a picture is as wide as a phone.
_WIDTH: Final = 3.9
_ROOF: Final[dict[str, Any]] = {
    "color": LIMIT,
    "linestyle": (0, (4, 2)),
    "linewidth": 1.4,
    "marker": "_",
    "markersize": 8,
    "markeredgewidth": 1.4,
}
# Told apart by their lightness too, and by the sign of the number beside them.
_SLOWER, _FASTER = "#d55e00", "#2f7fc1"


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, its heading, and what it says to those who do not see it."""

    title: str
    alternative: str
    svg: str


@dataclass(frozen=True, slots=True)
class Key:
    """A mark and its meaning."""

    name: str
    svg: str


def keys(measured: Measured, names: Iterable[str], with_roof: bool, place: str) -> list[Key]:
    """What the marks in `throughput_plots` mean."""
    marks = {name: _line_style(measured, name) for name in names}
    if with_roof:
        marks["roof: what this machine allows"] = _ROOF
    with our_settings():
        return [
            Key(label(name), _sample(mark, f"{place}-{i}"))
            for i, (name, mark) in enumerate(marks.items())
        ]


def _sample(mark: dict[str, Any], name: str) -> str:
    figure = Figure(figsize=(0.42, 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.plot([0.05, 0.5, 0.95], [0.5] * 3, **mark, markevery=[1])
    return svg(figure, name)


def _line_style(measured: Measured, name: str) -> dict[str, Any]:
    is_backend = measured.kind(name) == "backend"
    lines = {"linestyle": "-", "linewidth": 2.0 if is_backend else 0.9}
    return style(measured, name) | lines


# ---- throughput --------------------------------------------------------------------------------


def throughput_plots(grid: Grid, place: str) -> list[Plot]:
    """For each batch the logits a second, by classes; all on the same axes."""
    names = [*grid.names("peer"), *grid.names("backend")]  # those in front come last
    found = {
        batch: ({name: grid.throughput(batch, name) for name in names}, grid.roof(batch))
        for batch in grid.batches
    }
    values = [
        value
        for lines, roof in found.values()
        for line in (*lines.values(), roof)
        for value in line.values()
    ]
    with our_settings():
        return [
            _throughput_plot(grid, batch, lines, roof, values, f"{place}-{batch}")
            for batch, (lines, roof) in found.items()
        ]


def _throughput_plot(
    grid: Grid,
    batch: int,
    lines: dict[str, dict[int, float]],
    roof: dict[int, float],
    values: list[float],
    place: str,
) -> Plot:
    figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
    axes = figure.subplots()
    counts_on_x(axes, grid.classes)
    _logarithmic(axes, values)
    for name, line in lines.items():
        axes.plot(list(line), list(line.values()), **_line_style(grid.measured, name))
    if roof:
        axes.plot(list(roof), list(roof.values()), **_ROOF)
    axes.set_xlabel("classes")
    axes.set_ylabel("logits a second")
    best = {name: max(line.values()) for name, line in lines.items() if line}
    if roof:
        best["the roof"] = max(roof.values())
    most = EngFormatter(places=1)
    texts = (f"{name} {most(value)}" for name, value in best.items())
    alternative = f"Logits a second against classes, batch {batch}. Most: {', '.join(texts)}."
    return Plot(f"batch {batch}", alternative, svg(figure, place))


def _logarithmic(axes: Axes, values: list[float]) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))


# ---- history -----------------------------------------------------------------------------------


def history_plot(series: Series, place: str) -> Plot:
    """A series of runs: the level between change points, and the changes."""
    medians = [entry.median for entry in series.entries]
    with our_settings():
        figure = Figure(figsize=(_WIDTH, 2.0), layout="constrained")
        axes = figure.subplots()
        points = series.change_points
        edges = [0, *(point.index for point in points), len(medians)]
        levels = [*(point.before for point in points), *(point.after for point in points[-1:])]
        bottom, top = _limits(medians, levels or [median(medians)])
        axes.set_ylim(bottom, top)
        axes.plot(range(len(medians)), medians, color=FOREGROUND, alpha=0.45, linewidth=0.7)
        axes.plot(range(len(medians)), medians, ".", color=FOREGROUND, markersize=4)
        beyond = [i for i, value in enumerate(medians) if value > top]
        axes.plot(beyond, [top] * len(beyond), "^", color=FOREGROUND, markersize=4, clip_on=False)
        for level, start, stop in zip(levels, edges, edges[1:], strict=False):
            axes.plot([start - 0.3, stop - 0.7], [level] * 2, color=_FASTER, linewidth=2.2)
        for point in points:
            colour = _SLOWER if point.ratio > 1 else _FASTER
            axes.axvline(point.index - 0.5, color=colour, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"{percent(point.ratio)} ",
                (point.index - 0.5, 1.0),
                xycoords=("data", "axes fraction"),
                ha="right" if point.index > len(medians) / 2 else "left",
                va="bottom",
                color=colour,
                fontweight="bold",
            )
        first, last = series.entries[0].time[:10], series.newest.time[:10]
        axes.set_xlabel(f"runs, from {first} to {last}" if len(medians) > 1 else first)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(-0.8, len(medians) - 0.2)
        if series.newest.unit == "seconds":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
        else:
            axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
            axes.set_ylabel("instructions")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        found = "; ".join(
            f"{percent(point.ratio)} at run {point.index}, revision "
            f"{series.entries[point.index].revision[:12]}"
            for point in points
        )
        alternative = f"{len(medians)} runs. Changes: {found or 'none'}."
        return Plot(short_name(series.newest.name), alternative, svg(figure, place))


def _limits(medians: list[float], levels: list[float]) -> tuple[float, float]:
    """Noise of a few per cent is not to look like mountains, nor one bad run to hide the rest."""
    low, high = min(levels) / 1.1, max(levels) * 1.1
    return min(low, *medians) * 0.99, min(max(high, *medians), 2 * max(levels)) * 1.01
