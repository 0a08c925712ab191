"""A benchmark's result against SciPy in float64: a wrong answer is not timed.

How many digits are right is for `fastxent verify`; here a result is right or wrong, and the
tolerances leave room for libraries that compute in 16 bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.measure.arrays import make_arrays
from fastxent.benchmarks.measure.case import Array, Case
from scipy.special import log_softmax

_TOLERANCE: Final = {"float64": 1e-9, "float32": 1e-4, "float16": 0.03, "bfloat16": 0.1}
# The mean divides by the rows, so gradients of 16 bits can come near the smallest float16.
_SMALLEST: Final = {"float64": 1e-18, "float32": 1e-12, "float16": 1.2e-7, "bfloat16": 1e-12}
_ELEMENTS_AT_ONCE: Final = 1 << 20
_ROWS_COMPARED: Final = 64


def check_result(case: Case, result: Any) -> None:
    """The whole loss, and up to 64 rows of an array, from the first to the last."""
    if case.operation in ("softmax", "log_softmax"):
        _check_rows(case, result, case.operation)
    elif case.operation in ("loss", "loss_in_python_threads"):
        _check_loss(case, result)
    elif case.operation == "row_stats":
        _check_loss(case, as_numpy(result.losses).astype(np.float64).mean())
    elif case.operation == "hvp":
        _check_rows(case, result, "product")
    elif case.operation == "grad_hess":
        _check_rows(case, result[0], "gradient")
        _check_rows(case, result[1], "hessian")
    else:
        loss, grad_logits = result
        _check_loss(case, loss)
        _check_rows(case, grad_logits, "gradient")


def as_numpy(array: Any) -> Array:
    """A result, whichever library made it."""
    # NumPy cannot take PyTorch's bfloat16.
    return np.asarray(array.double() if hasattr(array, "double") else array)


def _check_loss(case: Case, loss: Any) -> None:
    expected = _expected_loss(case.dtype, case.shape, case.soft)
    np.testing.assert_allclose(float(loss), expected, rtol=_TOLERANCE[case.dtype])


@lru_cache(maxsize=1)
def _expected_loss(dtype: str, shape: str, soft: bool) -> float:
    """The mean loss, whatever the operation and the threads."""
    case = Case("soft_loss_and_grad" if soft else "loss", dtype, shape, threads=1)
    n_rows = _count_rows(case)
    step = max(1, _ELEMENTS_AT_ONCE // case.dimensions[case.axis])
    total = 0.0
    for start in range(0, n_rows, step):
        log_probs, target = _log_probs_and_target(case, np.arange(start, min(start + step, n_rows)))
        total -= np.vdot(log_probs, target)
    return float(total / n_rows)


def _check_rows(case: Case, result: Any, meaning: str) -> None:
    array = as_numpy(result)
    assert array.shape == case.dimensions
    n_rows = _count_rows(case)
    rows = np.unique(np.linspace(0, n_rows - 1, _ROWS_COMPARED).astype(np.int64))
    log_probs, target = _log_probs_and_target(case, rows)
    probs = np.exp(log_probs)
    tolerance = _TOLERANCE[case.dtype]
    at_zero = _SMALLEST[case.dtype]
    if meaning == "log_softmax":
        expected = log_probs
        at_zero = tolerance  # a logarithm near 0 has an absolute error
    elif meaning == "softmax":
        expected = probs
    elif meaning == "hessian":
        expected = probs * (1 - probs) / n_rows
    elif meaning == "product":  # with the logits themselves
        vectors = _rows_of(make_arrays(case)[0], case, rows).astype(np.float64)
        expected = probs * (vectors - (probs * vectors).sum(axis=1, keepdims=True)) / n_rows
        at_zero = tolerance * np.abs(expected).mean()  # where the two nearly cancel
    else:
        mass = target.sum(axis=1, keepdims=True)
        expected = (mass * probs - target) / n_rows
        if case.soft:
            at_zero = tolerance * np.abs(expected).mean()  # where the two nearly cancel
    np.testing.assert_allclose(
        _rows_of(array, case, rows).astype(np.float64), expected, rtol=tolerance, atol=at_zero
    )


def _log_probs_and_target(case: Case, rows: Array) -> tuple[Array, Array]:
    """Both as float64 of shape (rows, classes)."""
    logits, labels = make_arrays(case)
    log_probs = log_softmax(_rows_of(logits, case, rows).astype(np.float64), axis=1)
    if case.soft:
        return log_probs, _rows_of(labels, case, rows).astype(np.float64)
    target = np.zeros_like(log_probs)
    target[np.arange(len(rows)), labels.reshape(-1)[rows]] = 1
    return log_probs, target


def _count_rows(case: Case) -> int:
    return int(np.prod(np.delete(case.dimensions, case.axis)))


def _rows_of(array: Array, case: Case, rows: Array) -> Array:
    """A copy of some rows, with the classes along the last axis."""
    by_row = np.moveaxis(array, case.axis, -1)
    chosen: Array = by_row[np.unravel_index(rows, by_row.shape[:-1])]
    return chosen
