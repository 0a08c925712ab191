"""Intervals and verdicts of paired runs, from made-up times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fastxent.benchmarks.judge.paired import (
    BASE,
    CONTROL,
    HEAD,
    Compared,
    Options,
    _again,
    closed,
    failed_in,
    is_open,
    judge_blocks,
    split,
)
from fastxent.benchmarks.judge.statistics import Interval, intervals, judge, overall
from fastxent.benchmarks.measure.turns import Block, Timed

Array = np.ndarray[Any, Any]
QUIET = Interval(1.0, 0.99, 1.01)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (Interval(1.0, 0.98, 1.02), "same"),
        (Interval(1.03, 1.01, 1.049), "same"),
        (Interval(1.1, 1.051, 1.2), "slower"),
        (Interval(1.1, 1.04, 1.2), "unclear"),
        (Interval(1.0, 0.5, 1.06), "unclear"),
        (Interval(0.9, 0.85, 0.95), "faster"),
        (Interval(0.9, 0.85, 0.96), "same"),
    ],
)
def test_slower_is_what_lies_beyond_the_threshold_with_all_of_its_interval(
    measured: Interval, verdict: str
) -> None:
    assert judge(measured, QUIET, 0.05) == verdict


@pytest.mark.parametrize(
    "control", [Interval(1.0, 0.94, 1.01), Interval(1.0, 0.99, 1.06), Interval(1.0, 0, math.inf)]
)
@pytest.mark.parametrize("measured", [Interval(1.0, 1.0, 1.0), Interval(2.0, 1.9, 2.1)])
def test_nothing_is_said_where_the_control_is_not_quiet(
    control: Interval, measured: Interval
) -> None:
    assert judge(measured, control, 0.05) == "inconclusive"


def test_one_slowdown_fails_and_nothing_passes_that_was_not_measured_well() -> None:
    assert overall(["same", "faster"]) == "pass"
    assert overall(["same", "unclear"]) == "inconclusive"
    assert overall(["same", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", "slower", "same"]) == "fail"
    assert overall([]) == "inconclusive"


def test_one_or_two_pairs_say_next_to_nothing() -> None:
    (one,) = intervals(np.array([[0.2]]), 0.95)
    assert (one.low, one.high) == (0, math.inf)
    assert one.ratio == pytest.approx(math.exp(0.2))
    (two,) = intervals(np.array([[0.20, 0.21]]), 0.95)
    assert two.high / two.low > 1.1


def test_more_benchmarks_make_wider_intervals() -> None:
    values = np.random.default_rng(0).standard_normal(20) * 0.01
    alone = intervals(values[None], 0.95)[0]
    among = intervals(np.stack([values] * 50), 0.95)[7]
    assert among.low < alone.low < alone.high < among.high


def test_equal_times_have_an_interval_without_width() -> None:
    for found in intervals(np.full((2, 10), math.log(1.5)), 0.95):
        assert found.low == pytest.approx(1.5)
        assert found.high == pytest.approx(1.5)


def test_the_same_measurements_have_the_same_interval() -> None:
    values = np.random.default_rng(0).standard_normal((3, 10))
    assert intervals(values, 0.95) == intervals(values, 0.95)


def test_one_wild_pair_leaves_the_interval_where_it_is() -> None:
    values = np.random.default_rng(0).standard_normal((1, 16)) * 0.01
    values[0, 5] = 1.0
    (found,) = intervals(values, 0.95)
    assert 0.95 < found.low < 1 < found.high < 1.05


# ---- series --------------------------------------------------------------------------------------


def steady(factor: float, n_blocks: int) -> list[Block]:
    logs = {BASE: [0.0] * 5, HEAD: [math.log(factor)] * 5, CONTROL: [0.0] * 5}
    ran = {who: {"f.py::t"} for who in logs}
    return [Block(timed={"f.py::t": Timed("a group", logs)}, ran=ran)] * n_blocks


def judged(factor: float) -> Compared:
    (found,) = judge_blocks(steady(factor, 4), ["f.py::t"], Options())
    return found


def test_ratios_are_of_head_to_base() -> None:
    found = judged(1.2)
    assert found.verdict == "slower"
    assert found.measured.ratio == pytest.approx(1.2)
    assert found.control.ratio == pytest.approx(1)
    assert (found.base_median, found.head_median) == pytest.approx((1, 1.2))
    assert judged(0.5).verdict == "faster"


def test_rounds_in_which_the_machine_changes_its_speed_do_not_count() -> None:
    rng = np.random.default_rng(0)
    jumps = np.where(np.arange(15) % 3 == 0, rng.uniform(-0.5, 0.5, 15), 0.0)
    logs = {BASE: [0.0] * 15, HEAD: (jumps + math.log(1.1)).tolist(), CONTROL: (-jumps).tolist()}
    blocks = [Block(timed={"t": Timed(None, logs)})] * 4
    (found,) = judge_blocks(blocks, ["t"], Options())
    assert found.measured.ratio == pytest.approx(1.1)
    assert found.control.ratio == pytest.approx(1)


def again(factor: float, before: Compared) -> Compared:
    return _again(steady(factor, 8), ["f.py::t"], {"f.py::t": before}, Options())["f.py::t"]


def test_a_slowdown_counts_when_the_repeat_has_it_too() -> None:
    first = judged(1.2)
    assert is_open(first)
    assert closed(first).verdict == "unclear"
    confirmed = again(1.2, first)
    assert not is_open(confirmed)
    assert closed(confirmed).verdict == "slower"


def test_a_slowdown_that_the_repeat_does_not_have_is_none() -> None:
    found = again(1.0, judged(1.2))
    assert not is_open(found)
    assert found.verdict == "same"


def test_a_slowdown_found_first_in_a_repeat_needs_another() -> None:
    second = again(1.2, judged(1.0))
    assert is_open(second)
    assert closed(second).verdict == "unclear"
    assert closed(again(1.2, second)).verdict == "slower"


def test_benchmarks_of_one_side_alone_are_set_apart() -> None:
    timed = Timed(None, {})
    old, new = {"both", "old", "moody"}, {"both", "new", "moody"}
    first = Block({"both": timed, "moody": timed}, {BASE: old, HEAD: new, CONTROL: old})
    second = Block({"both": timed}, {BASE: old, HEAD: {"both", "new"}, CONTROL: old})
    assert split([first, second]) == (("both",), ("old",), ("new",), ("moody",))


def test_what_failed_in_any_block_is_named() -> None:
    first = Block(failed={BASE: {"b"}, HEAD: {"c"}, CONTROL: set()})
    second = Block(failed={BASE: set(), HEAD: {"a", "c"}, CONTROL: {"b"}})
    assert failed_in([first, second], HEAD) == ("a", "c")
    assert failed_in([first, second], BASE) == ("b",)


# ---- false alarms and power, by simulation ------------------------------------------------------

N_BENCHMARKS = 30
N_ROUNDS = 13
TURNS = (BASE, HEAD, CONTROL, CONTROL, HEAD, BASE)


def noise(kind: str, rng: np.random.Generator) -> dict[str, Array]:
    """Logarithms of times of a call in the turns of a block: (benchmarks, rounds) each."""
    turns = (N_BENCHMARKS, N_ROUNDS * len(TURNS))
    values = rng.standard_normal(turns) * 0.03
    if kind == "heavy tails":
        values = rng.standard_t(2, turns) * 0.02
    elif kind == "drift":
        values += np.linspace(0, 0.3, turns[1])
    elif kind == "two speeds":  # the machine's, each for some rounds
        changes = np.cumsum(rng.random(turns) < 0.03, axis=1)
        values += (changes % 2) * math.log(1.5)
    elif kind == "disturbed turns":
        values += (rng.random(turns) < 0.1) * rng.uniform(0.05, 0.5, turns)
    logs = {who: np.zeros((N_BENCHMARKS, N_ROUNDS)) for who in set(TURNS)}
    for i, who in enumerate(TURNS):
        logs[who] += values[:, i :: len(TURNS)] / 2
    for each in logs.values():  # where a process's memory lies
        each += rng.standard_normal((N_BENCHMARKS, 1)) * 0.005
        if kind == "two levels":
            each += (rng.random((N_BENCHMARKS, 1)) < 0.5) * 0.02
        elif kind == "disturbed processes":
            each += (rng.random((N_BENCHMARKS, 1)) < 0.02) * rng.uniform(0.05, 0.5)
    return logs


def made_up(kind: str, names: list[str], slowed: float, rng: np.random.Generator) -> Block:
    logs = noise(kind, rng)
    logs[HEAD][0] += math.log(slowed)
    return Block(
        {name: Timed(None, {who: list(logs[who][int(name)]) for who in logs}) for name in names},
        {who: set(names) for who in logs},
    )


def verdicts_of_series(kind: str, slowed: float, seed: int) -> list[str]:
    """All three series as `compare` runs them; the first benchmark is slowed."""
    rng = np.random.default_rng(seed)
    names = [str(i) for i in range(N_BENCHMARKS)]
    found: dict[str, Compared] = {}
    todo = names
    for number in range(3):
        blocks = [made_up(kind, todo, slowed, rng) for _ in range(5 if number == 0 else 10)]
        if number == 0:
            found = {each.name: each for each in judge_blocks(blocks, names, Options())}
        else:
            found |= _again(blocks, todo, found, Options())
        todo = [name for name, each in found.items() if is_open(each)]
        if not todo:
            break
    return [closed(each).verdict for each in found.values()]


KINDS = (
    "normal",
    "heavy tails",
    "drift",
    "two speeds",
    "disturbed turns",
    "two levels",
    "disturbed processes",
)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_alone_is_never_slower(kind: str) -> None:
    found = [verdicts_of_series(kind, 1.0, seed) for seed in range(8)]
    assert not any("slower" in verdicts for verdicts in found)
    # Not by saying nothing: most of the time all is well, and it is said.
    assert sum(overall(verdicts) == "pass" for verdicts in found) >= 6  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_slowdown_of_a_tenth_is_found(kind: str) -> None:
    found = [verdicts_of_series(kind, 1.1, seed) for seed in range(8)]
    assert sum(verdicts[0] == "slower" for verdicts in found) >= 7
    assert not any("slower" in verdicts[1:] for verdicts in found)


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_a_slowdown_at_the_threshold_hardly_ever_fails(kind: str) -> None:
    found = [verdicts_of_series(kind, 1.05, seed)[0] for seed in range(12)]
    assert found.count("slower") <= 1


def test_two_series_seldom_miss_on_the_same_side() -> None:
    """Of 100 benchmarks at the threshold one is called slower in 5 of 100 comparisons at most."""
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(10):
        found = intervals(rng.standard_normal((100, 10)) * 0.02, 0.95)
        missed += sum(each.low > 1 for each in found)
    assert 0 < 100 * (missed / 1000) ** 2 <= 0.05
