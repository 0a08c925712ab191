"""Tiles: few classes, a row in each lane, wherever the classes lie in memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from support import BFLOAT16, Array, exact_cross_entropy, random_logits, same_bits, ulps

import fastxent
from fastxent.backends.context import LANE_CLASSES

CLASSES = (*range(1, 19), 31, 32, 33, 100, LANE_CLASSES - 1, LANE_CLASSES, LANE_CLASSES + 1)


def labels_of(shape: tuple[int, ...], n_classes: int) -> Array:
    return np.random.default_rng(2).integers(0, n_classes, shape)


def errors(logits: Array, labels: Array, losses: Array, gradients: Array) -> tuple[float, float]:
    """The largest errors in ULP, with the classes along the last axis."""
    exact_losses, exact_gradients = exact_cross_entropy(logits, labels)
    return (
        ulps(losses, exact_losses, np.float32),
        ulps(gradients, exact_gradients, np.float32),
    )


@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("scale", [3.0, 30.0])
def test_every_number_of_classes_keeps_its_digits(
    backend: str, n_classes: int, scale: float
) -> None:
    # Numba's tiles have up to 256 rows, 64 of 128 classes
    for n_rows in (1, 15, 16, 37, 300):
        logits = random_logits((n_rows, n_classes), seed=n_classes, scale=scale)
        labels = labels_of((n_rows,), n_classes)
        losses, gradients = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend
        )
        loss_error, gradient_error = errors(logits, labels, losses, gradients)
        assert loss_error <= 2
        assert gradient_error <= 4


@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("n_inner", [2, 16, 21])
def test_classes_along_the_second_axis_of_three(backend: str, n_classes: int, n_inner: int) -> None:
    logits = random_logits((3, n_classes, n_inner))
    labels = labels_of((3, n_inner), n_classes)
    losses, gradients = fastxent.cross_entropy_with_grad(
        logits, labels, axis=1, reduction="none", backend=backend
    )
    last = np.ascontiguousarray(np.moveaxis(logits, 1, -1))
    loss_error, gradient_error = errors(last, labels, losses, np.moveaxis(gradients, 1, -1))
    assert loss_error <= 2
    assert gradient_error <= 4
    assert same_bits(
        losses, fastxent.cross_entropy(logits, labels, axis=1, reduction="none", backend=backend)
    )
    for function in (fastxent.softmax, fastxent.log_softmax):
        expected = function(last, backend=backend)
        found = function(logits, axis=1, backend=backend)
        np.testing.assert_allclose(found, np.moveaxis(expected, -1, 1), rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("layout", ["last", "first", "middle", "fortran"])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32], ids=str)
@pytest.mark.parametrize("n_classes", [10, LANE_CLASSES, LANE_CLASSES + 1, 300])
def test_the_bits_are_the_same_however_the_classes_lie(
    backend: str, layout: str, dtype: Any, n_classes: int
) -> None:
    plain = random_logits((6, 4, n_classes), dtype)
    labels = labels_of((6, 4), n_classes)
    losses, gradients = fastxent.cross_entropy_with_grad(
        plain, labels, reduction="none", backend=backend
    )
    logits, axis, other_labels = {
        "last": (plain, -1, labels),
        "first": (np.ascontiguousarray(np.moveaxis(plain, -1, 0)), 0, labels),
        "middle": (np.ascontiguousarray(np.moveaxis(plain, -1, 1)), 1, labels),
        "fortran": (np.asfortranarray(plain.reshape(24, n_classes)), 1, labels.reshape(24)),
    }[layout]
    found_losses, found_gradients = fastxent.cross_entropy_with_grad(
        logits, other_labels, axis=axis, reduction="none", backend=backend
    )
    assert same_bits(found_losses.reshape(6, 4), losses)
    assert same_bits(np.moveaxis(found_gradients, axis, -1).reshape(plain.shape), gradients)
    given = np.empty_like(logits)
    returned = fastxent.cross_entropy_with_grad(
        logits, other_labels, axis=axis, reduction="none", backend=backend, out=given
    )[1]
    assert returned is given
    assert same_bits(given, found_gradients)


@pytest.mark.usefixtures("eager_threads")
def test_a_rows_bits_do_not_depend_on_its_neighbours(backend: str) -> None:
    for shape, axis in (((50, 7), 1), ((2, 7, 50), 1)):
        logits = random_logits(shape)
        labels = labels_of((50,) if len(shape) == 2 else (2, 50), 7)
        whole = fastxent.cross_entropy_with_grad(
            logits, labels, axis=axis, reduction="none", backend=backend, n_threads=2
        )
        for start, stop in ((0, 1), (3, 20), (17, 50)):
            place = (..., slice(start, stop)) if len(shape) == 3 else slice(start, stop)
            part = fastxent.cross_entropy_with_grad(
                np.ascontiguousarray(logits[place]),
                np.ascontiguousarray(labels[..., start:stop]),
                axis=axis,
                reduction="none",
                backend=backend,
            )
            assert same_bits(part[0], np.ascontiguousarray(whole[0][..., start:stop]))
            assert same_bits(part[1], np.ascontiguousarray(whole[1][place]))


def test_what_is_wrong_with_a_row_stays_in_its_lane(backend: str) -> None:
    logits = random_logits((20, 9))
    labels = labels_of((20,), 9)
    clean = fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend)
    spoilt = logits.copy()
    spoilt[3, 4], spoilt[5], spoilt[7, 1] = np.nan, -np.inf, np.inf
    spoilt[11], labels[11] = np.nan, -100
    losses, gradients = fastxent.cross_entropy_with_grad(
        spoilt, labels, ignore_index=-100, reduction="none", backend=backend
    )
    for row in (3, 5, 7):
        assert np.isnan(losses[row])
        assert np.isnan(gradients[row]).all()
    assert losses[11] == 0
    assert (gradients[11] == 0).all()
    others = [row for row in range(20) if row not in (3, 5, 7, 11)]
    assert same_bits(losses[others], clean[0][others])
    assert same_bits(gradients[others], clean[1][others])
    values = fastxent.logsumexp(spoilt, backend=backend)
    assert np.isnan(values[[3, 11]]).all()
    assert values[5] == -np.inf
    assert values[7] == np.inf


def test_a_masked_class_costs_nothing_and_far_logits_keep_their_digits(backend: str) -> None:
    logits = random_logits((16, 5))
    logits[:, 2] = -np.inf
    losses, gradients = fastxent.cross_entropy_with_grad(
        logits, np.ones(16, int), reduction="none", backend=backend
    )
    assert (gradients[:, 2] == 0).all()
    kept = np.delete(logits, 2, axis=1)
    loss_error, _ = errors(kept, np.ones(16, int), losses, np.delete(gradients, 2, axis=1))
    assert loss_error <= 2
    for offset in (-30000.0, 300.0, 30000.0):
        moved = (random_logits((16, 5)).astype(np.float16) + np.float32(offset)).astype(np.float32)
        losses, gradients = fastxent.cross_entropy_with_grad(
            moved, np.ones(16, int), reduction="none", backend=backend
        )
        loss_error, gradient_error = errors(moved, np.ones(16, int), losses, gradients)
        assert loss_error <= 2
        assert gradient_error <= 4


def test_a_confident_row_keeps_the_digits_of_its_loss(backend: str) -> None:
    losses, gradients = fastxent.cross_entropy_with_grad(
        np.array([[40.0, 0.0], [90.0, 0.0]], np.float32), [0, 0], reduction="none", backend=backend
    )
    np.testing.assert_allclose(losses, [4.248354255e-18, 8.194012624e-40], rtol=1e-6)
    np.testing.assert_allclose(gradients[:, 1], losses, rtol=1e-6)


def test_classes_along_another_axis_are_not_copied(backend: str) -> None:
    logits = random_logits((4, 21, 64, 64))
    labels = labels_of((4, 64, 64), 21)
    out = np.empty_like(logits)

    def call() -> None:
        fastxent.cross_entropy_with_grad(logits, labels, axis=1, out=out, backend=backend)

    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes / 10


def test_nothing_is_written_outside_a_padded_output(backend: str) -> None:
    memory = np.full((37, 24), 7, np.float32)
    logits = random_logits((37, 10))
    out = memory[:, 5:15]
    fastxent.cross_entropy_with_grad(logits, labels_of((37,), 10), out=out, backend=backend)
    assert (memory[:, :5] == 7).all()
    assert (memory[:, 15:] == 7).all()
    assert not (out == 7).any()


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32], ids=str)
@pytest.mark.parametrize("n_classes", [1, 2])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_rows_may_lie_any_distance_apart_even_of_one_class(
    backend: str, dtype: Any, n_classes: int, step: int
) -> None:
    memory = random_logits((40, 3), dtype)
    rows = memory[::step, :n_classes]
    packed = np.ascontiguousarray(rows)
    labels = np.zeros(len(rows), int)
    assert same_bits(
        fastxent.logsumexp(rows, backend=backend), fastxent.logsumexp(packed, backend=backend)
    )
    expected = fastxent.cross_entropy_with_grad(packed, labels, reduction="none", backend=backend)
    around = np.full((40, 3), 7, dtype)
    out = around[::step, :n_classes]
    losses, gradient = fastxent.cross_entropy_with_grad(
        rows, labels, reduction="none", backend=backend, out=out
    )
    assert gradient is out
    assert same_bits(losses, expected[0])
    assert same_bits(gradient, expected[1])
    out[...] = 7
    assert (around == 7).all()


def test_windows_that_slide_over_the_same_memory_are_rows(backend: str) -> None:
    windows = np.lib.stride_tricks.sliding_window_view(random_logits((30,)), 10)
    assert same_bits(
        fastxent.softmax(windows, backend=backend),
        fastxent.softmax(windows.copy(), backend=backend),
    )
    column = np.broadcast_to(np.float32(3), (20, 1))
    assert (fastxent.logsumexp(column, backend=backend) == 3).all()


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (0, 4)])
def test_an_empty_batch_with_classes_along_any_axis(backend: str, shape: tuple[int, ...]) -> None:
    logits = np.ones(shape, np.float32)
    rows = shape[:1] + shape[2:]
    for out in (None, np.empty_like(logits)):
        loss, gradient = fastxent.cross_entropy_with_grad(
            logits, np.zeros(rows, int), axis=1, reduction="sum", backend=backend, out=out
        )
        assert loss == 0
        assert gradient.shape == shape
    assert fastxent.softmax(logits, axis=1, backend=backend).shape == shape
    assert fastxent.logsumexp(logits, axis=1, backend=backend).shape == rows
