"""Runs cases on implementations and judges what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .bounds import BOUNDS
from .case import CROSS_ENTROPY, LOGSUMEXP, Array, Case, DType, Problem
from .implementation import Implementation
from .memory import Guarded, first_difference
from .metrics import ulp_errors
from .reference import Expected, expected
from .result import Breach, Report, Result


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave; None where the operation has no such result."""

    losses: Array | None
    output: Array | None


class BadCallError(Exception):
    """A call broke a rule that has nothing to do with the numbers."""


def run(
    cases: Sequence[Case],
    implementations: Sequence[Implementation],
    dtypes: Sequence[DType],
    *,
    seed: int,
    thread_counts: Sequence[int],
    progress: Callable[[str, int, int], None] | None = None,
    notes: Iterable[str] = (),
) -> Report:
    """Run every case in every dtype on every implementation.

    `progress` is told the case and dtype that come next, the steps done and all steps.
    """
    started = time.perf_counter()
    report = Report(seed=seed, thread_counts=tuple(thread_counts), notes=list(notes))
    steps = [(case, dtype) for case in cases for dtype in dtypes if dtype.name in case.dtypes]
    for done, (case, dtype) in enumerate(steps):
        if progress is not None:
            progress(f"{case.name} {dtype.name}", done, len(steps))
        report.results += check_case(case, implementations, dtype, seed, thread_counts)
    report.seconds = time.perf_counter() - started
    return report


def check_case(
    case: Case,
    implementations: Sequence[Implementation],
    dtype: DType,
    seed: int,
    thread_counts: Sequence[int],
) -> list[Result]:
    """One case in one dtype: a result for every implementation."""
    bound = BOUNDS[case.operation][dtype.name]
    results = [Result(case.name, each.name, dtype.name, bound) for each in implementations]
    for problem in case.problems(dtype, seed):
        want = expected(case.operation, problem)
        for implementation, result in zip(implementations, results, strict=True):
            missing = _missing(implementation, case.operation, problem)
            if missing:
                result.left_out.add(missing)
                continue
            result.sources.add(want.source)
            try:
                _check_problem(implementation, case.operation, problem, want, thread_counts, result)
            except BadCallError as error:
                result.add(Breach(str(error), problem.note))
            except Exception as error:
                result.add(Breach(f"raised {type(error).__name__}: {error}", problem.note))
    return results


def _missing(implementation: Implementation, operation: str, problem: Problem) -> str:
    if operation != CROSS_ENTROPY and operation not in implementation.functions:
        return f"has no {operation}"
    if problem.in_place and "out" not in implementation.options:
        return "cannot work in place"
    if problem.ignore_index is not None and "ignore_index" not in implementation.options:
        return "takes no ignore_index"
    for name in problem.options:
        if name not in implementation.options:
            return f"takes no {name}"
    return ""


def _check_problem(
    implementation: Implementation,
    operation: str,
    problem: Problem,
    want: Expected,
    thread_counts: Sequence[int],
    result: Result,
) -> None:
    def outcome_of(changed: Problem, n_threads: int) -> Outcome:
        return call(implementation, operation, changed, n_threads)

    first = outcome_of(problem, thread_counts[0])
    _check_accuracy(operation, problem, first, want, result)

    def must_match(name: str, other: Outcome, expected_bits: Outcome, row: int = 0) -> None:
        _check_bits(f"bits differ: {name}", problem, other, expected_bits, row, result)

    for n_threads in thread_counts[1:]:
        if "n_threads" in implementation.options:
            must_match(f"{n_threads} threads", outcome_of(problem, n_threads), first)
    if operation == CROSS_ENTROPY and implementation.loss_alone is not None:
        alone = _call_loss_alone(implementation, problem, thread_counts[-1])
        must_match("loss without gradient", Outcome(alone, None), Outcome(first.losses, None))
    if problem.in_place or problem.padding or problem.offset:
        plain = replace(problem, in_place=False, padding=0, offset=0)
        must_match("packed rows", outcome_of(plain, thread_counts[0]), first)
    for i in _sample_rows(problem.logits.shape[0]):
        in_batch = Outcome(
            None if first.losses is None else first.losses[i : i + 1],
            None if first.output is None else first.output[i : i + 1],
        )
        must_match("row alone", outcome_of(problem.row(i), thread_counts[0]), in_batch, i)


def _sample_rows(n_rows: int) -> list[int]:
    if n_rows == 1:
        return []
    return sorted({0, 1, n_rows // 3, n_rows // 2, n_rows - 2, n_rows - 1})


def call(
    implementation: Implementation, operation: str, problem: Problem, n_threads: int
) -> Outcome:
    """One call, on fresh memory; BadCallError where it breaks a rule."""
    shape = problem.logits.shape
    dtype = problem.logits.dtype
    logits = Guarded(shape, dtype, problem.padding, problem.offset)
    logits.array[...] = problem.logits
    given = logits.array.tobytes()
    options = _options(implementation, operation, problem, n_threads)
    out: Guarded | None = None
    if "out" in implementation.options and operation != LOGSUMEXP:
        out = logits
        if not problem.in_place:
            out = Guarded(shape, dtype, problem.padding, problem.offset)
        options["out"] = out.array
    losses: Array | None = None
    output: Array | None = None
    if operation == CROSS_ENTROPY:
        labels = problem.labels.copy()
        losses, output = map(np.asarray, implementation.with_grad(logits.array, labels, **options))
        if labels.tobytes() != problem.labels.tobytes():
            raise BadCallError("the labels were changed")
    else:
        found = np.asarray(implementation.functions[operation](logits.array, **options))
        losses, output = (found, None) if operation == LOGSUMEXP else (None, found)
    if losses is not None:
        _check_form("losses", losses, shape[:1], loss_dtype(dtype))
    if output is not None:
        _check_form("the gradient", output, shape, dtype)
    if out is not None and output is not None and not np.shares_memory(out.array, output):
        raise BadCallError("the result is not in `out`")
    if not problem.in_place and logits.array.tobytes() != given:
        raise BadCallError("the logits were changed")
    if not logits.is_intact() or (out is not None and not out.is_intact()):
        raise BadCallError("memory around the rows was written to")
    return Outcome(losses, output)


def _call_loss_alone(implementation: Implementation, problem: Problem, n_threads: int) -> Array:
    assert implementation.loss_alone is not None
    logits = Guarded(problem.logits.shape, problem.logits.dtype, problem.padding, problem.offset)
    logits.array[...] = problem.logits
    options = _options(implementation, CROSS_ENTROPY, problem, n_threads)
    return np.asarray(implementation.loss_alone(logits.array, problem.labels, **options))


def _options(
    implementation: Implementation, operation: str, problem: Problem, n_threads: int
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "n_threads" in implementation.options:
        options["n_threads"] = n_threads
    if operation == CROSS_ENTROPY:
        options |= problem.options
        if problem.ignore_index is not None:
            options["ignore_index"] = problem.ignore_index
    return options


def loss_dtype(dtype: DType) -> DType:
    """The dtype of the losses for logits of a dtype."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def _check_form(name: str, array: Array, shape: tuple[int, ...], dtype: DType) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise BadCallError(
            f"{name}: {array.dtype} of shape {array.shape} instead of {dtype} of shape {shape}"
        )


def _check_accuracy(
    operation: str, problem: Problem, got: Outcome, want: Expected, result: Result
) -> None:
    names = ("loss error", "gradient error")
    loss_name, output_name = names if operation == CROSS_ENTROPY else ("error", "error")
    bound = result.bound
    if got.losses is not None and want.losses is not None and bound.loss is not None:
        errors = ulp_errors(got.losses, want.losses, want.losses_scale)
        i = int(errors.argmax())
        result.loss_error = max(result.loss_error or 0.0, float(errors[i]))
        if not errors[i] <= bound.loss:
            column = None if problem.has_probs else int(problem.labels[i])
            result.add(
                Breach(
                    loss_name,
                    problem.note,
                    row=i,
                    column=column,
                    input=_logit(problem, i, column),
                    got=got.losses[i],
                    want=want.losses[i],
                    error=float(errors[i]),
                    bound=bound.loss,
                )
            )
    if got.output is not None and want.output is not None and bound.output is not None:
        errors = ulp_errors(got.output, want.output, want.output_scale)
        i, j = (int(k) for k in np.unravel_index(int(errors.argmax()), errors.shape))
        result.output_error = max(result.output_error or 0.0, float(errors[i, j]))
        if not errors[i, j] <= bound.output:
            result.add(
                Breach(
                    output_name,
                    problem.note,
                    row=i,
                    column=j,
                    input=_logit(problem, i, j),
                    got=got.output[i, j],
                    want=want.output[i, j],
                    error=float(errors[i, j]),
                    bound=bound.output,
                )
            )


def _logit(problem: Problem, i: int, j: int | None) -> Any:
    if j is None or not 0 <= j < problem.logits.shape[1]:
        return None
    return problem.logits[i, j]


def _check_bits(
    kind: str, problem: Problem, other: Outcome, first: Outcome, row: int, result: Result
) -> None:
    for a, b in ((other.losses, first.losses), (other.output, first.output)):
        if a is None or b is None:
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            result.add(Breach(kind, problem.note, row=row, got=a.dtype, want=b.dtype))
            continue
        place = first_difference(a, b)
        if place is not None:
            i = place[0] + row
            j = place[1] if len(place) == 2 else None
            result.add(
                Breach(kind, problem.note, i, j, _logit(problem, i, j), got=a[place], want=b[place])
            )
