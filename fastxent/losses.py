"""Softmax cross-entropy and its gradient."""

from __future__ import annotations

from typing import Any, Final, Never

from ._call import Batch, call
from ._conversion import Array, as_array
from ._keywords import own_keywords, refuse
from ._options import asked_for
from ._reduce import Empty, MeanOver, Reduction, check_reduction
from ._validation import check_order, check_out
from .backends.context import OUTPUT_GRADIENT, OUTPUT_LABEL_GRADIENT


@own_keywords
def cross_entropy(
    logits: object,
    labels: object,
    *,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    r"""Softmax cross-entropy of logits against labels.

    For a row of logits x, with y = softcap * tanh(x / softcap) / temperature and a target measure t
    over the classes,

        loss = sample_weight * (sum_j t_j * (logsumexp(y) - y_j) + z_loss * logsumexp(y)^2)
        t_j  = class_weight_j * ((1 - e) * b_j + e / C)

    where b is 1 at the label (integer labels) or the given probabilities (float labels), e is
    label_smoothing and C the number of classes that are not masked; nothing is spread over those
    that are. The defaults leave sum_j b_j * (logsumexp(x) - x_j).

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64, any shape with at least one axis
        Unnormalised log-probabilities. -inf marks a class that cannot occur. NumPy arrays, lists,
        and anything with `__array__` or, without that, `__dlpack__` on the CPU: tensors of other
        libraries (PyTorch's bfloat16 too, with ml_dtypes installed), data frames of numbers in any
        kind of column, as long as no value is missing. Strides and byte order are free.
    labels : array
        Integers of any width, shaped like `logits` without the class axis: the class of each
        row. Or floats of `logits`' shape: a probability for every class, finite and not
        negative; they need not sum to 1. An array of no elements in the batch's shape counts as
        integers, whatever its dtype.
    axis : int
        The class axis of `logits`.
    class_weight : array (n_classes,) or mapping, optional
        From 0 to 1e30; computed with in float64 for float64 logits, else in float32. A mapping has
        classes as keys, and a class that it leaves out has weight 1. A pandas Series goes by its
        index, which must be 0 to n_classes - 1 in any order.
    sample_weight : array of `logits`' shape without the class axis, optional
        From 0 to 1e30, or a mask of booleans. A row of weight 0 adds nothing, whatever its logits.
    label_smoothing : float
        From 0 to 1. Wherever a float is asked for, an array of one number is as good.
    ignore_index : int, optional
        Rows with this label add nothing, whatever their logits. By default none does (PyTorch
        ignores -100). Rows of probabilities that are all 0 add nothing either, without
        label_smoothing and z_loss.
    temperature : float
        What the logits are divided by, above 0. The gradient has the factor 1 / temperature.
    softcap : float, optional
        Above 0: logits are kept between -softcap and softcap, before the temperature. -inf stays.
    z_loss : float
        Not negative: the factor of logsumexp squared, which keeps logsumexp near 0.
    reduction : {"mean", "sum", "none"}
        "none": a loss for every row. "sum": their sum. "mean": the sum divided as `mean_over` says.
    normalizer : float, optional
        What the sum is divided by instead, above 0: the number of tokens of several batches, say.
    mean_over : {"weight", "valid", "rows"}
        What a mean divides by. "weight", as PyTorch: the sum of sample_weight * class_weight[label]
        over the rows that are not ignored, or of sample_weight over all rows (probabilities).
        "valid": the number of rows that are not ignored, as Keras. "rows": the number of rows.
    empty : {"nan", "zero", "raise"}
        What a mean over nothing is: NaN, 0, or a ValueError. Its gradient is 0.
    backend : {"cython", "numba"}, optional
        By default that of `get_backend()`.
    n_threads : int, optional
        How many threads to use at most; by default `get_num_threads()`. It does not change the
        result in any bit.

    Returns
    -------
    numpy.float64, or for reduction="none" an array of `logits`' shape without the class axis
        Natural logarithms (nats). The array is float64 for float64 logits, float32 otherwise; a
        number that stands alone, of a single row of one axis too, is always a numpy.float64, which
        `json` takes. Sum and mean are accumulated in float64 in a fixed order.

    Raises
    ------
    TypeError
        A dtype that is not taken, missing values in a data frame, an argument that is not an array
        or not an integer, logits and labels that look swapped, an unknown keyword.
    ValueError
        Shapes that do not fit, no classes, a label that is not a class, a probability or weight
        that is negative or not finite, an option out of its range, ignore_index with probabilities,
        a normalizer with "none" or another mean_over, a mean over nothing with empty="raise", an
        unknown backend, n_threads below 1.

    Notes
    -----
    A NaN or +inf logit, or a row of -inf alone, makes the loss of its row NaN and of no other.
    The loss is computed from the largest logit m, the number of logits equal to it and the sum
    of exp(x_j - m) over the others, so confident rows keep their digits. After Blanchard, Higham
    and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[2.0, 1.0, 0.0], [40.0, 0.0, -np.inf]], np.float32)
    >>> fastxent.cross_entropy(logits, np.array([0, 0]), reduction="none")
    array([4.0760598e-01, 4.2483541e-18], dtype=float32)
    >>> loss = fastxent.cross_entropy(logits, np.array([0, 1]), class_weight=[1.0, 3.0, 1.0])
    >>> print(f"{loss:.6f}")  # (1 * 0.4076 + 3 * 40) / (1 + 3)
    30.101901
    """
    if unknown:
        raise refuse(unknown, cross_entropy)
    check_reduction(reduction)
    asked = asked_for(
        class_weight, sample_weight, label_smoothing, temperature, softcap, z_loss, normalizer,
        mean_over, empty,
    )  # fmt: skip
    loss, _ = call(
        logits, labels, axis, backend, n_threads, ignore_index=ignore_index, reduction=reduction,
        asked=asked,
    )  # fmt: skip
    return loss


@own_keywords
def cross_entropy_with_grad(
    logits: object,
    labels: object,
    *,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    mean_over: MeanOver = "weight",
    empty: Empty = "nan",
    backend: str | None = None,
    n_threads: int | None = None,
    out: Array | None = None,
    grad_labels: bool = False,
    **unknown: Never,
) -> tuple[Any, ...]:
    r"""Softmax cross-entropy and its gradient with respect to the logits, in one pass.

    For a row of logits x, y and t as for `cross_entropy`, p = softmax(y) and A = sum_j t_j,

        grad_j = sample_weight * ((A + 2 * z_loss * logsumexp(y)) * p_j - t_j) * dy_j/dx_j
        dy/dx  = (1 - tanh(x / softcap)^2) / temperature

    A logit of -inf is not capped: its factor is 1 / temperature.

    The gradient is that of exactly what is returned: with reduction="mean" it carries the
    division, with "none" row i holds the gradient of loss i.

    Parameters
    ----------
    logits, labels, axis, class_weight, sample_weight, label_smoothing, ignore_index, temperature,
    softcap, z_loss, reduction, normalizer, mean_over, empty, backend, n_threads
        As for `cross_entropy`.
    out : numpy.ndarray, optional
        Where the gradient goes: an array of `logits`' shape and dtype. `out=logits` overwrites
        the logits; no other overlap is allowed. A large `out` that is used again saves the
        operating system's work for fresh memory, which can exceed the computation.
    grad_labels : bool
        Whether to return the gradient with respect to probabilities too.

    Returns
    -------
    loss : numpy.float64 or array
        The same bits as `cross_entropy` returns.
    grad_logits : numpy.ndarray of `logits`' shape and dtype
        `out`, where it was given. Zero in ignored rows. One of bfloat16 becomes a tensor of PyTorch
        by torch.from_numpy(grad_logits.view(np.int16)).view(torch.bfloat16).
    grad_labels : numpy.ndarray of `logits`' shape and dtype, with grad_labels=True
        sample_weight * class_weight_j * (1 - e) * (logsumexp(y) - y_j), divided like the loss; 0 at
        a masked class without mass.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, and for an `out` of another shape or dtype, read-only or overlapping
        an input, and for grad_labels with class indices. Nothing has been written then.

    Notes
    -----
    Beside the gradient itself it needs memory for a few numbers a row only, where the logits are
    contiguous or rows of any stride, with the classes along the last axis and in native byte order,
    or contiguous with another class axis, up to 128 classes, class indices as labels, and 16 or 32
    bits a logit. All others are copied once. At the label,
    p_y - 1 is computed as minus the sum of the other probabilities. A row whose loss is NaN has
    a NaN gradient; a label on a class masked by -inf has an infinite loss and a finite gradient.

    A float16 gradient of a mean over many rows underflows: of 400,000 x 10 standard normal logits
    4 % of it is 0. Take reduction="sum", or a smaller `normalizer`, and divide later in float32, or
    pass the logits as float32; the gradient always has their dtype. (docs/numerics.md)

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[0.0, 0.0, 0.0, 0.0]])
    >>> loss, grad_logits = fastxent.cross_entropy_with_grad(logits, np.array([2]))
    >>> print(f"{loss:.6f}")
    1.386294
    >>> grad_logits
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    if unknown:
        raise refuse(unknown, cross_entropy_with_grad)
    check_reduction(reduction)
    asked = asked_for(
        class_weight, sample_weight, label_smoothing, temperature, softcap, z_loss, normalizer,
        mean_over, empty,
    )  # fmt: skip
    if not isinstance(grad_labels, bool):
        raise TypeError(f"grad_labels must be True or False, not {grad_labels!r}")
    if grad_labels:
        batch = Batch(logits, labels, axis, backend, n_threads, ignore_index, asked, reduction)
        if not batch.has_probs:
            raise ValueError(
                "grad_labels is the gradient with respect to probabilities, and labels are class "
                "indices; pass labels as floats of logits' shape"
            )
        # first: `out` may lie where the logits lie
        if out is not None:
            check_out(out, batch.logits, batch.labels)
        _, labels_gradient = batch.evaluate(reduction, OUTPUT_LABEL_GRADIENT)
        loss, gradient = batch.evaluate(reduction, OUTPUT_GRADIENT, out)
        return loss, gradient, labels_gradient
    loss, gradient = call(
        logits, labels, axis, backend, n_threads, ignore_index=ignore_index, reduction=reduction,
        output_kind=OUTPUT_GRADIENT, out=out, asked=asked,
    )  # fmt: skip
    return loss, gradient


@own_keywords
def softmax_cross_entropy_with_logits(
    labels: object,
    logits: object,
    axis: int = -1,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """A loss for every row, from probabilities: TensorFlow's function of this name.

        loss = sum_j labels_j * (logsumexp(logits) - logits_j)

    Parameters
    ----------
    labels : array of floats, shaped like `logits`
        Probabilities, finite and not negative.
    logits : array of float16, bfloat16, float32 or float64
    axis : int
        The class axis of both.
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    losses : array of `logits`' shape without the class axis
        float64 for float64 logits, float32 otherwise; of a single row a numpy.float64.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; also TypeError for integer labels.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[4.0, 2.0, 1.0], [0.0, 5.0, 1.0]])
    >>> labels = np.array([[1.0, 0.0, 0.0], [0.0, 0.8, 0.2]])
    >>> fastxent.softmax_cross_entropy_with_logits(labels, logits)
    array([0.16984602, 0.82474489])
    """
    if unknown:
        raise refuse(unknown, softmax_cross_entropy_with_logits)
    floats = _labels_of_kind(
        labels, logits, "fV", "probabilities as floats; for class indices there is sparse_" + _NAME
    )
    return call(logits, floats, axis, backend, n_threads, reduction="none")[0]


@own_keywords
def sparse_softmax_cross_entropy_with_logits(
    labels: object,
    logits: object,
    *,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> Any:
    """A loss for every row, from class indices: TensorFlow's function of this name.

        loss = logsumexp(logits) - logits_label

    Parameters
    ----------
    labels : array of integers, shaped like `logits` without its last axis
    logits : array of float16, bfloat16, float32 or float64; the classes lie along the last axis
    backend, n_threads
        As for `cross_entropy`.

    Returns
    -------
    losses : array shaped like `labels`
        float64 for float64 logits, float32 otherwise; of a single row a numpy.float64.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; also TypeError for labels that are not integers.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[2.0, -5.0, 0.5], [0.0, 0.0, 1.9]])
    >>> fastxent.sparse_softmax_cross_entropy_with_logits(np.array([0, 2]), logits)
    array([0.20215853, 0.26170038])
    """
    if unknown:
        raise refuse(unknown, sparse_softmax_cross_entropy_with_logits)
    integers = _labels_of_kind(
        labels, logits, "iu", "class indices as integers; for probabilities there is " + _NAME
    )
    return call(logits, integers, -1, backend, n_threads, reduction="none")[0]


_NAME: Final = "softmax_cross_entropy_with_logits"


def _labels_of_kind(labels: object, logits: object, kinds: str, wanted: str) -> Array:
    array = as_array(labels, "labels")
    if array.size == 0 and "i" in kinds:
        return array  # np.array([]) is float64, whatever it is meant to hold
    if array.dtype.kind not in kinds:
        check_order(as_array(logits, "logits"), array, "labels come first here, as in TensorFlow")
        raise TypeError(f"labels are {array.dtype.name}, but must be {wanted}")
    return array
