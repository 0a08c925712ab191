"""One benchmark for every option, each beside the plain call; those of a case make a group."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, fields
from typing import Any, Final

import pytest
from fastxent.benchmarks.machine import cpu_name, load
from fastxent.benchmarks.measure.backends import Call, instruction_set
from fastxent.benchmarks.measure.case import BACKENDS, Case
from fastxent.benchmarks.measure.implementations import IMPLEMENTATIONS
from fastxent.benchmarks.measure.options import NAMES, call_with
from fastxent.benchmarks.measure.selection import SELECTION, Selection, parametrize

_MOST_ROUNDS: Final = 101


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    def parameters(selection: Selection) -> Iterator[Any]:
        for case in selection.with_options():
            for backend in BACKENDS:
                if selection.takes(backend, "backend"):
                    for options in selection.set.options or NAMES:
                        name = f"{case.test_id}-{options}-{backend}"
                        yield pytest.param(*astuple(case), options, backend, id=name)

    names = [field.name for field in fields(Case)]
    parametrize(metafunc, ",".join([*names, "options", "backend"]), parameters)


def test_options_in_time(
    operation: str,
    dtype: str,
    shape: str,
    threads: int,
    options: str,
    backend: str,
    benchmark: Any,
    request: pytest.FixtureRequest,
) -> None:
    IMPLEMENTATIONS[backend].skip_if_unavailable(backend)
    case = Case(operation, dtype, shape, threads)
    benchmark.group = f"options {case.group} {backend}"
    benchmark.extra_info.update(
        asdict(case),
        options=options,
        backend=backend,
        logits=case.n_logits,
        instruction_set=instruction_set(backend),
        cpu=cpu_name(),
        load=load(),
    )
    plain, call = (call_with(name, case, backend) for name in ("plain", options))
    plain_times: list[float] = []

    def time_plain() -> None:
        plain_times.append(_seconds(plain))

    # A round times the plain call, too, so that a machine that changes its speed changes both.
    plain(), call()  # the first call may compile, and touches all memory
    chosen = request.config.stash[SELECTION].set
    rounds = math.ceil(chosen.seconds / max(_seconds(call), 1e-9))
    rounds = min(max(rounds, chosen.rounds), _MOST_ROUNDS)
    benchmark.pedantic(call, setup=time_plain, rounds=rounds, warmup_rounds=1)
    if benchmark.stats is not None:  # None with --benchmark-disable
        del plain_times[0]  # of the warm-up
        plain_median = statistics.median(plain_times)
        benchmark.extra_info["plain_median"] = plain_median
        benchmark.extra_info["of_plain"] = round(benchmark.stats["median"] / plain_median, 4)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
