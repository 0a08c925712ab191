"""A selection -> a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import fastxent

from .case import HALVES, QUICK, Level
from .implementation import BACKENDS, Implementation
from .jobs import Run
from .result import InterruptedRunError, Report, Result
from .selection import Selection
from .steps import Settings

Progress = Callable[[str, int, int], None]


def run(
    selection: Selection,
    *,
    level: Level,
    seed: int,
    problem: int | None,
    progress: Progress | None,
) -> Report:
    """Run what was selected; the results are in the order of cases, implementations and dtypes.

    InterruptedRunError, a KeyboardInterrupt, has what was found until the user stopped it.
    """
    started = time.perf_counter()
    settings = Settings(
        profile=selection.profile,
        seed=seed,
        thread_counts=selection.thread_counts,
        quick=level == QUICK,
        problem=problem,
    )
    whole = Run(selection.cases, settings, selection.timeout, progress, selection.peers)
    apart = [each for each in selection.implementations if each.argument]
    # Longest first: Numba has to compile.
    longest_first = sorted(apart, key=lambda each: each.name != "numba")
    groups = [g for each in longest_first for g in _groups(each, selection.dtypes[each.name])]
    stopped: KeyboardInterrupt | None = None
    try:
        whole.apart(groups)
        for each in selection.implementations:
            if not each.argument:
                whole.here(each, selection.dtypes[each.name])
    except KeyboardInterrupt as error:
        stopped = error
    report = Report(
        profile=selection.profile,
        seed=seed,
        thread_counts=selection.thread_counts,
        level=level,
        results=_in_order(whole.results, selection),
        notes=[*selection.notes, *whole.notes, *_quick_notes(selection, level)],
        seconds=time.perf_counter() - started,
        arguments={each.name: f"--impl {each.argument}" for each in apart},
        peers=selection.peers,
        environment=environment(),
        is_complete=stopped is None,
    )
    if stopped is not None:
        raise InterruptedRunError(report) from stopped
    return report


def _groups(implementation: Implementation, dtypes: list[str]) -> list[tuple[list[str], list[str]]]:
    """What one process does; a backend's two arithmetics, which Numba compiles for, are apart."""
    if implementation.name not in BACKENDS:
        return [([implementation.argument], dtypes)]
    narrow = [name for name in dtypes if name in ("float32", *HALVES)]
    wide = [name for name in dtypes if name not in narrow]
    return [([implementation.argument], part) for part in (narrow, wide) if part]


def _quick_notes(selection: Selection, level: Level) -> list[str]:
    used = {name for names in selection.dtypes.values() for name in names}
    if level != QUICK or not used & set(HALVES):
        return []
    return ["16-bit logits are asked for by values and labels alone in quick runs"]


def _in_order(results: list[Result], selection: Selection) -> list[Result]:
    cases = [case.name for case in selection.cases]
    names = [each.name for each in selection.implementations]

    def place(result: Result) -> tuple[int, int, int]:
        dtypes = selection.dtypes[result.implementation]
        return (
            cases.index(result.case),
            names.index(result.implementation),
            dtypes.index(result.dtype),
        )

    return sorted(results, key=place)


def environment() -> dict[str, str]:
    """What results depend on: versions, the machine, the instruction set."""
    config = fastxent.show_config(mode="dicts")
    assert config is not None
    found = {name: str(version) for name, version in config["versions"].items()}
    found |= {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "instruction set": str(config["backends"]["cython instruction set"]),
    }
    return found
