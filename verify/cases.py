"""All cases, in the order in which they are run.

A new case is a function in one of the `cases_*` files: it yields problems, its name is the name
of the case and its docstring says why it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from . import cases_options, cases_shapes, cases_targets, cases_values
from .case import LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Case, DType, Problem, Random


def _rows_for_functions(random: Random, dtype: DType) -> Iterator[Problem]:
    for source in (
        cases_values.gaussian,
        cases_values.wide,
        cases_values.forty_zero,
        cases_values.confident,
        cases_values.very_confident,
        cases_values.scattered_masked,
        cases_values.offset_3000,
        cases_values.trouble,
        cases_shapes.one_class,
        cases_shapes.class_counts_to_70,
        cases_shapes.long_row,
        cases_shapes.padded_rows,
    ):
        yield from source.make(random, dtype)


_FUNCTIONS: Final = tuple(
    Case(name, f"{name} over rows of many of the cases above.", _rows_for_functions, operation=name)
    for name in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)
)

CASES: Final[tuple[Case, ...]] = (
    *cases_values.CASES,
    *cases_targets.CASES,
    *cases_shapes.CASES,
    *cases_options.CASES,
    *_FUNCTIONS,
)


def cases_named(names: list[str], quick: bool) -> list[Case]:
    """The cases of these names, or all (with `quick` the short ones); ValueError if unknown."""
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no case {name!r}; --list-cases shows all")
    if names:
        return [case for case in CASES if case.name in names]
    return [case for case in CASES if case.quick or not quick]
