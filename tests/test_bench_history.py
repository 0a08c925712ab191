"""The history of runs, and the change points that are found in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import made_up_results as made_up
import numpy as np
import pytest
from made_up_results import bench, written

pytest.importorskip("cpuinfo", reason="the extra 'bench' brings it")

from fastxent.benchmarks.judge import history
from fastxent.benchmarks.judge.change_points import find_change_points, find_steps
from fastxent.benchmarks.judge.history import (
    Entry,
    append,
    entries_from,
    read_history,
    selects,
    series_of,
)

Array = np.ndarray[Any, Any]


def entry(i: int = 0, **more: Any) -> Entry:
    known: dict[str, Any] = {
        "fingerprint": "some-cpu",
        "machine": {},
        "revision": f"r{i}",
        "time": f"2026-01-{1 + i // 24:02}T{i % 24:02}:00:00+00:00",
        "name": "test_words",
        "group": None,
        "unit": "seconds",
        "median": 1e-3,
        "spread": 1e-5,
        "rounds": 9,
        "extra_info": {},
    }
    return Entry(**known | more)


# ---- adding --------------------------------------------------------------------------------------


def test_a_run_becomes_a_line_for_each_benchmark(tmp_path: Path) -> None:
    results = made_up.throughput(["32x100"], implementations=("cython", "torch"))
    file, target = written(tmp_path, results), tmp_path / "history.jsonl"
    assert bench("history", "add", file, "--to", target, "--revision", "abc") == 0
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["name"] for line in lines] == [each["name"] for each in results["benchmarks"]]
    stats = results["benchmarks"][0]["stats"]
    assert lines[0] == {
        "fingerprint": made_up.MACHINE["fingerprint"],
        "machine": made_up.MACHINE,
        "revision": "abc",
        "time": results["datetime"],
        "name": results["benchmarks"][0]["name"],
        "group": "loss_and_grad float32 32x100 1thread",
        "unit": "seconds",
        "median": stats["median"],
        "spread": stats["iqr"],
        "rounds": stats["rounds"],
        "extra_info": results["benchmarks"][0]["extra_info"],
    }


def test_the_same_run_is_added_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, target = written(tmp_path, made_up.of_others()), tmp_path / "history.jsonl"
    assert bench("history", "add", file, file, "--to", target) == 0
    before = target.read_bytes()
    assert bench("history", "add", file, "--to", target) == 0
    assert target.read_bytes() == before
    assert len(before.splitlines()) == 2
    assert "2 lines added, 2 were there" in capsys.readouterr().out
    # Of another revision it is another run.
    assert bench("history", "add", file, "--to", target, "--revision", "other") == 0
    assert len(target.read_bytes().splitlines()) == 4


def test_results_of_other_projects_name_revision_and_machine_themselves(tmp_path: Path) -> None:
    (first, _) = entries_from(written(tmp_path, made_up.of_others()), None)
    assert first.revision == "4d2f0c81aa"
    assert first.machine["cpu"] == "Some CPU @ 2 GHz"
    assert first.fingerprint.startswith("some-cpu-2-ghz-2-cpus-")
    dirty = made_up.of_others() | {"commit_info": {"id": "4d2f", "dirty": True}}
    (first, _) = entries_from(written(tmp_path, dirty), None)
    assert first.revision == "4d2f-dirty"


def test_tests_of_one_name_in_two_files_are_two_benchmarks(tmp_path: Path) -> None:
    results = made_up.of_others(("test_words", "test_words", "test_batch"))
    for file, each in zip("aba", results["benchmarks"], strict=True):
        each["fullname"] = f"test_{file}.py::{each['name']}"
    names = [entry.name for entry in entries_from(written(tmp_path, results), None)]
    assert names == ["test_a.py::test_words", "test_b.py::test_words", "test_batch"]


def test_results_without_a_revision_ask_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "history.jsonl"
    for results in (made_up.throughput(), made_up.gate("pass") | {"commit_info": {}}):
        assert bench("history", "add", written(tmp_path, results), "--to", target) == 2
        assert "name it by --revision" in capsys.readouterr().err
    assert not target.exists()


def test_counts_of_the_gate_are_lines_too(tmp_path: Path) -> None:
    gate = made_up.gate("pass", ("a", 100, 101, "same"), ("gone", 100, None, "gone"))
    file, target = written(tmp_path, gate), tmp_path / "history.jsonl"
    assert bench("history", "add", file, "--to", target) == 0
    assert bench("history", "add", file, "--to", target) == 0  # its file's date is its date
    (line,) = read_history(target).entries
    assert (line.name, line.unit, line.median) == ("a", "instructions", 101)
    assert line.revision == "4d2f0c81aa"
    other = gate | {"toolchain": {"cython": {"compiler": "gcc 13"}}}
    (first,), (second,) = (entries_from(written(tmp_path, each), None) for each in (gate, other))
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"kind": "compare", "benchmarks": []}, "a history takes the JSON of"),
        ({}, "a history takes the JSON of"),
        (made_up.of_others() | {"benchmarks": [{"name": "a"}]}, "benchmark 0 has no usable result"),
        (made_up.of_others() | {"datetime": "today"}, "benchmark 0 has no usable result"),
        (made_up.gate("pass") | {"counts": None}, "has no counts"),
        (made_up.gate("pass", ("a", 1, 0, "same")), "count 0 is not usable"),
    ],
)
def test_what_is_no_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], results: dict[str, Any], said: str
) -> None:
    good, bad = written(tmp_path, made_up.of_others(), "good.json"), written(tmp_path, results)
    target = tmp_path / "history.jsonl"
    assert bench("history", "add", good, bad, "--to", target, "--revision", "a") == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(bad) in error
    assert not target.exists()


def test_a_line_that_was_cut_off_is_said_and_does_not_take_the_next_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "history.jsonl"
    append(target, [entry(0), entry(1)])
    target.write_bytes(target.read_bytes()[:-20])
    assert bench("history", "add", written(tmp_path, made_up.of_others()), "--to", target) == 0
    assert "line 2: left out, no line of a history: it is cut off" in capsys.readouterr().err
    found = read_history(target)
    assert [each.revision for each in found.entries] == ["r0", "4d2f0c81aa", "4d2f0c81aa"]
    (problem,) = found.problems
    assert "line 2: left out" in problem


@pytest.mark.parametrize(
    "change",
    [
        {"median": "fast"},
        {"median": 0},
        {"median": float("nan")},
        {"time": "yesterday"},
        {"unit": "hours"},
        {"extra_info": None},
        {"name": 3},
    ],
)
def test_a_bad_line_is_left_out_by_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    target = tmp_path / "history.jsonl"
    lines = [asdict(each) for each in (entry(0), entry(1), entry(2))]
    lines[1] |= change
    target.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [each.revision for each in read_history(target).entries] == ["r0", "r2"]
    assert bench("history", "show", target) == 0
    assert f"{target}, line 2: left out" in capsys.readouterr().err


def test_a_file_that_is_no_history_is_neither_read_nor_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, made_up.of_others())
    before = file.read_bytes()
    assert bench("history", "add", file, "--to", file) == 2
    assert bench("history", "show", file) == 2
    assert capsys.readouterr().err.count("is no history: ") == 2
    assert file.read_bytes() == before
    assert bench("history", "add", file, "--to", tmp_path / "missing" / "h.jsonl") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert bench("history", "add", file, "--to", tmp_path) == 2
    assert "it is no file" in capsys.readouterr().err


def test_where_the_disk_is_full_nothing_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "history.jsonl"
    append(target, [entry(0)])
    before = target.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history.os, "fsync", full)
    with pytest.raises(OSError, match=r"history\.jsonl cannot be written: No space left"):
        append(target, [entry(1)])
    assert target.read_bytes() == before


_APPENDING = """
import json, sys
from pathlib import Path
from fastxent.benchmarks.judge.history import Entry, append
entry = json.loads(sys.argv[2])
for i in range(20):
    own = entry | {"revision": f"{sys.argv[3]}-{i}"}
    append(Path(sys.argv[1]), [Entry(**own), Entry(**own | {"name": "test_batch"})])
"""


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    target = tmp_path / "history.jsonl"
    program = [sys.executable, "-P", "-c", _APPENDING, target, json.dumps(asdict(entry()))]
    workers = [subprocess.Popen([*program, str(k)], cwd=tmp_path) for k in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    found = read_history(target)
    assert not found.problems
    assert len({each.identity for each in found.entries}) == len(found.entries) == 120


# ---- change points -------------------------------------------------------------------------------


def noise(n: int, size: float = 0.02, seed: int = 0) -> Array:
    """Medians of runs around 1 ms."""
    return 1e-3 * np.random.default_rng(seed).lognormal(0, size, n)


def with_spikes(values: Array, share: float = 0.08, seed: int = 1) -> Array:
    """Some runs were disturbed."""
    rng = np.random.default_rng(seed)
    return values * np.where(rng.random(len(values)) < share, rng.uniform(1.2, 3, len(values)), 1)


def in_episodes(n: int, seed: int) -> Array:
    """Noise of 2 % that stays for some runs: a neighbour that comes and goes."""
    own = np.random.default_rng(seed).normal(0, 0.016, n)
    for i in range(1, n):
        own[i] += 0.6 * own[i - 1]
    return 1e-3 * np.exp(own)


def alarms(make: Callable[[int], Array], n_series: int = 60) -> int:
    """How many of series without a change have a change point."""
    return sum(bool(find_change_points(list(make(seed)))) for seed in range(n_series))


def test_constant_noise_raises_no_alarm() -> None:
    assert alarms(lambda seed: noise(60, seed=seed)) == 0
    assert alarms(lambda seed: noise(60, 0.08, seed=seed)) == 0


def test_disturbed_runs_raise_hardly_an_alarm() -> None:
    assert alarms(lambda seed: with_spikes(noise(60, seed=seed), seed=seed + 1000)) <= 1


def test_episodes_raise_few_alarms() -> None:
    # They are levels of a sort; Apache Otava 0.8 raises an alarm in some 70 % of such series.
    assert alarms(lambda seed: in_episodes(60, seed)) <= 12


@pytest.mark.parametrize(("n_after", "size"), [(4, 1.1), (8, 1.06), (30, 1.05), (30, 0.9)])
def test_a_step_is_found_where_it_is(n_after: int, size: float) -> None:
    hits = 0
    for seed in range(20):
        values = noise(30 + n_after, 0.01, seed)
        values[30:] *= size
        found = find_change_points(list(values))
        hits += len(found) == 1 and abs(found[0].index - 30) <= 1
        assert all(abs(each.ratio - size) < 0.03 for each in found)
    assert hits >= 19


def test_a_step_is_found_among_disturbed_runs() -> None:
    hits = 0
    for seed in range(20):
        values = with_spikes(noise(100, 0.02, seed), seed=seed + 1000)
        values[50:] *= 1.1
        hits += any(abs(each.index - 50) <= 2 for each in find_change_points(list(values)))
    assert hits >= 18


def test_a_slowdown_that_was_mended_gives_two_change_points() -> None:
    values = noise(90, 0.01)
    values[30:60] *= 1.2
    found = find_change_points(list(values))
    assert [each.index for each in found] == [30, 60]
    assert [round(each.ratio, 1) for each in found] == [1.2, 0.8]


def test_a_drift_is_not_missed() -> None:
    values = noise(100, 0.01) * np.linspace(1, 1.3, 100)
    found = find_change_points(list(values))
    assert found
    assert 1.1 < np.prod([each.ratio for each in found]) < 1.35


def test_a_few_bad_runs_at_the_end_are_none_yet() -> None:
    values = noise(40, 0.01)
    values[-3:] *= 1.5
    assert not find_change_points(list(values[:-1]))
    assert not find_change_points(list(values[:-2]))
    assert find_change_points([*values, values[-1]])


def test_a_change_below_the_threshold_is_left_out() -> None:
    values = noise(60, 0.002)
    values[30:] *= 1.015
    assert not find_change_points(list(values), threshold=0.02)
    assert len(find_change_points(list(values), threshold=0.01)) == 1


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_a_short_series_has_none(n: int) -> None:
    assert find_change_points([1.0] * (n // 2) + [2.0] * (n - n // 2)) == []


def test_series_without_noise_are_judged_too() -> None:
    assert find_change_points([1e-3] * 30) == []
    (only,) = find_change_points([1e-3] * 10 + [2e-3] * 10)
    assert (only.index, round(only.ratio, 6)) == (10, 2)


def test_a_long_series_is_no_trouble() -> None:
    values = noise(600, 0.01)
    values[400:] *= 1.1
    assert [each.index for each in find_change_points(list(values))] == [400]


def test_counts_change_where_they_change() -> None:
    found = find_steps([100, 100, 101, 101, 120, 100], threshold=0.02)
    assert [(each.index, each.ratio) for each in found] == [(4, 120 / 101), (5, 100 / 120)]


def test_runs_of_other_machines_are_no_change() -> None:
    ours = [entry(i, median=1e-3) for i in range(20)]
    theirs = [entry(20 + i, median=2e-3, fingerprint="another") for i in range(20)]
    assert [each.change_points for each in series_of([*ours, *theirs], 0.02)] == [[], []]
    sets = [{"instruction_set": name} for name in ("x86-64-v3", "x86-64-v4")]
    apart = [entry(i, median=1e-3 * (i % 2 + 1), extra_info=sets[i % 2]) for i in range(40)]
    assert [each.change_points for each in series_of(apart, 0.02)] == [[], []]
    same = [entry(20 + i, median=2e-3) for i in range(20)]
    (series,) = series_of([*same, *ours], 0.02)  # the order is that of time, not of lines
    assert [point.index for point in series.change_points] == [20]
    assert series.entries[20].revision == "r20"


# ---- showing -------------------------------------------------------------------------------------


def test_the_history_shows_where_it_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "history.jsonl"
    values = noise(30, 0.01)
    values[20:] *= 1.2
    quiet = [entry(i, name="test_batch[b]", median=1e-3) for i in range(30)]
    append(target, [*(entry(i, median=v) for i, v in enumerate(values)), *quiet])
    assert bench("history", "show", target) == 0
    out = capsys.readouterr().out
    assert "1 change in 2 series of 1 fingerprint." in out
    (line,) = [line for line in out.splitlines() if "test_words" in line]
    assert [text in line for text in ("r20", "r19", "+20 %", "slower")] == [True] * 4
    assert bench("history", "show", target, "-k", "batch", "--all") == 0
    out = capsys.readouterr().out
    assert "test_batch[b]" in out
    assert "test_words" not in out


def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "history.jsonl"
    assert bench("history", "show", target) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    target.write_text("")
    assert bench("history", "show", target) == 2
    assert "is empty" in capsys.readouterr().err
    append(target, [entry(0)])
    assert bench("history", "show", target, "-k", "nothing") == 2
    assert "has nothing for -k 'nothing'" in capsys.readouterr().err
    assert bench("history", "show", target, "-k", "test and (") == 2
    assert "is no expression" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("cython", True),
        ("CYTHON", True),
        ("numba", False),
        ("not numba", True),
        ("cython and 32x100-float32", True),
        ("numba or (loss and not 2threads)", True),
        ("__import__", False),
    ],
)
def test_an_expression_selects_as_that_of_pytest(expression: str, selected: bool) -> None:
    assert selects(expression, "test[32x100-float32-1thread-loss-cython]") is selected


@pytest.mark.parametrize("expression", ["", "and", "a b", "a (b)", "not", "(" * 500])
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="-k"):
        selects(expression, "a b")


def test_lines_hold_names_of_any_kind(tmp_path: Path) -> None:
    target = tmp_path / "history.jsonl"
    odd = entry(0, name="line\nand\u2028more \ud800 💥", extra_info={"a": [1, None]})
    append(target, [odd])
    assert read_history(target).entries == [odd]
    assert os.path.getsize(target) < 500
