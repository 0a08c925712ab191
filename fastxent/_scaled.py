"""log |sum_j b_j * exp(x_j)|, with factors b of either sign, in NumPy and float64."""

from __future__ import annotations

import numpy as np

from ._validation import Array
from .backends.context import SEGMENT

# Elements at a time: a dozen arrays of them, half a megabyte each.
_AT_A_TIME = 1 << 16
# exp of what is between these neither overflows nor is short of digits.
_FAR = 700.0


@np.errstate(all="ignore")
def log_scaled_sum(logits: Array, factors: Array) -> tuple[Array, Array]:
    """The logarithms of |sums| along the last axis, and the signs of the sums.

    A sum is taken relative to exp(x_k), where b_k * exp(x_k) is its largest term. The terms with
    x_j = x_k add exactly b_j and are kept apart from the others, as the kernels do it: where all
    add up to almost 1, log1p keeps the digits of the others, however small they are.
    """
    batch, n_classes = logits.shape[:-1], logits.shape[-1]
    logits, factors = logits.reshape(-1, n_classes), factors.reshape(-1, n_classes)
    n_rows = len(logits)
    logarithms, signs = np.empty(n_rows), np.empty(n_rows)
    # blocks of classes of one width, so that no bit depends on how many rows there are
    blocks = [slice(j, j + SEGMENT) for j in range(0, n_classes, SEGMENT)]
    step = max(1, _AT_A_TIME // min(n_classes, SEGMENT))
    for start in range(0, n_rows, step):
        rows = slice(start, start + step)
        pivots, infinite = _pivots(logits[rows], factors[rows], blocks)
        head, rest = np.zeros(len(pivots)), np.zeros(len(pivots))
        for block in blocks:
            x, b = _terms(logits[rows, block], factors[rows, block])
            below = x - pivots[:, None]
            near = np.clip(below, -_FAR, _FAR)
            # a factor may be small enough to make up for an exponential that overflows
            far = np.exp((below - near) / 2)
            summands = b * np.exp(near) * far * far
            head += np.where(below == 0, b, 0).sum(axis=1)
            rest += np.where(below == 0, 0, summands).sum(axis=1)
        total = head + rest
        sign, size = np.sign(total), np.abs(total)
        logarithms[rows] = pivots + np.where(
            (size > 0.5) & (size < 2), np.log1p((sign * head - 1) + sign * rest), np.log(size)
        )
        signs[rows] = sign
        is_infinite = infinite != 0
        logarithms[rows][is_infinite] = np.log(np.abs(infinite[is_infinite]))
        signs[rows][is_infinite] = np.sign(infinite[is_infinite])
    return logarithms.reshape(batch), signs.reshape(batch)


def _terms(logits: Array, factors: Array) -> tuple[Array, Array]:
    """Logits and factors in float64; what has the factor 0 adds nothing, whatever its logit."""
    x, b = logits.astype(np.float64), factors.astype(np.float64)
    x[b == 0] = -np.inf
    return x, b


def _pivots(logits: Array, factors: Array, blocks: list[slice]) -> tuple[Array, Array]:
    """The logit of each row's largest term, and the sum of those that are infinite or NaN."""
    n_rows = len(logits)
    each = np.arange(n_rows)
    sizes, pivots, infinite = np.full(n_rows, -np.inf), np.zeros(n_rows), np.zeros(n_rows)
    for block in blocks:
        x, b = _terms(logits[:, block], factors[:, block])
        is_finite = np.isfinite(b) & (x < np.inf)
        infinite += np.where(is_finite, 0, b * np.where(np.isfinite(x), 1, np.exp(x))).sum(axis=1)
        size = np.where(is_finite, x + np.log(np.abs(b)), -np.inf)
        best = size.argmax(axis=1)
        larger = size[each, best] > sizes
        sizes[larger] = size[each, best][larger]
        pivots[larger] = x[each, best][larger]
    return pivots, infinite
