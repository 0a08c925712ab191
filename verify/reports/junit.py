"""A report as JUnit XML, which CI systems show.

A test suite for every implementation, a test case for every case and dtype. A breach and a check
that could not have failed are failures; what was left out is skipped, and so is what is wrong with
a peer, which is only compared with. A run that was interrupted has a suite more, with an error.
"""

from __future__ import annotations

import io
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from ..result import Report, Result
from .words import breach_text, mistrusted_text, verdict_text
from .writers import printable, write_text


def write_junit(report: Report, path: str | Path) -> None:
    """Write a report as JUnit XML; OSError, naming the path, where that is not possible."""
    write_text(path, junit_text(report))


def junit_text(report: Report) -> str:
    """The report as JUnit XML."""
    root = JUnitXml("fastxent verify")
    for name in report.implementations:
        root.add_testsuite(_suite(report, name))
    if not report.is_complete:
        root.add_testsuite(_interruption(report))
    root.update_statistics()  # type: ignore[no-untyped-call]
    file = io.BytesIO()
    root.write(file)
    return file.getvalue().decode()


def _suite(report: Report, implementation: str) -> TestSuite:
    suite = TestSuite(printable(implementation))
    for name, value in _properties(report).items():
        suite.add_property(printable(name), printable(value))
    chosen = [result for result in report.results if result.implementation == implementation]
    suite.add_testcases([_case(report, result) for result in chosen])
    return suite


def _interruption(report: Report) -> TestSuite:
    case = TestCase("the run goes to its end", "fastxent verify")
    case.result = [Error(verdict_text(report))]
    suite = TestSuite("fastxent verify")
    suite.add_testcase(case)
    return suite


def _properties(report: Report) -> dict[str, str]:
    settings = {
        "profile": report.profile,
        "seed": str(report.seed),
        "threads": " ".join(map(str, report.thread_counts)),
    }
    return settings | report.environment


def _case(report: Report, result: Result) -> TestCase:
    case = TestCase(
        f"{result.case}[{result.dtype}]", printable(result.implementation), round(result.seconds, 6)
    )
    reasons = printable("; ".join(sorted(result.left_out)))
    if result.is_wrong and result.implementation in report.peers:
        failure = _failure(report, result)
        case.result = [Skipped(f"wrong, but a peer: {failure.message}")]
        case.system_out = failure.text
    elif result.is_wrong:
        case.result = [_failure(report, result)]
    elif result.verdict == "left out":
        case.result = [Skipped(reasons or "nothing was checked")]
    elif reasons:  # in some of its problems only
        case.system_out = f"left out in part: {reasons}"
    return case


def _failure(report: Report, result: Result) -> Failure:
    """All that is wrong in one element: more than one for a test case are counted differently."""
    texts = [breach_text(report, result, breach) for breach in result.breaches.values()]
    kinds = list(result.breaches)
    if result.is_mistrusted:
        texts.append(mistrusted_text(report, result))
        kinds.append("a check that could not have failed")
    failure = Failure(printable("; ".join(kinds)), result.verdict)
    failure.text = printable("\n".join(texts))
    return failure
