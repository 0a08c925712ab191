"""One benchmark for every case and contender; the contenders of a case make a group."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import all_cases, make_arrays
from .checks import check_gradient, check_loss
from .contenders import CONTENDERS, Call, as_numpy


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parameters = [
        pytest.param(*case, name, id=f"{case[0]}-{case[1]}-{_threads(case[2])}-{case[3]}-{name}")
        for case in all_cases(smoke=metafunc.config.getoption("smoke"))
        for name in CONTENDERS
    ]
    metafunc.parametrize(("shape", "dtype", "threads", "operation", "contender"), parameters)


@pytest.fixture
def checked_call(shape: str, dtype: str, threads: int, operation: str, contender: str) -> Call:
    """What is timed, after one call of it whose result was right."""
    chosen = CONTENDERS[contender]
    chosen.skip_or_fail_if_missing()
    logits, labels = make_arrays(shape, dtype)
    call = chosen.factory(operation, logits, labels, threads)
    # The first call may compile and touches all memory; only it has the logits as they were made.
    result = call()
    if chosen.kind != "limit":
        loss, grad_logits = (result, None) if operation == "loss" else result
        check_loss(float(loss), shape, dtype)
        if grad_logits is not None:
            check_gradient(as_numpy(grad_logits), shape, dtype)
    return call


def test_a_right_answer_in_time(
    checked_call: Call,
    benchmark: Any,
    shape: str,
    dtype: str,
    threads: int,
    operation: str,
    contender: str,
) -> None:
    benchmark.group = f"{operation} {dtype} {shape} {_threads(threads)}"
    benchmark(checked_call)

    logits, _ = make_arrays(shape, dtype)
    chosen = CONTENDERS[contender]
    n_bytes = chosen.arrays_moved(operation) * logits.nbytes
    benchmark.extra_info.update(kind=chosen.kind, bytes=n_bytes)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["GB/s"] = round(n_bytes / benchmark.stats["median"] / 1e9, 3)


def _threads(threads: int) -> str:
    return f"{threads}thread" if threads == 1 else f"{threads}threads"
