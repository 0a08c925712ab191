"""All that a page or a comment is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastxent.benchmarks.draw.measured import Measured
from fastxent.benchmarks.judge.history import Series
from fastxent.benchmarks.judge.verdicts import Verdict, worst


@dataclass(frozen=True)
class Content:
    """What there is to show; any part may be empty."""

    measured: Sequence[Measured] = ()
    history: Sequence[Series] | None = None
    history_problems: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()

    @property
    def verdict(self) -> str | None:
        return worst(list(self.verdicts))

    @property
    def missing(self) -> Iterator[str]:
        """What is not there, and which option brings it."""
        kinds = {each.kind for each in self.verdicts}
        if not self.measured:
            yield "no results: --results takes what fastxent bench run --json wrote"
        if self.history is None:
            yield "no history: --history takes what fastxent bench history add keeps"
        elif not self.history:
            yield "nothing in the history yet"
        if "compare" not in kinds:
            yield "no paired runs: --compare takes what fastxent bench compare --json wrote"
        if "gate" not in kinds:
            yield "no instruction counts: --gate takes what fastxent bench gate --json wrote"
