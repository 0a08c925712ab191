"""softmax, log_softmax and logsumexp against extended precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import FLOATS, exact_softmax, loss_dtype, random_logits, same_bits, ulps

import fastxent

every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
BOUND = {2: 1.0, 4: 4.0, 8: 4.0}


@every_float
def test_values_are_exact_to_the_last_places(backend: str, dtype: np.dtype[Any]) -> None:
    for n_classes in (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 130, 1024, 1025, 16385, 40000):
        logits = random_logits((3, n_classes), dtype, seed=n_classes)
        below, log_sum, exact = exact_softmax(logits)
        probs = fastxent.softmax(logits, backend=backend)
        log_probs = fastxent.log_softmax(logits, backend=backend)
        total = fastxent.logsumexp(logits, backend=backend)
        assert probs.dtype == log_probs.dtype == dtype
        assert total.dtype == loss_dtype(dtype)
        assert ulps(probs, exact, dtype) <= BOUND[dtype.itemsize]
        assert ulps(log_probs, -(below + log_sum), dtype) <= BOUND[dtype.itemsize]
        largest = logits.max(-1).astype(np.longdouble)
        exact_total = largest + log_sum[:, 0]
        scale = np.abs(largest) + log_sum[:, 0]
        assert ulps(total, exact_total, total.dtype, scale) <= 2


@every_float
def test_masked_classes_have_no_probability(backend: str, dtype: np.dtype[Any]) -> None:
    logits = np.array([[1, -np.inf, 2], [-np.inf, -np.inf, 5]], dtype)
    probs = fastxent.softmax(logits, backend=backend).astype(np.float64)
    log_probs = fastxent.log_softmax(logits, backend=backend).astype(np.float64)
    assert (probs == 0).tolist() == [[False, True, False], [True, True, False]]
    assert (log_probs == -np.inf).tolist() == [[False, True, False], [True, True, False]]
    assert probs[1, 2] == 1
    assert log_probs[1, 2] == 0


@every_float
@pytest.mark.parametrize("n_classes", [2, 40, 1500, 20000])
def test_rows_without_a_softmax_are_nan_and_alone(
    backend: str, dtype: np.dtype[Any], n_classes: int
) -> None:
    logits = random_logits((5, n_classes), dtype)
    clean = [f(logits, backend=backend) for f in (fastxent.softmax, fastxent.log_softmax)]
    logits[1, -1] = np.nan
    logits[2, 0] = np.inf
    logits[3] = -np.inf
    for function, want in zip((fastxent.softmax, fastxent.log_softmax), clean, strict=True):
        got = function(logits, backend=backend)
        assert np.isnan(got[1:4].astype(np.float32)).all()
        assert same_bits(got[[0, 4]], want[[0, 4]])
    total = fastxent.logsumexp(logits, backend=backend)
    assert np.isnan(total[1])
    assert total[2] == np.inf
    assert total[3] == -np.inf
    assert np.isfinite(total[[0, 4]]).all()
    logits[2, -1] = np.nan
    assert np.isnan(fastxent.logsumexp(logits, backend=backend)[2])


def test_any_axis_and_keepdims(backend: str) -> None:
    logits = random_logits((2, 5, 3))
    total = fastxent.logsumexp(logits, axis=1, backend=backend)
    assert total.shape == (2, 3)
    kept = fastxent.logsumexp(logits, axis=1, keepdims=True, backend=backend)
    assert kept.shape == (2, 1, 3)
    assert same_bits(kept[:, 0], total)
    for function in (fastxent.softmax, fastxent.log_softmax):
        got = function(logits, 1, backend=backend)
        want = np.moveaxis(function(np.moveaxis(logits, 1, -1), backend=backend), -1, 1)
        assert same_bits(got, want)


def test_in_one_dimension_logsumexp_is_a_number(backend: str) -> None:
    total = fastxent.logsumexp(np.zeros(4), backend=backend)
    assert total.shape == ()
    assert float(total) == np.log(4)


def test_softmax_is_the_gradient_of_logsumexp_and_log_softmax_its_logarithm(backend: str) -> None:
    logits = random_logits((3, 50), np.float64, scale=1.0)
    probs = fastxent.softmax(logits, backend=backend)
    assert np.allclose(probs.sum(-1), 1, rtol=1e-14)
    assert np.allclose(fastxent.log_softmax(logits, backend=backend), np.log(probs), rtol=1e-13)
