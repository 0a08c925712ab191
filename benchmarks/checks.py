"""A benchmark's result against SciPy in float64: a wrong answer is not timed.

How many digits are right is for `fastxent verify`; here a result is right or wrong, and the
tolerances leave room for libraries that compute in 16 bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import log_softmax

from .cases import Array, make_arrays

_TOLERANCE: Final = {"float64": 1e-9, "float32": 1e-4, "float16": 0.03, "bfloat16": 0.1}
# The mean divides by the rows, so gradients of 16 bits can come near the smallest float16.
_SMALLEST: Final = {"float64": 1e-18, "float32": 1e-12, "float16": 1.2e-7, "bfloat16": 1e-12}
_ELEMENTS_AT_ONCE: Final = 1 << 20


@lru_cache(maxsize=1)
def expected_loss(shape: str, dtype: str) -> float:
    logits, labels = make_arrays(shape, dtype)
    n_rows, n_classes = logits.shape
    step = max(1, _ELEMENTS_AT_ONCE // n_classes)
    total = 0.0
    for start in range(0, n_rows, step):
        chunk = logits[start : start + step].astype(np.float64)
        chosen = labels[start : start + step]
        total -= log_softmax(chunk, axis=1)[np.arange(len(chunk)), chosen].sum()
    return float(total / n_rows)


def check_loss(loss: float, shape: str, dtype: str) -> None:
    np.testing.assert_allclose(loss, expected_loss(shape, dtype), rtol=_TOLERANCE[dtype])


def check_gradient(grad_logits: Array, shape: str, dtype: str) -> None:
    """Up to 64 rows of the gradient, from the first to the last."""
    logits, labels = make_arrays(shape, dtype)
    assert grad_logits.shape == logits.shape
    rows = np.unique(np.linspace(0, len(logits) - 1, 64).astype(np.int64))
    expected = np.exp(log_softmax(logits[rows].astype(np.float64), axis=1))
    expected[np.arange(len(rows)), labels[rows]] -= 1
    expected /= len(logits)
    np.testing.assert_allclose(
        grad_logits[rows].astype(np.float64),
        expected,
        rtol=_TOLERANCE[dtype],
        atol=_SMALLEST[dtype],
    )
