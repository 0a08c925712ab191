"""A comparison of two versions, on the terminal and as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.judge.paired import Compared, Comparison
from fastxent.benchmarks.judge.statistics import Interval
from rich.table import Table

# What matters comes first.
_RANKS: Final = ("slower", "unclear", "inconclusive", "faster", "same")
# A comment holds this many rows; the others are in the JSON.
_MOST_ROWS: Final = 20
_EXPLANATIONS: Final = {
    "pass": "nothing is slower",
    "fail": "slower, and a repeat confirms it",
    "inconclusive": "it cannot be said",
}


def in_order(comparison: Comparison) -> list[Compared]:
    """The benchmarks, by verdict, then by how far their ratio is from 1."""
    return sorted(
        comparison.benchmarks,
        key=lambda each: (_RANKS.index(each.verdict), -abs(math.log(each.measured.ratio))),
    )


def as_table(comparison: Comparison) -> Table:
    table = Table(caption=summary(comparison), caption_justify="left")
    table.add_column("benchmark", overflow="fold")
    for heading in ("base", "head", "head / base", "control"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in in_order(comparison):
        table.add_row(*_cells(each))
    return table


def _cells(each: Compared) -> tuple[str, ...]:
    return (
        each.name,
        duration(each.base_median),
        duration(each.head_median),
        _text(each.measured),
        _text(each.control),
        each.verdict,
    )


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
    counts = Counter(each.verdict for each in comparison.benchmarks)
    parts = [f"{counts[name]} {name}" for name in _RANKS if counts[name]]
    yield (
        f"{comparison.verdict}: {_EXPLANATIONS[comparison.verdict]} "
        f"({', '.join(parts)}; beyond {options.threshold:.0%} counts)"
    )
    yield (
        f"{comparison.head.name} against {comparison.base.name}: {comparison.blocks} processes "
        f"each in {comparison.seconds / 60:.1f} minutes, load {_load(comparison.load[0])} before "
        f"and {_load(comparison.load[1])} after, intervals of {options.confidence:.0%} for all "
        "together"
    )
    for text, names in (
        ("only base runs", comparison.only_in_base),
        ("only head runs", comparison.only_in_head),
        ("some processes failed", comparison.unreliable),
    ):
        if names:
            yield f"{text}: {', '.join(names)}"


def as_markdown(comparison: Comparison) -> str:
    """For a comment under a pull request: what is not the same, and the summary."""
    changed = [each for each in in_order(comparison) if each.verdict != "same"]
    first, *others = _summary(comparison)
    lines = [f"### Speed: {first}", ""]
    if changed:
        lines += [
            "| benchmark | base | head | head / base | control | verdict |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *("| " + " | ".join(_escaped(_cells(each))) + " |" for each in changed[:_MOST_ROWS]),
            "",
        ]
    if len(changed) > _MOST_ROWS:
        lines += [f"and {len(changed) - _MOST_ROWS} more that are not the same.", ""]
    for line in others:
        lines += [_shortened(line), ""]
    return "\n".join(lines)


def _escaped(cells: tuple[str, ...]) -> Iterator[str]:
    name, *numbers = cells
    yield f"`{name}`".replace("|", "\\|")
    yield from numbers


def _shortened(line: str, most: int = 500) -> str:
    return line if len(line) <= most else f"{line[:most]} ..."
