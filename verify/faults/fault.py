"""What a planted fault is: a class that breaks a step of the correct implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ..case import Case, reason_of
from ..implementation import Implementation
from .correct import CrossEntropy, implementation


@dataclass(frozen=True, slots=True)
class Fault:
    """A bug, and what must find it.

    reason : what it is, and where such bugs come from
    in_standard : the profile standard must find it, too: any sound implementation would differ
    dtypes : those of the logits that it is looked for in
    cases : where it can show, if that is not everywhere: others are left out for the time they take
    argument : how it is named on the command line
    """

    name: str
    reason: str
    implementation: Implementation
    in_standard: bool
    dtypes: tuple[str, ...]
    cases: tuple[Case, ...]
    argument: str


# All faults by name, in the order in which they are written down.
FAULTS: Final[dict[str, Fault]] = {}

Register = Callable[[type[CrossEntropy]], Implementation]


def fault(
    *,
    in_standard: bool = True,
    dtypes: tuple[str, ...] = ("float32",),
    cases: Iterable[Case] = (),
) -> Register:
    """Make a fault of a class: its name is the fault's, its docstring the reason.

    What stays under the class's name is an implementation, so that it can be verified by itself:
    `fastxent verify --impl fastxent.verify.faults:NAME --profile strict`.
    """

    def register(steps: type[CrossEntropy]) -> Implementation:
        name = steps.__name__
        if name in FAULTS:
            raise ValueError(f"there are two faults called {name!r}")
        made = implementation(name, steps(), dtypes)
        reason = reason_of(steps)
        argument = f"fastxent.verify.faults:{name}"
        FAULTS[name] = Fault(name, reason, made, in_standard, dtypes, tuple(cases), argument)
        return made

    return register
