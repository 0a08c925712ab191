"""What a call asks for besides its labels -> a few numbers for the kernels, or a clear error."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ._conversion import Array, as_array, at
from ._reduce import EMPTIES, MEANS_OVER, check_choice
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
        weights = class_weights(asked.class_weight, n_classes, batch, logits.dtype)
        masses = np.add.reduceat(weights.astype(np.float64), np.arange(0, n_classes, BLOCK))
    row_weights = None
    if asked.sample_weight is not None:
        row_weights = sample_weights(asked.sample_weight, batch, n_classes)
        row_weights = brought_to_1(row_weights, asked, reduction)
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


def brought_to_1(row_weights: Array, asked: Asked, reduction: str | None) -> Array:
    """For a mean over weights, which a power of two does not change, the largest near 1.

    Their products with small losses or weights of classes would be subnormal, and short of digits.
    """
    is_over_weights = isinstance(asked.mean_over, str) and asked.mean_over == "weight"
    if reduction != "mean" or asked.normalizer is not None or not is_over_weights:
        return row_weights
    largest = float(row_weights.max(initial=0.0))
    if largest == 0.0 or largest >= 0.5:
        return row_weights
    scaled: Array = np.ldexp(row_weights, -math.frexp(largest)[1])
    return scaled


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
    number = value if type(value) is float else _as_float(value, name, advice)
    inside = least < number < most if open_ends else least <= number <= most
    if not inside:
        wanted = "a finite number above 0" if open_ends else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} must be {wanted}, not {number!r}{advice}")
    return number


def _as_float(value: Any, name: str, advice: str) -> float:
    """A real number, or an array of one, as a float."""
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        array = as_array(value, name)
        if array.size != 1:
            raise TypeError(
                f"{name} must be one number for all rows, not an array of shape {array.shape}"
                f"{advice}"
            )
        value = array.reshape(())[()]
    if isinstance(value, np.generic):
        is_number = value.dtype.kind in "fiuV"
    else:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number:
        raise TypeError(f"{name} must be a number, not {value!r}{advice}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


class _Kind(NamedTuple):
    """What there is to say about class_weight or sample_weight."""

    name: str
    shape: tuple[int, ...]
    meaning: str
    dtypes: str
    other_shape: tuple[int, ...]
    other: str
    losses: str


@np.errstate(all="ignore")  # a longdouble may be beyond float64
def _weights(value: Any, kind: _Kind) -> Array:
    """Weights as a float64 array."""
    name, shape = kind.name, kind.shape
    array = as_array(value, name)
    if array.dtype.kind not in kind.dtypes:
        found = "booleans" if array.dtype.kind == "b" else array.dtype.name
        raise TypeError(
            f"{name} must be real numbers, not {found}; np.asarray({name}, np.float64) makes them"
        )
    if array.shape != shape:
        advice = ""
        if array.ndim == 0:
            advice = f"; np.full({shape}, {array}) has it"
        elif array.shape == kind.other_shape:
            advice = f"; {kind.other}"
        elif array.size and tuple(n for n in array.shape if n != 1) == shape:
            advice = f"; np.reshape({name}, {shape}) has it"
        raise ValueError(
            f"{name} has shape {array.shape}; it must have {shape}, {kind.meaning}{advice}"
        )
    # a copy: `out` may lie where the weights lie, and a state keeps them
    wide = np.array(array, np.float64, order="C", copy=True)
    wrong = ~((wide >= 0) & (wide <= _LARGEST))
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), shape)
        advice = ""
        if np.isnan(wide[place]):
            advice = "; 0 leaves out what is missing"
        elif wide[place] < 0:
            advice = (
                f"; for negative weights take the losses, with reduction='none' and without {name},"
                f" and sum {kind.losses} yourself"
            )
        raise ValueError(
            f"{at(name, place)} is {wide[place]}; weights must be from 0 to {_LARGEST:g}{advice}"
        )
    return wide


@np.errstate(all="ignore")  # a weight may be subnormal in float32
def class_weights(
    value: Any, n_classes: int, batch: tuple[int, ...], logits: np.dtype[Any]
) -> Array:
    """A weight for every class, in the type of the arithmetic."""
    if isinstance(value, str):
        # of a batch they would change from call to call
        formula = (
            f"; with counts = np.bincount(labels, minlength={n_classes}) of all training labels "
            f"that count they are counts.sum() / ({n_classes} * np.maximum(counts, 1))"
        )
        raise TypeError(
            f"class_weight must be real numbers, one for every class, not {value!r}"
            f"{formula if value == 'balanced' else ''}"
        )
    is_mapping = isinstance(value, Mapping)
    kind = _Kind(
        "class_weight", (n_classes,), "one weight for every class", "fiuV",
        batch, "one weight for every row is sample_weight", "class_weight[labels] * losses",
    )  # fmt: skip
    each = _by_class(value, n_classes) if is_mapping else _by_index(value, n_classes)
    wide = _weights(each, kind)
    return wide if logits.type is np.float64 else wide.astype(np.float32)


def _by_class(weights: Mapping[Any, Any], n_classes: int) -> list[Any]:
    """The weights of all classes; those that are not named have 1, as in scikit-learn."""
    every: list[Any] = [1.0] * n_classes
    for key, weight in weights.items():
        try:
            index = operator.index(key)
            if isinstance(key, bool):
                raise TypeError
        except TypeError:
            raise TypeError(
                f"class_weight has the key {key!r}; the keys must be class indices, which are "
                "integers"
            ) from None
        if not 0 <= index < n_classes:
            raise ValueError(
                f"class_weight has the key {key!r}, which is not one of the {n_classes} classes "
                f"(0 to {n_classes - 1})"
            )
        every[index] = _as_float(weight, f"class_weight[{key!r}]", "")
    return every


def _by_index(weights: Any, n_classes: int) -> Any:
    """A series in the order of the classes that its index names; anything else as it is."""
    index = getattr(weights, "index", None)
    if index is None or callable(index):  # a list has a method of that name
        return weights
    order = np.asarray(index)
    if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(n_classes)):
        raise ValueError(
            f"class_weight is a {type(weights).__name__} whose index is not 0 to {n_classes - 1}, "
            "the classes; pass class_weight.to_numpy(), if it is in their order"
        )
    return as_array(weights, "class_weight")[np.argsort(order)]


def sample_weights(value: Any, batch: tuple[int, ...], n_classes: int) -> Array:
    """A float64 weight for every row, the rows one after another; of a mask 1 and 0."""
    kind = _Kind(
        "sample_weight", batch, "that of logits without the class axis", "fiuVb",
        (n_classes,), "one weight for every class is class_weight", "sample_weight * losses",
    )  # fmt: skip
    return _weights(value, kind).reshape(-1)
