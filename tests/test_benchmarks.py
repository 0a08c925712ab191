"""The summary of the benchmarks, from a made-up file of results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SUMMARISE = Path(__file__).parent.parent / "benchmarks" / "summarise.py"


def entry(group: str, contender: str, kind: str, median: float) -> dict[str, Any]:
    return {
        "group": group,
        "params": {"contender": contender},
        "extra_info": {"kind": kind},
        "stats": {"median": median},
    }


def summary(folder: Path, *entries: dict[str, Any]) -> list[list[str]]:
    """The cells of every row of the printed table, its heading included."""
    results = folder / "results.json"
    results.write_text(json.dumps({"benchmarks": entries}))
    done = subprocess.run(
        [sys.executable, str(SUMMARISE), str(results)],
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


def test_the_summary_compares_with_the_limits_and_the_fastest_peer(tmp_path: Path) -> None:
    group = "loss_and_grad float32 65536x1000 2threads"
    heading, cython, numba = summary(
        tmp_path,
        entry(group, "read", "limit", 0.010),
        entry(group, "copy", "limit", 0.030),
        entry(group, "cython", "backend", 0.040),
        entry(group, "numba", "backend", 0.080),
        entry(group, "scipy", "peer", 0.8),
        entry(group, "torch", "peer", 0.2),
    )
    assert heading == ["group", "backend", "median", "of read", "of copy", "best peer", "times"]
    assert cython == [group, "cython", "40 ms", "0.25", "0.75", "torch", "5.00"]
    assert numba == ["", "numba", "80 ms", "0.12", "0.38", "torch", "2.50"]


def test_the_summary_keeps_groups_apart_and_shows_what_is_missing(tmp_path: Path) -> None:
    _, first, second = summary(
        tmp_path,
        entry("loss float32 8x10 1thread", "read", "limit", 1e-6),
        entry("loss float32 8x10 1thread", "cython", "backend", 4e-6),
        entry("loss float64 8x10 1thread", "cython", "backend", 2.0),
        entry("loss float64 8x10 1thread", "scipy", "peer", 1.0),
    )
    assert first == ["loss float32 8x10 1thread", "cython", "4 us", "0.25", "-", "-", "-"]
    assert second == ["loss float64 8x10 1thread", "cython", "2 s", "-", "-", "scipy", "0.50"]
