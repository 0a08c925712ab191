"""Other libraries, each called the fastest way that it documents, on arrays of its own.

Where a library can write to an array that is used again, it does so, except in the operation that
is about fresh ones. Measured choices are those of a look at four shapes, 8x10 to 2048x8000, with
the versions in the comment.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.measure.case import Array, Case
from scipy import special

Call = Callable[[], Any]

_DISTRIBUTIONS: Final = (
    "torch",
    "jax",
    "optax",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "scikit-learn",
)


def installed_peers() -> Iterator[tuple[str, str]]:
    """Distributions and their versions; SciPy's and NumPy's are among what the package shows."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def scipy_expression(case: Case, logits: Array, labels: Array) -> Call:
    """What a user of SciPy writes; it knows neither threads, nor `out`, nor 16 bits.

    For logits of 16 bits the gradient stays float32: NumPy's conversion to float16 would take
    longer than all the rest.
    """
    axis = case.axis
    wide = np.result_type(logits.dtype, np.float32)
    n_rows = logits.size // logits.shape[axis]
    # log_probs[chosen] has a number for every label.
    index: list[Array] = [*np.indices(labels.shape, sparse=True)]
    index.insert(axis % logits.ndim, labels)
    chosen = tuple(index)

    def loss() -> Any:
        log_probs = special.log_softmax(logits.astype(wide, copy=False), axis=axis)
        return -log_probs[chosen].mean()

    def loss_and_grad() -> tuple[Any, Array]:
        log_probs = special.log_softmax(logits.astype(wide, copy=False), axis=axis)
        mean = -log_probs[chosen].mean()
        grad_logits = np.exp(log_probs, out=log_probs)
        grad_logits[chosen] -= 1
        grad_logits /= n_rows
        return mean, grad_logits

    def soft_loss_and_grad() -> tuple[Any, Array]:
        log_probs = special.log_softmax(logits.astype(wide, copy=False), axis=axis)
        mean = -float(np.vdot(log_probs, labels)) / n_rows
        grad_logits = np.exp(log_probs, out=log_probs)
        grad_logits *= labels.sum(axis=axis, keepdims=True)
        grad_logits -= labels
        grad_logits /= n_rows
        return mean, grad_logits

    if case.operation in ("softmax", "log_softmax"):
        return partial(getattr(special, case.operation), logits, axis=axis)
    if case.soft:
        return soft_loss_and_grad
    return loss if case.operation == "loss" else loss_and_grad


def sklearn_loss(case: Case, logits: Array, labels: Array) -> Call:
    """The loss of scikit-learn's LogisticRegression; the mean is a weight of 1 / n a row."""
    module: Any = importlib.import_module("sklearn._loss.loss")
    n_rows, n_classes = logits.shape
    arguments = {
        "y_true": labels.astype(logits.dtype),
        "raw_prediction": logits.copy(),
        "sample_weight": np.full(n_rows, 1 / n_rows, logits.dtype),
        "loss_out": np.empty(n_rows, logits.dtype),
        "n_threads": case.threads,
    }
    half_loss = module.HalfMultinomialLoss(n_classes=n_classes)
    if case.operation == "loss":
        return lambda: half_loss.loss(**arguments).sum()
    if case.operation == "loss_and_grad":
        arguments["gradient_out"] = np.empty_like(logits)

    def loss_and_grad() -> tuple[Any, Array]:
        losses, grad_logits = half_loss.loss_gradient(**arguments)
        return losses.sum(), grad_logits

    return loss_and_grad


def jax_jitted(case: Case, logits: Array, labels: Array) -> Call:
    """JAX with Optax's losses, compiled; results are fresh arrays."""
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    own_logits = jax.numpy.asarray(logits)
    own_labels = jax.numpy.asarray(labels if case.soft else labels.astype(np.int32))
    losses = (
        optax.softmax_cross_entropy
        if case.soft
        else optax.softmax_cross_entropy_with_integer_labels
    )

    def mean_loss(x: Any, y: Any) -> Any:
        return losses(x, y, axis=case.axis).mean()

    if case.operation in ("softmax", "log_softmax"):
        function = jax.jit(partial(getattr(jax.nn, case.operation), axis=case.axis))
        return lambda: function(own_logits).block_until_ready()
    function = jax.jit(mean_loss if case.operation == "loss" else jax.value_and_grad(mean_loss))
    return lambda: jax.block_until_ready(function(own_logits, own_labels))


def tensorflow_function(case: Case, logits: Array, labels: Array) -> Call:
    """TensorFlow; results are fresh arrays.

    Losses ran 1.5 to 3 times as fast with jit_compile, softmax 1.3 to 2 times as fast outside a
    tf.function (TensorFlow 2.21).
    """
    tf: Any = importlib.import_module("tensorflow")
    own_logits = tf.constant(logits)
    own_labels = tf.constant(labels if case.soft else labels.astype(np.int32))
    losses = (
        tf.nn.softmax_cross_entropy_with_logits
        if case.soft
        else tf.nn.sparse_softmax_cross_entropy_with_logits
    )

    def mean_loss(x: Any, y: Any) -> Any:
        each = losses(labels=y, logits=x)
        # A mean of 16 bits has too few digits.
        return tf.reduce_mean(each if case.dtype == "float64" else tf.cast(each, tf.float32))

    def loss_and_grad(x: Any, y: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean = mean_loss(x, y)
        return mean, tape.gradient(mean, x)

    if case.operation in ("softmax", "log_softmax"):
        return partial(getattr(tf.nn, case.operation), own_logits)
    traced = mean_loss if case.operation == "loss" else loss_and_grad
    return partial(tf.function(traced, jit_compile=True), own_logits, own_labels)


def torch_eager(case: Case, logits: Array, labels: Array) -> Call:
    """PyTorch without compilation; its gradient is always a fresh array."""
    torch, own_logits, own_labels = _torch_and_arrays(case, logits, labels)
    mean_loss = _torch_mean_loss(case, torch)

    def loss() -> Any:
        with torch.inference_mode():
            return mean_loss(own_logits, own_labels)

    def loss_and_grad() -> tuple[Any, Any]:
        own_logits.grad = None
        mean = mean_loss(own_logits, own_labels)
        mean.backward()
        return mean.detach(), own_logits.grad

    if case.operation in ("softmax", "log_softmax"):
        function = getattr(torch, case.operation)
        return partial(function, own_logits, dim=case.axis, out=torch.empty_like(own_logits))
    if case.operation == "loss":
        return loss
    own_logits.requires_grad_()
    return loss_and_grad


def torch_compiled(case: Case, logits: Array, labels: Array) -> Call:
    """PyTorch compiled by Inductor, which needs a C++ compiler; results are fresh arrays.

    `torch.func` compiles loss and gradient into one function: up to three times as fast as a
    compiled loss and its `backward()` (PyTorch 2.13).
    """
    torch, own_logits, own_labels = _torch_and_arrays(case, logits, labels)
    torch.compiler.reset()  # every case starts from nothing: there is a limit to recompilations
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    if case.operation in ("softmax", "log_softmax"):
        function = getattr(torch, case.operation)
        return partial(compiled(lambda x: function(x, dim=case.axis)), own_logits)
    mean_loss = _torch_mean_loss(case, torch)
    if case.operation == "loss":
        return partial(compiled(mean_loss), own_logits, own_labels)
    grad_and_loss = compiled(torch.func.grad_and_value(mean_loss))
    return lambda: grad_and_loss(own_logits, own_labels)[::-1]


def _torch_and_arrays(case: Case, logits: Array, labels: Array) -> tuple[Any, Any, Any]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(case.threads)

    def own(array: Array) -> Any:
        if array.dtype.name == "bfloat16":
            return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
        return torch.tensor(array)

    return torch, own(logits), own(labels)


def _torch_mean_loss(case: Case, torch: Any) -> Callable[[Any, Any], Any]:
    """PyTorch finds the classes along axis 1 by itself."""
    cross_entropy = torch.nn.functional.cross_entropy

    def mean_loss(x: Any, y: Any) -> Any:
        if case.dtype == "float16":
            # Its own mean adds the losses up in float16, which ends at 65504: 16384 rows gave inf.
            return cross_entropy(x, y, reduction="none").mean(dtype=torch.float32)
        return cross_entropy(x, y)

    return mean_loss
