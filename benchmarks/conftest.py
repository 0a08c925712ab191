"""Options of the benchmarks.

pytest benchmarks/ --benchmark-json=results.json     everything, with timing
pytest benchmarks/ --reach --threads 2               what requirements.py names, with 2 threads
pytest benchmarks/ --smoke                           small shapes only
pytest benchmarks/ --smoke --benchmark-disable       each once, for its result alone
"""

from __future__ import annotations

import os
from typing import Any

import pytest

import fastxent

# Without processes that start in the background, while others are timed.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastxent's benchmarks")
    group.addoption("--smoke", action="store_true", help="small shapes only")
    group.addoption("--reach", action="store_true", help="only what requirements.py names")
    group.addoption(
        "--threads",
        type=int,
        action="append",
        help="threads to time with; may be repeated (default: 1, and all)",
    )


def pytest_configure(config: pytest.Config) -> None:
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


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["fastxent"] = fastxent.show_config(mode="dicts")
