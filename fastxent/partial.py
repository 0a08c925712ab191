"""The mergeable state: losses of logits whose classes are split over chunks or machines."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Final, Never

import numpy as np

from . import backends
from ._call import ROWS_AT_A_TIME, Batch
from ._keywords import own_keywords, refuse
from ._options import Asked, brought_to_1, denominator_of
from ._plan import make_plan
from ._reduce import Empty, MeanOver, Reduction, as_result, check_reduction, reduced, result_dtype
from ._validation import Array
from .backends.context import (
    OUTPUT_GRADIENT,
    OUTPUT_NOTHING,
    SEGMENT,
    STATE_SIZE,
    Options,
)

# A shard does not know how many classes there are; a label may be any that is not negative.
_ANY_LABEL: Final = 2**62

_MAXIMUM, _COUNT, _REST = 0, 1, 2
_LABEL_LOGIT, _LABEL_WEIGHT, _LABEL_COUNT = 13, 14, 15


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PartialState:
    """What a shard of the classes, or several, leave behind of every row.

    It can be pickled and sent elsewhere; `merge` joins it with others, `finish` makes losses of it.
    `max_logit`, `sum_exp` and `has_label` say what it has seen: arrays of the batch's shape, or of
    a single row of one axis numpy.float64 and bool. It holds 16 float64 numbers a row.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> state = fastxent.partial(np.array([[1.0, 3.0]]), np.array([5]))
    >>> state.max_logit, state.has_label
    (array([3.]), array([False]))
    """

    numbers: Array  # float64 (n_rows, STATE_SIZE): the kernels' state of each row
    shape: tuple[int, ...]  # of the batch
    dtype: str  # of the arithmetic: float32 or float64
    classes: tuple[tuple[int, int], ...]  # first and one past the last of each shard, in order
    has_probs: bool
    ignored: Array  # which rows are ignored
    sample_weight: Array | None  # float64, one a row
    label_smoothing: float
    temperature: float
    softcap: float | None
    z_loss: float
    backend: str

    @property
    def max_logit(self) -> Any:
        """The largest logit of each row so far, before softcap and temperature."""
        return as_result(self._column(_MAXIMUM))

    @property
    def sum_exp(self) -> Any:
        """The sum of exponentials of each row so far, relative to that of `max_logit`."""
        with np.errstate(all="ignore"):
            return as_result(np.asarray(self._column(_COUNT) + self._column(_REST)))

    @property
    def has_label(self) -> Any:
        """Whether a shard with the row's label is among those merged (class indices only)."""
        return as_result(np.asarray(self._column(_LABEL_COUNT) > 0))

    def _column(self, k: int) -> Array:
        column: Array = self.numbers[:, k].reshape(self.shape)
        return column


@own_keywords
def partial(
    logits: object,
    labels: object,
    *,
    class_offset: int = 0,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> PartialState:
    """The state of a shard of the classes, from which `merge` and `finish` make the loss.

    For a row of logits x over the shard's classes it holds m = max x, how many logits equal m, the
    sum of exp(y_j - y(m)) over the others, sum_j t_j * (y(m) - y_j) with sum_j t_j, and the label's
    logit if its class is in the shard; y is the logits after softcap and temperature.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        The shard: classes class_offset, class_offset + 1, ... along `axis`.
    labels : array
        Class indices into all classes, the same for every shard; or the shard's own probabilities.
    class_offset : int
        The class that comes first in this shard.
    class_weight : array (classes of this shard,), optional
    axis, sample_weight, label_smoothing, ignore_index, temperature, softcap, z_loss, backend,
    n_threads
        As for `cross_entropy`; the same for every shard.

    Returns
    -------
    PartialState

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    The loss agrees with that of all classes at once within the published bounds, whatever the split
    and the order of merging; not in every bit. After Blanchard, Higham and Higham (2021), as
    `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits, labels = np.array([[2.0, 1.0, 0.0, 40.0]]), np.array([3])
    >>> left = fastxent.partial(logits[:, :2], labels)
    >>> right = fastxent.partial(logits[:, 2:], labels, class_offset=2)
    >>> print(fastxent.finish(fastxent.merge(left, right)))
    4.7297791837270814e-17
    """
    if unknown:
        raise refuse(unknown, partial)
    asked = Asked(
        class_weight=class_weight, sample_weight=sample_weight, label_smoothing=label_smoothing,
        temperature=temperature, softcap=softcap, z_loss=z_loss,
    )  # fmt: skip
    batch = Batch(logits, labels, axis, backend, n_threads, ignore_index, asked, "none")
    n_classes = batch.logits.shape[batch.axis]
    n_rows = math.prod(batch.shape)
    states = np.zeros((n_rows, -(-n_classes // SEGMENT), STATE_SIZE))
    options = _shard_options(batch, class_offset, states)
    batch.evaluate(None, task="reduce", options=options)
    return PartialState(
        numbers=np.ascontiguousarray(states[:, 0, :]),
        shape=batch.shape,
        dtype=np.dtype(result_dtype(batch.logits)).name,
        classes=((options.class_offset, options.class_offset + n_classes),),
        has_probs=batch.has_probs,
        ignored=batch.ignored,
        sample_weight=options.row_weights,
        label_smoothing=options.smoothing,
        temperature=options.temperature,
        softcap=options.softcap or None,
        z_loss=options.z_loss,
        backend=batch.plan.backend,
    )


def merge(*states: PartialState) -> PartialState:
    """The state of several shards together, in any order.

    Parameters
    ----------
    states : PartialState
        Of shards that do not overlap, of the same rows, labels and options.

    Returns
    -------
    PartialState

    Raises
    ------
    TypeError
        Something that is not a PartialState, or no state at all.
    ValueError
        States of other rows or options, or of shards that overlap.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits, labels = np.zeros((1, 6)), np.array([5])
    >>> shards = [
    ...     fastxent.partial(logits[:, k : k + 2], labels, class_offset=k) for k in (0, 2, 4)
    ... ]
    >>> fastxent.merge(*shards).sum_exp
    array([6.])
    """
    if not states:
        raise TypeError("merge needs at least one PartialState")
    for k, state in enumerate(states):
        if not isinstance(state, PartialState):
            raise TypeError(
                f"argument {k} of merge is a {type(state).__name__}, not a PartialState"
            )
    first = states[0]
    for k, state in enumerate(states[1:], 1):
        _check_alike(first, state, k)
    classes = tuple(sorted(span for state in states for span in state.classes))
    for (_, stop), (start, _) in itertools.pairwise(classes):
        if start < stop:
            raise ValueError(
                f"class {start} is in more than one of the states: the shards overlap, or one was "
                "merged twice; check class_offset"
            )
    merged = np.empty_like(first.numbers)
    n_rows = max(1, ROWS_AT_A_TIME // len(states))
    room = np.empty((min(n_rows, len(merged)), len(states), STATE_SIZE))
    for start in range(0, len(merged), n_rows):
        rows = slice(start, start + n_rows)
        numbers = room[: len(merged) - start]
        np.stack([state.numbers[rows] for state in states], axis=1, out=numbers)
        _run(first, "merge", numbers, rows)
        merged[rows] = numbers[:, 0, :]
    return dataclasses.replace(first, numbers=merged, classes=classes)


@own_keywords
def finish(
    state: PartialState,
    *,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    **unknown: Never,
) -> Any:
    """The loss of a state that all shards have been merged into.

    Parameters
    ----------
    state : PartialState
    reduction, normalizer, mean_over, empty
        As for `cross_entropy`.

    Returns
    -------
    numpy.float64, or for reduction="none" an array of the batch's shape
        As `cross_entropy` returns it for all classes at once.

    Raises
    ------
    TypeError
        Something that is not a PartialState.
    ValueError
        As `cross_entropy`, and for a row whose label is in none of the shards.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> state = fastxent.partial(np.zeros((2, 4)), np.array([0, 3]))
    >>> print(f"{fastxent.finish(state):.6f}")
    1.386294
    """
    if unknown:
        raise refuse(unknown, finish)
    asked = _finishing(state, reduction, normalizer, mean_over, empty)
    losses = np.empty(state.shape, state.dtype) if reduction == "none" else None
    with backends.driver.default_float_mode():  # in which the kernels compute
        state = _for_a_mean(state, asked, reduction)
        denominator = _denominator(state, asked, reduction)
        _, total = _run(state, "finish", _as_segments(state), losses=losses)
        return reduced(losses, (-1, denominator, total), reduction, empty, normalizer is not None)


@own_keywords
def finish_grad(
    state: PartialState,
    logits: object,
    labels: object,
    *,
    class_offset: int = 0,
    axis: int = -1,
    class_weight: object = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    out: Array | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Array:
    """The gradient of what `finish` returns with respect to the logits of one shard.

        grad_j = sample_weight * ((A + 2 * z_loss * logsumexp(y)) * p_j - t_j) * dy_j/dx_j

    Parameters
    ----------
    state : PartialState
        With all shards merged.
    logits, labels, class_offset, axis, class_weight, ignore_index, n_threads
        Those of the shard, as they were given to `partial`; the other options are the state's.
    reduction, normalizer, mean_over, empty
        As for `finish`.
    out : numpy.ndarray, optional
        As for `cross_entropy_with_grad`.

    Returns
    -------
    grad_logits : numpy.ndarray of the shard's shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `finish`, and for a shard that does not fit the state.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> shard, labels = np.zeros((1, 2)), np.array([3])
    >>> state = fastxent.merge(
    ...     fastxent.partial(shard, labels), fastxent.partial(shard, labels, class_offset=2)
    ... )
    >>> fastxent.finish_grad(state, shard, labels, class_offset=2)
    array([[ 0.25, -0.75]])
    """
    if unknown:
        raise refuse(unknown, finish_grad)
    asked = _finishing(state, reduction, normalizer, mean_over, empty)
    given = Asked(
        class_weight=class_weight, label_smoothing=state.label_smoothing,
        temperature=state.temperature, softcap=state.softcap, z_loss=state.z_loss,
    )  # fmt: skip
    batch = Batch(logits, labels, axis, state.backend, n_threads, ignore_index, given, "none")
    if batch.shape != state.shape:
        raise ValueError(
            f"logits of shape {batch.logits.shape} do not fit the state, which is of rows of shape "
            f"{state.shape}; pass a shard as it was given to partial"
        )
    if batch.has_probs != state.has_probs:
        kinds = ("class indices", "probabilities")
        raise ValueError(
            f"labels are {kinds[batch.has_probs]}, but the state was computed from "
            f"{kinds[state.has_probs]}; pass the labels as they were given to partial"
        )
    if np.dtype(result_dtype(batch.logits)).name != state.dtype:
        raise TypeError(
            f"logits are {batch.logits.dtype.name}, but the state was computed in {state.dtype}; "
            "pass the shard as it was given to partial"
        )
    n_classes = batch.logits.shape[batch.axis]
    n_segments = -(-n_classes // SEGMENT)
    states = _as_segments(state)
    if n_segments > 1:
        states = np.zeros((len(state.numbers), n_segments, STATE_SIZE))
        states[:, 0, :] = state.numbers
    with backends.driver.default_float_mode():  # in which the kernels compute
        state = _for_a_mean(state, asked, reduction)
        denominator = _denominator(state, asked, reduction)
        if reduction != "mean" and normalizer is None:
            denominator = 1.0
        if denominator == 0:
            reduced(None, (-1, denominator, 0.0), reduction, empty)  # refused, if that is asked for
    options = _shard_options(batch, class_offset, states)._replace(
        row_weights=state.sample_weight, denominator=denominator
    )
    span = (options.class_offset, options.class_offset + n_classes)
    if span not in state.classes:
        raise ValueError(
            f"the shard holds classes {span[0]} to {span[1] - 1}, which is none of the shards that "
            "were merged; check class_offset, and pass a shard as it was given to partial"
        )
    gradient: Any = batch.evaluate("mean", OUTPUT_GRADIENT, out, "write", options)[1]
    result: Array = gradient
    return result


def _shard_options(batch: Batch, class_offset: object, states: Array) -> Options:
    if isinstance(class_offset, bool) or not isinstance(class_offset, int | np.integer):
        raise TypeError(f"class_offset must be an integer, not {class_offset!r}")
    if not 0 <= class_offset < _ANY_LABEL:
        raise ValueError(f"class_offset must not be negative, but is {class_offset}")
    if batch.asked is not None and isinstance(batch.asked.class_weight, Mapping):
        raise TypeError(
            "class_weight is a mapping, which does not say whether its keys count from the first "
            "class of all or of this shard; pass an array of the weights of the shard's classes"
        )
    assert batch.options is not None
    return batch.options._replace(
        class_offset=int(class_offset), n_labels=_ANY_LABEL, states=states, denominator=1.0
    )


def _check_alike(first: PartialState, other: PartialState, k: int) -> None:
    for name in (
        "shape", "dtype", "has_probs", "label_smoothing", "temperature", "softcap", "z_loss",
    ):  # fmt: skip
        a, b = getattr(first, name), getattr(other, name)
        if a != b:
            raise ValueError(
                f"states 0 and {k} do not belong together: {name} is {a!r} and {b!r}; all shards "
                "must have the same rows and options"
            )
    for name in ("ignored", "sample_weight"):
        a, b = getattr(first, name), getattr(other, name)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a, b)):
            raise ValueError(
                f"states 0 and {k} do not belong together: they differ in {name}; all shards must "
                "have the same rows and options"
            )


def _finishing(
    state: object, reduction: object, normalizer: object, mean_over: object, empty: object
) -> Asked:
    """The options of finish and finish_grad, checked."""
    if not isinstance(state, PartialState):
        raise TypeError(f"state must be a PartialState, not {type(state).__name__}")
    check_reduction(reduction)
    counted = ~state.ignored.reshape(-1) & (state.numbers[:, _LABEL_COUNT] == 0)
    if not state.has_probs and counted.any():
        row = int(counted.argmax())
        raise ValueError(
            f"the label of row {row} is in none of the shards; merge the states of all of them "
            "first, and check class_offset"
        )
    return Asked(normalizer=normalizer, mean_over=mean_over, empty=empty)


def _for_a_mean(state: PartialState, asked: Asked, reduction: str) -> PartialState:
    """The state, with weights that the mean which is asked for does not change by."""
    if state.sample_weight is None:
        return state
    weights = brought_to_1(state.sample_weight, asked, reduction)
    return dataclasses.replace(state, sample_weight=weights)


def _denominator(state: PartialState, asked: Asked, reduction: str) -> float:
    """What a mean divides by: as `cross_entropy` has it."""
    valid = ~state.ignored.reshape(-1)
    given, weighs = denominator_of(
        asked, state.sample_weight, valid.size, not state.has_probs, reduction
    )
    if given >= 0:
        return given
    if not weighs:
        return float(valid.sum())
    weights = state.numbers[:, _LABEL_WEIGHT]
    if state.sample_weight is not None:
        # a product of small weights may be subnormal
        with np.errstate(all="ignore"), backends.driver.default_float_mode():
            weights = weights * state.sample_weight
    return math.fsum(weights[valid])


def _as_segments(state: PartialState) -> Array:
    """A state as the kernels take it: a copy only where a pickle left it read-only."""
    return np.require(state.numbers, np.float64, ["C", "A", "W"])[:, None, :]


def _run(
    state: PartialState,
    task: str,
    numbers: Array,
    rows: slice = slice(None),
    losses: Array | None = None,
) -> tuple[float, float]:
    """Run a task on states alone: the kernels see rows of one class that they do not read."""
    n_rows = len(numbers)
    logits = np.broadcast_to(np.zeros((1, 1), state.dtype), (n_rows, 1))
    target: Array = logits if state.has_probs else np.zeros(n_rows, np.int64)
    options = Options(
        row_weights=None if state.sample_weight is None else state.sample_weight[rows],
        label_scale=1.0 - state.label_smoothing,
        smoothing=state.label_smoothing,
        z_loss=state.z_loss,
        temperature=state.temperature,
        softcap=state.softcap or 0.0,
        states=numbers,
    )
    backend = state.backend if state.backend in backends.available_backends() else None
    plan = make_plan(n_rows, 1, backend, 1)
    flat = None if losses is None else losses.reshape(-1)
    answer = backends.evaluate(
        plan, logits, target, None, flat, None, OUTPUT_NOTHING, False, task=task, options=options
    )
    assert answer is not None
    return answer[1], answer[2]
