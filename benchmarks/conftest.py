"""Options of the benchmarks.

pytest benchmarks/ --benchmark-json=results.json     everything, with timing
pytest benchmarks/ --smoke                           small shapes only
pytest benchmarks/ --smoke --benchmark-disable       each once, for its result alone
"""

from __future__ import annotations

from typing import Any

import pytest

import fastxent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--smoke", action="store_true", help="benchmarks: small shapes only")


def pytest_configure(config: pytest.Config) -> None:
    # pytest-benchmark's own defaults, 1 s and 5 rounds, are too slow for this many benchmarks.
    given = " ".join(config.invocation_params.args)
    if "--benchmark-max-time" not in given:
        config.option.benchmark_max_time = 0.02 if config.getoption("smoke") else 0.1
    if "--benchmark-min-rounds" not in given:
        config.option.benchmark_min_rounds = 3


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["fastxent"] = fastxent.show_config(mode="dicts")
