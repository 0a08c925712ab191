"""A report as one page for a person: no other file and no network is needed to read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from ..case import FUNCTIONS
from ..cases import CASES
from ..result import Breach, Report, Result, Worst
from .exact_text import hexadecimal, is_number, shortest, type_name
from .page_parts import render
from .plots import make_plots
from .words import failures, left_out, notes, peers_text, run_command, verdict_text
from .writers import write_text

_TEMPLATE: Final = "page.html.jinja"
_REASONS: Final = {case.name: case.reason for case in CASES}


def write_html(report: Report, path: str | Path) -> None:
    """Write a report as one page; OSError, naming the path, where that is not possible."""
    write_text(path, html_text(report))


def html_text(report: Report) -> str:
    """The report as one page, the same for the same report."""
    return render(
        files(__package__).joinpath(_TEMPLATE),
        report=report,
        verdict=verdict_text(report),
        state=_state(report),
        verdicts={result.verdict for result in report.results},
        summaries=_summaries(report),
        plots=make_plots(report),
        failed_cases=_failed_cases(report, failures(report)),
        peers_text=peers_text(report),
        failed_peers=_failed_cases(report, failures(report, of_peers=True)),
        rows=[_row(report, result) for result in report.results],
        left_out=left_out(report),
        notes=notes(report),
        run_command=run_command(report),
        has_unnamed=any(name not in report.arguments for name in report.implementations),
    )


def _state(report: Report) -> str:
    if report.ok:
        return "good"
    return "bad" if failures(report) else "empty"


def _short(value: float | None, digits: int = 3) -> str:
    """An error in few characters."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "∞" if value > 0 else shortest(value)
    text = f"{value:.{digits}g}"
    return "0" if value == 0 else text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


# ---- parts of the page ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Summary:
    """An implementation in one dtype."""

    implementation: str
    dtype: str
    n_checked: int
    n_wrong: int
    n_left_out: int
    loss: str
    output: str
    bounds: str
    of_allowed: str


def _summaries(report: Report) -> list[_Summary]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in report.results:
        groups.setdefault((result.implementation, result.dtype), []).append(result)
    return [_summary(name, dtype, group) for (name, dtype), group in groups.items()]


def _summary(implementation: str, dtype: str, results: list[Result]) -> _Summary:
    losses = [each for each in results if each.case not in FUNCTIONS]
    bound = next((each.bound for each in losses if each.bound is not None), None)
    shares = [each.of_allowed for each in results if each.of_allowed >= 0]
    return _Summary(
        implementation,
        dtype,
        sum(each.verdict != "left out" for each in results),
        sum(each.is_wrong for each in results),
        sum(each.verdict == "left out" for each in results),
        _short(max((each.loss.ulp for each in losses if each.loss is not None), default=None)),
        _short(max((each.output.ulp for each in losses if each.output is not None), default=None)),
        "" if bound is None else f"{_short(bound.loss)} and {_short(bound.output)}",
        _short(max(shares, default=None)),
    )


@dataclass(frozen=True, slots=True)
class _Failure:
    """All that is wrong with one result."""

    id: str
    result: Result
    breaches: dict[str, list[tuple[str, list[tuple[str, str]]]]]  # kinds and facts, by command
    mistrusted: str
    command: str


@dataclass(frozen=True, slots=True)
class _FailedCase:
    """What is wrong in one case, and the reason why the case exists."""

    name: str
    why: str
    failures: list[_Failure]


def _failed_cases(report: Report, failed: list[Result]) -> list[_FailedCase]:
    found: dict[str, _FailedCase] = {}
    for result in failed:
        empty = _FailedCase(result.case, _REASONS.get(result.case, ""), [])
        found.setdefault(result.case, empty).failures.append(_failure(report, result))
    return list(found.values())


def _id(report: Report, result: Result) -> str:
    """Where its failure is on the page; names may hold what an id may not."""
    return f"{result.case}-{report.implementations.index(result.implementation)}-{result.dtype}"


def _failure(report: Report, result: Result) -> _Failure:
    breaches: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {}
    for breach in result.breaches.values():
        same = breaches.setdefault(report.command(result, breach), [])
        same.append((breach.kind, _facts(breach)))
    mistrusted = " and ".join(sorted(result.judged - result.trusted))
    return _Failure(_id(report, result), result, breaches, mistrusted, report.command(result))


def _facts(breach: Breach) -> list[tuple[str, str]]:
    """What is known of a breach, by name."""
    facts: dict[str, str | None] = {
        "problem": f"{breach.problem}{f': {breach.note}' if breach.note else ''}",
        "row": None if breach.row is None else str(breach.row),
        "column": None if breach.column is None else str(breach.column),
        "input": _value(breach.input),
        "got": _value(breach.got),
        "wanted": _value(breach.want),
        "error": _error(breach),
        "difference": _number(breach.difference),
        "allowed difference": _number(breach.allowed),
        "bound": None if breach.bound is None else f"{_short(breach.bound)} ULP",
    }
    if breach.difference is not None and breach.allowed:
        facts["share of what is allowed"] = _short(breach.of_allowed, 4)
    return [(name, text) for name, text in facts.items() if text is not None]


def _error(breach: Breach) -> str | None:
    """In ULP, where that was found: a finite difference with an infinite error has none."""
    if breach.difference is None:
        return None
    is_unknown = math.isfinite(breach.difference) and not math.isfinite(breach.error)
    return None if is_unknown else f"{_short(breach.error, 6)} ULP"


def _number(value: float | None) -> str | None:
    return None if value is None else _short(value, 4)


def _value(value: Any) -> str | None:
    if value is None:
        return None
    if not is_number(value):
        return str(value)
    exact = hexadecimal(value)
    return f"{shortest(value)} ({type_name(value)}{'' if exact is None else f', {exact}'})"


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table."""

    result: Result
    id: str
    losses: tuple[str, ...]
    outputs: tuple[str, ...]
    n_checks: int
    seconds: str


def _row(report: Report, result: Result) -> _Row:
    return _Row(
        result,
        _id(report, result),
        _errors(result.loss),
        _errors(result.output),
        sum(result.checks.values()),
        f"{result.seconds:.2f}",
    )


def _errors(worst: Worst | None) -> tuple[str, ...]:
    if worst is None:
        return ("",) * 4
    return (
        _short(worst.ulp),
        _short(worst.relative, 2),
        _short(worst.scaled, 2),
        _short(worst.of_allowed),
    )
