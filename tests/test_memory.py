"""How much memory a call takes beside its arguments."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import FLOATS, random_logits

import fastxent


def peak_of(call: Callable[[], Any]) -> int:
    call()  # what is loaded or compiled once does not count
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_memory_grows_with_the_rows_and_not_with_the_classes(
    backend: str, dtype: np.dtype[Any], soft: bool
) -> None:
    logits = random_logits((400, 1000), dtype)
    labels = np.full_like(logits, 1 / 1024) if soft else np.zeros(400, int)
    out = np.empty_like(logits)
    for n_threads in (1, 2):
        peak = peak_of(
            lambda n=n_threads: fastxent.cross_entropy_with_grad(  # type: ignore[misc]
                logits, labels, out=out, backend=backend, n_threads=n
            )
        )
        assert peak < 400 * 40 + 30_000
        peak = peak_of(
            lambda n=n_threads: fastxent.cross_entropy(  # type: ignore[misc]
                logits, labels, backend=backend, n_threads=n
            )
        )
        assert peak < 400 * 40 + 30_000


@pytest.mark.usefixtures("eager_threads")
def test_rows_shared_by_threads_take_little_more(backend: str) -> None:
    logits = random_logits((1, 1_000_000))
    out = np.empty_like(logits)
    peak = peak_of(
        lambda: fastxent.cross_entropy_with_grad(logits, [5], out=out, backend=backend, n_threads=2)
    )
    assert peak < 40_000
