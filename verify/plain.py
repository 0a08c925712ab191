"""The formula as it is usually written, in the precision of the logits: the measure of "ordinary".

Two ways of writing it are usual, and sound implementations use both:

    "log_softmax"   log p_j = (y_j - m) - log(sum_k exp(y_k - m))
    "logsumexp"     log p_j = y_j - (m + log(sum_k exp(y_k - m)))

    loss   = s * (-sum_j t_j log p_j + z * lse^2)
    grad_j = s * ((A + 2 z lse) * exp(log p_j) - t_j) * dy_j/dx_j

with the measure t, its mass A and the transformed logits y of the options. The second way loses the
digits of an offset that all logits share. Both lose those of confident rows, where 1 + rest and
p - 1 are rounded. 16-bit logits are widened to float32 first, and the results rounded at the end.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from .case import CROSS_ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Array, Problem

Form = Literal["log_softmax", "logsumexp"]
FORMS: Final[tuple[Form, ...]] = ("log_softmax", "logsumexp")


def plain_results(
    operation: str, problem: Problem, form: Form
) -> tuple[Array | None, Array | None]:
    """Losses and output of an operation, in float32 or float64; not rounded to 16 bits."""
    real: Any = np.float64 if problem.logits.dtype.name == "float64" else np.float32
    with np.errstate(all="ignore"):
        y, slope = transformed(problem, real)
        m = y.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(y - m).sum(axis=1, keepdims=True))
        logsumexp = m + log_sum
        log_probs = (y - m) - log_sum if form == "log_softmax" else y - logsumexp
        if operation == SOFTMAX:
            return None, np.exp(log_probs)
        if operation == LOG_SOFTMAX:
            return None, log_probs
        if operation == LOGSUMEXP:
            return logsumexp[:, 0], None
        assert operation == CROSS_ENTROPY
        target = measure(problem, real)
        z = real(problem.options.get("z_loss", 0.0))
        # 0 * inf is 0 here, as everywhere in this project.
        losses = -np.where(target == 0, 0, target * log_probs).sum(axis=1)
        losses = losses + (z * logsumexp[:, 0] ** 2 if z else 0)
        mass = target.sum(axis=1, keepdims=True)
        total = mass + (2 * z * logsumexp if z else 0)
        gradient = (total * np.exp(log_probs) - target) * slope
        weight = row_weight(problem, real)
        asked = (weight != 0) & ((mass[:, 0] != 0) | (z != 0))
        return (
            np.where(asked, weight * losses, 0),
            np.where(asked[:, None], weight[:, None] * gradient, 0),
        )


def transformed(problem: Problem, real: Any) -> tuple[Array, Array]:
    """The logits, capped and divided, and the derivatives of that."""
    x = problem.logits.astype(np.float64).astype(real)
    slope = np.ones_like(x)
    softcap = problem.options.get("softcap")
    if softcap is not None:
        t = np.tanh(x / real(softcap))
        x = np.where(np.isfinite(x), real(softcap) * t, x)
        slope = 1 - t * t
    temperature = real(problem.options.get("temperature", 1.0))
    return x / temperature, slope / temperature


def measure(problem: Problem, real: Any) -> Array:
    """The target measure of every row, without the weight of the row."""
    shape = problem.logits.shape
    if problem.has_probs:
        target = problem.labels.astype(real)
    else:
        target = np.zeros(shape, real)
        i = np.flatnonzero(row_weight(problem, real) != 0)
        target[i, problem.labels[i]] = 1
    smoothing = real(problem.options.get("label_smoothing", 0.0))
    if smoothing:
        unmasked = problem.logits.astype(np.float64) > -np.inf
        share = smoothing / unmasked.sum(axis=1, keepdims=True).astype(real)
        target = (1 - smoothing) * target + np.where(unmasked, share, 0)
    weight = problem.options.get("class_weight")
    return target if weight is None else target * np.asarray(weight).astype(real)


def row_weight(problem: Problem, real: Any) -> Array:
    """The weight of every row; 0 where its label says that it is left out."""
    n_rows = problem.logits.shape[0]
    weight = np.asarray(problem.options.get("sample_weight", np.ones(n_rows))).astype(real)
    if problem.has_probs or problem.ignore_index is None:
        return weight
    kept: Array = np.where(problem.labels == problem.ignore_index, 0, weight)
    return kept
