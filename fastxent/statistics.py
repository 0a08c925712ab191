"""What is known of every row, in one call."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple, Never

import numpy as np

from . import backends
from ._call import NO_LABELS, ROWS_AT_A_TIME, Batch
from ._keywords import own_keywords, refuse
from ._options import asked_for
from ._reduce import as_result, result_dtype
from ._validation import Array
from .backends.context import STATE_SIZE, Options

# Where `rows_describe` puts them in the state of a row.
_LABEL_LOG_PROB: Final = 1
_ARGMAX: Final = 3
_FLOATS: Final = {
    "logsumexp": 0, "label_log_prob": _LABEL_LOG_PROB, "entropy": 2, "max_prob": 4,
}  # fmt: skip


class RowStats(NamedTuple):
    """Arrays with a number for every row; what needs labels is None without them.

    Of a single row of one axis they are numbers: numpy.float64, int and bool.

    >>> import numpy as np, fastxent
    >>> fastxent.row_stats(np.array([[0.0, 2.0, 1.0]])).argmax
    array([1])
    """

    losses: Any
    logsumexp: Any
    label_log_prob: Any
    entropy: Any
    argmax: Any
    correct: Any
    max_prob: Any


@own_keywords
def row_stats(
    logits: object,
    labels: object = None,
    *,
    axis: int = -1,
    class_weight: object = None,
    sample_weight: object = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    backend: str | None = None,
    n_threads: int | None = None,
    **unknown: Never,
) -> RowStats:
    """Losses, log-probabilities, entropies and predictions of every row.

    For a row of logits x, with y the logits after softcap and temperature and p = softmax(y),

        logsumexp      = log sum_j exp(y_j)
        label_log_prob = log p_label, or sum_j labels_j * log p_j
        entropy        = -sum_j p_j * log p_j
        argmax         = the first class with the largest logit;   max_prob = its p
        correct        = argmax is the label, or that of the probabilities

    Perplexity is exp(-mean of label_log_prob), accuracy the mean of correct, both over the rows
    that are not ignored; max_prob beside correct gives calibration.

    Parameters
    ----------
    logits : array of float16, bfloat16, float32 or float64
    labels : array, optional
        As for `cross_entropy`.
    axis, class_weight, sample_weight, label_smoothing, ignore_index, temperature, softcap, z_loss,
    backend, n_threads
        As for `cross_entropy`. Weights, smoothing and z_loss change `losses` alone.

    Returns
    -------
    RowStats
        A named tuple of arrays of `logits`' shape without the class axis: float64 for float64
        logits, float32 otherwise, nats; argmax int64, correct bool. Of a single row of one axis
        numbers that `json` takes: numpy.float64, int and bool. Without labels losses,
        label_log_prob and correct are None. Of an ignored row all are 0, argmax is -1. Of a row
        without a softmax (NaN, +inf, -inf alone) argmax is -1, and the others are NaN but for a
        logsumexp of inf or -inf.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    entropy = log S + sum_j e_j * (m - y_j) / S with e_j = exp(y_j - m) and S = sum_j e_j: no term
    is negative. After Blanchard, Higham and Higham (2021), as `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, fastxent
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> stats = fastxent.row_stats(logits, np.array([0, 1]))
    >>> stats.correct
    array([ True, False])
    >>> print(f"{np.exp(-stats.label_log_prob.mean()):.4f}")  # perplexity
    1.9524
    >>> stats.entropy[1] == np.log(3.0)
    np.True_
    """
    if unknown:
        raise refuse(unknown, row_stats)
    asked = asked_for(class_weight, sample_weight, label_smoothing, temperature, softcap, z_loss)
    given = NO_LABELS if labels is None else labels
    batch = Batch(logits, given, axis, backend, n_threads, ignore_index, asked, "none")
    n_rows, dtype = math.prod(batch.shape), result_dtype(batch.logits)
    floats = {name: np.empty(n_rows, dtype) for name in _FLOATS}
    argmax = np.empty(n_rows, np.int64)
    losses = np.empty(n_rows, dtype)
    states = np.empty((min(n_rows, ROWS_AT_A_TIME), 1, STATE_SIZE))
    for rows, part in batch.parts():
        losses[rows], table = _describe(part, states)
        argmax[rows] = table[:, _ARGMAX]
        # what float32 cannot hold is inf, subnormal or 0
        with np.errstate(all="ignore"), backends.driver.default_float_mode():
            for name, k in _FLOATS.items():
                floats[name][rows] = table[:, k]
            if batch.has_probs and class_weight is not None:
                # with weights the sum over the probabilities is a weighted one
                plain = (part.options or Options())._replace(class_weights=None, class_masses=None)
                floats["label_log_prob"][rows] = _describe(part, states, plain)[1][
                    :, _LABEL_LOG_PROB
                ]
    columns: dict[str, Any] = {
        name: column.reshape(batch.shape)
        for name, column in (*floats.items(), ("losses", losses), ("argmax", argmax))
    }
    found = columns["argmax"]
    if batch.labels is None:
        columns |= {"losses": None, "label_log_prob": None, "correct": None}
    elif batch.has_probs:
        columns["correct"] = found == np.argmax(batch.labels, axis=batch.axis)
    else:
        columns["correct"] = (found == batch.labels) & (found >= 0)
    return RowStats(
        **{name: value if value is None else as_result(value) for name, value in columns.items()}
    )


def _describe(part: Batch, states: Array, options: Options | None = None) -> tuple[Any, Array]:
    """The losses, and what `rows_describe` leaves behind for each row: in `states`."""
    states = states[: len(part.logits)]
    options = (options or part.options or Options())._replace(states=states)
    losses, _ = part.evaluate("none", task="describe", options=options)
    return losses, states[:, 0, :]
