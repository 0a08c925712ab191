"""All planted faults, in the order of the table.

A new fault is a class in one of the files of this folder. What `faults.NAME` gives is an
implementation, so that each can be looked at by itself:

    fastxent verify --impl fastxent.verify.faults:NAME --profile strict
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from ..implementation import Implementation
from . import calls, digits, labels, memory, options, sums, trouble
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault", "faults_named"]

# In the order of the table.
_MODULES: Final = (
    sums,
    digits,
    trouble,
    labels,
    options,
    calls,
    memory,
)


def faults_named(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, or all without any; ValueError if one is unknown."""
    for name in names:
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, 1)
            advice = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no fault {name!r}{advice}")
    chosen = [each for each in FAULTS.values() if not names or each.name in names]
    modules = [module.__name__ for module in _MODULES]
    return sorted(
        chosen, key=lambda each: modules.index(type(each.implementation.with_grad).__module__)
    )


def __getattr__(name: str) -> Implementation:
    if name not in FAULTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return FAULTS[name].implementation
