"""Plots of a report: what a person sees at a glance, and a table does not show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..case import FUNCTIONS, dtype_named
from ..implementation import BACKENDS
from ..metrics import unit_roundoff
from ..result import Report, Result, Worst
from .plot_parts import (
    FOREGROUND,
    LIMIT,
    WIDTH,
    Scale,
    counts_on_x,
    label,
    legend,
    our_settings,
    scale_for,
    style,
    svg,
)
from .words import count, failures
from .writers import printable

# Errors above it, in ULP, are shown on a logarithmic axis.
_LINEAR_UP_TO: Final = 12.0


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: what it is about, how to read it, what it says to those who do not see it."""

    title: str
    text: str
    alternative: str
    svg: str


def make_plots(report: Report) -> list[Plot]:
    """The plots that this report has data for."""
    with our_settings():
        makers = (_beside_each_other, _by_classes, _by_case)
        return [plot for maker in makers if (plot := maker(report)) is not None]


def _names(report: Report, results: Sequence[Result]) -> list[str]:
    """The implementations that have any of these results, in the order of the run."""
    present = {each.implementation for each in results}
    return [name for name in report.implementations if name in present]


def _limit_line(linestyle: Any, text: str) -> Line2D:
    return Line2D([], [], color=LIMIT, linestyle=linestyle, linewidth=1.0, label=text)


# ---- error against the number of classes ------------------------------------------------------


def _by_classes(report: Report) -> Plot | None:
    results = [each for each in report.results if each.case not in FUNCTIONS and each.points]
    if not results:
        return None
    dtypes = list(dict.fromkeys(each.dtype for each in results))
    names = _names(report, results)
    found = {
        (dtype, field, name): _largest_by_classes(results, dtype, field, name)
        for dtype in dtypes
        for field in ("loss", "output")
        for name in names
    }
    values = [value for series in found.values() for value in series.values()]
    is_linear = all(value <= _LINEAR_UP_TO for value in values)
    scale = scale_for(values, 0.01, 100.0)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.0 * len(dtypes)), layout="constrained")
    panels = figure.subplots(len(dtypes), 2, sharex=True, sharey=not is_linear, squeeze=False)
    has_bound = False
    for row, dtype in zip(panels, dtypes, strict=True):
        for axes, field, title in zip(row, ("loss", "output"), ("loss", "gradient"), strict=True):
            axes.set_title(f"{title}, {dtype}", loc="left")
            counts_on_x(axes, [n for series in found.values() for n in series])
            bound = _bound(results, dtype, field)
            if bound is not None:
                axes.axhline(bound, color=LIMIT, linestyle="--", linewidth=1.0)
                has_bound = True
            for name in names:
                series = found[dtype, field, name]
                heights = list(series.values())
                if not is_linear:
                    heights = [scale.place(value) for value in heights]
                axes.plot(list(series), heights, **style(report, name))
            if is_linear:
                axes.set_ylim(0, 1.12 * max([bound or 0, *_of_row(found, dtype, field), 1.0]))
            else:
                scale.set_on(axes, "y")
        row[0].set_ylabel("error (ULP)")
    for axes in panels[-1]:
        axes.set_xlabel("number of classes")
    figure.align_ylabels()
    legend(figure, report, names, *([_limit_line("--", "largest allowed")] if has_bound else []))
    text = (
        "Each mark is the largest error of all problems with this number of classes. An error that "
        "grows from left to right adds up over the classes. Where two implementations gave the "
        "same, their marks lie on each other."
    )
    worst = max((value for value in values if math.isfinite(value)), default=0.0)
    alternative = (
        f"Scatter plot of the error in ULP against the number of classes, for loss and gradient in "
        f"{', '.join(dtypes)}; largest finite error {worst:.3g} ULP."
    )
    return Plot("Error by number of classes", text, alternative, svg(figure, "classes"))


def _largest_by_classes(
    results: Sequence[Result], dtype: str, field: str, name: str
) -> dict[int, float]:
    """Of numbers of classes within some 10 %, which the plot could not show apart, the worst."""
    found: dict[int, tuple[float, int]] = {}
    for result in results:
        if result.dtype != dtype or result.implementation != name:
            continue
        for point in result.points:
            value = point.loss if field == "loss" else point.output
            if value is not None:
                group = round(24 * math.log10(max(point.n_classes, 1)))
                found[group] = max(found.get(group, (0.0, 0)), (value, point.n_classes))
    return {
        n_classes: value for value, n_classes in sorted(found.values(), key=lambda each: each[1])
    }


def _of_row(
    found: dict[tuple[str, str, str], dict[int, float]], dtype: str, field: str
) -> list[float]:
    return [
        value
        for (of_dtype, of_field, _), series in found.items()
        if of_dtype == dtype and of_field == field
        for value in series.values()
    ]


def _bound(results: Sequence[Result], dtype: str, field: str) -> float | None:
    for result in results:
        if result.dtype == dtype and result.bound is not None:
            return result.bound.loss if field == "loss" else result.bound.output
    return None


# ---- share of what is allowed, by case --------------------------------------------------------


def _by_case(report: Report) -> Plot | None:
    results = [each for each in report.results if each.loss is not None or each.output is not None]
    if not results:
        return None
    cases = list(dict.fromkeys(each.case for each in results))
    failed = {each.case for each in failures(report)}
    names = _names(report, results)
    found = {
        (field, name): _largest_shares(results, field, name)
        for field in ("loss", "output")
        for name in names
    }
    values = [value for series in found.values() for value in series.values()]
    scale = scale_for(values, 1e-2, 10.0)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.155 * len(cases)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, field, title in zip(panels, ("loss", "output"), ("loss", "gradient"), strict=True):
        axes.set_title(title, loc="left")
        scale.set_on(axes, "x")
        axes.axvspan(1.0, axes.get_xlim()[1], color=LIMIT, alpha=0.09, linewidth=0)
        axes.axvline(1.0, color=LIMIT, linestyle="--", linewidth=1.0)
        axes.set_xlabel("error as a share of the one allowed")
        for name in names:
            series = found[field, name]
            places = [scale.place(value) for value in series.values()]
            axes.plot(places, [cases.index(case) for case in series], **style(report, name))
    axes = panels[0]
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_yticks(range(len(cases)), [printable(case) for case in cases])
    for case, text in zip(cases, axes.get_yticklabels(), strict=True):
        if case in failed:
            text.set_color(LIMIT)
            text.set_fontweight("bold")
    legend(figure, report, names, _limit_line("--", "largest allowed"))
    text = (
        "Each mark is the largest error of a case in any dtype, beside the error allowed there; "
        "right of the line it is too large. Cases that fail the run have red names. In "
        "the cases softmax, log_softmax and logsumexp it is the error of what these return."
    )
    n_beyond = sum(value > 1 for value in values)
    alternative = (
        f"Dot plot of {count(len(cases), 'case')}: errors of loss and gradient as a share of the "
        f"error allowed; {count(n_beyond, 'mark')} beyond 1."
    )
    return Plot("Error by case", text, alternative, svg(figure, "cases"))


def _largest_shares(results: Sequence[Result], field: str, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for result in results:
        worst: Worst | None = getattr(result, field)
        if worst is not None and result.implementation == name:
            found[result.case] = max(worst.of_allowed, found.get(result.case, 0.0))
    return found


# ---- implementations beside each other --------------------------------------------------------


def _beside_each_other(report: Report) -> Plot | None:
    results = [each for each in report.results if each.case not in FUNCTIONS]
    results = [each for each in results if each.loss is not None or each.output is not None]
    names = _names(report, results)
    if len(names) < 2 or set(names) <= set(BACKENDS):
        return None
    results = _asked_of_all(results, names)
    dtypes = list(dict.fromkeys(each.dtype for each in results))
    scale = Scale(0.01, 1e18)
    height = 0.9 + len(dtypes) * (0.55 + 0.27 * len(names))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(len(dtypes), 2, sharex=True, sharey=True, squeeze=False)
    for row, dtype in zip(panels, dtypes, strict=True):
        for axes, field, title in zip(row, ("loss", "output"), ("loss", "gradient"), strict=True):
            axes.set_title(f"{title}, {dtype}", loc="left")
            scale.set_on(axes, "x")
            axes.grid(visible=False, axis="y")
            lost = 0.5 / unit_roundoff(dtype_named(dtype))
            axes.axvline(lost, color=LIMIT, linestyle=":", linewidth=1.0)
            for i, name in enumerate(names):
                errors = _errors(results, dtype, field, name)
                _strip(axes, i, [scale.place(value) for value in errors], style(report, name))
    first = panels[0][0]
    first.set_yticks(range(len(names)), [label(name) for name in names])
    first.set_ylim(len(names) - 0.45, -0.55)
    for axes in panels[-1]:
        axes.set_xlabel("largest error of a case (ULP)")
    bar: dict[str, Any] = {
        "marker": "|",
        "markersize": 11,
        "markeredgewidth": 2.0,
        "linestyle": "none",
    }
    median = Line2D([], [], color=FOREGROUND, label="median", **bar)
    handles = [median, _limit_line(":", "no digit is right")]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    text = (
        "Each mark is the largest error in one case, of those cases that all could be asked. The "
        "further to the right, the more digits are lost: ten times the error is one decimal digit "
        "less. Below 1 the result is one of the two numbers next to the exact value."
    )
    return Plot(
        "Implementations beside each other",
        text,
        _medians(results, dtypes, names),
        svg(figure, "peers"),
    )


def _asked_of_all(results: list[Result], names: list[str]) -> list[Result]:
    """The results in the cases that every implementation took, if there are any."""
    took = Counter((each.case, each.dtype) for each in results)
    common = [each for each in results if took[each.case, each.dtype] == len(names)]
    return common or results


def _errors(results: Sequence[Result], dtype: str, field: str, name: str) -> list[float]:
    found: list[Worst | None] = [
        getattr(result, field)
        for result in results
        if result.dtype == dtype and result.implementation == name
    ]
    return [worst.ulp for worst in found if worst is not None]


def _strip(axes: Axes, i: int, places: list[float], marks: dict[str, Any]) -> None:
    """Marks in a row of the plot, spread over its height in a fixed pattern, and their median."""
    # Multiples of the golden ratio spread evenly, without looking like a line.
    heights = [i + 0.56 * ((k * 0.618034) % 1 - 0.5) for k in range(len(places))]
    axes.plot(places, heights, **marks | {"markersize": 0.75 * marks["markersize"], "alpha": 0.8})
    if places:
        median = sorted(places)[len(places) // 2]
        axes.plot([median, median], [i - 0.4, i + 0.4], color=FOREGROUND, linewidth=2.0)


def _medians(results: Sequence[Result], dtypes: Sequence[str], names: Sequence[str]) -> str:
    parts = []
    for dtype in dtypes:
        for field, title in (("loss", "loss"), ("output", "gradient")):
            errors = {name: sorted(_errors(results, dtype, field, name)) for name in names}
            each = [
                f"{name} {values[len(values) // 2]:.3g} (largest {values[-1]:.3g})"
                for name, values in errors.items()
                if values
            ]
            parts.append(f"{title} in {dtype}: {', '.join(each)}")
    return f"Median error over the cases in ULP. {'. '.join(parts)}."
