"""Faults in the sum of exponentials: maxima, vectors, blocks, segments, accumulators.

The classes are called as the faults are on the command line.
"""

# What an overridden step is for is said where it is right; the types of NumPy often end in Any.
# ruff: noqa: D102
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..case import HALVES, Array, cast, dtype_named
from ..cases import shapes
from .correct import CrossEntropy
from .correct_rows import Call, State
from .fault import fault


@fault()
class no_maximum(CrossEntropy):
    """The maximum is not subtracted: the textbook's formula, in which exp overflows."""

    def maximum(self, block: Array) -> Array:
        return np.zeros(block.shape[0], block.dtype)

    def exponential(self, d: Array) -> Array:
        return np.exp(d.astype(np.float32)).astype(d.dtype)


@fault()
class maximum_starts_at_zero(CrossEntropy):
    """The running maximum starts at 0 (or at C++'s numeric_limits::min), not at -inf."""

    def segment_state(self, call: Call, x: Array) -> State:
        zeros = np.zeros(x.shape[0], x.dtype)
        state = State(zeros, zeros, zeros)
        for start in range(0, x.shape[1], self.block):
            state = self.absorbed(call, state, x[:, start : start + self.block])
        return state


@fault()
class stale_maximum(CrossEntropy):
    """A block that raises the maximum still takes its exponentials relative to the old one."""

    def absorbed(self, call: Call, state: State, block: Array) -> State:
        maximum = np.maximum(state.maximum, self.maximum(block))
        old = np.where(np.isneginf(state.maximum), maximum, state.maximum)
        state = self.raised(call, state, maximum)
        is_maximum = block == maximum[:, None]
        terms = np.where(is_maximum, 0, self.terms(call, block, old))
        count = state.count + is_maximum.sum(axis=1)
        return State(maximum, count, state.rest + self.added(self.vectors(terms)))


@fault()
class sum_not_rescaled(CrossEntropy):
    """Online softmax without its correction: the sum so far is kept when the maximum rises."""

    def rescaled(self, rest: Array, factor: Array) -> Array:
        return rest


@fault()
class last_vector_dropped(CrossEntropy):
    """The loop over whole vectors has no remainder loop behind it."""

    def vectors(self, terms: Array) -> Array:
        n_whole = terms.shape[1] // self.vector * self.vector
        return super().vectors(terms[:, :n_whole])


@fault()
class last_vector_twice(CrossEntropy):
    """The last partial vector is added by the vector loop, masked, and by the remainder loop."""

    def vectors(self, terms: Array) -> Array:
        n_whole = terms.shape[1] // self.vector * self.vector
        return super().vectors(np.concatenate([terms, terms[:, n_whole:]], axis=1))


@fault()
class last_of_odd_number_dropped(CrossEntropy):
    """A loop unrolled by two forgets the last class of an odd number."""

    def vectors(self, terms: Array) -> Array:
        return super().vectors(terms[:, : terms.shape[1] // 2 * 2])


@fault()
class padding_is_zero(CrossEntropy):
    """The last vector is filled up with logits of 0 instead of -inf."""

    def absorbed(self, call: Call, state: State, block: Array) -> State:
        padding = np.zeros((block.shape[0], -block.shape[1] % self.vector), block.dtype)
        return super().absorbed(call, state, np.concatenate([block, padding], axis=1))


@fault()
class leading_masked_block_is_nan(CrossEntropy):
    """Naive online softmax: where the first block is all -inf it computes -inf - -inf."""

    def absorbed(self, call: Call, state: State, block: Array) -> State:
        found = super().absorbed(call, state, block)
        factor = np.exp(state.maximum - found.maximum)
        return replace(found, rest=np.where(np.isnan(factor), np.nan, found.rest))


@fault(cases=[shapes.long_rows, shapes.very_many_rows])
class leading_masked_segments_are_nan(CrossEntropy):
    """Blocks of -inf are provided for, but not two parts of a row that are both masked."""

    def merged(self, call: Call, first: State, second: State) -> State:
        whole = super().merged(call, first, second)
        factor = np.exp(first.maximum - whole.maximum)
        return replace(whole, rest=np.where(np.isnan(factor), np.nan, whole.rest))


@fault()
class counts_merged_blindly(CrossEntropy):
    """The merge of two parts adds up their counts, whichever part holds the maximum."""

    def merged(self, call: Call, first: State, second: State) -> State:
        whole = super().merged(call, first, second)
        return replace(whole, count=first.count + second.count)


@fault()
class ties_counted_once(CrossEntropy):
    """The first maximum is left out of the sum as 1, and so are all that equal it."""

    def absorbed(self, call: Call, state: State, block: Array) -> State:
        found = super().absorbed(call, state, block)
        return replace(found, count=np.minimum(found.count, 1))


@fault()
class segment_loses_a_class(CrossEntropy):
    """Where a long row is split, each later segment starts one class too late."""

    def segments(self, n_classes: int) -> list[tuple[int, int]]:
        first, *others = super().segments(n_classes)
        return [first, *((start + 1, stop) for start, stop in others)]


@fault(cases=shapes.CASES)
class segment_offset_in_16_bits(CrossEntropy):
    """Offsets of segments are kept in 16 bits: beyond 65536 classes it reads the first ones."""

    def segments(self, n_classes: int) -> list[tuple[int, int]]:
        found = super().segments(n_classes)
        return [(start % 2**16, start % 2**16 + stop - start) for start, stop in found]


def _one_after_another(vectors: Array, dtype: Any) -> Array:
    """The sum in a single accumulator of a narrow type."""
    terms = cast(vectors.reshape(vectors.shape[0], -1), dtype)
    sums = np.add.accumulate(terms, axis=1, dtype=terms.dtype)
    return sums[:, -1].astype(vectors.dtype)


@fault(in_standard=False)
class float32_accumulators(CrossEntropy):
    """A block's terms are added to one float32, one after another."""

    def added(self, vectors: Array) -> Array:
        return _one_after_another(vectors, np.dtype(np.float32))


@fault()
class bfloat16_accumulators(CrossEntropy):
    """Sums in bfloat16, as mixed precision has them where autocast is not told otherwise."""

    def added(self, vectors: Array) -> Array:
        return _one_after_another(vectors, dtype_named("bfloat16"))


@fault()
class float16_accumulators(CrossEntropy):
    """Sums in float16: past 2048 a term of 1 vanishes."""

    def added(self, vectors: Array) -> Array:
        return _one_after_another(vectors, np.dtype(np.float16))


@fault(dtypes=HALVES)
class accumulators_of_the_logits(CrossEntropy):
    """16-bit logits are added up in their own type instead of in float32."""

    def state(self, call: Call, x: Array) -> State:
        found = super().state(call, x)
        terms = np.where(x == found.maximum[:, None], 0, self.terms(call, x, found.maximum))
        rest = _one_after_another(terms[:, :, None], dtype_named(call.logits.dtype.name))
        return replace(found, rest=rest)
