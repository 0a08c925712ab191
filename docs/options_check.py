"""Checks docs/options.md: every line of its table of differences, and its table of functions.

Run it from anywhere: `python docs/options_check.py`. It exits with 1 where a line of the table is
not true of fastxent, with any backend, or of another library that is installed. What is not
installed is named and left out; with FASTXENT_REQUIRE_PEERS=1 that is an error, but for the two
libraries of boosting, which the extra `peers` does not bring.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

import fastxent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PAGE: Final = Path(__file__).parent / "options.md"
BOOSTING: Final = ("xgboost", "lightgbm")
PEERS: Final = ("torch", "tensorflow", "optax", "keras", "onnx", "sklearn", *BOOSTING)

Array = np.ndarray[Any, Any]

# The line of the table (its first cell) -> the library -> what checks it. "fastxent" is called with
# the name of a backend, a check of another library without arguments.
CLAIMS: Final[dict[str, dict[str, Callable[..., None]]]] = defaultdict(dict)

# The batch that most lines are about, and its losses by the definition.
_RNG = np.random.default_rng(0)
X: Final = _RNG.standard_normal((4, 3))
Y: Final = np.array([0, 2, 1, 0])
W: Final = np.array([1.0, 2.0, 4.0])
S: Final = np.array([1.0, 2.0, 0.5, 3.0])
IGNORING: Final = np.array([0, -1, 1, 0])
KEPT: Final = [0, 2, 3]
LOG_P: Final = X - np.log(np.exp(X).sum(1, keepdims=True))
P: Final = np.exp(LOG_P)
NLL: Final = -LOG_P[np.arange(4), Y]
ONE_HOT: Final = np.eye(3)[Y]
E: Final = 0.25
SMOOTHED: Final = (W * ((1 - E) * ONE_HOT + E / 3) * -LOG_P).sum(1)
CONFIDENT: Final = np.array([[40.0, 0.0]])
TINY: Final = float(np.log1p(np.exp(-40.0)))
MASKED: Final = np.array([[1.0, -np.inf, 0.0]])
MASKED_LOSS: Final = float(np.log1p(np.exp(-1.0)))


def claim(line: str, library: str = "fastxent") -> Callable[[Callable[..., None]], Any]:
    """Registers the check of a line of the table."""

    def register(check: Callable[..., None]) -> Callable[..., None]:
        assert library not in CLAIMS[line], (line, library)
        CLAIMS[line][library] = check
        return check

    return register


def near(found: Any, want: Any, tolerance: float = 1e-6) -> None:
    """AssertionError unless found is want, NaN and infinities included."""
    values = np.asarray(found, np.float64)
    message = f"found {values}, not {want}"
    assert np.allclose(values, want, rtol=tolerance, atol=1e-30, equal_nan=True), message


def fails(call: Callable[[], Any], error: type[Exception] = Exception) -> None:
    """AssertionError unless the call raises the error."""
    try:
        found = call()
    except error:
        return
    raise AssertionError(f"no error, but {found}")


# ---- other libraries, called alike ---------------------------------------------------------------


def torch_loss(logits: Any, labels: Any, **options: Any) -> tuple[Any, Array]:
    """PyTorch's loss and its gradient; weights are given as NumPy arrays."""
    import torch

    x = torch.tensor(logits, requires_grad=True)
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"], dtype=x.dtype)
    loss = torch.nn.functional.cross_entropy(x, torch.tensor(labels), **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def tensorflow_loss(logits: Any, labels: Any) -> tuple[Array, Array]:
    """TensorFlow's losses and the gradient of their sum."""
    import tensorflow as tf

    x = tf.Variable(logits)
    target = np.asarray(labels)
    with tf.GradientTape() as tape:
        if target.dtype.kind == "f":
            losses = tf.nn.softmax_cross_entropy_with_logits(labels=target, logits=x)
        else:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=x)
    return losses.numpy(), np.asarray(tape.gradient(losses, x))


def optax_loss(logits: Any, labels: Any, name: str = "") -> tuple[Array, Array]:
    """optax's losses, in the dtype of the logits, and the gradient of their sum."""
    import jax
    import optax

    target = np.asarray(labels)
    if not name:
        hard = target.dtype.kind != "f"
        name = "softmax_cross_entropy" + ("_with_integer_labels" if hard else "")
    function = getattr(optax, name)
    with jax.enable_x64(True):
        x = jax.numpy.asarray(logits)
        gradient = jax.grad(lambda value: function(value, target).sum())(x)
        return np.asarray(function(x, target)), np.asarray(gradient)


def keras_loss(logits: Any, labels: Any, weights: Any = None, **options: Any) -> Any:
    """Keras's loss, from labels or probabilities."""
    import keras

    soft = np.asarray(labels).dtype.kind == "f"
    name = "CategoricalCrossentropy" if soft else "SparseCategoricalCrossentropy"
    loss = getattr(keras.losses, name)(from_logits=True, **options)
    given = {} if weights is None else {"sample_weight": weights.astype(np.float32)}
    return np.asarray(loss(labels, np.asarray(logits, np.float32), **given))


def onnx_loss(logits: Any, labels: Any, weights: Any = None, **attributes: Any) -> Any:
    """The loss that the reference evaluator of ONNX gives."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    arrays = {"x": np.asarray(logits, np.float32), "y": np.asarray(labels)}
    if weights is not None:
        arrays["w"] = np.asarray(weights, np.float32)
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "y" else TensorProto.FLOAT, None
        )
        for name in arrays
    ]
    node = helper.make_node("SoftmaxCrossEntropyLoss", list(arrays), ["loss"], **attributes)
    result = helper.make_tensor_value_info("loss", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "loss", inputs, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    return ReferenceEvaluator(model).run(None, arrays)[0]


def sklearn_loss() -> Any:
    """scikit-learn's loss of three classes."""
    from sklearn._loss.loss import HalfMultinomialLoss

    return HalfMultinomialLoss(n_classes=3)


def ours(logits: Any, labels: Any, backend: str, **options: Any) -> tuple[Any, Any]:
    """Our loss and its gradient."""
    return fastxent.cross_entropy_with_grad(logits, labels, backend=backend, **options)


# ---- the lines of the table ----------------------------------------------------------------------

LINE = "mean with class weights, labels"
WEIGHTED: Final = float((W[Y] * NLL).sum() / W[Y].sum())


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, Y, backend, class_weight=W)[0], WEIGHTED)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, Y, weight=W)[0], WEIGHTED)


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(X, Y, W), WEIGHTED)


LINE = "mean with class weights, probabilities"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, ONE_HOT, backend, class_weight=W)[0], (W[Y] * NLL).sum() / 4)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, ONE_HOT, weight=W)[0], (W[Y] * NLL).sum() / 4)


LINE = "mean with sample weights"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, Y, backend, sample_weight=S)[0], (S * NLL).sum() / S.sum())
    near(ours(X, Y, backend, sample_weight=S, mean_over="valid")[0], (S * NLL).sum() / 4)
    zero = np.array([1.0, 0.0, 0.5, 3.0])  # a row of weight 0 is a row
    near(ours(X, Y, backend, sample_weight=zero, mean_over="valid")[0], (zero * NLL).sum() / 4)


@claim(LINE, "sklearn")
def _() -> None:
    near(sklearn_loss()(Y.astype(float), X, sample_weight=S), (S * NLL).sum() / S.sum())


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(X, Y, S), (S * NLL).sum() / 4)
    by_weight = keras_loss(X, Y, S, reduction="mean_with_sample_weight")
    near(by_weight, (S * NLL).sum() / S.sum())


LINE = "mean with ignored rows"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, IGNORING, backend, ignore_index=-1)[0], NLL[KEPT].mean())


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, IGNORING, ignore_index=-1)[0], NLL[KEPT].mean())


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(X, IGNORING, ignore_index=-1), NLL[KEPT].mean())


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(X, IGNORING, ignore_class=-1), NLL[KEPT].mean())
    near(keras_loss(X, IGNORING, S, ignore_class=-1), (S * NLL)[KEPT].sum() / 3)


LINE = "mean over ignored rows alone"
NOTHING: Final = np.full(4, -1)


@claim(LINE)
def _(backend: str) -> None:
    for empty, want in (("nan", np.nan), ("zero", 0.0)):
        loss, gradient = ours(X, NOTHING, backend, ignore_index=-1, empty=empty)
        near(loss, want)
        assert not gradient.any()
    fails(lambda: ours(X, NOTHING, backend, ignore_index=-1, empty="raise"), ValueError)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, NOTHING, ignore_index=-1)[0], np.nan)


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(X, NOTHING, ignore_index=-1), np.nan)


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(X, NOTHING, ignore_class=-1), 0)


LINE = "batch of no rows"
NO_X: Final = np.zeros((0, 3))
NO_Y: Final = np.zeros(0, np.int64)


@claim(LINE)
def _(backend: str) -> None:
    near(ours(NO_X, NO_Y, backend)[0], np.nan)
    near(ours(NO_X, NO_Y, backend, empty="zero")[0], 0)
    near(ours(NO_X, NO_Y, backend, reduction="sum")[0], 0)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(NO_X, NO_Y)[0], np.nan)
    near(torch_loss(NO_X, NO_Y, reduction="sum")[0], 0)


@claim(LINE, "sklearn")
def _() -> None:
    near(sklearn_loss()(np.zeros(0), NO_X), np.nan)


@claim(LINE, "keras")
def _() -> None:
    assert keras_loss(NO_X, NO_Y).shape == (0,)


@claim(LINE, "onnx")
def _() -> None:
    fails(lambda: onnx_loss(NO_X, NO_Y))


LINE = "ignored row that holds NaN"
SPOILT: Final = np.where(np.arange(4)[:, None] == 1, np.nan, X)


@claim(LINE)
def _(backend: str) -> None:
    loss, gradient = ours(SPOILT, IGNORING, backend, ignore_index=-1)
    near(loss, NLL[KEPT].mean())
    near(gradient[1], 0)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(SPOILT, IGNORING, ignore_index=-1)[1][1], np.nan)


@claim(LINE, "keras")
def _() -> None:
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        return
    x = tf.Variable(SPOILT.astype(np.float32))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    with tf.GradientTape() as tape:
        value = loss(IGNORING, x)
    near(tape.gradient(value, x)[1], 0)


LINE = "ignored index with probabilities"


@claim(LINE)
def _(backend: str) -> None:
    for index in (0, -100):
        fails(lambda k=index: ours(X, ONE_HOT, backend, ignore_index=k), ValueError)


@claim(LINE, "torch")
def _() -> None:
    fails(lambda: torch_loss(X, ONE_HOT, ignore_index=0))
    near(torch_loss(X, ONE_HOT, ignore_index=-1)[0], NLL.mean())


LINE = "probabilities all 0"


@claim(LINE)
def _(backend: str) -> None:
    losses, gradient = ours(X, 0 * ONE_HOT, backend, reduction="none")
    near(losses, 0)
    near(gradient, 0)


@claim(LINE, "torch")
def _() -> None:
    losses, gradient = torch_loss(X, 0 * ONE_HOT, reduction="none")
    near(losses, 0)
    near(gradient, 0)


@claim(LINE, "tensorflow")
def _() -> None:
    losses, gradient = tensorflow_loss(X, 0 * ONE_HOT)
    near(losses, 0)
    near(gradient, P)


LINE = "probabilities of sum A"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, 3 * ONE_HOT, backend, reduction="none")[1], 3 * P - 3 * ONE_HOT)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, 3 * ONE_HOT, reduction="sum")[1], 3 * P - 3 * ONE_HOT)


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(X, 3 * ONE_HOT)[1], 3 * P - 3 * ONE_HOT)


@claim(LINE, "tensorflow")
def _() -> None:
    near(tensorflow_loss(X, 3 * ONE_HOT)[1], P - 3 * ONE_HOT)


LINE = "smoothing and a masked class"


@claim(LINE)
def _(backend: str) -> None:
    want = (1 - E) * MASKED_LOSS + E / 2 * (MASKED_LOSS + MASKED_LOSS + 1)
    near(ours(MASKED, np.array([0]), backend, label_smoothing=E)[0], want)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(MASKED, [0], label_smoothing=E)[0], np.inf)


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(MASKED, np.array([[1.0, 0, 0]], np.float32), label_smoothing=E), np.inf)


@claim(LINE, "optax")
def _() -> None:
    import optax

    near(optax_loss(MASKED, np.asarray(optax.smooth_labels(np.array([[1.0, 0, 0]]), E)))[0], np.inf)


LINE = "smoothing and class weights"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(X, Y, backend, class_weight=W, label_smoothing=E, reduction="none")[0], SMOOTHED)
    mean = ours(X, Y, backend, class_weight=W, label_smoothing=E)[0]
    near(mean, SMOOTHED.sum() / W[Y].sum())


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, Y, weight=W, label_smoothing=E, reduction="none")[0], SMOOTHED)
    near(torch_loss(X, Y, weight=W, label_smoothing=E)[0], SMOOTHED.sum() / W[Y].sum())


LINE = "smoothing of -0.1"


@claim(LINE)
def _(backend: str) -> None:
    for wrong in (-0.1, 1.1):
        fails(lambda e=wrong: ours(X, Y, backend, label_smoothing=e), ValueError)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(X, Y, label_smoothing=-0.1)[0], NLL.mean())


LINE = "no mass on a masked class"
FIRST: Final = np.array([[1.0, 0.0, 0.0]])


@claim(LINE)
def _(backend: str) -> None:
    near(ours(MASKED, FIRST, backend)[0], MASKED_LOSS)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(MASKED, FIRST)[0], np.nan)


@claim(LINE, "tensorflow")
def _() -> None:
    near(tensorflow_loss(MASKED, FIRST)[0], np.nan)


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(MASKED, FIRST.astype(np.float32)), np.nan)


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(MASKED, FIRST)[0], np.nan)
    near(optax_loss(MASKED, FIRST, "safe_softmax_cross_entropy")[0], MASKED_LOSS)


LINE = "[40, 0], label 0, loss"


@claim(LINE)
def _(backend: str) -> None:
    near(4.248354e-18, TINY)
    for dtype in (np.float32, np.float64):
        near(ours(CONFIDENT.astype(dtype), [0], backend)[0], TINY)


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(CONFIDENT, [0])[0], 0)


@claim(LINE, "tensorflow")
def _() -> None:
    near(tensorflow_loss(CONFIDENT, [0])[0], 0)


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(CONFIDENT, [0])[0], 0)


@claim(LINE, "keras")
def _() -> None:
    near(keras_loss(CONFIDENT, np.array([0])), 0)


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(CONFIDENT, [0]), 0)


@claim(LINE, "sklearn")
def _() -> None:
    row = np.array([[40.0, 0.0, -1000.0]])
    near(sklearn_loss().loss(y_true=np.zeros(1), raw_prediction=row), 0)


LINE = "[40, 0], label 0, gradient at the label"


@claim(LINE)
def _(backend: str) -> None:
    for dtype in (np.float32, np.float64):
        near(ours(CONFIDENT.astype(dtype), [0], backend)[1], [[-TINY, TINY]])


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(CONFIDENT, [0])[1], [[0, TINY]])


@claim(LINE, "tensorflow")
def _() -> None:
    near(tensorflow_loss(CONFIDENT, [0])[1], [[0, TINY]])


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(CONFIDENT, [0])[1], [[0, TINY]])


@claim(LINE, "sklearn")
def _() -> None:
    row = np.array([[40.0, 0.0, -1000.0]])
    near(sklearn_loss().gradient(y_true=np.zeros(1), raw_prediction=row), [[0, TINY, 0]])


LINE = "[400, 0], label 1, loss"


@claim(LINE)
def _(backend: str) -> None:
    near(ours(10 * CONFIDENT, [1], backend)[0], 400)


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(10 * CONFIDENT, [1]), np.inf)


LINE = "three float32 logits of 1e8, loss"
SHIFTED: Final = np.full((1, 3), 1e8, np.float32)


@claim(LINE)
def _(backend: str) -> None:
    near(1.098612, np.log(3))
    near(ours(SHIFTED, [0], backend)[0], np.log(3))


@claim(LINE, "torch")
def _() -> None:
    near(torch_loss(SHIFTED, [0])[0], np.log(3))


@claim(LINE, "tensorflow")
def _() -> None:
    near(tensorflow_loss(SHIFTED, [0])[0], np.log(3))


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(SHIFTED, [0])[0], 0)


@claim(LINE, "sklearn")
def _() -> None:
    near(sklearn_loss().loss(y_true=np.zeros(1, np.float32), raw_prediction=SHIFTED), 0)


LINE = "label equal to the number of classes"
BEYOND: Final = np.array([0, 2, 1, 3])


@claim(LINE)
def _(backend: str) -> None:
    fails(lambda: ours(X, BEYOND, backend), ValueError)


@claim(LINE, "torch")
def _() -> None:
    fails(lambda: torch_loss(X, BEYOND), IndexError)


@claim(LINE, "tensorflow")
def _() -> None:
    import tensorflow as tf

    fails(lambda: tensorflow_loss(X, BEYOND))
    compiled = tf.function(
        lambda: tf.nn.sparse_softmax_cross_entropy_with_logits(labels=BEYOND, logits=X),
        jit_compile=True,
    )
    near(compiled(), [*NLL[:3], np.nan])


@claim(LINE, "keras")
def _() -> None:
    fails(lambda: keras_loss(X, BEYOND))


@claim(LINE, "onnx")
def _() -> None:
    fails(lambda: onnx_loss(X, BEYOND), IndexError)


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(X, BEYOND)[0], [*NLL[:3], np.nan])


@claim(LINE, "sklearn")
def _() -> None:
    found = sklearn_loss().loss(y_true=BEYOND.astype(float), raw_prediction=X)
    assert np.isfinite(found).all()


LINE = "label -1"


@claim(LINE)
def _(backend: str) -> None:
    fails(lambda: ours(X, IGNORING, backend), ValueError)


@claim(LINE, "torch")
def _() -> None:
    fails(lambda: torch_loss(X, IGNORING), IndexError)


@claim(LINE, "tensorflow")
def _() -> None:
    fails(lambda: tensorflow_loss(X, IGNORING))


@claim(LINE, "keras")
def _() -> None:
    fails(lambda: keras_loss(X, IGNORING))


@claim(LINE, "optax")
def _() -> None:
    near(optax_loss(X, IGNORING)[0], NLL)  # row 1 has label 2, the last of three


@claim(LINE, "onnx")
def _() -> None:
    near(onnx_loss(X, IGNORING, reduction="none"), NLL)


@claim(LINE, "sklearn")
def _() -> None:
    found = sklearn_loss().loss(y_true=IGNORING.astype(float), raw_prediction=X)
    assert np.isfinite(found).all()


LINE = "integer types of labels"
INTEGERS: Final = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@claim(LINE)
def _(backend: str) -> None:
    for name in INTEGERS:
        near(ours(X, Y.astype(name), backend)[0], NLL.mean())


@claim(LINE, "torch")
def _() -> None:
    for name in INTEGERS:
        if name in ("int64", "uint8"):
            near(torch_loss(X, Y.astype(name))[0], NLL.mean())
        else:
            fails(lambda k=name: torch_loss(X, Y.astype(k)), RuntimeError)


@claim(LINE, "tensorflow")
def _() -> None:
    for name in INTEGERS:
        if name in ("int32", "int64"):
            near(tensorflow_loss(X, Y.astype(name))[0], NLL)
        else:
            fails(lambda k=name: tensorflow_loss(X, Y.astype(k)))


@claim(LINE, "onnx")
def _() -> None:
    import onnx

    schema = onnx.defs.get_schema("SoftmaxCrossEntropyLoss")
    kinds = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    assert kinds["Tind"] == {"tensor(int32)", "tensor(int64)"}


LINE = "losses of bfloat16 logits"


@claim(LINE)
def _(backend: str) -> None:
    import ml_dtypes

    losses, gradient = ours(X.astype(ml_dtypes.bfloat16), Y, backend, reduction="none")
    assert losses.dtype == np.float32
    assert gradient.dtype == ml_dtypes.bfloat16


@claim(LINE, "torch")
def _() -> None:
    import torch

    x = torch.tensor(X).to(torch.bfloat16)
    assert torch.nn.functional.cross_entropy(x, torch.tensor(Y)).dtype == torch.bfloat16


@claim(LINE, "tensorflow")
def _() -> None:
    import tensorflow as tf

    x = tf.constant(X, tf.bfloat16)
    found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=Y, logits=x)
    assert found.dtype == tf.bfloat16


@claim(LINE, "optax")
def _() -> None:
    import ml_dtypes

    assert optax_loss(X.astype(ml_dtypes.bfloat16), Y)[0].dtype == ml_dtypes.bfloat16


def no_option(*words: str) -> Callable[[str], Callable[[], None]]:
    """Checks that no loss of a library has a parameter that is called so."""

    def of_library(library: str) -> Callable[[], None]:
        def check() -> None:
            for function in _losses_of(library):
                names = inspect.signature(function).parameters
                assert not [n for n in names for word in words if word in n.lower()], function

        return check

    return of_library


def _losses_of(library: str) -> list[Callable[..., Any]]:
    if library == "torch":
        import torch

        return [torch.nn.functional.cross_entropy, torch.nn.functional.linear_cross_entropy]
    if library == "tensorflow":
        import tensorflow as tf

        nn = tf.nn
        return [
            nn.softmax_cross_entropy_with_logits,
            nn.sparse_softmax_cross_entropy_with_logits,
        ]
    if library == "optax":
        import optax

        names = ("", "_with_integer_labels")
        return [getattr(optax, "softmax_cross_entropy" + name) for name in names]
    import keras

    names = ("CategoricalCrossentropy", "SparseCategoricalCrossentropy")
    return [getattr(keras.losses, name).__init__ for name in names]


LINE = "temperature T"


@claim(LINE)
def _(backend: str) -> None:
    losses, gradient = ours(2 * X, Y, backend, temperature=2.0, reduction="none")
    near(losses, NLL)
    near(gradient, (P - ONE_HOT) / 2)
    kl = fastxent.kl_divergence_with_logits(X[::-1], X, temperature=2.0, backend=backend)
    near(kl, _kl_rows(X[::-1] / 2, X / 2).mean())


def _kl_rows(target_logits: Array, logits: Array) -> Array:
    log_q = target_logits - np.log(np.exp(target_logits).sum(1, keepdims=True))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows: Array = (np.exp(log_q) * (log_q - log_p)).sum(1)
    return rows


@claim(LINE, "keras")
def _() -> None:
    import keras

    no_option("temperature")("keras")()
    teacher, student = X[::-1].astype(np.float32), X.astype(np.float32)
    distillation = keras.distillation.LogitsDistillation(
        temperature=2.0, loss=keras.losses.KLDivergence()
    )
    found = float(distillation.compute_loss(teacher, student))
    near(found, 4 * _kl_rows(X[::-1] / 2, X / 2).mean(), 1e-5)


for _library in ("torch", "tensorflow", "optax"):
    claim(LINE, _library)(no_option("temperature")(_library))

LINE = "softcap c"


@claim(LINE)
def _(backend: str) -> None:
    losses, gradient = ours(X, Y, backend, softcap=2.0, temperature=3.0, reduction="none")
    y = 2 * np.tanh(X / 2) / 3
    lse = np.log(np.exp(y).sum(1))
    near(losses, lse - y[np.arange(4), Y])
    slope = (1 - np.tanh(X / 2) ** 2) / 3
    near(gradient, (np.exp(y - lse[:, None]) - ONE_HOT) * slope)


for _library in ("torch", "tensorflow", "optax", "keras"):
    claim(LINE, _library)(no_option("cap")(_library))

LINE = "z_loss z"


@claim(LINE)
def _(backend: str) -> None:
    lse = np.log(np.exp(X).sum(1))
    options = {"class_weight": W, "sample_weight": S, "z_loss": 0.5, "reduction": "none"}
    losses, gradient = ours(X, Y, backend, **options)
    near(losses, S * (W[Y] * NLL + 0.5 * lse**2))
    near(gradient, (S * W[Y])[:, None] * (P - ONE_HOT) + (S * lse)[:, None] * P)


for _library in ("torch", "tensorflow", "optax", "keras"):
    claim(LINE, _library)(no_option("z_loss", "lse", "squar")(_library))

LINE = "mean of a KL divergence"
DIVERGENCES: Final = _kl_rows(X[::-1], X)


@claim(LINE)
def _(backend: str) -> None:
    near(fastxent.kl_divergence_with_logits(X[::-1], X, backend=backend), DIVERGENCES.mean())


@claim(LINE, "torch")
def _() -> None:
    import torch

    pair = (torch.tensor(LOG_P), torch.tensor(P[::-1].copy()))
    near(torch.nn.functional.kl_div(*pair, reduction="mean"), DIVERGENCES.mean() / 3)
    near(torch.nn.functional.kl_div(*pair, reduction="batchmean"), DIVERGENCES.mean())


@claim(LINE, "keras")
def _() -> None:
    import keras

    loss = keras.losses.KLDivergence()
    found = loss(P[::-1].astype(np.float32), P.astype(np.float32))
    near(found, DIVERGENCES.mean(), 1e-5)
    clipped = loss(np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    near(clipped, -np.log(1e-7), 1e-5)


LINE = "Hessian's diagonal"


@claim(LINE)
def _(backend: str) -> None:
    hessian = fastxent.cross_entropy_grad_hess(X, Y, backend=backend)[1]
    near(hessian, P * (1 - P))
    doubled = fastxent.cross_entropy_grad_hess(X, Y, hess_factor=2.0, backend=backend)[1]
    near(doubled, 2 * P * (1 - P))


@claim(LINE, "sklearn")
def _() -> None:
    found = sklearn_loss().gradient_hessian(y_true=Y.astype(float), raw_prediction=X)
    near(found[1], P * (1 - P))


def _objective(factor: float) -> Callable[[Array, Any], tuple[Array, Array]]:
    def objective(scores: Array, data: Any) -> tuple[Array, Array]:
        labels = data.get_label().astype(np.int64)
        return fastxent.cross_entropy_grad_hess(scores, labels, hess_factor=factor)

    return objective


def _boosting_data() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((60, 2)), rng.integers(0, 3, 60)


@claim(LINE, "xgboost")
def _() -> None:
    import xgboost

    features, labels = _boosting_data()
    data = xgboost.DMatrix(features, labels)
    shape = {"num_class": 3, "max_depth": 2, "base_score": 0.0, "nthread": 1}
    built_in = xgboost.train({"objective": "multi:softprob", **shape}, data, 3)
    want = built_in.predict(data, output_margin=True)
    for factor, same in ((2.0, True), (1.0, False)):
        params = {"disable_default_eval_metric": 1, **shape}
        found = xgboost.train(params, data, 3, obj=_objective(factor))
        margin = found.predict(data, output_margin=True).reshape(want.shape)
        assert np.allclose(margin, want, atol=1e-5) == same


@claim(LINE, "lightgbm")
def _() -> None:
    import lightgbm

    features, labels = _boosting_data()
    shape = {"num_class": 3, "boost_from_average": False, "num_leaves": 4, "verbose": -1}
    shape |= {"min_data_in_leaf": 5, "num_threads": 1, "deterministic": True, "seed": 0}

    def scores(objective: Any) -> Array:
        data = lightgbm.Dataset(features, labels)
        model = lightgbm.train({"objective": objective, **shape}, data, 3)
        found: Array = model.predict(features, raw_score=True)
        return found

    want = scores("multiclass")
    assert np.allclose(scores(_objective(3 / 2)), want, atol=1e-5)
    assert not np.allclose(scores(_objective(1.0)), want, atol=1e-5)


# ---- running all of it ---------------------------------------------------------------------------


def missing() -> set[str]:
    """The other libraries that cannot be imported."""
    absent = set()
    for name in PEERS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except ImportError:
            absent.add(name)
    return absent


def lines_of_table(text: str) -> list[str]:
    """The first cells of the table of differences."""
    section = text.split("## Where others differ")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", section, re.MULTILINE)
    return [row for row in rows if row != "question" and not row.startswith("---")]


def options_of_functions(text: str) -> None:
    """AssertionError unless the table of functions has the options of each."""
    names = re.findall(
        r"^\| `(\w+)` \| .+ \| .+ \|$", text.split("## Every option")[1], re.MULTILINE
    )
    groups = names[1:5], names[5:8], names[8:12]
    assert groups[0][0] == "class_weight", names
    assert groups[2][-1] == "empty", names
    divergence = {"temperature", "sample_weight", "reduction", "normalizer", "empty"}
    general = {"axis", "backend", "n_threads"}
    section = text.split("| function |")[1].split("\n\n")[0]
    functions = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|(.*)\|$", section, re.MULTILINE)
    assert len(functions) == 10, functions
    for function, *marks, more in functions:
        found = set(inspect.signature(getattr(fastxent, function)).parameters)
        want = set(re.findall(r"`(\w+)`", more)) | (divergence if "see below" in more else set())
        for group, mark in zip(groups, marks, strict=True):
            want |= set(group) if mark.strip() == "all" else set()
        found -= {"target_logits", "logits", "labels", "vectors", "state"}
        want |= set() if function == "finish" else general
        want -= {"backend"} if function == "finish_grad" else set()
        assert found == want, f"{function}: {found ^ want}"


def run(name: str, check: Callable[[], Any], warned: str = "ignore") -> bool:
    """Whether a check passes; what went wrong is printed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warned)  # type: ignore[arg-type]
            check()
    except Exception:
        print(f"NOT TRUE: {name}", file=sys.stderr)
        traceback.print_exc()
        return False
    return True


def main() -> int:
    """Check the page; 1 where something is not true."""
    text = PAGE.read_text()
    absent = missing()
    if absent:
        print(f"not installed, so not checked: {', '.join(sorted(absent))}")
    passed = not (os.environ.get("FASTXENT_REQUIRE_PEERS") == "1" and absent - set(BOOSTING))
    table = lines_of_table(text)
    if sorted(table) != sorted(CLAIMS):
        print(f"lines without a check, or checks without a line: {set(table) ^ set(CLAIMS)}")
        passed = False
    passed &= run("the options of every function", lambda: options_of_functions(text))
    n_checks = 1
    for backend in fastxent.available_backends():
        for line, checks in CLAIMS.items():
            check = checks["fastxent"]
            name = f"{line} (fastxent, {backend})"
            passed &= run(name, lambda c=check, b=backend: c(b), "error")
            n_checks += 1
    for line, checks in CLAIMS.items():
        for library, check in checks.items():
            if library != "fastxent" and library not in absent:
                passed &= run(f"{line} ({library})", check)
                n_checks += 1
    print(f"{len(table)} lines, {n_checks} checks")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
