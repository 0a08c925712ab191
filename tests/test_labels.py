"""Every kind of label, and ignored rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import BFLOAT16, FLOATS, exact_cross_entropy, random_logits, random_probs, same_bits

import fastxent

INTEGERS = ("i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4")
INTEGERS_64 = ("<i8", ">i8", "<u8", ">u8")


@pytest.mark.parametrize("dtype", [*INTEGERS, *INTEGERS_64])
def test_every_integer_dtype_is_a_label(backend: str, dtype: str) -> None:
    logits = random_logits((6, 7))
    labels = np.array([0, 6, 3, 1, 5, 2])
    want = fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend)
    got = fastxent.cross_entropy_with_grad(
        logits, labels.astype(dtype), reduction="none", backend=backend
    )
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])


def test_strided_read_only_and_misaligned_labels_are_read_right(backend: str) -> None:
    logits = random_logits((6, 7))
    labels = np.array([0, 6, 3, 1, 5, 2])
    want = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
    doubled = np.repeat(labels, 2)[::2]
    reversed_labels = labels[::-1].copy()[::-1]
    memory = np.zeros(6 * 8 + 1, np.uint8)
    misaligned = memory[1:].view(np.int64)
    misaligned[...] = labels
    frozen = labels.copy()
    frozen.flags.writeable = False
    for variant in (doubled, reversed_labels, misaligned, frozen):
        got = fastxent.cross_entropy(logits, variant, reduction="none", backend=backend)
        assert same_bits(got, want)
    repeated = fastxent.cross_entropy(
        logits, np.broadcast_to(np.int64(3), 6), reduction="none", backend=backend
    )
    assert same_bits(
        repeated, fastxent.cross_entropy(logits, [3] * 6, reduction="none", backend=backend)
    )


def test_python_lists_and_numbers_are_labels(backend: str) -> None:
    logits = random_logits((2, 3))
    want = fastxent.cross_entropy(logits, np.array([2, 0]), backend=backend)
    assert fastxent.cross_entropy(logits, [2, 0], backend=backend) == want
    one = fastxent.cross_entropy(logits[0], 2, reduction="none", backend=backend)
    assert one.shape == ()
    assert one == fastxent.cross_entropy(logits, [2, 0], reduction="none", backend=backend)[0]


def test_a_0_dimensional_label_goes_with_1_dimensional_logits(backend: str) -> None:
    logits = random_logits((5,))
    for label in (np.array(4), np.int8(4)):
        for reduction in ("none", "sum", "mean"):
            loss, gradient = fastxent.cross_entropy_with_grad(
                logits, label, reduction=reduction, backend=backend
            )
            assert np.shape(loss) == ()
            assert gradient.shape == (5,)
            exact_loss, exact_gradient = exact_cross_entropy(logits[None], np.array([4]))
            assert np.isclose(float(loss), float(exact_loss[0]), rtol=1e-6)
            assert np.allclose(gradient, exact_gradient[0].astype(float), rtol=1e-5)


@pytest.mark.parametrize("logits_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype(">f4"), np.dtype(">f8")], ids=str)
def test_probabilities_of_every_float_dtype(
    backend: str, logits_dtype: np.dtype[Any], dtype: np.dtype[Any]
) -> None:
    logits = random_logits((4, 45), logits_dtype)
    labels = random_probs((4, 45), BFLOAT16).astype(dtype)
    got = fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend)
    exact_losses, exact_gradient = exact_cross_entropy(logits, labels)
    bound = 1e-14 if logits_dtype.itemsize == 8 else 5e-7
    assert np.abs(got[0] / exact_losses - 1).max() < bound
    coarse = {2: 1e-2, 4: 1e-6, 8: 1e-15}[logits_dtype.itemsize]
    assert np.abs(got[1].astype(np.longdouble) - exact_gradient).max() < coarse


def test_strided_and_read_only_probabilities_are_read_right(backend: str) -> None:
    logits = random_logits((4, 9))
    labels = random_probs((4, 9))
    want = fastxent.cross_entropy(logits, labels, backend=backend)
    memory = np.zeros(labels.nbytes + 1, np.uint8)
    misaligned = memory[1:].view(np.float32).reshape(4, 9)
    misaligned[...] = labels
    for variant in (
        np.asfortranarray(labels),
        np.repeat(np.repeat(labels, 2, 0), 3, 1)[::2, ::3],
        labels[::-1, ::-1].copy()[::-1, ::-1],
        misaligned,
    ):
        assert fastxent.cross_entropy(logits, variant, backend=backend) == want
    row = np.broadcast_to(labels[0], (4, 9))
    assert fastxent.cross_entropy(logits, row, backend=backend) == fastxent.cross_entropy(
        logits, row.copy(), backend=backend
    )


def test_ignored_rows_get_zero_loss_and_zero_grad_whatever_they_hold(backend: str) -> None:
    logits = random_logits((5, 2000))
    labels = np.array([3, -100, 1999, -100, 0])
    logits[1] = np.nan
    logits[3, ::2] = np.inf
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, ignore_index=-100, reduction="none", backend=backend
    )
    kept = [0, 2, 4]
    want = fastxent.cross_entropy_with_grad(
        logits[kept], labels[kept], reduction="none", backend=backend
    )
    assert same_bits(losses[kept], want[0])
    assert same_bits(gradient[kept], want[1])
    assert not losses[[1, 3]].any()
    assert not gradient[[1, 3]].any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mean_divides_by_the_rows_not_ignored(backend: str, dtype: np.dtype[Any]) -> None:
    logits = random_logits((6, 5), dtype)
    labels = np.array([0, 9, 4, 9, 2, 1])
    kept = labels != 9
    options: dict[str, Any] = {"ignore_index": 9, "backend": backend}
    mean, gradient = fastxent.cross_entropy_with_grad(logits, labels, **options)
    want, want_gradient = fastxent.cross_entropy_with_grad(
        logits[kept], labels[kept], backend=backend
    )
    assert np.isclose(mean, want, rtol=1e-15)
    assert same_bits(gradient[kept], want_gradient)
    total = fastxent.cross_entropy(logits, labels, reduction="sum", **options)
    assert mean == total / 4


def test_mean_over_no_row_is_nan_with_zero_gradient(backend: str) -> None:
    logits = random_logits((3, 4))
    mean, gradient = fastxent.cross_entropy_with_grad(
        logits, np.full(3, -100), ignore_index=-100, backend=backend
    )
    assert np.isnan(mean)
    assert not gradient.any()
    total, _ = fastxent.cross_entropy_with_grad(
        logits, np.full(3, -100), ignore_index=-100, reduction="sum", backend=backend
    )
    assert total == 0


def test_ignore_index_may_be_a_class(backend: str) -> None:
    logits = random_logits((4, 3))
    labels = np.array([0, 1, 2, 1])
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, ignore_index=1, reduction="none", backend=backend
    )
    assert (losses == 0).tolist() == [False, True, False, True]
    assert (gradient == 0).all(1).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("dtype", "index"),
    [
        (np.int8, -128),
        (np.uint8, 255),
        (np.int64, -(2**63)),
        (np.int64, 2**63 - 1),
        (np.uint64, 2**64 - 1),
        (np.uint64, 2**63),
    ],
)
def test_any_label_that_the_dtype_holds_may_be_ignored(
    backend: str, dtype: Any, index: int
) -> None:
    logits = random_logits((2, 3))
    labels = np.array([2, index], dtype)
    losses = fastxent.cross_entropy(
        logits, labels, ignore_index=index, reduction="none", backend=backend
    )
    assert losses[0] > 0
    assert losses[1] == 0


def test_an_unsigned_label_is_never_taken_for_another_ignored_one(backend: str) -> None:
    labels = np.array([0, 2**64 - 1], np.uint64)
    for index in (-1, 2**63 - 1):
        with pytest.raises(ValueError, match=r"labels\[1\] is 18446744073709551615"):
            fastxent.cross_entropy(
                random_logits((2, 3)), labels, ignore_index=index, backend=backend
            )


def test_an_empty_array_is_the_labels_of_an_empty_batch_whatever_its_dtype(backend: str) -> None:
    for labels in (
        [],
        np.array([]),
        np.array([], object),
        np.array([], bool),
        np.empty(0, np.int8),
    ):
        for logits in (np.empty((0, 3)), np.empty((0, 3), np.float32)):
            losses, gradient = fastxent.cross_entropy_with_grad(
                logits, labels, reduction="none", ignore_index=-100, backend=backend
            )
            assert losses.shape == (0,)
            assert gradient.shape == (0, 3)
            assert np.isnan(fastxent.cross_entropy(logits, labels, backend=backend))
            same = fastxent.sparse_softmax_cross_entropy_with_logits(
                labels, logits, backend=backend
            )
            assert same.shape == (0,)
    for labels in ([[], []], np.empty((2, 0))):
        losses = fastxent.cross_entropy(
            np.empty((2, 0, 3)), labels, reduction="none", backend=backend
        )
        assert losses.shape == (2, 0)
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        fastxent.cross_entropy(random_logits((2, 3)), np.array([]), backend=backend)


def test_missing_labels_are_left_out_as_their_error_says(backend: str) -> None:
    logits = random_logits((3, 4))
    labels = np.array([1.0, np.nan, 3.0])
    with pytest.raises(
        ValueError, match=r"np\.nan_to_num\(labels, nan=-100\)\.astype\(np\.int64\)"
    ):
        fastxent.cross_entropy(logits, labels, backend=backend)
    losses = fastxent.cross_entropy(
        logits, np.nan_to_num(labels, nan=-100).astype(np.int64), ignore_index=-100,
        reduction="none", backend=backend,
    )  # fmt: skip
    assert (losses > 0).tolist() == [True, False, True]
