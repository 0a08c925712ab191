"""Gradients of any scale: weights, means and temperatures far from 1 cost no digits.

A power of two that multiplies a gradient changes no digit of it. So what comes out for the weight
2^-k must be what comes out for 1, times 2^-k, in every bit, as long as that is a normal number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Array, random_logits, random_probs

import fastxent

N_ROWS = 5
# Rows by themselves and rows in tiles, full and partial blocks.
SHAPES = ((2, 1), (3, 2), (17, 3), (128, 2), (129, 1), (1100, 2))
Call = Callable[..., tuple[Array, ...]]


def gradient(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    return fastxent.cross_entropy_with_grad(logits, labels, **{"reduction": "sum"} | options)[1:]


def label_gradient(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    given = {"reduction": "sum", "grad_labels": labels.dtype.kind == "f"} | options
    return fastxent.cross_entropy_with_grad(logits, labels, **given)[1:]


def grad_hess(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    return fastxent.cross_entropy_grad_hess(logits, labels, hess_factor=2.0, **options)


def hvp(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    vectors = random_logits(logits.shape, logits.dtype, seed=9)
    return (fastxent.cross_entropy_hvp(logits, labels, vectors, **options),)


def shards(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    backend = options.pop("backend")
    ends = {"reduction": "sum"}
    ends |= {name: options.pop(name) for name in ("normalizer", "reduction") if name in options}
    weights = options.pop("class_weight", None)
    has_probs = labels.dtype.kind == "f"
    parts = []
    for span in (slice(0, 1), slice(1, None)):
        own = {} if weights is None else {"class_weight": weights[span]}
        parts.append((logits[:, span], labels[:, span] if has_probs else labels, span.start, own))
    states = [
        fastxent.partial(x, y, class_offset=start, backend=backend, **options, **own)
        for x, y, start, own in parts
    ]
    merged = fastxent.merge(*states)
    return tuple(
        fastxent.finish_grad(merged, x, y, class_offset=start, **ends, **own)
        for x, y, start, own in parts
    )


def divergence(logits: Array, labels: Array, **options: Any) -> tuple[Array, ...]:
    teacher = random_logits(logits.shape, logits.dtype, seed=4)
    given = {"reduction": "sum"} | options
    return fastxent.kl_divergence_with_logits_and_grad(teacher, logits, **given)[1:]


def check_scaled(got: tuple[Array, ...], whole: tuple[Array, ...], exponent: int) -> None:
    """`got` is `whole` times 2^exponent, all of it that is a normal number in every bit."""
    for array, one in zip(got, whole, strict=True):
        info = np.finfo(array.dtype)
        with np.errstate(all="ignore"):
            want = np.ldexp(one.astype(np.longdouble), exponent)
            is_normal = (abs(want) >= info.smallest_normal) & (abs(want) <= info.max)
            narrow = want.astype(array.dtype)
            error = abs(array.astype(np.longdouble) - want)
        assert np.array_equal(array[is_normal], narrow[is_normal]), exponent
        small = abs(want) < info.smallest_normal  # each rounding is one of the last place there
        assert (error[small] <= 4 * float(info.smallest_subnormal)).all(), exponent
        assert not np.isnan(array).any()


def data(dtype: type[Any], n_classes: int, n_rows: int) -> tuple[Array, Array]:
    logits = random_logits((n_rows, n_classes), dtype, seed=n_classes)
    logits[0, 0] = 30  # a confident row
    if n_classes > 2:
        logits[-1, 2] = -np.inf  # a masked class
    return logits, np.arange(n_rows) % 2 * min(n_classes - 1, 1)


def exponents(dtype: type[Any]) -> tuple[int, ...]:
    if dtype is np.float32:
        return (-600, -150, -149, -140, -126, -125, -100, -88, -70, -64, -33, -32, -31, 20, 24)
    return (-1060, -1022, -1000, -780, -600, -513, -512, -400, -258, -257, -256, 60, 90)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [gradient, label_gradient, grad_hess, hvp, shards, divergence])
def test_a_power_of_two_changes_no_digit(function: Call, dtype: type[Any], backend: str) -> None:
    for n_classes, n_rows in SHAPES:
        logits, labels = data(dtype, n_classes, n_rows)
        targets = [labels, random_probs(logits.shape, dtype)]
        measures: list[dict[str, Any]] = [{}, {"label_smoothing": 0.1}]
        if function is divergence:
            targets, measures = [labels], [{"temperature": 1.5}]
        if function in (gradient, label_gradient, shards) and n_classes in (3, 129):
            measures += [{"temperature": 0.7}, {"softcap": 8.0, "z_loss": 0.1}]
        for target in targets:
            for measure in measures:
                given = {"backend": backend, **measure}
                ones = np.ones(n_rows)
                whole = function(logits, target, sample_weight=ones, **given)
                for exponent in exponents(dtype):
                    weight = 2.0**exponent
                    got = function(logits, target, sample_weight=ones * weight, **given)
                    check_scaled(got, whole, exponent)
                    if exponent > -1000:
                        got = function(
                            logits, target, sample_weight=ones * weight * 8.0,
                            normalizer=8.0, reduction="mean", **given,
                        )  # fmt: skip
                        check_scaled(got, whole, exponent)


@pytest.mark.parametrize("rise", [0.0, 4.0, 19.0, 40.0, 230.0])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.25}, {"temperature": 0.5}], ids=str)
def test_a_largest_logit_that_comes_late_costs_no_digits(
    rise: float, options: dict[str, float], backend: str
) -> None:
    # Exponentials are kept for the gradient relative to the largest logit of the blocks so far.
    n_classes = 4 * 1024 + 907
    logits = np.random.default_rng(5).standard_normal((2, n_classes)).astype(np.float32)
    logits += np.float32(rise) * (np.arange(n_classes) // 1024).astype(np.float32)
    labels = np.array([1, n_classes - 1])
    (ours,) = gradient(logits, labels, backend=backend, **options)
    for exponent in (-40, -31, 20):
        weights = np.full(2, 2.0**exponent)
        (scaled,) = gradient(logits, labels, backend=backend, sample_weight=weights, **options)
        expected = np.ldexp(ours, exponent)
        normal = np.minimum(np.abs(ours), np.abs(expected)) >= np.finfo(np.float32).tiny
        np.testing.assert_array_equal(scaled[normal], expected[normal])
    exact = logits.astype(np.longdouble) / np.longdouble(options.get("temperature", 1.0))
    exact = np.exp(exact - exact.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    smoothing = options.get("label_smoothing", 0.0)
    part = np.full_like(exact, smoothing / n_classes)
    part[np.arange(2), labels] += 1.0 - smoothing
    scale = np.longdouble(1.0 / options.get("temperature", 1.0))
    wanted = (exact - part) * scale
    size = np.maximum(exact, part) * scale
    away = size >= np.finfo(np.float32).tiny
    assert np.max(np.abs(ours - wanted)[away] / size[away]) < 4 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_classes_and_rows_and_normalizers_multiply(
    dtype: type[Any], backend: str
) -> None:
    for n_classes, n_rows in SHAPES:
        logits, labels = data(dtype, n_classes, n_rows)
        weights = np.random.default_rng(3).uniform(0.5, 2, n_classes)
        ones = np.ones(n_rows)
        for target in (labels, random_probs(logits.shape, dtype)):
            for function in (gradient, grad_hess, hvp, shards):
                given = {"label_smoothing": 0.2, "backend": backend}
                whole = function(logits, target, class_weight=weights, sample_weight=ones, **given)
                for own, other, divisor in (
                    (-100, 0, 0), (-90, 0, 10), (-60, -60, 0), (90, -150, 0), (90, -300, -100),
                    (-90, 0, -90), (0, -900, -950), (60, 0, 1010), (0, 90, 90), (-100, 90, 0),
                    (-120, 60, -40), (30, 60, 0), (60, 60, 0),
                ):  # fmt: skip
                    got = function(
                        logits, target, class_weight=np.ldexp(weights, own),
                        sample_weight=np.ldexp(ones, other), normalizer=2.0**divisor,
                        reduction="mean", **given,
                    )  # fmt: skip
                    check_scaled(got, whole, own + other - divisor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_temperature_of_any_size_keeps_the_digits(dtype: type[Any], backend: str) -> None:
    for n_classes, n_rows in SHAPES:
        logits, labels = data(dtype, n_classes, n_rows)
        whole = gradient(logits * dtype(2), labels, temperature=2.0, backend=backend)
        for exponent in (-60, -20, 40, 64, 90, 99):
            hot = np.ldexp(logits, exponent)
            got = gradient(hot, labels, temperature=2.0**exponent, backend=backend)
            check_scaled(got, whole, 1 - exponent)


def test_small_gradients_are_right(backend: str) -> None:
    def of(logits: Any, label: int, dtype: Any = np.float32, **options: Any) -> Array:
        given = {"reduction": "sum", "backend": backend} | options
        x = np.array([logits], dtype)
        return fastxent.cross_entropy_with_grad(x, np.array([label]), **given)[1][0]

    def agree(got: Array, want: list[float]) -> None:
        tolerance = 5e-7 if got.dtype == np.float32 else 2e-12
        np.testing.assert_allclose(got, np.array(want), tolerance)

    agree(of([0, 1], 1, sample_weight=[1e-22]), [2.6894142137e-23, -2.6894142137e-23])
    agree(of([0, 1], 1, sample_weight=[1e-28]), [2.6894142137e-29, -2.6894142137e-29])
    agree(of([0, 1], 1, class_weight=[1e-28, 1e-28]), [2.6894142137e-29, -2.6894142137e-29])
    agree(
        of([0, 1, 2], 1, normalizer=1e28, reduction="mean"),
        [9.00305732e-30, -7.55271529e-29, 6.65240956e-29],
    )
    agree(
        of([0, 1, 2], 1, temperature=1e28),
        [3.33333333e-29, -6.66666667e-29, 3.33333333e-29],
    )
    agree(
        of([0, 1, 2], 1, sample_weight=[1e-28], label_smoothing=0.1),
        [5.6697239837e-30, -6.88604862279e-29, 6.31907622441e-29],
    )
    agree(
        of([0, 1, 2], 1, np.float64, sample_weight=[1e-170]),
        [9.00305731704e-172, -7.55271528945e-171, 6.65240955775e-171],
    )
    product = fastxent.cross_entropy_hvp(
        np.float32([[0, 1, 2]]), np.array([1]), np.float32([[1, 0, 0]]), sample_weight=[1e-28],
        backend=backend,
    )[0]  # fmt: skip
    agree(product, [8.1925069065e-30, -2.20330445202e-30, -5.98920245448e-30])
    logits = np.zeros((1, 128), np.float32)
    logits[0, 0] = 2
    found = gradient(
        logits, np.full((1, 128), 1 / 128, np.float32), sample_weight=[1e-28], backend=backend
    )[0][0]
    # the second is the difference of two numbers close to each other, and has the errors of both
    np.testing.assert_allclose(found[0], 4.717007309e-30, 5e-7)
    np.testing.assert_allclose(found[1:], -3.714178983e-32, 5e-6)


def test_a_mean_over_very_different_weights_keeps_every_row(backend: str) -> None:
    logits = np.float32([[0, 1], [0, 1]])
    loss, found = fastxent.cross_entropy_with_grad(
        logits, np.array([1, 1]), sample_weight=[1.0, 1e-28], backend=backend
    )
    np.testing.assert_allclose(found[0], [0.26894142137, -0.26894142137], 5e-7)
    np.testing.assert_allclose(found[1], [2.6894142137e-29, -2.6894142137e-29], 5e-7)
    np.testing.assert_allclose(loss, 0.31326168751822, 1e-7)


def test_weights_at_the_ends_of_the_range(backend: str) -> None:
    def of(logits: Array, **options: Any) -> Array:
        given = {"backend": backend} | options
        return fastxent.cross_entropy_with_grad(logits, np.array([0]), **given)[1][0]

    row = np.array([[2.0, 1.0, -np.inf]])
    share = 0.26894142136999512
    np.testing.assert_allclose(of(row, sample_weight=[5.5e-309]), [-share, share, 0], 4e-16)
    assert of(row, normalizer=1e-310).tolist() == [-np.inf, np.inf, 0]
    assert of(row, normalizer=1e-310, label_smoothing=0.1)[2] == 0
    assert of(row.astype(np.float32), normalizer=1e-310).tolist() == [-np.inf, np.inf, 0]
    heavy = {"class_weight": [1e30, 1, 1], "sample_weight": [1e30], "reduction": "sum"}
    found = of(np.float32([[80, 0, -np.inf]]), **heavy)
    np.testing.assert_allclose(found, [-1.80485139e25, 1.80485139e25, 0], 3e-7)
    # the same among many classes, with each option, and where all is beyond the range
    for n_classes in (3, 129):
        logits = np.full((1, n_classes), -np.inf, np.float32)
        logits[0, :2] = [80, 0]
        weights = np.ones(n_classes)
        weights[0] = 1e30
        for extra in ({}, {"label_smoothing": 0.1}, {"z_loss": 1.0}, {"normalizer": 1e-300}):
            given = {**heavy, "class_weight": weights, **extra}
            if "normalizer" in extra:
                given["reduction"] = "mean"
            found = of(logits, **given)
            assert not np.isnan(found).any()
            assert (found[2:] == 0).all()


def test_losses_of_tiny_weights_keep_their_digits_in_a_mean(backend: str) -> None:
    row, label = np.array([[2.0, 1.0, -np.inf], [40.0, 1.0, -np.inf]]), np.array([0, 0])
    exact = np.log1p(np.exp([-1.0, -39.0])).mean()
    for weight in (1e-300, 5.5e-309, 3e-320):
        options = {"sample_weight": [weight, weight], "backend": backend}
        loss = fastxent.cross_entropy(row, label, **options)
        np.testing.assert_allclose(loss, exact, 1e-15)
        shards = [
            fastxent.partial(row[:, span], label, class_offset=span.start, **options)
            for span in (slice(0, 1), slice(1, 3))
        ]
        np.testing.assert_allclose(fastxent.finish(fastxent.merge(*shards)), exact, 1e-15)
        confident = fastxent.cross_entropy(
            row[1:], label[1:], sample_weight=[weight], backend=backend
        )
        np.testing.assert_allclose(confident, np.log1p(np.exp(-39.0)), 1e-15)


def test_weights_normalizers_and_temperatures_far_apart_meet(backend: str) -> None:
    def of(logits: Any, dtype: Any, **options: Any) -> Array:
        x = np.array([logits], np.float64) * options.get("temperature", 1.0)
        given = {"reduction": "sum", "backend": backend} | options
        return fastxent.cross_entropy_with_grad(x.astype(dtype), np.array([0]), **given)[1][0]

    parts = np.array([-0.3347590442, 0.2447284711, 0.0900305732])
    hot = of([2, 1, 0], np.float64, temperature=1e30, sample_weight=[1e30], normalizer=1e300)
    np.testing.assert_allclose(hot, parts * 1e-300, 1e-9)
    cold = {"temperature": 1e-30, "sample_weight": [1e-300], "normalizer": 1e-300}
    np.testing.assert_allclose(of([2, 1, 0], np.float32, **cold), parts * 1e30, 5e-7)
    opposite = {"class_weight": [1e-37] * 2, "sample_weight": [1e30]}
    share = np.exp(-60.5) * 1e-7
    got = of([60, -0.5], np.float32, **opposite)
    np.testing.assert_allclose(got, [-share, share], 5e-7)
    share = np.exp(-50.0) * 1e23
    got = of([0, -50], np.float32, class_weight=[1e-37] * 2, normalizer=1e-60)
    np.testing.assert_allclose(got, [-share, share], 5e-7)
    for n_classes in (2, 300):
        heavy = {"class_weight": np.full(n_classes, 9e29), "sample_weight": [1e30]}
        got = of([1.0] + [0.0] * (n_classes - 1), np.float32, **heavy)
        assert got[0] == -np.inf
        assert (got[1:] == np.inf).all()


def test_a_mass_that_underflows_has_no_curvature(backend: str) -> None:
    product = fastxent.cross_entropy_hvp(
        np.zeros((1, 5)), np.array([0]), np.ones((1, 5)), class_weight=[5e-324, 0, 0, 0, 0],
        label_smoothing=0.5, backend=backend,
    )  # fmt: skip
    assert (product == 0).all()


def test_tiny_weights_of_both_kinds_are_not_nothing(backend: str) -> None:
    options = {"class_weight": [1e-250] * 2, "sample_weight": [1e-80] * 2, "backend": backend}
    logits, labels = np.zeros((2, 2)), np.array([0, 1])
    loss, found = fastxent.cross_entropy_with_grad(logits, labels, empty="raise", **options)
    np.testing.assert_allclose(loss, np.log(2), 1e-15)
    np.testing.assert_allclose(found, [[-0.25, 0.25], [0.25, -0.25]], 1e-15)
    state = fastxent.partial(logits, labels, **options)
    np.testing.assert_allclose(fastxent.finish_grad(
        state, logits, labels, class_weight=[1e-250] * 2
    ), found, 1e-15)  # fmt: skip
