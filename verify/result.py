"""What a run found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .bounds import Bound
from .reference import BOTH


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that is wrong, where, and what it should be."""

    kind: str
    note: str = ""  # which of the case's problems
    row: int | None = None
    column: int | None = None
    input: Any = None
    got: Any = None
    want: Any = None
    error: float = math.inf
    bound: float | None = None


@dataclass(slots=True)
class Result:
    """One case on one implementation in one dtype: a line of the table."""

    case: str
    implementation: str
    dtype: str
    bound: Bound
    loss_error: float | None = None
    output_error: float | None = None
    sources: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    # The worst of each kind.
    breaches: dict[str, Breach] = field(default_factory=dict)

    def add(self, breach: Breach) -> None:
        """Keep a breach, unless one of its kind is at least as bad."""
        known = self.breaches.get(breach.kind)
        if known is None or breach.error > known.error:
            self.breaches[breach.kind] = breach

    @property
    def reference(self) -> str:
        """Which reference was used: "scipy", "extended", "both", or "-" for none."""
        if len(self.sources) > 1:
            return BOTH
        return next(iter(self.sources), "-")

    @property
    def relative_error(self) -> float:
        """The larger of the two errors, each divided by its bound; -1 where there is none."""
        pairs = ((self.loss_error, self.bound.loss), (self.output_error, self.bound.output))
        return max(
            (error / bound for error, bound in pairs if error is not None and bound), default=-1.0
        )

    @property
    def verdict(self) -> str:
        """ "ok", "BREACH", "BITS DIFFER" if nothing else is wrong, or "left out" if not run."""
        if self.breaches:
            only_bits = all(kind.startswith("bits") for kind in self.breaches)
            return "BITS DIFFER" if only_bits else "BREACH"
        return "ok" if self.sources else "left out"


@dataclass(slots=True)
class Report:
    """All results of a run."""

    seed: int
    thread_counts: tuple[int, ...]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing is wrong."""
        return not self.failed and any(result.verdict == "ok" for result in self.results)

    @property
    def failed(self) -> list[Result]:
        """The results with a breach."""
        return [result for result in self.results if result.breaches]

    def command(self, result: Result) -> str:
        """The command that repeats exactly this result."""
        threads = " ".join(f"--threads {n}" for n in self.thread_counts)
        return (
            f"fastxent verify --case {result.case} --backend {result.implementation} "
            f"--dtype {result.dtype} --seed {self.seed} {threads}"
        )
