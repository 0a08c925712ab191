"""Losses, one a row -> what the caller asked for."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from . import backends
from ._plan import Plan
from ._validation import Array

Reduction = Literal["none", "sum", "mean"]
REDUCTIONS: Final = ("none", "sum", "mean")


def check_reduction(reduction: object) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        choices = ", ".join(map(repr, REDUCTIONS))
        raise ValueError(f"reduction must be one of {choices}, not {reduction!r}")


def gradient_scale(reduction: str, n_kept: int) -> float:
    """What a row's gradient is multiplied by, so that it belongs to what is returned."""
    if reduction == "mean":
        return 1.0 / n_kept if n_kept else np.nan
    return 1.0


def reduce(
    plan: Plan,
    losses: Array,
    reduction: str,
    n_kept: int,
    logits: Array,
    axis: int,
) -> Any:
    """`losses` (float64, one a row) as an array, their sum, or their mean over `n_kept` rows."""
    if reduction == "none":
        shape = logits.shape[:axis] + logits.shape[axis + 1 :]
        with np.errstate(over="ignore"):  # a loss beyond the largest float32 is inf
            return losses.astype(result_dtype(logits), copy=False).reshape(shape)
    total = np.float64(backends.sum_losses(plan, losses))
    if reduction == "sum":
        return total
    return total / n_kept if n_kept else np.float64(np.nan)


def result_dtype(logits: Array) -> np.dtype[Any]:
    """float64 for float64 logits, float32 for all others."""
    return np.dtype(np.float64 if logits.dtype.name == "float64" else np.float32)
