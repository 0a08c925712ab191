"""Finds the largest errors among billions of float32 results.

Other cases judge every number by itself, at a microsecond each. Here the exact value is a float64,
wrong by some 1e-8 units in the last place (ULP) of float32, at a few nanoseconds. Of each batch
only the largest error is looked at, and only where it is larger than any before. That row is put to
the judge of all other cases: its exact values, errors and breaches are his.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np

from ..bounds import BOUNDS
from ..calls import BadCallError, Outcome
from ..case import CROSS_ENTROPY, Array, Problem
from ..implementation import Implementation
from ..judge import Judge, can_fail
from ..profile import STRICT, Demand, demand
from ..reference import expected
from ..result import Result

LOSS: Final = "loss"
GRADIENT: Final = "gradient"

# The bits of a float64: those of its exponent, and half a unit of the last place that float32 has.
_EXPONENT: Final = np.uint64(0x7FF << 52)
_HALF_FLOAT32: Final = np.uint64(1 << 28)
# The exponent of the smallest normal float32, and what an exponent e is taken from to give 23 - e.
_SMALLEST_NORMAL: Final = np.uint64((1023 - 126) << 52)
_TURNED_OVER: Final = np.uint64((2 * 1023 + 23) << 52)
# Rows for which it is made sure that answers without any sense would be found out.
_TRUST_ROWS: Final = 8


def per_ulp(want: Array, out: Array) -> Array:
    """1 / the spacing of float32 at |want|, rounded to float32: `metrics.spacing` by integers.

    Half a unit of float32 carries into the exponent exactly where rounding does.
    """
    bits = out.view(np.uint64)
    np.add(want.view(np.uint64), _HALF_FLOAT32, out=bits)
    np.bitwise_and(bits, _EXPONENT, out=bits)
    np.maximum(bits, _SMALLEST_NORMAL, out=bits)
    np.subtract(_TURNED_OVER, bits, out=bits)
    return out


class Exact(NamedTuple):
    """What results should be, and how many ULP of float32 there are to 1."""

    value: Array
    per: Array


class Screen:
    """Holds batches of results against float64, and has the worst row of all judged.

    `kernels` names what is swept, for notes and breaches.
    """

    def __init__(
        self,
        implementation: Implementation,
        result: Result,
        thread_counts: Sequence[int],
        kernels: str,
    ) -> None:
        self.implementation = implementation
        self.result = result
        self.kernels = kernels
        self._options: dict[str, Any] = {}
        if "n_threads" in implementation.options:
            self._options["n_threads"] = max(thread_counts)
        bound = BOUNDS[CROSS_ENTROPY][result.dtype]
        self._bounds = {LOSS: bound.loss or 0.0, GRADIENT: bound.output or 0.0}
        self._beyond = {LOSS: -1.0, GRADIENT: -1.0}
        self._worst: dict[str, str] = {}

    def call(self, logits: Array, labels: Array, out: Array) -> tuple[Array, Array]:
        """Losses and gradient, in `out` where the implementation can do that."""
        options = dict(self._options)
        if "out" in self.implementation.options:
            options["out"] = out
        with _errors_named():
            found = self.implementation.with_grad(logits, labels, **options)
            losses, gradient = map(np.asarray, found)
        _check_form(losses, logits.shape[:1])
        _check_form(gradient, logits.shape)
        return losses, gradient

    def call_for_losses(self, logits: Array, labels: Array, out: Array) -> Array:
        """Losses alone, where there is a way to these."""
        if self.implementation.loss_alone is None:
            return self.call(logits, labels, out)[0]
        with _errors_named():
            losses = np.asarray(self.implementation.loss_alone(logits, labels, **self._options))
        _check_form(losses, logits.shape[:1])
        return losses

    def worst(self, kind: str, got: Array, exact: Exact, work: Array) -> Any:
        """Where the error is larger than any of the kind before: the place, or None."""
        np.subtract(got, exact.value, out=work)
        np.multiply(work, exact.per, out=work)
        error = float(np.maximum(work.max(), -work.min()))  # a NaN stays one
        if error <= self._beyond[kind]:
            return None
        # Errors that grow along a sweep would have row after row judged: once there is a breach
        # only one twice as large is of interest.
        growth = 1 if error <= self._bounds[kind] else 2
        self._beyond[kind] = np.inf if np.isnan(error) else growth * error
        return np.unravel_index(int(abs(work).argmax()), work.shape)

    def judge(
        self, kind: str, x: Any, logits: Array, label: int, loss: Any, gradient: Array | None
    ) -> None:
        """Judge a row, the worst of its kind so far because of the logit x."""
        problem, asked = self._asked(logits[None], np.array([label]))
        losses = np.array([loss])
        output = None if gradient is None else gradient[None].copy()
        known, trusted = dict(self.result.breaches), set(self.result.trusted)
        judge = Judge(self.result, problem, 0, asked)
        found = judge.accuracy(Outcome(losses, output))
        self.result.trusted = trusted  # one row says nothing: see `trust`
        for name, breach in self.result.breaches.items():
            if breach is not known.get(name):
                self.result.breaches[name] = replace(breach, row=None, input=x)
        ulp = found[0 if kind == LOSS else 1]
        bits = int(np.asarray(x, np.float32).view(np.uint32))
        self._worst[kind] = f"{ulp:.3f} ULP at x = {x} (bits {bits:#010x}), m = {logits.max()}"

    def trust(self, logits: Array, labels: Array) -> None:
        """Find out whether answers without any sense would pass for these rows, if need be."""
        if self.result.judged <= self.result.trusted:
            return
        chosen = slice(None, None, max(1, len(logits) // _TRUST_ROWS))
        _, asked = self._asked(logits[chosen], labels[chosen])
        parts = [part for part in (asked.losses, asked.output) if part is not None]
        self.result.trusted |= {part.name for part in parts if can_fail(part)}

    def close(self) -> None:
        """Note the largest errors, and where they were found."""
        for kind, text in self._worst.items():
            self.result.notes.add(f"{self.kernels}: largest error of the {kind} {text}")

    def _asked(self, logits: Array, labels: Array) -> tuple[Problem, Demand]:
        problem = Problem(logits.copy(), labels, self.kernels)
        want = expected(CROSS_ENTROPY, problem)
        self.result.sources.add(want.source)
        return problem, demand(STRICT, CROSS_ENTROPY, problem, want)


@contextlib.contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise BadCallError(f"raised {type(error).__name__}: {error}") from error


def _check_form(array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32:
        raise BadCallError(
            f"{array.dtype} of shape {array.shape} instead of float32 of shape {shape}"
        )


class Rows:
    """Rows of many classes, the largest logit first: the gradient gives an exponential for each."""

    def __init__(self, screen: Screen, n_rows: int, n_classes: int) -> None:
        shape = (n_rows, n_classes)
        self.logits = np.zeros(shape, np.float32)
        self._screen = screen
        self._labels = np.zeros(n_rows, np.int64)
        self._out = np.empty(shape, np.float32)
        self._want, self._work, self._per = (np.empty(shape) for _ in range(3))

    def check(self) -> None:
        """Hold what the implementation gives for `logits` against float64."""
        screen, x, want, work = self._screen, self.logits, self._want, self._work
        # exp(x_j - m) / S, and -(S - 1) / S at the label, S - 1 being the sum over the others.
        np.subtract(x, x[:, :1].astype(np.float64), out=want)
        np.exp(want, out=want)
        want[:, 0] = 0
        rest = want.sum(axis=1)
        want *= (1 / (1 + rest))[:, None]
        want[:, 0] = -rest / (1 + rest)
        losses, gradient = screen.call(x, self._labels, self._out)
        place = screen.worst(GRADIENT, gradient, Exact(want, per_ulp(want, self._per)), work)
        if place is not None:
            i, j = place
            screen.judge(GRADIENT, x[i, j], x[i], 0, losses[i], gradient[i])
        exact = np.log1p(rest)
        per = per_ulp(exact, np.empty_like(exact))
        place = screen.worst(LOSS, losses, Exact(exact, per), np.empty_like(exact))
        if place is not None:
            (i,) = place
            screen.judge(LOSS, x[i, 0], x[i], 0, losses[i], gradient[i])

    def trust(self) -> None:
        """See `Screen.trust`."""
        self._screen.trust(self.logits, self._labels)


class Pairs:
    """Rows [0, x], with -inf up to `n_classes`: an exponential alone in its row.

    For v = |x|, e = exp(-v) and L = log1p(e): the loss is L where the label holds the larger logit
    and v + L where it does not; the softmax is e/(1 + e) and 1/(1 + e).
    """

    def __init__(self, screen: Screen, n_rows: int, n_classes: int) -> None:
        self.logits = np.full((n_rows, n_classes), -np.inf, np.float32)
        self.logits[:, 0] = 0
        self._screen = screen
        self._labels = np.zeros(n_rows, np.int64), np.ones(n_rows, np.int64)
        self._out = np.empty(self.logits.shape, np.float32)
        self._turned = np.empty(n_rows, np.float32)
        self._below, self._e, self._work = (np.empty(n_rows) for _ in range(3))
        self._log_sum, self._cost, self._small, self._large = (
            Exact(np.empty(n_rows), np.empty(n_rows)) for _ in range(4)
        )

    def check(self, size: Array) -> None:
        """Check losses and gradients for x = size and -size, with either label."""
        log_sum, cost, small, large = self._log_sum, self._cost, self._small, self._large
        self._exponentials(size)
        np.subtract(log_sum.value, self._below, out=cost.value)
        np.add(self._e, 1, out=large.value)
        np.divide(self._e, large.value, out=small.value)
        np.divide(1, large.value, out=large.value)
        for exact in (log_sum, cost, small, large):
            per_ulp(exact.value, exact.per)
        for sign, larger in ((-1, 0), (1, 1)):
            np.multiply(size, np.float32(sign), out=self.logits[:, 1])
            for label in (0, 1):
                losses, gradient = self._screen.call(self.logits, self._labels[label], self._out)
                loss, other = (log_sum, small) if label == larger else (cost, large)
                # p_j at the one, p_y - 1 = -p_j at the other, the label.
                np.negative(gradient[:, label], out=self._turned)
                for kind, got, exact in (
                    (LOSS, losses, loss),
                    (GRADIENT, self._turned, other),
                    (GRADIENT, gradient[:, 1 - label], other),
                ):
                    self._look(kind, got, exact, label, losses, gradient)

    def check_losses(self, size: Array) -> None:
        """Check losses for x = size and -size, the label being the larger logit."""
        self._exponentials(size)
        per_ulp(self._log_sum.value, self._log_sum.per)
        for sign, label in ((-1, 0), (1, 1)):
            np.multiply(size, np.float32(sign), out=self.logits[:, 1])
            losses = self._screen.call_for_losses(self.logits, self._labels[label], self._out)
            self._look(LOSS, losses, self._log_sum, label, losses, None)

    def trust(self) -> None:
        """See `Screen.trust`."""
        self._screen.trust(self.logits, self._labels[0])

    def _exponentials(self, size: Array) -> None:
        np.negative(size, out=self._below)
        np.exp(self._below, out=self._e)
        np.log1p(self._e, out=self._log_sum.value)

    def _look(
        self, kind: str, got: Array, exact: Exact, label: int, losses: Array, gradient: Array | None
    ) -> None:
        place = self._screen.worst(kind, got, exact, self._work)
        if place is not None:
            (i,) = place
            row = None if gradient is None else gradient[i]
            x = self.logits[i]
            self._screen.judge(kind, x[1], x, label, losses[i], row)
