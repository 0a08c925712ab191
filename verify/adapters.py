"""Other libraries' losses as implementations: NumPy arrays in and out, nothing else added.

Each is written as the library's own documentation writes it: the loss of every row without a
reduction, and its gradient by the library's own differentiation. Arrays that a library cannot take
as they lie (read-only, strided) are copied first, because that is what its users do.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from .case import LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Array
from .implementation import USUAL_DTYPES, Implementation

# What has to be importable for each, and what to install where it is not.
ADAPTERS: Final = {
    "torch": ("torch", "torch"),
    "jax": ("optax", "jax optax"),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "scikit-learn": ("sklearn", "scikit-learn"),
    "scipy": ("scipy", "scipy"),
}


def is_installed(name: str) -> bool:
    """Whether the library of this adapter can be imported."""
    return importlib.util.find_spec(ADAPTERS[name][0]) is not None


def check_installed(name: str) -> None:
    """ImportError, with the way out, where the library of this adapter is missing."""
    if not is_installed(name):
        raise ImportError(f"--impl {name} needs {name}: python -m pip install {ADAPTERS[name][1]}")


def adapter(name: str) -> Implementation:
    """The adapter of this name; ImportError where its library is missing."""
    check_installed(name)
    return _MAKERS[name]()


def _packed(array: Array) -> Array:
    """The array as every library takes it: contiguous, aligned, writable, in native byte order."""
    return np.array(array, array.dtype.newbyteorder("="), order="C", copy=True)


def _torch() -> Implementation:
    import torch

    functional = torch.nn.functional

    def tensor(array: Array) -> Any:
        packed = _packed(array)
        if packed.dtype.name == "bfloat16":  # NumPy's bfloat16 is none of its dtypes
            return torch.from_numpy(packed.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(packed)

    def numpy(found: Any) -> Array:
        if found.dtype == torch.bfloat16:
            import ml_dtypes

            bits: Array = found.detach().view(torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        array: Array = found.detach().numpy()
        return array

    def losses_of(x: Any, labels: Array, ignore_index: int | None) -> Any:
        y = torch.from_numpy(_packed(labels))
        # -100 is its default, and here no row is left out by default.
        ignored = -(2**31) if ignore_index is None else ignore_index
        return functional.cross_entropy(x, y, reduction="none", ignore_index=ignored)

    def with_grad(
        logits: Array, labels: Array, *, ignore_index: int | None = None, n_threads: int
    ) -> tuple[Any, Any]:
        torch.set_num_threads(n_threads)
        x = tensor(logits).requires_grad_()
        losses = losses_of(x, labels, ignore_index)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        return numpy(losses), numpy(gradient)

    def loss_alone(
        logits: Array, labels: Array, *, ignore_index: int | None = None, n_threads: int
    ) -> Any:
        torch.set_num_threads(n_threads)
        with torch.no_grad():
            return numpy(losses_of(tensor(logits), labels, ignore_index))

    def function(compute: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(logits: Array, *, n_threads: int) -> Any:
            torch.set_num_threads(n_threads)
            return numpy(compute(tensor(logits)))

        return call

    functions = {
        SOFTMAX: function(lambda x: torch.softmax(x, 1)),
        LOG_SOFTMAX: function(lambda x: torch.log_softmax(x, 1)),
        LOGSUMEXP: function(lambda x: torch.logsumexp(x, 1)),
    }
    options = frozenset({"ignore_index", "n_threads"})
    return Implementation(
        "torch",
        with_grad,
        loss_alone,
        functions,
        options,
        USUAL_DTYPES,
        copies=True,
        argument="torch",
    )


def _jax() -> Implementation:
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    loss_of = optax.losses.softmax_cross_entropy_with_integer_labels

    def losses_and_gradient(x: Any, y: Any) -> tuple[Any, Any]:
        losses, pull_back = jax.vjp(lambda x: loss_of(x, y), x)
        return losses, pull_back(jnp.ones_like(losses))[0]

    # Once for every shape; the functions of jax.nn would take as long again.
    compiled: Any = jax.jit(losses_and_gradient)

    def with_grad(logits: Array, labels: Array) -> tuple[Any, Any]:
        losses, gradient = compiled(_packed(logits), _packed(labels))
        return np.asarray(losses), np.asarray(gradient)

    return Implementation("jax", with_grad, None, {}, frozenset(), copies=True, argument="jax")


def _tensorflow() -> Implementation:
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    loss_of = tf.nn.sparse_softmax_cross_entropy_with_logits

    def with_grad(logits: Array, labels: Array) -> tuple[Any, Any]:
        x = tf.constant(_packed(logits))
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = loss_of(labels=labels, logits=x)
        return losses.numpy(), tape.gradient(losses, x).numpy()

    def loss_alone(logits: Array, labels: Array) -> Any:
        return loss_of(labels=labels, logits=tf.constant(_packed(logits))).numpy()

    def function(compute: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits: compute(tf.constant(_packed(logits)), axis=1).numpy()

    functions = {
        SOFTMAX: function(tf.nn.softmax),
        LOG_SOFTMAX: function(tf.nn.log_softmax),
        LOGSUMEXP: function(tf.reduce_logsumexp),
    }
    return Implementation(
        "tensorflow", with_grad, loss_alone, functions, frozenset(),
        copies=True, argument="tensorflow",
    )  # fmt: skip


def _scikit_learn() -> Implementation:
    from sklearn._loss import HalfMultinomialLoss

    def loss_for(logits: Array) -> Any:
        return HalfMultinomialLoss(n_classes=logits.shape[1])

    def prepared(logits: Array, labels: Array) -> tuple[Array, Array]:
        return _packed(logits), labels.astype(logits.dtype.newbyteorder("="))

    def with_grad(logits: Array, labels: Array, *, n_threads: int) -> tuple[Any, Any]:
        x, y = prepared(logits, labels)
        return loss_for(x).loss_gradient(y_true=y, raw_prediction=x, n_threads=n_threads)  # type: ignore[no-any-return]

    def loss_alone(logits: Array, labels: Array, *, n_threads: int) -> Any:
        x, y = prepared(logits, labels)
        return loss_for(x).loss(y_true=y, raw_prediction=x, n_threads=n_threads)

    def softmax(logits: Array, *, n_threads: int) -> Any:
        x = _packed(logits)
        y = np.zeros(x.shape[0], x.dtype)
        return loss_for(x).gradient_proba(y_true=y, raw_prediction=x, n_threads=n_threads)[1]

    return Implementation(
        "scikit-learn", with_grad, loss_alone, {SOFTMAX: softmax}, frozenset({"n_threads"}),
        copies=True, argument="scikit-learn",
    )  # fmt: skip


def _scipy() -> Implementation:
    from scipy import special

    def with_grad(logits: Array, labels: Array) -> tuple[Any, Any]:
        i = np.arange(labels.size)
        log_probs = special.log_softmax(logits, axis=1)
        gradient = np.exp(log_probs)
        gradient[i, labels] -= 1
        return -log_probs[i, labels], gradient

    def loss_alone(logits: Array, labels: Array) -> Any:
        return -special.log_softmax(logits, axis=1)[np.arange(labels.size), labels]

    functions = {
        name: functools.partial(compute, axis=1)
        for name, compute in (
            (SOFTMAX, special.softmax),
            (LOG_SOFTMAX, special.log_softmax),
            (LOGSUMEXP, special.logsumexp),
        )
    }
    return Implementation("scipy", with_grad, loss_alone, functions, frozenset(), argument="scipy")


_MAKERS: Final[dict[str, Callable[[], Implementation]]] = {
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
    "scikit-learn": _scikit_learn,
    "scipy": _scipy,
}
