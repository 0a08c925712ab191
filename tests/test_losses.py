"""Losses and gradients against extended precision, for every reduction."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import mpmath
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
    with pytest.raises(TypeError, match=r"int64, but must be probabilities.*sparse_softmax_cross"):
        fastxent.softmax_cross_entropy_with_logits(np.zeros((3, 4), np.int64), logits)
    with pytest.raises(TypeError, match=r"float32, but must be class indices.*softmax_cross"):
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


@pytest.mark.parametrize("large", ["dot", "mass", "dot, with a rising maximum"])
def test_small_contributions_after_a_large_one_are_not_lost(backend: str, large: str) -> None:
    # 300 blocks each add less than half a unit in the last place of the first one's contribution.
    n_classes = 300 * 1024
    logits = np.zeros((1, n_classes))
    probs = np.full((1, n_classes), 3e-4)
    if large == "mass":
        probs[0, 0] = 2.0**58
    else:
        logits[0, 0] = -(2.0**58)
        probs[0, 0] = 1.0
        logits[0, 1:] = -0.3
    if large == "dot, with a rising maximum":
        logits[0, 1:] += 0.07 * (np.arange(1, n_classes) // 1024)
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, probs, reduction="none", backend=backend
    )
    with mpmath.workdps(50):
        x, t = ([mpmath.mpf(value) for value in values[0].tolist()] for values in (logits, probs))
        log_sum = mpmath.log(mpmath.fsum(mpmath.exp(value) for value in x))
        exact = mpmath.fsum(weight * (log_sum - value) for weight, value in zip(t, x, strict=True))
        mass = mpmath.fsum(t)
        part = mass * mpmath.exp(x[-1] - log_sum)
        assert abs(mpmath.mpf(float(losses[0])) - exact) <= 2 * np.spacing(float(exact))
        unit = np.spacing(float(max(part, t[-1])))
        assert abs(mpmath.mpf(float(gradient[0, -1])) - (part - t[-1])) <= 4 * unit


def test_a_late_maximum_keeps_the_digits_of_what_came_before(backend: str) -> None:
    # The rise is not a float64 itself: rounding it would cost some hundred units in the last place.
    rng = np.random.default_rng(5)
    for _ in range(20):
        logits = np.full((1, 1500), -np.inf)
        logits[0, :3] = rng.uniform(0, 1, 3)
        logits[0, 1400] = rng.uniform(300, 690)
        loss = fastxent.cross_entropy(logits, np.array([1400]), backend=backend)
        with mpmath.workdps(50):
            x = [mpmath.mpf(value) for value in logits[0, [0, 1, 2, 1400]].tolist()]
            exact = mpmath.log1p(mpmath.fsum(mpmath.exp(value - x[3]) for value in x[:3]))
            assert abs(mpmath.mpf(float(loss)) - exact) <= 4 * np.spacing(float(exact))


def test_small_losses_after_a_large_one_are_not_lost_from_the_sum(backend: str) -> None:
    n_rows = 200 * 1024
    logits = np.zeros((n_rows, 2))
    logits[0, 1] = 2.0**58
    labels = np.zeros(n_rows, int)
    losses = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
    for reduction, divisor in (("sum", 1), ("mean", n_rows)):
        got = fastxent.cross_entropy(logits, labels, reduction=reduction, backend=backend)
        exact = math.fsum(losses.tolist()) / divisor
        assert abs(got - exact) <= np.spacing(exact)


@pytest.mark.parametrize("exponent", [-1060, -1000, -600, -540, -400, -146, -124, -100, 90, 400])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_targets_of_any_mass_keep_the_digits_of_the_gradient(
    backend: str, dtype: type, exponent: int
) -> None:
    if dtype is np.float32 and not -149 < exponent < 100:
        exponent //= 10
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((20, 5)).astype(dtype)
    probs = np.zeros((20, 5), dtype)
    probs[:, 1] = np.ldexp(dtype(0.7), exponent)
    _, gradient = fastxent.cross_entropy_with_grad(logits, probs, reduction="none", backend=backend)
    wide, mass = logits.astype(np.longdouble), probs.astype(np.longdouble)
    softmax = np.exp(wide - wide.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    parts = mass.sum(1, keepdims=True) * softmax
    larger = np.maximum(parts, mass).astype(dtype)
    assert (abs(gradient - (parts - mass)) <= 4 * np.spacing(larger)).all()


def test_float16_gradients_underflow_and_are_saved_as_the_numerics_page_says() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "numerics.md"
    section = page.read_text(encoding="utf-8").split("## Gradients in 16 bits")[1]
    code = section.split("```python\n")[1].split("```")[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    want = [line.split("# ")[1] for line in code.splitlines() if line.startswith("print(")]
    assert printed.getvalue().split() == want == ["4.25%", "0.00%", "0.00%", "0.00%"]
