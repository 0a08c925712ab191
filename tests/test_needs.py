"""A kernel that is compiled for what a call needs, and no more, does all that the call asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastxent
from fastxent import backends
from fastxent.backends import numba_compiler
from fastxent.backends.needs import EVERYTHING, KERNELS, NOTHING, PLAIN, Needs

# Tiles, and rows.
SIZES = (10, 200)


def logits_of(n_classes: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(0.0, 3.0, (12, n_classes)).astype(dtype)


def labels_of(n_classes: int) -> np.ndarray[Any, Any]:
    labels: np.ndarray[Any, Any] = np.random.default_rng(8).integers(0, n_classes, 12)
    return labels


def probs_of(n_classes: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(9).dirichlet(np.ones(n_classes), 12).astype(dtype)


def partials_of(backend: str, n_classes: int) -> Any:
    x, y = logits_of(n_classes), labels_of(n_classes)
    half = n_classes // 2
    parts = [
        fastxent.partial(x[:, :half], y, label_smoothing=0.1, temperature=2.0, backend=backend),
        fastxent.partial(
            x[:, half:], y, class_offset=half, label_smoothing=0.1, temperature=2.0, backend=backend
        ),
    ]
    state = fastxent.merge(*parts)
    return fastxent.finish(state), fastxent.finish_grad(state, x[:, :half], y)


CALLS: dict[str, Callable[[str, int], Any]] = {
    "loss": lambda b, n: fastxent.cross_entropy(logits_of(n), labels_of(n), backend=b),
    "gradient": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), labels_of(n), class_weight=np.linspace(1.0, 2.0, n, dtype="f4"), backend=b
    ),
    "16 bits": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n, "float16"), labels_of(n), backend=b
    ),
    "smoothing": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), labels_of(n), label_smoothing=0.1, backend=b
    ),
    "temperature": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), labels_of(n), temperature=2.0, backend=b
    ),
    "cap": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), labels_of(n), softcap=5.0, backend=b
    ),
    "probabilities": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), probs_of(n), backend=b
    ),
    "wide probabilities": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), probs_of(n, "float64"), backend=b
    ),
    "gradient of probabilities": lambda b, n: fastxent.cross_entropy_with_grad(
        logits_of(n), probs_of(n), grad_labels=True, backend=b
    ),
    "Hessian": lambda b, n: fastxent.cross_entropy_grad_hess(
        logits_of(n), labels_of(n), backend=b
    ),
    "Hessian by vector": lambda b, n: fastxent.cross_entropy_hvp(
        logits_of(n), labels_of(n), logits_of(n, "float64"), backend=b
    ),
    "softmax": lambda b, n: fastxent.softmax(logits_of(n), axis=-1, backend=b),
    "log-softmax": lambda b, n: fastxent.log_softmax(logits_of(n), axis=-1, backend=b),
    "statistics": lambda b, n: fastxent.row_stats(
        logits_of(n, "float16"), labels_of(n), label_smoothing=0.1, backend=b
    ),
    "divergence": lambda b, n: fastxent.kl_divergence_with_logits(
        logits_of(n), logits_of(n, "float64")[::-1], backend=b
    ),
    "parts": partials_of,
}  # fmt: skip


def arrays_of(result: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(result, tuple):
        return [array for part in result for array in arrays_of(part)]
    return [] if result is None else [np.asarray(result)]


@pytest.mark.parametrize("name", CALLS)
def test_what_is_compiled_for_a_call_alone_has_the_bits_of_all_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, int, Needs]] = []

    def exact(wanted: tuple[str, int, Needs], keys: Any) -> tuple[str, int, Needs] | None:
        compiled.append(wanted)
        return wanted if wanted in keys else None

    def all_of_it(wanted: tuple[str, int, Needs], keys: Any) -> tuple[str, int, Needs] | None:
        return exact((*wanted[:2], KERNELS[wanted[0]]), keys)

    for n_classes in SIZES:
        found = []
        for nearest in (exact, all_of_it):
            monkeypatch.setattr(numba_compiler, "nearest", nearest)
            monkeypatch.setattr(backends, "_programs", {})
            found.append(arrays_of(CALLS[name]("numba", n_classes)))
        assert len(found[0]) > 0
        for own, whole in zip(*found, strict=True):
            np.testing.assert_array_equal(own, whole)
        for own, other in zip(found[0], arrays_of(CALLS[name]("cython", n_classes)), strict=True):
            np.testing.assert_allclose(own, other, rtol=2e-5, atol=1e-7)
    assert any(needs != KERNELS[kernel] for kernel, _, needs in compiled)


def test_a_kernel_that_does_more_is_taken_where_there_is_one() -> None:
    held = [("rows_evaluate", 32, EVERYTHING), ("rows_evaluate", 32, PLAIN)]
    nearest = numba_compiler.nearest
    assert nearest(("rows_evaluate", 32, NOTHING), held) == held[1]
    assert nearest(("rows_evaluate", 32, Needs.SMOOTHS), held) == held[0]
    assert nearest(("rows_evaluate", 64, NOTHING), held) is None
    assert nearest(("rows_merge", 32, NOTHING), held) is None
    assert nearest(("rows_evaluate", 32, Needs.SMOOTHS), held[1:]) is None
