"""softmax, log_softmax and logsumexp along any axes, as SciPy has them."""

from __future__ import annotations

import math
from typing import Any, Never

import numpy as np

from . import backends
from ._call import NO_LABELS, call
from ._conversion import is_masked
from ._keywords import own_keywords, refuse
from ._plan import make_plan
from ._reduce import as_result, result_dtype
from ._scaled import log_scaled_sum
from ._validation import Array, as_array, check_floats, check_out, normalise_axis
from .backends.context import ELEMENTS, OUTPUT_GRADIENT, OUTPUT_LOG_SOFTMAX


@own_keywords
def softmax(
    logits: object,
    axis: int | tuple[int, ...] | None = -1,
    out: Array | None = None,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """exp(x_j) / sum_k exp(x_k) along an axis, or several.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Integers (but uint16) and booleans are taken as float64.
    axis : int, tuple of ints, or None
        The axes along which the result sums to 1; None is all of them, which SciPy has as default.
    out : numpy.ndarray, optional
        Where the result goes: its shape and dtype. `out=logits` works in place.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    probs : numpy.ndarray of `logits`' shape and dtype, or for a single number a numpy.float64
        0 where a logit is -inf. NaN in every class of a row that holds a NaN or +inf, or
        nothing but -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy_with_grad`, and for axes without an element.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    >>> fastxent.softmax(np.zeros((2, 2)), axis=(0, 1))
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    if unknown:
        raise refuse(unknown, softmax)
    return _normalised(logits, axis, out, backend, n_threads, OUTPUT_GRADIENT)


@own_keywords
def log_softmax(
    logits: object,
    axis: int | tuple[int, ...] | None = -1,
    out: Array | None = None,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """x_j - log(sum_k exp(x_k)) along an axis, or several.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Integers (but uint16) and booleans are taken as float64.
    axis : int, tuple of ints, or None
        The axes of the classes; None is all of them, which SciPy has as default.
    out : numpy.ndarray, optional
        Where the result goes: its shape and dtype. `out=logits` works in place.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    log_probs : numpy.ndarray of `logits`' shape and dtype, or for a single number a numpy.float64
        -inf where a logit is -inf. NaN in every class of a row that holds a NaN or +inf, or
        nothing but -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy_with_grad`, and for axes without an element.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.log_softmax(np.array([40.0, 0.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    if unknown:
        raise refuse(unknown, log_softmax)
    return _normalised(logits, axis, out, backend, n_threads, OUTPUT_LOG_SOFTMAX)


@own_keywords
def logsumexp(
    logits: object,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: object = None,
    keepdims: bool = False,
    return_sign: bool = False,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """log(sum_k b_k * exp(x_k)) along an axis, or several; without b, log(sum_k exp(x_k)).

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
        Integers (but uint16) and booleans are taken as float64.
    axis : int, tuple of ints, or None
        The axes that are summed over; None is all of them, which SciPy has as default.
    b : array of real numbers, optional
        Factors of either sign; logits and b are broadcast against each other. Where b is 0 nothing
        is added, whatever the logit.
    keepdims : bool
        Whether those axes stay, with length 1.
    return_sign : bool
        Whether to return the logarithm of the sum's magnitude, and the sum's sign. Without, the
        logarithm of a sum below 0 is NaN.
    backend, n_threads
        As for `cross_entropy`. Sums with b are NumPy's, in float64, on the caller's thread.

    Returns
    -------
    numpy.ndarray of `logits`' shape without the axes, or without any left a numpy.float64
        float64 for float64 logits (or b), float32 otherwise. -inf for a row of -inf alone, or of
        nothing; +inf for one that holds +inf, NaN for one that holds NaN: what SciPy gives.
    sign : the same again, with return_sign=True
        1, 0 or -1; NaN where the logarithm is.

    Raises
    ------
    TypeError
        As `cross_entropy`; for a b that does not hold real numbers, and for keepdims or return_sign
        that is neither True nor False.
    ValueError
        As `cross_entropy`, and for a b that cannot be broadcast.

    Notes
    -----
    With b the largest term of each row, b_k * exp(x_k), is kept apart, so that small terms beside
    it keep their digits. Digits that terms of different signs cancel are lost, as they must be.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> fastxent.logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
    array([1000.69314718,    0.        ])
    >>> print(f"{fastxent.logsumexp([[1, 2], [3, 4]], axis=None):.6f}")
    4.440190
    >>> fastxent.logsumexp(np.array([2.0, 2.0]), b=[1, -2], return_sign=True)
    (np.float64(2.0), np.float64(-1.0))
    """
    if unknown:
        raise refuse(unknown, logsumexp)
    array = _as_floats(logits)
    is_plain = b is None and keepdims is False and return_sign is False
    if is_plain and array.size and _is_one(axis, array):
        return call(array, NO_LABELS, axis, backend, n_threads, reduction="none")[0]
    _check_bool(keepdims, "keepdims")
    _check_bool(return_sign, "return_sign")
    check_floats(array, "logits")
    dtype, factors = result_dtype(array), None
    if b is not None:
        factors = _factors(b)
        dtype = _wider(dtype, b, factors)
        array, factors = _broadcast(array, factors)
    array = np.atleast_1d(array)  # as SciPy does
    axes = _axes(axis, array.ndim)
    if math.prod(array.shape[k] for k in axes) == 0:
        make_plan(1, 1, backend, n_threads)  # refuses what is wrong
        values = np.full([n for k, n in enumerate(array.shape) if k not in axes], -np.inf)
        signs = np.zeros(values.shape)
    elif factors is None:
        rows, class_axis = (array, axes[0]) if len(axes) == 1 else (_merged(array, axes), -1)
        values = call(rows, NO_LABELS, class_axis, backend, n_threads, reduction="none")[0]
        signs = np.where(np.isnan(values), np.nan, np.where(values == -np.inf, 0.0, 1.0))
    else:
        make_plan(1, 1, backend, n_threads)
        with backends.driver.default_float_mode():
            values, signs = log_scaled_sum(
                _merged(array, axes), _merged(np.atleast_1d(factors), axes)
            )
        if not return_sign:
            values[signs < 0] = np.nan

    def result(numbers: Any) -> Any:
        # what float32 cannot hold is inf, subnormal or 0
        with np.errstate(all="ignore"), backends.driver.default_float_mode():
            found = np.asarray(numbers).astype(dtype)
        return as_result(np.expand_dims(found, axes) if keepdims else found)

    return (result(values), result(signs)) if return_sign else result(values)


def _normalised(
    logits: object,
    axis: object,
    out: Array | None,
    backend: str | None,
    n_threads: int | None,
    kind: int,
) -> Any:
    array = _as_floats(logits)
    if _is_one(axis, array):
        return call(array, NO_LABELS, axis, backend, n_threads, output_kind=kind, out=out)[1]
    check_floats(array, "logits")
    axes = _axes(axis, array.ndim)
    if len(axes) == 1:
        return call(array, NO_LABELS, axes[0], backend, n_threads, output_kind=kind, out=out)[1]
    if math.prod(array.shape[k] for k in axes) == 0:
        raise ValueError(
            f"logits of shape {array.shape} has no classes along axes {axes}; there must be at "
            "least one"
        )
    if out is not None:
        check_out(out, array, None)
    result = np.empty(array.shape, array.dtype) if out is None else np.asarray(out)
    rows = _merged(result, axes)
    filled = call(
        _merged(array, axes), NO_LABELS, -1, backend, n_threads, output_kind=kind, out=rows
    )[1]
    if not np.may_share_memory(rows, result):
        moved = _moved(result, axes)
        moved[...] = filled.reshape(moved.shape)
    return as_result(result) if out is None else out


def _is_one(axis: object, array: Array) -> bool:
    """Whether one axis is asked for, of an array that has axes."""
    return axis is not None and not isinstance(axis, tuple | list) and array.ndim > 0


def _as_floats(logits: object) -> Array:
    """Integers and booleans as float64, as SciPy takes them; what is no number is refused later.

    So is uint16, as which the bits of bfloat16 come back from files.
    """
    array = as_array(logits, "logits")
    is_taken = array.dtype.kind in "biu" and array.dtype != np.uint16
    return array.astype(np.float64) if is_taken else array


def _axes(axis: object, ndim: int) -> tuple[int, ...]:
    """The axes in order, counted from 0; a single number is like an array of one axis."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = tuple(sorted(normalise_axis(one, max(ndim, 1)) for one in given))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis {axis} names an axis twice; name each once")
    return axes if ndim else ()


def _moved(array: Array, axes: tuple[int, ...]) -> Array:
    return np.moveaxis(array, axes, range(-len(axes), 0))


def _merged(array: Array, axes: tuple[int, ...]) -> Array:
    """The axes as one, the last: a view where they lie so that there is one."""
    moved = _moved(array, axes)
    n_others = moved.ndim - len(axes)
    return moved.reshape(*moved.shape[:n_others], math.prod(moved.shape[n_others:]))


def _check_bool(value: object, name: str) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def _factors(b: object) -> Array:
    if is_masked(b):
        raise TypeError(
            "b is a masked array, whose mask would be lost; b.filled(0) leaves out what is masked"
        )
    factors = as_array(b, "b")
    if factors.dtype.kind not in "biuf" and factors.dtype.name not in ELEMENTS:
        raise TypeError(f"b must hold real numbers, not {factors.dtype.name}")
    return factors


def _broadcast(array: Array, factors: Array) -> tuple[Array, Array]:
    try:
        shape = np.broadcast_shapes(array.shape, factors.shape)
    except ValueError:
        raise ValueError(
            f"b has shape {factors.shape}, which cannot be broadcast against that of logits, "
            f"{array.shape}; pass a factor for every logit, or along some of their axes"
        ) from None
    return np.broadcast_to(array, shape), np.broadcast_to(factors, shape)


def _wider(dtype: type[Any], b: object, factors: Array) -> type[Any]:
    """The type of a result with factors, by NumPy's rule: a bare number changes none."""
    if type(b) in (bool, int, float) or factors.dtype.kind not in "biuf":
        return dtype
    return np.float32 if np.result_type(dtype, factors.dtype).itemsize <= 4 else np.float64
