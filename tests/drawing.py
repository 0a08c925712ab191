"""What the property tests draw: values, layouts, options, and whole calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastxent.verify.case import Problem
from hypothesis import strategies as st
from support import BACKENDS, FLOATS, Array

REDUCTIONS = st.sampled_from(["none", "sum", "mean"])
# Mostly few classes; rarely as many as fill several blocks.
CLASS_COUNTS = st.integers(0, 11).flatmap(
    lambda k: st.integers(1, 70) if k < 11 else st.sampled_from([128, 1024, 1025, 2100])
)
SEEDS = st.integers(0, 2**32 - 1)
# Mostly several rows, along up to two axes; rarely none.
BATCHES = st.integers(0, 19).flatmap(
    lambda k: (
        st.lists(st.integers(1, 7), min_size=min(k, 1), max_size=2).map(tuple)
        if k < 19
        else st.sampled_from([(0,), (3, 0)])
    )
)


def drawn_logits(draw: st.DrawFn, rows: int, classes: int, dtype: Any) -> Array:
    rng = np.random.default_rng(draw(SEEDS))
    scale = draw(st.sampled_from([1.0, 5.0, 60.0, 1000.0, 1e-3, 1e-30, 0.0]))
    offset = draw(st.sampled_from([0.0, 0.0, 50.0, -207.0, 209.0, -3000.0]))
    x = rng.standard_normal((rows, classes)) * scale + offset
    if draw(st.booleans()):
        x = np.round(x)  # ties, of the maximum too
    if draw(st.booleans()):
        x[np.arange(rows), rng.integers(0, classes, rows)] += 40  # confident rows
    if draw(st.booleans()):
        masked = rng.random((rows, classes)) < draw(st.sampled_from([0.1, 0.9]))
        masked[np.arange(rows), rng.integers(0, classes, rows)] = False
        x[masked] = -np.inf
    return x.astype(dtype)


def drawn_probs(draw: st.DrawFn, shape: tuple[int, int], dtype: Any) -> Array:
    """Half of them 0; rows of any sum."""
    rng = np.random.default_rng(draw(SEEDS))
    probs = rng.random(shape) * (rng.random(shape) < 0.5)
    if draw(st.booleans()):
        probs /= np.maximum(probs.sum(axis=1, keepdims=True), 1e-3)
    return probs.astype(dtype)


def drawn_weights(draw: st.DrawFn, n: int) -> Array:
    """Not negative, some or all of them 0, in either precision."""
    rng = np.random.default_rng(draw(SEEDS))
    kinds = ["uniform", "uniform", "wide", "wide", "some zeros", "some zeros", "zeros", "ones"]
    kind = draw(st.sampled_from(kinds))
    weights = np.ones(n)
    if kind == "uniform":
        weights = rng.random(n)
    elif kind == "wide":
        weights = 10.0 ** rng.uniform(-3, 3, n)
    elif kind == "some zeros":
        weights = rng.random(n) * (rng.random(n) < 0.5)
    elif kind == "zeros":
        weights = np.zeros(n)
    return weights.astype(draw(st.sampled_from([np.float64, np.float32])))


def laid_out(draw: st.DrawFn, array: Array) -> Array:
    """The same values with drawn strides."""
    kind = draw(st.sampled_from(["packed", "fortran", "backwards", "padded", "spread"]))
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "backwards":
        flipped = np.flip(array).copy()
        return np.flip(flipped)
    if kind in ("padded", "spread"):
        step = 1 if kind == "padded" else draw(st.integers(2, 3))
        gap = draw(st.integers(0, 9))
        wide = np.zeros((*array.shape[:-1], array.shape[-1] * step + gap), array.dtype)
        view = wide[..., : array.shape[-1] * step : step]
        view[...] = array
        return view
    return array


@dataclass(frozen=True)
class Place:
    """Where rows lie in an array: the batch's shape, the class axis, and drawn strides."""

    batch: tuple[int, ...]
    axis: int
    arrange: Callable[[Array], Array]

    @property
    def n_rows(self) -> int:
        return int(np.prod(self.batch, dtype=int))

    def array(self, rows: Array) -> Array:
        """(n_rows, n_classes) -> an array with the batch's axes and that of the classes."""
        whole = rows.reshape(*self.batch, rows.shape[1])
        return self.arrange(np.moveaxis(whole, -1, self.axis).copy())

    def rows(self, array: Array) -> Array:
        """And back."""
        return np.moveaxis(array, self.axis, -1).reshape(self.n_rows, array.shape[self.axis])


@dataclass(frozen=True)
class Call:
    """A drawn call: the rows with their options, where they lie, and what is asked for."""

    problem: Problem
    place: Place
    reduction: dict[str, Any]
    runtime: dict[str, Any]
    in_place: bool

    @property
    def labels(self) -> Array:
        """The labels as the call takes them."""
        labels = self.problem.labels
        return self.place.array(labels) if labels.ndim == 2 else labels.reshape(self.place.batch)

    @property
    def options(self) -> dict[str, Any]:
        """The options as the call takes them, and where its classes lie."""
        options = {**self.problem.options, "axis": self.place.axis}
        if self.problem.ignore_index is not None:
            options["ignore_index"] = self.problem.ignore_index
        if "sample_weight" in options:
            options["sample_weight"] = options["sample_weight"].reshape(self.place.batch)
        return options

    @property
    def kept(self) -> Array:
        """Which rows are not left out by their label."""
        labels, ignored = self.problem.labels, self.problem.ignore_index
        if ignored is None:
            return np.ones(len(self.problem.logits), bool)
        kept: Array = labels != ignored
        return kept

    @property
    def divisor(self) -> Any:
        """What the sum of the losses is divided by; None for a mean over nothing."""
        reduction = self.reduction["reduction"]
        if reduction == "none" or (reduction == "sum" and "normalizer" not in self.reduction):
            return np.longdouble(1)
        if "normalizer" in self.reduction:
            return np.longdouble(self.reduction["normalizer"])
        found = self._mean_over(self.reduction.get("mean_over", "weight"))
        return found if found > 0 else None

    def _mean_over(self, rule: str) -> Any:
        if rule == "rows":
            return np.longdouble(len(self.problem.logits))
        if rule == "valid":
            return np.longdouble(self.kept.sum())
        options, labels = self.problem.options, self.problem.labels
        weight = np.asarray(options.get("sample_weight", np.ones(len(labels))), np.longdouble)
        if labels.ndim == 1 and "class_weight" in options:
            type_of_weights = np.float64 if self.problem.logits.itemsize == 8 else np.float32
            by_class = options["class_weight"].astype(type_of_weights)
            weight = weight * by_class[np.where(self.kept, labels, 0)].astype(np.longdouble)
        return weight[self.kept].sum()


@st.composite
def places(draw: st.DrawFn, batches: st.SearchStrategy[tuple[int, ...]] = BATCHES) -> Place:
    batch = draw(batches)
    return Place(batch, draw(st.integers(0, len(batch))), lambda array: laid_out(draw, array))


@st.composite
def reductions(draw: st.DrawFn) -> dict[str, Any]:
    reduction = draw(st.sampled_from(["mean", "mean", "sum", "none"]))
    asked: dict[str, Any] = {"reduction": reduction}
    rule = draw(st.sampled_from(["weight", "normalizer", "valid", "rows"]))
    if rule == "normalizer" or (rule != "weight" and reduction == "sum"):
        if reduction != "none":
            asked["normalizer"] = draw(st.sampled_from([1, 0.125, 3.0, 1000.7]))
    elif rule != "weight" and reduction == "mean":
        asked["mean_over"] = rule
    asked["empty"] = draw(st.sampled_from(["nan", "zero", "raise"]))
    return asked


@st.composite
def runtimes(draw: st.DrawFn) -> dict[str, Any]:
    return {"backend": draw(st.sampled_from(BACKENDS)), "n_threads": draw(st.integers(1, 3))}


@st.composite
def transforms(draw: st.DrawFn) -> dict[str, Any]:
    """Any of the options that look at the logits alone."""
    options: dict[str, Any] = {}
    if draw(st.integers(0, 2)):
        options["temperature"] = draw(st.sampled_from([0.7, 0.2, 2.5, 100.0, 1.0]))
    if draw(st.booleans()):
        # The error of a capped logit grows with softcap / temperature.
        options["softcap"] = draw(st.sampled_from([30.0, 5.0, 50.0, 0.5]))
    if draw(st.booleans()):
        options["z_loss"] = draw(st.sampled_from([1e-4, 0.3, 1.0, 0.0]))
    return options


@st.composite
def calls(draw: st.DrawFn, *, transformed: bool = True, probabilities: bool | None = None) -> Call:
    """Any call at all; of one kind of labels, or without `transforms`, where that is asked for."""
    dtype = draw(st.sampled_from(FLOATS))
    place, n_classes = draw(places()), draw(CLASS_COUNTS)
    n_rows = place.n_rows
    logits = drawn_logits(draw, n_rows, n_classes, dtype)
    rng = np.random.default_rng(draw(SEEDS))

    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["class_weight"] = drawn_weights(draw, n_classes)
    if draw(st.booleans()):
        options["sample_weight"] = drawn_weights(draw, n_rows)
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 1e-3, 0.9, 1.0, 0.0]))
    if transformed:
        options |= draw(transforms())

    ignore_index = None
    if draw(st.booleans()) if probabilities is None else probabilities:
        labels = drawn_probs(draw, logits.shape, draw(st.sampled_from([np.float32, dtype])))
    else:
        labels = rng.integers(0, n_classes, n_rows).astype(
            draw(st.sampled_from([np.int64, np.int32]))
        )
        right = rng.random(n_rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        labels[right] = logits[right].astype(np.float64).argmax(axis=1)
        if draw(st.integers(0, 2)):
            ignore_index = draw(st.sampled_from([-100, 0, n_classes - 1]))
            labels[rng.random(n_rows) < draw(st.sampled_from([0.3, 0.3, 1.0]))] = ignore_index
    problem = Problem(logits, labels, ignore_index=ignore_index, options=options)
    call = Call(problem, place, draw(reductions()), draw(runtimes()), draw(st.booleans()))
    _spoil(draw, call)
    return call


def _spoil(draw: st.DrawFn, call: Call) -> None:
    """Often put trouble into rows of which nothing is asked, and rarely into any row."""
    logits = call.problem.logits
    n_rows = len(logits)
    weight = call.problem.options.get("sample_weight", np.ones(n_rows))
    if n_rows and draw(st.booleans()):
        trouble = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        logits[~call.kept | (weight == 0)] = trouble
        if draw(st.integers(0, 4)) == 0:
            logits[draw(st.integers(0, n_rows - 1))] = trouble
