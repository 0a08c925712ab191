"""Second derivatives: what boosting and Newton's method need."""

from __future__ import annotations

from typing import Any, Never

from ._call import Batch
from ._conversion import Array, as_array
from ._keywords import own_keywords, refuse
from ._options import Asked
from ._reduce import Empty, MeanOver, Reduction, check_reduction
from ._validation import as_rows, check_floats
from .backends.context import (
    ELEMENTS,
    OUTPUT_GRADIENT,
    OUTPUT_HESSIAN,
    OUTPUT_HESSIAN_PRODUCT,
    Options,
)


@own_keywords
def cross_entropy_grad_hess(
    logits: object,
    labels: object,
    *,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: Reduction = "sum",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    hess_factor: float = 1.0,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> tuple[Array, Array]:
    """The gradient of the cross-entropy and the diagonal of its Hessian: a boosting objective.

    For a row of logits x, p = softmax(x), the target measure t of `cross_entropy`, A = sum_j t_j:

        grad_j = sample_weight * (A * p_j - t_j)
        hess_j = hess_factor * sample_weight * A * p_j * (1 - p_j)

    Parameters
    ----------
    logits, labels, axis, class_weight, sample_weight, label_smoothing, ignore_index, normalizer,
    mean_over, empty, backend, n_threads
        As for `cross_entropy`. An array of class-major scores (n_classes, n_rows) has axis=0.
    reduction : {"sum", "none", "mean"}
        Of the loss that is differentiated; "sum" and "none" have the same derivatives.
    hess_factor : float
        What the diagonal is multiplied by: 1 is the second derivative; XGBoost takes 2, LightGBM
        n_classes / (n_classes - 1).

    Returns
    -------
    grad_logits, hess_logits : numpy.ndarray of `logits`' shape and dtype
        Zero in ignored rows. No entry of the second is negative; XGBoost raises those that are 0
        to 1e-16.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    At the largest logit 1 - p_j is the sum of the other probabilities and keeps its digits.
    After J. Friedman, "Greedy function approximation: a gradient boosting machine", Annals of
    Statistics 29 (2001).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> gradient, hessian = fastxent.cross_entropy_grad_hess(np.zeros((1, 4)), np.array([2]))
    >>> gradient
    array([[ 0.25,  0.25, -0.75,  0.25]])
    >>> hessian
    array([[0.1875, 0.1875, 0.1875, 0.1875]])
    """
    if unknown:
        raise refuse(unknown, cross_entropy_grad_hess)
    check_reduction(reduction)
    asked = Asked(
        class_weight=class_weight, sample_weight=sample_weight, label_smoothing=label_smoothing,
        normalizer=normalizer, mean_over=mean_over, empty=empty, hess_factor=hess_factor,
    )  # fmt: skip
    batch = Batch(logits, labels, axis, backend, n_threads, ignore_index, asked, reduction)
    _, gradient = batch.evaluate(reduction, OUTPUT_GRADIENT)
    _, hessian = batch.evaluate(reduction, OUTPUT_HESSIAN)
    return gradient, hessian


@own_keywords
def cross_entropy_hvp(
    logits: object,
    labels: object,
    vectors: object,
    *,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: Reduction = "sum",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Array:
    """The Hessian of the cross-entropy times a matrix, without forming the Hessian.

    The Hessian with respect to a row of logits is H = sample_weight * A * (diag(p) - p p^T), with
    p = softmax(x) and A the mass of the target measure of `cross_entropy`; rows do not interact.
    Row i of the result is

        H_i v_i = sample_weight * A * p * (v_i - p . v_i)

    Parameters
    ----------
    logits, labels, axis, class_weight, sample_weight, label_smoothing, ignore_index, normalizer,
    mean_over, empty, backend, n_threads
        As for `cross_entropy`.
    vectors : array of floats, shaped like `logits`
        A vector for every row, float16, bfloat16, float32 or float64.
    reduction : {"sum", "none", "mean"}
        Of the loss that is differentiated; "sum" and "none" have the same derivatives.

    Returns
    -------
    numpy.ndarray of `logits`' shape and dtype
        Zero in ignored rows.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and for vectors that are not floats or not shaped like the logits.

    Notes
    -----
    The error is small beside p * (|v| + |p . v|). Where v - p . v cancels, as at the largest logit
    of a confident row, fewer digits are right.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> vectors = np.array([[1.0, 0.0, 0.0, 0.0]])
    >>> fastxent.cross_entropy_hvp(np.zeros((1, 4)), np.array([2]), vectors)
    array([[ 0.1875, -0.0625, -0.0625, -0.0625]])
    """
    if unknown:
        raise refuse(unknown, cross_entropy_hvp)
    check_reduction(reduction)
    asked = Asked(
        class_weight=class_weight, sample_weight=sample_weight, label_smoothing=label_smoothing,
        normalizer=normalizer, mean_over=mean_over, empty=empty,
    )  # fmt: skip
    batch = Batch(logits, labels, axis, backend, n_threads, ignore_index, asked, reduction)
    # a row needs the mean of its vector first: it is not split over threads
    batch.plan.splits_rows = False
    options = with_partners(batch, vectors, "vectors")
    product: Any = batch.evaluate(reduction, OUTPUT_HESSIAN_PRODUCT, options=options)[1]
    result: Array = product
    return result


def with_partners(batch: Batch, partners: object, name: str) -> Options:
    """The options of a batch with an array of floats beside its logits; an error if it is none."""
    array = as_array(partners, name)
    check_floats(array, name)
    if array.shape != batch.logits.shape:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have that of logits, {batch.logits.shape}"
        )
    rows = as_rows(array, batch.axis)
    options = batch.options or Options()
    return options._replace(partners=rows, partners_element=ELEMENTS[rows.dtype.name])
