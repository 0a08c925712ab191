"""All cases, in the order in which they are run.

A new case is a function in one of the files of this folder: it yields problems, its name is the
name of the case and its docstring says why it exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from ..case import (
    HALVES,
    LEVELS,
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX,
    Case,
    DType,
    Level,
    Problem,
    Random,
)
from . import exhaustive, halves, layouts, options, real, shapes, targets, values

# Tails of vectors of every width, tiles, one block and two.
_GUARDED_CLASSES: Final = (1, 2, 3, 7, 8, 15, 16, 17, 33, 63, 70, 128, 129, 1023, 1025, 2049)


def _rows_for_functions(random: Random, dtype: DType) -> Iterator[Problem]:
    for source in (
        values.gaussian,
        values.wide,
        values.forty_zero,
        values.confident,
        values.very_confident,
        values.scattered_masked,
        values.offset_3000,
        values.trouble,
        shapes.one_class,
        shapes.class_counts_to_70,
        shapes.long_row,
        layouts.padded_rows,
    ):
        yield from source.make(random, dtype)
    for problem in layouts.guarded_pages.make(random, dtype):
        if problem.logits.shape[1] in _GUARDED_CLASSES and not problem.has_probs:
            yield problem


_FUNCTIONS: Final = tuple(
    Case(name, f"{name} over rows of many of the cases above.", _rows_for_functions, operation=name)
    for name in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)
)


def _wide_if_quick(case: Case) -> Case:
    # 16-bit logits are widened and computed with in float32: shapes and options show there, too.
    return replace(case, quick_dtypes=tuple(set(case.quick_dtypes) - set(HALVES)))


CASES: Final[tuple[Case, ...]] = (
    *values.CASES,
    *targets.CASES,
    *map(_wide_if_quick, shapes.CASES),
    *map(_wide_if_quick, layouts.CASES),
    *real.CASES,
    *halves.CASES,
    *map(_wide_if_quick, options.CASES),
    *map(_wide_if_quick, _FUNCTIONS),
    *exhaustive.CASES,
)


def cases_named(names: Sequence[str], level: Level) -> list[Case]:
    """The cases of these names, or all of a level; ValueError if one is unknown."""
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no case {name!r}; {advice}--list-cases shows all")
    if names:
        return [case for case in CASES if case.name in names]
    return [case for case in CASES if LEVELS.index(case.level) <= LEVELS.index(level)]
