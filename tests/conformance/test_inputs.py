"""Arrays of other libraries: what is taken, and the way out of what is not.

A way out that a message names is carried out here, and what comes of it is taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from peers import peer
from scipy import sparse
from support import BFLOAT16, random_logits, random_probs, run_python, same_bits

import fastxent

LOGITS = random_logits((4, 3))
LABELS = np.array([0, 2, 1, 2])


def both(logits: Any, labels: Any, backend: str, **options: Any) -> tuple[Any, Any]:
    return fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend, **options
    )


def assert_taken(got: tuple[Any, Any], logits: Any, labels: Any, backend: str) -> None:
    """The same bits as of the NumPy arrays."""
    want = both(logits, labels, backend)
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])


# PyTorch


def test_a_tensor_to_be_negated_is_refused_in_its_own_words(backend: str) -> None:
    torch = peer("torch")
    x = torch.tensor(LOGITS)
    lazy = torch.complex(x, x).conj().imag
    assert lazy.is_neg()  # its memory holds x
    for given in (lazy, list(lazy), lazy.bfloat16(), torch._neg_view(x.bfloat16())):
        if isinstance(given, torch.Tensor) and not given.is_neg():
            continue
        with pytest.raises(TypeError, match=r"logits .*negative bit.*resolve_neg"):
            both(given, LABELS, backend)
        with pytest.raises(TypeError, match=r"labels .*resolve_neg"):
            both(LOGITS, given, backend)
    for name in ("class_weight", "temperature"):
        with pytest.raises(TypeError, match=rf"{name} .*resolve_neg"):
            both(LOGITS, LABELS, backend, **{name: lazy})
    assert_taken(both(lazy.resolve_neg(), LABELS, backend), -LOGITS, LABELS, backend)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("torch.complex(x, x).conj()", "resolve_conj"),
        ("x.requires_grad_()", "detach"),
        ("x.bfloat16().requires_grad_()", "detach"),
        ("[x.bfloat16()[0], x.bfloat16()[1].requires_grad_()]", "detach"),
        ("x.to_sparse()", "to_dense"),
        ("x.bfloat16().to_sparse()", "to_dense"),
        ("x.to('meta')", "cpu"),
        ("x.bfloat16().to('meta')", "cpu"),
        ("x.to(torch.float8_e5m2)", r"logits\.float\(\)"),
        ("quantized", r"logits\.dequantize\(\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_tensor_that_cannot_be_read_says_what_to_do(make: str, words: str) -> None:
    torch = peer("torch")
    x = torch.tensor(LOGITS)
    quantized = None
    if make == "quantized":
        quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    given = eval(make, {"torch": torch, "x": x, "quantized": quantized})
    with pytest.raises(TypeError, match=f"logits .*{words}"):
        fastxent.softmax(given)


def test_bfloat16_tensors_are_taken_bit_by_bit(backend: str) -> None:
    torch = peer("torch")
    logits = random_logits((4, 3), BFLOAT16)
    x = torch.tensor(logits.astype(np.float32)).bfloat16()
    for given in (
        x,
        torch.nn.Parameter(x, requires_grad=False),
        list(x),
        tuple(x),
        [list(row) for row in x],
        [list(x[0]), *x[1:]],
    ):
        assert_taken(both(given, LABELS, backend), logits, LABELS, backend)
    assert_taken(both(x.T, LABELS[:3], backend, axis=1), logits.T, LABELS[:3], backend)
    mixed = [x[0], x[1].float(), *x[2:]]
    assert_taken(both(mixed, LABELS, backend), logits.astype(np.float32), LABELS, backend)
    probs = random_probs((4, 3), BFLOAT16)
    given = torch.tensor(probs.astype(np.float32)).bfloat16()
    assert_taken(both(LOGITS, given, backend), LOGITS, probs, backend)
    weights = torch.tensor([0.5, 2.0, 3.0]).bfloat16()
    got = fastxent.cross_entropy(LOGITS, LABELS, class_weight=weights, backend=backend)
    want = fastxent.cross_entropy(LOGITS, LABELS, class_weight=[0.5, 2, 3], backend=backend)
    assert got == want


def test_bfloat16_tensors_are_read_where_they_lie_and_gradients_go_back(backend: str) -> None:
    torch = peer("torch")
    x = torch.tensor(LOGITS).bfloat16()
    out = torch.empty_like(x)
    for wrong, advice in (
        (out, r"out\.view\(torch\.int16\)\.numpy\(\)\.view\(ml_dtypes\.bfloat16\)"),
        (torch.empty(4, 3), r"out\.numpy\(\)"),
    ):
        with pytest.raises(TypeError, match=f"out must be a NumPy array, not Tensor; .*{advice}"):
            both(x, LABELS, backend, out=wrong)
    bits = out.view(torch.int16).numpy()
    with pytest.raises(TypeError, match=r"out has dtype int16.*out\.view\(ml_dtypes\.bfloat16\)"):
        both(x, LABELS, backend, out=bits)
    _, gradient = both(x, LABELS, backend, out=bits.view(ml_dtypes.bfloat16))
    back = torch.from_numpy(gradient.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(back, out)
    own = x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    both(x, LABELS, backend, out=own)
    assert torch.equal(x, out)


def test_without_ml_dtypes_a_bfloat16_tensor_names_the_package() -> None:
    peer("torch")
    result = run_python(
        "import sys, torch\n"
        "sys.modules['ml_dtypes'] = None\n"
        "import fastxent\n"
        "try:\n"
        "    fastxent.softmax(torch.zeros(2, 3, dtype=torch.bfloat16))\n"
        "except TypeError as error:\n"
        "    print(error)\n"
    )
    assert "logits is a Tensor" in result.stdout, result.stderr
    assert "pip install ml_dtypes" in result.stdout
    assert ".float()" in result.stdout


# JAX and TensorFlow


def test_jax_arrays_are_taken_and_tracers_refused() -> None:
    jax = peer("jax")
    for dtype in (np.float32, BFLOAT16):
        given = jax.numpy.asarray(LOGITS).astype(dtype)
        want = LOGITS.astype(dtype)
        got = both(given, jax.numpy.asarray(LABELS), "cython")
        assert_taken(got, want, LABELS, "cython")
    with pytest.raises(TypeError, match=r"logits .*traced"):
        jax.jit(fastxent.softmax)(LOGITS)


def test_tensorflow_tensors_are_taken_and_symbolic_ones_refused() -> None:
    tf = peer("tensorflow")
    for dtype in (np.float32, BFLOAT16):
        given = tf.cast(tf.constant(LOGITS), dtype)
        got = both(given, tf.constant(LABELS), "cython")
        assert_taken(got, LOGITS.astype(dtype), LABELS, "cython")
    assert_taken(both(tf.Variable(LOGITS), LABELS, "cython"), LOGITS, LABELS, "cython")

    @tf.function
    def compiled(logits: Any) -> Any:
        with pytest.raises(TypeError, match=r"logits .*symbolic"):
            fastxent.softmax(logits)
        return logits

    compiled(tf.constant(LOGITS))
    with pytest.raises(TypeError, match=r"SparseTensor .*tf\.sparse\.to_dense\(logits\)"):
        fastxent.softmax(tf.sparse.from_dense(LOGITS))
    with pytest.raises(TypeError, match=r"RaggedTensor .*logits\.to_tensor\(\)"):
        fastxent.softmax(tf.ragged.constant([[1.0], [2.0, 3.0]]))


# Data frames


@pytest.mark.parametrize(
    ("dtypes", "dtype"),
    [
        (["Float64"] * 3, np.float64),
        (["Float32"] * 3, np.float32),
        (["double[pyarrow]"] * 3, np.float64),
        (["float[pyarrow]"] * 3, np.float32),
        (["Float64", "float32", "Float32"], np.float64),
        (["Float32", "float32", "float[pyarrow]"], np.float32),
        (["float64", "int64", "int32"], np.float64),
        (["float64", "Int64", "int64[pyarrow]"], np.float64),
    ],
)
def test_frames_of_numbers_are_taken_whatever_holds_the_columns(
    dtypes: list[str], dtype: Any, backend: str
) -> None:
    pandas = peer("pandas")
    peer("pyarrow")
    logits = np.rint(LOGITS).astype(dtype)
    frame = pandas.DataFrame(
        {k: pandas.Series(logits[:, k]).astype(name) for k, name in enumerate(dtypes)}
    )
    assert_taken(both(frame, LABELS, backend), logits, LABELS, backend)
    probs = np.abs(logits)
    taken = pandas.DataFrame(
        {k: pandas.Series(probs[:, k]).astype(name) for k, name in enumerate(dtypes)}
    )
    assert_taken(both(LOGITS, taken, backend), LOGITS, probs, backend)


def test_series_of_every_kind_are_labels_and_weights(backend: str) -> None:
    pandas, polars, pyarrow = peer("pandas"), peer("polars"), peer("pyarrow")
    weights = [0.5, 2.0, 0.0, 1.0]
    want = both(LOGITS, LABELS, backend, sample_weight=weights)
    for labels, sample_weight in (
        (pandas.Series(LABELS, dtype="Int64"), pandas.Series(weights, dtype="Float64")),
        (
            pandas.Series(LABELS, dtype="uint8[pyarrow]", index=list("dcba")),
            pandas.Series(weights, dtype="double[pyarrow]", index=[9, 8, 7, 6]),
        ),
        (polars.Series(LABELS), polars.Series(weights)),
        (pyarrow.array(LABELS), pyarrow.chunked_array([weights[:1], weights[1:]])),
    ):
        got = both(LOGITS, labels, backend, sample_weight=sample_weight)
        assert same_bits(got[0], want[0])
        assert same_bits(got[1], want[1])
    mask = pandas.Series([True, False, True, True], dtype="boolean")
    masked = both(LOGITS, LABELS, backend, sample_weight=mask)
    assert same_bits(masked[0], both(LOGITS, LABELS, backend, sample_weight=[1, 0, 1, 1])[0])


def test_an_empty_series_is_the_labels_of_an_empty_batch(backend: str) -> None:
    pandas = peer("pandas")
    for labels in (pandas.Series([]), pandas.Series([], dtype=float)):
        losses, gradient = both(np.empty((0, 3)), labels, backend)
        assert losses.shape == (0,)
        assert gradient.shape == (0, 3)


def test_class_weights_of_a_series_go_by_its_index(backend: str) -> None:
    pandas, polars = peer("pandas"), peer("polars")
    want = both(LOGITS, LABELS, backend, class_weight=[0.5, 2.0, 3.0])[0]
    for series in (
        pandas.Series([0.5, 2.0, 3.0]),
        pandas.Series([3.0, 0.5, 2.0], index=[2, 0, 1]),  # as value_counts sorts them
        pandas.Series([3.0, 0.5, 2.0], index=[2, 0, 1], dtype="Float64"),
        polars.Series([0.5, 2.0, 3.0]),  # has no index
    ):
        assert same_bits(both(LOGITS, LABELS, backend, class_weight=series)[0], want)
    for index in (list("abc"), [1, 2, 3], [0, 1, 1], [0.0, 1.0, 2.0]):
        series = pandas.Series([0.5, 2.0, 3.0], index=index)
        with pytest.raises(ValueError, match=r"class_weight .*index is not 0 to 2.*to_numpy\(\)"):
            both(LOGITS, LABELS, backend, class_weight=series)
        got = both(LOGITS, LABELS, backend, class_weight=series.to_numpy())[0]
        assert same_bits(got, want)


class WayOut(NamedTuple):
    """What is passed as an argument, what its error says, and the way out in it."""

    argument: str
    make: str
    found: str  # a pattern
    way_out: str
    then: str = "{}"  # what else the message asks for


NULLS = "{0: [1.0, None, 2.0, 0.0], 1: [0.0, 1.0, 2.0, 3.0]}"
LISTS = "[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0], [2.0, 2.0]]"

WAYS_OUT: dict[str, WayOut] = {
    "missing Float64": WayOut(
        "logits",
        f"pd.DataFrame({NULLS}, dtype='Float64')",
        r"logits\[1, 0\] is missing",
        "logits.fillna(-np.inf)",
    ),
    "missing double[pyarrow]": WayOut(
        "logits",
        f"pd.DataFrame({NULLS}, dtype='double[pyarrow]')",
        r"logits\[1, 0\] is missing",
        "logits.fillna(-np.inf)",
    ),
    "a column of lists": WayOut(
        "logits", f"pd.Series({LISTS})", r"logits\[0\] is a list", "np.stack(np.asarray(logits))"
    ),
    "a frame with a column of lists": WayOut(
        "logits",
        f"pd.DataFrame({{'a': {LISTS}}})",
        r"logits\[0, 0\] is a list",
        "np.stack(np.asarray(logits)[:, 0])",
    ),
    "a column of arrays": WayOut(
        "logits",
        f"pd.Series(list(np.array({LISTS})))",
        r"logits\[0\] is a ndarray",
        "np.stack(np.asarray(logits))",
    ),
    "polars lists": WayOut(
        "logits", f"pl.Series({LISTS})", r"logits\[0\] is a", "np.stack(np.asarray(logits))"
    ),
    "pyarrow lists": WayOut(
        "logits", f"pa.array({LISTS})", r"logits\[0\] is a", "np.stack(np.asarray(logits))"
    ),
    "a lazy frame": WayOut(
        "logits",
        "pl.LazyFrame({'a': [1.0] * 4, 'b': [2.0] * 4})",
        "a LazyFrame object",
        "logits.collect()",
    ),
    "a sparse matrix": WayOut(
        "logits",
        "sparse.csr_matrix(np.eye(4))",
        "a csr_matrix object",
        "logits.toarray()",
    ),
    "sparse probabilities": WayOut(
        "labels",
        "sparse.coo_array(np.eye(4)[:, :2])",
        "a coo_array object",
        "labels.toarray()",
    ),
    "objects": WayOut(
        "logits",
        "pd.DataFrame({0: [1.0, 2.0, 3.0, 4.0], 1: [4.0] * 4}, dtype=object)",
        r"objects: logits\[0, 0\] is 1\.0 of type float",
        "np.asarray(logits, np.float64)",
    ),
    "numbers and booleans": WayOut(
        "logits",
        "pd.DataFrame({0: [1.0, 2.0, 3.0, 4.0], 1: [True] * 4})",
        r"objects: logits\[0, 1\] is True of type bool",
        "np.asarray(logits, np.float64)",
    ),
    "categories": WayOut(
        "labels",
        "pd.Series(['a', 'b', 'a', 'b'], dtype='category')",
        r"labels\[0\] is text, 'a'",
        "labels.cat.codes",
    ),
    "missing categories": WayOut(
        "labels",
        "pd.Series(['a', 'b', None, 'b'], dtype='category')",
        r"labels\[0\] is text, 'a'",
        "labels.cat.codes",
        "{'ignore_index': -1}",
    ),
    "text": WayOut(
        "labels",
        "pd.Series(['a', 'b', 'a', 'b'])",
        r"labels\[0\] is text, 'a'",
        "np.unique(labels, return_inverse=True)[1]",
    ),
    "polars categories": WayOut(
        "labels",
        "pl.Series(['a', 'b', 'a', 'b'], dtype=pl.Categorical)",
        r"labels\[0\] is text, 'a'",
        "np.unique(labels, return_inverse=True)[1]",
    ),
    "missing Int64": WayOut(
        "labels",
        "pd.Series([0, None, 1, 1], dtype='Int64')",
        r"labels\[1\] is nan, a label that is missing",
        "np.nan_to_num(labels, nan=-100).astype(np.int64)",
        "{'ignore_index': -100}",
    ),
    "polars nulls": WayOut(
        "labels",
        "pl.Series([0, None, 1, 1])",
        r"labels\[1\] is nan, a label that is missing",
        "np.nan_to_num(labels, nan=-100).astype(np.int64)",
        "{'ignore_index': -100}",
    ),
    "pyarrow nulls": WayOut(
        "labels",
        "pa.array([0, None, 1, 1])",
        r"labels\[1\] is nan, a label that is missing",
        "np.nan_to_num(labels, nan=-100).astype(np.int64)",
        "{'ignore_index': -100}",
    ),
    "a frame of one column": WayOut(
        "labels",
        "pd.DataFrame({'y': [0, 1, 1, 0]})",
        r"integer labels of shape \(4, 1\)",
        "np.reshape(labels, (4,))",
    ),
    "a frame of one column of floats": WayOut(
        "labels",
        "pd.DataFrame({'y': [0.0, 1.0, 1.0, 0.0]})",
        r"floats, hence probabilities, of shape \(4, 1\)",
        "np.asarray(np.reshape(labels, (4,)), np.int64)",
    ),
    "a tensor of floats": WayOut(
        "labels",
        "torch.tensor([0.0, 1.0, 1.0, 0.0])",
        r"floats, hence probabilities, of shape \(4,\)",
        "np.asarray(labels, np.int64)",
    ),
    "a weight that is missing": WayOut(
        "sample_weight",
        "pd.Series([True, None, True, True], dtype='boolean')",
        r"sample_weight\[1\] is missing",
        "sample_weight.fillna(False)",
    ),
    "weights in a frame": WayOut(
        "class_weight",
        "pd.DataFrame({'w': [1.0, 2.0]})",
        r"class_weight has shape \(2, 1\)",
        "np.reshape(class_weight, (2,))",
    ),
}


@pytest.mark.parametrize("case", WAYS_OUT)
def test_an_error_names_what_was_found_and_a_way_out_that_works(case: str, backend: str) -> None:
    argument, make, found, way_out, then = WAYS_OUT[case]
    names = {"np": np, "sparse": sparse}
    for short, name in (("pd", "pandas"), ("pl", "polars"), ("pa", "pyarrow"), ("torch", "torch")):
        if f"{short}." in make or f"[{name}]" in make:
            names[short] = peer(name)
    value = eval(make, names)
    n_classes = 4 if case == "a sparse matrix" else 2
    given: dict[str, Any] = {
        "logits": random_logits((4, n_classes)), "labels": np.array([0, 1, 1, 0])
    }  # fmt: skip
    with pytest.raises((TypeError, ValueError), match=found) as error:
        fastxent.cross_entropy(**{**given, argument: value}, backend=backend)
    message = str(error.value)
    assert message.startswith((argument, "integer labels"))
    if way_out.startswith("np.unique"):
        assert "classes, labels = np.unique(labels, return_inverse=True)" in message
    else:
        assert way_out in message
    for option, option_value in eval(then).items():
        assert option in message or option_value == -1
    fixed = eval(way_out, {**names, argument: value})
    loss = fastxent.cross_entropy(**{**given, argument: fixed}, **eval(then), backend=backend)
    assert np.isfinite(loss) or np.isposinf(loss)


def test_no_library_is_imported_for_what_is_passed() -> None:
    result = run_python(
        "import sys, numpy as np, fastxent\n"
        "before = set(sys.modules)\n"
        "class Frame:\n"
        "    dtypes = [np.dtype('f4'), np.dtype('f8')]\n"
        "    def __array__(self, dtype=None, copy=None):\n"
        "        return np.array([[1.0, 2.0]], object)\n"
        "fastxent.cross_entropy(Frame(), [0], class_weight={0: 2.0})\n"
        "for wrong in (np.array([['a']]), np.zeros(2, 'V2'), [[None]], 'balanced'):\n"
        "    try:\n"
        "        fastxent.cross_entropy(wrong, [0])\n"
        "    except TypeError:\n"
        "        continue\n"
        "    raise AssertionError(wrong)\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(names & {'pandas', 'polars', 'pyarrow', 'scipy', 'torch', 'ml_dtypes', 'jax'})\n"
    )
    assert result.stdout == "set()\n", result.stderr
