"""References, error measures and data that the tests share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

BACKENDS = ("cython", "numba")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))


def loss_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.itemsize == 8 else np.dtype(np.float32)


def random_logits(
    shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0, scale: float = 4.0
) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def random_probs(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 1) -> Array:
    """Rows that sum to about 1, with some exact zeros."""
    rng = np.random.default_rng(seed)
    weights = rng.random(shape) * (rng.random(shape) < 0.7) + 1e-3 * (rng.random(shape) < 0.5)
    probs: Array = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-3)
    return probs.astype(dtype)


def exact_softmax(logits: Array) -> tuple[Array, Array, Array]:
    """In extended precision along the last axis: m - x_j, log(sum_exp), and p_j."""
    x = logits.astype(np.longdouble)
    below = x.max(-1, keepdims=True) - x
    terms = np.exp(-below)
    others = terms.copy()
    np.put_along_axis(others, below.argmin(-1)[..., None], 0, axis=-1)
    rest = others.sum(-1, keepdims=True)
    return below, np.log1p(rest), terms / (1 + rest)


def exact_cross_entropy(logits: Array, target: Array) -> tuple[Array, Array]:
    """Losses and their gradients in extended precision; classes along the last axis.

    `target` holds integers (a class for every row) or probabilities. At a label, p - 1 is minus
    the sum of the other probabilities, which keeps its digits.
    """
    below, log_sum, probs = exact_softmax(logits)
    if target.dtype.kind not in "iu":
        t = target.astype(np.longdouble)
        mass = t.sum(-1, keepdims=True)
        losses = np.where(t == 0, 0, t * below).sum(-1) + (mass * log_sum)[..., 0]
        return losses, mass * probs - t
    index = target.astype(np.int64)[..., None]
    losses = (np.take_along_axis(below, index, -1) + log_sum)[..., 0]
    others = probs.copy()
    np.put_along_axis(others, index, 0, axis=-1)
    gradient = probs
    np.put_along_axis(gradient, index, -others.sum(-1, keepdims=True), axis=-1)
    return losses, gradient


def ulps(got: Array, want: Array, dtype: Any, scale: Array | None = None) -> float:
    """The largest error in units of the last place that `dtype` has at `scale` (or at `want`)."""
    size = np.abs(want if scale is None else scale).astype(np.longdouble)
    info = ml_dtypes.finfo(dtype)
    smallest = np.longdouble(float(info.smallest_normal))
    exponent = np.floor(np.log2(np.maximum(size, smallest)))
    unit = np.exp2(exponent) * np.longdouble(float(info.eps))
    error = np.abs(got.astype(np.longdouble) - want) / unit
    return float(error.max(initial=0.0))


def as_rows(result: Any, dtype: Any) -> Array:
    """A number for every row as an array: of a single row of one axis it comes as a bare number."""
    if isinstance(result, np.ndarray) and result.ndim:
        return result
    assert type(result) in (np.float64, int, bool)
    array = np.asarray(result, dtype)
    assert array == result or result != result, "the number is none of that dtype"
    return array


def same_bits(a: Any, b: Any) -> bool:
    x, y = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def run_python(
    code: str, *arguments: str, timeout: float = 240.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in an empty folder, so that nothing is shadowed."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=folder,
            env=env,
            check=False,
        )
