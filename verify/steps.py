"""Runs cases on implementations and judges what comes out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .calls import BadCallError, Caller, Outcome
from .case import (
    CROSS_ENTROPY,
    PACKED,
    Array,
    Case,
    DType,
    Problem,
)
from .checks import check_error, check_problem
from .errors import said
from .implementation import Implementation
from .judge import Judge
from .profile import STANDARD, STRICT, ProfileName, bound_of, demand
from .reference import Expected, expected
from .reference.derivative import loss_derivatives
from .result import Breach, Point, Result

# Derivatives of this many elements in a problem, and only of rows up to this long, since each
# takes a loss of its own.
_DERIVATIVES = 12
_DERIVATIVE_CLASSES = 3000

Key = tuple[str, str, str]  # case, dtype, implementation


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run asks, apart from cases and implementations.

    profile : "strict" or "standard"
    thread_counts : results must not depend on them
    quick : leave out what only some kernels need long to be compiled for
    problem : only this problem of each case
    until_breach : an implementation is done with after its first breach
    is_apart : the implementation may end this process: arrays between guarded pages are possible
    done : what need not be run
    """

    profile: ProfileName = STRICT
    seed: int = 0
    thread_counts: tuple[int, ...] = (1, 2)
    quick: bool = False
    problem: int | None = None
    until_breach: bool = False
    is_apart: bool = False
    done: frozenset[Key] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Begun:
    """A problem that is about to be put to an implementation."""

    case: str
    dtype: str
    implementation: str
    problem: int
    note: str = ""


Event = Begun | list[Result]


def steps(
    cases: Sequence[Case], dtypes: Sequence[DType], profile: ProfileName, *, quick: bool = False
) -> list[tuple[Case, DType]]:
    """What a run in a profile consists of."""
    return [
        (case, dtype)
        for case in cases
        for dtype in dtypes
        if dtype.name in case.dtypes
        and (not quick or dtype.name in case.quick_dtypes)
        and (profile == STRICT or dtype.name in case.standard)
    ]


def run_steps(
    cases: Sequence[Case],
    implementations: Sequence[Implementation],
    dtypes: Sequence[DType],
    settings: Settings,
) -> Iterator[Event]:
    """Run every case in every dtype on every implementation.

    Gives every problem before it is put to an implementation, and a case's results after it.
    """
    left = list(implementations)
    for case, dtype in steps(cases, dtypes, settings.profile, quick=settings.quick):
        if not left:
            return
        asked = [each for each in left if (case.name, dtype.name, each.name) not in settings.done]
        results: list[Result] = []
        for event in check_case(case, asked, dtype, settings):
            if isinstance(event, list):
                results = event
            yield event
        if settings.until_breach:
            found = {result.implementation for result in results if result.breaches}
            left = [each for each in left if each.name not in found]


def check_case(
    case: Case, implementations: Sequence[Implementation], dtype: DType, settings: Settings
) -> Iterator[Event]:
    """One case in one dtype: a result for every implementation."""
    started = time.perf_counter()
    bound = bound_of(settings.profile, case.operation, dtype)
    results = [
        Result(case.name, each.name, dtype.name, settings.profile, bound)
        for each in implementations
    ]
    if case.sweep is not None:
        for implementation, result in zip(implementations, results, strict=True):
            notes = case.sweep(implementation, result, settings.thread_counts)
            note: str | None = ""
            while note is not None:
                yield Begun(case.name, dtype.name, implementation.name, 0, note)
                try:
                    note = next(notes, None)
                except _raised_by_implementations(settings) as error:
                    result.add(Breach(f"raised {said(error)}"))
                    note = None
    else:
        index = -1
        for index, problem in enumerate(case.problems(dtype, settings.seed)):
            if settings.problem is None or settings.problem == index:
                yield from _put(case, problem, index, implementations, results, settings)
        if settings.problem is not None:
            for result in results:
                # One problem of a case need not tell right from wrong by itself.
                result.trusted |= result.judged
                if settings.problem > index:
                    result.left_out.add(f"has problems 0 to {index} alone in {case.name}")
    for result in results:
        result.seconds = (time.perf_counter() - started) / len(results)
    yield results


def _put(
    case: Case,
    problem: Problem,
    index: int,
    implementations: Sequence[Implementation],
    results: Sequence[Result],
    settings: Settings,
) -> Iterator[Begun]:
    """Put one problem to all implementations."""
    want: Expected | None = None
    derivatives: tuple[Array, Array, Array, Array] | None = None
    for implementation, result in zip(implementations, results, strict=True):
        missing = _missing(implementation, case.operation, problem, settings)
        if settings.until_breach and result.breaches:
            continue
        if missing:
            result.left_out.add(missing)
            continue
        yield Begun(case.name, result.dtype, implementation.name, index, problem.note)
        caller = Caller(implementation, case.operation, settings.profile)
        thread_counts = problem.thread_counts or settings.thread_counts
        if want is None and not problem.must_raise:
            want = expected(case.operation, problem)
            asked = demand(settings.profile, case.operation, problem, want)
            if case.operation == CROSS_ENTROPY:
                derivatives = _sampled_derivatives(problem, want, settings.seed)
        try:
            if want is None:
                check_error(caller, problem, Judge(result, problem, index), thread_counts)
                continue
            judge = Judge(result, problem, index, asked)
            outcome, errors = check_problem(
                caller, problem, want, judge, thread_counts, derivatives
            )
            result.sources.add(want.source)
            result.digest = _digest(result.digest, outcome)
            result.points.append(Point(*_shape(problem), *errors))
        except BadCallError as error:
            result.add(Breach(str(error), index, problem.note))
        except _raised_by_implementations(settings) as error:
            is_refusal = isinstance(error, Exception) and _is_unusual(problem)
            if settings.profile == STANDARD and is_refusal:
                result.left_out.add(f"refuses this ({said(error)})")
            else:
                result.add(Breach(f"raised {said(error)}", index, problem.note))


def _missing(
    implementation: Implementation, operation: str, problem: Problem, settings: Settings
) -> str:
    """Why a problem cannot be put to an implementation; empty if it can."""
    options = implementation.options
    if operation != CROSS_ENTROPY and operation not in implementation.functions:
        return f"has no {operation}"
    if problem.must_raise and settings.profile == STANDARD:
        return "is not asked for errors in the profile standard"
    if problem.in_place and "out" not in options:
        return "cannot work in place"
    if problem.has_probs and "probs" not in options:
        return "takes no probabilities"
    if problem.layout != PACKED and implementation.copies:
        return "is given packed copies"
    if problem.layout.inner > 1 and "axis" not in options:
        return "takes no axis"
    if problem.ignore_index is not None and "ignore_index" not in options:
        return "takes no ignore_index"
    if problem.layout.guard and not settings.is_apart:
        return (
            "runs in this process, which reading past an array would end (name it MODULE:FUNCTION)"
        )
    for name in problem.options:
        if name not in options:
            return f"takes no {name}"
        if settings.quick and name in implementation.slow_options:
            slow = ", ".join(sorted(implementation.slow_options))
            return f"compiles too long for --quick with {slow}"
    return ""


def _raised_by_implementations(settings: Settings) -> tuple[type[BaseException], ...]:
    """What is a breach where it is raised.

    sys.exit is: it would end a test without a failure. A KeyboardInterrupt is the user's, but not
    in a process that no terminal knows of.
    """
    return (BaseException,) if settings.is_apart else (Exception, SystemExit)


def _is_unusual(problem: Problem) -> bool:
    """Whether an ordinary implementation may refuse a problem: a clear error is no wrong number."""
    usual_labels = problem.has_probs or problem.labels.dtype == np.int64
    return problem.layout != PACKED or problem.logits.shape[1] == 1 or not usual_labels


def _shape(problem: Problem) -> tuple[int, int]:
    n_rows, n_classes = problem.logits.shape
    return n_rows, n_classes


def _digest(before: str, outcome: Outcome) -> str:
    """Of the bits of all outcomes: whether two implementations gave the same."""
    found = hashlib.blake2b(before.encode(), digest_size=16)
    for part in outcome.bits():
        found.update(part)
    return found.hexdigest()


def _sampled_derivatives(
    problem: Problem, want: Expected, seed: int
) -> tuple[Array, Array, Array, Array] | None:
    """Elements of the gradient: rows, columns, derivatives of the loss, and their own error."""
    assert want.losses is not None
    assert want.output is not None
    n_classes = problem.logits.shape[1]
    if n_classes > _DERIVATIVE_CLASSES:
        return None
    with np.errstate(all="ignore"):
        x = problem.logits.astype(np.float64)
        whole = np.isfinite(want.losses) & (want.losses != 0) & np.isfinite(want.output).all(axis=1)
        whole &= np.where(np.isneginf(x), True, np.isfinite(x)).all(axis=1)
    if not whole.any():
        return None
    random = np.random.default_rng([seed, n_classes])
    rows = random.choice(np.flatnonzero(whole), _DERIVATIVES)
    columns = random.integers(0, n_classes, _DERIVATIVES)
    largest = x[rows].argmax(axis=1)
    columns[::3] = largest[::3]
    if not problem.has_probs:
        columns[1::3] = problem.labels[rows[1::3]]
    unmasked = np.isfinite(x[rows, columns])
    rows, columns = rows[unmasked], columns[unmasked]
    values, scale = loss_derivatives(problem, rows, columns)
    room = 64 * np.finfo(values.dtype).eps * scale
    return rows, columns, values, room
