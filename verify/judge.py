"""Holds what a call gave against what is asked, and keeps the worst of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .calls import Outcome
from .case import Array, Problem
from .memory import first_difference
from .metrics import differences, in_units, relative_errors, scaled_errors
from .profile import NOTHING, Demand, Part
from .result import Breach, Result, Worst


class Judge:
    """Judges the outcomes of one problem into a result."""

    def __init__(
        self, result: Result, problem: Problem, index: int, demand: Demand = NOTHING
    ) -> None:
        self.result = result
        self._problem = problem
        self._index = index
        self._demand = demand
        self.has_failed = False

    def breach(self, kind: str, **facts: Any) -> None:
        """Record that something is wrong."""
        self.has_failed = True
        self.result.add(Breach(kind, self._index, self._problem.note, **facts))

    def accuracy(
        self, outcome: Outcome, rows: Any = ..., of: str = "", asked: Demand | None = None
    ) -> tuple[float | None, float | None]:
        """Hold an outcome against the exact values of some rows; its largest errors in ULP."""
        self.result.checks[of or "exact value"] += 1
        demand = (asked or self._demand).of_rows(rows)
        n_rows = self._problem.logits.shape[0]
        places = np.arange(n_rows)[rows]
        loss = self._part(demand.losses, outcome.losses, places, of, "loss")
        output = self._part(demand.output, outcome.output, places, of, "output")
        return loss, output

    def _part(
        self, part: Part | None, got: Array | None, places: Array, of: str, field: str
    ) -> float | None:
        if part is None or got is None or got.size == 0:
            return None
        difference = differences(got, part.want)
        shares = np.where(part.asked, in_units(difference, part.allowed), 0)
        worst = getattr(self.result, field) or Worst()
        worst.of_allowed = max(worst.of_allowed, float(shares.max()))
        setattr(self.result, field, worst)
        largest = None
        if not of:
            asked = part.asked
            largest = float(in_units(difference, part.unit)[asked].max(initial=0.0))
            worst.ulp = max(worst.ulp, largest)
            relative = relative_errors(difference, part.want)[asked]
            worst.relative = max(worst.relative, float(relative.max(initial=0.0)))
            scaled = scaled_errors(difference, part.want)[asked]
            worst.scaled = max(worst.scaled, float(scaled.max(initial=0.0)))
        self.result.judged.add(part.name)
        # A part of the rows may be a single number, of which nothing could be said.
        if not of and part.name not in self.result.trusted and can_fail(part):
            self.result.trusted.add(part.name)
        if not shares.max() <= 1:
            place = np.unravel_index(int(shares.argmax()), shares.shape)
            self._error(part, got, difference, tuple(map(int, place)), places, of)
        return largest

    def _error(
        self,
        part: Part,
        got: Array,
        difference: Array,
        place: tuple[int, ...],
        places: Array,
        of: str,
    ) -> None:
        i = int(places[place[0]])
        j = place[1] if len(place) == 2 else self._label(i)
        bound = self.result.bound
        self.breach(
            f"{part.name} error{f': {of}' if of else ''}",
            row=i,
            column=j,
            input=self._logit(i, j),
            got=got[place],
            want=part.want[place],
            error=float(in_units(difference[place], part.unit[place])),
            difference=float(difference[place]),
            allowed=float(part.allowed[place]),
            bound=None if bound is None else (bound.loss if len(place) == 1 else bound.output),
        )

    def bits(self, kind: str, outcome: Outcome, first: Outcome, rows: Any = ...) -> None:
        """An outcome must agree with another one in every bit."""
        self.result.checks[f"bits: {kind}"] += 1
        places = np.arange(self._problem.logits.shape[0])[rows]
        for a, b in ((outcome.losses, first.losses), (outcome.output, first.output)):
            if a is None or b is None:
                continue
            if a.shape != b.shape or a.dtype != b.dtype:
                self.breach(f"bits differ: {kind}", got=a.dtype, want=b.dtype)
                continue
            place = first_difference(a, b)
            if place is not None:
                i = int(places[place[0]])
                j = place[1] if len(place) == 2 else None
                self.breach(
                    f"bits differ: {kind}", row=i, column=j, input=self._logit(i, j),
                    got=a[place], want=b[place],
                )  # fmt: skip

    def sums_to_zero(self, outcome: Outcome) -> None:
        """The gradient of a row sums to 0: what one class gains others lose.

        The errors allowed of its elements are allowed of the sum, together.
        """
        part = self._demand.output
        if part is None or outcome.output is None:
            return
        self.result.checks["gradient rows sum to zero"] += 1
        with np.errstate(all="ignore"):
            wide = outcome.output.astype(np.float64).astype(np.longdouble)
            total = abs(wide.sum(axis=1))
            # Exact values are rounded once to the dtype of the gradient.
            room = (part.allowed + part.unit).sum(axis=1)
            known = np.isfinite(part.want).all(axis=1) & part.asked.all(axis=1)
        wrong = np.flatnonzero(known & ~(total <= room))
        if wrong.size:
            i = int(wrong[np.argmax(total[wrong])])
            self.breach(
                "gradient row does not sum to zero", row=i, got=float(total[i]), want=0.0,
                difference=float(total[i]), allowed=float(room[i]),
            )  # fmt: skip

    def derivatives(
        self, outcome: Outcome, rows: Array, columns: Array, values: Array, room: Array
    ) -> None:
        """The gradient must be the derivative of the loss, found without the gradient's formula."""
        part = self._demand.output
        if part is None or outcome.output is None or not rows.size:
            return
        self.result.checks["derivative of the loss"] += 1
        got = outcome.output[rows, columns]
        difference = differences(got, values)
        allowed = part.allowed[rows, columns] + room
        wrong = part.asked[rows, columns] & ~(difference <= allowed)
        if wrong.any():
            k = int(np.flatnonzero(wrong)[np.argmax((difference / allowed)[wrong])])
            i, j = int(rows[k]), int(columns[k])
            self.breach(
                "gradient is not the derivative of the loss", row=i, column=j,
                input=self._logit(i, j), got=got[k], want=values[k],
                error=float((difference / part.unit[rows, columns])[k]),
                difference=float(difference[k]), allowed=float(allowed[k]),
            )  # fmt: skip

    def _label(self, i: int) -> int | None:
        return None if self._problem.has_probs else int(self._problem.labels[i])

    def _logit(self, i: int, j: int | None) -> Any:
        if j is None or not 0 <= j < self._problem.logits.shape[1]:
            return None
        return self._problem.logits[i, j]


def can_fail(part: Part) -> bool:
    """Whether answers without any sense would be found out: all 0, all NaN, one number everywhere.

    Of a single exact value, "one number everywhere" is that value, and says nothing.
    """
    want = part.want
    constants = (float(want.flat[0]), float(want.flat[want.size // 2])) if want.size > 1 else ()
    for answer in (0.0, np.nan, *constants):
        trivial = np.full(want.shape, answer)
        shares = np.where(part.asked, in_units(differences(trivial, want), part.allowed), 0)
        if shares.max(initial=0.0) <= 1:
            return False
    return True
