"""What pytest does in a process that runs its benchmarks in turns with others: see turns.py.

pytest-benchmark's fixture does what it always does, but briefly. Then the function is called again
whenever the parent gives this process a turn. Benchmarks of others need not know of it.

A process times a benchmark with 1 thread and with all, so that Numba compiles once: each runs on as
many CPUs as threads. With 1 thread the one CPU is the same in all processes, whatever the operating
system thinks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import pytest
from fastxent.benchmarks.machine import on_cpus
from pytest_benchmark.fixture import BenchmarkFixture

# Of calls in one turn. What disturbs a machine for longer than some turns disturbs all versions.
_TURN: Final = 5e-3
# One clock reading for calls that take less: reading takes some 50 ns.
_TIMED_AT_ONCE: Final = 5e-5
# The first call of a turn, which finds the caches as another process left them, is not timed; what
# takes longer than this fills them itself.
_FILLS_CACHES: Final = 5e-2

_PARENT: Final = pytest.StashKey[Connection]()
_OUTCOME: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks in turns")
    group.addoption("--turns", type=int, metavar="FILE", help="the descriptor that turns come from")
    group.addoption(
        "--names-from", metavar="FILE", help="only benchmarks with these ids, a line each"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_PARENT] = Connection(config.getoption("turns"))
    # Of two fixtures of a name the one that is registered later sees the other, which is
    # pytest-benchmark's.
    config.pluginmanager.register(_Fixtures())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if file := config.getoption("names_from"):
        chosen = set(Path(file).read_text("utf-8").splitlines())
        left_out = [item for item in items if item.nodeid not in chosen]
        items[:] = [item for item in items if item.nodeid in chosen]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        # pytest-benchmark looks at the closest mark alone, whose other options are kept.
        closest = item.get_closest_marker("benchmark")
        others = closest.kwargs if closest else {}
        brief = {**others, "max_time": 0.0, "min_rounds": 1, "warmup": False}
        item.add_marker(pytest.mark.benchmark(**brief), append=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_PARENT].send([item.nodeid for item in session.items])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    parameters = getattr(item, "callspec", None)
    threads = parameters.params.get("threads") if parameters else None
    if not isinstance(threads, int):
        return (yield)
    with on_cpus(threads):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    report = yield  # of its setup, its call or its teardown
    if report.outcome != "passed" and item.stash.get(_OUTCOME, "passed") != "failed":
        item.stash[_OUTCOME] = report.outcome
    if call.when == "teardown" and "benchmark" in getattr(item, "fixturenames", ()):
        item.config.stash[_PARENT].send({item.nodeid: item.stash.get(_OUTCOME, "passed")})
    return report


class _InTurns(BenchmarkFixture):
    """pytest-benchmark's fixture, whose function is called again in turns."""

    parent: Connection

    def __call__(self, function_to_benchmark: Any, *args: Any, **kwargs: Any) -> Any:
        call: Any = super().__call__  # Any: it has no types
        result = call(function_to_benchmark, *args, **kwargs)
        if self.enabled:
            self._take_turns(function_to_benchmark, lambda: (args, kwargs))
        return result

    def pedantic(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        setup: Callable[[], Any] | None = None,
        teardown: Callable[..., Any] | None = None,
        rounds: int = 1,
        warmup_rounds: int = 0,
        iterations: int = 1,
    ) -> Any:
        call: Any = super().pedantic
        result = call(target, args, kwargs, setup, teardown, 1, min(warmup_rounds, 1), iterations)

        def arguments() -> Any:
            return (setup() if setup else None) or (args, kwargs or {})

        if self.enabled:
            self._take_turns(target, arguments, teardown, one_by_one=bool(setup or teardown))
        return result

    def _take_turns(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Any],
        teardown: Callable[..., Any] | None = None,
        one_by_one: bool = False,
    ) -> None:
        n_calls = 1

        def seconds() -> float:
            args, kwargs = arguments()
            start = time.perf_counter()
            for _ in range(n_calls):
                function(*args, **kwargs)
            taken = (time.perf_counter() - start) / n_calls
            if teardown:
                teardown(*args, **kwargs)
            return taken

        once = seconds()
        if not one_by_one:
            n_calls = max(1, round(_TIMED_AT_ONCE / max(once, 1e-9)))
        self.parent.send((self.fullname, self.group))
        while self.parent.recv():
            if once < _FILLS_CACHES:
                seconds()
            until, times = time.perf_counter() + _TURN, [seconds()]
            while time.perf_counter() < until:
                times.append(seconds())
            self.parent.send(statistics.median(times))


class _Fixtures:
    @pytest.fixture
    def benchmark(self, benchmark: Any, request: pytest.FixtureRequest) -> Any:
        benchmark.__class__ = _InTurns  # in place: pytest-benchmark keeps and ends the same one
        benchmark.parent = request.config.stash[_PARENT]
        return benchmark
