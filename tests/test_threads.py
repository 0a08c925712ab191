"""How many threads a call may use: settings, environment, affinity and control groups."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import run_python

import fastxent
from fastxent import _threads


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    fastxent.set_num_threads(None)
    yield
    fastxent.set_num_threads(None)


def test_the_nearest_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "machine_threads", lambda: 11)
    monkeypatch.delenv("FASTXENT_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def from_environment() -> int:
        fastxent.set_num_threads(None)  # forgets what was read
        return fastxent.get_num_threads()

    assert from_environment() == 11
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert from_environment() == 7
    monkeypatch.setenv("FASTXENT_NUM_THREADS", "6")
    assert from_environment() == 6
    fastxent.set_num_threads(5)
    assert fastxent.get_num_threads() == 5
    with fastxent.threads(4):
        assert fastxent.get_num_threads() == 4
        with fastxent.threads(3):
            assert fastxent.get_num_threads() == 3
        assert fastxent.get_num_threads() == 4
    assert fastxent.get_num_threads() == 5


def test_the_calls_argument_wins_over_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastxent import _plan

    with fastxent.threads(2):
        assert _plan.make_plan(10**6, 100, None, 9).n_threads == 9
        assert _plan.make_plan(10**6, 100, None, None).n_threads == 2
        assert _plan.make_plan(10, 100, None, 9).n_threads == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("4,2", 4), (" 3 ", 3), ("0", 11), ("-1", 11), ("many", 11), ("", 11), ("²", 11), ("2 ,1", 2)],
)
def test_openmps_variable_is_a_list_and_bad_values_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setattr(_threads, "machine_threads", lambda: 11)
    monkeypatch.delenv("FASTXENT_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert fastxent.get_num_threads() == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "4,2", "²", "9" * 5000, "99999999999"])
def test_a_bad_value_of_our_own_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FASTXENT_NUM_THREADS", value)
    with pytest.raises(ValueError, match=r"FASTXENT_NUM_THREADS=.*at least 1, or unset it"):
        fastxent.get_num_threads()


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (2**31, ValueError), (1.0, TypeError)]
)
def test_bad_numbers_of_threads_are_refused_everywhere(value: Any, error: type[Exception]) -> None:
    before = fastxent.get_num_threads()
    with pytest.raises(error, match="n_threads"):
        fastxent.set_num_threads(value)
    with pytest.raises(error, match="n_threads"), fastxent.threads(value):
        pass
    assert fastxent.get_num_threads() == before


def test_numpy_integers_are_numbers_of_threads() -> None:
    fastxent.set_num_threads(np.int64(3))  # type: ignore[arg-type]
    assert fastxent.get_num_threads() == 3
    assert type(fastxent.get_num_threads()) is int


def test_threads_holds_for_its_own_thread_only() -> None:
    fastxent.set_num_threads(5)
    seen: list[int] = []
    with fastxent.threads(2):
        other = threading.Thread(target=lambda: seen.append(fastxent.get_num_threads()))
        other.start()
        other.join()
        assert fastxent.get_num_threads() == 2
    assert seen == [5]


def test_threads_is_undone_by_an_exception() -> None:
    fastxent.set_num_threads(5)
    with pytest.raises(KeyError), fastxent.threads(2):
        raise KeyError
    assert fastxent.get_num_threads() == 5


def test_affinity_limits_the_default() -> None:
    code = (
        "import os, fastxent\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(fastxent.get_num_threads())\n"
    )
    names = ("FASTXENT_NUM_THREADS", "OMP_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in names}
    assert run_python(code, env=env).stdout == "1\n"


@pytest.mark.parametrize(
    ("quota", "expected"), [(math.inf, 8), (3.0, 3), (2.5, 3), (0.1, 1), (64.0, 8)]
)
def test_the_quota_limits_the_default(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr(_threads, "_affinity", lambda: 8)
    monkeypatch.setattr(_threads, "cgroup_quota", lambda *paths: quota)
    assert _threads.machine_threads() == expected


def quota_of(folder: Path, membership: str, files: dict[str, str]) -> float:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return _threads.cgroup_quota(folder / "membership", folder / "mounted")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n"}, 4.0),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"},
            2.0,
        ),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "max 100000\n"},
            1.0,
        ),
        ("0::/the/hosts/path\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../outside\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a:b\n", {"a:b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "\n"}, math.inf),
        ("0::/\n", {"cpu.max": "100000 0\n"}, math.inf),
        ("", {"cpu.max": "100000 100000\n"}, math.inf),
        (
            "5:cpu,cpuacct:/x\n3:memory:/y\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            "5:cpuacct,cpu:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "70000\n", "cpu/x/cpu.cfs_period_us": "35000\n"},
            2.0,
        ),
        (
            "5:cpu:/x/y\n",
            {
                "cpu/x/y/cpu.cfs_quota_us": "-1\n",
                "cpu/x/y/cpu.cfs_period_us": "100000\n",
                "cpu/x/cpu.cfs_quota_us": "300000\n",
                "cpu/x/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            "5:cpuset:/x\n",
            {"cpuset/x/cpu.cfs_quota_us": "100000\n", "cpuset/x/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
    ],
)
def test_the_quota_is_read_from_every_group_around_the_process(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float
) -> None:
    assert quota_of(tmp_path, membership, files) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert _threads.cgroup_quota(tmp_path / "missing", tmp_path) == math.inf


# ---- affinity and quota of a running process -----------------------------------------------------

two_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs to take one away",
)
# What `cross_entropy` may use is seen from the workers that it starts.
UNDER_WAY = """
import os, sys, time
import numpy as np
import fastxent
from fastxent.backends import driver

large = np.zeros((4000, 100), np.float32)
labels = np.zeros(4000, int)
cpus = os.sched_getaffinity(0)

def workers():
    fastxent.cross_entropy(large, labels)
    return driver.worker_count()
"""


def run_unset(code: str) -> str:
    names = ("FASTXENT_NUM_THREADS", "OMP_NUM_THREADS", "PYTHON_CPU_COUNT")
    env = {name: value for name, value in os.environ.items() if name not in names}
    result = run_python(UNDER_WAY + code, env=env)
    assert result.stderr == ""
    return result.stdout


@two_cpus
def test_a_forked_child_on_one_cpu_uses_one_thread() -> None:
    output = run_unset(
        "fastxent.cross_entropy(large[:100], labels[:100])\n"
        "assert fastxent.get_num_threads() == len(cpus)\n"
        "fastxent._threads.allowed_threads()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.sched_setaffinity(0, {min(cpus)})\n"
        "    os._exit(10 * fastxent._threads.allowed_threads() + workers())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert output == "10\n"


@two_cpus
def test_calls_follow_a_later_change_of_the_affinity() -> None:
    output = run_unset(
        "os.sched_setaffinity(0, {min(cpus)})\n"
        "print(fastxent.get_num_threads(), workers())\n"
        "os.sched_setaffinity(0, cpus)\n"
        "time.sleep(0.01)\n"
        "print(workers() > 0, fastxent.get_num_threads() == len(cpus))\n"
        "os.sched_setaffinity(0, {min(cpus)})\n"
        "print(fastxent.get_num_threads())\n"
    )
    assert output == "1 0\nTrue True\n1\n"


def plan_of_a_large_call() -> int:
    from fastxent import _plan

    return _plan.make_plan(10**6, 100, None, None).n_threads


def test_the_machine_is_looked_at_from_time_to_time_and_by_large_calls_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastxent import _plan

    looks: list[str] = []
    now = 100.0

    def affinity() -> int:
        looks.append("affinity")
        return 6

    def quota(*paths: Path) -> float:
        looks.append("quota")
        return 3.0

    monkeypatch.delenv("FASTXENT_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(_threads, "_affinity", affinity)
    monkeypatch.setattr(_threads, "cgroup_quota", quota)
    monkeypatch.setattr(_threads, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(_threads, "_grant", _threads._Grant())
    assert _plan.make_plan(10, 100, None, None).n_threads == 1
    assert _plan.make_plan(10**6, 100, None, 5).n_threads == 5
    assert looks == []
    assert plan_of_a_large_call() == 3
    assert plan_of_a_large_call() == 3
    assert looks == ["affinity", "quota"]
    now += 0.01
    assert plan_of_a_large_call() == 3
    assert looks == ["affinity", "quota", "affinity"]
    now += 2
    assert plan_of_a_large_call() == 3
    assert looks == ["affinity", "quota", "affinity", "affinity", "quota"]


def test_a_small_call_says_that_the_environment_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTXENT_NUM_THREADS", "two")
    with pytest.raises(ValueError, match="FASTXENT_NUM_THREADS='two'"):
        fastxent.cross_entropy(np.zeros((2, 3)), np.array([0, 1]))


def test_pythons_own_count_of_cpus_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    # from Python 3.13 on there is one, which PYTHON_CPU_COUNT sets
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    monkeypatch.setattr(_threads, "cgroup_quota", lambda *paths: math.inf)
    assert _threads.machine_threads() == 3


# ---- blocks that are left elsewhere than they were entered ---------------------------------------


def a_generator(n_threads: int) -> Generator[int, None, None]:
    with fastxent.threads(n_threads):
        yield fastxent.get_num_threads()


def in_another_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def seen() -> int:
    return fastxent.get_num_threads()


def test_a_block_may_be_left_in_another_thread() -> None:
    fastxent.set_num_threads(5)
    block = fastxent.threads(2)
    block.__enter__()
    assert fastxent.get_num_threads() == 2
    assert not in_another_thread(lambda: block.__exit__(None, None, None))
    assert fastxent.get_num_threads() == 5


def test_a_block_may_be_left_in_a_copy_of_its_context() -> None:
    fastxent.set_num_threads(5)
    with fastxent.threads(4):
        generator = a_generator(2)
        assert next(generator) == 2
        copy = contextvars.copy_context()
        assert copy.run(seen) == 2
        copy.run(generator.close)
        assert (copy.run(seen), seen()) == (4, 4)
    assert (copy.run(seen), seen()) == (4, 5)


def test_a_block_entered_in_another_context_does_not_hold_here() -> None:
    fastxent.set_num_threads(5)
    other = contextvars.copy_context()
    generator = a_generator(2)
    assert other.run(next, generator) == 2
    assert (other.run(seen), seen()) == (2, 5)
    with fastxent.threads(3):
        with pytest.raises(LookupError):  # goes through the block
            generator.throw(LookupError)
        assert (other.run(seen), seen()) == (5, 3)
    assert (other.run(seen), seen()) == (5, 5)


def test_blocks_may_be_left_in_any_order() -> None:
    fastxent.set_num_threads(5)
    generators = [a_generator(n) for n in (2, 3, 4)]
    assert [next(generator) for generator in generators] == [2, 3, 4]
    generators[0].close()
    assert seen() == 4
    generators[2].close()
    assert seen() == 3
    generators[1].close()
    assert seen() == 5
    assert _threads._blocks.get() == ()


def test_a_task_that_was_started_inside_a_block_keeps_it() -> None:
    fastxent.set_num_threads(5)

    async def program() -> tuple[int, int, int]:
        go_on = asyncio.Event()

        async def task() -> int:
            await go_on.wait()
            return seen()

        with fastxent.threads(2):
            started = asyncio.create_task(task())
            inside = seen()
        go_on.set()
        return inside, await started, seen()

    assert asyncio.run(program()) == (2, 2, 5)


def test_an_asynchronous_fixture_may_be_set_up_and_torn_down_in_tasks_of_their_own() -> None:
    fastxent.set_num_threads(5)

    async def fixture() -> AsyncGenerator[int, None]:
        with fastxent.threads(2):
            yield seen()

    async def program() -> tuple[int, int]:
        generator = fixture()

        async def set_up() -> int:
            return await anext(generator)

        async def tear_down() -> None:
            await generator.aclose()

        inside = await asyncio.create_task(set_up())
        await asyncio.create_task(tear_down())
        return inside, seen()

    assert asyncio.run(program()) == (2, 5)


def test_a_generator_that_is_thrown_away_elsewhere_ends_its_block() -> None:
    fastxent.set_num_threads(5)
    generators = [a_generator(2)]
    assert next(generators[0]) == 2

    def throw_away() -> None:
        generators.clear()
        gc.collect()

    in_another_thread(throw_away)  # an error there would be a warning, and that an error
    assert seen() == 5
