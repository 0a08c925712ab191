"""softmax, log_softmax and logsumexp along one axis."""

from __future__ import annotations

import numpy as np

from ._call import NO_LABELS, call
from ._validation import Array
from .backends.context import OUTPUT_GRADIENT, OUTPUT_LOG_SOFTMAX


def softmax(
    logits: object,
    axis: int = -1,
    out: Array | None = None,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """exp(x_j) / sum_k exp(x_k) along an axis.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    axis : int
        The axis along which the result sums to 1.
    out : numpy.ndarray, optional
        Where the result goes: `logits`' shape and dtype. `out=logits` works in place.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    probs : numpy.ndarray of `logits`' shape and dtype
        0 where a logit is -inf. NaN in every class of a row that holds a NaN or +inf, or
        nothing but -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy_with_grad`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return _normalised(logits, axis, out, backend, n_threads, OUTPUT_GRADIENT)


def log_softmax(
    logits: object,
    axis: int = -1,
    out: Array | None = None,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """x_j - log(sum_k exp(x_k)) along an axis.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    axis : int
        The class axis.
    out : numpy.ndarray, optional
        Where the result goes: `logits`' shape and dtype. `out=logits` works in place.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    log_probs : numpy.ndarray of `logits`' shape and dtype
        -inf where a logit is -inf. NaN in every class of a row that holds a NaN or +inf, or
        nothing but -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy_with_grad`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.log_softmax(np.array([40.0, 0.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _normalised(logits, axis, out, backend, n_threads, OUTPUT_LOG_SOFTMAX)


def logsumexp(
    logits: object,
    axis: int = -1,
    *,
    keepdims: bool = False,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """log(sum_k exp(x_k)) along an axis.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    axis : int
        The axis that is summed over.
    keepdims : bool
        Whether that axis stays, with length 1.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    numpy.ndarray of `logits`' shape without the axis
        float64 for float64 logits, float32 otherwise. -inf for a row of -inf alone, +inf for
        one that holds +inf, NaN for one that holds NaN: what SciPy gives with axis=-1.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([1000.69314718,    0.        ])
    """
    values: Array = call(logits, NO_LABELS, axis, backend, n_threads, reduction="none")[0]
    return np.expand_dims(values, axis) if keepdims else values


def _normalised(
    logits: object,
    axis: int,
    out: Array | None,
    backend: str | None,
    n_threads: int | None,
    kind: int,
) -> Array:
    result: Array = call(logits, NO_LABELS, axis, backend, n_threads, output_kind=kind, out=out)[1]
    return result
