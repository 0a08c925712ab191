"""The tables of the benchmarks, from made-up files of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
N_BYTES = 1000  # of the logits


def entry(group: str, contender: str, kind: str, median: float, arrays: int = 1) -> dict[str, Any]:
    operation, dtype, shape, threads = group.split()
    info = {"operation": operation, "dtype": dtype, "shape": shape, "threads": int(threads[0])}
    info |= {"contender": contender, "kind": kind, "bytes": arrays * N_BYTES}
    return {"group": group, "extra_info": info, "stats": {"median": median}}


def table(folder: Path, program: str, results: dict[str, Any], *options: str) -> list[list[str]]:
    """The cells of every row of the printed table, its heading included."""
    file = folder / "results.json"
    file.write_text(json.dumps(results))
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *options, str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def summary(folder: Path, *entries: dict[str, Any]) -> list[list[str]]:
    return table(folder, "summarise.py", {"benchmarks": entries})


def test_the_summary_compares_with_the_limit_and_the_fastest_peer(tmp_path: Path) -> None:
    group = "loss_and_grad float32 65536x1000 2threads"
    heading, cython, numba = summary(
        tmp_path,
        entry(group, "limit_read", "limit", 0.010, arrays=1),
        entry(group, "limit_copy", "limit", 0.030, arrays=2),
        entry(group, "cython", "backend", 0.040, arrays=2),
        entry(group, "numba", "backend", 0.080, arrays=2),
        entry(group, "scipy", "peer", 0.8, arrays=2),
        entry(group, "torch", "peer", 0.2, arrays=2),
    )
    assert heading == ["group", "backend", "median", "of limit", "best peer", "times"]
    assert cython == [group, "cython", "40 ms", "0.75", "torch", "5.00"]
    assert numba == ["", "numba", "80 ms", "0.38", "torch", "2.50"]


def test_the_summary_compares_bandwidths_where_more_must_move(tmp_path: Path) -> None:
    group = "soft_loss_and_grad float32 16384x1000 2threads"
    _, cython = summary(
        tmp_path,
        entry(group, "limit_copy", "limit", 0.020, arrays=2),
        entry(group, "cython", "backend", 0.030, arrays=3),
    )
    assert cython[3] == "1.00"


def test_the_summary_keeps_groups_apart_and_shows_what_is_missing(tmp_path: Path) -> None:
    _, first, second = summary(
        tmp_path,
        entry("loss float32 8x10 1thread", "limit_read", "limit", 1e-6),
        entry("loss float32 8x10 1thread", "cython", "backend", 4e-6),
        entry("loss float64 8x10 1thread", "cython", "backend", 2.0),
        entry("loss float64 8x10 1thread", "scipy", "peer", 1.0),
    )
    assert first == ["loss float32 8x10 1thread", "cython", "4 us", "0.25", "-", "-"]
    assert second == ["loss float64 8x10 1thread", "cython", "2 s", "-", "scipy", "0.50"]


def verdicts(folder: Path, results: dict[str, Any]) -> dict[tuple[str, ...], tuple[str, str]]:
    """(case, threads, asked) -> (measured, verdict), for the backend cython."""
    _, *rows = table(folder, "reach.py", results, "--backend", "cython", "--results")
    return {(row[1], row[3], row[4]): (row[5], row[7]) for row in rows}


@pytest.mark.parametrize(("median", "verdict"), [(0.0105, "met"), (0.0106, "SHORT")])
def test_reach_compares_with_the_limit(tmp_path: Path, median: float, verdict: str) -> None:
    group = "loss float32 65536x1000 2threads"
    limit = entry(group, "limit_read", "limit", 0.010)
    ours = entry(group, "cython", "backend", median)
    found = verdicts(tmp_path, {"benchmarks": [limit, ours]})
    asked = ">= 0.95 of the limit"
    case = "loss float32 65536x1000"
    assert found[case, "2", asked] == (f"{0.010 / median:.3g}", verdict)
    assert found[case, "1", asked] == ("-", "missing")


def test_reach_compares_with_the_fastest_peer_and_names_it(tmp_path: Path) -> None:
    group = "loss_and_grad float32 1024x1024 1thread"
    timed = [
        entry(group, "cython", "backend", 0.001),
        entry(group, "torch", "peer", 0.004),
        entry(group, "jax", "peer", 0.002),
    ]
    found = verdicts(tmp_path, {"benchmarks": timed})
    case = "loss_and_grad float32 1024x1024"
    assert found[case, "1", ">= 3 times the best peer (jax)"] == ("2", "SHORT")


def test_reach_compares_threads_dtypes_and_microseconds(tmp_path: Path) -> None:
    timed = [
        entry("loss float32 1x256000 1thread", "cython", "backend", 0.004),
        entry("loss float32 1x256000 2threads", "cython", "backend", 0.002),
        entry("loss float32 2048x32000 2threads", "cython", "backend", 0.010),
        entry("loss float16 2048x32000 2threads", "cython", "backend", 0.020),
        entry("loss float32 8x10 1thread", "cython", "backend", 2.5e-6),
        entry("loss float32 32x100 1thread", "cython", "backend", 3.5e-6),
        entry("loss float32 32x100 1thread", "torch", "peer", 3.5e-6),
    ]
    found = verdicts(tmp_path, {"benchmarks": timed})
    assert found["loss float32 1x256000", "2", ">= 1.6 times 1 thread"] == ("2", "met")
    assert found["loss float16 2048x32000", "2", ">= 1 times float32"] == ("0.5", "SHORT")
    assert found["loss float32 8x10", "1", "<= 3 us"] == ("2.5", "met")
    assert found["loss float32 32x100", "1", "<= 3 us"] == ("3.5", "SHORT")
    assert found["loss float32 32x100", "1", ">= 1 times torch"] == ("1", "met")


def test_reach_judges_growth_and_a_busy_core(tmp_path: Path) -> None:
    behaviour = {"cython": {"time_rows": 1.2, "busy_median": 3.5}}
    found = verdicts(tmp_path, {"benchmarks": [], "behaviour": behaviour})
    assert found["time a logit, 1000 times the rows", "1", "<= 2"] == ("1.2", "met")
    assert found["median beside a busy process", "2", "<= 3"] == ("3.5", "SHORT")
    assert found["extra bytes a row, many rows", "1", "<= 64"] == ("-", "missing")


# ---- what is wrong is said before anything is measured -------------------------------------------


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reach.py --json no/folder", "no/folder cannot be written: there is no folder"),
        ("reach.py --json .", ". cannot be written: it is a folder"),
        ("options.py --smoke --json no/folder", "no/folder cannot be written: there is no folder"),
        ("reach.py --results nothing", "nothing cannot be read: No such file or directory"),
        ("reach.py --results text", "text is no JSON, which --benchmark-json writes: Expecting"),
        ("summarise.py nothing", "nothing cannot be read: No such file or directory"),
        ("summarise.py text", "text is no JSON, which --benchmark-json writes: Expecting"),
        ("summarise.py list", "list has no results of benchmarks, which --benchmark-json writes"),
        ("behaviour.py fortran", "backend must be one of 'cython', 'numba', not 'fortran'"),
    ],
)
def test_a_program_says_what_is_wrong_before_it_measures(
    tmp_path: Path, command: str, message: str
) -> None:
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "list").write_text("[]")
    program, *options = command.split()
    done = run(tmp_path, str(BENCHMARKS / program), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"\n{program}: error: {message}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["reach.py", "options.py"])
@pytest.mark.parametrize("name", ["FASTXENT_ISA", "FASTXENT_BACKEND", "FASTXENT_NUM_THREADS"])
def test_a_program_says_what_is_wrong_with_the_environment(
    tmp_path: Path, program: str, name: str
) -> None:
    done = run(tmp_path, str(BENCHMARKS / program), "--smoke", **{name: "nonsense"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{program}: error: {name}='nonsense'" in done.stderr


def test_a_table_is_shown_where_its_results_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "results").write_text(json.dumps({"benchmarks": []}))
    command = (str(BENCHMARKS / "reach.py"), "--results", "results", "--json", "/dev/full")
    done = run(tmp_path, *command)
    assert done.returncode == 2
    assert "0 met, 0 SHORT" in done.stdout
    assert done.stderr == (
        "reach.py: error: /dev/full cannot be written: No space left on device\n"
    )


# ---- pytest-benchmark ----------------------------------------------------------------------------


def run_benchmarks(
    folder: Path, *options: str, select: str = "cython and 32x100 and softmax", **env: str
) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("pytest_benchmark", reason="the extra 'bench' brings it")
    command = ("pytest", str(BENCHMARKS / "test_cross_entropy.py"), "--smoke", "-k", select)
    return run(folder, "-P", "-m", *command, "-q", "-p", "no:cacheprovider", *options, **env)


@pytest.fixture(scope="module")
def old_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results as another machine, or another version of the benchmarks, would have them."""
    folder = tmp_path_factory.mktemp("results")
    done = run_benchmarks(folder, "--threads", "1", "--benchmark-json=new.json")
    assert done.returncode == 0, done.stdout
    results = json.loads((folder / "new.json").read_text())
    results["machine_info"] |= {"node": "another", "fastxent": {"fastxent is in": "/elsewhere"}}
    (folder / "old.json").write_text(json.dumps(results))
    return folder


def test_facts_of_the_installation_are_none_of_the_machine(old_results: Path) -> None:
    results = json.loads((old_results / "new.json").read_text())
    assert "fastxent" not in results["machine_info"]
    assert "versions" in results["commit_info"]["fastxent"]


def test_parameters_are_kept_as_numbers_and_text(old_results: Path) -> None:
    results = json.loads((old_results / "new.json").read_text())
    assert results["benchmarks"][0]["params"] == {
        "operation": "softmax",
        "dtype": "float32",
        "shape": "32x100",
        "threads": 1,
        "contender": "cython",
    }
    assert "UNSERIALIZABLE" not in json.dumps(results)


def test_results_are_compared_with_those_of_another_installation(
    tmp_path: Path, old_results: Path
) -> None:
    compared = f"--benchmark-compare={old_results / 'old.json'}"
    done = run_benchmarks(tmp_path, "--threads", "1", compared)
    assert done.returncode == 0, done.stdout
    assert "INTERNALERROR" not in done.stdout
    assert "(NOW)" in done.stdout


def test_results_are_compared_in_the_root_without_what_the_tests_need(
    tmp_path: Path, old_results: Path
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'hypothesis'\", name='hypothesis')"
    (tmp_path / "hypothesis.py").write_text(missing)
    files = [str(old_results / name) for name in ("old.json", "new.json")]
    command = ("-m", "pytest_benchmark", "compare", *files)
    done = run(BENCHMARKS.parent, "-P", *command, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "softmax" in done.stdout


@pytest.mark.parametrize("count", ["0", "-1", "two", "99999999999"])
def test_a_number_of_threads_that_is_none_is_one_message(tmp_path: Path, count: str) -> None:
    done = run_benchmarks(tmp_path, f"--threads={count}")
    assert done.returncode == 4
    said = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line]
    assert [line.partition("pytest: ")[2] for line in said] == [
        f"error: argument --threads: it must be an integer of at least 1, not {count!r}"
    ]


def test_benchmarks_say_what_is_wrong_with_the_environment(tmp_path: Path) -> None:
    done = run_benchmarks(tmp_path, FASTXENT_NUM_THREADS="many")
    assert done.returncode == 4
    assert "ERROR: FASTXENT_NUM_THREADS='many' is not a number of threads" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
