"""fastxent against TensorFlow: its two losses, their gradients, and the facts its tests hold."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from peers import peer
from support import (
    BFLOAT16,
    FLOATS,
    Array,
    exact_cross_entropy,
    loss_dtype,
    random_logits,
    random_probs,
    same_bits,
    ulps,
)

import fastxent

tf: Any = peer("tensorflow")

INVALID: Any = tf.errors.InvalidArgumentError
# Units of the dtype at the largest term of a row: ours is within 4 units in the last place of the
# result, which is smaller; TensorFlow rounds each term and their sum.
EPSILONS = 4


def eps(dtype: np.dtype[Any]) -> float:
    return 2.0**-7 if dtype == BFLOAT16 else float(np.finfo(dtype).eps)


def assert_close(got: Any, want: Any, dtype: np.dtype[Any], scale: float) -> None:
    """No further apart than rounding to `dtype` explains; ours are float32 for 16 bits."""
    np.testing.assert_allclose(
        np.asarray(got, np.float64),
        np.asarray(want, np.float64),
        rtol=0,
        atol=EPSILONS * eps(dtype) * scale,
    )


def row_scale(logits: Array, labels: Array, axis: int) -> float:
    """The largest term of a row's loss: the spread of its logits, times its labels' mass."""
    x = logits.astype(np.float64)
    spread = float(np.ptp(x, axis=axis).max(initial=0.0)) + math.log(x.shape[axis]) + 1.0
    mass = 1.0 if labels.dtype.kind in "iu" else float(labels.astype(float).sum(axis).max())
    return spread * max(mass, 1.0)


def dense(logits: Array, labels: Array, axis: int = -1) -> tuple[Array, Array, Array]:
    """TensorFlow's losses from probabilities, and the gradients of their sum by both arrays."""
    x, t = tf.constant(logits), tf.constant(labels)
    with tf.GradientTape() as tape:
        tape.watch([x, t])
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=t, logits=x, axis=axis)
    by_logits, by_labels = tape.gradient(losses, [x, t])
    return losses.numpy(), by_logits.numpy(), by_labels.numpy()


def sparse(logits: Array, labels: Array) -> tuple[Array, Array]:
    """TensorFlow's losses from class indices, and the gradient of their sum by the logits."""
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)
    return np.asarray(losses.numpy()), tape.gradient(losses, x).numpy()


def exact_losses(logits: Array, labels: Array) -> Array:
    """Of 50 digits, rows along the first axis; a masked class without mass costs nothing."""
    losses = []
    with mpmath.workdps(50):
        for x, t in zip(logits.tolist(), labels.tolist(), strict=True):
            lse = mpmath.log(mpmath.fsum(mpmath.exp(value) for value in x))
            terms = (m * (lse - value) for value, m in zip(x, t, strict=True) if m)
            losses.append(np.longdouble(mpmath.nstr(mpmath.fsum(terms), 30)))
    return np.array(losses)


# ---- probabilities


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 5, 4), (2, 3, 4, 5), (6, 1)])
def test_losses_from_probabilities_are_tensorflows_along_every_axis(
    shape: tuple[int, ...], dtype: np.dtype[Any], backend: str
) -> None:
    logits = random_logits(shape, dtype, seed=1)
    labels = random_probs(shape, np.float32, seed=2).clip(1e-3).astype(dtype)
    for axis in (*range(len(shape)), -1):
        want, _, want_to_labels = dense(logits, labels, axis)
        losses, grad_logits, to_labels = fastxent.cross_entropy_with_grad(
            logits, labels, axis=axis, reduction="none", grad_labels=True, backend=backend
        )
        scale = row_scale(logits, labels, axis)
        assert_close(losses, want, dtype, scale)
        # of a single row it is a number
        assert losses.dtype == (loss_dtype(dtype) if losses.ndim else np.float64)
        assert grad_logits.dtype == dtype
        # By the labels a loss is a list of its row's -log_softmax.
        assert_close(to_labels, want_to_labels, dtype, row_scale(logits, np.zeros(1, int), axis))
        twin = fastxent.softmax_cross_entropy_with_logits(labels, logits, axis, backend=backend)
        assert same_bits(twin, losses)


def test_tensorflow_counts_no_axis_from_the_end_but_the_last(backend: str) -> None:
    logits, labels = random_logits((3, 5, 4), np.float64), random_probs((3, 5, 4), np.float64)
    with pytest.raises(INVALID):
        dense(logits, labels, -2)
    twin = fastxent.softmax_cross_entropy_with_logits
    assert same_bits(
        twin(labels, logits, -2, backend=backend), twin(labels, logits, 1, backend=backend)
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradients_of_normalised_probabilities_are_tensorflows(
    axis: int, dtype: np.dtype[Any], backend: str
) -> None:
    """One label of mass 1 or four of a quarter: their sum is exactly 1 in every dtype."""
    shape = (4, 4, 4)
    logits = random_logits(shape, dtype, seed=3)
    one_hot = np.eye(4)[np.random.default_rng(4).integers(0, 4, (4, 4))]
    one_hot[0] = 0.25
    labels = np.moveaxis(one_hot, -1, axis).astype(dtype)
    want, want_grad, _ = dense(logits, labels, axis)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, axis=axis, reduction="none", backend=backend
    )
    assert_close(losses, want, dtype, row_scale(logits, labels, axis))
    assert_close(grad_logits, want_grad, dtype, row_scale(logits, labels, axis))


@pytest.mark.parametrize("mass", [0.0, 0.5, 3.0])
def test_tensorflow_takes_every_mass_for_1_in_its_gradient(mass: float, backend: str) -> None:
    """TensorFlow has softmax - labels whatever the labels sum to, which is not the gradient of its
    loss. Ours is: mass * softmax - labels. Differentiating TensorFlow's own formula agrees."""
    logits = random_logits((6, 4), np.float64, seed=5)
    labels = np.random.default_rng(6).random((6, 4))
    labels *= mass / labels.sum(-1, keepdims=True)
    probs = tf.nn.softmax(logits).numpy()
    want, their_grad, _ = dense(logits, labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    float64 = np.dtype(np.float64)
    scale = row_scale(logits, labels, 1)
    assert_close(losses, want, float64, scale)
    assert_close(their_grad, probs - labels, float64, scale)
    assert_close(grad_logits, mass * probs - labels, float64, scale)
    assert np.abs(grad_logits - their_grad).max() > 0.25
    x, t = tf.constant(logits), tf.constant(labels)
    with tf.GradientTape() as tape:
        tape.watch(x)
        spelled_out = -tf.reduce_sum(t * tf.nn.log_softmax(x))
    assert_close(grad_logits, tape.gradient(spelled_out, x), float64, scale)


def test_second_derivatives_are_tensorflows(backend: str) -> None:
    logits = random_logits((6, 4), np.float64, seed=7)
    vectors = random_logits((6, 4), np.float64, seed=8)
    labels = np.random.default_rng(9).integers(0, 4, 6)
    x, v = tf.constant(logits), tf.constant(vectors)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=x)
        first = inner.gradient(losses, x)
        along = tf.reduce_sum(first * v)
    want = outer.gradient(along, x)
    got = fastxent.cross_entropy_hvp(logits, labels, vectors, backend=backend)
    scale = row_scale(logits, labels, 1) * np.abs(vectors).max()
    assert_close(got, want, np.dtype(np.float64), scale)
    _, hess_logits = fastxent.cross_entropy_grad_hess(logits, labels, backend=backend)
    rows = outer.batch_jacobian(first, x).numpy()
    assert_close(hess_logits, rows.diagonal(axis1=1, axis2=2), np.dtype(np.float64), scale)


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 4), (2, 0, 4)])
def test_empty_batches_of_probabilities_have_no_losses(
    shape: tuple[int, ...], backend: str
) -> None:
    empty = np.zeros(shape, np.float32)
    want, want_grad, _ = dense(empty, empty)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        empty, empty, reduction="none", backend=backend
    )
    twin = fastxent.softmax_cross_entropy_with_logits(empty, empty, backend=backend)
    assert same_bits(losses, want)
    assert same_bits(twin, want)
    assert same_bits(grad_logits, want_grad)


# ---- class indices


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("integers", [np.int32, np.int64])
@pytest.mark.parametrize("batch", [(), (7,), (3, 4), (2, 3, 2)])
def test_losses_and_gradients_from_class_indices_are_tensorflows(
    batch: tuple[int, ...], integers: Any, dtype: np.dtype[Any], backend: str
) -> None:
    logits = random_logits((*batch, 5), dtype, seed=10)
    labels = np.asarray(np.random.default_rng(11).integers(0, 5, batch), integers)
    want, want_grad = sparse(logits, labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    scale = row_scale(logits, labels, -1)
    assert_close(losses, want, dtype, scale)
    assert_close(grad_logits, want_grad, dtype, scale)
    twin = fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    assert same_bits(twin, losses)


@pytest.mark.parametrize("integers", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 4), (2, 0, 4)])
def test_empty_batches_of_class_indices_have_no_losses(
    shape: tuple[int, ...], integers: Any, backend: str
) -> None:
    logits, labels = np.zeros(shape, np.float64), np.zeros(shape[:-1], integers)
    want, want_grad = sparse(logits, labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    twin = fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    assert same_bits(losses, want)
    assert same_bits(twin, want)
    assert same_bits(grad_logits, want_grad)


@pytest.mark.parametrize("label", [4, -1, -100, 2**40])
def test_a_label_that_is_no_class_is_refused_by_both(label: int, backend: str) -> None:
    logits, labels = np.zeros((3, 4), np.float32), np.array([0, label, 1])
    with pytest.raises(INVALID, match=str(label)):
        sparse(logits, labels)
    with pytest.raises(ValueError, match=str(label)):
        fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    with pytest.raises(ValueError, match=str(label)):
        fastxent.cross_entropy(logits, labels, backend=backend)


def test_tensorflow_compiled_has_nan_for_a_label_that_is_no_class() -> None:
    """Compilation takes its check away."""
    compiled = tf.function(tf.nn.sparse_softmax_cross_entropy_with_logits, jit_compile=True)
    losses = compiled(labels=tf.constant([3, -1, 0]), logits=tf.zeros((3, 3)))
    np.testing.assert_array_equal(np.isnan(losses), [True, True, False])


@pytest.mark.parametrize("integers", [np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.uint64])
def test_tensorflow_has_no_class_indices_of_other_widths(integers: Any, backend: str) -> None:
    logits, labels = random_logits((3, 4), np.float32), np.array([0, 3, 1], integers)
    with pytest.raises(INVALID):
        sparse(logits, labels)
    twin = fastxent.sparse_softmax_cross_entropy_with_logits
    assert same_bits(
        twin(labels, logits, backend=backend),
        twin(labels.astype(np.int64), logits, backend=backend),
    )


# ---- the facts that TensorFlow's own tests hold, derived again

E1, E2, E3 = math.e, math.e**2, math.e**3
RISING = np.array([1.0, E1, E2, E3]) / (1 + E1 + E2 + E3)  # softmax of 1, 2, 3, 4
TWO_ROWS = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equal_and_rising_logits_have_the_known_losses_and_gradients(
    dtype: np.dtype[Any], backend: str
) -> None:
    """Four equal logits cost log(4). Half a label on each of the middle ones of four rising logits
    costs half the sum of their distances from logsumexp."""
    labels = np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 0.5, 0.5, 0.0]])
    lse = 1 + math.log(1 + E1 + E2 + E3)
    want = np.array([math.log(4), lse - 2.5])
    want_grad = np.array([[0.25] * 4, RISING]) - labels
    logits, labels = TWO_ROWS.astype(dtype), labels.astype(dtype)
    for losses, grad_logits in (
        dense(logits, labels)[:2],
        fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend),
    ):
        assert_close(losses, want, dtype, 2.0)
        assert_close(grad_logits, want_grad, dtype, 1.0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("integers", [np.int32, np.int64])
def test_the_last_of_equal_and_the_first_of_rising_logits_have_the_known_losses(
    integers: Any, dtype: np.dtype[Any], backend: str
) -> None:
    labels = np.array([3, 0], integers)
    want = np.array([math.log(4), math.log(1 + E1 + E2 + E3)])
    want_grad = np.array([[0.25] * 4, RISING]) - np.eye(4)[labels]
    logits = TWO_ROWS.astype(dtype)
    for losses, grad_logits in (
        sparse(logits, labels),
        fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend),
    ):
        assert_close(losses, want, dtype, 2.0)
        assert_close(grad_logits, want_grad, dtype, 1.0)


def test_a_single_class_costs_nothing_whatever_its_mass(backend: str) -> None:
    """Nor does it move: the only class has probability 1. TensorFlow's gradient is 1 - label, and
    it takes negative labels, which we refuse."""
    logits = np.array([[1.0], [-1.0], [0.0], [1.0]], np.float32)
    labels = np.array([[-1.0], [0.0], [1.0], [2.0]], np.float32)
    theirs, their_grad, _ = dense(logits, labels)
    np.testing.assert_array_equal(theirs, np.zeros(4))
    np.testing.assert_array_equal(their_grad, 1 - labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits[1:], labels[1:], reduction="none", backend=backend
    )
    assert not losses.any()
    assert not grad_logits.any()
    with pytest.raises(ValueError, match="labels"):
        fastxent.softmax_cross_entropy_with_logits(labels, logits, backend=backend)


def test_a_single_class_of_class_indices_costs_nothing(backend: str) -> None:
    logits, labels = np.array([[1.0], [-1.0], [0.0]], np.float32), np.zeros(3, np.int64)
    for losses, grad_logits in (
        sparse(logits, labels),
        fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend),
    ):
        assert not losses.any()
        assert not grad_logits.any()


def test_shapes_that_do_not_fit_are_refused_by_both(backend: str) -> None:
    logits = np.zeros((2, 3), np.float32)
    for labels in (np.zeros((3, 2), np.float32), np.zeros((2, 2), np.float32)):
        with pytest.raises((INVALID, ValueError)):
            dense(logits, labels)
        with pytest.raises(ValueError, match="shape"):
            fastxent.softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    for indices in (np.zeros((3,), np.int64), np.zeros((2, 3), np.int64), np.int64(0)):
        with pytest.raises((INVALID, ValueError)):
            sparse(logits, np.asarray(indices))
        with pytest.raises(ValueError, match="shape"):
            fastxent.sparse_softmax_cross_entropy_with_logits(indices, logits, backend=backend)
    with pytest.raises((INVALID, ValueError)):
        sparse(np.array(1, np.float32), np.array(0))
    with pytest.raises(ValueError, match="single number"):
        fastxent.sparse_softmax_cross_entropy_with_logits(
            np.int64(0), np.float32(1), backend=backend
        )


def test_tensorflow_repeats_a_row_of_labels_and_we_do_not(backend: str) -> None:
    labels = np.array([[0.0, 0.0, 0.0, 1.0]])
    theirs = tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=TWO_ROWS)
    want = [math.log(4), math.log(1 + E1 + E2 + E3) - 3]
    assert_close(theirs, want, np.dtype(np.float64), 2.0)
    with pytest.raises(ValueError, match="shape"):
        fastxent.softmax_cross_entropy_with_logits(labels, TWO_ROWS, backend=backend)
    repeated = fastxent.softmax_cross_entropy_with_logits(
        np.broadcast_to(labels, (2, 4)), TWO_ROWS, backend=backend
    )
    assert_close(repeated, want, np.dtype(np.float64), 2.0)


def test_tensorflow_has_losses_without_classes_and_we_do_not(backend: str) -> None:
    """From class indices neither has them."""
    empty = np.zeros((2, 0), np.float32)
    assert not dense(empty, empty)[0].any()
    with pytest.raises(ValueError, match="no classes"):
        fastxent.softmax_cross_entropy_with_logits(empty, empty, backend=backend)
    with pytest.raises(INVALID, match="at least one class"):
        sparse(empty, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="no classes"):
        fastxent.sparse_softmax_cross_entropy_with_logits(
            np.zeros(2, np.int64), empty, backend=backend
        )


# ---- infinities and NaN


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_trouble_in_a_row_is_nan_for_both_and_stays_there(
    dtype: np.dtype[Any], backend: str
) -> None:
    inf = np.inf
    logits = np.array(
        [[np.nan, 1, 2], [inf, 1, 2], [-inf, -inf, -inf], [0, 1, 2], [-inf, 1, 2]], dtype
    )
    labels = np.array([1, 1, 1, 1, 1])
    want, want_grad = sparse(logits, labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    assert_close(losses, want, dtype, 4.0)  # NaN in the same places
    assert_close(grad_logits, want_grad, dtype, 2.0)
    np.testing.assert_array_equal(np.isnan(losses), [True, True, True, False, False])


def test_a_label_on_a_masked_class_costs_infinitely_much_to_both(backend: str) -> None:
    logits, labels = np.array([[0.0, 1.0, -np.inf]]), np.array([2])
    want, want_grad = sparse(logits, labels)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    assert losses[0] == want[0] == np.inf
    assert_close(grad_logits, want_grad, np.dtype(np.float64), 1.0)


# ---- where TensorFlow is wrong. Its value is asserted too, so that we notice when it is mended.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("soft", [False, True])
def test_tensorflow_loses_the_loss_of_a_confident_row(soft: bool, dtype: str, backend: str) -> None:
    logits = np.array([[40.0, 0.0]], dtype)
    one_hot = np.array([[1.0, 0.0]], dtype)
    labels = one_hot if soft else np.array([0])
    theirs, their_grad = dense(logits, labels)[:2] if soft else sparse(logits, labels)
    assert theirs[0] == 0.0
    assert their_grad[0, 0] == 0.0
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend
    )
    assert ulps(losses, exact_losses(logits, one_hot), dtype) <= 4
    # From probabilities the gradient at the label is a difference, exact to the digits of its
    # terms; from a class index it has digits of its own.
    _, exact_grad = exact_cross_entropy(logits, np.array([0]))
    if soft:
        assert ulps(grad_logits, exact_grad, dtype, scale=np.ones((1, 2))) <= 4
        assert ulps(grad_logits[:, 1:], exact_grad[:, 1:], dtype) <= 4
    else:
        assert ulps(grad_logits, exact_grad, dtype) <= 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensorflow_has_nan_where_a_masked_class_has_no_probability(
    dtype: str, backend: str
) -> None:
    logits = np.array([[0.0, 1.0, -np.inf]], dtype)
    labels = np.array([[0.5, 0.5, 0.0]], dtype)
    theirs, their_grad, their_to_labels = dense(logits, labels)
    assert np.isnan(theirs[0])
    assert their_to_labels[0, 2] == np.inf
    losses, grad_logits, to_labels = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", grad_labels=True, backend=backend
    )
    assert ulps(losses, exact_losses(logits[:, :2], labels[:, :2]), dtype) <= 4
    assert_close(grad_logits, their_grad, np.dtype(dtype), 1.0)
    assert to_labels[0, 2] == 0


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_losses_of_16_bits_have_the_digits_that_tensorflow_rounds_away(
    name: str, backend: str
) -> None:
    dtype = BFLOAT16 if name == "bfloat16" else np.dtype(np.float16)
    logits = np.array([[3.0, 0.0, 1.0], [40.0, 0.0, 0.0]], dtype)
    labels = np.array([0, 0])
    theirs, _ = sparse(logits, labels)
    want = exact_losses(logits.astype(float), np.eye(3)[labels])
    losses = fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, backend=backend)
    assert ulps(losses, want, np.float32) <= 2
    assert theirs[1] == 0
    assert ulps(theirs.astype(np.float32)[:1], want[:1], np.float32) > 1000
