"""A comparison of two versions, on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from fastxent.benchmarks.draw.tables import duration, plain
from fastxent.benchmarks.judge.paired import Compared, Comparison
from fastxent.benchmarks.judge.statistics import Interval
from fastxent.benchmarks.judge.verdicts import APART, RANKS, advice
from rich.table import Table

_EXPLANATIONS: Final = {
    "pass": "nothing is slower",
    "fail": "slower, and a repeat confirms it",
    "inconclusive": "not enough is known for a verdict",
}


def in_order(comparison: Comparison) -> list[Compared]:
    """The benchmarks, by verdict, then by how far their ratio is from 1."""
    return sorted(
        comparison.benchmarks,
        key=lambda each: (RANKS.index(each.verdict), -abs(math.log(each.measured.ratio))),
    )


def as_table(comparison: Comparison) -> Table:
    table = Table(caption=plain(summary(comparison)), caption_justify="left")
    table.add_column("benchmark", overflow="fold")
    for heading in ("base", "head", "head / base", "control"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in in_order(comparison):
        table.add_row(
            plain(each.name),
            duration(each.base_median),
            duration(each.head_median),
            _text(each.measured),
            _text(each.control),
            each.verdict,
        )
    return table


def _text(interval: Interval) -> str:
    if math.isinf(interval.high):
        return f"{interval.ratio:.3f} (?)"
    return f"{interval.ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _load(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def summary(comparison: Comparison) -> str:
    """What was found out in a few lines, the machine's load among them."""
    return "\n".join(_summary(comparison))


def _summary(comparison: Comparison) -> Iterator[str]:
    options = comparison.options
    counts = Counter[str](each.verdict for each in comparison.benchmarks)
    parts = [f"{counts[name]} {name}" for name in RANKS if counts[name]]
    yield (
        f"{comparison.verdict}: {_EXPLANATIONS[comparison.verdict]} "
        f"({', '.join(parts)}; threshold {100 * options.threshold:g} %)"
    )
    yield (
        f"{comparison.head.name} against {comparison.base.name}: {comparison.blocks} processes "
        f"each in {comparison.seconds / 60:.1f} minutes, load {_load(comparison.load[0])} before "
        f"and {_load(comparison.load[1])} after; a slowdown that is none in at most "
        f"{1 - options.confidence:.0%} of comparisons"
    )
    yield from advice(each.verdict for each in comparison.benchmarks)
    for key, text in APART.items():
        if names := getattr(comparison, key):
            yield f"{text}: {', '.join(names)}"
