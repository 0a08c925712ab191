"""The calls whose instructions are counted: every primitive has a large share of one of them.

A slower primitive shows only where it is much of what a kernel does. So there are rows so long that
the passes over a block are all there is; rows so short that what is done once a row is all there
is; and logits that lead into what others never reach. Everything is small, and from fixed seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import ml_dtypes
import numpy as np

import fastxent

Array = np.ndarray[Any, Any]

DTYPES: Final = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Counted:
    """A call, of a name, that takes the backend's name."""

    name: str
    call: Callable[[str], object]
    streams: bool = False  # whether its output goes past the caches, as if it were larger than they

    @property
    def has_checks(self) -> bool:
        """Whether what looks at targets and adds up losses is counted: elsewhere it is alike."""
        return self.name.startswith("loss ")


def aligned(shape: Any, dtype: Any = float) -> Array:
    """Memory that begins a cache line, wherever the process's memory lies."""
    kind, axes = np.dtype(dtype), tuple(np.atleast_1d(shape).tolist())
    n_bytes = math.prod(axes) * kind.itemsize
    room = np.zeros(n_bytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    array: Array = room[start : start + n_bytes].view(kind).reshape(axes)
    return array


def _kept(values: Array, dtype: Any) -> Array:
    array = aligned(values.shape, dtype)
    array[...] = values.astype(dtype)
    return array


@cache
def logits_of(shape: tuple[int, ...], dtype: str = "float32", kind: str = "normal") -> Array:
    values = np.random.default_rng(1).standard_normal(shape) * 3
    if kind == "rising":  # a new maximum in every block
        values += np.linspace(0, 40, shape[-1])
    elif kind == "ties":
        values = np.rint(values / 3)
    elif kind == "masked":
        values[np.random.default_rng(2).random(shape) < 0.3] = -np.inf
    elif kind == "far":  # beyond the exponentials' range of exact reduction
        values += 3000
    elif kind == "infinite":
        values[..., 0] = np.inf
    return _kept(values, DTYPES[dtype])


@cache
def probs_of(shape: tuple[int, ...], dtype: str = "float32", sparse: bool = False) -> Array:
    rng = np.random.default_rng(3)
    values = rng.random(shape)
    if sparse:
        values *= rng.random(shape) < 0.5
    return _kept(values / values.sum(-1, keepdims=True), DTYPES[dtype])


@cache
def labels_of(shape: tuple[int, ...], axis: int = -1) -> Array:
    without = np.delete(np.array(shape), axis)
    return _kept(np.random.default_rng(4).integers(0, shape[axis], size=without), np.int64)


@cache
def weights_of(n: int) -> Array:
    return _kept(np.random.default_rng(5).random(n) + 0.5, np.float64)


def _row_weights_of(shape: tuple[int, ...], axis: int) -> Array:
    rows = np.delete(np.array(shape), axis)
    return weights_of(int(rows.prod())).reshape(rows)


Shape = tuple[int, ...]
ONE_BLOCK: Final = (4, 1024)
BLOCKS: Final = (2, 4999)  # with an end that fills no line
SHORT: Final = (24, 131)  # the first number of classes that goes by rows, and then some
TINY: Final = (48, 3)
TILES: Final = (70, 10)  # full tiles, and one that is not
WIDE_TILES: Final = (48, 101)
PLANES: Final = (2, 12, 40)
# Nothing is transposed, all tiles are full, and what is done once a row is shared by many classes.
WIDE_PLANES: Final = (1, 101, 64)
SPLIT: Final = (4, 33000)  # a row for two threads
NEVER: Final = -100

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "smoothing": {"label_smoothing": 0.1},
    "temperature": {"temperature": 2.5},
    "softcap": {"softcap": 30.0},
    "softcap and temperature": {"softcap": 30.0, "temperature": 2.5},
    "softcap and smoothing": {"softcap": 30.0, "label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-4},
    "everything": {
        "softcap": 30.0, "temperature": 2.5, "label_smoothing": 0.1, "z_loss": 1e-4,
    },
}  # fmt: skip


def all_cases() -> Iterator[Counted]:
    """Every case; no two have the same name."""
    for dtype in DTYPES:
        yield from _plain(dtype)
        yield from _by_probs(dtype)
        yield from _of_states(dtype)
    for dtype in ("float32", "float64"):
        yield from _with_options(dtype)
        yield from _with_hard_logits(dtype)
        yield from _of_second_order(dtype)
        yield from _past_the_caches(dtype)
    yield from _described()
    yield from _diverging()


def _name(operation: str, dtype: str, shape: Shape, more: str = "") -> str:
    return f"{operation} {dtype} {'x'.join(map(str, shape))}" + (f" {more}" if more else "")


def _case(
    operation: str, dtype: str, shape: Shape, more: str = "", kind: str = "normal",
    labels: Array | None = None, axis: int = -1, streams: bool = False, **options: Any,
) -> Counted:  # fmt: skip
    """A loss, or a loss and gradient, for labels that are classes unless others are given."""

    def call(backend: str) -> object:
        logits = logits_of(shape, dtype, kind)
        target = labels_of(shape, axis) if labels is None else labels
        given = {"axis": axis, "backend": backend, **options}
        if operation == "loss":
            return fastxent.cross_entropy(logits, target, **given)
        out = aligned(shape, logits.dtype)
        return fastxent.cross_entropy_with_grad(logits, target, out=out, **given)

    return Counted(
        _name(operation, dtype, shape, more or kind.replace("normal", "")), call, streams
    )


def _plain(dtype: str) -> Iterator[Counted]:
    for shape in (ONE_BLOCK, BLOCKS, SHORT, TILES, WIDE_TILES):
        yield _case("loss", dtype, shape, reduction="none")
        yield _case("gradient", dtype, shape)
    for planes in (PLANES, WIDE_PLANES):
        yield _case("loss", dtype, planes, "axis 1", axis=1)
        yield _case("gradient", dtype, planes, "axis 1", axis=1)
    yield _case("gradient", dtype, (2, 3, 200), "axis 1", axis=1)
    yield _case("gradient", dtype, SPLIT, "rows split", n_threads=2)
    yield _case("gradient", dtype, SPLIT, n_threads=1)
    for shape in (SHORT, TILES):
        ignored = np.full(shape[0], NEVER)
        yield _case("gradient", dtype, shape, "ignored", labels=ignored, ignore_index=NEVER)
    yield _without_labels(fastxent.softmax, dtype, TILES)
    for shape in (ONE_BLOCK, TILES, SPLIT):
        yield _without_labels(fastxent.log_softmax, dtype, shape)
    yield _without_labels(fastxent.log_softmax, dtype, WIDE_PLANES, axis=1)


def _without_labels(
    function: Callable[..., Any], dtype: str, shape: Shape, axis: int = -1
) -> Counted:
    def call(backend: str) -> object:
        logits = logits_of(shape, dtype)
        out = aligned(shape, logits.dtype)
        return function(logits, axis=axis, out=out, backend=backend, n_threads=2)

    return Counted(_name(function.__name__, dtype, shape), call)


def _by_probs(dtype: str) -> Iterator[Counted]:
    yield _case("loss", dtype, TINY, "probabilities", labels=probs_of(TINY, dtype))
    yield _case("gradient", dtype, BLOCKS, "probabilities", labels=probs_of(BLOCKS, dtype))
    for other in DTYPES:
        if other != dtype and dtype in ("float32", "float64"):
            probs = probs_of(SHORT, other, sparse=True)
            yield _case("gradient", dtype, SHORT, f"{other} probabilities", labels=probs)

    def call(backend: str) -> object:
        logits, probs = logits_of(ONE_BLOCK, dtype), probs_of(ONE_BLOCK, dtype)
        return fastxent.cross_entropy_with_grad(
            logits, probs, grad_labels=True, out=aligned(ONE_BLOCK, logits.dtype), backend=backend
        )

    yield Counted(_name("label gradient", dtype, ONE_BLOCK), call)


def _of_states(dtype: str) -> Iterator[Counted]:
    """Partial states, merged, finished, and the gradient of a shard: each a kernel by itself."""
    for shape, made in (
        (BLOCKS, labels_of(BLOCKS)),
        (TINY, labels_of(TINY)),
        (BLOCKS, probs_of(BLOCKS, "float64")),
        (BLOCKS, probs_of(BLOCKS, "float32")),
    ):
        more = "" if made.dtype == np.int64 else f"{made.dtype.name} probabilities"
        for name, options in {"": {}, **OPTIONS}.items():
            if name and (dtype not in ("float32", "float64") or more):
                continue
            if " and " in name and shape == TINY:
                continue
            words = " ".join(filter(None, (more, name)))
            yield Counted(
                _name("states", dtype, shape, words), _states(shape, dtype, made, options)
            )


def _states(
    shape: Shape, dtype: str, labels: Array, options: dict[str, Any]
) -> Callable[[str], object]:
    def call(backend: str) -> object:
        logits = logits_of(shape, dtype)
        given = {"backend": backend, **options}
        # the other shard has larger logits: merging raises the maximum of the first
        first = fastxent.partial(logits, labels, **given)
        other = logits_of(shape, dtype, "far")
        second = fastxent.partial(other, labels, class_offset=shape[-1], **given)
        merged = fastxent.merge(first, second)
        fastxent.finish(merged)
        return fastxent.finish_grad(merged, logits, labels, out=aligned(shape, logits.dtype))

    return call


def _with_options(dtype: str) -> Iterator[Counted]:
    for name, options in OPTIONS.items():
        yield _case("gradient", dtype, SHORT, name, **options)
    yield _case("loss", dtype, WIDE_PLANES, "axis 1, smoothing", axis=1, label_smoothing=0.1)
    for shape, axis in ((BLOCKS, -1), (SHORT, -1), (TILES, -1), (WIDE_PLANES, 1)):
        for class_weight in (None, weights_of(shape[axis])):
            for smoothing in (0.0, 0.1):
                words = "no weights" if class_weight is None else "class weights"
                yield _case(
                    "gradient", dtype, shape, f"sample weights, {words}, smoothing {smoothing}",
                    sample_weight=_row_weights_of(shape, axis), class_weight=class_weight,
                    label_smoothing=smoothing, axis=axis,
                )  # fmt: skip
    yield _case(
        "gradient", dtype, BLOCKS, "weighed probabilities, softcap", softcap=30.0,
        labels=probs_of(BLOCKS, dtype, sparse=True), class_weight=weights_of(BLOCKS[-1]),
    )  # fmt: skip
    for normalizer in (1e-200, 1e200):
        for shape in (BLOCKS, TILES):
            more = f"divided by {normalizer:.0e}"
            yield _case("gradient", dtype, shape, more, normalizer=normalizer)
    for weight in (1e-30, 6e29):
        for shape in (SHORT, TINY):
            more = f"classes of weight {weight:.0e}"
            yield _case("gradient", dtype, shape, more,
                        class_weight=weights_of(shape[-1]) * weight, reduction="sum")  # fmt: skip


def _with_hard_logits(dtype: str) -> Iterator[Counted]:
    for kind in ("rising", "ties", "masked", "far", "infinite"):
        for shape in (BLOCKS, TILES):
            yield _case("gradient", dtype, shape, kind=kind)
    for shape in (BLOCKS, TILES):
        more = "masked, smoothing"
        yield _case("gradient", dtype, shape, more, kind="masked", label_smoothing=0.1)
    for shape in (SHORT, TILES):

        def call(backend: str, shape: Shape = shape) -> object:
            return fastxent.logsumexp(logits_of(shape, dtype, "infinite"), backend=backend)

        yield Counted(_name("logsumexp", dtype, shape, "infinite"), call)


def _of_second_order(dtype: str) -> Iterator[Counted]:
    for shape in (BLOCKS, SHORT, TILES, WIDE_PLANES):
        axis = 1 if shape == WIDE_PLANES else -1
        for name, given in {"": {}, "smoothing": OPTIONS["smoothing"]}.items():
            options = {"axis": axis, **given}

            def hessian(backend: str, shape: Shape = shape, options: Any = options) -> object:
                labels = labels_of(shape, options["axis"])
                return fastxent.cross_entropy_grad_hess(
                    logits_of(shape, dtype), labels, backend=backend, **options
                )

            def product(backend: str, shape: Shape = shape, options: Any = options) -> object:
                return fastxent.cross_entropy_hvp(
                    logits_of(shape, dtype), labels_of(shape), probs_of(shape, dtype),
                    backend=backend, **options,
                )  # fmt: skip

            yield Counted(_name("hessian", dtype, shape, name), hessian)
            if axis == -1:  # there are no tiles for it
                yield Counted(_name("hessian product", dtype, shape, name), product)


def _past_the_caches(dtype: str) -> Iterator[Counted]:
    """Outputs that are written as if they were larger than the caches."""
    yield _case("gradient", dtype, BLOCKS, "streams", streams=True)
    yield _case("gradient", dtype, SPLIT, "rows split, streams", streams=True, n_threads=2)
    probs = probs_of(BLOCKS, dtype)
    yield _case("gradient", dtype, BLOCKS, "probabilities, streams", labels=probs, streams=True)
    for function in (fastxent.log_softmax, fastxent.softmax):
        plain = _without_labels(function, dtype, BLOCKS)
        yield Counted(f"{plain.name} streams", plain.call, streams=True)
    for each in list(_of_second_order(dtype))[:2]:
        yield Counted(f"{each.name} streams", each.call, streams=True)


def _described() -> Iterator[Counted]:
    for dtype in DTYPES:
        for shape in (BLOCKS, TINY):
            for name, options in {"": {}, "temperature": OPTIONS["temperature"]}.items():

                def call(
                    backend: str, dtype: str = dtype, shape: Shape = shape, options: Any = options
                ) -> object:
                    return fastxent.row_stats(
                        logits_of(shape, dtype), labels_of(shape), backend=backend, **options
                    )

                yield Counted(_name("row stats", dtype, shape, name), call)


def _diverging() -> Iterator[Counted]:
    for dtype in DTYPES:
        for shape in (BLOCKS, TINY):

            def call(backend: str, dtype: str = dtype, shape: Shape = shape) -> object:
                return fastxent.kl_divergence_with_logits_and_grad(
                    logits_of(shape, dtype, "ties"), logits_of(shape, dtype), backend=backend,
                    out=aligned(shape, DTYPES[dtype]),
                )  # fmt: skip

            def loss(backend: str, dtype: str = dtype, shape: Shape = shape) -> object:
                return fastxent.kl_divergence_with_logits(
                    logits_of(shape, dtype, "ties"), logits_of(shape, dtype), backend=backend
                )

            yield Counted(_name("divergence and gradient", dtype, shape), call)
            yield Counted(_name("divergence", dtype, shape), loss)
