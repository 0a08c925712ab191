"""The sum of the losses -> what the caller asked for."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from ._validation import Array

Reduction = Literal["none", "sum", "mean"]
REDUCTIONS: Final = ("none", "sum", "mean")


def check_reduction(reduction: object) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        choices = ", ".join(map(repr, REDUCTIONS))
        raise ValueError(f"reduction must be one of {choices}, not {reduction!r}")


def reduced(losses: Array | None, answer: tuple[int, int, float], reduction: str | None) -> Any:
    """What a call returns for its losses; `answer` is that of `backends.evaluate`."""
    _, n_kept, total = answer
    if reduction == "mean":
        return np.float64(total / n_kept if n_kept else np.nan)
    return np.float64(total) if reduction == "sum" else losses


def result_dtype(logits: Array) -> type[Any]:
    """float64 for float64 logits, float32 for all others."""
    return np.float64 if logits.dtype.type is np.float64 else np.float32
