"""One benchmark for every case and implementation; the implementations of a case make a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, astuple, fields
from typing import Any

import pytest
from fastxent.benchmarks.machine import cpu_name, load
from fastxent.benchmarks.measure.arrays import make_arrays
from fastxent.benchmarks.measure.backends import instruction_set
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.measure.implementations import IMPLEMENTATIONS, Call
from fastxent.benchmarks.measure.right_answers import check_result
from fastxent.benchmarks.measure.selection import Selection, parametrize, time_limits


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    def parameters(selection: Selection) -> Iterator[Any]:
        chosen = selection.set
        # The judged ones get more time than the libraries, which are many and slow.
        marks = time_limits(metafunc.config, chosen.seconds, chosen.rounds)
        of_peers = time_limits(metafunc.config, chosen.peer_seconds, min(3, chosen.rounds))
        for case in selection.throughput():
            for name, implementation in IMPLEMENTATIONS.items():
                kind = implementation.kind
                if implementation.can_do(case) and selection.takes(name, kind):
                    # pytest-benchmark keeps parameters beside the results, and knows numbers and
                    # text only.
                    yield pytest.param(
                        *astuple(case),
                        name,
                        id=f"{case.test_id}-{name}",
                        marks=of_peers if kind == "peer" else marks,
                    )

    names = [field.name for field in fields(Case)]
    parametrize(metafunc, ",".join([*names, "implementation"]), parameters)


@pytest.fixture
def case(operation: str, dtype: str, shape: str, threads: int) -> Case:
    return Case(operation, dtype, shape, threads)


@pytest.fixture
def checked_call(case: Case, implementation: str) -> Call:
    """What is timed, after one call of it whose result was right."""
    chosen = IMPLEMENTATIONS[implementation]
    chosen.skip_or_fail_if_missing()
    chosen.skip_if_unavailable(implementation)
    chosen.skip_if_threads_differ(case.threads)
    call = chosen.factory(case, *make_arrays(case))
    # The first call may compile and touches all memory; only it has the logits as they were made.
    result = call()
    if chosen.kind != "roof":
        check_result(case, result)
    return call


def test_a_right_answer_in_time(
    checked_call: Call, benchmark: Any, case: Case, implementation: str
) -> None:
    chosen = IMPLEMENTATIONS[implementation]
    n_bytes = chosen.bytes_moved(case, make_arrays(case)[0])
    benchmark.group = case.group
    benchmark.extra_info.update(
        asdict(case),
        implementation=implementation,
        kind=chosen.kind,
        bytes=n_bytes,
        logits=case.n_logits,
        instruction_set=instruction_set(implementation) if chosen.kind == "backend" else None,
        cpu=cpu_name(),
        load=load(),
    )
    benchmark(checked_call)
    if benchmark.stats is not None:  # None with --benchmark-disable
        median = benchmark.stats["median"]
        benchmark.extra_info["GB/s"] = round(n_bytes / median / 1e9, 3)
        benchmark.extra_info["logits/s"] = round(case.n_logits / median)
