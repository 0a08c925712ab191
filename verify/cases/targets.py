"""Cases by the labels: ignored rows, labels on masked classes, probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..case import HALVES, Array, DType, Problem, Random, case, cast, normal, random_labels, uniform


def _label_dtype(dtype: DType) -> DType:
    # Probabilities for half precision logits usually come in float32.
    return np.dtype(np.float32) if dtype.name in HALVES else dtype


def _one_hot(labels: Array, n_classes: int) -> Array:
    probs = np.zeros((labels.size, n_classes))
    probs[np.arange(labels.size), labels] = 1.0
    return probs


@case()
def label_masked(random: Random, dtype: DType) -> Iterator[Problem]:
    """The label's class is -inf: an infinite loss and a finite gradient."""
    logits = normal(random, 8, 1300, dtype)
    labels = random_labels(random, logits)
    logits[::2, :1100] = -np.inf
    logits[np.arange(8), labels] = -np.inf
    # A row whose label is not masked, so that not every loss is infinite.
    logits[5, labels[5]] = 1.0
    yield Problem(logits, labels)


@case()
def ignored_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Rows left out give loss 0 and gradient 0, even where they hold NaN."""
    logits = normal(random, 9, 1100, dtype)
    labels = random_labels(random, logits)
    logits[1] = np.nan
    logits[4, 7] = np.inf
    logits[8, 1099] = np.nan
    labels[[1, 3, 4, 8]] = -100
    yield Problem(logits, labels, "ignore_index -100", ignore_index=-100)
    yield Problem(logits, np.where(labels == -100, 5, labels), "ignore_index 5", ignore_index=5)


@case()
def soft_one_hot(random: Random, dtype: DType) -> Iterator[Problem]:
    """Probabilities that are all on one class, confident rows included."""
    logits = normal(random, 12, 1000, dtype)
    labels = random_labels(random, logits)
    logits[np.arange(6), labels[:6]] = cast(np.linspace(5.0, 45.0, 6), dtype)
    yield Problem(logits, cast(_one_hot(labels, 1000), dtype))


@case()
def soft_smoothed(random: Random, dtype: DType) -> Iterator[Problem]:
    """One class has 0.9, the rest is shared by all."""
    for n_classes in (10, 1000, 2500):
        logits = normal(random, 12, n_classes, dtype, sigma=3.0)
        labels = random_labels(random, logits)
        probs = 0.9 * _one_hot(labels, n_classes) + 0.1 / n_classes
        yield Problem(logits, cast(probs, _label_dtype(dtype)), f"{n_classes} classes")


@case()
def soft_dense(random: Random, dtype: DType) -> Iterator[Problem]:
    """Another softmax as the target, as in distillation: small differences, but for one row."""
    logits = normal(random, 12, 1500, dtype)
    logits[0] = cast(4.0 * logits[0].astype(np.float64), dtype)
    scores = np.exp(logits.astype(np.float64) + 0.01 * random.standard_normal(logits.shape))
    scores[-1] = np.roll(scores[-1], 7)
    yield Problem(logits, cast(scores / scores.sum(axis=1, keepdims=True), _label_dtype(dtype)))


@case()
def soft_unnormalised(random: Random, dtype: DType) -> Iterator[Problem]:
    """Probabilities that sum to 0, 1e-6, 3 or 1000."""
    logits = normal(random, 12, 800, dtype)
    probs = uniform(random, (12, 800))
    probs *= (np.array([0.0, 1e-6, 3.0, 1000.0] * 3) / probs.sum(axis=1))[:, None]
    yield Problem(logits, cast(probs, _label_dtype(dtype)))


@case()
def soft_masked(random: Random, dtype: DType) -> Iterator[Problem]:
    """A masked class without mass costs nothing; with mass the loss is infinite."""
    logits = normal(random, 8, 1400, dtype)
    masked = uniform(random, logits.shape) < 0.4
    masked[::2, :1200] = True
    logits[masked] = -np.inf
    probs = np.where(masked, 0.0, uniform(random, logits.shape) / 500)
    probs[6, 3] = 0.25
    yield Problem(logits, cast(probs, _label_dtype(dtype)))


@case(dtypes=("float32", *HALVES))
def soft_float64_labels(random: Random, dtype: DType) -> Iterator[Problem]:
    """Probabilities in float64 for logits in a narrower dtype."""
    logits = normal(random, 8, 600, dtype)
    logits[3] = cast(8.0 * logits[3].astype(np.float64), dtype)
    probs = uniform(random, logits.shape)
    yield Problem(logits, probs / probs.sum(axis=1, keepdims=True))


@case()
def soft_trouble(random: Random, dtype: DType) -> Iterator[Problem]:
    """With probabilities, too, a row with NaN, +inf or only -inf keeps its trouble to itself."""
    logits = normal(random, 7, 1200, dtype)
    logits[1, 5] = np.nan
    logits[3, 1100] = np.inf
    logits[5] = -np.inf
    probs = uniform(random, logits.shape)
    probs[:, 5] = 0.0
    probs /= probs.sum(axis=1, keepdims=True)
    yield Problem(logits, cast(probs, _label_dtype(dtype)))


@case()
def labels_out_of_range(random: Random, dtype: DType) -> Iterator[Problem]:
    """A label that is no class is an error: not a class counted from the end, nor other memory."""
    for n_rows, n_classes in ((5, 10), (5, 1000), (700, 300), (2, 200_000)):
        logits = normal(random, n_rows, n_classes, dtype)
        for wrong in (-1, n_classes, n_classes + 7, -n_classes, 2**31, 2**40, -(2**63)):
            labels = random_labels(random, logits)
            labels[n_rows // 2] = wrong
            yield Problem(logits, labels, f"{wrong} of {n_classes} classes", must_raise=True)


def _at_the_ends(random: Random, dtype: DType, ends: tuple[int, ...]) -> Problem:
    # A label that is read with fewer bits comes to one of the first logits, which differ.
    logits = normal(random, len(ends), ends[-1] + 1, dtype, sigma=3.0)
    return Problem(logits, np.array(ends))


@case()
def label_dtypes(random: Random, dtype: DType) -> Iterator[Problem]:
    """Labels of every integer type, and of the other byte order."""
    logits = normal(random, 9, 100, dtype, sigma=3.0)
    labels = random_labels(random, logits)
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", ">i4", ">i8"):
        yield Problem(logits, labels.astype(name), name)
    for name in ("int16", ">i8"):
        ignored = np.where(labels % 3 == 0, -1, labels).astype(name)
        yield Problem(logits, ignored, f"{name}, ignored", ignore_index=-1)


@case()
def labels_at_the_ends(random: Random, dtype: DType) -> Iterator[Problem]:
    """The first and the last class, and those on both sides of 127 and 255."""
    yield _at_the_ends(random, dtype, (0, 126, 127, 128, 129, 254, 255, 256, 257, 299))


@case(level="default")
def labels_at_the_ends_of_many(random: Random, dtype: DType) -> Iterator[Problem]:
    """Labels on both sides of 32767 and 65535."""
    yield _at_the_ends(random, dtype, (32_767, 32_768, 65_535, 65_536, 69_999))


CASES = (
    label_masked,
    ignored_rows,
    soft_one_hot,
    soft_smoothed,
    soft_dense,
    soft_unnormalised,
    soft_masked,
    soft_float64_labels,
    soft_trouble,
    labels_out_of_range,
    label_dtypes,
    labels_at_the_ends,
    labels_at_the_ends_of_many,
)
