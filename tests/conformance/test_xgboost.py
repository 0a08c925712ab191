"""Gradients and Hessians as boosting libraries take them: XGBoost's values, LightGBM's factor.

Neither library is needed. XGBoost's numbers are those of its C++ tests of `multi:softmax` and
`multi:softprob`, which it compares with an absolute tolerance of 0.01.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from peers import Array, exact_hessian
from support import exact_cross_entropy, random_logits, ulps

import fastxent

# XGBoost.

XGBOOST: dict[str, Any] = {"hess_factor": 2.0}
LOGITS = np.array([[1, 0, 2], [2, 0, 1]], np.float32)
LABELS = np.array([1, 0])
GRADIENT = np.array([[0.24, -0.91, 0.66], [-0.33, 0.09, 0.24]])
HESSIAN = np.array([[0.36, 0.16, 0.44], [0.45, 0.16, 0.37]])
SMALLEST_HESSIAN = 1e-16

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@every_dtype
@pytest.mark.parametrize("sample_weight", [None, [1, 1]], ids=["plain", "ones"])
def test_gradients_and_hessians_have_the_values_of_xgboosts_test(
    backend: str, dtype: Any, sample_weight: list[float] | None
) -> None:
    weights = None if sample_weight is None else np.array(sample_weight, dtype)
    logits = LOGITS.astype(dtype)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(
        logits, LABELS, sample_weight=weights, backend=backend, **XGBOOST
    )
    np.testing.assert_allclose(grad_logits, GRADIENT, rtol=0, atol=0.01)
    np.testing.assert_allclose(hess_logits, HESSIAN, rtol=0, atol=0.01)
    # Two decimals cannot tell every mistake.
    assert ulps(grad_logits, exact_cross_entropy(logits, LABELS)[1], dtype) <= 4
    assert ulps(hess_logits, 2 * exact_hessian(logits), dtype) <= 4


def test_sample_weights_multiply_the_values_of_xgboosts_test(backend: str) -> None:
    """XGBoost multiplies a row by its weight, and no Hessian is smaller than 1e-16.

    The last is left to the caller: `np.maximum` is all that it takes.
    """
    weights = np.array([2.5, 0], np.float32)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(
        LOGITS, LABELS, sample_weight=weights, backend=backend, **XGBOOST
    )
    np.testing.assert_allclose(grad_logits[0], 2.5 * GRADIENT[0], rtol=0, atol=2.5 * 0.01)
    np.testing.assert_allclose(hess_logits[0], 2.5 * HESSIAN[0], rtol=0, atol=2.5 * 0.01)
    assert not grad_logits[1].any()
    assert not hess_logits[1].any()
    theirs = np.maximum(hess_logits, np.float32(SMALLEST_HESSIAN))
    assert np.array_equal(theirs[0], hess_logits[0])
    assert np.array_equal(theirs[1], np.full(3, SMALLEST_HESSIAN, np.float32))


def test_hessians_of_sure_rows_keep_digits_above_xgboosts_smallest(backend: str) -> None:
    """XGBoost's 1 - p is 0 in float32 from a lead of 18 on, and its Hessian 1e-16.

    The right value at the label, 2 p (1 - p), is 8e-9 at a lead of 20, and below 1e-16 only from
    one of 38 on.
    """
    logits = np.array([[18, 0, 0], [20, 0, 0], [30, 0, 0], [60, 0, 0], [200, 0, 0]], np.float32)
    labels = np.zeros(5, np.int64)
    _, hess_logits = fastxent.cross_entropy_grad_hess(logits, labels, backend=backend, **XGBOOST)
    assert ulps(hess_logits, 2 * exact_hessian(logits), np.float32) <= 4
    clamped = np.maximum(hess_logits, np.float32(SMALLEST_HESSIAN))
    assert np.array_equal(clamped[:3], hess_logits[:3])
    assert np.array_equal(clamped[3:], np.full((2, 3), SMALLEST_HESSIAN, np.float32))


def test_softprob_has_the_probabilities_of_xgboosts_test(backend: str) -> None:
    probs = fastxent.softmax(np.array([2, 0, 1], np.float32), backend=backend)
    want = np.array([0.66524096, 0.09003057, 0.24472847], np.float32)
    assert ulps(probs, want.astype(np.longdouble), np.float32) <= 4


def test_softmax_predicts_the_classes_of_xgboosts_test(backend: str) -> None:
    logits = np.array([[2, 0, 1], [1, 0, 2]], np.float32)
    assert fastxent.row_stats(logits, backend=backend).argmax.tolist() == [0, 2]


# LightGBM.


def derivative_of_gradient(row: Array, label: int) -> Array:
    """d grad_j / d x_j, as a difference of gradients over 2e-15 with 60 digits.

    Its own error is some 1e-30 of the third derivative, and the rounding 1e-45.
    """
    with mpmath.workdps(60):
        logits = [mpmath.mpf(float(x)) for x in row]
        step = mpmath.mpf(10) ** -15

        def gradient(j: int, shift: Any) -> Any:
            terms = [mpmath.exp(x + shift * (k == j)) for k, x in enumerate(logits)]
            return terms[j] / mpmath.fsum(terms) - (j == label)

        slopes = [(gradient(j, step) - gradient(j, -step)) / (2 * step) for j in range(len(logits))]
        return np.array([np.longdouble(mpmath.nstr(slope, 25)) for slope in slopes])


@every_dtype
@pytest.mark.parametrize("n_classes", [2, 3, 5, 17])
def test_lightgbms_hessian_is_the_slope_of_the_gradient_times_its_factor(
    backend: str, dtype: Any, n_classes: int
) -> None:
    """LightGBM's factor is K / (K - 1); its arrays have one class after the other."""
    factor = n_classes / (n_classes - 1)
    logits = random_logits((n_classes, 4), dtype, seed=n_classes)
    labels = np.array([0, n_classes - 1, 1, 0])
    weights = np.array([1, 0.5, 3, 0.1])
    _, hess_logits = fastxent.cross_entropy_grad_hess(
        logits, labels, axis=0, sample_weight=weights, hess_factor=factor, backend=backend
    )
    slopes = np.stack(
        [derivative_of_gradient(*pair) for pair in zip(logits.T, labels, strict=True)]
    )
    assert ulps(hess_logits, factor * weights * slopes.T, dtype) <= 4


@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
def test_lightgbms_hessian_of_equal_logits_is_their_probability(
    backend: str, n_classes: int
) -> None:
    """K / (K - 1) * 1 / K * (1 - 1 / K) is 1 / K: what the factor is for."""
    factor = n_classes / (n_classes - 1)
    logits = np.full((n_classes, 1), 2.5)
    _, hess_logits = fastxent.cross_entropy_grad_hess(
        logits, np.array([0]), axis=0, hess_factor=factor, backend=backend
    )
    want = np.full((n_classes, 1), 1 / np.longdouble(n_classes))
    assert ulps(hess_logits, want, np.float64) <= 4
