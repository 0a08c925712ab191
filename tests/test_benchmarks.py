"""The tables of the benchmarks, from made-up files of results."""

from __future__ import annotations

import json
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
