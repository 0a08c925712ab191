"""Confident rows, masked classes, infinities, NaN, ties and the ends of the number range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import FLOATS, exact_cross_entropy, random_logits, random_probs, same_bits, ulps

import fastxent

INFINITY = np.inf


def both(logits: Any, labels: Any, backend: str, **options: Any) -> tuple[Any, Any]:
    options.setdefault("reduction", "none")
    result = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, **options)
    alone = fastxent.cross_entropy(logits, labels, backend=backend, **options)
    assert same_bits(alone, result[0])
    return result


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_loss_of_40_and_0_is_not_zero(backend: str, dtype: np.dtype[Any]) -> None:
    loss, gradient = both(np.array([[40, 0]], dtype), [0], backend)
    assert abs(float(loss[0]) / 4.248354255291589e-18 - 1) < 1e-6
    assert abs(float(gradient[0, 1]) - 4.248354255291589e-18) < 1e-20 or dtype == np.float16
    assert gradient[0, 0] == -gradient[0, 1]


@pytest.mark.parametrize("gap", [1, 10, 17, 30, 60, 87])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_confident_rows_keep_their_digits(backend: str, dtype: Any, gap: float) -> None:
    logits = random_logits((4, 50), dtype, scale=0.5)
    logits[np.arange(4), [0, 13, 31, 49]] += gap
    labels = np.array([0, 13, 31, 49])
    losses, gradient = both(logits, labels, backend)
    exact_losses, exact_gradient = exact_cross_entropy(logits, labels)
    assert ulps(losses, exact_losses, dtype) <= (2 if dtype is np.float32 else 4)
    assert ulps(gradient, exact_gradient, dtype) <= 4
    as_probs = np.eye(50, dtype=dtype)[labels]
    soft_losses, soft_gradient = both(logits, as_probs, backend)
    assert ulps(soft_losses, exact_losses, dtype) <= (2 if dtype is np.float32 else 4)
    assert ulps(soft_gradient, exact_gradient, dtype) <= 4


@pytest.mark.parametrize("offset", [-1e8, -3000.0, -200.0, 207.9, 208.1, 3000.0, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_shared_offset_costs_no_digits(backend: str, dtype: Any, offset: float) -> None:
    logits = random_logits((3, 130), dtype) + dtype(offset)
    labels = np.array([0, 64, 129])
    losses, gradient = both(logits, labels, backend)
    exact_losses, exact_gradient = exact_cross_entropy(logits, labels)
    assert ulps(losses, exact_losses, dtype) <= (2 if dtype is np.float32 else 4)
    assert ulps(gradient, exact_gradient, dtype) <= 4


@pytest.mark.parametrize("n_classes", [1, 2, 3, 16, 17, 1000, 1024, 5000, 40000])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -88.0, 1e30, -1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_logits_share_the_probability_equally(
    backend: str, dtype: Any, value: float, n_classes: int
) -> None:
    losses, gradient = both(np.full((2, n_classes), value, dtype), [0, n_classes - 1], backend)
    assert np.array_equal(losses, np.full(2, np.log(n_classes), dtype))
    expected = np.full((2, n_classes), 1 / n_classes, dtype)
    expected[[0, 1], [0, n_classes - 1]] = -(n_classes - 1) / n_classes
    assert ulps(gradient, expected.astype(np.longdouble), dtype) <= 2


def test_ties_for_the_maximum_are_exact(backend: str) -> None:
    logits = np.full((1, 33), -50, np.float32)
    logits[0, [3, 20, 32]] = 50
    losses, gradient = both(logits, [20], backend)
    assert losses[0] == np.float32(np.log(3))
    assert ulps(gradient, exact_cross_entropy(logits, np.array([20]))[1], np.float32) <= 4


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n_classes", [1, 5, 16, 40, 1030, 17000])
@pytest.mark.parametrize("trouble", [np.nan, INFINITY], ids=["nan", "inf"])
def test_nan_and_inf_stay_in_their_row(
    backend: str, dtype: np.dtype[Any], n_classes: int, trouble: float
) -> None:
    logits = random_logits((4, n_classes), dtype)
    for labels in (np.zeros(4, int), np.eye(n_classes, dtype=dtype)[np.zeros(4, int)]):
        clean_losses, clean_gradient = both(logits, labels, backend)
        for place in {0, n_classes // 2, n_classes - 1}:
            spoilt = logits.copy()
            spoilt[2, place] = trouble
            losses, gradient = both(spoilt, labels, backend)
            assert np.isnan(losses[2])
            assert np.isnan(gradient[2].astype(np.float32)).all()
            others = [0, 1, 3]
            assert same_bits(losses[others], clean_losses[others])
            assert same_bits(gradient[others], clean_gradient[others])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n_classes", [1, 5, 40, 1030, 17000])
def test_a_row_of_minus_infinity_alone_is_nan(
    backend: str, dtype: np.dtype[Any], n_classes: int
) -> None:
    logits = random_logits((3, n_classes), dtype)
    logits[1] = -INFINITY
    for labels in (np.zeros(3, int), np.eye(n_classes, dtype=dtype)[np.zeros(3, int)]):
        losses, gradient = both(logits, labels, backend)
        assert np.isnan(losses).tolist() == [False, True, False]
        assert np.isnan(gradient.astype(np.float32)).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_label_on_a_masked_class_has_infinite_loss_and_finite_gradient(
    backend: str, dtype: np.dtype[Any]
) -> None:
    logits = np.array([[1, -INFINITY, 2, 0.5]], dtype)
    exact_gradient = exact_cross_entropy(logits[:, [0, 2, 3]], np.array([0]))[1]
    exact_gradient[0, 0] += 1
    for labels in (np.array([1]), np.array([[0, 1, 0, 0]], dtype)):
        losses, gradient = both(logits, labels, backend)
        assert losses[0] == INFINITY
        assert gradient[0, 1] == -1
        assert ulps(gradient[:, [0, 2, 3]], exact_gradient, dtype) <= 4
        for reduction in ("sum", "mean"):
            loss, _ = both(logits, labels, backend, reduction=reduction)
            assert loss == INFINITY


@pytest.mark.parametrize("n_classes", [2, 16, 17, 1024, 1025, 3000, 17000, 40000])
def test_masked_classes_without_mass_cost_nothing(backend: str, n_classes: int) -> None:
    open_classes = np.array([n_classes - 1])
    for leading in (True, False):
        logits = np.full((2, n_classes), -INFINITY, np.float32)
        place = open_classes[0] if leading else 0
        logits[:, place] = [3.0, -300.0]
        soft = np.zeros((2, n_classes), np.float32)
        soft[:, place] = 1
        for labels in (np.array([place, place]), soft):
            losses, gradient = both(logits, labels, backend)
            assert np.array_equal(losses, [0, 0])
            assert not gradient.any()


def test_masked_classes_get_zero_gradient_exactly(backend: str) -> None:
    logits = random_logits((3, 2100), np.float32)
    logits[:, ::3] = -INFINITY
    _, gradient = both(logits, [1, 2, 4], backend)
    assert not gradient[:, ::3].any()
    assert gradient[:, 1::3].all()


def test_a_row_without_target_mass_has_no_loss_and_no_gradient(backend: str) -> None:
    logits = random_logits((2, 40))
    logits[:, 3] = -INFINITY
    labels = random_probs((2, 40))
    labels[0] = 0
    labels[1, 3] = 0
    losses, gradient = both(logits, labels, backend)
    assert losses[0] == 0
    assert not gradient[0].any()
    assert np.isfinite(losses[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_and_smallest_numbers_do_not_overflow(backend: str, dtype: Any) -> None:
    info = np.finfo(dtype)
    logits = np.array(
        [
            [info.max, -info.max, 0, info.max],
            [info.smallest_subnormal, 0, -info.smallest_subnormal, 0],
            [-info.max, -info.max, -info.max, -info.max],
        ],
        dtype,
    )
    losses, gradient = both(logits, [0, 1, 2], backend)
    assert ulps(losses, np.log(np.array([2, 4, 4], np.longdouble)), dtype) <= 2
    assert np.array_equal(gradient[0], np.array([-0.5, 0, 0, 0.5], dtype))
    assert np.array_equal(gradient[2], np.array([0.25, 0.25, -0.75, 0.25], dtype))


@pytest.mark.parametrize("n_classes", [1025, 2048, 17000])
def test_a_late_maximum_far_above_costs_classes_without_mass_nothing(
    backend: str, n_classes: int
) -> None:
    largest = np.finfo(np.float64).max
    logits = np.full((1, n_classes), -largest)
    logits[0, -1] = largest
    labels = np.zeros((1, n_classes))
    labels[0, -1] = 1
    losses, gradient = both(logits, labels, backend)
    assert losses[0] == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_below_the_normal_range_are_not_flushed(
    backend: str, dtype: np.dtype[Any]
) -> None:
    smallest = {2: 2.0**-24, 4: 2.0**-149, 8: 2.0**-1074}[dtype.itemsize]
    if dtype.name == "bfloat16":
        smallest = 2.0**-133
    depth = np.arange(1, 2000, dtype=np.float64) * {2: 0.01, 4: 0.06, 8: 0.5}[dtype.itemsize]
    logits = np.concatenate([[0.0], -depth])[None].astype(dtype)
    _, gradient = both(logits, [0], backend)
    _, exact = exact_cross_entropy(logits, np.array([0]))
    tiny = np.abs(exact) < 1000 * smallest
    error = np.abs(gradient.astype(np.longdouble) - exact)
    assert float((error[tiny] / smallest).max(initial=0)) <= 4
