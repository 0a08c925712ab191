"""Processes that measure: runs of the benchmarks, and all else that is started for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks.machine import on_cpus
from fastxent.benchmarks.results import commit_info

HERE: Final = Path(__file__).resolve().parent


def launched(python: str, module: str, *arguments: str) -> list[str]:
    """The command that runs a module beside the benchmarks of this version: see launch.py."""
    return [python, "-P", str(HERE / "launch.py"), module, *arguments]


def run_program(
    command: Sequence[str],
    *,
    folder: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; with `quiet` what it prints is kept, both outputs in one.

    It and all that it starts are killed where this process is interrupted: they are a group of
    their own, which Ctrl-C does not reach, so that none is left behind by one that handles it.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            kill_group(process.pid)
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, printed or "")


def kill_group(leader: int) -> None:
    """Kill a process started in a session of its own, and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(leader, signal.SIGKILL)
        else:
            os.kill(leader, signal.SIGTERM)  # Windows ends the process at once


def run_pytest(
    threads: int,
    options: Sequence[str],
    files: Iterable[str] = ("test_throughput.py",),
) -> dict[str, Any]:
    """What pytest-benchmark wrote of one run, without the time of every single round.

    An empty dictionary where it wrote nothing. What pytest prints is the progress.
    """
    with on_cpus(threads), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "results.json"
        command = [
            *launched(sys.executable, "pytest", *own_files(files), *own_settings()),
            *(f"--threads={threads}", "--benchmark-quiet", f"--benchmark-json={written}"),
            *("-q", "--no-header", *options),
        ]
        done = run_program(command, folder=folder)
        if done.returncode:
            print(f"pytest's status is {done.returncode}: what failed is missing from the results")
        results = read_written(written)
    if results:
        # pytest ran in a folder that knows of no revision
        results["commit_info"] = {**results.get("commit_info", {}), **commit_info()}
    return results


def own_files(names: Iterable[str]) -> list[str]:
    return [str(HERE / name) for name in names]


def own_settings() -> list[str]:
    """pytest's options for the benchmarks of this package, whatever folder one is in."""
    return [
        *("-c", str(HERE / "launch.ini"), "--rootdir", str(HERE.parent)),
        *(f"--confcutdir={HERE.parent}", "-p", "no:cacheprovider"),
        # A process starts in half the time without the plugins that happen to be installed.
        *("--disable-plugin-autoload", "-p", "pytest_benchmark.plugin"),
    ]


def read_written(path: Path) -> dict[str, Any]:
    """Results of pytest-benchmark without the time of every round; {} where there are none."""
    if not path.exists():
        return {}
    text = path.read_text("utf-8")
    results: dict[str, Any] = json.loads(text) if text else {}
    for entry in results.get("benchmarks", ()):
        entry["stats"].pop("data", None)
    return results


def merge(results: dict[str, Any], part: dict[str, Any]) -> None:
    """Add the benchmarks of a run to those of others; the machine's facts are the last run's."""
    results.setdefault("benchmarks", []).extend(part.pop("benchmarks", []))
    results.update(part)
