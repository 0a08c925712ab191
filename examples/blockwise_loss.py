"""A loss that reads its classes in blocks, with a fault that is easily missed, and mended.

    cd examples
    fastxent verify --impl blockwise_loss:loss
    fastxent verify --impl blockwise_loss:mended_loss

docs/verification.md goes through what comes out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BLOCK = 512


def loss(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Losses and their gradient, with one reading of the logits for both sums."""
    n_rows, n_classes = logits.shape
    maximum = np.full(n_rows, -np.inf, logits.dtype)
    total = np.zeros(n_rows, logits.dtype)
    for start in range(0, n_classes, BLOCK):
        block = logits[:, start : start + BLOCK]
        raised = np.maximum(maximum, block.max(axis=1))
        # What was added up beside the old maximum counts less beside the new one.
        total *= np.exp(maximum - raised)
        total += np.exp(block - raised[:, None]).sum(axis=1)
        maximum = raised
    return from_sums(logits, labels, maximum, total)


def mended_loss(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The same, for rows that begin with a block of nothing but -inf as well."""
    n_rows, n_classes = logits.shape
    maximum = np.full(n_rows, -np.inf, logits.dtype)
    total = np.zeros(n_rows, logits.dtype)
    for start in range(0, n_classes, BLOCK):
        block = logits[:, start : start + BLOCK]
        raised = np.maximum(maximum, block.max(axis=1))
        # -inf - -inf is NaN: as long as there is no maximum, there is nothing to add up either.
        found = raised != -np.inf
        beside = np.where(found, raised, 0)
        total *= np.exp(np.where(found, maximum - beside, 0))
        total += np.exp(block - beside[:, None]).sum(axis=1)
        maximum = raised
    return from_sums(logits, labels, maximum, total)


def from_sums(logits: Array, labels: Array, maximum: Array, total: Array) -> tuple[Array, Array]:
    """Losses and gradient from the maximum of every row, and its sum of exp(x - maximum)."""
    i = np.arange(len(labels))
    log_probs = (logits - maximum[:, None]) - np.log(total)[:, None]
    gradient = np.exp(log_probs)
    gradient[i, labels] -= 1
    return -log_probs[i, labels], gradient
