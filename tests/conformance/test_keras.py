"""fastxent against Keras: which of its losses, weights and reductions is which of our means.

    Keras                                              fastxent
    reduction="sum", None                              "sum", "none"
    "sum_over_batch_size" (default), "mean"            mean_over="valid"
      the same without ignore_class                    mean_over="rows" too
    "mean_with_sample_weight"                          mean_over="weight", the default
    sample_weight, label_smoothing                     the same
    ignore_class                                       ignore_index
    class_weight of Model.fit: a sample_weight, taken  class_weight with mean_over="rows"
      from the row's class
    a mean over nothing is 0                           empty="zero"

Keras has no gradients of its own; its losses are those of the framework it runs on, whose gradients
are compared in the other files.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from peers import peer
from support import BFLOAT16, Array, random_logits, ulps

import fastxent

keras: Any = peer("keras")

# Units of the dtype at the largest term: ours is within 4 units in the last place of the result,
# which is smaller; Keras' framework rounds each log-probability, each product and their sum.
EPSILONS = 4
LOGITS = random_logits((8, 5), np.float64, seed=1)
LABELS = np.array([0, 3, 1, 4, 3, 2, 1, 3])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 0.0, 3.0, 1.25, 0.25, 1.0])
MEANS = ("sum_over_batch_size", "mean")


def float64(tensor: Any) -> Array:
    array: Array = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64"))
    return array


def sparse_loss(labels: Array, logits: Array, sample_weight: Any = None, **options: Any) -> Array:
    options = {"dtype": "float64", **options}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)
    return float64(loss(labels, logits, sample_weight=sample_weight))


def dense_loss(labels: Array, logits: Array, sample_weight: Any = None, **options: Any) -> Array:
    options = {"dtype": "float64", **options}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, **options)
    return float64(loss(labels, logits, sample_weight=sample_weight))


def assert_close(got: Any, want: Any, rows: int = 1, mass: float = 1.0) -> None:
    """No further apart than rounding the terms of `rows` rows of that mass explains.

    A weighted mean by the number of rows can exceed the rows' losses: the mass counts weights.
    """
    spread = float(np.ptp(LOGITS, axis=-1).max()) + math.log(5) + 1
    np.testing.assert_allclose(
        got, want, rtol=0, atol=EPSILONS * np.finfo(np.float64).eps * spread * mass * rows
    )


# ---- reductions


@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("ignored", [None, 3, -1])
def test_losses_and_their_sum_are_those_of_keras(
    ignored: int | None, sample_weight: Array | None, backend: str
) -> None:
    labels = np.where(LABELS == 3, -1, LABELS) if ignored == -1 else LABELS
    options: dict[str, Any] = {
        "sample_weight": sample_weight,
        "ignore_index": ignored,
        "backend": backend,
    }
    for reduction in ("none", None):
        want = sparse_loss(labels, LOGITS, sample_weight, ignore_class=ignored, reduction=reduction)
        got = fastxent.cross_entropy(LOGITS, labels, reduction="none", **options)
        assert_close(got, want, mass=3)
    want = sparse_loss(labels, LOGITS, sample_weight, ignore_class=ignored, reduction="sum")
    got = fastxent.cross_entropy(LOGITS, labels, reduction="sum", **options)
    assert_close(got, want, rows=8, mass=3)


@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduction", MEANS)
def test_keras_mean_is_over_all_rows(
    reduction: str, sample_weight: Array | None, backend: str
) -> None:
    """Whatever they weigh."""
    want = sparse_loss(LABELS, LOGITS, sample_weight, reduction=reduction)
    for mean_over in ("rows", "valid"):
        got = fastxent.cross_entropy(
            LOGITS, LABELS, sample_weight=sample_weight, mean_over=mean_over, backend=backend
        )
        assert_close(got, want, mass=3)
    by_weight = fastxent.cross_entropy(
        LOGITS, LABELS, sample_weight=sample_weight, mean_over="weight", backend=backend
    )
    assert (abs(by_weight - want) > 1e-3) == (sample_weight is not None)


@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduction", MEANS)
def test_keras_mean_with_an_ignored_class_is_over_the_valid_rows(
    reduction: str, sample_weight: Array | None, backend: str
) -> None:
    want = sparse_loss(LABELS, LOGITS, sample_weight, ignore_class=3, reduction=reduction)
    options: dict[str, Any] = {
        "sample_weight": sample_weight,
        "ignore_index": 3,
        "backend": backend,
    }
    got = fastxent.cross_entropy(LOGITS, LABELS, mean_over="valid", **options)
    assert_close(got, want, mass=3)
    by_rows = fastxent.cross_entropy(LOGITS, LABELS, mean_over="rows", **options)
    assert_close(by_rows, want * 5 / 8, mass=3)
    assert abs(by_rows - want) > 1e-3


@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("ignored", [None, 3])
def test_keras_mean_with_sample_weight_is_our_mean(
    ignored: int | None, sample_weight: Array | None, backend: str
) -> None:
    want = sparse_loss(
        LABELS,
        LOGITS,
        sample_weight,
        ignore_class=ignored,
        reduction="mean_with_sample_weight",
    )
    got = fastxent.cross_entropy(
        LOGITS, LABELS, sample_weight=sample_weight, ignore_index=ignored, backend=backend
    )
    assert_close(got, want)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_every_reduction_of_smoothed_probabilities_is_ours(
    sample_weight: Array | None, label_smoothing: float, backend: str
) -> None:
    probabilities = np.random.default_rng(2).random((8, 5))
    one_hot = np.eye(5)[LABELS]
    ours: dict[str | None, dict[str, Any]] = {
        None: {"reduction": "none"},
        "none": {"reduction": "none"},
        "sum": {"reduction": "sum"},
        "mean": {"mean_over": "rows"},
        "sum_over_batch_size": {"mean_over": "valid"},
        "mean_with_sample_weight": {"mean_over": "weight"},
    }
    options: dict[str, Any] = {
        "sample_weight": sample_weight,
        "label_smoothing": label_smoothing,
        "backend": backend,
    }
    for labels in (probabilities, one_hot):
        for reduction, mapped in ours.items():
            want = dense_loss(
                labels,
                LOGITS,
                sample_weight,
                label_smoothing=label_smoothing,
                reduction=reduction,
            )
            got = fastxent.cross_entropy(LOGITS, labels, **mapped, **options)
            assert_close(got, want, rows=8 if reduction == "sum" else 1, mass=3 * 5)
    # Keras smooths no class indices; ours are one-hot rows.
    want = dense_loss(one_hot, LOGITS, sample_weight, label_smoothing=label_smoothing)
    got = fastxent.cross_entropy(LOGITS, LABELS, mean_over="rows", **options)
    assert_close(got, want, mass=3)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
def test_class_weights_of_keras_fit_are_ours_by_rows(backend: str) -> None:
    """Model.fit gives each row the weight of its class, and divides by the number of rows. Our
    default divides by the rows' weights, as PyTorch does."""
    class_weight = np.array([0.5, 2.0, 0.0, 1.0, 4.0])
    want = sparse_loss(LABELS, LOGITS, class_weight[LABELS])
    model = keras.Sequential([keras.Input((5,), dtype="float64"), keras.layers.Identity()])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weights = dict(enumerate(class_weight.tolist()))
    history = model.fit(LOGITS, LABELS, class_weight=weights, batch_size=8, verbose=0).history
    assert history["loss"][0] == pytest.approx(want, rel=1e-6)  # fit has float32
    got = fastxent.cross_entropy(
        LOGITS, LABELS, class_weight=class_weight, mean_over="rows", backend=backend
    )
    assert_close(got, want, mass=4)
    by_weight = sparse_loss(
        LABELS, LOGITS, class_weight[LABELS], reduction="mean_with_sample_weight"
    )
    got = fastxent.cross_entropy(LOGITS, LABELS, class_weight=class_weight, backend=backend)
    assert_close(got, by_weight)


def test_kerass_mean_over_nothing_is_0(backend: str) -> None:
    """Ours by request; the default says with NaN that there was nothing."""
    labels = np.full(2, 3)
    assert sparse_loss(labels, LOGITS[:2], ignore_class=3) == 0
    assert sparse_loss(np.zeros((0, 2), int), np.zeros((0, 2, 3))) == 0
    for logits, target in ((LOGITS[:2], labels), (np.zeros((0, 2, 3)), np.zeros((0, 2), int))):
        for mean_over in ("valid", "weight"):
            options: dict[str, Any] = {
                "ignore_index": 3,
                "mean_over": mean_over,
                "backend": backend,
            }
            assert fastxent.cross_entropy(logits, target, empty="zero", **options) == 0
            assert np.isnan(fastxent.cross_entropy(logits, target, **options))


# ---- axes and shapes


def test_losses_of_sequences_are_those_of_keras(backend: str) -> None:
    logits = random_logits((3, 4, 5), np.float64, seed=3)
    labels = np.random.default_rng(4).integers(0, 5, (3, 4))
    weights = np.random.default_rng(5).random((3, 4))
    want = sparse_loss(labels, logits, weights, ignore_class=2)
    got = fastxent.cross_entropy(
        logits, labels, sample_weight=weights, ignore_index=2, mean_over="valid", backend=backend
    )
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("axis", [1, 2])
def test_probabilities_along_either_axis_are_those_of_keras(axis: int, backend: str) -> None:
    logits = random_logits((3, 4, 5), np.float64, seed=6)
    labels = np.random.default_rng(7).random((3, 4, 5))
    want = dense_loss(labels, logits, axis=axis, reduction="none")
    got = fastxent.cross_entropy(logits, labels, axis=axis, reduction="none", backend=backend)
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=0)


# ---- where Keras is wrong. Its value is asserted too, so that we notice when it is mended.


def exact_loss(logits: Array, measure: Array) -> Array:
    """Of 50 digits; a masked class without mass costs nothing."""
    with mpmath.workdps(50):
        x = [mpmath.mpf(value) for value in logits.tolist()]
        lse = mpmath.log(mpmath.fsum(mpmath.exp(value) for value in x))
        terms = (t * (lse - value) for value, t in zip(x, measure.tolist(), strict=True) if t)
        return np.array([np.longdouble(mpmath.nstr(mpmath.fsum(terms), 30))])


def test_keras_smooths_by_the_length_of_the_last_axis(backend: str) -> None:
    """Whichever axis the classes lie along: here 4 classes share a fifth of the smoothing each."""
    logits = random_logits((3, 4, 5), np.float64, seed=8)
    labels = np.moveaxis(np.eye(4)[np.random.default_rng(9).integers(0, 4, (3, 5))], -1, 1)
    options: dict[str, Any] = {"axis": 1, "reduction": "none"}
    theirs = dense_loss(labels, logits, label_smoothing=0.2, **options)
    wrong = dense_loss(labels * 0.8 + 0.2 / 5, logits, **options)
    np.testing.assert_allclose(theirs, wrong, rtol=1e-14, atol=0)
    losses = fastxent.cross_entropy(logits, labels, label_smoothing=0.2, backend=backend, **options)
    assert np.abs(losses - theirs).min() > 1e-3
    right = dense_loss(labels * 0.8 + 0.2 / 4, logits, **options)
    np.testing.assert_allclose(losses, right, rtol=1e-14, atol=0)
    want = exact_loss(logits[0, :, 0], labels[0, :, 0] * np.longdouble(0.8) + np.longdouble(0.05))
    assert ulps(losses[:1, 0], want, np.float64) <= 4


def test_keras_rounds_class_indices_to_the_losss_dtype(backend: str) -> None:
    """Labels become bfloat16 with the logits, where 257 is 256: the loss of another class."""
    logits = np.zeros((1, 300), BFLOAT16)
    logits[0, 257] = 20
    labels = np.array([257])
    assert sparse_loss(labels, logits.astype(np.float32), dtype="bfloat16") == 20
    assert sparse_loss(labels, logits.astype(np.float32), dtype="float64") < 1e-6
    losses = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
    assert ulps(losses, exact_loss(logits[0].astype(float), np.eye(300)[257]), np.float32) <= 2


def test_keras_smooths_onto_masked_classes(backend: str) -> None:
    """A mass on what cannot occur costs infinitely much; ours lies on the other classes."""
    logits, one_hot = np.array([[0.0, 1.0, -np.inf, 2.0]]), np.array([[1.0, 0.0, 0.0, 0.0]])
    assert dense_loss(one_hot, logits, label_smoothing=0.25) == np.inf
    assert np.isnan(dense_loss(one_hot, logits))
    share = np.longdouble(0.25) / 3
    want = exact_loss(logits[0, [0, 1, 3]], np.array([share + 0.75, share, share], np.longdouble))
    for labels in (one_hot, np.array([0])):
        losses = fastxent.cross_entropy(
            logits, labels, label_smoothing=0.25, reduction="none", backend=backend
        )
        assert ulps(losses, want, np.float64) <= 4


def test_keras_loses_the_loss_of_a_confident_row(backend: str) -> None:
    logits, one_hot = np.array([[40.0, 0.0]]), np.array([[1.0, 0.0]])
    assert sparse_loss(np.array([0]), logits) == 0
    assert dense_loss(one_hot, logits) == 0
    for labels in (one_hot, np.array([0])):
        losses = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
        assert ulps(losses, exact_loss(logits[0], one_hot[0]), np.float64) <= 4


def test_keras_returns_an_empty_batch_instead_of_its_mean(backend: str) -> None:
    """With one batch axis; with two, the mean over nothing is 0."""
    labels, logits = np.zeros(0, int), np.zeros((0, 3))
    assert sparse_loss(labels, logits).shape == (0,)
    loss = fastxent.cross_entropy(logits, labels, empty="zero", backend=backend)
    assert np.shape(loss) == ()
    assert loss == 0
