"""Options of the benchmarks.

pytest benchmarks                                    the set `standard`, timed
pytest benchmarks --set smoke --benchmark-disable    each once, for its result alone
pytest benchmarks --batch 1024 --classes 10,1000     sizes of one's own
pytest benchmarks --benchmark-json=results.json      the results as a file
pytest benchmarks --benchmark-compare=old.json       beside results from before (another version)
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from fastxent.benchmarks.machine import facts, fingerprint
from fastxent.benchmarks.measure.peers import installed_peers
from fastxent.benchmarks.measure.selection import LISTS, SELECTION, SET_HELP, select
from pytest_benchmark.logger import PytestBenchmarkWarning

import fastxent

# Without processes that start in the background, while others are timed.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastxent's benchmarks")
    group.addoption("--set", metavar="NAME", help=f"what is timed. {SET_HELP}")
    for name, text in LISTS.items():
        group.addoption(f"--{name}", action="append", metavar="LIST", help=text)
    group.addoption("--no-peers", action="store_true", help="without other libraries")


def pytest_configure(config: pytest.Config) -> None:
    if errors := (fastxent.show_config(mode="dicts") or {}).get("errors"):
        raise pytest.UsageError("; ".join(map(str, errors)))
    _check_compared(config)
    lists = {name: config.getoption(name) for name in LISTS}
    try:
        selection = select(config.getoption("set"), lists, not config.getoption("no_peers"))
        selection.check_memory()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SELECTION] = selection
    # What libraries do when they are imported is not ours to mend: torch.compile does this.
    config.addinivalue_line(
        "filterwarnings", "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
    )
    # That two results are of different machines is worth a warning; as an error it would end pytest
    # with a traceback of its own. The line is for the run, the call for pytest-benchmark's own
    # pytest_configure, which comes behind this one.
    config.addinivalue_line(
        "filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning"
    )
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)


def _check_compared(config: pytest.Config) -> None:
    """pytest-benchmark itself measures in vain, or ends in a traceback, where a file is missing."""
    compared = config.getoption("benchmark_compare", None)
    if not isinstance(compared, str) or Path(compared).is_file():
        return
    if len(Path(compared).parts) > 2 or (compared.endswith(".json") and not _is_stored(compared)):
        raise pytest.UsageError(f"--benchmark-compare: there is no file {compared}")


def _is_stored(name: str) -> bool:
    """Whether the folder .benchmarks may have it: of other storages pytest-benchmark knows."""
    return Path(".benchmarks").is_dir() and any(Path(".benchmarks").rglob(f"*{Path(name).name}"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest makes a skipped test of a test that has no parameters, under this name.
    items[:] = [item for item in items if not item.name.endswith("[NOTSET]")]


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        terminalreporter.line("ERROR: nothing is selected: the set has no such benchmark", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    # Not among the machine's facts: to compare two installations on one machine is what it is for.
    commit_info["fastxent"] = fastxent.show_config(mode="dicts")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    # Not in machine_info either: the load is never the same, and pytest-benchmark warns of that.
    found = facts()
    output_json["machine"] = {**found, "fingerprint": fingerprint(found)}
    output_json["libraries"] = dict(installed_peers())
