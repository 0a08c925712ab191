"""fastxent against Optax: its losses, its smoothing and masks, and jax.grad of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    random_logits,
    random_probs,
    ulps,
)

import fastxent

jax: Any = peer("jax")
optax: Any = peer("optax")

# Units of the dtype at the largest term of a row: ours is within 4 units in the last place of the
# result, which is smaller; Optax rounds each log-probability and the sum of their products.
EPSILONS = 4


@pytest.fixture(autouse=True)
def jax_config() -> Iterator[None]:
    """For these tests only: float64 in JAX, and little time spent on optimising what runs once."""
    before = {
        "jax_enable_x64": jax.config.jax_enable_x64,
        "jax_disable_most_optimizations": jax.config.read("jax_disable_most_optimizations"),
    }
    for option in before:
        jax.config.update(option, True)
    yield
    for option, value in before.items():
        jax.config.update(option, value)


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


def exact_losses(logits: Any, labels: Any) -> Array:
    """Of 50 digits, rows along the first axis; a masked class without mass costs nothing."""
    losses = []
    with mpmath.workdps(50):
        for x, t in zip(np.asarray(logits, float), np.asarray(labels, float), strict=True):
            largest = mpmath.mpf(max(x))
            lse = largest + mpmath.log(mpmath.fsum(mpmath.exp(value - largest) for value in x))
            terms = (m * (lse - value) for value, m in zip(x, t, strict=True) if m)
            losses.append(np.longdouble(mpmath.nstr(mpmath.fsum(terms), 30)))
    return np.array(losses)


def _total(x: Any, arrays: tuple[Any, ...], loss: Any, axis: Any, where: Any) -> tuple[Any, Any]:
    options = {} if where is None else {"where": where}
    losses = loss(x, *arrays, axis=axis, **options)
    return losses.astype(np.float64).sum(), losses


# Compiled once for both backends.
_losses_and_grad = jax.jit(jax.grad(_total, has_aux=True), static_argnames=("loss", "axis"))


def losses_and_grad(
    loss: Any, logits: Array, *arrays: Any, axis: Any = -1, where: Any = None
) -> tuple[Array, Array]:
    """Optax's losses, and the gradient of their sum by the logits."""
    grad, losses = _losses_and_grad(logits, arrays, loss=loss, axis=axis, where=where)
    return np.asarray(losses), np.asarray(grad)


def optax_losses(loss: Any, *arrays: Any, **options: Any) -> Array:
    return losses_and_grad(loss, *arrays, **options)[0]


def ours(logits: Array, labels: Array, backend: str, **options: Any) -> tuple[Array, Array]:
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend, **options
    )
    return losses, grad_logits


# ---- the two losses


SHAPES = [(5,), (3, 5, 4)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_from_probabilities_are_optaxs_along_every_axis(
    shape: tuple[int, ...], dtype: np.dtype[Any], backend: str
) -> None:
    logits = random_logits(shape, dtype, seed=1)
    labels = random_probs(shape, dtype, seed=2)
    for axis in range(len(shape)):
        want, want_grad = losses_and_grad(optax.softmax_cross_entropy, logits, labels, axis=axis)
        for same_axis in (axis, axis - len(shape)):
            losses, grad_logits = ours(logits, labels, backend, axis=same_axis)
            assert_close(losses, want, dtype, row_scale(logits, labels, axis))
            assert_close(grad_logits, want_grad, dtype, row_scale(logits, labels, axis))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients_from_class_indices_are_optaxs_along_every_axis(
    shape: tuple[int, ...], dtype: np.dtype[Any], backend: str
) -> None:
    logits = random_logits(shape, dtype, seed=3)
    for axis in range(len(shape)):
        batch = tuple(np.delete(shape, axis))
        labels = np.asarray(np.random.default_rng(4).integers(0, shape[axis], batch))
        want, want_grad = losses_and_grad(
            optax.softmax_cross_entropy_with_integer_labels, logits, labels, axis=axis
        )
        for same_axis in (axis, axis - len(shape)):
            losses, grad_logits = ours(logits, labels, backend, axis=same_axis)
            assert_close(losses, want, dtype, row_scale(logits, labels, axis))
            assert_close(grad_logits, want_grad, dtype, row_scale(logits, labels, axis))


def test_several_class_axes_are_one_after_a_reshape(backend: str) -> None:
    logits = random_logits((2, 3, 4, 5), np.float64, seed=5)
    labels = np.random.default_rng(6).integers(0, 15, (2, 4))
    want, want_grad = losses_and_grad(
        optax.softmax_cross_entropy_with_integer_labels, logits, labels, axis=(1, 3)
    )
    flat = np.ascontiguousarray(logits.transpose(0, 2, 1, 3)).reshape(2, 4, 15)
    losses, grad_logits = ours(flat, labels, backend)
    scale = row_scale(flat, labels, -1)
    assert_close(losses, want, np.dtype(np.float64), scale)
    unflat = grad_logits.reshape(2, 4, 3, 5).transpose(0, 2, 1, 3)
    assert_close(unflat, want_grad, np.dtype(np.float64), scale)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("soft", [False, True])
def test_empty_batches_have_no_losses(soft: bool, axis: int, backend: str) -> None:
    for empty_axis in {0, 1, 2} - {axis}:
        shape = tuple({axis: 4, empty_axis: 0}.get(k, 3) for k in range(3))
        logits = np.zeros(shape)
        labels = logits if soft else np.zeros(tuple(np.delete(shape, axis)), np.int64)
        loss = (
            optax.softmax_cross_entropy if soft else optax.softmax_cross_entropy_with_integer_labels
        )
        want, want_grad = losses_and_grad(loss, logits, labels, axis=axis)
        losses, grad_logits = ours(logits, labels, backend, axis=axis)
        assert losses.shape == want.shape
        assert grad_logits.shape == want_grad.shape


def test_products_with_the_hessian_are_jaxs(backend: str) -> None:
    logits = random_logits((6, 4), np.float64, seed=7)
    vectors = random_logits((6, 4), np.float64, seed=8)
    labels = np.random.default_rng(9).random((6, 4))
    first = jax.grad(lambda x: optax.softmax_cross_entropy(x, labels).sum())
    _, want = jax.jvp(first, (logits,), (vectors,))
    got = fastxent.cross_entropy_hvp(logits, labels, vectors, backend=backend)
    scale = row_scale(logits, labels, 1) * np.abs(vectors).max()
    assert_close(got, want, np.dtype(np.float64), scale)


# ---- masks, smoothing, divergence


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_optaxs_mask_is_minus_infinity(axis: int, soft: bool, backend: str) -> None:
    """Optax is told by where=, we by the logits. Every row keeps its label's class."""
    shape = (4, 4, 4)
    logits = random_logits(shape, np.float64, seed=10)
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 4, (4, 4))
    one_hot = np.moveaxis(np.eye(4)[labels], -1, axis)
    where = (rng.random(shape) < 0.6) | (one_hot > 0)
    assert 10 < where.sum() < 60
    if soft:
        labels = np.where(where, rng.random(shape), 0)
    loss = optax.softmax_cross_entropy if soft else optax.softmax_cross_entropy_with_integer_labels
    want, want_grad = losses_and_grad(loss, logits, labels, axis=axis, where=where)
    losses, grad_logits = ours(np.where(where, logits, -np.inf), labels, backend, axis=axis)
    scale = row_scale(logits, labels, axis)
    assert_close(losses, want, np.dtype(np.float64), scale)
    assert_close(grad_logits, want_grad, np.dtype(np.float64), scale)
    assert not grad_logits[~where].any()


def test_a_row_without_classes_is_0_to_optax_and_nan_to_us(backend: str) -> None:
    """Optax's mask can empty a row; in logits that is a row without a softmax. To leave rows out,
    ours has ignore_index and sample_weight."""
    logits, labels = np.array([[0.0, 1.0, 2.0]]), np.array([1])
    theirs = optax_losses(
        optax.softmax_cross_entropy_with_integer_labels,
        logits,
        labels,
        where=np.zeros((1, 3), bool),
    )
    assert theirs[0] == 0
    masked = np.full((1, 3), -np.inf)
    assert np.isnan(ours(masked, labels, backend)[0][0])
    for options in ({"ignore_index": 1}, {"sample_weight": np.zeros(1)}):
        losses, grad_logits = ours(masked, labels, backend, **options)
        assert losses[0] == 0
        assert not grad_logits.any()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.75, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_smoothing_is_optaxs(axis: int, label_smoothing: float, backend: str) -> None:
    logits = random_logits((3, 4, 5), np.float64, seed=12)
    n_classes = logits.shape[axis]
    labels = np.random.default_rng(13).integers(0, n_classes, tuple(np.delete((3, 4, 5), axis)))
    one_hot = np.moveaxis(np.eye(n_classes)[labels], -1, axis)
    smooth = optax.smooth_labels(one_hot, label_smoothing, axis=axis)
    want, want_grad = losses_and_grad(optax.softmax_cross_entropy, logits, smooth, axis=axis)
    scale = row_scale(logits, one_hot, axis)
    for target in (labels, one_hot):
        losses, grad_logits = ours(
            logits, target, backend, axis=axis, label_smoothing=label_smoothing
        )
        assert_close(losses, want, np.dtype(np.float64), scale)
        assert_close(grad_logits, want_grad, np.dtype(np.float64), scale)


@pytest.mark.parametrize("soft", [False, True])
def test_smoothing_over_unmasked_classes_is_optaxs_with_its_mask(soft: bool, backend: str) -> None:
    """Told of the mask, Optax shares the smoothing out among the classes that are left: our way."""
    logits = random_logits((8, 5), np.float64, seed=14)
    rng = np.random.default_rng(15)
    labels = rng.integers(0, 5, 8)
    where = (rng.random((8, 5)) < 0.6) | (np.eye(5)[labels] > 0)
    one_hot = np.eye(5)[labels]
    smooth = optax.smooth_labels(one_hot, 0.25, where=where)
    want, want_grad = losses_and_grad(optax.softmax_cross_entropy, logits, smooth, where=where)
    losses, grad_logits = ours(
        np.where(where, logits, -np.inf),
        one_hot if soft else labels,
        backend,
        label_smoothing=0.25,
    )
    scale = row_scale(logits, one_hot, 1)
    assert_close(losses, want, np.dtype(np.float64), scale)
    assert_close(grad_logits, want_grad, np.dtype(np.float64), scale)


def divergence(x: Any, teacher: Any, temperature: Any, *, axis: int) -> Any:
    """What a user of Optax writes for two arrays of logits."""
    targets = jax.nn.softmax(teacher / temperature, axis)
    return optax.kl_divergence(jax.nn.log_softmax(x / temperature, axis), targets, axis=axis)


def log_divergence(x: Any, teacher: Any, temperature: Any, *, axis: int) -> Any:
    """The same, with Optax's function of two arrays of logarithms."""
    log_probs = jax.nn.log_softmax(x / temperature, axis)
    log_targets = jax.nn.log_softmax(teacher / temperature, axis)
    return optax.losses.kl_divergence_with_log_targets(log_probs, log_targets, axis=axis)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_divergence_is_optaxs(axis: int, temperature: float, dtype: str, backend: str) -> None:
    teacher = random_logits((3, 4, 5), dtype, seed=16)
    student = random_logits((3, 4, 5), dtype, seed=17)
    losses, grad_logits = fastxent.kl_divergence_with_logits_and_grad(
        teacher,
        student,
        axis=axis,
        temperature=temperature,
        reduction="none",
        backend=backend,
    )
    spread = (np.ptp(teacher) + np.ptp(student)) / temperature + 2 * math.log(5)
    for loss in (divergence, log_divergence):
        want, want_grad = losses_and_grad(
            loss, student, teacher, np.asarray(temperature, dtype), axis=axis
        )
        assert_close(losses, want, np.dtype(dtype), spread)
        assert_close(grad_logits, want_grad, np.dtype(dtype), spread / temperature)


# ---- where Optax is wrong. Its value is asserted too, so that we notice when it is mended.


def test_optax_takes_labels_that_are_no_class(backend: str) -> None:
    """Past the end they are NaN, without a word; from -1 on they count from the end."""
    logits = np.array([[0.0, 1.0, 2.0]] * 5)
    labels = np.array([3, 4, -4, -1, -3])
    loss = optax.softmax_cross_entropy_with_integer_labels
    theirs = optax_losses(loss, logits, labels)
    np.testing.assert_array_equal(np.isnan(theirs), [True, True, True, False, False])
    right = optax_losses(loss, logits, np.array([0, 0, 0, 2, 0]))
    np.testing.assert_array_equal(theirs[3:], right[3:])
    for label in labels:
        with pytest.raises(ValueError, match=str(label)):
            fastxent.cross_entropy(logits[:1], np.array([label]), backend=backend)


def safe_loss(x: Any, labels: Any, *, axis: int) -> Any:
    assert axis == -1  # it has no other
    return optax.safe_softmax_cross_entropy(x, labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optax_has_nan_where_a_masked_class_has_no_probability(dtype: str, backend: str) -> None:
    """It has another loss for such rows, safe_softmax_cross_entropy, which agrees with ours."""
    logits = np.array([[0.0, 1.0, -np.inf]], dtype)
    labels = np.array([[0.5, 0.5, 0.0]], dtype)
    assert np.isnan(optax_losses(optax.softmax_cross_entropy, logits, labels)[0])
    losses, grad_logits = ours(logits, labels, backend)
    assert ulps(losses, exact_losses(logits, labels), dtype) <= 4
    want, want_grad = losses_and_grad(safe_loss, logits, labels)
    assert_close(losses, want, np.dtype(dtype), 2.0)
    assert_close(grad_logits, want_grad, np.dtype(dtype), 2.0)


def test_a_label_behind_optaxs_mask_gains(backend: str) -> None:
    """The label's logit is not among those of the logsumexp, so the loss can fall below 0. A masked
    label costs infinitely much."""
    logits, labels = np.array([[0.0, 1.0, 2.0]]), np.array([2])
    where = np.array([[True, True, False]])
    theirs = optax_losses(
        optax.softmax_cross_entropy_with_integer_labels, logits, labels, where=where
    )
    assert theirs[0] < -0.6
    losses, _ = ours(np.where(where, logits, -np.inf), labels, backend)
    assert losses[0] == np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optax_loses_the_digits_of_logits_with_an_offset(dtype: str, backend: str) -> None:
    """It adds the largest logit to the logarithm before it takes the label's logit away
    (https://github.com/google-deepmind/optax/pull/1792)."""
    logits = np.array([[1e8, 1e8 - 8, 1e8 - 16]] * 3 + [[1e8] * 3], dtype)
    labels = np.array([0, 1, 2, 1])
    theirs = optax_losses(optax.softmax_cross_entropy_with_integer_labels, logits, labels)
    want = exact_losses(logits, np.eye(3)[labels])
    assert want[0] > 3e-4
    assert want[3] == pytest.approx(math.log(3))
    if dtype == "float32":
        np.testing.assert_array_equal(theirs, [0.0, 8.0, 16.0, 0.0])
    assert ulps(theirs, want, dtype) > 1e6
    losses, grad_logits = ours(logits, labels, backend)
    assert ulps(losses, want, dtype) <= 4
    _, exact_grad = exact_cross_entropy(logits, labels)
    assert ulps(grad_logits, exact_grad, dtype) <= 4
    # From probabilities Optax subtracts in the right order.
    one_hot = np.eye(3, dtype=dtype)[labels]
    right = optax_losses(optax.softmax_cross_entropy, logits, one_hot)
    assert_close(right, want, np.dtype(dtype), 20.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("soft", [False, True])
def test_optax_loses_the_loss_of_a_confident_row(soft: bool, dtype: str, backend: str) -> None:
    logits = np.array([[40.0, 0.0]], dtype)
    one_hot = np.array([[1.0, 0.0]], dtype)
    labels = one_hot if soft else np.array([0])
    loss = optax.softmax_cross_entropy if soft else optax.softmax_cross_entropy_with_integer_labels
    assert optax_losses(loss, logits, labels)[0] == 0
    losses, _ = ours(logits, labels, backend)
    assert ulps(losses, exact_losses(logits, one_hot), dtype) <= 4


def test_optax_has_losses_without_classes_and_we_do_not(backend: str) -> None:
    """0 from probabilities, and -inf from labels of nothing."""
    empty = np.zeros((2, 0))
    labels = np.zeros(2, np.int64)
    assert not optax_losses(optax.softmax_cross_entropy, empty, empty).any()
    theirs = optax_losses(optax.softmax_cross_entropy_with_integer_labels, empty, labels)
    np.testing.assert_array_equal(theirs, [-np.inf, -np.inf])
    for target in (empty, labels):
        with pytest.raises(ValueError, match="no classes"):
            fastxent.cross_entropy(empty, target, backend=backend)
