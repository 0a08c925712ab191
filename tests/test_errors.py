"""Bad input: one error that names the argument, what was found, where, and the way out."""

from __future__ import annotations

import io
import re
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from support import random_logits, random_probs, same_bits

import fastxent

LOGITS = random_logits((4, 5))
LABELS = np.array([0, 4, 2, 2])
PROBS = random_probs((4, 5))


def with_value(array: Any, place: Any, value: Any) -> Any:
    changed = array.copy()
    changed[place] = value
    return changed


class Case(NamedTuple):
    error: type[Exception]
    parts: tuple[str, ...]  # what the message holds, in this order
    logits: Any = LOGITS
    labels: Any = LABELS
    options: dict[str, Any] = {}  # noqa: RUF012


CASES: dict[str, Case] = {
    "integer logits": Case(
        TypeError,
        ("logits", "float32", "int64", "np.asarray(logits, np.float32)"),
        np.ones((4, 5), int),
    ),
    "boolean logits": Case(TypeError, ("logits", "bool", "np.asarray"), np.ones((4, 5), bool)),
    "wide logits": Case(
        TypeError,
        ("logits", np.dtype(np.longdouble).name, "np.float64"),
        np.ones((4, 5), np.longdouble),
    ),
    "masked logits": Case(
        TypeError, ("logits", "masked", "filled"), np.ma.masked_greater(LOGITS, 0)
    ),
    "masked labels": Case(
        TypeError, ("labels", "masked", "filled"), labels=np.ma.masked_equal(LABELS, 0)
    ),
    "boolean probabilities": Case(
        TypeError, ("labels", "boolean", "np.asarray(labels, np.float32)"), labels=LOGITS > 0
    ),
    "labels of another axis": Case(
        ValueError, ("labels", "(5,)", "(4,)", "axis=0"), labels=np.zeros(5, int)
    ),
    "complex logits": Case(TypeError, ("logits", "complex128", "real"), np.ones((4, 5), complex)),
    "text logits": Case(TypeError, ("logits", "str"), np.full((4, 5), "1")),
    "object logits": Case(TypeError, ("logits", "object"), np.full((4, 5), None)),
    "no logits": Case(TypeError, ("logits is None",), None),
    "float8 logits": Case(
        TypeError, ("logits", "float8_e4m3fn"), np.ones((4, 5), ml_dtypes.float8_e4m3fn)
    ),
    "structured logits": Case(TypeError, ("logits", "void"), np.zeros((4, 5), [("a", "f4")])),
    "records": Case(
        TypeError,
        ("logits", "records", "fields 'a', 'b'", "np.stack([logits[field] for field in"),
        np.zeros(4, [("a", "f4"), ("b", "f4")]),
    ),
    "bfloat16 that came back from a file": Case(
        TypeError,
        ("logits", "raw memory (void16)", "logits.view(ml_dtypes.bfloat16)"),
        LOGITS.astype(ml_dtypes.bfloat16).view("V2"),
    ),
    "bits of bfloat16": Case(
        TypeError,
        ("logits", "uint16", "logits.view(ml_dtypes.bfloat16)"),
        LOGITS.astype(ml_dtypes.bfloat16).view(np.uint16),
    ),
    "bits of bfloat16, or numbers": Case(
        TypeError,
        ("logits", "int16", "np.asarray(logits, np.float32)", "logits.view(ml_dtypes.bfloat16)"),
        LOGITS.astype(ml_dtypes.bfloat16).view(np.int16),
    ),
    "raw memory of 4 bytes": Case(
        TypeError, ("logits", "raw memory (void32)", "logits.view(np.float32)"), LOGITS.view("V4")
    ),
    "objects": Case(
        TypeError,
        (
            "logits",
            "objects",
            "logits[0, 0] is 1 of type int",
            "np.asarray(logits, np.float64)",
        ),
        np.ones((4, 5), object),
    ),
    "fractions": Case(
        TypeError,
        ("logits", "logits[0, 0] is Fraction(1, 2)", "np.asarray(logits, np.float64)"),
        [[Fraction(1, 2)] * 5] * 4,
    ),
    "a missing logit": Case(
        TypeError,
        ("logits", "logits[1, 0] is missing (None)", "-np.inf"),
        [[1.0, 2.0], [None, "a"]],
    ),
    "text among logits": Case(TypeError, ("logits", "text", "no number"), [[1.0, "a"], [1.0, 2.0]]),
    "bytes": Case(TypeError, ("logits", "text (bytes8)", "b'a'"), np.full((4, 5), b"a")),
    "dates as logits": Case(
        TypeError, ("logits", "dates (datetime64[D])", "1970-01-01"), np.zeros((4, 5), "M8[D]")
    ),
    "durations as logits": Case(
        TypeError, ("logits", "durations (timedelta64[s])"), np.zeros((4, 5), "m8[s]")
    ),
    "a dictionary of logits": Case(TypeError, ("logits", "dict", "array"), {0: 1.0}),
    "a generator": Case(TypeError, ("logits", "generator", "list"), (x for x in (1.0, 2.0))),
    "ragged logits": Case(
        TypeError,
        ("logits", "list", "logits[0] has 1", "logits[1] has 2", "-np.inf"),
        [[1.0], [1.0, 2.0]],
    ),
    "ragged labels": Case(
        TypeError,
        ("labels", "labels[0] has 2", "labels[1] has 1", "-100", "ignore_index=-100"),
        LOGITS.reshape(2, 2, 5),
        [[0, 1], [1]],
    ),
    "a single number": Case(ValueError, ("logits", "axis"), np.float32(1)),
    "no classes": Case(
        ValueError, ("logits", "(4, 0)", "no classes", "axis 1"), np.empty((4, 0), np.float32)
    ),
    "axis too large": Case(ValueError, ("axis 2", "2 dimension", "-2 to 1"), options={"axis": 2}),
    "axis too small": Case(ValueError, ("axis -3", "-2 to 1"), options={"axis": -3}),
    "axis not an integer": Case(TypeError, ("axis", "integer", "1.0"), options={"axis": 1.0}),
    "no axis": Case(TypeError, ("axis", "None", "logits.reshape(-1)"), options={"axis": None}),
    "several axes": Case(TypeError, ("axis", "(0, 1)", "reshape"), options={"axis": (0, 1)}),
    "labels first": Case(
        TypeError,
        ("logits", "int64", "(4,)", "labels", "float32", "(4, 5)", "swapped", "logits come first"),
        LABELS,
        LOGITS,
    ),
    "labels first, one row": Case(TypeError, ("swapped",), 3, LOGITS[0]),
    "probabilities first": Case(
        ValueError,
        ("labels[0, 1] is -", "logits look like probabilities", "come first"),
        np.full((4, 5), 0.2, np.float32),
        -np.abs(LOGITS) * (np.arange(5) > 0),
    ),
    "boolean labels": Case(
        TypeError, ("labels", "boolean", "np.asarray(labels, np.int64)"), labels=np.ones(4, bool)
    ),
    "text labels": Case(
        TypeError,
        ("labels", "integers", "text (str32)", "np.unique(labels, return_inverse=True)"),
        labels=["a", "b", "c", "d"],
    ),
    "complex labels": Case(TypeError, ("labels", "complex128"), labels=np.ones(4, complex)),
    "huge labels": Case(
        TypeError, ("labels", "object", "labels[3] is", "64 bits"), labels=[0, 1, 2, 2**70]
    ),
    "date labels": Case(TypeError, ("labels", "datetime64"), labels=np.zeros(4, "M8[s]")),
    "too few labels": Case(
        ValueError, ("labels", "(3,)", "(4, 5)", "axis 1", "shape (4,)"), labels=LABELS[:3]
    ),
    "labels with the class axis": Case(
        ValueError,
        ("labels", "(4, 5)", "np.asarray(labels, np.float32)"),
        labels=np.ones((4, 5), int),
    ),
    "labels as a column": Case(
        ValueError, ("labels", "(4, 1)", "(4,)", "np.reshape(labels, (4,))"), labels=LABELS[:, None]
    ),
    "float class indices": Case(
        ValueError,
        ("labels", "floats", "(4,)", "(4, 5)", "np.asarray(labels, np.int64)"),
        labels=LABELS.astype(np.float32),
    ),
    "float labels as a column": Case(
        ValueError,
        ("labels", "(4, 1)", "np.asarray(np.reshape(labels, (4,)), np.int64)"),
        labels=LABELS[:, None].astype(np.float32),
    ),
    "fractions of labels": Case(
        ValueError,
        ("labels[2] is 0.5", "neither a class index"),
        labels=with_value(LABELS.astype(float), 2, 0.5),
    ),
    "infinite labels": Case(
        ValueError,
        ("labels[2] is inf", "neither a class index"),
        labels=with_value(LABELS.astype(float), 2, np.inf),
    ),
    "missing labels": Case(
        ValueError,
        ("labels[2] is nan", "np.nan_to_num(labels, nan=-100).astype", "ignore_index=-100"),
        labels=with_value(LABELS.astype(float), 2, np.nan),
    ),
    "missing labels and ignore_index": Case(
        ValueError,
        ("labels[2] is nan", "np.nan_to_num(labels, nan=-100).astype", "ignore_index=-100"),
        labels=with_value(LABELS.astype(float), 2, np.nan),
        options={"ignore_index": -100},
    ),
    "no label": Case(
        TypeError,
        ("labels", "labels[3] is missing (None)", "-100", "ignore_index=-100"),
        labels=[0, 1, 2, None],
    ),
    "labels as objects": Case(
        TypeError,
        ("labels", "labels[0] is 0 of type int", "np.asarray(labels, np.int64)"),
        labels=LABELS.astype(object),
    ),
    "probabilities that came back from a file": Case(
        TypeError,
        ("labels", "raw memory", "labels.view(ml_dtypes.bfloat16)"),
        labels=PROBS.astype(ml_dtypes.bfloat16).view("V2"),
    ),
    "bits of probabilities": Case(
        ValueError,
        ("labels", "labels.view(ml_dtypes.bfloat16)"),
        labels=PROBS.astype(ml_dtypes.bfloat16).view(np.uint16),
    ),
    "labels from 1": Case(
        ValueError, ("labels[3] is 5", "count from 0", "labels - 1"), labels=np.array([1, 2, 3, 5])
    ),
    "too few probabilities": Case(
        ValueError, ("labels", "(4, 4)", "(4, 5)"), labels=np.ones((4, 4), np.float32)
    ),
    "label too large": Case(
        ValueError, ("labels[2] is 5", "5 classes", "0 to 4"), labels=with_value(LABELS, 2, 5)
    ),
    "the first bad row is named": Case(
        ValueError, ("labels[1] is -1", "0 to 4", "ignore_index=-1"), labels=np.array([0, -1, 7, 2])
    ),
    "label -100": Case(
        ValueError, ("labels[3] is -100", "ignore_index=-100"), labels=with_value(LABELS, 3, -100)
    ),
    "label not the ignored one": Case(
        ValueError,
        ("labels[1] is -1",),
        labels=np.array([-100, -1, 0, 0]),
        options={"ignore_index": -100},
    ),
    "label beyond 63 bits": Case(
        ValueError,
        ("labels[3] is 18446744073709551615",),
        labels=np.array([0, 1, 2, 2**64 - 1], np.uint64),
    ),
    "label in two dimensions": Case(
        ValueError,
        ("labels[1, 0] is 9",),
        logits=LOGITS.reshape(2, 2, 5),
        labels=np.array([[0, 0], [9, 9]]),
    ),
    "label along the first axis": Case(
        ValueError, ("labels[4] is 4", "4 classes"), labels=np.arange(5), options={"axis": 0}
    ),
    "label of a single row": Case(ValueError, ("labels is 5", "5 classes"), LOGITS[0], 5),
    "negative probability": Case(
        ValueError,
        ("labels[2, 3] is -0.25", "finite and not negative"),
        labels=with_value(PROBS, (2, 3), -0.25),
    ),
    "NaN probability": Case(
        ValueError, ("labels[0, 4] is nan",), labels=with_value(PROBS, (0, 4), np.nan)
    ),
    "infinite probability": Case(
        ValueError, ("labels[3, 0] is inf",), labels=with_value(PROBS, (3, 0), np.inf)
    ),
    "probability with classes first": Case(
        ValueError,
        ("labels[1, 1] is -1.0",),
        labels=with_value(PROBS, (3, 1), -1).T.copy()[:, [0, 3, 1, 2]],
        logits=LOGITS.T.copy(),
        options={"axis": 0},
    ),
    "negative probability too small for float32": Case(
        ValueError,
        ("labels[1, 1] is -1e-300",),
        labels=with_value(PROBS.astype(np.float64), (1, 1), -1e-300),
    ),
    "probability too large for float32": Case(
        ValueError,
        ("labels[1, 2] is 1e+300",),
        labels=with_value(PROBS.astype(np.float64), (1, 2), 1e300),
    ),
    "ignore_index with probabilities": Case(
        ValueError, ("ignore_index", "integer labels"), labels=PROBS, options={"ignore_index": 0}
    ),
    "ignore_index not an integer": Case(
        TypeError, ("ignore_index", "integer", "'none'"), options={"ignore_index": "none"}
    ),
    "several indices to ignore": Case(
        TypeError, ("ignore_index", "[-1, -100]", "np.isin"), options={"ignore_index": [-1, -100]}
    ),
    "PyTorch's reduction": Case(
        ValueError,
        ("reduction", "'batchmean'", "here that is 'mean'"),
        options={"reduction": "batchmean"},
    ),
    "a reduction in capitals": Case(
        ValueError, ("reduction", "'SUM'", "here that is 'sum'"), options={"reduction": "SUM"}
    ),
    "unknown reduction": Case(
        ValueError,
        ("reduction", "'none', 'sum', 'mean'", "'average'"),
        options={"reduction": "average"},
    ),
    "no reduction": Case(
        ValueError, ("reduction", "None", "here that is 'none'"), options={"reduction": None}
    ),
    "no threads": Case(ValueError, ("n_threads", "at least 1", "0"), options={"n_threads": 0}),
    "less than no threads": Case(ValueError, ("n_threads", "-2"), options={"n_threads": -2}),
    "half a thread": Case(TypeError, ("n_threads", "integer", "0.5"), options={"n_threads": 0.5}),
    "a boolean of threads": Case(TypeError, ("n_threads", "True"), options={"n_threads": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_says_what_is_wrong_and_touches_nothing(backend: str, case: str) -> None:
    error, parts, logits, labels, options = CASES[case]
    options = {"backend": backend, **options}
    shape = np.shape(logits) if isinstance(logits, np.ndarray) else (4, 5)
    dtype = np.float32 if getattr(logits, "dtype", None) != np.int64 else np.int64
    out = np.full(shape, 7, dtype)
    with pytest.raises(error) as without:
        fastxent.cross_entropy(logits, labels, **options)
    with pytest.raises(error) as with_gradient:
        fastxent.cross_entropy_with_grad(logits, labels, out=out, **options)
    message = str(without.value)
    assert str(with_gradient.value) == message
    assert type(without.value) is error
    position = 0
    for part in parts:
        position = message.find(part, position)
        assert position >= 0, f"{part!r} is not (in this order) in {message!r}"
    assert (out == 7).all()


@pytest.mark.parametrize("case", CASES)
def test_no_message_shows_a_type_of_storage_alone(case: str) -> None:
    _, _, logits, labels, options = CASES[case]
    with pytest.raises((TypeError, ValueError)) as error:
        fastxent.cross_entropy(logits, labels, **options)
    assert not re.search(r"not (object|str\d+|void\d+|bytes\d+)\b", str(error.value))


def test_what_comes_back_from_a_file_is_taken_as_its_error_says(backend: str) -> None:
    logits = LOGITS.astype(ml_dtypes.bfloat16)
    file = io.BytesIO()
    np.save(file, logits)
    file.seek(0)
    loaded = np.load(file)
    for bits in (loaded, logits.view(np.uint16)):
        with pytest.raises(TypeError, match=r"logits\.view\(ml_dtypes\.bfloat16\)") as error:
            fastxent.softmax(bits)
        assert "np.asarray" not in str(error.value)
        got = fastxent.softmax(bits.view(ml_dtypes.bfloat16), backend=backend)
        assert same_bits(got, fastxent.softmax(logits, backend=backend))


class Refuses:
    """Cannot be an array as it is; DLPack would hand out its memory all the same."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise self._error

    def __dlpack__(self, **options: Any) -> Any:
        return LOGITS.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return LOGITS.__dlpack_device__()


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError, AttributeError, OSError])
def test_what_an_object_refuses_is_not_asked_for_in_another_way(kind: type[Exception]) -> None:
    refusing = Refuses(kind("call resolve() first"))
    for given in (refusing, [refusing, refusing]):
        with pytest.raises(TypeError, match=r"logits .*call resolve\(\) first"):
            fastxent.softmax(given)
        with pytest.raises(TypeError, match=r"labels .*call resolve\(\) first"):
            fastxent.cross_entropy(LOGITS, given)
    with pytest.raises(MemoryError):  # says nothing about the argument
        fastxent.softmax(Refuses(MemoryError()))


def test_tensorflows_order_is_recognised_too(backend: str) -> None:
    with pytest.raises(TypeError, match=r"swapped; labels come first here"):
        fastxent.sparse_softmax_cross_entropy_with_logits(LOGITS, LABELS, backend=backend)
    with pytest.raises(TypeError, match=r"labels are float32, but must be class indices"):
        fastxent.sparse_softmax_cross_entropy_with_logits(PROBS, LOGITS, backend=backend)


@pytest.mark.parametrize("function", [fastxent.softmax, fastxent.log_softmax, fastxent.logsumexp])
def test_softmax_refuses_bad_input_alike(backend: str, function: Any) -> None:
    for case in ("complex logits", "masked logits", "axis too large", "axis not an integer"):
        error, parts, logits, _, options = CASES[case]
        with pytest.raises(error, match=parts[0]):
            function(logits, backend=backend, **options)
    with pytest.raises(ValueError, match="n_threads"):
        function(LOGITS, backend=backend, n_threads=0)


def test_softmax_leaves_out_untouched_on_error(backend: str) -> None:
    out = np.full((4, 5), 7, np.float32)
    for options in ({"axis": 2}, {"n_threads": 0}):
        with pytest.raises(ValueError, match=r"axis|n_threads"):
            fastxent.softmax(LOGITS, out=out, backend=backend, **options)
    assert (out == 7).all()


@pytest.mark.parametrize("name", ["gpu", "", 3, ["numba"], "Numba"])
def test_an_unknown_backend_is_refused_with_the_known_ones(name: Any) -> None:
    message = "backend must be one of 'cython', 'numba', not"
    with pytest.raises(ValueError, match=message):
        fastxent.cross_entropy(LOGITS, LABELS, backend=name)
    with pytest.raises(ValueError, match=message):
        fastxent.set_backend(name)
    assert fastxent.get_backend() in fastxent.available_backends()


def test_set_backend_holds_for_calls_that_name_none() -> None:
    try:
        for name in fastxent.available_backends():
            fastxent.set_backend(name)
            assert fastxent.get_backend() == name
    finally:
        fastxent.set_backend(None)
    assert fastxent.get_backend() == fastxent.available_backends()[0]


def test_an_error_in_a_long_batch_names_the_first_bad_row(backend: str) -> None:
    logits = random_logits((3000, 3))
    labels = np.zeros(3000, int)
    labels[[1700, 2999]] = 3
    with pytest.raises(ValueError, match=r"labels\[1700\] is 3"):
        fastxent.cross_entropy(logits, labels, backend=backend, n_threads=2)
    probs = random_probs((3000, 3))
    probs[2100:, 1] = np.nan
    with pytest.raises(ValueError, match=r"labels\[2100, 1\] is nan"):
        fastxent.cross_entropy(logits, probs, backend=backend, n_threads=2)
