"""The divergence of one softmax from another: distillation."""

from __future__ import annotations

from typing import Any, Never

from ._call import NO_LABELS, Batch
from ._conversion import Array, as_array
from ._keywords import own_keywords, refuse
from ._options import Asked
from ._reduce import Empty, Reduction, check_reduction
from ._validation import check_out
from .backends.context import OUTPUT_GRADIENT, OUTPUT_NOTHING
from .second_order import with_partners


@own_keywords
def kl_divergence_with_logits(
    target_logits: object,
    logits: object,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: object = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    empty: Empty = "nan",
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """The Kullback-Leibler divergence of a softmax from a target softmax, both given as logits.

    For a row, q = softmax(target_logits / temperature) and p = softmax(logits / temperature),

        divergence = sample_weight * sum_j q_j * (log q_j - log p_j)

    Neither softmax is stored. Distillation usually multiplies by temperature^2: do so outside.

    Parameters
    ----------
    target_logits, logits : arrays of float16, bfloat16, float32 or float64, of one shape
        -inf marks a masked class; mass of q at a class where logits are masked costs +inf.
    axis : int
        The class axis of both.
    temperature : float
        Above 0.
    sample_weight, reduction, normalizer, empty, backend, n_threads
        As for `cross_entropy`. A mean divides by the number of rows, or the sum of sample_weight
        (PyTorch's "batchmean", not its "mean", which divides by the number of elements).

    Returns
    -------
    numpy.float64, or for reduction="none" an array of `logits`' shape without the class axis
        Nats; the array is float64 for float64 logits, float32 otherwise, and of a single row a
        numpy.float64.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    Computed in float64 as sum_j q_j * (exp(-d_j) - 1 + d_j) with d_j = log q_j - log p_j, which is
    the same sum with no negative term: nothing cancels where the two are close. A row with NaN or
    +inf, or -inf alone, in either array is NaN.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]])
    >>> print(f"{fastxent.kl_divergence_with_logits(teacher, student):.6f}")
    0.110944
    """
    if unknown:
        raise refuse(unknown, kl_divergence_with_logits)
    return _divergence(
        target_logits, logits, axis, temperature, sample_weight, reduction, normalizer, empty,
        backend, n_threads, OUTPUT_NOTHING, None,
    )[0]  # fmt: skip


@own_keywords
def kl_divergence_with_logits_and_grad(
    target_logits: object,
    logits: object,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: object = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    empty: Empty = "nan",
    backend: str | None = None,
    n_threads: int | None = None,
    out: Array | None = None,
    **unknown: Never,
) -> tuple[Any, Array]:
    """The divergence of `kl_divergence_with_logits` and its gradient with respect to `logits`.

        grad_j = sample_weight * (p_j - q_j) / temperature

    Parameters
    ----------
    target_logits, logits, axis, temperature, sample_weight, reduction, normalizer, empty, backend,
    n_threads
        As for `kl_divergence_with_logits`.
    out : numpy.ndarray, optional
        As for `cross_entropy_with_grad`.

    Returns
    -------
    divergence : numpy.float64 or array
    grad_logits : numpy.ndarray of `logits`' shape and dtype

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy_with_grad`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> teacher, student = np.array([[0.0, 0.0]]), np.array([[0.0, -np.inf]])
    >>> fastxent.kl_divergence_with_logits_and_grad(teacher, student)
    (np.float64(inf), array([[ 0.5, -0.5]]))
    """
    if unknown:
        raise refuse(unknown, kl_divergence_with_logits_and_grad)
    divergence, gradient = _divergence(
        target_logits, logits, axis, temperature, sample_weight, reduction, normalizer, empty,
        backend, n_threads, OUTPUT_GRADIENT, out,
    )  # fmt: skip
    return divergence, gradient


def _divergence(
    target_logits: object,
    logits: object,
    axis: int,
    temperature: float,
    sample_weight: object,
    reduction: Reduction,
    normalizer: float | None,
    empty: Empty,
    backend: str | None,
    n_threads: int | None,
    output_kind: int,
    out: Array | None,
) -> tuple[Any, Any]:
    check_reduction(reduction)
    asked = Asked(
        temperature=temperature, sample_weight=sample_weight, normalizer=normalizer, empty=empty
    )
    batch = Batch(logits, NO_LABELS, axis, backend, n_threads, asked=asked, reduction=reduction)
    options = with_partners(batch, target_logits, "target_logits")
    if out is not None:
        check_out(out, batch.logits, as_array(target_logits, "target_logits"), "target_logits")
    return batch.evaluate(reduction, output_kind, out, "diverge", options)
