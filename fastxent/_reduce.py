"""The sum of the losses -> what the caller asked for."""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from . import backends
from ._conversion import Array
from .backends.context import EMPTY

Reduction = Literal["none", "sum", "mean"]
MeanOver = Literal["weight", "valid", "rows"]
Empty = Literal["nan", "zero", "raise"]

REDUCTIONS: Final = ("none", "sum", "mean")
MEANS_OVER: Final = ("weight", "valid", "rows")
EMPTIES: Final = ("nan", "zero", "raise")


# What others call them.
_REDUCTIONS_ELSEWHERE: Final = {
    None: "none",
    "batchmean": "mean",
    "average": "mean",
    "elementwise_mean": "mean",
    "sum_over_batch_size": "mean",
    "mean_with_sample_weight": "mean",
}


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
            f"{_choice_advice(value, choices)}"
        )


def _choice_advice(value: object, choices: tuple[str, ...]) -> str:
    word = value.lower() if isinstance(value, str) else value
    if choices is REDUCTIONS and (word is None or isinstance(word, str)):
        word = _REDUCTIONS_ELSEWHERE.get(word, word)
    return f"; here that is {word!r}" if isinstance(word, str) and word in choices else ""


def check_reduction(reduction: object) -> None:
    if type(reduction) is str and reduction in REDUCTIONS:
        return  # a second call in every call would take 40 ns
    check_choice(reduction, "reduction", REDUCTIONS)


def reduced(
    losses: Array | None,
    answer: tuple[int, float, float],
    reduction: str | None,
    empty: str = "nan",
    divides_sum: bool = False,
) -> Any:
    """What a call returns for its losses; `answer` is that of `backends.evaluate`."""
    row, denominator, total = answer
    if row == EMPTY or (reduction == "mean" and not denominator and empty == "raise"):
        raise ValueError(
            "the mean is over nothing: every row is ignored, or all weights are 0, or there is no "
            "row; leave such batches out, or pass empty='zero' or empty='nan'"
        )
    if reduction == "mean" and not denominator:
        return np.float64(0.0 if empty == "zero" else np.nan)
    if reduction == "mean" or divides_sum:
        return np.float64(backends.driver.quotient(total, denominator))
    if reduction == "sum":
        return np.float64(total)
    return None if losses is None else as_result(losses)


def as_result(values: Array) -> Any:
    """Values as they are returned: one without an axis as a number that `json` takes."""
    if values.ndim:
        return values
    # a numpy.float64 is a float; a numpy.float32 is none, and an array of no axes no number
    return values.item() if values.dtype.kind in "bi" else np.float64(values)


def result_dtype(logits: Array) -> type[Any]:
    """float64 for float64 logits, float32 for all others."""
    return np.float64 if logits.dtype.type is np.float64 else np.float32
