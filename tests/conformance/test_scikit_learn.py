"""HalfMultinomialLoss, the loss of scikit-learn's LogisticRegression and gradient boosting.

Its losses are (max + log(sum of exponentials)) - x_y, and its gradients p - 1 at the label. Where
these terms cancel, scikit-learn keeps no digits that their sizes do not leave; the tests compare
with that in mind (`assert_close`), and check fastxent against exact values beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from peers import Array, assert_close, exact_hessian, peer
from support import exact_cross_entropy, exact_softmax, random_logits, ulps

import fastxent

sklearn_loss = peer("sklearn._loss.loss")

every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_order = pytest.mark.parametrize("order", ["C", "F"])
weights_or_none = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])

# Losses, and gradients and Hessians.
BOUNDS = {4: (2, 4), 8: (4, 4)}


class Data:
    """Random rows, in the words of both libraries."""

    def __init__(self, dtype: Any, order: Any = "C", *, weighted: bool, n_classes: int = 7) -> None:
        rng = np.random.default_rng(5)
        n_rows = 60
        self.logits = np.asarray(random_logits((n_rows, n_classes), dtype, seed=3), order=order)
        self.labels = rng.integers(0, n_classes, n_rows)
        self.sample_weight: Array | None = None
        self.weights = np.ones(n_rows, dtype)
        if weighted:
            self.sample_weight = self.weights = rng.uniform(0.1, 3, n_rows).astype(dtype)
            self.weights[4] = 0
        self.loss = sklearn_loss.HalfMultinomialLoss(n_classes=n_classes)
        self.theirs: dict[str, Any] = {
            "y_true": self.labels.astype(dtype),
            "raw_prediction": self.logits,
            "sample_weight": self.sample_weight,
        }
        self.ours: dict[str, Any] = {"sample_weight": self.sample_weight}
        # What may cancel: logits and log(sum), p and 1. An exponential has a relative error as
        # large as its argument's absolute one.
        below, log_sum, probs = exact_softmax(self.logits)
        self.probs_scale = probs * np.maximum(below, 1)
        each = self.weights[:, None]
        one_hot = np.arange(n_classes) == self.labels[:, None]
        self.loss_scale = self.weights * np.maximum(np.abs(self.logits).max(-1), log_sum[:, 0])
        self.grad_scale = each * np.maximum(self.probs_scale, one_hot)
        self.hess_scale = each * self.probs_scale


@every_dtype
@every_order
@weights_or_none
def test_losses_are_those_of_scikit_learn(
    backend: str, dtype: Any, order: str, weighted: bool
) -> None:
    data = Data(dtype, order, weighted=weighted)
    options = data.ours | {"reduction": "none", "backend": backend}
    losses = fastxent.cross_entropy(data.logits, data.labels, **options)
    assert_close(losses, data.loss.loss(**data.theirs), data.loss_scale)


@every_dtype
@every_order
@weights_or_none
def test_losses_with_gradients_are_those_of_scikit_learn(
    backend: str, dtype: Any, order: str, weighted: bool
) -> None:
    data = Data(dtype, order, weighted=weighted)
    options = data.ours | {"reduction": "none", "backend": backend}
    losses, grad_logits = fastxent.cross_entropy_with_grad(data.logits, data.labels, **options)
    their_losses, their_grad = data.loss.loss_gradient(**data.theirs)
    assert_close(losses, their_losses, data.loss_scale)
    assert_close(grad_logits, their_grad, data.grad_scale)
    assert_close(grad_logits, data.loss.gradient(**data.theirs), data.grad_scale)


@every_dtype
@every_order
@weights_or_none
def test_gradients_and_hessian_diagonals_are_those_of_scikit_learn(
    backend: str, dtype: Any, order: str, weighted: bool
) -> None:
    data = Data(dtype, order, weighted=weighted)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(
        data.logits, data.labels, **data.ours, backend=backend
    )
    their_grad, their_hess = data.loss.gradient_hessian(**data.theirs)
    assert_close(grad_logits, their_grad, data.grad_scale)
    assert_close(hess_logits, their_hess, data.hess_scale)


@every_dtype
@every_order
@weights_or_none
def test_gradients_and_probabilities_are_those_of_scikit_learn(
    backend: str, dtype: Any, order: str, weighted: bool
) -> None:
    data = Data(dtype, order, weighted=weighted)
    _, grad_logits = fastxent.cross_entropy_with_grad(
        data.logits, data.labels, **data.ours, reduction="sum", backend=backend
    )
    probs = fastxent.softmax(data.logits, backend=backend)
    their_grad, their_probs = data.loss.gradient_proba(**data.theirs)
    assert_close(grad_logits, their_grad, data.grad_scale)
    assert_close(probs, their_probs, data.probs_scale)
    assert_close(probs, data.loss.predict_proba(data.logits), data.probs_scale)


@every_dtype
@weights_or_none
def test_a_mean_is_scikit_learns_weighted_average(backend: str, dtype: Any, weighted: bool) -> None:
    data = Data(dtype, weighted=weighted)
    mean = fastxent.cross_entropy(data.logits, data.labels, **data.ours, backend=backend)
    theirs = data.loss(**data.theirs)
    assert mean == pytest.approx(float(theirs), rel=float(16 * np.finfo(dtype).eps))


@weights_or_none
def test_products_with_the_hessian_are_those_of_scikit_learns_linear_model(
    backend: str, weighted: bool
) -> None:
    """With the identity for X, the coefficients of a linear model are its logits.

    scikit-learn divides by the sum of the sample weights, and knows no Hessian but this way.
    """
    data = Data(np.float64, weighted=weighted)
    n_rows, n_classes = data.logits.shape
    model = peer("sklearn.linear_model._linear_loss").LinearModelLoss(
        base_loss=data.loss, fit_intercept=False
    )
    vectors = np.random.default_rng(9).standard_normal(data.logits.shape)
    theirs = {"y": data.theirs["y_true"], "sample_weight": data.sample_weight}
    _, product = model.gradient_hessian_product(
        np.asfortranarray(data.logits.T), np.eye(n_rows), **theirs
    )
    got = fastxent.cross_entropy_hvp(
        data.logits,
        data.labels,
        vectors,
        **data.ours,
        normalizer=float(data.weights.sum()),
        backend=backend,
    )
    want = product(np.asfortranarray(vectors.T)).reshape((n_classes, n_rows), order="F").T
    scale = np.abs(vectors).max(-1, keepdims=True) * data.hess_scale / data.weights.sum()
    assert_close(got, want, scale)


@weights_or_none
def test_the_best_constant_prediction_has_no_gradient(backend: str, weighted: bool) -> None:
    """What scikit-learn starts from: logarithms of the classes' shares, centred."""
    data = Data(np.float64, weighted=weighted)
    start = data.loss.fit_intercept_only(data.theirs["y_true"], data.sample_weight)
    share = np.bincount(data.labels, data.weights, minlength=7) / data.weights.sum()
    np.testing.assert_allclose(start, np.log(share) - np.log(share).mean(), rtol=0, atol=1e-14)
    logits = np.broadcast_to(start, data.logits.shape)
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits, data.labels, **data.ours, backend=backend
    )
    assert np.abs(grad_logits.sum(0)).max() <= 2e-15
    assert loss == pytest.approx(-(share * np.log(share)).sum(), rel=1e-14)


# Literal values of scikit-learn's own tests, whose tolerance is 1e-15, relative and absolute.


@pytest.mark.parametrize(
    ("logits", "label", "loss"),
    [
        ([0.2, 0.5, 0.3], 0, math.log(sum(map(math.exp, [0.2, 0.5, 0.3]))) - 0.2),
        ([0.2, 0.5, 0.3], 1, math.log(sum(map(math.exp, [0.2, 0.5, 0.3]))) - 0.5),
        ([0.2, 0.5, 0.3], 2, math.log(sum(map(math.exp, [0.2, 0.5, 0.3]))) - 0.3),
        ([1e4, 0, 7e-7], 2, 1e4 - 7e-7),
    ],
)
def test_losses_of_three_classes_have_the_values_derived_by_hand(
    backend: str, logits: list[float], label: int, loss: float
) -> None:
    options: dict[str, Any] = {"reduction": "none", "backend": backend}
    got = fastxent.cross_entropy(np.array([logits]), np.array([label]), **options)
    assert got == pytest.approx(loss, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize(
    ("label", "logit", "loss", "grad", "hess"),
    [
        (0, -1e20, 0, 0, 0),
        (1, -1e20, 1e20, -1, 0),
        (0, -1e3, 0, 0, 0),
        (1, -1e3, 1e3, -1, 0),
        (1, -37.5, 37.5, -1, 0),
        (1, -37.0, 37, 1e-16 - 1, 8.533047625744065e-17),
        (0, -37.0, 8.533047625744065e-17, 8.533047625744065e-17, 8.533047625744065e-17),
        (1, -36.9, 36.9, 1e-16 - 1, 9.430476078526806e-17),
        (0, -36.9, 9.430476078526806e-17, 9.430476078526806e-17, 9.430476078526806e-17),
        (0, 37.0, 37, 1 - 1e-16, 8.533047625744065e-17),
        (1, 37.0, 8.533047625744066e-17, -8.533047625744066e-17, 8.533047625744066e-17),
        (0, 37.5, 37.5, 1, 5.175555005801868e-17),
        (0, 232.8, 232.8, 1, 0),
        (1, 1e20, 0, 0, 0),
        (0, 1e20, 1e20, 1, 0),
        (1, 232.8, 0, 0, 0),
        (1, 232.9, 0, 0, 0),
        (1, 1e3, 0, 0, 0),
        (0, 1e3, 1e3, 1, 0),
    ],
)
def test_two_classes_have_the_extreme_values_of_the_binomial_loss(
    backend: str, label: int, logit: float, loss: float, grad: float, hess: float
) -> None:
    """The logit against 0 is a binomial loss, whose values scikit-learn has from mpmath.

    Its tolerance is 1e-15, so what is much smaller stands here as 0 (at 232.8 scikit-learn has a
    number that is 1.8 times too large). Exact values are asked for to the last places beside that.
    """
    logits, labels = np.array([[0.0, logit]]), np.array([label])
    losses, _ = fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=backend)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(logits, labels, backend=backend)
    got = np.array([losses[0], grad_logits[0, 1], hess_logits[0, 1]])
    for value, literal in zip(got, (loss, grad, hess), strict=True):
        assert value == pytest.approx(literal, rel=1e-15, abs=0 if literal else 1e-15)
    exact_losses, exact_grad = exact_cross_entropy(logits, labels)
    want = np.array([exact_losses[0], exact_grad[0, 1], exact_hessian(logits)[0, 1]])
    assert ulps(got, want, np.float64) <= 4


def test_a_binomial_label_between_the_classes_is_a_row_of_probabilities(backend: str) -> None:
    """The target 0.25 at the logit log 4: log(1 + 4) - 0.25 log 4."""
    logits, target = np.array([[0.0, math.log(4)]]), np.array([[0.75, 0.25]])
    loss = fastxent.cross_entropy(logits, target, backend=backend)
    assert loss == pytest.approx(math.log1p(4) - 0.25 * math.log(4), rel=1e-15)


# Where scikit-learn loses digits.


@every_dtype
def test_confident_rows_keep_the_digits_that_scikit_learn_loses(backend: str, dtype: Any) -> None:
    """Rows that are right and sure.

    The sum of exponentials rounds to 1, and p at the label does. So scikit-learn's log(sum), p - 1
    and 1 - p may all be 0, which the sizes of its terms allow. fastxent has the last places.
    """
    sure = np.array([[0, 1, -2], [0.5, 0, 0], [3, 2, 1], [-7, 0.25, 0]], dtype)
    labels = np.array([0, 1, 2, 0])
    sure[np.arange(4), labels] -= np.log(np.finfo(dtype).eps) * np.array([0.5, 1, 1.5, 4], dtype)
    losses, _ = fastxent.cross_entropy_with_grad(sure, labels, reduction="none", backend=backend)
    grad_logits, hess_logits = fastxent.cross_entropy_grad_hess(sure, labels, backend=backend)

    exact_losses, exact_grad = exact_cross_entropy(sure, labels)
    exact_hess = exact_hessian(sure)
    for_losses, for_gradients = BOUNDS[np.dtype(dtype).itemsize]
    assert ulps(losses, exact_losses, dtype) <= for_losses
    assert ulps(grad_logits, exact_grad, dtype) <= for_gradients
    assert ulps(hess_logits, exact_hess, dtype) <= for_gradients

    theirs: dict[str, Any] = {"y_true": labels.astype(dtype), "raw_prediction": sure}
    loss = sklearn_loss.HalfMultinomialLoss(n_classes=3)
    _, _, probs = exact_softmax(sure)
    their_grad, their_hess = loss.gradient_hessian(**theirs)
    assert_close(loss.loss(**theirs), exact_losses.astype(dtype), np.abs(sure).max(-1))
    one_hot = np.arange(3) == labels[:, None]
    assert_close(their_grad, exact_grad.astype(dtype), np.maximum(probs, one_hot))
    assert_close(their_hess, exact_hess.astype(dtype), probs)


@pytest.mark.parametrize("offset", [1e8, -1e8])
def test_offsets_keep_the_digits_that_scikit_learn_loses(backend: str, offset: float) -> None:
    """Adding 1e8 to a row changes nothing, but scikit-learn's loss then has 8 digits less.

    It adds the largest logit to log(sum) before it takes the label's logit off. The logits are
    multiples of 1/1024, so the sum with the offset is exact.
    """
    data = Data(np.float64, weighted=False)
    plain = np.round(data.logits * 1024) / 1024
    logits = plain + offset
    assert np.array_equal(logits - offset, plain)
    losses, grad_logits = fastxent.cross_entropy_with_grad(
        logits, data.labels, reduction="none", backend=backend
    )
    exact_losses, exact_grad = exact_cross_entropy(plain, data.labels)
    assert ulps(losses, exact_losses, np.float64) <= 4
    assert ulps(grad_logits, exact_grad, np.float64) <= 4
    their_losses, their_grad = data.loss.loss_gradient(data.theirs["y_true"], logits)
    assert_close(their_losses, losses, abs(offset))
    assert_close(their_grad, grad_logits, data.grad_scale)


# Class weights.


def imbalanced(n_classes: int = 4) -> tuple[Array, Array]:
    """Logits, and labels of which every class has half as many as the last one."""
    labels = np.repeat(np.arange(n_classes), 5 * 2 ** np.arange(n_classes))
    return random_logits((len(labels), n_classes), np.float64, seed=11), labels


@weights_or_none
def test_class_weights_are_scikit_learns_weights_a_sample(backend: str, weighted: bool) -> None:
    """The weight of a sample is that of its class, times its own; means divide by their sum."""
    class_weight = peer("sklearn.utils.class_weight")
    logits, labels = imbalanced()
    sample_weight = np.linspace(0.5, 2, len(labels)) if weighted else None
    balanced = class_weight.compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(balanced, len(labels) / (4 * np.bincount(labels)), rtol=1e-15)
    their_weights = class_weight.compute_sample_weight("balanced", labels)
    if sample_weight is not None:
        their_weights = their_weights * sample_weight

    options: dict[str, Any] = {
        "class_weight": balanced,
        "sample_weight": sample_weight,
        "backend": backend,
    }
    loss, grad_logits = fastxent.cross_entropy_with_grad(logits, labels, **options)
    _, hess_logits = fastxent.cross_entropy_grad_hess(logits, labels, **options)
    theirs = sklearn_loss.HalfMultinomialLoss(n_classes=4)
    arguments = (labels.astype(np.float64), logits, their_weights)
    their_grad, their_hess = theirs.gradient_hessian(*arguments)
    total = their_weights.sum()
    assert loss == pytest.approx(theirs(*arguments), rel=1e-14)
    assert loss == pytest.approx(theirs.loss(*arguments).sum() / total, rel=1e-14)
    each = their_weights[:, None]
    assert_close(grad_logits, their_grad / total, each / total)
    assert_close(hess_logits, their_hess, each * np.ones_like(logits))


def test_a_balanced_logistic_regression_is_where_the_gradient_is_zero(backend: str) -> None:
    """LogisticRegression minimises C * (sum of weighted losses) + |coefficients|^2 / 2."""
    linear_model = peer("sklearn.linear_model")
    logits, labels = imbalanced()
    features = logits[:, :3] + 0.5 * labels[:, None]
    strength = 0.7
    model = linear_model.LogisticRegression(
        C=strength, class_weight="balanced", solver="newton-cg", tol=1e-10
    )
    model.fit(features, labels)
    _, grad_logits = fastxent.cross_entropy_with_grad(
        model.decision_function(features),
        labels,
        class_weight=len(labels) / (4 * np.bincount(labels)),
        reduction="sum",
        backend=backend,
    )
    assert np.abs(grad_logits).sum(0).min() > 1  # there is something that can cancel
    np.testing.assert_allclose(grad_logits.sum(0), 0, atol=1e-9)
    np.testing.assert_allclose(strength * grad_logits.T @ features, -model.coef_, atol=1e-9)
