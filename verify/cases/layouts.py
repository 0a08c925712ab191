"""Cases by how arrays lie in memory: strides, alignment, axis, byte order, guarded pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..case import DType, Guard, Layout, Problem, Random, case, cast, normal, random_labels, uniform


def _in_both_targets(random: Random, dtype: DType, n_classes: int) -> Iterator[Problem]:
    logits = normal(random, 6, n_classes, dtype, sigma=3.0)
    yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")
    probs = uniform(random, logits.shape) / n_classes
    yield Problem(logits, cast(probs, dtype), f"{n_classes} classes, probabilities")


@case()
def in_place(random: Random, dtype: DType) -> Iterator[Problem]:
    """The gradient overwrites the logits."""
    for n_classes in (5, 1000, 2049, 17000):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, in_place=True)


@case()
def padded_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Rows lie further apart than they are long, with NaN between them."""
    for n_classes, padding in ((5, 3), (31, 1), (1000, 24), (1025, 7)):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, layout=Layout(padding=padding))


@case()
def misaligned(random: Random, dtype: DType) -> Iterator[Problem]:
    """The first logit lies one element, or a single byte, after a cache line's start."""
    for offset in (dtype.itemsize, 1):
        for problem in _in_both_targets(random, dtype, 1000):
            note = f"{problem.note}, offset {offset} bytes"
            yield replace(problem, layout=Layout(offset=offset), note=note)


@case()
def strided_classes(random: Random, dtype: DType) -> Iterator[Problem]:
    """Every second or third number of a row is a logit, the others are NaN."""
    for n_classes, step in ((9, 2), (300, 3), (1030, 2)):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, layout=Layout(step=step, padding=1))


@case()
def fortran_order(random: Random, dtype: DType) -> Iterator[Problem]:
    """The rows of a class are next to each other: with few classes, many, and padding."""
    for n_classes, padding in ((7, 0), (7, 3), (64, 0), (1030, 0)):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, layout=Layout(fortran=True, padding=padding))


@case()
def classes_along_axis_1(random: Random, dtype: DType) -> Iterator[Problem]:
    """Images: (n_images, n_classes, n_pixels), few classes and many, pixels of odd number."""
    for outer, n_classes, inner in ((2, 21, 35), (3, 2, 16), (1, 129, 5), (2, 300, 7)):
        logits = normal(random, outer * inner, n_classes, dtype, sigma=3.0)
        labels = random_labels(random, logits)
        note = f"({outer}, {n_classes}, {inner})"
        whole = Problem(logits, labels, note, layout=Layout(inner=inner))
        yield whole
        labels = np.where(uniform(random, labels.shape) < 0.3, -1, labels)
        weights = {"class_weight": uniform(random, (n_classes,)), "label_smoothing": 0.1}
        yield replace(whole, labels=labels, note=f"{note}, ignored", ignore_index=-1)
        yield replace(whole, note=f"{note}, options", options=weights)
        probs = cast(uniform(random, logits.shape) / n_classes, dtype)
        yield replace(whole, labels=probs, note=f"{note}, probabilities", in_place=True)


@case(dtypes=("float32", "float64", "float16"))
def other_byte_order(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits as another machine wrote them."""
    for n_classes in (10, 1000):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, layout=Layout(swapped=True))


@case()
def read_only(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits that may not be written to: a memory-mapped file, an array of another library."""
    for n_classes in (10, 1000):
        for problem in _in_both_targets(random, dtype, n_classes):
            yield replace(problem, layout=Layout(read_only=True))


_TAILS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 70, 127, 128, 129, 1023, 1025, 2049)
_ALL_TAILS = (*range(1, 71), 127, 128, 129, 1023, 1024, 1025, 1040, 2047, 2049, 16385)


def _guarded(random: Random, dtype: DType, class_counts: tuple[int, ...]) -> Iterator[Problem]:
    guards: tuple[Guard, ...] = ("after", "before")
    for n_classes in class_counts:
        logits = normal(random, 2, n_classes, dtype, sigma=4.0)
        labels = np.array([n_classes - 1, 0])
        probs = cast(uniform(random, logits.shape) / n_classes, dtype)
        for guard in guards:
            hard = Problem(logits, labels, f"{n_classes} classes", layout=Layout(guard=guard))
            yield hard
            yield replace(hard, labels=probs, note=f"{hard.note}, probabilities")


@case()
def guarded_pages(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits, labels and output end, or begin, where memory does."""
    return _guarded(random, dtype, _TAILS)


@case(level="default")
def guarded_pages_of_all_tails(random: Random, dtype: DType) -> Iterator[Problem]:
    """The same for every tail of every vector."""
    return _guarded(random, dtype, _ALL_TAILS)


@case()
def guarded_pages_axis_1(random: Random, dtype: DType) -> Iterator[Problem]:
    """The same where the classes lie along axis 1, and lanes run along pixels."""
    guards: tuple[Guard, ...] = ("after", "before")
    for n_classes, inner in ((3, 1), (3, 7), (21, 19), (64, 33), (128, 5)):
        logits = normal(random, 2 * inner, n_classes, dtype, sigma=4.0)
        labels = random_labels(random, logits)
        for guard in guards:
            layout = Layout(guard=guard, inner=inner)
            yield Problem(logits, labels, f"{n_classes} x {inner}", layout=layout)


CASES = (
    in_place,
    padded_rows,
    strided_classes,
    misaligned,
    fortran_order,
    classes_along_axis_1,
    other_byte_order,
    read_only,
    guarded_pages,
    guarded_pages_of_all_tails,
    guarded_pages_axis_1,
)
