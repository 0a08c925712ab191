"""Options of the benchmarks.

pytest benchmarks/ --benchmark-json=results.json     everything, with timing
pytest benchmarks/ --reach --threads 2               what requirements.py names, with 2 threads
pytest benchmarks/ --smoke                           small shapes only
pytest benchmarks/ --smoke --benchmark-disable       each once, for its result alone
pytest benchmarks/ --benchmark-compare=old.json      beside results from before (another version)
"""

from __future__ import annotations

import os
import warnings
from argparse import ArgumentTypeError
from typing import Any

import pytest
from pytest_benchmark.logger import PytestBenchmarkWarning

import fastxent
from fastxent._threads import check_num_threads
from fastxent.config import check_environment

# Without processes that start in the background, while others are timed.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastxent's benchmarks")
    group.addoption("--smoke", action="store_true", help="small shapes only")
    group.addoption("--reach", action="store_true", help="only what requirements.py names")
    group.addoption(
        "--threads",
        type=_thread_count,
        action="append",
        help="threads to time with; may be repeated (default: 1, and all)",
    )


def _thread_count(text: str) -> int:
    try:
        return check_num_threads(int(text))
    except ValueError:
        raise ArgumentTypeError(f"it must be an integer of at least 1, not {text!r}") from None


def pytest_configure(config: pytest.Config) -> None:
    try:
        check_environment()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if not config.getoption("threads"):
        config.option.threads = [1, fastxent.get_num_threads()]
    # pytest-benchmark's own defaults, 1 s and 5 rounds, are too slow for this many benchmarks.
    given = " ".join(config.invocation_params.args)
    if "--benchmark-max-time" not in given:
        config.option.benchmark_max_time = 0.02 if config.getoption("smoke") else 0.1
    if "--benchmark-min-rounds" not in given:
        config.option.benchmark_min_rounds = 3
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


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    # Not among the machine's facts: to compare two installations on one machine is what it is for.
    commit_info["fastxent"] = fastxent.show_config(mode="dicts")
