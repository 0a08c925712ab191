"""Cases by the options: weights, smoothing, z-loss, transformed logits, and these together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..case import Array, DType, Layout, Problem, Random, case, cast, normal, random_labels, uniform


def _weights(random: Random, n: int) -> Array:
    """Positive weights over six powers of ten, of which one in eight is 0."""
    weights: Array = 10.0 ** random.uniform(-3.0, 3.0, n)
    weights[random.uniform(0.0, 1.0, n) < 0.125] = 0.0
    return weights


def _probs(random: Random, shape: tuple[int, int], dtype: DType) -> Array:
    """Probabilities, half of them 0, in a dtype that usually comes with these logits."""
    probs = uniform(random, shape) * (uniform(random, shape) < 0.5)
    probs /= np.maximum(probs.sum(axis=1, keepdims=True), 1e-3)
    return cast(probs, dtype if dtype.name == "float64" else np.dtype(np.float32))


@case()
def class_weights(random: Random, dtype: DType) -> Iterator[Problem]:
    """Weights of classes, from 0 to 1000: each scales its rows and nothing else."""
    logits = normal(random, 16, 1000, dtype, sigma=3.0)
    labels = random_labels(random, logits)
    weights = _weights(random, 1000)
    weights[labels[0]] = 0.0
    yield Problem(logits, labels, options={"class_weight": weights})
    narrow = weights.astype(np.float32)
    yield Problem(logits, labels, "float32", in_place=True, options={"class_weight": narrow})


@case()
def class_weights_confident(random: Random, dtype: DType) -> Iterator[Problem]:
    """A weight must not cost a confident row the digits of p_y - 1."""
    logits = normal(random, 20, 700, dtype)
    labels = random_labels(random, logits)
    logits[np.arange(20), labels] = cast(np.linspace(10.0, 55.0, 20), dtype)
    weights = 0.1 + uniform(random, (700,))
    yield Problem(logits, labels, options={"class_weight": weights})
    two = cast(np.array([[40.0, 0.0], [0.0, 40.0], [40.0, 0.0]]), dtype)
    options = {"class_weight": np.array([0.3, 7.0]), "sample_weight": np.array([1.0, 0.1, 3.0])}
    yield Problem(two, np.array([0, 1, 1]), "two classes", options=options)


@case()
def smoothing(random: Random, dtype: DType) -> Iterator[Problem]:
    """A little of the mass, half of it, or all of it lies on every class alike."""
    for share in (1e-6, 0.1, 0.5, 0.99, 1.0):
        logits = normal(random, 10, 900, dtype, sigma=3.0)
        # The last rows are flat: their label leads, and yet all the others outweigh it.
        logits[7:] = normal(random, 3, 900, dtype, sigma=0.1)
        labels = random_labels(random, logits)
        logits[np.arange(3), labels[:3]] = cast(np.array([12.0, 25.0, 60.0]), dtype)
        labels[7:] = logits[7:].astype(np.float64).argmax(axis=1)
        yield Problem(logits, labels, f"{share:g}", options={"label_smoothing": share})


@case()
def smoothing_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """With weights of classes, too, the smoothed mass of a class carries the weight of its own."""
    logits = normal(random, 12, 1100, dtype, sigma=3.0)
    labels = random_labels(random, logits)
    options = {"class_weight": _weights(random, 1100), "label_smoothing": 0.1}
    yield Problem(logits, labels, options=options)
    yield Problem(logits[:, :31], labels % 31, "31 classes", layout=Layout(padding=5), options={
        "class_weight": uniform(random, (31,)), "label_smoothing": 0.3
    })  # fmt: skip


@case()
def smoothing_masked(random: Random, dtype: DType) -> Iterator[Problem]:
    """The share goes to the classes that are not masked; a masked label's cost stays infinite."""
    logits = normal(random, 9, 1300, dtype, sigma=2.0)
    masked = uniform(random, logits.shape) < 0.4
    masked[3, 1:] = True
    masked[4, :1100] = True
    logits[masked] = -np.inf
    labels = random_labels(random, logits)
    logits[np.arange(9), labels] = cast(random.standard_normal(9), dtype)
    logits[6, labels[6]] = -np.inf
    weights = uniform(random, (1300,))
    yield Problem(logits, labels, options={"label_smoothing": 0.2})
    yield Problem(
        logits, labels, "weighted", options={"label_smoothing": 0.2, "class_weight": weights}
    )
    yield Problem(logits, labels, "all of the mass", options={"label_smoothing": 1.0})


@case()
def sample_weights(random: Random, dtype: DType) -> Iterator[Problem]:
    """Weights of rows; where one is 0 the row gives 0, even if it holds NaN."""
    logits = normal(random, 13, 1000, dtype, sigma=3.0)
    labels = random_labels(random, logits)
    weights = 10.0 ** random.uniform(-3.0, 3.0, 13)
    weights[[2, 5, 7]] = 0.0
    logits[2, 17] = np.nan
    logits[5] = -np.inf
    logits[9, labels[9]] = np.nan
    yield Problem(logits, labels, options={"sample_weight": weights})
    probs = _probs(random, (13, 1000), dtype)
    yield Problem(logits, probs, "probabilities", options={"sample_weight": weights})


@case(dtypes=("float32", "float64", "bfloat16"))
def tiny_scales(random: Random, dtype: DType) -> Iterator[Problem]:
    """What multiplies a gradient may be tiny: every entry that is normal has its digits."""
    smallest = -150 if dtype.name == "float64" else -15
    for n_classes in (2, 7, 300):
        logits = normal(random, 12, n_classes, dtype, sigma=2.0)
        labels = random_labels(random, logits)
        probs = _probs(random, logits.shape, dtype)
        weights = 10.0 ** np.linspace(2 * smallest, smallest, 12)
        rows = {"sample_weight": weights}
        yield Problem(logits, labels, f"{n_classes} classes", options=rows)
        yield Problem(logits, labels, f"{n_classes}, smoothed", options={
            "sample_weight": weights, "label_smoothing": 0.1
        })  # fmt: skip
        yield Problem(logits, probs, f"{n_classes}, probabilities", options=rows)
        both = {
            "class_weight": 10.0**smallest * (0.5 + uniform(random, (n_classes,))),
            "sample_weight": weights / 10.0**smallest,
        }
        yield Problem(logits, labels, f"{n_classes}, weights of both kinds", options=both)
        apart = {"class_weight": both["class_weight"] ** 2, "sample_weight": np.full(12, 1e30)}
        yield Problem(logits, labels, f"{n_classes}, weights far apart", options=apart)
        hot = cast(logits.astype(np.float64) * 2.0**90, dtype)
        yield Problem(hot, labels, f"{n_classes}, hot", options={"temperature": 2.0**90})


@case(dtypes=("float32", "float64", "bfloat16"), standard=())
def huge_scales(random: Random, dtype: DType) -> Iterator[Problem]:
    """What multiplies a gradient may be beyond its type: masked classes keep 0, others theirs."""
    for n_classes in (3, 300):
        logits = np.full((2, n_classes), -np.inf)
        logits[:, :2] = random.uniform(0.0, 1.0, (2, 2)) + np.array([80.0, 0.0])
        weights = np.ones(n_classes)
        weights[0] = 1e30
        options = {"class_weight": weights, "sample_weight": np.array([1e30, 1e29])}
        labels = np.zeros(2, np.int64)
        yield Problem(cast(logits, dtype), labels, f"{n_classes} classes", options=options)
        probs = np.zeros((2, n_classes), np.float32)
        probs[:, 0] = 1.0
        yield Problem(cast(logits, dtype), probs, f"{n_classes}, probabilities", options=options)


@case()
def ignored_rows_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """Ignored rows give 0 with every other option too, and none of these reads their label."""
    logits = normal(random, 9, 1100, dtype)
    labels = random_labels(random, logits)
    logits[1] = np.nan
    logits[4, 7] = np.inf
    labels[[1, 3, 4, 8]] = -100
    weights = {"class_weight": _weights(random, 1100), "sample_weight": uniform(random, (9,))}
    smoothed = {**weights, "label_smoothing": 0.1, "z_loss": 1e-3}
    yield Problem(logits, labels, "weights", ignore_index=-100, options=weights)
    yield Problem(logits, labels, "smoothing and z-loss", ignore_index=-100, options=smoothed)


@case()
def z_loss(random: Random, dtype: DType) -> Iterator[Problem]:
    """The square of logsumexp, where that is large, near 0 and negative."""
    for offset in (0.0, -np.log(1000.0) - 0.5, 20.0, -90.0):
        logits = cast(offset + random.standard_normal((8, 1000)), dtype)
        labels = random_labels(random, logits)
        logits[0, labels[0]] = cast(np.array(offset + 35.0), dtype)
        for factor in (1e-4, 0.5):
            note = f"offset {offset:g}, factor {factor:g}"
            yield Problem(logits, labels, note, options={"z_loss": factor})
    # Nothing is asked of the label, but z-loss still is of the row.
    options = {"z_loss": 0.01, "class_weight": np.zeros(1000)}
    yield Problem(logits, labels, "no weight", options=options)


@case()
def temperatures(random: Random, dtype: DType) -> Iterator[Problem]:
    """Divided logits: below 1 what they are rounded to grows, above 1 rows become flat."""
    for temperature in (0.05, 0.7, 3.0, 1000.0):
        logits = normal(random, 10, 800, dtype, sigma=5.0)
        logits[7:] = cast(logits[7:].astype(np.float64) + 3000.0, dtype)
        logits[4, ::3] = -np.inf
        labels = random_labels(random, logits)
        logits[4, labels[4]] = cast(np.array(1.5), dtype)
        logits[5, labels[5]] = -np.inf
        options = {"temperature": temperature}
        yield Problem(logits, labels, f"{temperature:g}", options=options)


@case()
def softcap(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits capped smoothly, at about their own size and far above it."""
    for cap in (4.0, 30.0, 1e4):
        logits = normal(random, 10, 800, dtype, sigma=6.0)
        logits[3, ::3] = -np.inf
        labels = random_labels(random, logits)
        logits[3, labels[3]] = cast(np.array(1.5), dtype)
        logits[5] = cast(1e-4 * random.standard_normal(800), dtype)
        yield Problem(logits, labels, f"{cap:g}", options={"softcap": cap})


@case()
def softcap_saturated(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits far beyond the cap: they differ by less than their own last place."""
    logits = cast(random.uniform(-60.0, 60.0, (10, 600)), dtype)
    logits[4:7] = cast(60.0 + random.standard_normal((3, 600)), dtype)
    logits[8, 5] = cast(np.array(60000.0), dtype)
    labels = random_labels(random, logits)
    labels[8] = 5
    for cap in (1.0, 5.0):
        yield Problem(logits, labels, f"{cap:g}", options={"softcap": cap})


@case()
def transformed_rows(random: Random, dtype: DType) -> Iterator[Problem]:
    """Cap, temperature and z-loss at once, in place and with NaN between the rows."""
    logits = normal(random, 10, 700, dtype, sigma=8.0)
    labels = random_labels(random, logits)
    options = {"softcap": 15.0, "temperature": 0.8, "z_loss": 1e-3}
    yield Problem(logits, labels, options=options)
    yield Problem(
        logits, labels, "in place", in_place=True, layout=Layout(padding=3), options=options
    )
    smoothed = {**options, "label_smoothing": 0.1, "class_weight": uniform(random, (700,))}
    yield Problem(
        logits, labels, "smoothed", layout=Layout(offset=dtype.itemsize), options=smoothed
    )


@case()
def soft_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """Probabilities take every option: weights, smoothing, z-loss and transformed logits."""
    logits = normal(random, 10, 1030, dtype, sigma=3.0)
    logits[2, ::4] = -np.inf
    probs = _probs(random, (10, 1030), dtype)
    probs[2, ::4] = 0.0
    probs[6] = 0.0
    weights = {"class_weight": _weights(random, 1030), "sample_weight": uniform(random, (10,))}
    yield Problem(logits, probs, "weights", options=weights)
    smoothed = {**weights, "label_smoothing": 0.1}
    yield Problem(logits, probs, "smoothed", options=smoothed)
    whole = {**smoothed, "z_loss": 1e-3, "temperature": 1.7, "softcap": 20.0}
    yield Problem(logits, probs, "all options", in_place=True, options=whole)


@case()
def long_row_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """One row, split over threads, with smoothed labels and weights of classes."""
    logits = normal(random, 1, 140_001, dtype, sigma=2.0)
    logits[0, 20_000:50_000] = -np.inf
    options = {"class_weight": uniform(random, (140_001,)), "label_smoothing": 0.1, "z_loss": 1e-4}
    yield Problem(logits, np.array([139_990]), options=options)


@case(level="default")
def long_rows_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """Split rows with all options, of class indices and of probabilities."""
    logits = normal(random, 2, 140_000, dtype, sigma=2.0)
    options = {
        "class_weight": uniform(random, (140_000,)),
        "sample_weight": np.array([0.3, 2.0]),
        "label_smoothing": 0.05,
        "z_loss": 1e-4,
        "temperature": 0.9,
    }
    yield Problem(logits, np.array([139_999, 3]), options=options)
    options = {**options, "sample_weight": np.array([0.7]), "softcap": 12.0}
    probs = _probs(random, (1, 140_000), dtype)
    yield Problem(logits[1:], probs, "probabilities", in_place=True, options=options)


@case()
def few_and_many_classes_weighted(random: Random, dtype: DType) -> Iterator[Problem]:
    """Class counts of every kind with weights, smoothing and z-loss: no lane is left out."""
    for n_classes in (1, 2, 3, 10, 17, 33, 64, 129, 1025, 3000):
        logits = normal(random, 5, n_classes, dtype, sigma=3.0)
        logits[2, -1] = cast(np.array(10.0), dtype)
        labels = random_labels(random, logits)
        labels[1] = n_classes - 1
        options = {
            "class_weight": uniform(random, (n_classes,)),
            "sample_weight": uniform(random, (5,)),
            "label_smoothing": 0.1,
            "z_loss": 1e-3,
        }
        yield Problem(logits, labels, f"{n_classes} classes", options=options)
        probs = _probs(random, (5, n_classes), dtype)
        yield Problem(logits, probs, f"{n_classes} classes, probabilities", options=options)


@case()
def trouble_transformed(random: Random, dtype: DType) -> Iterator[Problem]:
    """NaN, +inf and rows of -inf are not capped away, and stay in their rows."""
    logits = normal(random, 9, 300, dtype)
    labels = random_labels(random, logits)
    logits[1, 5] = np.nan
    logits[3, 200] = np.inf
    logits[5] = -np.inf
    logits[7, labels[7]] = np.inf
    for options in (
        {"softcap": 10.0},
        {"temperature": 0.5, "z_loss": 1e-3},
        {"label_smoothing": 0.1, "class_weight": uniform(random, (300,))},
    ):
        yield Problem(logits, labels, " and ".join(options), options=options)
        soft = replace(Problem(logits, _probs(random, (9, 300), dtype)), options=options)
        yield replace(soft, note=f"{' and '.join(options)}, probabilities")


CASES = (
    class_weights,
    class_weights_confident,
    smoothing,
    smoothing_weighted,
    smoothing_masked,
    sample_weights,
    tiny_scales,
    huge_scales,
    ignored_rows_weighted,
    z_loss,
    temperatures,
    softcap,
    softcap_saturated,
    transformed_rows,
    soft_weighted,
    few_and_many_classes_weighted,
    trouble_transformed,
    long_row_weighted,
    long_rows_weighted,
)
