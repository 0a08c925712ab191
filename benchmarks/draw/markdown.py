"""Verdicts and speeds as Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from fastxent.benchmarks.draw.content import Content
from fastxent.benchmarks.draw.measured import Measured
from fastxent.benchmarks.draw.tables import duration
from fastxent.benchmarks.draw.wording import (
    GATES,
    HEADINGS,
    amount_of,
    case_text,
    changes,
    changes_text,
    count,
    interval,
    percent,
    sentence,
    shape_text,
    short_name,
    times,
)
from fastxent.benchmarks.judge.verdicts import Verdict
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.results import best_peer, times_faster
from fastxent.verify.reports.writers import printable

LIBRARIES: Final = {
    "torch": "PyTorch",
    "torch_compile": "torch.compile",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "sklearn": "scikit-learn",
    "scipy": "SciPy",
}
# At most so many rows of each table: all of it is less than 60 lines.
_CHANGES, _CHANGE_POINTS, _SPEEDS = 8, 5, 7


def markdown_text(content: Content) -> str:
    """Verdicts first, then what changed, then speeds; less than 60 lines."""
    parts = [f"## {HEADINGS[content.verdict]}"]
    for verdict in content.verdicts:
        parts.append(f"**{GATES[verdict.kind]}: {verdict.verdict}.** {escaped(sentence(verdict))}")
        if verdict.notes:
            parts.append("; ".join(escaped(_shortened(note)) for note in verdict.notes))
    parts += [_changes(each) for each in content.verdicts if each.notable]
    if content.history is not None:
        parts.append(_history(content))
    parts += [_speeds(each) for each in content.measured[:1] if each.timings]
    parts += [_others(each) for each in content.measured[:1] if each.others and not each.timings]
    if len(content.measured) > 1:
        parts.append(f"{count(len(content.measured) - 1, 'more machine')}: see the page.")
    return "\n\n".join(parts) + "\n"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Text that Markdown, and HTML within it, leave as it is; in a cell of a table too."""
    one_line = " ".join(printable(text).split())
    marked = re.sub(r"([\\`*_{}\[\]<>#|~!@&])", r"\\\1", one_line)
    # GitHub makes a mention of @name even behind a backslash.
    marked = re.sub(r"\\@(?=\w)", "@\u200b", marked).replace("\\@", "@")
    return marked.replace("\\<", "&lt;").replace("\\&", "&amp;")


def code(text: str) -> str:
    """A name as it is, in a cell of a table too."""
    one_line = " ".join(printable(text).split()).replace("`", "'")
    return f"`{one_line.replace('|', chr(92) + '|')}`" if one_line else ""


def _table(headings: Sequence[str], rows: Sequence[str], left_out: int) -> str:
    lines = [row(*headings), row(*["---"] * len(headings)), *rows]
    if left_out:
        lines += ["", f"and {left_out} more"]
    return "\n".join(lines)


def verdict_text(verdict: Verdict) -> str:
    """What one gate says, as a comment of its own."""
    return markdown_text(Content(verdicts=[verdict]))


def _changes(verdict: Verdict) -> str:
    """The table of what is not the same; counts have no interval."""
    amount = amount_of(verdict)
    timed = verdict.kind == "compare"
    rows = []
    for each in verdict.notable[:_CHANGES]:
        cells = [code(short_name(each.name)), escaped(each.verdict)]
        cells += [amount(each.base), amount(each.head)]
        cells.append("" if each.ratio is None else percent(each.ratio))
        rows.append(row(*cells, *([interval(each)] if timed else [])))
    headings = ["benchmark" if timed else "kernel", "verdict", "before", "after", "change"]
    headings += ["interval"] if timed else []
    return _table(headings, rows, len(verdict.notable) - len(rows))


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _history(content: Content) -> str:
    found = changes(content.history or ())
    if not found:
        return f"History: {changes_text(content.history or (), 0)}"
    rows = [
        row(each["date"], code(each["revision"]), code(each["name"]), each["change"])
        for each in found
    ]
    headings = ("changed on", "revision", "benchmark", "change")
    return _table(headings, rows[:_CHANGE_POINTS], max(0, len(rows) - _CHANGE_POINTS))


# ---- speeds ------------------------------------------------------------------------------------


def _speeds(measured: Measured) -> str:
    rows = [speed_row(measured, case) for case in _representative(measured)]
    n_more = len(measured.timings) - len(rows)
    caption = f"{escaped(measured.title)}, medians. {SPEED_NOTE}"
    return f"{caption}\n\n{_table(SPEED_HEADINGS, rows, n_more)}"


def _others(measured: Measured) -> str:
    """Benchmarks of another project, of which nothing is known but their times."""
    rows = [
        row(code(each.name), duration(each.median), duration(each.spread))
        for each in measured.others[:_SPEEDS]
    ]
    table = _table(("benchmark", "median", "spread"), rows, len(measured.others) - len(rows))
    return f"{escaped(measured.title)}\n\n{table}"


SPEED_HEADINGS: Final = (
    *("operation", "shape", "Cython", "Numba", "of the roof", "fastest other", "PyTorch"),
)
SPEED_NOTE: Final = (
    "Of the roof: time of the bare exponentials / time of the call, Cython's and Numba's. "
    "Times: how often as fast as the other library the first of them is."
)


def speed_row(measured: Measured, case: Case) -> str:
    shares = [measured.share_of_roof(case, name) for name in backends(measured, case)]
    return row(
        escaped(case_text(case)),
        escaped(shape_text(case)),
        *(median(measured, case, name) for name in ("cython", "numba")),
        ", ".join(f"{share:.2f}" for share in shares if share is not None),
        fastest_other(measured, case),
        pytorch(measured, case),
    )


def backends(measured: Measured, case: Case) -> list[str]:
    """Those that were timed in it, the default one first."""
    return [name for name in ("cython", "numba") if name in measured.timings[case]]


def median(measured: Measured, case: Case, name: str) -> str:
    timing = measured.timings[case].get(name)
    return duration(timing.median) if timing else ""


def fastest_other(measured: Measured, case: Case) -> str:
    """The fastest library, its time, and how often as fast our first backend is."""
    name = best_peer(measured.timings[case])
    if name is None:
        return ""
    library = LIBRARIES.get(name, escaped(name))
    return f"{median(measured, case, name)} {library}, {_times(measured, case, name)}"


def pytorch(measured: Measured, case: Case) -> str:
    if "torch" not in measured.timings[case]:
        return ""
    return f"{median(measured, case, 'torch')}, {_times(measured, case, 'torch')}"


def _times(measured: Measured, case: Case, name: str) -> str:
    ratio = times_faster(measured.timings[case], backends(measured, case)[0], name)
    return f"{times(ratio or 0.0)} times"


def _representative(measured: Measured) -> list[Case]:
    """Of those in float32 with most threads, where there are any, some of all sizes."""
    ours = [case for case in measured.timings if backends(measured, case)]
    most = max((case.threads for case in ours), default=0)
    preferred = [case for case in ours if (case.dtype, case.threads) == ("float32", most)] or ours
    step = max(1.0, len(preferred) / _SPEEDS)
    return [preferred[int(i * step)] for i in range(min(_SPEEDS, len(preferred)))]
