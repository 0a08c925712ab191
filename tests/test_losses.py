"""Losses and gradients against extended precision, for every reduction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import (
    FLOATS,
    exact_cross_entropy,
    loss_dtype,
    random_logits,
    random_probs,
    ulps,
)

import fastxent

# around every register width, line, block and segment
CLASS_COUNTS = (
    *range(1, 70),
    127,
    128,
    129,
    255,
    257,
    1000,
    1023,
    1024,
    1025,
    2048,
    2049,
    16383,
    16384,
    16385,
    40001,
)
LOSS_BOUND = {2: 2.0, 4: 2.0, 8: 4.0}
GRADIENT_BOUND = {2: 1.0, 4: 4.0, 8: 4.0}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_hard_losses_and_gradients_are_exact_to_the_last_places(
    backend: str, dtype: np.dtype[Any]
) -> None:
    for n_classes in CLASS_COUNTS:
        logits = random_logits((3, n_classes), dtype, seed=n_classes)
        labels = np.random.default_rng(n_classes).integers(0, n_classes, 3)
        labels[0] = logits[0].argmax()
        losses, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend
        )
        exact_losses, exact_gradient = exact_cross_entropy(logits, labels)
        assert ulps(losses, exact_losses, losses.dtype) <= LOSS_BOUND[dtype.itemsize], n_classes
        assert ulps(gradient, exact_gradient, dtype) <= GRADIENT_BOUND[dtype.itemsize], n_classes


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_soft_losses_and_gradients_are_exact_to_the_last_places(
    backend: str, dtype: np.dtype[Any]
) -> None:
    for n_classes in CLASS_COUNTS:
        logits = random_logits((3, n_classes), dtype, seed=n_classes)
        labels = random_probs((3, n_classes), dtype, seed=n_classes)
        labels[2] *= dtype.type(3)  # need not sum to 1
        losses, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend
        )
        exact_losses, exact_gradient = exact_cross_entropy(logits, labels)
        # mass * p_j - t_j is a true difference: its error is measured against its terms
        terms = exact_gradient + 2 * labels.astype(np.longdouble)
        assert ulps(losses, exact_losses, losses.dtype) <= LOSS_BOUND[dtype.itemsize], n_classes
        assert ulps(gradient, exact_gradient, dtype, terms) <= GRADIENT_BOUND[dtype.itemsize]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_sum_and_mean_are_float64_scalars_of_the_row_losses(
    backend: str, dtype: np.dtype[Any], soft: bool
) -> None:
    logits = random_logits((37, 19), dtype)
    labels = random_probs((37, 19)) if soft else np.arange(37) % 19
    exact = exact_cross_entropy(logits, labels)[0].sum()
    total = fastxent.cross_entropy(logits, labels, reduction="sum", backend=backend)
    mean = fastxent.cross_entropy(logits, labels, backend=backend)
    assert type(total) is np.float64
    assert type(mean) is np.float64
    # row losses are kept in float64, so float32 logits cost no digits of the sum beyond their own
    bound = 1e-6 if dtype.itemsize < 8 else 1e-15
    assert abs(total - exact) <= bound * exact
    assert mean == total / 37


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_losses_and_gradients_have_the_promised_dtypes(backend: str, dtype: np.dtype[Any]) -> None:
    logits = random_logits((4, 5), dtype)
    for labels in (np.arange(4), random_probs((4, 5), np.float64)):
        losses, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend
        )
        assert losses.dtype == loss_dtype(dtype)
        assert losses.shape == (4,)
        assert gradient.dtype == dtype
        assert gradient.shape == logits.shape
        alone = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
        assert alone.dtype == loss_dtype(dtype)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_gradient_is_that_of_what_is_returned(backend: str, reduction: Any, soft: bool) -> None:
    logits = random_logits((4, 6), np.float64, scale=1.0)
    labels = 1.7 * random_probs((4, 6), np.float64) if soft else np.array([0, -7, 5, 2])
    ignored = None if soft else -7

    def value(x: Any) -> Any:
        return np.sum(
            fastxent.cross_entropy(
                x, labels, reduction=reduction, ignore_index=ignored, backend=backend
            )
        )

    _, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, reduction=reduction, ignore_index=ignored, backend=backend
    )
    step = 1e-5
    for i in range(4):
        for j in range(6):
            moved = [logits.copy(), logits.copy()]
            moved[0][i, j] += step
            moved[1][i, j] -= step
            slope = (value(moved[0]) - value(moved[1])) / (2 * step)
            assert abs(slope - gradient[i, j]) < 1e-9


def test_tensorflow_names_take_labels_first_and_return_row_losses(backend: str) -> None:
    logits = random_logits((3, 4, 5), np.float32)
    labels = np.random.default_rng(0).integers(0, 5, (3, 4))
    probs = random_probs((3, 4, 5))
    hard = fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    soft = fastxent.softmax_cross_entropy_with_logits(probs, logits, backend=backend)
    assert hard.shape == soft.shape == (3, 4)
    assert hard.dtype == soft.dtype == np.float32
    assert ulps(hard, exact_cross_entropy(logits, labels)[0], np.float32) <= 2
    assert ulps(soft, exact_cross_entropy(logits, probs)[0], np.float32) <= 2
    along_first = fastxent.softmax_cross_entropy_with_logits(
        np.moveaxis(probs, -1, 0), np.moveaxis(logits, -1, 0), axis=0, backend=backend
    )
    assert np.array_equal(along_first, soft)


def test_tensorflow_names_refuse_each_others_labels() -> None:
    logits = random_logits((3, 4))
    with pytest.raises(TypeError, match="labels must be probabilities as floats, not int64"):
        fastxent.softmax_cross_entropy_with_logits(np.zeros((3, 4), np.int64), logits)
    with pytest.raises(TypeError, match="labels must be class indices as integers, not float32"):
        fastxent.sparse_softmax_cross_entropy_with_logits(np.zeros(3, np.float32), logits)


@pytest.mark.parametrize("mass", [1e-30, 1e-20, 1e-10, 1e10, 1e25])
def test_soft_labels_of_any_mass_keep_the_gradients_digits(backend: str, mass: float) -> None:
    logits = random_logits((2, 300), np.float32, scale=1.0)
    labels = np.zeros((2, 300), np.float32)
    labels[:, 7] = mass
    _, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    _, exact = exact_cross_entropy(logits, labels)
    terms = exact + 2 * labels.astype(np.longdouble)
    assert ulps(gradient, exact, np.float32, terms) <= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_soft_gradients_keep_their_digits_at_an_unlikely_maximum(backend: str, dtype: Any) -> None:
    logits = np.zeros((1, 40000), dtype)
    labels = np.zeros((1, 40000), dtype)
    labels[0, :2] = [0.3, 0.7]
    _, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    _, exact = exact_cross_entropy(logits, labels)
    assert ulps(gradient, exact, dtype) <= 4
