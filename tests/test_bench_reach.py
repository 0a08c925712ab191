"""`fastxent bench reach`: what is asked of the package, from made-up results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_results import bare_entry as entry

pytest.importorskip("pytest_benchmark", reason="the extra 'bench' brings it")


def reach(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "fastxent", "bench", "reach", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        timeout=200,
        check=False,
    )


def table(folder: Path, results: dict[str, Any], *options: str) -> list[list[str]]:
    """The cells of every row of the printed table, its heading included."""
    (folder / "results.json").write_text(json.dumps(results))
    done = reach(folder, "--results", "results.json", *options)
    assert done.stderr == ""
    falls_short = re.search("SHORT +│", done.stdout) is not None
    is_missing = re.search("missing +│", done.stdout) is not None
    assert done.returncode == (1 if falls_short else 3 if is_missing else 0)
    lines = done.stdout.replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def verdicts(folder: Path, results: dict[str, Any]) -> dict[tuple[str, ...], tuple[str, str]]:
    """(case, threads, asked) -> (measured, verdict), for the backend cython."""
    _, *rows = table(folder, results, "--backend", "cython")
    return {(row[1], row[3], row[4]): (row[5], row[8]) for row in rows}


@pytest.mark.parametrize(("median", "verdict"), [(0.0105, "met"), (0.0106, "SHORT")])
def test_reach_compares_with_the_memory(tmp_path: Path, median: float, verdict: str) -> None:
    group = "loss float32 65536x1000 2threads"
    memory = entry(group, "roof_read", "roof", 0.010)
    ours = entry(group, "cython", "backend", median)
    found = verdicts(tmp_path, {"benchmarks": [memory, ours]})
    asked = ">= 0.95 of memory"
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


def test_reach_fails_where_a_benchmark_did(tmp_path: Path) -> None:
    missing = {"failed": {"test_a[x]": "wrong"}, "skipped": {"test_b[x]": "no", "test_c[x]": "no"}}
    (tmp_path / "results").write_text(json.dumps({"benchmarks": [], "not_measured": missing}))
    done = reach(tmp_path, "--results", "results")
    assert done.returncode == 1
    assert done.stdout.endswith("skipped, 2 of them: no\nFAILED test_a[x]: wrong\n")


# ---- what is wrong is said before anything is measured -------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--json no/folder", "no/folder cannot be written: there is no folder"),
        ("--json .", ". cannot be written: it is a folder"),
        ("--results nothing", "nothing cannot be read: No such file or directory"),
        ("--results text", "text is no JSON, which --benchmark-json writes: Expecting"),
        ("--results number", "number has no results of benchmarks, which --benchmark-json writes"),
        ("--results list", "list has no results of benchmarks, which --benchmark-json writes"),
        (
            "--results empty",
            "empty: result 1 of a benchmark cannot be read: KeyError('extra_info')",
        ),
        ("--backend fortran", "--backend must be one of cython, numba, not 'fortran'"),
    ],
)
def test_reach_says_what_is_wrong_before_it_measures(
    tmp_path: Path, options: str, message: str
) -> None:
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "empty").write_text('{"benchmarks": [{}]}')
    (tmp_path / "number").write_text('{"benchmarks": 5}')
    (tmp_path / "list").write_text("[]")
    done = reach(tmp_path, *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastxent bench reach: error: {message}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["FASTXENT_ISA", "FASTXENT_BACKEND", "FASTXENT_NUM_THREADS"])
def test_reach_says_what_is_wrong_with_the_environment(tmp_path: Path, name: str) -> None:
    done = reach(tmp_path, "--smoke", **{name: "nonsense"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"fastxent bench reach: error: {name}='nonsense'" in done.stderr


def test_a_table_is_shown_where_its_results_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "results").write_text(json.dumps({"benchmarks": []}))
    done = reach(tmp_path, "--results", "results", "--json", "/dev/full")
    assert done.returncode == 2
    assert "0 met, 0 SHORT" in done.stdout
    assert done.stderr == (
        "fastxent bench reach: error: /dev/full cannot be written: No space left on device\n"
    )


def test_growth_knows_the_backends(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fastxent.benchmarks.measure.growth", "fortran"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: backend must be one of 'cython', 'numba', not 'fortran'" in done.stderr
