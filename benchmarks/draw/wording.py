"""How cases, times, changes and verdicts are said, wherever they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.judge.change_points import FEWEST_RUNS
from fastxent.benchmarks.judge.history import Series
from fastxent.benchmarks.judge.verdicts import RANKS, Change, Verdict
from fastxent.benchmarks.measure.case import Case

HEADINGS: Final = {
    "fail": "Slower than before",
    "inconclusive": "Inconclusive",
    "pass": "No slowdown found",
    None: "How fast it is",
}
GATES: Final = {"compare": "Time (compare)", "gate": "Instructions (gate)"}
_OUR_TEST: Final = "test_a_right_answer_in_time["


def words(operation: str) -> str:
    """An operation as a person says it."""
    return {
        "loss_and_grad": "loss and gradient",
        "loss_and_grad_fresh": "loss and gradient in fresh memory",
        "loss_and_grad_in_place": "loss and gradient in place",
        "soft_loss_and_grad": "loss and gradient of soft labels",
    }.get(operation, operation.replace("_", " "))


def short_name(name: str) -> str:
    """A benchmark's name; of this project's, all of which one test measures, what differs."""
    return name.removeprefix(_OUR_TEST).removesuffix("]") if name.startswith(_OUR_TEST) else name


def count(n: int, singular: str) -> str:
    return f"{n} {singular}{'' if n == 1 else 's'}"


def case_text(case: Case) -> str:
    return f"{words(case.operation)}, {case.dtype}, {count(case.threads, 'thread')}"


def shape_text(case: Case) -> str:
    sizes, _, axis = case.shape.partition("-axis")
    return sizes.replace("x", " x ") + (f", axis {axis}" if axis else "")


def rate(case: Case, seconds: float) -> str:
    """Logits a second."""
    value = case.n_logits / seconds
    for unit, size in ((" G", 1e9), (" M", 1e6)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def times(ratio: float) -> str:
    """How often as fast: in two digits or so."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def percent(ratio: float) -> str:
    """A ratio as a change: 1.1 is "+10 %"."""
    change = 100 * (ratio - 1)
    return f"{change:+.0f} %" if abs(change) >= 10 else f"{change:+.1f} %"


# ---- verdicts ----------------------------------------------------------------------------------


def sentence(verdict: Verdict) -> str:
    """What a gate says, in one line."""
    counts = [(verdict.count(name), name) for name in RANKS]
    found = ", ".join(f"{n} {name}" for n, name in counts if n)
    subject = "benchmark" if verdict.kind == "compare" else "count"
    return (
        f"{verdict.base} → {verdict.head}: of {count(len(verdict.changes), subject)} "
        f"{found or 'none is judged'}, at {100 * verdict.threshold:g} %."
    )


def amount_of(verdict: Verdict) -> Callable[[float | None], str]:
    """How a time, or a count, is written."""

    def amount(value: float | None) -> str:
        if value is None:
            return ""
        return duration(value) if verdict.kind == "compare" else f"{value:,.0f}"

    return amount


def interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return ""
    return f"{percent(change.low)} to {percent(change.high)}"


# ---- history -----------------------------------------------------------------------------------


def amount(series: Series, value: float) -> str:
    return duration(value) if series.newest.unit == "seconds" else f"{value:,.0f}"


def changes(history: Iterable[Series]) -> list[dict[str, str]]:
    """All change points, the newest first."""
    found = [
        (series.entries[point.index].moment, series, point)
        for series in history
        for point in series.change_points
    ]
    found.sort(key=lambda each: each[0], reverse=True)
    return [
        {
            "name": short_name(series.newest.name),
            "revision": series.entries[point.index].revision[:12],
            "previous": series.entries[point.index - 1].revision[:12],
            "date": moment.date().isoformat(),
            "before": amount(series, point.before),
            "after": amount(series, point.after),
            "change": percent(point.ratio),
            "verdict": "slower" if point.ratio > 1 else "faster",
        }
        for moment, series, point in found
    ]


def changes_text(history: Sequence[Series], n_changes: int) -> str:
    """How many there are, in how much, and where none could be seen."""
    machines = {series.newest.fingerprint for series in history}
    short = sum(
        series.newest.unit == "seconds" and len(series.entries) < 2 * FEWEST_RUNS
        for series in history
    )
    too_short = f" {short} with fewer than {2 * FEWEST_RUNS} runs cannot show any." if short else ""
    return (
        f"{count(n_changes, 'change')} in {len(history)} series of "
        f"{count(len(machines), 'fingerprint')}.{too_short}"
    )
