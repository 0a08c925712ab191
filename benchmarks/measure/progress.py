"""A plugin of pytest: a bar instead of dots, and what was not measured as a file.

    pytest -p fastxent.benchmarks.measure.progress --not-measured=FILE

The file has {"failed": {name: reason}, "skipped": {name: reason}}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--not-measured", type=Path, metavar="FILE", help="what was not, and why")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Recorder(config))


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: Any) -> tuple[str, str, str] | None:
    """No dots between the bars."""
    if report.when == "call" or report.outcome != "passed":
        return report.outcome, "", ""
    return None


class _Recorder:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.not_measured: dict[str, dict[str, str]] = {"failed": {}, "skipped": {}}
        # It draws when a test begins and at no other time: nothing runs beside what is timed.
        self.bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # pytest looks after both
            redirect_stderr=False,
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.n_done, self.n_all = 0, len(session.items)
        self.task = self.bar.add_task("", total=self.n_all)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        with self._uncaptured():
            if self.bar.console.is_terminal:
                self.bar.start()
                self.bar.update(self.task, description=_parameters(nodeid), refresh=True)
            elif 10 * self.n_done // self.n_all != 10 * (self.n_done - 1) // self.n_all:
                # a log, in which ten lines are enough
                print(f"  {self.n_done} of {self.n_all} done", flush=True)

    def pytest_runtest_logfinish(self) -> None:
        self.n_done += 1
        self.bar.advance(self.task)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            name = report.nodeid.rpartition("::")[2]
            self.not_measured[report.outcome][name] = _reason(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome == "failed":
            self.not_measured["failed"][report.nodeid] = _reason(report)

    def pytest_sessionfinish(self) -> None:
        with self._uncaptured():
            self.bar.stop()
        if path := self.config.getoption("not_measured"):
            path.write_text(json.dumps(self.not_measured), "utf-8")

    def _uncaptured(self) -> Any:
        return self.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled()


def _parameters(nodeid: str) -> str:
    """What is between the brackets of a test's name; the whole name where there are none."""
    name = nodeid.rpartition("::")[2]
    return name.partition("[")[2].removesuffix("]") or name


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """One line: that of a skip, or the last of what was raised."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else "no reason was given"
