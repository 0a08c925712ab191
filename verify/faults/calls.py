"""Faults of whole calls: threads, batches, earlier calls, the loss alone, the other functions.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..case import CROSS_ENTROPY, Array
from ..cases import CASES, layouts, options, shapes
from .correct import CrossEntropy, Functions
from .correct_rows import Call, State
from .fault import fault

_FUNCTIONS: Final = tuple(case for case in CASES if case.operation != CROSS_ENTROPY)

# ---- threads and chunks --------------------------------------------------------------------------


@fault()
class race_on_the_last_chunk(CrossEntropy):
    """The call returns while the last thread is still at work."""

    def run(self, work: Callable[[slice], None], chunks: Sequence[slice]) -> None:
        *first, last = chunks
        super().run(work, first)
        if first:
            late = threading.Timer(0.5, work, [last])
            late.daemon = True
            late.start()
        else:
            work(last)


@fault()
class rows_lost_between_threads(CrossEntropy):
    """Each thread takes n_rows // n_threads rows: the remainder is nobody's."""

    def chunks(self, call: Call) -> list[slice]:
        size = call.logits.shape[0] // call.n_threads
        return [slice(size * k, size * k + size) for k in range(call.n_threads) if size]


@fault(cases=[shapes.long_rows, shapes.very_many_rows])
class rows_counted_in_16_bits(CrossEntropy):
    """Row numbers are kept in 16 bits: beyond 65536 rows the first ones are read again."""

    def read(self, call: Call, rows: slice) -> Array:
        x = super().read(call, slice(None))
        return x[np.arange(x.shape[0])[rows] % 2**16]


# ---- the same question, another answer -----------------------------------------------------------


def _in_parts(call: Call, x: Array, state: State, steps: CrossEntropy, n_parts: Any) -> State:
    """The state with a sum of so many parts, for each row its own, which are rounded to float32."""
    terms = np.where(x == state.maximum[:, None], 0, steps.terms(call, x, state.maximum))
    rest = np.empty_like(state.rest)
    for i, n in enumerate(np.broadcast_to(n_parts, rest.shape)):
        parts = np.array([part.sum() for part in np.array_split(terms[i], n)], np.float32)
        rest[i] = np.add.accumulate(parts)[-1]
    return replace(state, rest=rest)


@fault(in_standard=False)
class depends_on_threads(CrossEntropy):
    """Each thread adds up its part of every row: other threads, other roundings."""

    def state(self, call: Call, x: Array) -> State:
        return _in_parts(call, x, super().state(call, x), self, call.n_threads)


@fault(in_standard=False)
class depends_on_the_batch(CrossEntropy):
    """Another kernel, with sums in another order, takes rows that come alone."""

    def state(self, call: Call, x: Array) -> State:
        n_parts = 1 if call.logits.shape[0] == 1 else 4
        return _in_parts(call, x, super().state(call, x), self, n_parts)


@fault(in_standard=False)
class depends_on_the_position(CrossEntropy):
    """Rows that do not fill a tile of four are added up in another order."""

    def state(self, call: Call, x: Array) -> State:
        n_rows = x.shape[0]
        is_in_tile = np.arange(n_rows) < n_rows // 4 * 4
        return _in_parts(call, x, super().state(call, x), self, np.where(is_in_tile, 4, 3))


@fault(in_standard=False, cases=layouts.CASES)
class depends_on_alignment(CrossEntropy):
    """The sum starts with what comes before the first cache line."""

    def state(self, call: Call, x: Array) -> State:
        address = call.logits.__array_interface__["data"][0]
        n_parts = 1 if address % 64 == 0 else 4
        return _in_parts(call, x, super().state(call, x), self, n_parts)


@fault(in_standard=False)
class depends_on_the_callers_float_mode(CrossEntropy):
    """It computes in its caller's mode: 1e-40 is 0 where torch.set_flush_denormal was called."""

    def float_mode(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@fault()
class sums_kept_from_an_earlier_call(CrossEntropy):
    """The accumulators of a call of the same shape are not cleared."""

    def __init__(self) -> None:
        self.sums: dict[tuple[int, ...], Array] = {}

    def state(self, call: Call, x: Array) -> State:
        state = super().state(call, x)
        before = self.sums.setdefault(x.shape, np.zeros_like(state.rest))
        self.sums[x.shape] = state.rest
        return replace(state, rest=state.rest + np.nan_to_num(before))


@fault()
class losses_in_memory_of_the_next_call(CrossEntropy):
    """Losses are returned in a buffer that the next call of the same size writes to."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[int, Any], Array] = {}

    def computed(self, call: Call, out: Array | None) -> Array:
        losses = super().computed(call, out)
        buffer = self.buffers.setdefault((losses.size, losses.dtype), losses)
        buffer[...] = losses
        return buffer


@fault(in_standard=False)
class loss_alone_of_other_bits(CrossEntropy):
    """The loss without its gradient comes from a kernel of its own, with other roundings."""

    def loss_alone(self, logits: Array, labels: Array, **options: Any) -> Array:
        losses = super().loss_alone(logits, labels, **options)
        return np.nextafter(losses, losses.dtype.type(0))


@fault(cases=options.CASES)
class loss_alone_without_smoothing(CrossEntropy):
    """The loss without its gradient does not know all of the options."""

    def loss_alone(self, logits: Array, labels: Array, **options: Any) -> Array:
        return super().loss_alone(logits, labels, **{**options, "label_smoothing": 0.0})


# ---- softmax, log_softmax, logsumexp -------------------------------------------------------------


@fault(cases=_FUNCTIONS)
class log_of_the_softmax(Functions):
    """log_softmax is the logarithm of softmax: -inf where that underflows."""

    def log_softmax(self, call: Call, x: Array, state: State) -> Array:
        return np.log(self.softmax(call, x, state).astype(np.float32)).astype(x.dtype)


@fault(cases=_FUNCTIONS)
class logsumexp_without_the_maximum(Functions):
    """logsumexp lacks the maximum, which the loss had no need of."""

    def logsumexp(self, call: Call, state: State) -> Array:
        return self.log_sum(state)


@fault(cases=_FUNCTIONS)
class softmax_of_masked_rows_uniform(Functions):
    """softmax divides 0 by 0 in a row of nothing but -inf, and has a guard against that."""

    def softmax(self, call: Call, x: Array, state: State) -> Array:
        found = super().softmax(call, x, state)
        return np.where(np.isneginf(state.maximum)[:, None], 1 / x.shape[1], found)
