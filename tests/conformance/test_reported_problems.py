"""What users of other libraries reported: a test for every thread, so that it cannot happen here.

A thread is named as repository#number, on GitHub. References are in extended precision (mpmath, or
NumPy's longdouble where there is much to add) and share nothing with fastxent.
"""

from __future__ import annotations

import io
import mmap
import re
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from mpmath import MPContext
from peers import peer
from support import (
    BFLOAT16,
    FLOATS,
    Array,
    exact_cross_entropy,
    exact_softmax,
    loss_dtype,
    random_logits,
    random_probs,
    same_bits,
    ulps,
)

import fastxent

THREADS: dict[str, str] = {
    # digits
    "scipy/scipy#19521": "test_the_log_probability_of_a_certain_class_keeps_its_digits",
    "pytorch/pytorch#113708": "test_a_confident_row_keeps_its_loss_and_its_gradient",
    "google-deepmind/optax#1792": "test_a_shared_offset_does_not_change_the_loss",
    "ml-explore/mlx#4169": "test_equal_logits_share_the_probability_at_any_size",
    "pytorch/pytorch#55657": "test_the_mean_over_a_large_batch_does_not_drift",
    "google-deepmind/optax#1020": "test_losses_of_bfloat16_logits_are_not_quantised",
    "pytorch/executorch#20089": "test_sums_of_many_16_bit_terms_do_not_stick",
    "pytorch/pytorch#158310": "test_half_precision_logits_far_below_zero_stay_finite",
    # masks
    "google-deepmind/optax#896": "test_a_masked_class_without_mass_costs_nothing",
    "google-deepmind/optax#1762": "test_derivatives_at_masked_classes_are_zero_and_not_nan",
    "Dao-AILab/flash-attention#1930": "test_a_row_may_begin_with_any_number_of_masked_classes",
    "pytorch/pytorch#11551": "test_what_an_ignored_row_holds_reaches_no_gradient",
    # means
    "pytorch/pytorch#70348": "test_a_mean_over_ignored_rows_alone_is_nan_or_zero_as_asked",
    "pytorch/pytorch#75181": "test_a_mean_over_nothing_can_be_an_error_that_writes_nothing",
    "pytorch/pytorch#116349": "test_every_reduction_of_ignored_rows_alone_is_what_it_says",
    "pytorch/pytorch#61309": "test_a_weighted_mean_divides_by_what_the_caller_names",
    "pytorch/pytorch#107680": "test_labels_and_one_hot_agree_where_the_divisor_is_named",
    "pytorch/pytorch#69339": "test_weights_smoothing_and_ignored_rows_work_together",
    "pytorch/pytorch#73205": "test_ignored_rows_add_nothing_to_the_uniform_part_of_smoothing",
    "pytorch/pytorch#91383": "test_no_weight_is_looked_up_for_an_ignored_label",
    "linkedin/Liger-Kernel#404": "test_every_row_can_have_a_weight_of_its_own",
    # labels
    "pytorch/pytorch#45540": "test_labels_of_any_integer_type_give_the_same_bits",
    "pytorch/pytorch#59765": "test_a_byte_label_of_255_is_a_class_and_not_minus_one",
    "google-deepmind/optax#1185": "test_a_label_that_is_no_class_is_an_error_and_not_nan",
    "tensorflow/tensorflow#8484": "test_a_wrong_label_is_the_same_error_however_it_is_computed",
    "pytorch/pytorch#194802": "test_a_wrong_label_writes_nothing_anywhere",
    # inputs
    "pytorch/pytorch#110285": "test_bfloat16_tensors_are_logits_without_a_conversion",
    "jax-ml/ml_dtypes#41": "test_bfloat16_that_a_file_gave_back_as_raw_memory_is_recognised",
    "scikit-learn/scikit-learn#25953": "test_nullable_labels_and_scores_are_taken_as_they_are",
    "Chumsy0725/logit-adj-pytorch#2": "test_class_weights_sorted_by_frequency_reach_their_classes",
    # sizes
    "pytorch/pytorch#111484": "test_rows_beyond_four_billion_elements_have_the_right_losses",
    "pytorch/pytorch#84144": "test_softmax_of_rows_beyond_four_billion_elements_is_right",
    "pytorch/pytorch#190184": "test_class_planes_beyond_two_billion_elements_are_addressed_right",
    "pytorch/pytorch#124480": "test_the_loss_needs_a_part_of_the_logits_at_a_time",
    "jax-ml/jax#35915": "test_the_gradient_needs_a_part_of_the_logits_at_a_time",
    "pytorch/pytorch#76279": "test_a_few_long_rows_have_the_same_bits_with_any_number_of_threads",
    "pytorch/pytorch#34728": "test_any_class_axis_gives_the_same_numbers",
    "pytorch/pytorch#64726": "test_log_softmax_along_a_middle_axis_gives_the_same_numbers",
    # results
    "linkedin/Liger-Kernel#551": "test_entropy_and_log_probabilities_come_with_the_loss",
    "pytorch/torchtitan#3848": "test_entropy_is_exact_for_confident_masked_and_shifted_rows",
    "linkedin/Liger-Kernel#1251": "test_no_call_changes_what_it_was_given",
    "linkedin/Liger-Kernel#1298": "test_a_gradient_a_row_can_be_scaled_a_row",
    # boosting
    "lightgbm-org/LightGBM#6013": "test_gradient_and_hessian_take_probabilities_as_labels",
    "dmlc/xgboost#3861": "test_every_row_can_have_its_own_probabilities_and_weight",
    "lightgbm-org/LightGBM#1308": "test_newton_steps_find_the_frequencies_of_the_classes",
    "lightgbm-org/LightGBM#4659": "test_raw_scores_give_hessians_that_are_never_negative",
    "lightgbm-org/LightGBM#5839": "test_scores_that_lie_class_after_class_need_only_the_axis",
    "lightgbm-org/LightGBM#6219": "test_the_hessian_factor_and_the_first_scores_are_those_built_in",
}

_INFINITY = np.inf
_MP = MPContext()
_MP.dps = 400  # 1 + exp(-700) must not be 1

LOSS_ULP = {2: 2, 4: 2, 8: 4}
GRADIENT_ULP = {2: 1, 4: 4, 8: 4}


class Exact(NamedTuple):
    """In longdouble, each from 400 digits."""

    losses: Array
    gradient: Array
    probs: Array
    scale: Array  # of a gradient: the larger of its two terms


def _longdouble(values: list[Any], shape: tuple[int, ...]) -> Array:
    tiny = _MP.mpf("1e-4900")  # below it longdouble has only 0
    flat = [np.longdouble(_MP.nstr(v if abs(v) > tiny else _MP.mpf(0), 25)) for v in values]
    return np.array(flat, np.longdouble).reshape(shape)


def exact(
    logits: Array,
    labels: Any,
    *,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Exact:
    """Losses and gradients of rows of logits, from the formula and with 400 digits."""
    n_rows, n_classes = logits.shape
    target = np.asarray(labels)
    e = _MP.mpf(float(label_smoothing))
    w = [_MP.mpf(float(v)) for v in (np.ones(n_classes) if class_weight is None else class_weight)]
    losses, gradient, probs, scale = [], [], [], []
    for i in range(n_rows):
        if target.ndim == 1 and int(target[i]) == ignore_index:
            losses.append(_MP.mpf(0))
            for cells in (gradient, probs, scale):
                cells.extend([_MP.mpf(0)] * n_classes)
            continue
        x = [_MP.mpf(float(v)) for v in logits[i]]
        open_ = [bool(v > -_INFINITY) for v in logits[i].astype(np.float64)]
        lse = _MP.log(sum(_MP.exp(v) for v, is_open in zip(x, open_, strict=True) if is_open))
        s = _MP.mpf(1 if sample_weight is None else float(sample_weight[i]))
        p, t = [], []
        for j in range(n_classes):
            b = _MP.mpf(int(target[i] == j) if target.ndim == 1 else float(target[i, j]))
            share = e / sum(open_) if open_[j] else 0
            t.append(w[j] * ((1 - e) * b + share))
            p.append(_MP.exp(x[j] - lse) if open_[j] else _MP.mpf(0))
        mass = sum(t)
        losses.append(s * sum(t[j] * (lse - x[j]) for j in range(n_classes) if t[j]))
        gradient.extend(s * (mass * p[j] - t[j]) for j in range(n_classes))
        scale.extend(s * max(mass * p[j], t[j]) for j in range(n_classes))
        probs.extend(p)
    cells_shape = (n_rows, n_classes)
    return Exact(
        _longdouble(losses, (n_rows,)),
        _longdouble(gradient, cells_shape),
        _longdouble(probs, cells_shape),
        _longdouble(scale, cells_shape),
    )


def assert_losses(got: Array, want: Array, dtype: np.dtype[Any]) -> None:
    assert got.dtype == loss_dtype(dtype)
    assert ulps(got, want, got.dtype) <= LOSS_ULP[dtype.itemsize]


def assert_gradient(got: Array, want: Array, scale: Array | None = None) -> None:
    assert ulps(got, want, got.dtype, scale) <= GRADIENT_ULP[got.dtype.itemsize]


def assert_number(got: Any, want: Any, tolerance: float = 1e-12) -> None:
    assert isinstance(got, np.float64)
    assert float(got) == pytest.approx(float(want), rel=tolerance)


def both(logits: Any, labels: Any, backend: str, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient, after a check that the loss alone is the same."""
    options.setdefault("reduction", "none")
    loss, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, **options)
    alone = fastxent.cross_entropy(logits, labels, backend=backend, **options)
    assert same_bits(alone, loss)
    return loss, gradient


def small_case(dtype: Any = np.float64, seed: int = 5) -> tuple[Array, Array, Array]:
    """Logits of 6 rows and 4 classes, labels, and weights that every dtype holds exactly."""
    labels = np.array([2, 0, 3, 1, 2, 2])
    return random_logits((6, 4), dtype, seed), labels, np.array([0.5, 2.0, 4.0, 0.25])


# Digits


def test_the_log_probability_of_a_certain_class_keeps_its_digits(backend: str) -> None:
    """scipy/scipy#19521: log_softmax rounded to 0 where one logit leads by 17, or 37 in float64.

    The logarithm was taken of a sum that had already been rounded to 1.
    """
    for dtype, gaps in (
        (np.dtype(np.float32), (1.0, 15.9, 16.7, 17.0, 40.0, 87.0)),
        (np.dtype(np.float64), (1.0, 36.0, 37.5, 40.0, 300.0, 700.0)),
    ):
        logits = np.array([[gap, 0.0] for gap in gaps], dtype)
        log_probs = fastxent.log_softmax(logits, backend=backend)
        want = -exact(logits, np.zeros(len(gaps), int)).losses
        assert (log_probs[:, 0] < 0).all()
        assert ulps(log_probs[:, 0], want, dtype) <= 4


def test_a_confident_row_keeps_its_loss_and_its_gradient(backend: str) -> None:
    """pytorch/pytorch#113708: loss and gradient at the label were 0 for rows that are nearly sure.

    Numbers down to 1e-38 could have been told from 0 and were not.
    """
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        logits = np.array([[g, 0, 0.5] for g in (16.0, 17.0, 30.0, 40.0, 80.0)], dtype)
        labels = np.zeros(5, int)
        want = exact(logits, labels)
        for given in (labels, np.eye(3, dtype=dtype)[labels]):
            losses, gradient = both(logits, given, backend)
            assert_losses(losses, want.losses, dtype)
            assert_gradient(gradient, want.gradient)
            assert (gradient[:, 0] < 0).all()
        stats = fastxent.row_stats(logits, labels, backend=backend)
        assert_losses(-stats.label_log_prob, want.losses, dtype)


def test_a_shared_offset_does_not_change_the_loss(backend: str) -> None:
    """google-deepmind/optax#1792: three logits of 1e8 had loss 0 instead of log(3).

    The normaliser and the label's logit were subtracted at their own size, where log(3) is lost.
    """
    cases = ((np.dtype(np.float16), 6e4), (BFLOAT16, 1e8), (np.dtype(np.float32), 1e8))
    for dtype, size in (*cases, (np.dtype(np.float64), 1e16)):
        for offset in (size, -size):
            equal = np.full((1, 3), offset, dtype)
            apart = equal.copy()
            apart[0, 1] = np.nextafter(apart[0, 1], np.asarray(_INFINITY, dtype))
            logits = np.concatenate([equal, apart])
            want = exact(logits, np.array([0, 0]))
            losses, gradient = both(logits, np.array([0, 0]), backend)
            assert_losses(losses, want.losses, dtype)
            assert_gradient(gradient, want.gradient, want.scale)
            assert float(losses[0]) == pytest.approx(np.log(3), rel=1e-6)


def test_equal_logits_share_the_probability_at_any_size(backend: str) -> None:
    """ml-explore/mlx#4169: log_softmax of two equal logits was 0 from 1e8 on, both classes certain.

    What the normaliser adds to the maximum was rounded away before the maximum was subtracted.
    """
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for value in (1.0, -1e4, 1e8, -1e20, 1e36):
            log_probs = fastxent.log_softmax(np.full((1, 2), value, dtype), backend=backend)
            assert ulps(log_probs, -np.log(np.full((1, 2), 2, np.longdouble)), dtype) <= 1


def test_the_mean_over_a_large_batch_does_not_drift(backend: str) -> None:
    """pytorch/pytorch#55657: the mean over millions of pixels differed from that of the losses.

    float32 losses were added up in float32; the larger the batch, the more was lost.
    """
    rng = np.random.default_rng(2021)
    logits = rng.standard_normal((4, 2, 512, 1024), np.float32)
    labels = rng.integers(0, 2, (4, 512, 1024))
    gap = logits[:, 0].astype(np.float64) - logits[:, 1]
    want = np.logaddexp(0, np.where(labels == 1, gap, -gap)).astype(np.longdouble).sum()
    total = fastxent.cross_entropy(logits, labels, axis=1, reduction="sum", backend=backend)
    assert_number(total, want, 1e-8)
    mean = fastxent.cross_entropy(logits, labels, axis=1, backend=backend)
    assert_number(mean, want / labels.size, 1e-8)


def test_losses_of_bfloat16_logits_are_not_quantised(backend: str) -> None:
    """google-deepmind/optax#1020: bfloat16 logits had losses of three digits.

    The normaliser was rounded to bfloat16 before the label's logit was subtracted.
    """
    logits = random_logits((8, 100), BFLOAT16, seed=42, scale=1.0)
    labels = np.random.default_rng(42).integers(0, 100, 8)
    losses, gradient = both(logits, labels, backend)
    want = exact_cross_entropy(logits.astype(np.float32), labels)
    assert_losses(losses, want[0], BFLOAT16)
    assert gradient.dtype == BFLOAT16
    assert_gradient(gradient, want[1])
    assert (losses != losses.astype(BFLOAT16).astype(np.float32)).all()


def test_sums_of_many_16_bit_terms_do_not_stick(backend: str) -> None:
    """pytorch/executorch#20089: softmax over 512 equal bfloat16 logits gave 1/256 for each.

    The sum was kept in bfloat16, where 256 + 1 is 256.
    """
    for dtype in (BFLOAT16, np.dtype(np.float16)):
        for n_classes in (512, 3000, 40_000):
            logits = np.zeros((1, n_classes), dtype)
            assert (fastxent.softmax(logits, backend=backend) == dtype.type(1 / n_classes)).all()
            losses, gradient = both(logits, [n_classes - 1], backend)
            assert_losses(losses, np.log(np.array([n_classes], np.longdouble)), dtype)
            assert gradient[0, 0] == dtype.type(1 / n_classes)


def test_half_precision_logits_far_below_zero_stay_finite(backend: str) -> None:
    """pytorch/pytorch#158310: float16 logits near -20000 had log-probabilities of -inf on the CPU.

    It took a class axis of two in the middle of the array; values in float16's range overflowed.
    """
    rng = np.random.default_rng(432)
    logits = rng.uniform(-20260.0, -19740.0, (18, 1, 2, 2, 21, 2)).astype(np.float16)
    last = np.moveaxis(logits, 2, -1)
    below, log_sum, _ = exact_softmax(last)
    log_probs = np.moveaxis(fastxent.log_softmax(logits, axis=2, backend=backend), 2, -1)
    assert np.isfinite(log_probs).all()
    assert ulps(log_probs, -(below + log_sum), np.float16) <= 1
    labels = rng.integers(0, 2, last.shape[:-1])
    losses, gradient = both(logits, labels, backend, axis=2)
    want = exact_cross_entropy(last, labels)
    assert_losses(losses, want[0], logits.dtype)
    assert_gradient(np.moveaxis(gradient, 2, -1), want[1])


# Masks


@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_a_masked_class_without_mass_costs_nothing(backend: str, smoothing: float) -> None:
    """google-deepmind/optax#896: a class with logit -inf and probability 0 made the loss NaN.

    0 times -inf was NaN. Here it is 0, and smoothing shares its mass among the open classes alone.
    """
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        logits = random_logits((5, 9), dtype)
        probs = random_probs((5, 9), np.float64)
        mask = np.random.default_rng(7).random((5, 9)) < 0.4
        mask[:, 0] = [True, True, False, True, False]
        mask[:, 4] = False
        probs[mask] = 0
        probs = probs.astype(dtype)
        logits[mask] = -_INFINITY
        want = exact(logits, probs, label_smoothing=smoothing)
        losses, gradient = both(logits, probs, backend, label_smoothing=smoothing)
        assert_losses(losses, want.losses, dtype)
        assert_gradient(gradient, want.gradient, want.scale)
        assert not gradient[mask].any()


def test_derivatives_at_masked_classes_are_zero_and_not_nan(backend: str) -> None:
    """google-deepmind/optax#1762: the loss was finite, its derivative by the targets was NaN.

    The derivative multiplied the log-probability -inf of a masked class, even by 0.
    """
    logits = np.array([[-_INFINITY, 0.0, 0.5], [1.0, -_INFINITY, 3.0]])
    probs = np.array([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    losses, gradient, to_labels = fastxent.cross_entropy_with_grad(
        logits, probs, grad_labels=True, reduction="none", backend=backend
    )
    want = exact(logits, probs)
    assert_losses(losses, want.losses, logits.dtype)
    assert_gradient(gradient, want.gradient, want.scale)
    masked = np.isneginf(logits)
    costs = -np.log(np.where(masked, 1, want.probs))  # 0 at a masked class
    assert ulps(to_labels, costs, np.float64) <= 4
    assert not to_labels[masked].any()
    for vectors in (np.zeros((2, 3)), np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])):
        products = fastxent.cross_entropy_hvp(logits, probs, vectors, backend=backend)
        p = want.probs
        by_hand = p * vectors - p * (p * vectors).sum(-1, keepdims=True)
        assert np.abs(products - by_hand).max() <= 1e-15
        assert not products[masked].any()


def test_a_row_may_begin_with_any_number_of_masked_classes(backend: str) -> None:
    """Dao-AILab/flash-attention#1930: 50000 masked classes before the only open one gave NaN.

    Where a whole first block is -inf its maximum is -inf, and -inf - -inf is NaN.
    """
    for n_classes, places in ((100_000, (0, 50_000, 99_999)), (128, (127,)), (40, (20,))):
        for place in places:
            logits = np.full((1, n_classes), -_INFINITY, np.float32)
            logits[0, place] = 10
            losses, gradient = both(logits, [place], backend)
            assert losses[0] == 0
            assert not gradient.any()
            stats = fastxent.row_stats(logits, [place], backend=backend)
            assert (stats.logsumexp[0], stats.argmax[0], stats.entropy[0]) == (10, place, 0)


def test_what_an_ignored_row_holds_reaches_no_gradient(backend: str) -> None:
    """pytorch/pytorch#11551: rows that were ignored, and full of -inf, had NaN gradients.

    The loss left them out; the gradient was 0 times NaN.
    """
    logits, labels, weights = small_case(np.float32)
    for trouble in (-_INFINITY, _INFINITY, np.nan):
        spoilt, some = logits.copy(), labels.copy()
        spoilt[[1, 4]] = trouble
        some[[1, 4]] = -1
        for options in ({}, {"class_weight": weights, "label_smoothing": 0.1, "z_loss": 1e-3}):
            kept = [0, 2, 3, 5]
            for reduction in ("none", "sum", "mean"):
                given = {"reduction": reduction, **options}
                loss, gradient = both(spoilt, some, backend, ignore_index=-1, **given)
                clean_loss, clean = both(logits[kept], labels[kept], backend, **given)
                assert not gradient[[1, 4]].any()
                assert same_bits(gradient[kept], clean)
                if reduction == "none":
                    assert not loss[[1, 4]].any()
                    assert same_bits(loss[kept], clean_loss)
                else:
                    assert_number(loss, clean_loss)


# Means


def test_a_mean_over_ignored_rows_alone_is_nan_or_zero_as_asked(backend: str) -> None:
    """pytorch/pytorch#70348: with every row ignored the mean had been 0 and became NaN.

    Some users want a mean over nothing to show, others to add nothing to a larger loss.
    """
    logits = random_logits((5, 5), np.float32)
    ignored = np.full(5, -100)
    for empty, want in (("nan", np.nan), ("zero", 0.0)):
        loss, gradient = both(
            logits, ignored, backend, ignore_index=-100, reduction="mean", empty=empty
        )
        assert np.array_equal(loss, want, equal_nan=True)
        assert not gradient.any()
    default = fastxent.cross_entropy(logits, ignored, ignore_index=-100, backend=backend)
    assert np.isnan(default)
    # Where there is a row, the choice changes nothing.
    ignored[2] = 3
    losses = [
        fastxent.cross_entropy(logits, ignored, ignore_index=-100, empty=empty, backend=backend)
        for empty in ("nan", "zero", "raise")
    ]
    assert losses[0] == losses[1] == losses[2]
    assert_number(losses[0], exact(logits[2:3], [3]).losses[0], 1e-6)


def test_a_mean_over_nothing_can_be_an_error_that_writes_nothing(backend: str) -> None:
    """pytorch/pytorch#75181: one ignored row gave NaN and no hint of why.

    The NaN was found far from its cause. An error where it arises must leave outputs alone.
    """
    logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    out = np.full((1, 3), 7, np.float32)
    nothing: list[tuple[Any, dict[str, Any]]] = [
        ([-1], {"ignore_index": -1}),
        ([0], {"class_weight": np.array([0.0, 1.0, 1.0])}),
        ([0], {"sample_weight": np.zeros(1)}),
        (np.array([[1, 0, 0]], np.float32), {"sample_weight": np.zeros(1)}),
    ]
    for labels, options in nothing:
        with pytest.raises(ValueError, match="mean"):
            fastxent.cross_entropy_with_grad(
                logits, labels, empty="raise", out=out, backend=backend, **options
            )
        assert (out == 7).all()
        assert np.isnan(fastxent.cross_entropy(logits, labels, backend=backend, **options))


def test_every_reduction_of_ignored_rows_alone_is_what_it_says(backend: str) -> None:
    """pytorch/pytorch#116349: the losses of ignored rows were zeros and their mean was NaN.

    Losses and sum of no rows are 0; a mean of them has nothing to divide by, unless it is named.
    """
    logits = random_logits((5, 10), np.float32)
    ignored = np.full(5, -100)
    options: dict[str, Any] = {"ignore_index": -100, "backend": backend}
    losses = fastxent.cross_entropy(logits, ignored, reduction="none", **options)
    assert same_bits(losses, np.zeros(5, np.float32))
    assert fastxent.cross_entropy(logits, ignored, reduction="sum", **options) == 0
    for mean_over in ("weight", "valid"):
        assert np.isnan(fastxent.cross_entropy(logits, ignored, mean_over=mean_over, **options))
    assert fastxent.cross_entropy(logits, ignored, mean_over="rows", **options) == 0
    assert fastxent.cross_entropy(logits, ignored, normalizer=32.0, **options) == 0
    empty = np.zeros((0, 10), np.float32)
    no_labels = np.zeros(0, int)
    assert np.isnan(fastxent.cross_entropy(empty, no_labels, backend=backend))
    assert fastxent.cross_entropy(empty, no_labels, empty="zero", backend=backend) == 0


def test_a_weighted_mean_divides_by_what_the_caller_names(backend: str) -> None:
    """pytorch/pytorch#61309: a row's share of the loss depended on the other labels of its batch.

    The weighted mean was divided by the sum of weights, where others divide by the rows.
    """
    logits, labels, weights = small_case()
    labels[3] = -100
    want = exact(logits, labels, class_weight=weights, ignore_index=-100)
    kept = [0, 1, 2, 4, 5]
    divisors = {"weight": weights[labels[kept]].sum(), "valid": 5.0, "rows": 6.0}
    options: dict[str, Any] = {"class_weight": weights, "ignore_index": -100, "reduction": "mean"}
    for mean_over, divisor in divisors.items():
        loss, gradient = both(logits, labels, backend, mean_over=mean_over, **options)
        assert_number(loss, want.losses.sum() / divisor)
        assert_gradient(gradient, want.gradient / divisor, want.scale / divisor)
    # With a divisor of one's own, parts of a batch add up.
    parts = [
        fastxent.cross_entropy(
            logits[part], labels[part], normalizer=6.0, backend=backend, **options
        )
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert_number(sum(parts, np.float64(0)), want.losses.sum() / 6)


def test_labels_and_one_hot_agree_where_the_divisor_is_named(backend: str) -> None:
    """pytorch/pytorch#107680: labels gave a weighted mean of 0.87, their one-hot form 54.4.

    One was divided by the sum of the weights, the other by the number of rows. The same happens
    here where nothing else is said; every other divisor makes them agree.
    """
    logits = np.array([[2.3, 2.1, 4.5], [4.2, 3.2, 5.1]])
    labels, weights = np.array([1, 2]), np.array([25.0, 25.0, 100.0])
    one_hot = np.eye(3)[labels]
    total = exact(logits, labels, class_weight=weights).losses.sum()
    assert float(total / 125) == pytest.approx(0.8705, abs=1e-4)  # the thread's numbers
    assert float(total / 2) == pytest.approx(54.4052, abs=1e-4)
    for given, divisor in ((labels, 125), (one_hot, 2)):
        mean = fastxent.cross_entropy(logits, given, class_weight=weights, backend=backend)
        assert_number(mean, total / divisor)
    choices: list[tuple[dict[str, Any], int]] = [
        ({"mean_over": "valid"}, 2),
        ({"mean_over": "rows"}, 2),
        ({"normalizer": 125}, 125),
        ({"reduction": "sum"}, 1),
        ({"reduction": "sum", "normalizer": 125}, 125),
    ]
    for options, divisor in choices:
        options["class_weight"] = weights
        by_label, gradient = both(logits, labels, backend, **{"reduction": "mean", **options})
        by_probs, soft_gradient = both(logits, one_hot, backend, **{"reduction": "mean", **options})
        assert_number(by_label, total / divisor)
        assert_number(by_probs, total / divisor)
        assert np.abs(gradient - soft_gradient).max() <= 1e-14 * 100 / divisor


def test_weights_smoothing_and_ignored_rows_work_together(backend: str) -> None:
    """pytorch/pytorch#69339: class weights, smoothing and an ignored row at once were an error.

    Any two of them worked.
    """
    logits = np.array([[1.0, 2.0], [3.0, 0.4]])
    weights = np.array([0.2, 0.3])
    for labels in (np.array([-100, 1]), np.array([0, -100]), np.array([0, 1])):
        given = {"class_weight": weights, "label_smoothing": 0.1, "ignore_index": -100}
        want = exact(logits, labels, **given)
        divisor = weights[labels[labels >= 0]].sum()
        losses, gradient = both(logits, labels, backend, **given)
        assert_losses(losses, want.losses, logits.dtype)
        assert_gradient(gradient, want.gradient, want.scale)
        mean = fastxent.cross_entropy(logits, labels, backend=backend, **given)
        assert_number(mean, want.losses.sum() / divisor)


def test_ignored_rows_add_nothing_to_the_uniform_part_of_smoothing(backend: str) -> None:
    """pytorch/pytorch#73205: with smoothing, sum and mean counted the rows that were ignored.

    The share of the label left them out, the uniform share did not.
    """
    logits, labels, weights = small_case()
    labels[[0, 3]] = -100
    kept = labels >= 0
    for weight in (None, weights):
        options: dict[str, Any] = {"class_weight": weight, "label_smoothing": 0.2}
        want = exact(logits[kept], labels[kept], **options)
        divisor = float(kept.sum()) if weight is None else weights[labels[kept]].sum()
        for reduction, number in (("sum", 1.0), ("mean", divisor)):
            loss, gradient = both(
                logits, labels, backend, ignore_index=-100, reduction=reduction, **options
            )
            assert_number(loss, want.losses.sum() / number)
            assert_gradient(gradient[kept], want.gradient / number, want.scale / number)
            assert not gradient[~kept].any()


def test_no_weight_is_looked_up_for_an_ignored_label(backend: str) -> None:
    """pytorch/pytorch#91383: a smoothed weighted mean looked up the weight of the ignored label.

    That index was outside the weights. It may be negative, huge, or a class like any other.
    """
    logits, labels, weights = small_case()
    for ignored, kind in ((-100, np.int16), (-1, np.int8), (255, np.uint8), (2**63, np.uint64)):
        some = np.where(labels == 2, 0, labels).astype(kind)
        some[[0, 5]] = ignored
        kept = [1, 2, 3, 4]
        _check_left_out(logits, some, kept, weights, ignored, backend)
    _check_left_out(logits, labels, [1, 2, 3], weights, 2, backend)  # class 2


def _check_left_out(
    logits: Array, labels: Array, kept: list[int], weights: Array, ignored: int, backend: str
) -> None:
    options: dict[str, Any] = {"class_weight": weights, "label_smoothing": 0.25}
    want = exact(logits[kept], labels[kept].astype(np.int64), **options)
    mean = fastxent.cross_entropy(logits, labels, ignore_index=ignored, backend=backend, **options)
    assert_number(mean, want.losses.sum() / weights[labels[kept].astype(np.int64)].sum())


def test_every_row_can_have_a_weight_of_its_own(backend: str) -> None:
    """linkedin/Liger-Kernel#404: a weight for each token was asked for; weights of classes came.

    Tokens of different sources must count differently, and some not at all.
    """
    logits, labels, weights = small_case(np.float32)
    tokens = np.array([1.0, 0.0, 0.5, 3.0, 0.125, 1.0])
    logits[1] = np.nan  # weight 0: nothing of it may show
    clean = np.where(np.isnan(logits), 0, logits)
    for class_weight in (None, weights):
        want = exact(clean, labels, class_weight=class_weight, sample_weight=tokens)
        given: dict[str, Any] = {"class_weight": class_weight, "sample_weight": tokens}
        losses, gradient = both(logits, labels, backend, **given)
        assert_losses(losses, want.losses, logits.dtype)
        assert_gradient(gradient, want.gradient, want.scale)
        assert not gradient[1].any()
        total = want.losses.sum()
        shares = tokens if class_weight is None else tokens * weights[labels]
        for options, divisor in (
            ({"mean_over": "weight"}, shares.sum()),
            ({"mean_over": "valid"}, 6.0),
            ({"mean_over": "rows"}, 6.0),
            ({"normalizer": 2.5}, 2.5),
        ):
            loss = fastxent.cross_entropy(logits, labels, backend=backend, **given, **options)
            assert_number(loss, total / divisor, 1e-6)


# Labels


def test_labels_of_any_integer_type_give_the_same_bits(backend: str) -> None:
    """pytorch/pytorch#45540: labels had to be int64, eight bytes for a class that needs one.

    Segmentation keeps a label for every pixel; for 256 classes a byte would do.
    """
    logits = random_logits((3, 100, 4, 5), np.float32)
    labels = np.random.default_rng(0).integers(0, 100, (3, 4, 5))
    weights = np.random.default_rng(1).integers(1, 5, 100) / 4
    options: dict[str, Any] = {"axis": 1, "class_weight": weights, "reduction": "none"}
    want = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, **options)
    for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"):
        kind = np.dtype(name)
        for some in (labels.astype(kind), labels.astype(kind.newbyteorder())):
            got = fastxent.cross_entropy_with_grad(logits, some, backend=backend, **options)
            assert same_bits(got[0], want[0])
            assert same_bits(got[1], want[1])


def test_a_byte_label_of_255_is_a_class_and_not_minus_one(backend: str) -> None:
    """pytorch/pytorch#59765: bytes were not taken as labels, though they hold up to 256 classes.

    Taken as signed numbers the upper half would be negative, and 255 an ignored -1.
    """
    logits = random_logits((4, 256), np.float64)
    labels = np.array([255, 128, 127, 0], np.uint8)
    losses, _ = both(logits, labels, backend, ignore_index=-1)
    want = exact_cross_entropy(logits, labels)[0]
    assert_losses(losses, want, logits.dtype)
    losses, gradient = both(logits, labels, backend, ignore_index=255)
    assert_losses(losses[1:], want[1:], logits.dtype)
    assert losses[0] == 0
    assert not gradient[0].any()


def _with_labels(logits: Array, labels: Any, backend: str) -> list[Callable[[], Any]]:
    """All calls that take labels."""
    given: dict[str, Any] = {"backend": backend}
    return [
        lambda: fastxent.cross_entropy(logits, labels, **given),
        lambda: fastxent.cross_entropy_with_grad(logits, labels, **given),
        lambda: fastxent.row_stats(logits, labels, **given),
        lambda: fastxent.cross_entropy_grad_hess(logits, labels, **given),
        lambda: fastxent.cross_entropy_hvp(logits, labels, logits, **given),
    ]


def test_a_label_that_is_no_class_is_an_error_and_not_nan(backend: str) -> None:
    """google-deepmind/optax#1185: label 4 of four classes gave NaN, without a word.

    A compiled program has no way to raise; -1 even counted from the end and gave a number. A part
    of the classes cannot know how many there are, so there it is the end that finds out.
    """
    logits = np.array([[0.2, 0.1, 0.4, 0.6]], np.float32)
    for label in (4, -1, -4, 10**12):
        labels = np.array([label])
        for call in _with_labels(logits, labels, backend):
            with pytest.raises(ValueError, match=rf"labels.*{label}.*4 classes"):
                call()
        with pytest.raises(ValueError, match="label"):
            fastxent.finish(fastxent.partial(logits, labels, backend=backend))


def test_a_wrong_label_is_the_same_error_however_it_is_computed(backend: str) -> None:
    """tensorflow/tensorflow#8484: a wrong label was an error on the CPU and NaN on the GPU.

    What is checked must not depend on what computes: threads, options, row or backend.
    """
    logits = random_logits((100, 5), np.float32)
    labels = np.random.default_rng(3).integers(0, 5, 100)
    labels[99] = 5
    messages = set()
    for n_threads in (1, 2):
        for name in {backend, "cython"}:
            for options in ({}, {"class_weight": np.ones(5)}, {"label_smoothing": 0.1}):
                with pytest.raises(ValueError, match=r"labels.*99.* 5") as error:
                    fastxent.cross_entropy(
                        logits, labels, backend=name, n_threads=n_threads, **options
                    )
                messages.add(str(error.value))
    assert len(messages) == 1


def test_a_wrong_label_writes_nothing_anywhere(backend: str) -> None:
    """pytorch/pytorch#194802: with the number of classes as label, a gradient was written outside.

    The label was used as an index before it was checked: a write past the end of the heap block.
    """
    for dtype in FLOATS:
        memory = np.full((6, 1, 4), 7, dtype)
        out = memory[2:4]
        logits = random_logits((2, 1, 4), dtype)
        for labels in (np.array([[0] * 4, [0, 0, 0, 1]]), np.array([[0] * 4, [-1, 0, 0, 0]])):
            with pytest.raises(ValueError, match="labels"):
                fastxent.cross_entropy_with_grad(
                    logits, labels, axis=1, out=out, reduction="none", backend=backend
                )
            assert (memory == dtype.type(7)).all()


# Inputs


def test_bfloat16_tensors_are_logits_without_a_conversion(backend: str) -> None:
    """pytorch/pytorch#110285: a bfloat16 tensor cannot become a NumPy array.

    Converted to float32 first it takes twice the memory, and its gradient is of another type.
    """
    torch = peer("torch")
    logits = random_logits((4, 9), BFLOAT16)
    given = torch.tensor(logits.astype(np.float32)).bfloat16()
    losses, gradient = both(given, [0, 8, 3, 3], backend)
    want, want_gradient = both(logits, [0, 8, 3, 3], backend)
    assert same_bits(losses, want)
    assert same_bits(gradient, want_gradient)
    assert gradient.dtype == BFLOAT16


def test_bfloat16_that_a_file_gave_back_as_raw_memory_is_recognised(backend: str) -> None:
    """jax-ml/ml_dtypes#41: bfloat16 arrays come back from np.load as two bytes without a type.

    Nothing is lost but the name of the type; converted to numbers they would be others.
    """
    logits = random_logits((4, 9), BFLOAT16)
    file = io.BytesIO()
    np.save(file, logits)
    file.seek(0)
    loaded = np.load(file)
    assert loaded.dtype.name == "void16"
    with pytest.raises(TypeError, match=r"logits\.view\(ml_dtypes\.bfloat16\)"):
        fastxent.cross_entropy(loaded, [0, 8, 3, 3], backend=backend)
    got = both(loaded.view(BFLOAT16), [0, 8, 3, 3], backend)
    assert same_bits(got[0], both(logits, [0, 8, 3, 3], backend)[0])


def test_nullable_labels_and_scores_are_taken_as_they_are(backend: str) -> None:
    """scikit-learn/scikit-learn#25953: a column of pandas' Int64 was an unknown kind of label.

    convert_dtypes makes such columns of all there are; nothing need be missing in them.
    """
    pandas = peer("pandas")
    logits = random_logits((4, 3), np.float64)
    labels = np.array([0, 2, 1, 1])
    frame = pandas.DataFrame(logits).convert_dtypes()
    assert {str(dtype) for dtype in frame.dtypes} == {"Float64"}
    losses, gradient = both(frame, pandas.Series(labels).convert_dtypes(), backend)
    want, want_gradient = both(logits, labels, backend)
    assert same_bits(losses, want)
    assert same_bits(gradient, want_gradient)


def test_class_weights_sorted_by_frequency_reach_their_classes(backend: str) -> None:
    """Chumsy0725/logit-adj-pytorch#2: numbers by class were applied in the order of counting.

    What counts labels sorts them by frequency, or as text: the first number is not that of class 0.
    """
    pandas = peer("pandas")
    labels = np.array([2, 2, 2, 0, 1, 1])
    logits = random_logits((6, 3), np.float64)
    weights = 1 / pandas.Series(labels).value_counts()
    assert weights.index.tolist() == [2, 1, 0]
    want = exact(logits, labels, class_weight=np.array([1, 1 / 2, 1 / 3]))
    for given in (weights, weights.to_dict()):
        losses, gradient = both(logits, labels, backend, class_weight=given)
        assert_losses(losses, want.losses, logits.dtype)
        assert_gradient(gradient, want.gradient, want.scale)


# Sizes


def _sparse(n: int, dtype: Any) -> Array:
    """n zeros that take memory only where they are written."""
    no_reserve = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    try:
        memory = mmap.mmap(-1, n * np.dtype(dtype).itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"no address space for {n} elements: {error}")
    return np.frombuffer(memory, dtype)


def _far_apart(n_rows: int, n_classes: int) -> Array:
    """float16 rows of an array with more than 2^32 elements: 2^30 and a few lie between them."""
    stride = 2**30 + 24
    assert (n_rows - 1) * stride > 2**32
    return _sparse(n_rows * stride, np.float16).reshape(n_rows, stride)[:, :n_classes]


def test_rows_beyond_four_billion_elements_have_the_right_losses(backend: str) -> None:
    """pytorch/pytorch#111484: beyond 2^32 elements, later rows had the losses of other places.

    Indices of 32 bits wrapped around. Here six rows lie 2^30 elements apart, logits and gradient,
    and one row has more than 2^31 classes; memory is taken only where something is written.
    """
    logits, out = _far_apart(6, 3000), _far_apart(6, 3000)
    near = random_logits((6, 3000), np.float16)
    labels = np.random.default_rng(1).integers(0, 3000, 6)
    logits[...] = near
    given: dict[str, Any] = {"reduction": "none", "backend": backend}
    losses, _ = fastxent.cross_entropy_with_grad(logits, labels, out=out, **given)
    want, want_gradient = exact_cross_entropy(near, labels)
    assert_losses(losses, want, near.dtype)
    assert_gradient(out, want_gradient)

    n_classes = 2**31 + 100
    long = _sparse(n_classes, np.float16)
    long[-7] = 20
    losses = fastxent.cross_entropy(long[None], [n_classes - 7], **given)
    others = np.longdouble(n_classes - 1) * np.exp(np.longdouble(-20))
    assert_losses(losses, np.log1p(others)[None], long.dtype)


def test_softmax_of_rows_beyond_four_billion_elements_is_right(backend: str) -> None:
    """pytorch/pytorch#84144: the last rows of a very large softmax were 0 or garbage.

    Their sums showed it: they were not 1.
    """
    logits, out = _far_apart(6, 500), _far_apart(6, 500)
    near = random_logits((6, 500), np.float16)
    logits[...] = near
    below, log_sum, probs = exact_softmax(near)
    assert fastxent.softmax(logits, out=out, backend=backend) is out
    assert ulps(out, probs, np.float16) <= 1
    assert np.abs(out.astype(np.float64).sum(1) - 1).max() < 0.01
    fastxent.log_softmax(logits, out=out, backend=backend)
    assert ulps(out, -(below + log_sum), np.float16) <= 1


def test_class_planes_beyond_two_billion_elements_are_addressed_right(backend: str) -> None:
    """pytorch/pytorch#190184: with more than 2^31 elements and class axis 1, addresses wrapped.

    Sample times pixels times classes was computed with 32 bits. Here 128 planes of 2^24 pixels are
    read. It was a gradient there; writing one of this size takes 4 GiB, too much for a test, so
    gradients at such distances are tested for rows alone.
    """
    n_pixels = 2**24 + 64
    logits = _sparse(128 * n_pixels, np.float16).reshape(1, 128, n_pixels)
    assert logits.size > 2**31
    labels = np.zeros((1, n_pixels), np.int8)
    labels[0, -2:] = [1, 127]
    logits[0, 127, -1] = 5
    given: dict[str, Any] = {"axis": 1, "reduction": "none", "backend": backend}
    losses = fastxent.cross_entropy(logits, labels, **given)[0]
    assert (losses[:-1] == losses[0]).all()
    last = np.log1p(127 * np.exp(np.longdouble(-5)))
    want = np.array([np.log(np.longdouble(128)), last])
    assert_losses(losses[[0, -1]], want, logits.dtype)


class Head(NamedTuple):
    """The last layer of a model: its logits are hidden @ weights, and never all there."""

    hidden: Array
    weights: Array
    labels: Array

    def shards(self, width: int) -> list[tuple[int, Array]]:
        starts = range(0, self.weights.shape[1], width)
        return [(start, self.weights[:, start : start + width]) for start in starts]


def _head(n_rows: int, n_classes: int) -> Head:
    rng = np.random.default_rng(9)
    hidden = rng.standard_normal((n_rows, 16), np.float32)
    weights = rng.standard_normal((16, n_classes), np.float32)
    return Head(hidden, weights, rng.integers(0, n_classes, n_rows))


def _state_of(head: Head, width: int, backend: str, **options: Any) -> Any:
    states = []
    for start, part in head.shards(width):
        logits = head.hidden @ part
        states.append(
            fastxent.partial(logits, head.labels, class_offset=start, backend=backend, **options)
        )
    return fastxent.merge(*states)


def test_the_loss_needs_a_part_of_the_logits_at_a_time(backend: str) -> None:
    """pytorch/pytorch#124480: the logits of a large vocabulary took more memory than the model.

    All of them were there at once, and often their copy. A loss can be put together from parts.
    """
    head = _head(64, 20_000)
    head.labels[5] = -100
    tracemalloc.start()
    try:
        for _ in range(2):  # what is loaded or compiled once does not count
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            state = _state_of(head, 1000, backend, ignore_index=-100)
            loss = fastxent.finish(state)
            peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 64 * 20_000 * 4 / 5
    logits = np.concatenate([head.hidden @ part for _, part in head.shards(1000)], axis=1)
    kept = head.labels >= 0
    want = exact_cross_entropy(logits[kept], head.labels[kept])[0]
    assert_number(loss, want.mean(), 1e-6)


def test_the_gradient_needs_a_part_of_the_logits_at_a_time(backend: str) -> None:
    """jax-ml/jax#35915: training with a large vocabulary was asked for without all the logits.

    The gradient of every part follows from the finished state and that part's logits alone.
    """
    head = _head(32, 6000)
    state = _state_of(head, 1700, backend)
    logits = np.concatenate([head.hidden @ part for _, part in head.shards(1700)], axis=1)
    losses, gradient = exact_cross_entropy(logits, head.labels)
    assert_number(fastxent.finish(state), losses.mean(), 1e-6)
    to_hidden = np.zeros_like(head.hidden)
    for start, part in head.shards(1700):
        found = fastxent.finish_grad(state, head.hidden @ part, head.labels, class_offset=start)
        want = gradient[:, start : start + part.shape[1]] / 32
        assert_gradient(found, want)
        to_hidden += found @ part.T
    want = (gradient / 32) @ head.weights.T.astype(np.longdouble)
    assert np.abs(to_hidden - want).max() < 1e-6


@pytest.mark.usefixtures("eager_threads")
def test_a_few_long_rows_have_the_same_bits_with_any_number_of_threads(backend: str) -> None:
    """pytorch/pytorch#76279: 512 rows of 28996 classes were shared by two cores at most.

    Rows are cut for more threads here. The cuts must not show in the result.
    """
    logits = random_logits((3, 28_996), np.float32)
    labels = np.array([28_995, 0, 14_000])
    one = fastxent.cross_entropy_with_grad(logits, labels, n_threads=1, backend=backend)
    want = exact_cross_entropy(logits, labels)
    assert_number(one[0], want[0].mean(), 1e-6)
    assert_gradient(one[1], want[1] / 3)
    for n_threads in (2, 3, 8):
        other = fastxent.cross_entropy_with_grad(
            logits, labels, n_threads=n_threads, backend=backend
        )
        assert same_bits(one[0], other[0])
        assert same_bits(one[1], other[1])


def test_any_class_axis_gives_the_same_numbers(backend: str) -> None:
    """pytorch/pytorch#34728: softmax along another axis than the last was many times slower.

    It has code of its own, for speed; whatever code runs, the numbers must be the same.
    """
    for n_classes in (3, 21, 300):
        for dtype in (np.float32, np.float64):
            rows = random_logits((2, 5, 7, n_classes), dtype)
            probs = exact_softmax(rows)[2]
            found = fastxent.softmax(rows, backend=backend)
            assert ulps(found, probs, dtype) <= 4
            for axis in range(3):
                moved = np.ascontiguousarray(np.moveaxis(rows, -1, axis))
                other = fastxent.softmax(moved, axis=axis, backend=backend)
                assert same_bits(np.moveaxis(other, axis, -1), found)


def test_log_softmax_along_a_middle_axis_gives_the_same_numbers(backend: str) -> None:
    """pytorch/pytorch#64726: log_softmax with the classes in the middle needed a faster kernel.

    float32 and bfloat16, 81 classes: both the log-probabilities and the loss that follows.
    """
    for dtype in (np.dtype(np.float32), BFLOAT16):
        rows = random_logits((2, 87, 81), dtype)
        planes = np.ascontiguousarray(rows.swapaxes(1, 2))
        below, log_sum, _ = exact_softmax(rows.astype(np.float32))
        found = fastxent.log_softmax(planes, axis=1, backend=backend).swapaxes(1, 2)
        assert ulps(found, -(below + log_sum), dtype) <= (1 if dtype == BFLOAT16 else 4)
        labels = np.random.default_rng(4).integers(0, 81, (2, 87))
        losses, gradient = both(planes, labels, backend, axis=1)
        same_losses, same_gradient = both(rows, labels, backend)
        assert same_bits(losses, same_losses)
        assert same_bits(gradient.swapaxes(1, 2), same_gradient)
        want = exact_cross_entropy(rows.astype(np.float32), labels)[0]
        assert_losses(losses, want, dtype)


# Results


def _entropy(want: Exact) -> Array:
    p = want.probs
    return -(p * np.log(np.where(p == 0, 1, p))).sum(-1)


def test_entropy_and_log_probabilities_come_with_the_loss(backend: str) -> None:
    """linkedin/Liger-Kernel#551: training by reward needs a policy's entropy beside its loss.

    Both follow from one pass over the logits; without it the log-probabilities are all stored.
    """
    for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-14)):
        logits = random_logits((7, 33), dtype, scale=2.0)
        labels = np.array([0, 32, 5, 7, 7, 16, 1])
        want = exact(logits, labels)
        stats = fastxent.row_stats(logits, labels, backend=backend)
        losses = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
        assert same_bits(stats.losses, losses)
        assert_losses(losses, want.losses, np.dtype(dtype))
        assert np.allclose(stats.label_log_prob, -want.losses, rtol=tolerance, atol=0)
        assert np.allclose(stats.entropy, _entropy(want), rtol=tolerance, atol=0)
        assert np.allclose(stats.max_prob, want.probs.max(-1), rtol=tolerance, atol=0)
        assert np.array_equal(stats.argmax, logits.argmax(-1))
        assert np.array_equal(stats.correct, logits.argmax(-1) == labels)
        alone = fastxent.row_stats(logits, backend=backend)
        assert same_bits(alone.entropy, stats.entropy)
        assert alone.losses is None


def test_entropy_is_exact_for_confident_masked_and_shifted_rows(backend: str) -> None:
    """pytorch/torchtitan#3848: a policy that collapses shows in its entropy, if that is computed.

    As logsumexp minus the expected logit it cancels for confident rows and large logits, and is
    NaN where a masked class multiplies 0 by -inf.
    """
    rows = np.array(
        [
            [40.0, 0.0, 0.0, -1.0],
            [1.0, -_INFINITY, 0.0, -_INFINITY],
            [5.0, -_INFINITY, -_INFINITY, -_INFINITY],
            [1e8, 1e8, 1e8 - 8, 1e8 + 16],
            [0.0, 0.0, 0.0, 0.0],
        ],
        np.float32,
    )
    labels = np.array([0, 2, 0, 3, -1])
    want = exact(rows, np.zeros(5, int))
    stats = fastxent.row_stats(rows, labels, ignore_index=-1, backend=backend)
    entropy = _entropy(want)[:4]
    # -p log p at the confident class needs 1 - p, which 25 digits do not hold.
    p = want.probs[0, 1:]
    entropy[0] = p.sum() - (p * np.log(p)).sum()
    assert np.allclose(stats.entropy[:4], entropy, rtol=2e-6, atol=0)
    assert stats.entropy[2] == 0
    assert stats.entropy[4] == 0  # ignored
    by_label = exact(rows, labels, ignore_index=-1).losses
    assert np.allclose(stats.label_log_prob, -by_label, rtol=2e-6, atol=0)
    everywhere = fastxent.row_stats(rows, backend=backend)
    assert everywhere.entropy[4] == np.float32(np.log(4))


def test_no_call_changes_what_it_was_given(backend: str) -> None:
    """linkedin/Liger-Kernel#1251: the gradient was written over the logits, unasked.

    Whatever had kept the logits for its own derivative then had a wrong one.
    """
    logits, labels, weights = small_case(np.float32)
    probs = random_probs((6, 4), np.float32)
    vectors = random_logits((6, 4), np.float32, seed=8)
    tokens = np.arange(6.0)
    given: dict[str, Any] = {"class_weight": weights, "sample_weight": tokens, "backend": backend}
    arrays = (logits, labels, weights, probs, vectors, tokens)
    before = [array.copy() for array in arrays]
    for target in (labels, probs):
        fastxent.cross_entropy(logits, target, label_smoothing=0.1, **given)
        fastxent.cross_entropy_with_grad(logits, target, softcap=2.0, z_loss=0.1, **given)
        fastxent.row_stats(logits, target, temperature=2.0, **given)
        fastxent.cross_entropy_grad_hess(logits, target, **given)
        fastxent.cross_entropy_hvp(logits, target, vectors, **given)
        state = fastxent.partial(logits, target, **given)
        fastxent.finish_grad(state, logits, target, class_weight=weights)
    fastxent.kl_divergence_with_logits_and_grad(vectors, logits, backend=backend)
    assert all(same_bits(now, then) for now, then in zip(arrays, before, strict=True))
    # In place only where it is asked for, and with the same bits.
    _, gradient = fastxent.cross_entropy_with_grad(logits, labels, **given)
    _, same = fastxent.cross_entropy_with_grad(logits, labels, out=logits, **given)
    assert same is logits
    assert same_bits(logits, gradient)


def test_a_gradient_a_row_can_be_scaled_a_row(backend: str) -> None:
    """linkedin/Liger-Kernel#1298: losses a row were right, their gradients those of the first row.

    The factor that each row's loss had further on was read as a single number.
    """
    logits, labels, _ = small_case()
    features = random_logits((6, 3), np.float64, seed=6)
    factors = np.array([0.0, 2.0, -1.0, 0.5, 8.0, 1.0])
    want = exact(logits, labels)
    losses, gradient = both(logits, labels, backend)
    assert_losses(losses, want.losses, logits.dtype)
    assert_gradient(gradient, want.gradient, want.scale)
    by_hand = features.T.astype(np.longdouble) @ (factors[:, None] * want.gradient)
    assert np.abs(features.T @ (factors[:, None] * gradient) - by_hand).max() < 1e-13
    factors = np.abs(factors)
    total, weighted = both(logits, labels, backend, sample_weight=factors, reduction="sum")
    assert_number(total, (factors * want.losses).sum())
    assert_gradient(weighted, factors[:, None] * want.gradient, factors[:, None] * want.scale)


# Boosting


def assert_grad_hess(found: tuple[Array, Array], want: Exact, factor: float, mass: Array) -> None:
    gradient, hessian = found
    assert_gradient(gradient, want.gradient, want.scale)
    expected = factor * mass[:, None] * want.probs * (1 - want.probs)
    assert ulps(hessian, expected, hessian.dtype) <= 8


def test_gradient_and_hessian_take_probabilities_as_labels(backend: str) -> None:
    """lightgbm-org/LightGBM#6013: labels that are probabilities had to be copied class by class.

    A row [0.3, 0.3, 0.4] became three rows with weights, three times the memory.
    """
    probs = np.array([[0.3, 0.3, 0.4], [0.1, 0.7, 0.2], [0.2, 0.3, 0.5]])
    scores = random_logits((3, 3), np.float64, scale=2.0)
    want = exact(scores, probs)
    mass = probs.astype(np.longdouble).sum(1)
    found = fastxent.cross_entropy_grad_hess(scores, probs, backend=backend)
    assert_grad_hess(found, want, 1.0, mass)
    # The copies: a row for every class, weighted with its probability.
    copies, labels = np.repeat(scores, 3, 0), np.tile(np.arange(3), 3)
    gradient, hessian = fastxent.cross_entropy_grad_hess(
        copies, labels, sample_weight=probs.reshape(-1), backend=backend
    )
    assert np.abs(gradient.reshape(3, 3, 3).sum(1) - found[0]).max() < 1e-15
    assert np.abs(hessian.reshape(3, 3, 3).sum(1) - found[1]).max() < 1e-15


def test_every_row_can_have_its_own_probabilities_and_weight(backend: str) -> None:
    """dmlc/xgboost#3861: every instance had its own probabilities of the classes; none were taken.

    Gradient p - t and the Hessian's diagonal with that library's factor 2, weighted a row.
    """
    probs = np.array([[0.2, 0.4, 0.4], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.6, 0.2, 0.2]])
    scores = random_logits((4, 3), np.float64, seed=3)
    rows = np.array([1.0, 0.5, 0.0, 4.0])
    want = exact(scores, probs, sample_weight=rows)
    mass = rows * probs.astype(np.longdouble).sum(1)
    found = fastxent.cross_entropy_grad_hess(
        scores, probs, sample_weight=rows, hess_factor=2.0, backend=backend
    )
    assert_grad_hess(found, want, 2.0, mass)
    assert not found[0][2].any()
    assert not found[1][2].any()


def test_newton_steps_find_the_frequencies_of_the_classes(backend: str) -> None:
    """lightgbm-org/LightGBM#1308: with a softmax objective of the user's nothing was learnt.

    Scores were taken for probabilities. Here one leaf with a score a class is fitted by steps
    -sum(gradient)/sum(Hessian): the loss falls, and the softmax becomes the frequencies.
    """
    labels = np.repeat(np.arange(3), [50, 30, 20])
    leaf = np.zeros(3)
    before = _INFINITY
    for _ in range(80):
        scores = np.tile(leaf, (100, 1))
        loss = fastxent.cross_entropy(scores, labels, backend=backend)
        assert loss <= before + 1e-15
        before = loss
        gradient, hessian = fastxent.cross_entropy_grad_hess(
            scores, labels, hess_factor=2.0, backend=backend
        )
        leaf -= gradient.sum(0) / hessian.sum(0)
    found = fastxent.softmax(leaf, backend=backend)
    assert np.abs(found - [0.5, 0.3, 0.2]).max() < 1e-9
    frequencies = np.array([0.5, 0.3, 0.2], np.longdouble)
    assert_number(before, -(frequencies * np.log(frequencies)).sum())


def test_raw_scores_give_hessians_that_are_never_negative(backend: str) -> None:
    """lightgbm-org/LightGBM#4659: a softmax objective of the user's made no progress at all.

    2 s (1 - s) of raw scores s is negative outside [0, 1]; softmax comes first, and here it does.
    """
    rng = np.random.default_rng(12)
    scores = np.concatenate([rng.standard_normal((6, 5)) * s for s in (0.1, 5.0, 200.0)])
    labels = rng.integers(0, 5, 18)
    want = exact(scores, labels)
    found = fastxent.cross_entropy_grad_hess(scores, labels, backend=backend)
    gradient, hessian = found
    assert (hessian >= 0).all()
    assert (hessian <= 0.25).all()
    assert (np.abs(gradient) <= 1).all()
    assert np.abs(gradient.sum(1)).max() < 1e-15
    assert_gradient(gradient, want.gradient)
    # p (1 - p) by the other classes' sum: 25 digits of p do not hold 1 - p for confident rows.
    others = np.stack([np.delete(want.probs, j, axis=1).sum(1) for j in range(5)], axis=1)
    normal = want.probs * others > 1e-300
    assert ulps(hessian[normal], (want.probs * others)[normal], np.float64) <= 8


def test_scores_that_lie_class_after_class_need_only_the_axis(backend: str) -> None:
    """lightgbm-org/LightGBM#5839: scores came as one flat array, all rows of a class together.

    Reshaped as rows of classes they train nothing. Here the class axis is named, not guessed.
    """
    scores = random_logits((7, 3), np.float64)
    labels = np.random.default_rng(2).integers(0, 3, 7)
    flat = np.ascontiguousarray(scores.T).reshape(-1)
    gradient, hessian = fastxent.cross_entropy_grad_hess(
        flat.reshape(3, 7), labels, axis=0, backend=backend
    )
    want = exact(scores, labels)
    assert_gradient(gradient.T, want.gradient, want.scale)
    assert ulps(hessian.T, want.probs * (1 - want.probs), np.float64) <= 8
    assert gradient.flags.c_contiguous  # so that it can be given back flat
    assert hessian.flags.c_contiguous
    with pytest.raises(ValueError, match=r"\(7,\).*\(21,\)"):
        fastxent.cross_entropy_grad_hess(flat, labels, backend=backend)


def test_the_hessian_factor_and_the_first_scores_are_those_built_in(backend: str) -> None:
    """lightgbm-org/LightGBM#6219: a softmax objective of the user's gave other trees than built in.

    The one built in multiplies the Hessian by K/(K-1), and begins at the logarithms of the
    frequencies, where the gradient of every class adds up to 0.
    """
    labels = np.repeat(np.arange(3), [20, 30, 50])
    scores = random_logits((100, 3), np.float64, scale=1.0)
    want = exact(scores, labels)
    found = fastxent.cross_entropy_grad_hess(scores, labels, hess_factor=3 / 2, backend=backend)
    assert_grad_hess(found, want, 1.5, np.ones(100, np.longdouble))
    first = np.tile(np.log(np.bincount(labels) / 100), (100, 1))
    gradient, hessian = fastxent.cross_entropy_grad_hess(first, labels, backend=backend)
    assert np.abs(gradient.sum(0)).max() < 1e-13
    assert np.abs(hessian.sum(0) - [16.0, 21.0, 25.0]).max() < 1e-13


def test_every_test_names_its_thread_and_every_thread_has_its_test() -> None:
    tests = {
        name: value
        for name, value in globals().items()
        if name.startswith("test_") and not name.startswith("test_every_test_names")
    }
    assert sorted(THREADS.values()) == sorted(tests)
    for thread, name in THREADS.items():
        assert re.fullmatch(r"[\w-]+/[\w-]+#\d+", thread)
        found = tests[name].__doc__ or ""
        assert found.startswith(f"{thread}: ")
        assert re.findall(r"[\w-]+/[\w-]+#\d+", found) == [thread]
        assert len(found.split("\n")) > 2  # what went wrong there, in our words
