"""What a run found."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .bounds import Bound
from .case import Level
from .reference import BOTH


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that is wrong, where, and what it should be.

    `error` is in ULP, `difference` and `allowed` are |got - want| and the largest that may be.
    """

    kind: str
    problem: int = 0  # which of the case's problems
    note: str = ""  # and what that is
    row: int | None = None
    column: int | None = None
    input: Any = None
    got: Any = None
    want: Any = None
    error: float = math.inf
    difference: float | None = None
    allowed: float | None = None
    bound: float | None = None  # in ULP, where the profile has such

    @property
    def of_allowed(self) -> float:
        """The error beside the one allowed."""
        if self.difference is None or not self.allowed:
            return math.inf
        return self.difference / self.allowed


@dataclass(slots=True)
class Worst:
    """The largest errors of one kind of result, over all problems of a case."""

    ulp: float = 0.0
    relative: float = 0.0
    scaled: float = 0.0
    of_allowed: float = 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """The largest errors in one problem, in ULP; what plots are made of."""

    n_rows: int
    n_classes: int
    loss: float | None
    output: float | None


@dataclass(slots=True)
class Result:
    """One case on one implementation in one dtype: a line of the table."""

    case: str
    implementation: str
    dtype: str
    profile: str
    bound: Bound | None = None
    loss: Worst | None = None
    output: Worst | None = None
    sources: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    # How often each check was made.
    checks: Counter[str] = field(default_factory=Counter)
    # Kinds of result that were held against exact values; and those of them that answers without
    # any sense (all 0, all NaN, one number everywhere) would not have passed.
    judged: set[str] = field(default_factory=set)
    trusted: set[str] = field(default_factory=set)
    # The worst of each kind.
    breaches: dict[str, Breach] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    digest: str = ""
    seconds: float = 0.0

    def add(self, breach: Breach) -> None:
        """Keep a breach, unless one of its kind is at least as bad."""
        known = self.breaches.get(breach.kind)
        if known is None or breach.of_allowed > known.of_allowed:
            self.breaches[breach.kind] = breach

    @property
    def reference(self) -> str:
        """Which reference was used: "scipy", "extended", "both", or "-" for none."""
        if len(self.sources) > 1:
            return BOTH
        return next(iter(self.sources), "-")

    @property
    def of_allowed(self) -> float:
        """The larger of the two errors, each beside the one allowed; -1 where there is none."""
        parts = (self.loss, self.output)
        return max((part.of_allowed for part in parts if part is not None), default=-1.0)

    @property
    def is_wrong(self) -> bool:
        """Whether the result fails a run."""
        return bool(self.breaches) or self.is_mistrusted

    @property
    def is_mistrusted(self) -> bool:
        """Whether a check was made that could not have failed on its data."""
        return bool(self.judged - self.trusted)

    @property
    def verdict(self) -> str:
        """What came out, in a word or two.

        "ok"; "BREACH"; "BITS DIFFER" if nothing else is wrong; "MISTRUSTED" where nothing is wrong,
        but nothing could have been; or "left out" if nothing was run.
        """
        if self.breaches:
            only_bits = all(kind.startswith("bits") for kind in self.breaches)
            return "BITS DIFFER" if only_bits else "BREACH"
        if self.is_mistrusted:
            return "MISTRUSTED"
        return "ok" if self.checks else "left out"


@dataclass(slots=True)
class Report:
    """All results of a run.

    Examples
    --------
    >>> from fastxent.verify import verify
    >>> report = verify(cases=["forty_zero"], dtypes=["float32"], backends=["cython"])
    >>> report.ok, report.results[0].verdict
    (True, 'ok')
    """

    profile: str
    seed: int
    thread_counts: tuple[int, ...]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    level: Level = "default"
    # How each implementation is named on the command line; one that has no name is missing.
    arguments: dict[str, str] = field(default_factory=dict)
    # Implementations that are only there to be compared with: their breaches fail nothing.
    peers: frozenset[str] = frozenset()
    environment: dict[str, str] = field(default_factory=dict)
    # Whether the run went to its end; false where it was interrupted.
    is_complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether all was run, something was checked and nothing is wrong, leaving peers aside."""
        own = [result for result in self.results if result.implementation not in self.peers]
        is_checked = any(result.verdict == "ok" for result in own)
        return self.is_complete and is_checked and not any(result.is_wrong for result in own)

    @property
    def failed(self) -> list[Result]:
        """The results with a breach, and those that cannot be trusted."""
        return [result for result in self.results if result.is_wrong]

    @property
    def implementations(self) -> list[str]:
        """Their names, in the order of the run."""
        return list(dict.fromkeys(result.implementation for result in self.results))

    def command(self, result: Result, breach: Breach | None = None) -> str:
        """The command that repeats exactly this result, or the problem of this breach."""
        argument = self.arguments.get(result.implementation)
        if argument is None:
            argument = "--impl MODULE:FUNCTION"
        problem = "" if breach is None else f" --problem {breach.problem}"
        threads = "".join(f" --threads {n}" for n in self.thread_counts)
        return (
            f"fastxent verify {argument} --profile {result.profile} --case {result.case}"
            f"{problem} --dtype {result.dtype} --seed {self.seed}{threads}"
        )


class InterruptedRunError(KeyboardInterrupt):
    """The user stopped a run; `report` has what was found until then."""

    def __init__(self, report: Report) -> None:
        super().__init__("the verification was interrupted")
        self.report = report
