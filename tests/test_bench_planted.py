"""The proof of the gates: plants that fit the sources, and the page that is made of the results."""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("cpuinfo", reason="the extra 'bench' brings it")

from fastxent.benchmarks.judge.planted import PLANTS, Edit, Plant, apply_to
from fastxent.benchmarks.judge.planted import neighbour as neighbouring
from fastxent.benchmarks.judge.planted import proof as proving
from fastxent.benchmarks.judge.planted.builds import hash_of, read_sources
from fastxent.benchmarks.judge.planted.neighbour import COMMAND, busy_neighbour
from fastxent.benchmarks.judge.planted.proof import (
    Proof,
    Task,
    comparisons,
    read_records,
    summary_of,
    tasks,
)
from fastxent.benchmarks.judge.sides import copy_installed, open_side
from fastxent.benchmarks.measure.processes import launched

ROOT = Path(__file__).resolve().parents[1]
NAMES = [plant.name for plant in PLANTS]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """The program that writes docs/gates.md."""
    spec = importlib.util.spec_from_file_location("gates", ROOT / "docs" / "gates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources_of(plant: Plant) -> dict[str, bytes]:
    return {edit.path: (ROOT / edit.path).read_bytes() for edit in plant.edits}


def made_up(task: Task, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "gate": task.gate, "plant": task.plant, "neighbour": task.neighbour, "pair": task.pair,
        "verdict": verdict, "measured": 4, "worse": int(verdict == "fail"),
        "largest": {"name": "a", "ratio": 1.1}, "seconds": 36.0, "load": [0.1, 0.2],
        "time": "2026-01-01T00:00:00Z", "machine": "m", "sources": "s", **more,
    }  # fmt: skip


# ---- plants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", PLANTS, ids=NAMES)
def test_a_plant_fits_the_sources(plant: Plant) -> None:
    sources = sources_of(plant)
    edited = apply_to(plant, sources)
    assert edited.keys() == sources.keys()
    for path, text in edited.items():
        assert text.encode() != sources[path]
        if path.endswith(".py"):
            compile(text, path, "exec")


def test_twins_have_the_same_plants_and_every_size_in_several_kernels() -> None:
    assert max(Counter(NAMES).values()) == 1
    by_twin = {
        twin: {name.removeprefix(f"{twin}_") for name in NAMES if name.startswith(twin)}
        for twin in ("cython", "numba")
    }
    assert by_twin["cython"] == by_twin["numba"]
    assert sum(plant.twin == "driver" for plant in PLANTS) >= 5
    sizes = Counter(plant.percent for plant in PLANTS)
    assert all(sizes[percent] >= 4 for percent in (5, 10, 20))


def test_a_plant_says_what_it_is_and_who_must_see_it() -> None:
    for plant in PLANTS:
        assert plant.stands_for
        assert plant.seen_by
        assert "B" not in plant.seen_by or plant.timed, plant.name
        if plant.percent:
            assert plant.name.endswith(f"_{plant.percent}")
            assert f"{plant.percent} %" in plant.stands_for


@pytest.mark.parametrize("source", [b"twice twice", b"never"])
def test_a_plant_that_does_not_fit_says_where(source: bytes) -> None:
    plant = Plant("a", "numba", "", ("A",), (Edit("file.py", "twice", "once"),), "")
    with pytest.raises(ValueError, match=r"plant a: .* occurs [02] times in file.py, not once"):
        apply_to(plant, {"file.py": source})


@pytest.mark.parametrize("name", ["slower_python", "numba_block_sum_10"])
def test_a_planted_version_gives_right_results(name: str, tmp_path: Path) -> None:
    # Those that need no compiler; `python docs/gates.py --check` has all of them.
    plant = PLANTS[NAMES.index(name)]
    copy_installed(tmp_path)
    for path, text in apply_to(plant, sources_of(plant)).items():
        (tmp_path / path).write_text(text, "utf-8")
    backend = plant.backends[-1]
    asked = ("--backend", backend, "--dtype", "float32", "--case", "gaussian", "--threads", "1")
    with open_side(str(tmp_path)) as side:
        command = launched(side.python, "fastxent", "verify", "--quick", *asked)
        done = subprocess.run(
            command, env=side.environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- builds and tasks ----------------------------------------------------------------------------


def test_sources_are_those_of_the_package_and_have_a_hash() -> None:
    sources = read_sources(ROOT)
    assert {edit.path for plant in PLANTS for edit in plant.edits} <= sources.keys()
    assert {"meson.build", "pyproject.toml", "README.md"} <= sources.keys()
    assert not any(path.startswith(("tests/", "docs/", ".")) for path in sources)
    assert hash_of(sources) == hash_of(dict(reversed(sources.items())))
    assert hash_of(sources) != hash_of({**sources, "README.md": b""})


def test_what_is_no_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(f"{tmp_path} is no checkout of git")):
        read_sources(tmp_path)


def test_every_plant_meets_both_gates_and_equals_are_compared() -> None:
    every = tasks(50, (False, True))
    assert len(set(every)) == len(every)
    for gate, neighbour in (("A", False), ("B", False), ("B", True)):
        own = [task for task in every if (task.gate, task.neighbour) == (gate, neighbour)]
        assert sum(not task.plant for task in own) == 50
        met = {task.plant for task in own} - {""}
        assert met == {plant.name for plant in PLANTS if gate == "A" or plant.timed}


def test_an_interrupted_proof_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results.jsonl"
    counted: list[str] = []

    def counts_of(
        wheel: Path, backends: Sequence[str], cases: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        counted.append(wheel.name)
        return {f"{backend} x86-64-v3": {"a": 120 if wheel.name == "head" else 100}
                for backend in backends}  # fmt: skip

    monkeypatch.setattr(proving, "counts_of", counts_of)
    monkeypatch.setattr(
        proving.Builds, "wheel", lambda _, plant=None: tmp_path / ("head" if plant else "base")
    )
    first = Proof(ROOT, tmp_path, results)
    wanted = tasks(1, (False,), PLANTS[:1])
    for task in wanted[:2]:
        first.run(task)
    second = Proof(ROOT, tmp_path, results)
    assert [task for task in wanted if task not in second.done] == wanted[2:]
    assert counted == ["base", "head", "base"]  # the sources once, and once more as their equals
    records = read_records(results)
    assert [("facts" in record) for record in records] == [True, False, False]
    assert records[1]["largest"] == {"name": "cython x86-64-v3 a", "ratio": 1.2}
    assert [record["verdict"] for record in records[1:]] == ["fail", "pass"]
    assert comparisons(records).keys() == set(wanted[:2])


def test_of_several_results_the_last_counts() -> None:
    task, other = Task("A", "cython_rows_sum_20"), Task("A", "")
    records = [made_up(task, "pass", sources="old"), made_up(other, "pass"), made_up(task, "fail")]
    found = comparisons([*records, {"machine": "m", "facts": {}}])
    assert {each: record["verdict"] for each, record in found.items()} == {
        task: "fail",
        other: "pass",
    }


def test_after_a_change_of_the_sources_all_is_made_again_unless_it_counts(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    machine = Proof(ROOT, tmp_path, results).machine
    for sources, which in (("old", machine), ("new", "another machine")):
        task = Task("A", "", pair=int(which == machine))
        proving.append(results, made_up(task, "pass", sources=sources, machine=which))
    assert Proof(ROOT, tmp_path, results).done == set()
    assert Proof(ROOT, tmp_path, results, of_other_sources=True).done == {Task("A", "", pair=1)}


def test_a_summary_has_the_largest_ratio_and_its_interval() -> None:
    measured = [
        {"name": "a", "ratio": 1.01, "low": 0.99, "high": 1.03, "verdict": "same"},
        {"name": "b", "ratio": 1.123456, "low": 1.1, "high": 1.2, "verdict": "slower"},
        {"name": "c", "ratio": None, "verdict": "new"},
    ]
    assert summary_of("fail", measured) == {
        "verdict": "fail", "measured": 3, "worse": 1,
        "largest": {"name": "b", "ratio": 1.1235, "low": 1.1, "high": 1.2},
    }  # fmt: skip


def test_a_neighbour_is_busy_and_ends() -> None:
    def seconds_of_children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def disturbed(seconds: float) -> float:
        before = seconds_of_children()
        with busy_neighbour():
            started = time.process_time()
            time.sleep(seconds)
            assert time.process_time() - started < 0.1  # it is another process
        return seconds_of_children() - before

    # beyond what it takes to start, it is busy all the time
    assert disturbed(1.2) - disturbed(0.2) > 0.4
    with busy_neighbour(present=False):
        pass
    # it ends, too, where whoever started it has no chance to end it
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(COMMAND, **pipes) as process:
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_neighbour_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbouring, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(ChildProcessError, match="did not start"), busy_neighbour():
        pass


def test_a_neighbour_that_ends_too_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbouring, "COMMAND", (sys.executable, "-c", "print(flush=True)"))
    with pytest.raises(ChildProcessError, match="ended before"), busy_neighbour():
        time.sleep(0.5)


# ---- the page ------------------------------------------------------------------------------------


def test_page_and_results_agree(page: ModuleType) -> None:
    text = page.PAGE.read_text("utf-8")
    assert page.with_tables(text, read_records(page.RESULTS)) == text


def test_tables_tell_what_was_caught_missed_and_not_expected(page: ModuleType) -> None:
    records = [
        {"machine": "m", "facts": {"cpu": "Some CPU", "cpus": 2, "instruction_sets": ["avx2"]}},
        made_up(Task("A", "cython_block_sum_5"), "fail"),
        made_up(Task("B", "cython_block_sum_5"), "pass"),
        made_up(
            Task("B", "slower_python", neighbour=True), "fail", worse=2,
            largest={"name": "b", "ratio": 1.8, "low": 1.7, "high": 1.9},
        ),
        made_up(Task("B", "slower_python"), "pass"),
        made_up(Task("A", "slower_python"), "pass"),
        made_up(Task("B", "no_spinning"), "inconclusive"),
        *(made_up(Task("B", "", pair=pair), "fail" if pair == 7 else "pass") for pair in range(50)),
    ]  # fmt: skip
    lines = list(page.tables(records))
    row = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in lines}
    assert "Machine: Some CPU, 2 CPUs (avx2)." in lines
    assert row["cython_block_sum_5"][1:] == ["A", "caught, 1 of 4: 1.100", "not seen: 1.100", "- |"]
    assert row["slower_python"][1:] == [
        "B", "not seen: 1.100", "MISSED: 1.100", "caught, 2 of 4: 1.80 (1.70 to 1.90) |",
    ]  # fmt: skip
    assert row["no_spinning"][3] == "inconclusive: 1.100"
    # 1 of 50: between 0.05 % and 10.6 % (Clopper and Pearson's table)
    assert row["gate B, idle"] == ["50", "1 of 50", "10.6%", "0 |"]
    assert row["5 %"] == ["1 of 1", "0 of 1", "- |"]


def test_short_proof_fails_for_a_false_alarm_and_for_a_plant_not_seen(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(verdicts: dict[Task, str]) -> int:
        monkeypatch.setattr(
            page.Proof, "run",
            lambda self, task: made_up(task, verdicts.get(task, "fail" if task.plant else "pass")),
        )  # fmt: skip
        found: int = page.prove_shortly(tmp_path)
        return found

    first, same = page.SHORT[0], page.SHORT[-1]
    assert status({}) == 0
    assert status({same: "fail"}) == 1
    assert status({first: "pass"}) == 1
    assert status({same: "inconclusive"}) == 0
    # A restless machine changes no count: there it says that nothing was compared.
    counted, same_counted = page.SHORT[:2]
    assert (counted.gate, same_counted) == ("A", Task("A", ""))
    assert status({counted: "inconclusive"}) == status({same_counted: "inconclusive"}) == 1


def test_an_unknown_plant_is_named(page: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"--only tulip: the plants are cython_pass_over_row"):
        page.chosen_plants(["tulip"])


def test_lines_that_are_no_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n{\n")
    with pytest.raises(ValueError, match=r"results.jsonl: line 2 is no JSON"):
        read_records(path)


def test_a_gate_that_is_none_is_an_error(
    page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        page.main(gate="C")
    assert "--gate must be A or B, not 'C'" in capsys.readouterr().err
