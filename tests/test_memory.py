"""How much memory a call takes beside its arguments."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from support import FLOATS, Array, random_logits

import fastxent


def peak_of(call: Callable[[], Any]) -> int:
    """The most bytes in use at once: NumPy and both drivers tell tracemalloc of theirs."""
    call()  # what is loaded or compiled once does not count
    return traced(call)[0]


def traced(call: Callable[[], Any]) -> tuple[int, Any]:
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def size_of(result: Any) -> int:
    """The bytes of the arrays that a call returned."""
    if isinstance(result, tuple):
        return sum(map(size_of, result))
    if isinstance(result, fastxent.PartialState):
        return size_of((result.numbers, result.ignored, result.sample_weight))
    return result.nbytes if isinstance(result, np.ndarray) else 0


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_memory_grows_with_the_rows_and_not_with_the_classes(
    backend: str, dtype: np.dtype[Any], soft: bool
) -> None:
    logits = random_logits((400, 1000), dtype)
    labels = np.full_like(logits, 1 / 1024) if soft else np.zeros(400, int)
    out = np.empty_like(logits)
    for n_threads in (1, 2):
        options: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
        peak = peak_of(
            partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **options)
        )
        assert peak < 400 * 40 + 30_000
        peak = peak_of(partial(fastxent.cross_entropy, logits, labels, **options))
        assert peak < 400 * 40 + 30_000


@pytest.mark.usefixtures("eager_threads")
def test_rows_shared_by_threads_take_little_more(backend: str) -> None:
    logits = random_logits((1, 1_000_000))
    out = np.empty_like(logits)
    peak = peak_of(
        lambda: fastxent.cross_entropy_with_grad(logits, [5], out=out, backend=backend, n_threads=2)
    )
    assert peak < 40_000


def every_call(logits: Array) -> dict[str, Callable[..., Any]]:
    n_rows, n_classes = logits.shape
    labels, probs = np.zeros(n_rows, int), np.full_like(logits, 0.5)
    weights: dict[str, Any] = {
        "class_weight": np.ones(n_classes), "sample_weight": np.ones(n_rows),
    }  # fmt: skip
    half = n_classes // 2
    left, right = logits[:, :half], logits[:, half:]
    shards = fastxent.partial(left, labels), fastxent.partial(right, labels, class_offset=half)
    whole = fastxent.merge(*shards)
    return {
        "cross_entropy": lambda **o: fastxent.cross_entropy(logits, labels, **weights, **o),
        "cross_entropy of probabilities": lambda **o: fastxent.cross_entropy(
            logits, probs, reduction="none", **weights, **o
        ),
        "cross_entropy_with_grad": lambda **o: fastxent.cross_entropy_with_grad(
            logits, labels.astype(np.int32), label_smoothing=0.1, **weights, **o
        ),
        "grad_labels": lambda **o: fastxent.cross_entropy_with_grad(
            logits, probs, grad_labels=True, **o
        ),
        "cross_entropy_grad_hess": lambda **o: fastxent.cross_entropy_grad_hess(
            logits, labels, **weights, **o
        ),
        "cross_entropy_hvp": lambda **o: fastxent.cross_entropy_hvp(logits, labels, probs, **o),
        "kl_divergence_with_logits": lambda **o: fastxent.kl_divergence_with_logits(
            probs, logits, **o
        ),
        "kl_divergence_with_logits_and_grad": lambda **o: (
            fastxent.kl_divergence_with_logits_and_grad(probs, logits, **o)
        ),
        "row_stats": lambda **o: fastxent.row_stats(logits, labels, **weights, **o),
        "row_stats of probabilities": lambda **o: fastxent.row_stats(logits, probs, **weights, **o),
        "partial": lambda **o: fastxent.partial(logits, labels, **weights, **o),
        "merge": lambda **_: fastxent.merge(*shards),
        "finish": lambda **_: fastxent.finish(whole),
        "finish for each row": lambda **_: fastxent.finish(whole, reduction="none"),
        "finish_grad": lambda **_: fastxent.finish_grad(whole, left, labels),
        "softmax": lambda **o: fastxent.softmax(logits, **o),
        "log_softmax": lambda **o: fastxent.log_softmax(logits, **o),
        "logsumexp": lambda **o: fastxent.logsumexp(logits, **o),
        "softmax_cross_entropy_with_logits": lambda **o: fastxent.softmax_cross_entropy_with_logits(
            probs, logits, **o
        ),
        "sparse_softmax_cross_entropy_with_logits": lambda **o: (
            fastxent.sparse_softmax_cross_entropy_with_logits(labels, logits, **o)
        ),
    }


def check_working_memory(logits: Array, backend: str, limit: int) -> None:
    few = every_call(logits[:2])
    for name, call in every_call(logits).items():
        few[name](backend=backend)  # what is loaded or compiled once does not count
        peak, result = traced(partial(call, backend=backend))
        assert peak - size_of(result) < limit, name


@pytest.mark.usefixtures("driver")
def test_every_function_takes_a_few_numbers_a_row_beside_its_result(backend: str) -> None:
    n_rows = 100_000
    # three numbers a row, and 2^15 states at once: those of all rows would be 13 MB
    check_working_memory(random_logits((n_rows, 2)), backend, 24 * n_rows + 6_000_000)


@pytest.mark.usefixtures("driver")
def test_every_function_takes_little_beside_long_rows(backend: str) -> None:
    # class weights are kept in two precisions
    check_working_memory(random_logits((20, 200_000)), backend, 30 * 200_000)


@pytest.mark.usefixtures("driver", "eager_threads")
def test_gradients_of_long_rows_take_a_row_a_thread(backend: str) -> None:
    logits = random_logits((40, 100_000))
    labels, out = np.zeros(40, int), np.empty_like(logits)
    for n_threads in (1, 2):
        options: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
        peak = peak_of(
            partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **options)
        )
        assert 400_000 * n_threads < peak < 400_000 * n_threads + 40_000
    assert peak_of(lambda: fastxent.log_softmax(logits, out=out, backend=backend)) < 40_000
