"""What is checked of one problem: the call itself, and every other way to ask for the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from .calls import Caller, Outcome
from .case import CROSS_ENTROPY, LOGSUMEXP, PACKED, Array, Problem, cast
from .float_mode import MODES, SUBNORMALS_OFF
from .judge import Judge
from .profile import STRICT, demand
from .reference import Expected

# Numbers added to all logits of a problem where that is exact.
_SHIFTS: Final = (64.0, -1000.0)
_LARGEST_SHIFTED: Final = 6e4


@dataclass(frozen=True, slots=True)
class Variation:
    """Another way to ask for results that are known already.

    The rows of `problem` are `rows` of the problem that it varies; the classes are in the order
    `classes`. `bits` says that fastxent promises the same bits.
    """

    name: str
    problem: Problem
    n_threads: int
    rows: Any = ...
    classes: Array | None = None
    bits: bool = True
    is_loss_alone: bool = False
    is_shifted: bool = False
    switches_subnormals_off: bool = False


def check_problem(
    caller: Caller,
    problem: Problem,
    want: Expected,
    judge: Judge,
    thread_counts: Sequence[int],
    derivatives: tuple[Array, Array, Array, Array] | None,
) -> tuple[Outcome, tuple[float | None, float | None]]:
    """Everything about one problem; its outcome, and the largest errors in ULP."""
    first = caller.call(problem, thread_counts[0])
    kept = first.bits()
    errors = judge.accuracy(first)
    if judge.has_failed:  # every other way to ask would only say so again
        return first, errors
    if caller.operation == CROSS_ENTROPY:
        if sums_to_zero(problem):
            judge.sums_to_zero(first)
        if derivatives is not None:
            judge.derivatives(first, *derivatives)
    for variation in variations(caller, problem, thread_counts):
        asking = replace(caller, switches_subnormals_off=variation.switches_subnormals_off)
        call = asking.call_loss_alone if variation.is_loss_alone else asking.call
        outcome = call(variation.problem, variation.n_threads)
        if variation.classes is not None and outcome.output is not None:
            output = np.empty_like(outcome.output)
            output[:, variation.classes] = outcome.output
            outcome = Outcome(outcome.losses, output)
        if variation.bits and caller.profile == STRICT:
            judge.bits(variation.name, outcome, first.of_rows(variation.rows), variation.rows)
        elif variation.is_shifted:
            # The exact results are those of before, but what the plain formula rounds is larger.
            asked = demand(caller.profile, caller.operation, variation.problem, want)
            judge.accuracy(outcome, variation.rows, variation.name, asked)
        else:
            judge.accuracy(outcome, variation.rows, variation.name)
        if first.bits() != kept:
            judge.breach("a later call changed the results of an earlier one")
            break
    return first, errors


def check_error(
    caller: Caller, problem: Problem, judge: Judge, thread_counts: Sequence[int]
) -> None:
    """A wrong call must raise an error, and write nothing."""
    judge.result.checks["error raised"] += 1
    for n_threads in thread_counts:
        try:
            caller.call(problem, n_threads)
        except (ValueError, IndexError, TypeError):
            continue
        judge.breach("no error was raised")


def sums_to_zero(problem: Problem) -> bool:
    """Whether the gradient of every row sums to 0: a cap and z-loss end that."""
    return not {"softcap", "z_loss"} & set(problem.options)


def variations(
    caller: Caller, problem: Problem, thread_counts: Sequence[int]
) -> Iterator[Variation]:
    """All other ways to ask, as far as the implementation knows them."""
    n_rows, n_classes = problem.logits.shape
    threads = thread_counts[0]
    implementation = caller.implementation
    yield Variation("the same call again", problem, thread_counts[-1])
    if "n_threads" in implementation.options:
        for n in thread_counts[1:]:
            yield Variation(f"{n} threads", problem, n)
    if caller.operation == CROSS_ENTROPY and implementation.loss_alone is not None:
        yield Variation("loss without gradient", problem, thread_counts[-1], is_loss_alone=True)
    if caller.profile == STRICT and SUBNORMALS_OFF in MODES:
        name = "subnormal numbers switched off in the caller"
        yield Variation(name, problem, thread_counts[-1], switches_subnormals_off=True)
    if problem.layout.guard:  # the guards are what it is about, and none of the following has them
        return
    plain = replace(problem, in_place=False, layout=PACKED)
    if problem.in_place or problem.layout != PACKED:
        yield Variation("packed rows", plain, threads)
    for i in _sample_rows(n_rows):
        alone = slice(i, i + 1)
        yield Variation("row alone", problem.rows(alone), threads, alone)
    if n_rows > 1:
        backwards = slice(None, None, -1)
        yield Variation("rows in another order", plain.rows(backwards), threads, backwards)
    if n_classes > 1:
        order = np.random.default_rng(n_classes).permutation(n_classes)
        permuted = plain.classes(order)
        yield Variation("classes in another order", permuted, threads, classes=order, bits=False)
    shifted = _shifted(plain)
    if shifted is not None and caller.operation != LOGSUMEXP:
        yield Variation("all logits shifted", shifted, threads, bits=False, is_shifted=True)


def _sample_rows(n_rows: int) -> list[int]:
    if n_rows == 1:
        return []
    return sorted({0, 1, n_rows // 3, n_rows // 2, n_rows - 2, n_rows - 1})


def _shifted(problem: Problem) -> Problem | None:
    """The problem with a number added to all logits, if that can be done without rounding."""
    if {"softcap", "z_loss"} & set(problem.options):
        return None
    with np.errstate(all="ignore"):
        x = problem.logits.astype(np.float64)
    finite = np.isfinite(x)
    # In float64 the sum itself is exact: numbers beyond are not shifted.
    if not finite.any() or (abs(x[finite]) > _LARGEST_SHIFTED).any():
        return None
    for shift in _SHIFTS:
        with np.errstate(all="ignore"):
            moved = cast(x + shift, problem.logits.dtype)
        if (moved.astype(np.float64) - shift == x)[finite].all():
            return replace(problem, logits=moved, note=f"{problem.note}, shifted by {shift:g}")
    return None
