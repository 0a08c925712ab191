"""row_stats, second order, divergence, and states of shards."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import FLOATS, Array, random_logits, random_probs, same_bits

import fastxent

LOGITS = random_logits((4, 6), np.float64)
LABELS = np.array([0, 5, 2, 2])


def exact_log_softmax(logits: Array) -> Array:
    x = logits.astype(np.longdouble)
    below = x - x.max(-1, keepdims=True)
    result: Array = below - np.log(np.exp(below).sum(-1, keepdims=True))
    return result


def test_row_stats_are_those_of_the_softmax(backend: str) -> None:
    for dtype in FLOATS:
        for n_classes in (1, 6, 200, 20_000):
            logits = random_logits((5, n_classes), dtype)
            labels = np.arange(5) % n_classes
            stats = fastxent.row_stats(logits, labels, backend=backend)
            log_probs = exact_log_softmax(logits)
            probs = np.exp(log_probs)
            tolerance = 1e-14 if dtype.itemsize == 8 else 5e-7
            wide = np.float64 if dtype.itemsize == 8 else np.float32
            assert {array.dtype for array in stats} == {
                np.dtype(wide), np.dtype(np.int64), np.dtype(np.bool_),
            }  # fmt: skip
            for got, want in (
                (stats.logsumexp, (logits.astype(np.longdouble) - log_probs)[:, 0]),
                (stats.label_log_prob, log_probs[np.arange(5), labels]),
                (stats.entropy, -(probs * log_probs).sum(1)),
                (stats.max_prob, probs.max(1)),
            ):
                np.testing.assert_allclose(got, want.astype(np.float64), tolerance, 1e-17)
            assert np.array_equal(stats.argmax, logits.astype(np.float64).argmax(1))
            assert np.array_equal(stats.correct, stats.argmax == labels)
            losses = fastxent.cross_entropy(logits, labels, reduction="none", backend=backend)
            np.testing.assert_allclose(stats.losses, losses, tolerance)


def test_row_stats_without_labels_has_none_that_need_them(backend: str) -> None:
    stats = fastxent.row_stats(LOGITS, backend=backend)
    assert stats.losses is stats.label_log_prob is stats.correct is None
    assert np.array_equal(stats.argmax, LOGITS.argmax(1))


def test_row_stats_of_ignored_and_spoilt_rows(backend: str) -> None:
    logits = random_logits((5, 40))
    logits[1] = np.nan
    logits[2, 3] = np.nan
    logits[3] = -np.inf
    logits[4, 1] = np.inf
    stats = fastxent.row_stats(logits, np.array([1, -1, 0, 0, 0]), ignore_index=-1, backend=backend)
    assert stats.argmax.tolist()[1:] == [-1, -1, -1, -1]
    assert stats.correct is not None
    assert not stats.correct[1:].any()
    floats = [array for array in stats if array is not None and array.dtype.kind == "f"]
    assert len(floats) == 5
    for array in floats:
        assert array[1] == 0
        assert np.isfinite(array[0])
    assert np.isnan(stats.entropy[2:]).all()
    assert stats.logsumexp[3] == -np.inf
    assert stats.logsumexp[4] == np.inf


def test_row_stats_with_probabilities_and_the_first_of_several_maxima(backend: str) -> None:
    logits = np.array([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    probs = np.array([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    stats = fastxent.row_stats(logits, probs, class_weight=[1.0, 2.0, 3.0], backend=backend)
    assert stats.argmax.tolist() == [1, 0]
    assert stats.correct is not None
    assert stats.correct.tolist() == [True, False]
    want = (probs * exact_log_softmax(logits)).sum(1).astype(np.float64)
    np.testing.assert_allclose(stats.label_log_prob, want, rtol=1e-15)
    losses = fastxent.cross_entropy(
        logits, probs, class_weight=[1.0, 2.0, 3.0], reduction="none", backend=backend
    )
    np.testing.assert_allclose(stats.losses, losses, rtol=1e-15)


def test_the_hessian_is_the_derivative_of_the_gradient(backend: str) -> None:
    for n_classes in (6, 300):
        logits = random_logits((3, n_classes), np.float64)
        weights = np.linspace(0.5, 2, n_classes)
        options: dict[str, Any] = {
            "class_weight": weights, "sample_weight": [1, 0, 3], "label_smoothing": 0.1,
            "backend": backend,
        }  # fmt: skip
        for labels in (np.array([1, 2, 5]), random_probs((3, n_classes), np.float64)):
            gradient, hessian = fastxent.cross_entropy_grad_hess(
                logits, labels, hess_factor=2.0, **options
            )
            product = fastxent.cross_entropy_hvp(
                logits, labels, random_logits((3, n_classes), np.float64, seed=9), **options
            )
            step = 1e-6
            vectors = random_logits((3, n_classes), np.float64, seed=9)
            ahead, behind = (
                fastxent.cross_entropy_with_grad(
                    logits + sign * step * vectors, labels, reduction="none", **options
                )[1]
                for sign in (1, -1)
            )
            np.testing.assert_allclose(product, (ahead - behind) / (2 * step), 1e-6, 1e-8)
            for j in (0, 5):
                moved = np.zeros_like(logits)
                moved[:, j] = 1.0
                column = fastxent.cross_entropy_hvp(logits, labels, moved, **options)[:, j]
                np.testing.assert_allclose(hessian[:, j], 2 * column, rtol=1e-13)
            assert same_bits(
                gradient,
                fastxent.cross_entropy_with_grad(logits, labels, reduction="sum", **options)[1],
            )
            assert not hessian[1].any()
            assert not product[1].any()


def test_a_product_with_vectors_near_the_largest_float32_is_finite(backend: str) -> None:
    for n_classes in (3, 200, 3000):
        logits = np.zeros((2, n_classes), np.float32)
        logits[1] = random_logits((n_classes,), np.float32)
        vectors = np.full((2, n_classes), 1e38, np.float32)
        product = fastxent.cross_entropy_hvp(logits, np.array([0, 1]), vectors, backend=backend)
        assert np.isfinite(product).all()
        assert (abs(product) < 1e32).all()  # of a constant vector it is 0


def test_the_hessian_of_a_confident_row_keeps_its_digits(backend: str) -> None:
    for n_classes in (2, 500):
        logits = np.full((1, n_classes), -np.inf)
        logits[0, :2] = [50.0, 0.0]
        _, hessian = fastxent.cross_entropy_grad_hess(logits, np.array([0]), backend=backend)
        np.testing.assert_allclose(hessian[0, :2], np.exp(-50.0), rtol=1e-14)
        assert not hessian[0, 2:].any()


def test_a_divergence_of_nearly_equal_rows_keeps_its_digits(backend: str) -> None:
    mpmath = pytest.importorskip("mpmath")
    logits = random_logits((1, 30), np.float64)
    target = logits + 1e-9 * random_logits((1, 30), np.float64, seed=3)
    for temperature in (1.0, 3.0):
        got = fastxent.kl_divergence_with_logits(
            target, logits, temperature=temperature, backend=backend
        )
        with mpmath.workdps(50):
            rows = [
                [mpmath.mpf(float(x)) / mpmath.mpf(temperature) for x in row[0]]
                for row in (target, logits)
            ]
            totals = [mpmath.log(mpmath.fsum(map(mpmath.exp, row))) for row in rows]
            want = mpmath.fsum(
                mpmath.exp(u - totals[0]) * ((u - totals[0]) - (x - totals[1]))
                for u, x in zip(*rows, strict=True)
            )
        np.testing.assert_allclose(got, float(want), rtol=1e-8)


def test_a_divergence_and_its_gradient(backend: str) -> None:
    for dtype in FLOATS:
        logits, target = random_logits((5, 40), dtype), random_logits((5, 40), dtype, seed=2)
        logits[1, 3] = -np.inf
        target[1, 3] = -np.inf
        target[2, 5] = -np.inf
        weights = np.array([1.0, 2.0, 0.0, 1.0, 0.5])
        divergence, gradient = fastxent.kl_divergence_with_logits_and_grad(
            target, logits, temperature=2.0, sample_weight=weights, backend=backend
        )
        log_q, log_p = (
            exact_log_softmax(target / dtype.type(2)),
            exact_log_softmax(logits / dtype.type(2)),
        )
        q, p = np.exp(log_q), np.exp(log_p)
        rows = np.where(q == 0, 0, q * (np.where(q == 0, 0, log_q) - np.where(q == 0, 0, log_p)))
        want = (weights * rows.sum(1)).sum() / weights.sum()
        np.testing.assert_allclose(divergence, float(want), rtol=1e-6)
        slopes = weights[:, None] * (p - q) / 2 / weights.sum()
        tolerance = {2: 1e-2, 4: 1e-6, 8: 1e-13}[dtype.itemsize]
        np.testing.assert_allclose(
            gradient.astype(np.float64), slopes.astype(np.float64), tolerance, tolerance * 1e-2
        )
        alone = fastxent.kl_divergence_with_logits(
            target, logits, temperature=2.0, sample_weight=weights, backend=backend
        )
        assert same_bits(alone, divergence)


def test_a_divergence_is_infinite_where_the_target_has_mass_on_a_masked_class(backend: str) -> None:
    losses, gradient = fastxent.kl_divergence_with_logits_and_grad(
        np.array([[0.0, 0.0], [0.0, -np.inf], [np.nan, 0.0]]),
        np.array([[0.0, -np.inf], [0.0, -np.inf], [0.0, 0.0]]),
        reduction="none",
        backend=backend,
    )
    assert losses.tolist()[:2] == [np.inf, 0.0]
    assert np.isnan(losses[2])
    np.testing.assert_array_equal(gradient[:2], [[0.5, -0.5], [0.0, 0.0]])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_split_of_the_classes_changes_nothing_but_the_last_places(
    dtype: np.dtype[Any], backend: str
) -> None:
    rng = np.random.default_rng(5)
    logits = random_logits((4, 40_000), dtype)
    logits[1, :15_000] = -np.inf
    logits[3] = np.nan
    for labels in (np.array([0, 39_999, 20_000, -1]), random_probs((4, 40_000), dtype)):
        has_labels = labels.ndim == 1
        weights = rng.random(40_000)
        options: dict[str, Any] = {
            "label_smoothing": 0.1, "z_loss": 1e-3, "temperature": 1.3, "softcap": 40.0,
            "sample_weight": [1.0, 2.0, 0.5, 0.0], "ignore_index": -1 if has_labels else None,
        }  # fmt: skip
        bounds = [0, 1, 10_000, 17_000, 40_000]
        shards = [slice(a, b) for a, b in itertools.pairwise(bounds)]

        def labels_of(shard: slice) -> Array:
            part: Array = labels if has_labels else labels[:, shard]  # noqa: B023
            return part

        states = [
            fastxent.partial(
                logits[:, shard], labels_of(shard), class_offset=shard.start,
                class_weight=weights[shard], backend=backend, **options,
            )
            for shard in shards
        ]  # fmt: skip
        state = fastxent.merge(fastxent.merge(states[3], states[1]), states[0], states[2])
        state = pickle.loads(pickle.dumps(state))
        whole, gradient = fastxent.cross_entropy_with_grad(
            logits, labels, class_weight=weights, backend=backend, **options
        )
        tolerance = 1e-14 if dtype.itemsize == 8 else 1e-6
        np.testing.assert_allclose(fastxent.finish(state), whole, rtol=tolerance)
        parts = [
            fastxent.finish_grad(
                state, logits[:, shard], labels_of(shard), class_offset=shard.start,
                class_weight=weights[shard], ignore_index=options["ignore_index"],
            )
            for shard in shards
        ]  # fmt: skip
        joined = np.concatenate(parts, axis=1).astype(np.float64)
        tolerance = {2: 2e-2, 4: 1e-6, 8: 1e-13}[dtype.itemsize]
        np.testing.assert_allclose(joined, gradient.astype(np.float64), tolerance, 1e-7)


def state(**options: Any) -> fastxent.PartialState:
    return fastxent.partial(LOGITS, LABELS, **options)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nothing to merge": (fastxent.merge, TypeError, "at least one"),
    "not a state": (lambda: fastxent.merge(state(), 3), TypeError, "argument 1.*int"),  # type: ignore[arg-type]
    "finish without a state": (lambda: fastxent.finish(None), TypeError, "PartialState"),  # type: ignore[arg-type]
    "the same shard twice": (lambda: fastxent.merge(state(), state()), ValueError, "overlap"),
    "other options": (
        lambda: fastxent.merge(state(), state(temperature=2.0)), ValueError, "temperature is 1.0",
    ),
    "other weights": (
        lambda: fastxent.merge(state(), state(sample_weight=np.ones(4))), ValueError,
        "sample_weight",
    ),
    "a normalizer without a sum": (
        lambda: fastxent.finish(state(), reduction="none", normalizer=3.0),
        ValueError,
        "normalizer.*reduction='none'",
    ),
    "a shard at another offset": (
        lambda: fastxent.finish_grad(state(), LOGITS, LABELS, class_offset=2),
        ValueError,
        "classes 2 to 7.*none of the shards",
    ),
    "labels of another kind": (
        lambda: fastxent.finish_grad(state(), LOGITS, random_probs((4, 6), np.float64)),
        ValueError,
        "labels are probabilities.*class indices",
    ),
    "a label nowhere": (
        lambda: fastxent.finish(fastxent.partial(LOGITS[:, :3], LABELS)), ValueError, "row 1.*none",
    ),
    "a negative label": (
        lambda: fastxent.partial(LOGITS, np.array([0, -3, 1, 1])), ValueError,
        r"labels\[1\] is -3, which is not a class",
    ),
    "a negative offset": (lambda: state(class_offset=-1), ValueError, "class_offset"),
    "an offset that is no integer": (lambda: state(class_offset=1.0), TypeError, "class_offset"),
    "a shard of other rows": (
        lambda: fastxent.finish_grad(state(), LOGITS[:2], LABELS[:2]), ValueError, "do not fit",
    ),
    "a shard of another dtype": (
        lambda: fastxent.finish_grad(state(), LOGITS.astype(np.float32), LABELS), TypeError,
        "float64",
    ),
    "vectors of another shape": (
        lambda: fastxent.cross_entropy_hvp(LOGITS, LABELS, LOGITS[:, :3]), ValueError,
        r"vectors has shape \(4, 3\)",
    ),
    "integer vectors": (
        lambda: fastxent.cross_entropy_hvp(LOGITS, LABELS, np.ones((4, 6), int)), TypeError,
        "vectors must be",
    ),
    "a factor of 0": (
        lambda: fastxent.cross_entropy_grad_hess(LOGITS, LABELS, hess_factor=0.0), ValueError,
        "hess_factor",
    ),
    "target logits of another shape": (
        lambda: fastxent.kl_divergence_with_logits(LOGITS[:2], LOGITS), ValueError,
        "target_logits has shape",
    ),
    "out on the target logits": (
        lambda: fastxent.kl_divergence_with_logits_and_grad(
            (shared := LOGITS.copy()), LOGITS, out=shared
        ),
        ValueError,
        "out overlaps target_logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_is_one_clear_error(
    case: tuple[Callable[[], Any], type[Exception], str],
) -> None:
    call, error, message = case
    with pytest.raises(error, match=message):
        call()


def test_a_state_keeps_its_weights_whatever_becomes_of_theirs() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    kept = fastxent.partial(LOGITS, LABELS, sample_weight=weights)
    before = fastxent.finish(kept)
    weights[:] = 0
    assert fastxent.finish(kept) == before


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_known_of_a_single_row_are_numbers_that_json_takes(
    backend: str, dtype: np.dtype[Any]
) -> None:
    rows = random_logits((2, 6), dtype)
    row, options = rows[0], {"backend": backend}
    probs = random_probs((2, 6))
    state = fastxent.partial(row, 2, **options)
    states = fastxent.partial(rows, [2, 2], **options)
    losses: dict[str, Any] = {"reduction": "none", **options}
    numbers: list[tuple[Any, Any]] = [
        *zip(
            fastxent.row_stats(row, 2, **options),
            fastxent.row_stats(rows, [2, 2], **options),
            strict=True,
        ),
        *zip(
            fastxent.row_stats(row, probs[0], **options),
            fastxent.row_stats(rows, probs, **options),
            strict=True,
        ),
        (state.max_logit, states.max_logit),
        (state.sum_exp, states.sum_exp),
        (state.has_label, states.has_label),
        (fastxent.finish(state, reduction="none"), fastxent.finish(states, reduction="none")),
        (fastxent.cross_entropy(row, 2, **losses), fastxent.cross_entropy(rows, [2, 2], **losses)),
        (
            fastxent.cross_entropy(row, 2, z_loss=0.1, **losses),
            fastxent.cross_entropy(rows, [2, 2], z_loss=0.1, **losses),
        ),
        (
            fastxent.cross_entropy_with_grad(row, np.array(2), **losses)[0],
            fastxent.cross_entropy_with_grad(rows, np.array([2, 2]), **losses)[0],
        ),
        (
            fastxent.kl_divergence_with_logits(row[::-1], row, **losses),
            fastxent.kl_divergence_with_logits(rows[:, ::-1], rows, **losses),
        ),
        (
            fastxent.softmax_cross_entropy_with_logits(probs[0], row, **options),
            fastxent.softmax_cross_entropy_with_logits(probs, rows, **options),
        ),
        (
            fastxent.sparse_softmax_cross_entropy_with_logits(2, row, **options),
            fastxent.sparse_softmax_cross_entropy_with_logits([2, 2], rows, **options),
        ),
        (fastxent.logsumexp(row, **options), fastxent.logsumexp(rows, **options)),
        (fastxent.logsumexp(row, b=2, **options), fastxent.logsumexp(rows, b=2, **options)),
    ]
    for number, array in numbers:
        assert type(number) in (np.float64, int, bool)
        assert number == array[0]
        assert json.loads(json.dumps(number)) == number
    loss = fastxent.cross_entropy(row, 2, backend=backend)
    for mean in (loss, fastxent.finish(state, reduction="sum")):
        assert type(mean) is np.float64
    stats = fastxent.row_stats(row, **options)
    assert json.loads(json.dumps(stats._asdict()))["losses"] is None


def test_a_state_out_of_a_read_only_pickle_is_as_good() -> None:
    buffers: list[Any] = []
    kept = state(sample_weight=np.arange(4.0))
    data = pickle.dumps(kept, protocol=5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not again.numbers.flags.writeable
    assert fastxent.finish(again) == fastxent.finish(kept)
    assert fastxent.finish(fastxent.merge(again)) == fastxent.finish(kept)
    assert same_bits(
        fastxent.finish_grad(again, LOGITS, LABELS), fastxent.finish_grad(kept, LOGITS, LABELS)
    )


@pytest.mark.parametrize("n_threads", [1, 2])
def test_rows_done_a_few_at_a_time_have_the_same_bits(
    backend: str, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = random_logits((3, 17, 9))
    labels = np.random.default_rng(0).integers(0, 9, (3, 17))
    labels[1, 3] = -1
    weights: dict[str, Any] = {
        "class_weight": np.linspace(0, 2, 9), "sample_weight": np.arange(51.0).reshape(3, 17),
        "backend": backend, "n_threads": n_threads,
    }  # fmt: skip
    shards = [
        fastxent.partial(
            logits[..., k : k + 3], labels, class_offset=k, ignore_index=-1, backend=backend
        )
        for k in (0, 3, 6)
    ]

    def results() -> list[Array]:
        with_labels = fastxent.row_stats(logits, labels, ignore_index=-1, **weights)
        with_probs = fastxent.row_stats(logits, random_probs((3, 17, 9)), **weights)
        without = fastxent.row_stats(logits, **weights | {"class_weight": None})
        found = [*with_labels, *with_probs, *without, fastxent.merge(*shards).numbers]
        return [array for array in found if array is not None]

    want = results()
    for n_rows in (1, 7, 50, 51):
        for module in ("_call", "statistics", "partial"):
            monkeypatch.setattr(sys.modules[f"fastxent.{module}"], "ROWS_AT_A_TIME", n_rows)
        assert all(same_bits(a, b) for a, b in zip(results(), want, strict=True))
    monkeypatch.setattr("fastxent._call.ROWS_AT_A_TIME", 7)
    labels[2, 5] = labels[2, 16] = 9
    with pytest.raises(ValueError, match=r"labels\[2, 5\] is 9"):
        fastxent.row_stats(logits, labels, ignore_index=-1, **weights)


def test_a_product_with_large_vectors_is_not_lost(backend: str) -> None:
    for dtype, size in ((np.float32, 1e30), (np.float64, 1e300)):
        vectors = np.array([[size, -size]], dtype)
        product = fastxent.cross_entropy_hvp(
            np.zeros((1, 2), dtype), np.array([0]), vectors, backend=backend
        )
        np.testing.assert_allclose(product, vectors / 2, rtol=1e-6)


def test_empty_batches_go_through_everything(backend: str) -> None:
    logits, labels = np.empty((0, 3), np.float32), np.empty(0, int)
    options: dict[str, Any] = {"backend": backend}
    assert fastxent.row_stats(logits, labels, **options).losses is not None
    assert fastxent.cross_entropy_grad_hess(logits, labels, **options)[1].shape == (0, 3)
    assert fastxent.cross_entropy_hvp(logits, labels, logits, **options).shape == (0, 3)
    assert np.isnan(fastxent.kl_divergence_with_logits(logits, logits, **options))
    whole = fastxent.merge(fastxent.partial(logits, labels, **options))
    assert fastxent.finish(whole, empty="zero") == 0
    assert fastxent.finish_grad(whole, logits, labels).shape == (0, 3)
