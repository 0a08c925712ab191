"""One call of an implementation on memory laid out as its problem asks."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .case import CROSS_ENTROPY, DTYPES, LOGSUMEXP, Array, DType, Problem
from .float_mode import SUBNORMALS_OFF, mode
from .implementation import Implementation
from .memory import Placed, guarded_copy
from .profile import STRICT, ProfileName, loss_dtype


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave; None where the operation has no such result."""

    losses: Array | None
    output: Array | None

    def bits(self) -> tuple[bytes, ...]:
        """All that it holds."""
        return tuple(a.tobytes() for a in (self.losses, self.output) if a is not None)

    def of_rows(self, chosen: Any) -> Outcome:
        """The same for some of the rows."""
        return Outcome(
            None if self.losses is None else self.losses[chosen],
            None if self.output is None else self.output[chosen],
        )


class BadCallError(Exception):
    """A call broke a rule that has nothing to do with the numbers."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls an implementation; `strict` asks for the dtypes that fastxent gives.

    With `switches_subnormals_off` its thread takes subnormal numbers for zeros meanwhile.
    """

    implementation: Implementation
    operation: str
    profile: ProfileName
    switches_subnormals_off: bool = False

    def call(self, problem: Problem, n_threads: int) -> Outcome:
        """Losses and output, on fresh memory; BadCallError where the call breaks a rule."""
        if problem.layout.inner > 1 and problem.logits.shape[0] % problem.layout.inner:
            raise ValueError("the rows do not fill the inner axis")
        given = _Given(problem)
        options = self._options(problem, given, n_threads)
        out: Placed | None = None
        if "out" in self.implementation.options and self.operation != LOGSUMEXP:
            out = given.logits if problem.in_place else given.place_like_logits()
            options["out"] = out.array
        try:
            with self._surroundings():
                losses, output = self._results(given, options)
        except Exception:
            if out is not None and not problem.in_place and not _is_untouched(out):
                raise BadCallError("an error was raised after `out` had been written to") from None
            raise
        if losses is not None:
            losses = losses.reshape(-1) if problem.layout.inner > 1 else losses
        if output is not None:
            if output.shape == given.logits.array.shape:
                output = given.logits.rows_of(output)
            self._check_form("the gradient", output, problem.logits.shape, problem.logits.dtype)
        if losses is not None:
            wanted = loss_dtype(problem.logits.dtype)
            self._check_form("losses", losses, problem.logits.shape[:1], wanted)
        if out is not None and output is not None and not _lies_in(output, out):
            raise BadCallError("the result is not in `out`")
        given.check_unchanged(is_output=problem.in_place)
        if out is not None and not out.is_intact():
            raise BadCallError("memory around the output was written to")
        return Outcome(losses, output)

    def call_loss_alone(self, problem: Problem, n_threads: int) -> Outcome:
        """Losses without the gradient."""
        assert self.implementation.loss_alone is not None
        given = _Given(replace(problem, in_place=False))
        options = self._options(problem, given, n_threads)
        with self._surroundings():
            found = self.implementation.loss_alone(given.logits.array, given.labels, **options)
        losses = np.asarray(found).reshape(-1)
        wanted = loss_dtype(problem.logits.dtype)
        self._check_form("losses alone", losses, problem.logits.shape[:1], wanted)
        given.check_unchanged(is_output=False)
        return Outcome(losses, None)

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """An ordinary implementation may warn of an overflow, whatever the caller makes of that."""
        if self.profile == STRICT:
            with mode(SUBNORMALS_OFF) if self.switches_subnormals_off else contextlib.nullcontext():
                yield
            return
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    def _results(self, given: _Given, options: dict[str, Any]) -> tuple[Array | None, Array | None]:
        array = given.logits.array
        if self.operation == CROSS_ENTROPY:
            found = self.implementation.with_grad(array, given.labels, **options)
            if not isinstance(found, tuple | list) or len(found) != 2:
                raise BadCallError(
                    f"{type(found).__name__} returned instead of (losses, grad_logits)"
                )
            losses, output = map(np.asarray, found)
            return losses, output
        result = np.asarray(self.implementation.functions[self.operation](array, **options))
        return (result, None) if self.operation == LOGSUMEXP else (None, result)

    def _options(self, problem: Problem, given: _Given, n_threads: int) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if "n_threads" in self.implementation.options:
            options["n_threads"] = n_threads
        if problem.layout.inner > 1:
            options["axis"] = 1
        if self.operation == CROSS_ENTROPY:
            options |= given.options
            if problem.layout.inner > 1 and "sample_weight" in options:
                shape = (-1, problem.layout.inner)
                options["sample_weight"] = options["sample_weight"].reshape(shape)
            if problem.ignore_index is not None:
                options["ignore_index"] = problem.ignore_index
        return options

    def _check_form(self, name: str, array: Array, shape: tuple[int, ...], dtype: DType) -> None:
        """The shape in any case; strictly the dtype, too, else any floats."""
        is_right = array.dtype == dtype
        if self.profile != STRICT:
            is_right = array.dtype.name in DTYPES
        if array.shape != shape or not is_right:
            raise BadCallError(
                f"{name}: {array.dtype} of shape {array.shape} instead of {dtype} of shape {shape}"
            )


class _Given:
    """The arguments of a call, and what they were before it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.logits = Placed(problem.logits.shape, problem.logits.dtype, problem.layout)
        self.logits.put(problem.logits)
        labels = problem.labels
        inner = problem.layout.inner
        if inner > 1 and problem.has_probs:
            labels = labels.reshape(-1, inner, labels.shape[1]).transpose(0, 2, 1)
        elif inner > 1:
            labels = labels.reshape(-1, inner)
        self.labels = guarded_copy(labels, problem.layout.guard)
        # Problems are shared by all implementations: each gets copies of its own.
        self.options = copy.deepcopy(dict(problem.options))
        self._bytes = self.logits.array.tobytes()
        self._label_bytes = self.labels.tobytes()

    def place_like_logits(self) -> Placed:
        """Memory for an output that lies as the logits do."""
        layout = replace(self._problem.layout, read_only=False)
        return Placed(self._problem.logits.shape, self._problem.logits.dtype, layout)

    def check_unchanged(self, *, is_output: bool) -> None:
        """BadCallError where an argument was written to."""
        if self.labels.tobytes() != self._label_bytes:
            raise BadCallError("the labels were changed")
        for name, value in self.options.items():
            if np.asarray(value).tobytes() != np.asarray(self._problem.options[name]).tobytes():
                raise BadCallError(f"{name} was changed")
        if not is_output and self.logits.array.tobytes() != self._bytes:
            raise BadCallError("the logits were changed")
        if not self.logits.is_intact():
            raise BadCallError("memory around the logits was written to")


def _is_untouched(out: Placed) -> bool:
    return bool(np.isnan(out.array.astype(np.float64)).all())


def _lies_in(output: Array, out: Placed) -> bool:
    """Whether an output is the contents of `out`."""
    return output.tobytes() == out.rows_of(out.array).tobytes()
