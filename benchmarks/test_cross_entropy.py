"""One benchmark for every case and contender; the contenders of a case make a group."""

from __future__ import annotations

from dataclasses import asdict, astuple, fields
from typing import Any

import pytest

from .cases import Case, all_cases, make_arrays
from .checks import check_result
from .contenders import CONTENDERS, Call

# The judged ones get more rounds than the libraries, which are many and slow.
_LONGER = pytest.mark.benchmark(max_time=0.4, min_rounds=7)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    smoke, reach, threads = map(metafunc.config.getoption, ("smoke", "reach", "threads"))
    # pytest-benchmark keeps parameters beside the results, and knows numbers and text only.
    parameters = [
        pytest.param(
            *astuple(case),
            name,
            id=f"{case.test_id}-{name}",
            marks=() if smoke or contender.kind == "peer" else _LONGER,
        )
        for case in all_cases(smoke, reach, threads)
        for name, contender in CONTENDERS.items()
        if contender.can_do(case)
    ]
    names = [field.name for field in fields(Case)]
    metafunc.parametrize((*names, "contender"), parameters)


@pytest.fixture
def case(operation: str, dtype: str, shape: str, threads: int) -> Case:
    return Case(operation, dtype, shape, threads)


@pytest.fixture
def checked_call(case: Case, contender: str) -> Call:
    """What is timed, after one call of it whose result was right."""
    chosen = CONTENDERS[contender]
    chosen.skip_or_fail_if_missing()
    chosen.skip_if_threads_differ(case.threads)
    call = chosen.factory(case, *make_arrays(case))
    # The first call may compile and touches all memory; only it has the logits as they were made.
    result = call()
    if chosen.kind != "limit":
        check_result(case, result)
    return call


def test_a_right_answer_in_time(
    checked_call: Call, benchmark: Any, case: Case, contender: str
) -> None:
    benchmark.group = case.group
    benchmark(checked_call)

    chosen = CONTENDERS[contender]
    n_bytes = chosen.bytes_moved(case, make_arrays(case)[0])
    benchmark.extra_info.update(asdict(case), contender=contender, kind=chosen.kind, bytes=n_bytes)
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["GB/s"] = round(n_bytes / benchmark.stats["median"] / 1e9, 3)
