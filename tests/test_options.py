"""Options of the loss: what they mean, and one clear error for each wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from support import BFLOAT16, FLOATS, Array, random_logits, random_probs, same_bits

import fastxent

LOGITS = random_logits((6, 5), np.float64)
LABELS = np.array([0, 4, 2, 2, 1, 3])
PROBS = random_probs((6, 5), np.float64)
CLASS_WEIGHT = np.array([1.0, 0.5, 2.0, 0.0, 3.0])
SAMPLE_WEIGHT = np.array([1.0, 2.0, 0.0, 0.5, 1.0, 4.0])


def log_softmax(logits: Array) -> Array:
    below = logits - logits.max(-1, keepdims=True)
    result: Array = below - np.log(np.exp(below).sum(-1, keepdims=True))
    return result


def row_losses(target: Array, class_weight: Array | float, e: float) -> Array:
    measure = class_weight * ((1 - e) * target + e / 5)
    losses: Array = -(measure * log_softmax(LOGITS)).sum(1)
    return losses


ONE_HOT = np.eye(5)[LABELS]


def test_options_combine_as_in_the_formula(backend: str) -> None:
    for labels, target in ((LABELS, ONE_HOT), (PROBS, PROBS)):
        losses = fastxent.cross_entropy(
            LOGITS, labels, class_weight=CLASS_WEIGHT, sample_weight=SAMPLE_WEIGHT,
            label_smoothing=0.2, z_loss=0.1, reduction="none", backend=backend,
        )  # fmt: skip
        logsumexp = fastxent.logsumexp(LOGITS)
        want = SAMPLE_WEIGHT * (row_losses(target, CLASS_WEIGHT, 0.2) + 0.1 * logsumexp**2)
        np.testing.assert_allclose(losses, want, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("labels", "mean_over", "denominator"),
    [
        (LABELS, "weight", (SAMPLE_WEIGHT * CLASS_WEIGHT[LABELS])[1:].sum()),
        (LABELS, "valid", 5.0),
        (LABELS, "rows", 6.0),
        (PROBS, "weight", SAMPLE_WEIGHT.sum()),
        (PROBS, "valid", 6.0),
        (PROBS, "rows", 6.0),
    ],
)
def test_a_mean_divides_by_what_is_asked_for(
    labels: Array, mean_over: Any, denominator: float, backend: str
) -> None:
    options: dict[str, Any] = {
        "class_weight": CLASS_WEIGHT, "sample_weight": SAMPLE_WEIGHT, "backend": backend,
        "ignore_index": 0 if labels is LABELS else None,
    }  # fmt: skip
    loss, gradient = fastxent.cross_entropy_with_grad(
        LOGITS, labels, mean_over=mean_over, **options
    )
    total, whole = fastxent.cross_entropy_with_grad(LOGITS, labels, reduction="sum", **options)
    assert loss == total / denominator
    np.testing.assert_allclose(gradient, whole / denominator, rtol=1e-14)


def test_a_normalizer_divides_the_sum(backend: str) -> None:
    total = fastxent.cross_entropy(LOGITS, LABELS, reduction="sum", backend=backend)
    for reduction in ("mean", "sum"):
        loss, gradient = fastxent.cross_entropy_with_grad(
            LOGITS, LABELS, reduction=reduction, normalizer=64, backend=backend
        )
        assert loss == total / 64
        _, whole = fastxent.cross_entropy_with_grad(
            LOGITS, LABELS, reduction="none", backend=backend
        )
        assert np.array_equal(gradient, whole / 64)


NOTHING: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "no rows": (np.empty((0, 5)), np.empty(0, int), {}),
    "every row ignored": (np.full((2, 5), np.nan), np.array([-1, -1]), {"ignore_index": -1}),
    "no weight": (LOGITS, LABELS, {"sample_weight": np.zeros(6)}),
    "no class weight": (LOGITS, LABELS, {"class_weight": np.zeros(5)}),
    "probabilities without weight": (LOGITS, PROBS, {"sample_weight": np.zeros(6)}),
}


@pytest.mark.parametrize("case", NOTHING.values(), ids=NOTHING.keys())
def test_a_mean_over_nothing_is_what_is_asked_for(
    case: tuple[Any, Any, dict[str, Any]], backend: str
) -> None:
    logits, labels, options = case
    for empty, wanted in (("nan", np.nan), ("zero", 0.0)):
        out = np.full_like(logits, 7.0)
        loss, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, empty=empty, out=out, backend=backend, **options
        )
        assert np.array_equal(loss, wanted, equal_nan=True)
        assert not gradient.any()
    out = np.full_like(logits, 7.0)
    with pytest.raises(ValueError, match=r"mean is over nothing.*empty='zero'"):
        fastxent.cross_entropy_with_grad(
            logits, labels, empty="raise", out=out, backend=backend, **options
        )
    assert (out == 7.0).all()
    total = fastxent.cross_entropy(
        logits, labels, empty="raise", reduction="sum", backend=backend, **options
    )
    assert total == 0


def test_rows_that_count_for_nothing_may_hold_anything(backend: str) -> None:
    for dtype in FLOATS:
        logits = random_logits((4, 30), dtype)
        logits[1] = np.nan
        logits[2] = -np.inf
        labels = np.array([3, 0, -1, 5])
        options: dict[str, Any] = {
            "sample_weight": [1, 0, 1, 2], "class_weight": np.ones(30), "label_smoothing": 0.1,
            "ignore_index": -1, "z_loss": 1e-3, "temperature": 2.0, "softcap": 20.0,
            "backend": backend,
        }  # fmt: skip
        losses, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", **options
        )
        assert losses[1] == losses[2] == 0
        assert not gradient[1:3].any()
        assert (losses[[0, 3]] > 0).all()
        assert np.isfinite(fastxent.cross_entropy(logits, labels, **options))


def test_smoothing_spreads_over_the_classes_that_are_not_masked(backend: str) -> None:
    for n_classes in (9, 300):
        logits = random_logits((3, n_classes), np.float64)
        masked = np.zeros(logits.shape, bool)
        masked[1, 1::2] = True
        masked[2, 2:] = True
        logits[masked] = -np.inf
        labels = np.array([1, 0, 0])
        options: dict[str, Any] = {"reduction": "none", "backend": backend}
        losses, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, label_smoothing=0.3, **options
        )
        for i in range(3):
            kept = ~masked[i]
            alone = fastxent.cross_entropy_with_grad(
                logits[i : i + 1, kept], labels[i : i + 1], label_smoothing=0.3, **options
            )
            np.testing.assert_allclose(losses[i], alone[0][0], rtol=1e-14)
            np.testing.assert_allclose(gradient[i, kept], alone[1][0], rtol=1e-12, atol=1e-17)
            assert not gradient[i, ~kept].any()


def test_a_softcap_keeps_masks_and_bounds_the_rest(backend: str) -> None:
    logits = np.array([[1e30, -1e30, 3.0, -np.inf]], np.float32)
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, np.array([1]), softcap=30.0, reduction="none", backend=backend
    )
    assert np.isclose(losses[0], 60.0)
    assert gradient[0, 3] == 0
    assert np.isfinite(gradient).all()
    infinite = np.array([[np.inf, 0.0]])
    assert np.isnan(fastxent.cross_entropy(infinite, np.array([0]), softcap=5.0, backend=backend))


def test_confident_rows_keep_their_digits_with_weights_and_temperature(backend: str) -> None:
    logits = np.array([[80.0, 0.0]], np.float32)
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, np.array([0]), class_weight=[3.0, 1.0], temperature=2.0, reduction="none",
        backend=backend,
    )  # fmt: skip
    want = 3 * np.log1p(np.exp(-40.0))
    np.testing.assert_allclose(losses, want, rtol=2e-7)
    np.testing.assert_allclose(gradient, [[-want / 2, want / 2]], rtol=4e-7)


def test_probabilities_have_a_gradient_of_their_own(backend: str) -> None:
    logits = random_logits((3, 4), np.float64)
    logits[0, 1] = -np.inf
    probs = random_probs((3, 4), np.float64)
    probs[0, 1] = 0
    loss, gradient, labels_gradient = fastxent.cross_entropy_with_grad(
        logits, probs, class_weight=[1, 2, 3, 4], label_smoothing=0.1, grad_labels=True,
        backend=backend,
    )  # fmt: skip
    assert same_bits(
        loss,
        fastxent.cross_entropy(
            logits, probs, class_weight=[1, 2, 3, 4], label_smoothing=0.1, backend=backend
        ),
    )
    assert gradient.shape == logits.shape
    want = -np.array([1, 2, 3, 4]) * 0.9 * log_softmax(logits) / 3
    want[0, 1] = 0
    np.testing.assert_allclose(labels_gradient, want, rtol=1e-13)
    with pytest.raises(ValueError, match=r"grad_labels.*class indices"):
        fastxent.cross_entropy_with_grad(logits, np.array([0, 1, 2]), grad_labels=True)


def test_options_go_with_every_axis_and_layout(backend: str) -> None:
    for dtype in (np.float32, np.float64):
        for n_classes in (7, 150):
            rows = random_logits((6, n_classes), dtype)
            labels = np.arange(6) % n_classes
            options: dict[str, Any] = {
                "class_weight": np.linspace(0.5, 2, n_classes), "label_smoothing": 0.1,
                "z_loss": 1e-3, "reduction": "none", "backend": backend,
            }  # fmt: skip
            weights = np.linspace(0, 2, 6)
            losses, gradient = fastxent.cross_entropy_with_grad(
                rows, labels, sample_weight=weights, **options
            )
            moved = np.ascontiguousarray(np.moveaxis(rows.reshape(2, 3, n_classes), -1, 1))
            other = fastxent.cross_entropy_with_grad(
                moved, labels.reshape(2, 3), sample_weight=weights.reshape(2, 3), axis=1, **options
            )
            assert same_bits(other[0].reshape(-1), losses)
            assert same_bits(np.moveaxis(other[1], 1, -1).reshape(rows.shape), gradient)


def test_weights_may_lie_where_the_output_goes(backend: str) -> None:
    shared = np.zeros((6, 5))
    views = {"class_weight": shared[0], "sample_weight": shared.reshape(-1)[5:11]}
    views["class_weight"][:] = CLASS_WEIGHT
    views["sample_weight"][:] = SAMPLE_WEIGHT
    weights = {"class_weight": CLASS_WEIGHT, "sample_weight": SAMPLE_WEIGHT}
    want = fastxent.cross_entropy_with_grad(LOGITS, LABELS, backend=backend, **weights)
    got = fastxent.cross_entropy_with_grad(LOGITS, LABELS, out=shared, backend=backend, **views)
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])


def test_class_weights_go_with_either_byte_order(backend: str) -> None:
    for code in ("f4", "f8"):
        native = LOGITS.astype(code)
        swapped = native.astype(f">{code}")
        losses = [
            fastxent.cross_entropy(each, LABELS, class_weight=CLASS_WEIGHT, backend=backend)
            for each in (native, swapped)
        ]
        assert losses[0] == losses[1]


def test_class_weights_by_class_are_1_where_none_is_given(backend: str) -> None:
    for weights, want in (
        ({}, [1, 1, 1, 1, 1]),
        ({0: 2.0, 3: 0}, [2, 1, 1, 0, 1]),
        ({np.int64(4): np.float32(0.5), 1: 3}, [1, 3, 1, 1, 0.5]),
        (MappingProxyType({2: 4.0}), [1, 1, 4, 1, 1]),
    ):
        got = fastxent.cross_entropy_with_grad(
            LOGITS, LABELS, class_weight=weights, backend=backend
        )
        array = np.array(want, float)
        same = fastxent.cross_entropy_with_grad(LOGITS, LABELS, class_weight=array, backend=backend)
        assert same_bits(got[0], same[0])
        assert same_bits(got[1], same[1])
    with pytest.raises(TypeError, match=r"class_weight is a mapping.*this shard.*array"):
        fastxent.partial(LOGITS, LABELS, class_weight={0: 2.0}, class_offset=5, backend=backend)


def test_balanced_weights_follow_from_the_counts_as_the_error_says(backend: str) -> None:
    with pytest.raises(TypeError, match=r"class_weight.*'balanced'") as error:
        fastxent.cross_entropy(LOGITS, LABELS, class_weight="balanced", backend=backend)
    labels = np.array([0, 2, 2, 2, 4, 0])
    counts_as = re.search(r"counts = (np\.bincount\(.*?\))", str(error.value))
    formula = re.search(r"they are (.*)$", str(error.value))
    assert counts_as
    assert formula
    counts = eval(counts_as[1], {"np": np, "labels": labels})
    weights = eval(formula[1], {"np": np, "counts": counts})
    assert weights[[0, 2, 4]].tolist() == [6 / (5 * 2), 6 / (5 * 3), 6 / (5 * 1)]
    assert np.isfinite(
        fastxent.cross_entropy(LOGITS, labels, class_weight=weights, backend=backend)
    )


def test_a_mask_is_sample_weights_of_1_and_0(backend: str) -> None:
    mask = np.array([True, False, True, True, False, True])
    for given in (mask, mask.tolist()):
        for labels in (LABELS, PROBS):
            got = fastxent.cross_entropy_with_grad(
                LOGITS, labels, sample_weight=given, backend=backend
            )
            want = fastxent.cross_entropy_with_grad(
                LOGITS, labels, sample_weight=mask.astype(float), backend=backend
            )
            assert same_bits(got[0], want[0])
            assert same_bits(got[1], want[1])


@pytest.mark.parametrize(
    "name", ["temperature", "label_smoothing", "normalizer", "softcap", "z_loss"]
)
def test_an_array_of_one_number_is_a_number(name: str, backend: str) -> None:
    options: dict[str, Any] = {"backend": backend}
    want = fastxent.cross_entropy(LOGITS, LABELS, **{name: 0.5}, **options)
    for given in (
        np.array(0.5), np.array([0.5]), np.array([[0.5]], np.float32), np.float16(0.5),
        BFLOAT16.type(0.5), np.array([0.5], BFLOAT16), Fraction(1, 2), np.array([0.5], ">f8"),
    ):  # fmt: skip
        assert fastxent.cross_entropy(LOGITS, LABELS, **{name: given}, **options) == want
    for many in (np.full(6, 0.5), np.array([]), np.full((1, 2), 0.5)):
        with pytest.raises(TypeError, match=rf"{name} must be one number for all rows.*shape"):
            fastxent.cross_entropy(LOGITS, LABELS, **{name: many}, **options)


def test_negative_weights_have_the_way_out_that_their_error_says(backend: str) -> None:
    sample_weight = np.array([1.0, -2.0, 0.5, 1.0, 0.0, 3.0])
    class_weight = np.array([1.0, -1.0, 2.0, 0.5, 0.0])
    losses = fastxent.cross_entropy(LOGITS, LABELS, reduction="none", backend=backend)
    for options, sum_of in (
        ({"sample_weight": sample_weight}, "sample_weight * losses"),
        ({"class_weight": class_weight}, "class_weight[labels] * losses"),
    ):
        with pytest.raises(ValueError, match=r"\[1\] is -.*reduction='none'") as error:
            fastxent.cross_entropy(LOGITS, LABELS, **options, backend=backend)
        assert f"sum {sum_of} yourself" in str(error.value)
        terms = eval(sum_of, {**options, "losses": losses, "labels": LABELS})
        positive = {name: np.maximum(value, 0) for name, value in options.items()}
        negative = {name: np.maximum(-value, 0) for name, value in options.items()}
        plus, minus = (
            fastxent.cross_entropy(LOGITS, LABELS, reduction="sum", **each, backend=backend)
            for each in (positive, negative)
        )
        np.testing.assert_allclose(terms.sum(), plus - minus, rtol=1e-13)


def wrong(**options: Any) -> Callable[[], Any]:
    return lambda: fastxent.cross_entropy(LOGITS, LABELS, **options)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "smoothing above 1": (wrong(label_smoothing=1.1), ValueError, "label_smoothing .* 0 to 1.*1.1"),
    "smoothing below 0": (wrong(label_smoothing=-0.1), ValueError, "label_smoothing"),
    "smoothing NaN": (wrong(label_smoothing=np.nan), ValueError, "label_smoothing.*nan"),
    "smoothing as text": (wrong(label_smoothing="0.1"), TypeError, "label_smoothing.*'0.1'"),
    "smoothing as an array": (wrong(label_smoothing=np.ones(3)), TypeError, "label_smoothing"),
    "smoothing as a bool": (wrong(label_smoothing=True), TypeError, "label_smoothing.*True"),
    "temperature 0": (wrong(temperature=0.0), ValueError, "temperature must be from.*0.0"),
    "temperature infinite": (wrong(temperature=np.inf), ValueError, "temperature"),
    "temperature None": (wrong(temperature=None), TypeError, "temperature.*number"),
    "softcap 0": (wrong(softcap=0.0), ValueError, "softcap.*None is no cap"),
    "softcap negative": (wrong(softcap=-1), ValueError, "softcap"),
    "z_loss negative": (wrong(z_loss=-1e-4), ValueError, "z_loss"),
    "normalizer 0": (wrong(normalizer=0), ValueError, "normalizer.*above 0"),
    "normalizer infinite": (wrong(normalizer=np.inf), ValueError, "normalizer"),
    "normalizer without a sum": (
        wrong(normalizer=3, reduction="none"), ValueError, "normalizer.*reduction='none'",
    ),
    "normalizer and mean_over": (
        wrong(normalizer=3, mean_over="rows"), ValueError, "normalizer.*mean_over='rows'",
    ),
    "mean_over unknown": (wrong(mean_over="all"), ValueError, "mean_over.*'weight'.*'all'"),
    "empty unknown": (wrong(empty=None), ValueError, "empty.*'nan'.*None"),
    "class weights too few": (
        wrong(class_weight=[1, 2]), ValueError, r"class_weight has shape \(2,\).*\(5,\)",
    ),
    "class weight negative": (
        wrong(class_weight=[1, 1, -2, 1, 1]), ValueError, r"class_weight\[2\] is -2.0",
    ),
    "class weight NaN": (
        wrong(class_weight=[1, 1, 1, np.nan, 1]), ValueError, r"class_weight\[3\] is nan",
    ),
    "class weights as text": (wrong(class_weight=list("abcde")), TypeError, "class_weight.*real"),
    "class weights complex": (wrong(class_weight=np.ones(5, complex)), TypeError, "class_weight"),
    "sample weights of another shape": (
        wrong(sample_weight=np.ones((6, 1))), ValueError, r"sample_weight has shape \(6, 1\)",
    ),
    "sample weight infinite": (
        wrong(sample_weight=[1, 1, 1, 1, np.inf, 1]), ValueError, r"sample_weight\[4\] is inf",
    ),
    "class weight too large": (
        wrong(class_weight=[1, 1e39, 1, 1, 1]),
        ValueError,
        r"class_weight\[1\] is 1e\+39.*1e\+30",
    ),
    "class weights by text": (
        wrong(class_weight={"a": 1.0}), TypeError, "class_weight has the key 'a'.*integers",
    ),
    "class weights by bool": (
        wrong(class_weight={True: 1.0}), TypeError, "class_weight has the key True",
    ),
    "class weights of an unknown class": (
        wrong(class_weight={0: 1.0, 5: 2.0}), ValueError, r"class_weight has the key 5.*\(0 to 4\)",
    ),
    "class weights of a negative class": (
        wrong(class_weight={-1: 2.0}), ValueError, "class_weight has the key -1",
    ),
    "class weight by class negative": (
        wrong(class_weight={3: -2.0}), ValueError, r"class_weight\[3\] is -2.0",
    ),
    "class weight by class missing": (
        wrong(class_weight={3: None}), TypeError, r"class_weight\[3\] must be a number, not None",
    ),
    "class weights as a word": (wrong(class_weight="auto"), TypeError, "class_weight.*'auto'"),
    "class weights as a mask": (
        wrong(class_weight=[True] * 5),
        TypeError,
        r"class_weight.*booleans.*np.asarray\(class_weight",
    ),
    "class weights of rows": (
        wrong(class_weight=np.ones(6)), ValueError, r"class_weight has shape \(6,\).*sample_weight",
    ),
    "class weights in a row": (
        wrong(class_weight=np.ones((1, 5))), ValueError, r"np.reshape\(class_weight, \(5,\)\)",
    ),
    "one class weight": (wrong(class_weight=2.0), ValueError, r"np.full\(\(5,\), 2.0\)"),
    "sample weights of classes": (
        wrong(sample_weight=np.ones(5)), ValueError, "sample_weight has shape.*class_weight",
    ),
    "sample weights by row": (wrong(sample_weight={0: 1.0}), TypeError, "sample_weight.*a dict"),
    "sample weights as a word": (
        wrong(sample_weight="balanced"), TypeError, "sample_weight.*text.*'balanced'",
    ),
    "sample weight NaN": (
        wrong(sample_weight=[1, 1, np.nan, 1, 1, 1]), ValueError, r"\[2\] is nan.*0 leaves out",
    ),
    "mean_over as an array": (wrong(mean_over=np.array(["rows", "rows"])), ValueError, "mean_over"),
    "smoothing as an array of text": (
        wrong(label_smoothing=np.array("0.1")),
        TypeError,
        "label_smoothing",
    ),
    "a normalizer beyond all floats": (wrong(normalizer=10**400), ValueError, "normalizer"),
    "ignore_index with probabilities": (
        lambda: fastxent.cross_entropy(LOGITS, PROBS, ignore_index=-100, label_smoothing=0.1),
        ValueError,
        "ignore_index",
    ),
    "grad_labels not a bool": (
        lambda: fastxent.cross_entropy_with_grad(LOGITS, PROBS, grad_labels=PROBS),  # type: ignore[arg-type]
        TypeError,
        "grad_labels must be True or False",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_one_clear_error(
    case: tuple[Callable[[], Any], type[Exception], str],
) -> None:
    call, error, message = case
    with pytest.raises(error, match=message):
        call()


def test_options_do_not_depend_on_the_threads(backend: str) -> None:
    logits = random_logits((3, 70_000))
    labels = np.array([0, 69_999, 20_000])
    options: dict[str, Any] = {
        "class_weight": np.random.default_rng(0).random(70_000), "label_smoothing": 0.1,
        "z_loss": 1e-4, "temperature": 1.5, "softcap": 20.0, "backend": backend,
    }  # fmt: skip
    for labels_or_probs in (labels, random_probs((3, 70_000))):
        one = fastxent.cross_entropy_with_grad(logits, labels_or_probs, n_threads=1, **options)
        for n_threads in (2, 3):
            more = fastxent.cross_entropy_with_grad(
                logits, labels_or_probs, n_threads=n_threads, **options
            )
            assert same_bits(more[0], one[0])
            assert same_bits(more[1], one[1])
