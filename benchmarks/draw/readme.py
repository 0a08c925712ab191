"""The tables of speed in Markdown files, between two comments, and the results they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks.draw.markdown import (
    LIBRARIES,
    SPEED_HEADINGS,
    SPEED_NOTE,
    backends,
    escaped,
    fastest_other,
    median,
    pytorch,
    row,
    speed_row,
)
from fastxent.benchmarks.draw.measured import Measured
from fastxent.benchmarks.draw.wording import count, shape_text
from fastxent.benchmarks.measure.case import Case

# Operation, dtype and shape; the first have a name, and rows in the README's short table.
CASES: Final = {
    ("loss_and_grad", "float32", "8x10"): "small",
    ("loss_and_grad", "float32", "1024x1024"): "in cache",
    ("loss_and_grad", "float32", "2048x32000"): "large",
    ("loss_and_grad", "float32", "100000x10"): "few classes",
    ("loss_and_grad", "bfloat16", "2048x32000"): "half precision",
    ("loss", "float32", "8x10"): "",
    ("loss", "float32", "1024x1024"): "",
    ("loss", "float32", "2048x32000"): "",
    ("loss", "float32", "1x256000"): "",
    ("loss_and_grad", "float32", "65536x1000"): "",
    ("loss_and_grad", "float32", "512x128256"): "",
    ("loss_and_grad", "float64", "1024x32000"): "",
    ("loss_and_grad", "float32", "8x21x512x512-axis1"): "",
    ("soft_loss_and_grad", "float32", "16384x1000"): "",
    ("softmax", "float32", "2048x32000"): "",
}
# The comments: those of the short table, and of the long one.
MARKS: Final = ("speed", "all speeds")
# Rows from this one on say how exact results are: they stay as they are.
_DIGITS: Final = "| *digits"
_ISA_NAMES: Final = {"x86-64-v2": "SSE4.2", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512"}
_SHORT_HEADINGS: Final = ("loss and gradient", "fastxent", "fastest other", "PyTorch")


def with_speeds(text: str, machines: Sequence[Measured], path: Path) -> str:
    """The text with these speeds between its markers.

    ValueError, naming the path, where it has no markers, or results lack what the tables need.
    """
    tables: dict[str, Callable[[str], Iterator[str]]] = {
        "speed": lambda before: _short(machines, before),
        "all speeds": lambda before: _long(machines),
    }
    if not any(f"<!-- {mark}: begin -->" in text for mark in MARKS):
        raise ValueError(f"{path} has no place for speeds: the lines {_markers('speed')}")
    for mark, lines in tables.items():
        begin, end = (f"<!-- {mark}: {which} -->" for which in ("begin", "end"))
        if begin not in text and end not in text:
            continue
        head, found_begin, rest = text.partition(f"{begin}\n")
        block, found_end, tail = rest.partition(end)
        if not found_begin or not found_end or begin in rest or end in head + tail:
            raise ValueError(f"{path} must have each of the lines {_markers(mark)} once, in order")
        text = f"{head}{begin}\n{''.join(f'{line}{chr(10)}' for line in lines(block))}{end}{tail}"
    return text


def _markers(mark: str) -> str:
    return f"<!-- {mark}: begin --> and <!-- {mark}: end -->"


def _short(machines: Sequence[Measured], before: str) -> Iterator[str]:
    """One table: a line for each machine, with the rows that belong to it."""
    yield row(*_SHORT_HEADINGS)
    yield row(*["---"] * len(_SHORT_HEADINGS))
    for measured in machines:
        yield row(f"*{place(measured)}*", "", "", "")
        for case in _cases(measured):
            if name := CASES[case.operation, case.dtype, case.shape]:
                yield row(
                    f"{name}: {escaped(shape_text(case))}, {case.dtype}",
                    _ours(measured, case),
                    fastest_other(measured, case),
                    pytorch(measured, case),
                )
    lines = before.splitlines()
    digits = next((i for i, line in enumerate(lines) if line.startswith(_DIGITS)), len(lines))
    yield from lines[digits:]


def _long(machines: Sequence[Measured]) -> Iterator[str]:
    """A table for each machine."""
    for measured in machines:
        yield f"**{caption(measured)}**"
        yield ""
        yield row(*SPEED_HEADINGS)
        yield row(*["---"] * len(SPEED_HEADINGS))
        yield from (speed_row(measured, case) for case in _cases(measured))
        yield ""
    yield SPEED_NOTE


def _ours(measured: Measured, case: Case) -> str:
    names = backends(measured, case)
    times = [median(measured, case, names[0])]
    times += [f"Numba {median(measured, case, name)}" for name in names[1:]]
    share = measured.share_of_roof(case, names[0])
    return ", ".join(times) + ("" if share is None else f"; {share:.2f} of the roof")


def _cases(measured: Measured) -> list[Case]:
    """Those of CASES that were measured, each with the most threads."""
    found = {
        (case.operation, case.dtype, case.shape): case
        for case in sorted(measured.timings, key=lambda case: case.threads)
        if backends(measured, case)
    }
    cases = [found[key] for key in CASES if key in found]
    if not cases:
        names = ", ".join(" ".join(key) for key in list(CASES)[:3])
        raise ValueError(
            f"the results of {measured.title} have none of the cases of the table ({names} ...): "
            "fastxent bench run --set readme measures them"
        )
    return cases


def place(measured: Measured) -> str:
    """The CPU, the build and the threads."""
    threads = max(case.threads for case in _cases(measured))
    isa = measured.instruction_set
    cpu = escaped(str(measured.machine.get("cpu") or "unknown CPU"))
    build = f"fastxent's {_ISA_NAMES.get(isa, escaped(isa))} build" if isa else ""
    return ", ".join(part for part in (cpu, build, count(threads, "thread")) if part)


def caption(measured: Measured) -> str:
    """Where, with what, when, and by which command."""
    parts = [
        place(measured),
        *(f"{LIBRARIES.get(k, escaped(k))} {escaped(v)}" for k, v in measured.versions.items()),
        measured.date,
        f"`{measured.command}`" if measured.command else "`fastxent bench run`",
    ]
    return ", ".join(part for part in parts if part)


def in_small(results: dict[str, Any]) -> dict[str, Any]:
    """Only what the tables need: to be kept beside the sources."""
    kept = [
        entry
        for entry in results["benchmarks"]
        if tuple(entry["extra_info"].get(key) for key in ("operation", "dtype", "shape")) in CASES
        and "implementation" in entry["extra_info"]
    ]
    most = max((entry["extra_info"]["threads"] for entry in kept), default=0)
    info = ("operation", "dtype", "shape", "threads", "implementation", "kind", "bytes")
    ours = (results.get("commit_info") or {}).get("fastxent") or {}
    return {
        "benchmarks": [
            {
                "name": entry["name"],
                "group": entry["group"],
                "extra_info": {
                    key: entry["extra_info"][key]
                    for key in (*info, "instruction_set")
                    if key in entry["extra_info"]
                },
                "stats": {
                    key: entry["stats"][key]
                    for key in ("median", "iqr", "rounds")
                    if key in entry["stats"]
                },
            }
            for entry in kept
            if entry["extra_info"]["threads"] == most
        ],
        "machine": results.get("machine"),
        "machine_info": {
            "python_version": (results.get("machine_info") or {}).get("python_version")
        },
        "commit_info": {
            "fastxent": {key: ours[key] for key in ("versions", "backends") if key in ours}
        },
        "libraries": results.get("libraries"),
        "datetime": results.get("datetime"),
        "command": results.get("command"),
    }
