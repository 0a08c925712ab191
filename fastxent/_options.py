"""What a call asks for besides its labels -> a few numbers for the kernels, or a clear error."""

from __future__ import annotations

import math
import numbers
from typing import Any, Final, NamedTuple

import numpy as np

from ._reduce import EMPTIES, MEANS_OVER, check_choice
from ._validation import Array, as_array
from .backends.context import BLOCK, Options

# A factor beyond these has no meaning in float32 arithmetic.
_SMALLEST: Final = 1e-30
_LARGEST: Final = 1e30


class Asked(NamedTuple):
    """The options of a public function, as they were passed; the defaults change nothing."""

    class_weight: Any = None
    sample_weight: Any = None
    label_smoothing: Any = 0.0
    temperature: Any = 1.0
    softcap: Any = None
    z_loss: Any = 0.0
    normalizer: Any = None
    mean_over: Any = "weight"
    empty: Any = "nan"
    hess_factor: Any = 1.0


def asked_for(
    class_weight: Any,
    sample_weight: Any,
    label_smoothing: Any,
    temperature: Any,
    softcap: Any,
    z_loss: Any,
    normalizer: Any = None,
    mean_over: Any = "weight",
    empty: Any = "nan",
) -> Asked | None:
    """The options, or None where they change nothing: a call without takes 2 us, and others 10."""
    if (
        class_weight is None
        and sample_weight is None
        and softcap is None
        and normalizer is None
        and _is(label_smoothing, 0.0)
        and _is(temperature, 1.0)
        and _is(z_loss, 0.0)
        and type(mean_over) is str
        and mean_over == "weight"
        and type(empty) is str
        and empty == "nan"
    ):
        return None
    return Asked(
        class_weight, sample_weight, label_smoothing, temperature, softcap, z_loss, normalizer,
        mean_over, empty,
    )  # fmt: skip


def _is(value: Any, default: float) -> bool:
    return type(value) is float and value == default


def make_options(
    asked: Asked, logits: Array, axis: int, has_labels: bool, reduction: str | None
) -> Options:
    """The options as the kernels take them; an error where one is wrong."""
    n_classes = logits.shape[axis]
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    smoothing = _number(asked.label_smoothing, "label_smoothing", 0.0, 1.0)
    temperature = _number(asked.temperature, "temperature", _SMALLEST, _LARGEST)
    softcap = 0.0
    if asked.softcap is not None:
        softcap = _number(asked.softcap, "softcap", _SMALLEST, _LARGEST, "; None is no cap")
    z_loss = _number(asked.z_loss, "z_loss", 0.0, _LARGEST)
    weights = masses = None
    if asked.class_weight is not None:
        weights = class_weights(asked.class_weight, n_classes, logits.dtype)
        masses = np.add.reduceat(weights.astype(np.float64), np.arange(0, n_classes, BLOCK))
    row_weights = None
    if asked.sample_weight is not None:
        row_weights = sample_weights(asked.sample_weight, batch)
    denominator, weighs = denominator_of(
        asked, row_weights, math.prod(batch), has_labels, reduction
    )
    return Options(
        class_weights=weights,
        class_masses=masses,
        row_weights=row_weights,
        label_scale=1.0 - smoothing,
        smoothing=smoothing,
        z_loss=z_loss,
        temperature=temperature,
        softcap=softcap,
        hess_factor=_number(asked.hess_factor, "hess_factor", _SMALLEST, _LARGEST),
        denominator=denominator,
        weighs=weighs,
        refuses_empty=asked.empty == "raise",
    )


def denominator_of(
    asked: Asked, row_weights: Array | None, n_rows: int, has_labels: bool, reduction: str | None
) -> tuple[float, bool]:
    """What a mean divides by, -1 where the kernels find out; whether they add up weights."""
    check_choice(asked.mean_over, "mean_over", MEANS_OVER)
    check_choice(asked.empty, "empty", EMPTIES)
    if asked.normalizer is not None:
        if reduction == "none":
            raise ValueError(
                "normalizer divides a sum, and reduction='none' makes none; pass "
                "reduction='mean', or divide the losses yourself"
            )
        if asked.mean_over != "weight":
            raise ValueError(
                f"normalizer is what a mean divides by, and mean_over={asked.mean_over!r} says the "
                "same in another way; pass one of the two"
            )
        return _number(asked.normalizer, "normalizer", 0.0, math.inf, open_ends=True), False
    if asked.mean_over == "rows":
        return float(n_rows), False
    if not has_labels:
        if asked.mean_over == "weight" and row_weights is not None:
            return math.fsum(row_weights), False
        return float(n_rows), False
    return -1.0, asked.mean_over == "weight"


def _number(
    value: Any, name: str, least: float, most: float, advice: str = "", open_ends: bool = False
) -> float:
    """`value` as a float from `least` to `most`; with open ends, between them."""
    if type(value) is float:
        number = value
    else:
        is_array = isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "fiu"
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        if not (is_number or is_array):
            raise TypeError(f"{name} must be a number, not {value!r}{advice}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be a number, not {value!r}{advice}") from None
    inside = least < number < most if open_ends else least <= number <= most
    if not inside:
        wanted = "a finite number above 0" if open_ends else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {wanted}, not {value!r}{advice}")
    return number


def _weights(value: Any, name: str, shape: tuple[int, ...], meaning: str) -> Array:
    array = as_array(value, name)
    if array.dtype.kind not in "fiuV" or (array.dtype.kind == "V" and array.dtype.names):
        raise TypeError(f"{name} must hold real numbers, not {array.dtype.name}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have {shape}, {meaning}")
    try:
        # a copy: `out` may lie where the weights lie, and a state keeps them
        wide = np.array(array, np.float64, order="C", copy=True)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold real numbers, not {array.dtype.name}") from None
    wrong = ~((wide >= 0) & (wide <= _LARGEST))
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), shape)
        where = ", ".join(str(int(k)) for k in place)
        raise ValueError(
            f"{name}{f'[{where}]' if shape else ''} is {wide[place]}; weights must be from 0 to "
            f"{_LARGEST:g}"
        )
    return wide


def class_weights(value: Any, n_classes: int, logits: np.dtype[Any]) -> Array:
    """A weight for every class, in the type of the arithmetic."""
    wide = _weights(value, "class_weight", (n_classes,), "one weight for every class")
    return wide if logits.type is np.float64 else wide.astype(np.float32)


def sample_weights(value: Any, batch: tuple[int, ...]) -> Array:
    """A float64 weight for every row, the rows one after another."""
    meaning = "that of logits without the class axis"
    return _weights(value, "sample_weight", batch, meaning).reshape(-1)
