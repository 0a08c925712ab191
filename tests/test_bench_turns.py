"""Benchmarks that processes run in turns: who waits, who goes on, and what is called."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import pytest
from fastxent.benchmarks.measure.processes import launched
from fastxent.benchmarks.measure.turns import Block, Command, measure_in_turns


def block_of(tmp_path: Path, **sources: str) -> Block:
    """The benchmarks in these sources, each in a process of a version of that name."""
    commands = {}
    for name, source in sources.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test_it.py").write_text(source)
        words = launched(sys.executable, "pytest", "test_it.py", "-q", "-p", "no:cacheprovider")
        environment = {**os.environ, "VERSION": name, "COMMON": str(tmp_path)}
        commands[name] = Command(words, environment, folder)
    return measure_in_turns(commands)


SLEEPING = """
import os, pathlib, time
LOG = pathlib.Path(os.environ["COMMON"], "log")

def work():
    with LOG.open("a") as file:
        file.write(os.environ["VERSION"] + "\\n")
    time.sleep({seconds})

def test_sleep(benchmark):
    assert benchmark.group is None
    benchmark.group = "sleeping"
    benchmark(work)
    assert benchmark.stats["median"] >= {seconds}
"""


def test_a_round_has_two_turns_of_each_and_logarithms_of_seconds(tmp_path: Path) -> None:
    sources = {name: SLEEPING.format(seconds=n) for name, n in (("one", 0.01), ("two", 0.02))}
    block = block_of(tmp_path, **sources)
    assert block.statuses == {"one": 0, "two": 0}, block.printed
    timed = block.timed["test_it.py::test_sleep"]
    assert timed.group == "sleeping"
    n_rounds = len(timed.logs["one"])
    assert n_rounds == len(timed.logs["two"]) >= 7
    for name, seconds in (("one", 0.01), ("two", 0.02)):
        assert seconds <= math.exp(min(timed.logs[name]))
    # Two calls a turn, of which the first fills the caches.
    called = (tmp_path / "log").read_text().split()[-2 * 4 * n_rounds :]
    assert called[::2] == called[1::2]
    expected = ["two", "one", "one", "two", "one", "two", "two", "one"] * n_rounds
    assert called[::2] == expected[: 4 * n_rounds]


@pytest.mark.parametrize(
    "way", ["skips", "fails", "fails in a turn", "fails afterwards", "has none"]
)
def test_what_one_cannot_run_is_left_out_and_all_go_on(tmp_path: Path, way: str) -> None:
    common = "def test_last(benchmark): benchmark(sum, (1, 2))\n"
    first = "def test_first(benchmark): benchmark(len, 'abc')\n"
    other = {
        "skips": "import pytest\n@pytest.mark.skip(reason='head lacks it')\n" + first,
        "fails": "def test_first(benchmark): assert False\n",
        "fails in a turn": (
            "calls = []\ndef work():\n    calls.append(0)\n    assert len(calls) < 2000\n"
            "def test_first(benchmark): benchmark.pedantic(work, rounds=1)\n"
        ),
        "fails afterwards": "def test_first(benchmark): assert benchmark(len, 'abc') == 4\n",
        "has none": "",
    }[way]
    block = block_of(tmp_path, one=first + common, two=other + common, three=first + common)
    assert list(block.timed) == ["test_it.py::test_last"], block.printed
    assert block.ran == {
        "one": {"test_it.py::test_first", "test_it.py::test_last"},
        "two": {"test_it.py::test_last"},
        "three": {"test_it.py::test_first", "test_it.py::test_last"},
    }
    assert block.statuses == {"one": 0, "two": int("fails" in way), "three": 0}
    failed = {"test_it.py::test_first"} if "fails" in way else set()
    assert block.failed == {"one": set(), "two": failed, "three": set()}


def test_a_process_that_dies_holds_nobody_up(tmp_path: Path) -> None:
    lives = "def test_it(benchmark): benchmark(len, 'abc')\n"
    dies = "import os\ncalls = []\ndef work():\n    calls.append(0)\n"
    dies += "    if len(calls) > 500: os._exit(7)\n"
    dies += "def test_it(benchmark): benchmark.pedantic(work, rounds=1)\n"
    started = time.monotonic()
    block = block_of(tmp_path, one=lives, two=dies)
    assert block.timed == {}
    assert block.statuses == {"one": 0, "two": 7}
    assert time.monotonic() - started < 60
    not_there = Command(["/not/there"], dict(os.environ), tmp_path)
    with pytest.raises(FileNotFoundError):
        measure_in_turns({"one": not_there})


PEDANTIC = """
import pytest
made, ended = [], []

def setup():
    made.append(len(made))
    return (made[-1],), {}

def work(number):
    assert number == made[-1], "each call has arguments of its own"

def teardown(number):
    ended.append(number)

@pytest.mark.benchmark(group="with a setup", min_rounds=50)
def test_pedantic(benchmark):
    benchmark.pedantic(work, setup=setup, teardown=teardown, rounds=3)
    assert made == ended
    assert len(made) > 20
"""


def test_setup_and_teardown_surround_each_call(tmp_path: Path) -> None:
    block = block_of(tmp_path, one=PEDANTIC, two=PEDANTIC)
    assert block.statuses == {"one": 0, "two": 0}, block.printed
    assert block.timed["test_it.py::test_pedantic"].group == "with a setup"
