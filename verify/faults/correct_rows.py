"""The first half of the correct implementation (`correct.py`): from logits to their softmax."""

# The types of NumPy often end in Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..case import Array


@dataclass(slots=True)
class Call:
    """The arguments of a call: logits as (n_rows, n_classes), labels or probabilities alike."""

    logits: Array
    labels: Array
    class_weight: Array | None = None
    sample_weight: Array | None = None
    label_smoothing: float = 0.0
    temperature: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0
    ignore_index: int | None = None
    n_threads: int = 1
    # The type that is computed in, and the one that weights of classes are rounded to first.
    real: Any = field(init=False)
    kernel_real: Any = field(init=False)

    def __post_init__(self) -> None:
        is_wide = self.logits.itemsize == 8  # in any byte order
        self.real = np.longdouble if is_wide else np.float64
        self.kernel_real = np.float64 if is_wide else np.float32


@dataclass(slots=True)
class State:
    """What is known of the classes seen so far; a number for each row."""

    maximum: Array
    count: Array  # how many logits equal it
    rest: Array  # the sum of exp(y_j - y(maximum)) over all others


class Rows:
    """The steps from the logits of rows to their softmax; each may be overridden."""

    vector = 16
    block = 1024
    segment = 16384

    def read(self, call: Call, rows: slice) -> Array:
        """The logits of some rows in the type that is computed in."""
        # Always in one order: the sums of NumPy depend on it.
        return call.logits[rows].astype(np.float64, order="C").astype(call.real)

    # ---- the state of a row ----------------------------------------------------------------------

    def state(self, call: Call, x: Array) -> State:
        """Maximum, count and rest of whole rows: those of their segments, merged in order."""
        states = [
            self.segment_state(call, x[:, start:stop]) for start, stop in self.segments(x.shape[1])
        ]
        whole = states[0]
        for following in states[1:]:
            whole = self.merged(call, whole, following)
        return whole

    def segments(self, n_classes: int) -> list[tuple[int, int]]:
        """First class and end of each segment."""
        starts = range(0, n_classes, self.segment)
        return [(start, min(start + self.segment, n_classes)) for start in starts]

    def segment_state(self, call: Call, x: Array) -> State:
        """The state after all blocks of a segment."""
        n_rows, n_classes = x.shape
        zeros = np.zeros(n_rows, x.dtype)
        state = State(np.full(n_rows, -np.inf, x.dtype), zeros, zeros)
        for start in range(0, n_classes, self.block):
            state = self.absorbed(call, state, x[:, start : start + self.block])
        return state

    def absorbed(self, call: Call, state: State, block: Array) -> State:
        """The state with one block more."""
        maximum = np.maximum(state.maximum, self.maximum(block))
        state = self.raised(call, state, maximum)
        is_maximum = block == maximum[:, None]
        terms = np.where(is_maximum, 0, self.terms(call, block, maximum))
        count = state.count + is_maximum.sum(axis=1)
        return State(maximum, count, state.rest + self.added(self.vectors(terms)))

    def maximum(self, block: Array) -> Array:
        """The largest logit of a block; NaN if there is one."""
        return block.max(axis=1)

    def raised(self, call: Call, state: State, maximum: Array) -> State:
        """The same state relative to a larger maximum."""
        is_same = state.maximum == maximum
        factor = self.exponential(self.difference(call, state.maximum, self.finite(maximum)))
        rest = self.rescaled(np.where(is_same, state.rest, state.rest + state.count), factor)
        return State(maximum, np.where(is_same, state.count, 0), rest)

    def rescaled(self, rest: Array, factor: Array) -> Array:
        """A sum times the exponential of how far its maximum has risen."""
        return np.where(rest == 0, 0, rest * factor)

    def finite(self, maximum: Array) -> Array:
        """The maximum, or 0 where nothing but -inf has been seen: -inf - -inf is no number."""
        return np.where(maximum == -np.inf, 0, maximum)

    def terms(self, call: Call, block: Array, maximum: Array) -> Array:
        """exp(y_j - y(maximum)) of a block."""
        return self.exponential(self.difference(call, block, self.finite(maximum)[:, None]))

    def vectors(self, terms: Array) -> Array:
        """The terms of a block in vectors; what is missing of the last one is 0."""
        n_rows, n_terms = terms.shape
        missing = -n_terms % self.vector
        if missing:
            terms = np.concatenate([terms, np.zeros((n_rows, missing), terms.dtype)], axis=1)
        return terms.reshape(n_rows, -1, self.vector)

    def added(self, vectors: Array) -> Array:
        """The sum of all lanes of all vectors."""
        return vectors.sum(axis=1).sum(axis=1)

    def merged(self, call: Call, first: State, second: State) -> State:
        """The state of two parts of a row."""
        maximum = np.maximum(first.maximum, second.maximum)
        first, second = self.raised(call, first, maximum), self.raised(call, second, maximum)
        return State(maximum, first.count + second.count, first.rest + second.rest)

    # ---- what a row comes to ---------------------------------------------------------------------

    def difference(self, call: Call, x: Array, maximum: Array) -> Array:
        """y(x) - y(maximum), without the difference of two capped logits."""
        if call.softcap is None:
            d = x - maximum
        else:
            d = self.capped_difference(x, maximum, call.real(call.softcap))
        return d if call.temperature == 1 else d / call.real(call.temperature)

    def capped_difference(self, x: Array, maximum: Array, cap: Any) -> Array:
        """c (tanh a - tanh b), a = x/c, b = maximum/c, with q = exp(-2 |a|), r = exp(-2 |b|).

        tanh a - tanh b = 2 f expm1(2 (a - b)) / ((1 + q) (1 + r))
        f = max(q, r) for a and b of one sign, else 1
        """
        q, r = np.exp(-2 * abs(x / cap)), np.exp(-2 * abs(maximum / cap))
        f = np.where((x < 0) == (maximum < 0), np.maximum(q, r), 1)
        d = 2 * cap * f * np.expm1(2 * ((x - maximum) / cap)) / ((1 + q) * (1 + r))
        return np.where(np.isneginf(x), -np.inf, d)

    def exponential(self, d: Array) -> Array:
        """exp(d) for d <= 0."""
        return np.exp(d)

    def logarithm(self, x: Array) -> Array:
        """log(x)."""
        return np.log(x)

    def transformed(self, call: Call, x: Array) -> Array:
        """y(x)."""
        if call.softcap is not None:
            x = call.real(call.softcap) * np.tanh(x / call.real(call.softcap))
        return x / call.real(call.temperature)

    def slope(self, call: Call, x: Array) -> Array:
        """dy/dx; of masked classes that without a cap."""
        if call.softcap is None:
            return 1 / np.full_like(x, call.temperature)
        q = np.exp(-2 * abs(x / call.real(call.softcap)))
        slope = np.where(np.isfinite(x), 4 * q / (1 + q) ** 2, 1)
        return slope / call.real(call.temperature)

    def is_trouble(self, state: State) -> Array:
        """Rows without a softmax: with NaN, with +inf, or of nothing but -inf."""
        return ~np.isfinite(state.maximum)

    def log_sum(self, state: State) -> Array:
        """log(sum_j exp(y_j - y(maximum)))."""
        found = np.where(
            state.count == 1, np.log1p(state.rest), self.logarithm(state.count + state.rest)
        )
        return np.where(self.is_trouble(state), np.nan, found)

    def logsumexp(self, call: Call, state: State) -> Array:
        """log(sum_j exp(y_j))."""
        return self.transformed(call, state.maximum) + self.log_sum(state)

    def softmax(self, call: Call, x: Array, state: State) -> Array:
        """p_j = exp(y_j - y(maximum)) / sum_exp."""
        terms = self.terms(call, x, state.maximum)
        probs = terms / (state.count + state.rest)[:, None]
        return np.where(self.is_trouble(state)[:, None], np.nan, probs)
