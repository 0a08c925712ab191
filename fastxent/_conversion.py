"""What a caller passes -> a NumPy array of numbers, or what stands in its way and the way out.

Other libraries' objects are known by what they offer. None of them is imported here.
"""

from __future__ import annotations

import numbers
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]


class _Missing:
    """Stands for an argument that was not passed (see `_keywords`)."""


MISSING: Final = _Missing()

_FLOATS: Final = "float16, bfloat16, float32 or float64"
_WANTED: Final = {
    "labels": "integers (class indices) or floats (probabilities)",
    "logits": _FLOATS,
    "target_logits": _FLOATS,
    "vectors": _FLOATS,
}

# What may stand for a missing value, and what it means there.
_FILL: Final = {
    "labels": ("-100", "and ignore_index=-100 leaves such rows out"),
    "class_weight": ("0", "as a class of weight 0 does not count"),
    "sample_weight": ("0", "as a row of weight 0 does not count"),
    "vectors": ("0", "or leave such rows out"),
    "b": ("0", "as a factor of 0 adds nothing"),
}
_FILL_PROBS: Final = ("0", "for a class without probability, or leave such rows out")
_FILL_LOGITS: Final = ("-np.inf", "for a class that cannot occur, or leave such rows out")

# How an object that is no array to NumPy becomes one.
_TO_ARRAY: Final = ("toarray", "todense", "to_dense", "to_tensor", "collect", "to_numpy")


def as_array(value: object, name: str) -> Array:
    """`value` as a NumPy array of numbers, without a copy where it offers an array protocol."""
    array = value if type(value) is np.ndarray else _converted(value, name)
    kind = array.dtype.kind
    # the types of ml_dtypes are of kind V, like records and raw memory, but are no np.void
    if kind in "fiubc" or (kind == "V" and not issubclass(array.dtype.type, np.void)):
        return array
    if kind == "O" and not array.size:
        return array.astype(np.float64)  # an empty series has no other dtype
    if kind == "O" and array.ndim:
        dtype = _dtype_of_columns(value)
        if dtype is not None:
            try:
                return array.astype(dtype)
            except (TypeError, ValueError):
                pass  # a value is missing
    found, advice = _what_it_holds(array, value, name)
    wanted = _WANTED.get(name, "real numbers")
    raise TypeError(f"{name} must be {wanted}, not {found}; {advice}")


def at(name: str, place: tuple[Any, ...]) -> str:
    """An element as the caller would write it: labels[3, 0]."""
    return f"{name}[{', '.join(str(int(k)) for k in place)}]" if place else name


def is_masked(value: object) -> bool:
    """Whether `value` is a masked array."""
    # NumPy imports `np.ma` when it is first asked for, which takes 10 ms, and fails after chroot.
    # Before that there is no masked array.
    loaded = sys.modules.get("numpy.ma")
    return isinstance(value, getattr(loaded, "MaskedArray", ()))


def _converted(value: Any, name: str) -> Array:
    if is_masked(value):
        advice = (
            "logits.filled(-np.inf) masks classes, labels.filled(-100) with ignore_index=-100 "
            "leaves rows out"
        )
        if name.endswith("weight"):
            advice = f"{name}.filled(0) leaves out what is masked"
        raise TypeError(f"{name} is a masked array, whose mask would be lost; fill it: {advice}")
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # a subclass may index and reshape by rules of its own
    if value is None or value is MISSING:
        raise TypeError(f"{name} is {'None' if value is None else 'missing'}; pass an array")
    # What an object says for itself counts. DLPack knows less: of a tensor that is to be negated
    # when it is read it passes on the memory, and the sign is lost.
    only_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
    try:
        return np.from_dlpack(value) if only_dlpack else _read(value)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(value, name, error) from error


def _read(value: Any) -> Array:
    """np.asarray; of torch tensors of bfloat16, in lists too, the bits, as they have no words."""
    try:
        return np.asarray(value)
    except TypeError as refusal:
        # torch looks at the type last, so nothing else is wrong with the tensor
        if "BFloat16" not in str(refusal):
            raise
        if isinstance(value, list | tuple):
            return np.asarray([_read(each) for each in value])
        if str(getattr(value, "dtype", "")) != "torch.bfloat16":
            raise
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            "NumPy has bfloat16 from the package ml_dtypes, which is not installed: python -m pip "
            "install ml_dtypes, or pass the tensor as float32 by .float()"
        ) from None
    bits: Array = value.view(sys.modules["torch"].int16).numpy()
    return bits.view(ml_dtypes.bfloat16)


def _unreadable(value: object, name: str, error: Exception) -> TypeError:
    if isinstance(value, list | tuple):
        lengths = [len(each) if hasattr(each, "__len__") else 0 for each in value]
        other = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
        if isinstance(error, ValueError) and other is not None:
            elements = [one for each in value if isinstance(each, list | tuple) for one in each]
            fill, meaning = _filling(name, elements)
            return TypeError(
                f"{name} must be an array; a {type(value).__name__} cannot be made into one where "
                f"{name}[0] has {lengths[0]} elements and {name}[{other}] has {lengths[other]}; "
                f"fill up the shorter with {fill}, {meaning}"
            )
        return TypeError(
            f"{name} must be an array; a {type(value).__name__} cannot be made into one: {error}"
        )
    advice = "pass a NumPy array"
    if getattr(value, "is_quantized", False):
        advice = f"pass {name}.dequantize()"
    elif "ScalarType" in str(error):
        advice = f"pass {name}.float()"
    return TypeError(
        f"{name} is a {type(value).__name__} that cannot be read as an array on the CPU ({error}); "
        f"{advice}"
    )


def _filling(name: str, elements: Iterable[object]) -> tuple[str, str]:
    """What may stand for a missing value; labels of several axes may be probabilities."""
    has_probs = name == "labels" and any(isinstance(each, float) for each in elements)
    return _FILL_PROBS if has_probs else _FILL.get(name, _FILL_LOGITS)


def _dtype_of_columns(value: Any) -> np.dtype[Any] | None:
    """The dtype for the columns of a data frame, or a series, of numbers; None for any other.

    Columns of types that NumPy does not know (Float64, double[pyarrow]) come out of np.asarray as
    Python objects.
    """
    if isinstance(value, np.ndarray):
        return None
    dtypes: Any = getattr(value, "dtypes", getattr(value, "dtype", None))
    columns = list(dtypes) if hasattr(dtypes, "__iter__") else [dtypes]
    known = [getattr(each, "numpy_dtype", each) for each in columns]
    if known and all(isinstance(each, np.dtype) and each.kind in "fiu" for each in known):
        return np.result_type(*known)
    return None


def _what_it_holds(array: Array, value: object, name: str) -> tuple[str, str]:
    """What an array without numbers holds and where, in words; and the way out."""
    dtype, kind = array.dtype, array.dtype.kind
    if dtype.names is not None:
        return (
            f"records ({dtype.name}) with the fields {', '.join(map(repr, dtype.names))}",
            f"np.stack([{name}[field] for field in {name}.dtype.names], axis=-1) makes numbers of "
            "them",
        )
    if kind == "V":
        typed = {2: "ml_dtypes.bfloat16", 4: "np.float32", 8: "np.float64"}.get(dtype.itemsize)
        return (
            f"raw memory ({dtype.name}), as files hand back what NumPy has no type for",
            f"{name}.view({typed or 'dtype'}) says what it is",
        )
    if kind == "O":
        return _what_objects(array, value, name)
    words = {"M": "dates", "m": "durations"}.get(kind, "text")
    sample = ""
    if array.size:
        first = array.flat[0]
        shown = _short(first) if words == "text" else str(first)
        sample = f": {at(name, (0,) * array.ndim)} is {shown}"
    return f"{words} ({dtype.name}){sample}", _way_out_of_words(value, name, words)


def _what_objects(array: Array, value: object, name: str) -> tuple[str, str]:
    if array.ndim == 0 and array is not value and _is_no_number(array[()]):
        way = next((each for each in _TO_ARRAY if hasattr(value, each)), None)
        if way is None and hasattr(value, "dense_shape"):  # TensorFlow has a function for it
            return f"a {type(value).__name__} object", f"pass tf.sparse.to_dense({name})"
        return (
            f"a {type(value).__name__} object",
            f"pass {name}.{way}()" if way else "pass an array, or a list of numbers",
        )
    flat = array.reshape(-1)
    faults: tuple[Callable[[object], bool], ...] = (_is_missing, _is_no_number, _is_huge)
    index = next((i for is_fault in faults for i, each in enumerate(flat) if is_fault(each)), 0)
    element = flat[index]
    where = at(name, np.unravel_index(index, array.shape))
    kind = type(element).__name__
    if _is_missing(element):
        if name == "labels" and any(isinstance(each, str | bytes) for each in flat):
            advice = "leave out the rows without a label, then number the classes"
            return f"objects: {where} is missing ({element!r})", advice
        fill, meaning = _filling(name, flat if array.ndim > 1 else ())
        if fill == "0" and any(isinstance(each, bool) for each in flat):
            fill = "False"  # a mask takes nothing else
        way = next((each for each in ("fillna", "fill_null") if hasattr(value, each)), None)
        advice = f"pass {name}.{way}({fill})" if way else f"put {fill} in its place"
        return f"objects: {where} is missing ({element!r})", f"{advice}, {meaning}"
    if isinstance(element, str | bytes):
        return f"objects: {where} is text, {_short(element)}", _way_out_of_words(
            value, name, "text"
        )
    if hasattr(element, "__len__"):
        if array.ndim == 1:
            advice = f"np.stack(np.asarray({name})) makes one array of them, if all are of a length"
        elif array.shape[1:] == (1,):
            advice = (
                f"np.stack(np.asarray({name})[:, 0]) makes one array of them, if all are of a "
                "length"
            )
        else:
            advice = "np.stack makes one array of a column, if all are of a length"
        return f"objects: {where} is a {kind}", advice
    if name == "labels" and _is_huge(element):
        return f"objects: {where} is {element}, more than 64 bits hold", "pass integers that fit"
    if not hasattr(element, "__float__"):
        return f"objects: {where} is a {kind}", _way_out_of_words(value, name, kind)
    dtype = "np.int64" if name == "labels" and isinstance(element, int) else "np.float64"
    return (
        f"objects: {where} is {_short(element)} of type {kind}",
        f"if all are numbers, np.asarray({name}, {dtype}) makes an array of them",
    )


def _way_out_of_words(value: object, name: str, words: str) -> str:
    if name == "labels":
        if hasattr(getattr(value, "cat", None), "codes"):
            return "labels.cat.codes numbers the classes, with -1 for what is missing"
        return "classes, labels = np.unique(labels, return_inverse=True) numbers the classes"
    if words == "text":
        return f"leave out what is no number; np.asarray({name}, np.float64) reads numbers in text"
    return "pass numbers"


def _is_missing(element: object) -> bool:
    return element is None or type(element).__name__ in ("NAType", "NaTType")


def _is_no_number(element: object) -> bool:
    return isinstance(element, bool | np.bool_) or not isinstance(element, numbers.Real)


def _is_huge(element: object) -> bool:
    return isinstance(element, int) and not -(2**63) <= element < 2**64


def _short(element: object) -> str:
    return reprlib.repr(element.item() if isinstance(element, np.generic) else element)
