"""What paired runs ask of pytest besides: chosen benchmarks only, each on as many CPUs as threads.

A process times a benchmark with 1 thread and with all, so that Numba compiles once. With 1 thread
the one CPU is always the same, whatever the operating system thinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastxent.benchmarks.machine import on_cpus


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("paired runs of fastxent's benchmarks")
    group.addoption(
        "--names-from", metavar="FILE", help="only benchmarks with these ids, a line each"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (file := config.getoption("names_from")):
        return
    chosen = set(Path(file).read_text("utf-8").splitlines())
    left_out = [item for item in items if item.nodeid not in chosen]
    items[:] = [item for item in items if item.nodeid in chosen]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    parameters = getattr(item, "callspec", None)
    threads = parameters.params.get("threads") if parameters else None
    if not isinstance(threads, int):
        return (yield)
    with on_cpus(threads):
        return (yield)
