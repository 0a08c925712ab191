"""What a report says in words, whichever file it goes to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..case import FUNCTIONS, dtype_named
from ..cases import cases_named
from ..implementation import BACKENDS
from ..metrics import unit_roundoff
from ..profile import STANDARD, loss_dtype
from ..result import Breach, Report, Result


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def failures(report: Report, *, of_peers: bool = False) -> list[Result]:
    """What fails the run; or what is wrong with the peers, which fails nothing."""
    return [each for each in report.failed if (each.implementation in report.peers) == of_peers]


def verdict_text(report: Report) -> str:
    """What came out, in a sentence; peers are left aside."""
    own = [result for result in report.results if result.implementation not in report.peers]
    n_checked = sum(result.verdict != "left out" for result in own)
    n_wrong = sum(bool(result.breaches) for result in own)
    n_mistrusted = len(failures(report)) - n_wrong
    if not report.is_complete:
        when = f"after {count(n_checked, 'check')}" if n_checked else "before anything was checked"
        found = f": {_wrong_text(n_wrong, n_mistrusted)}" if n_wrong or n_mistrusted else ""
        return f"Interrupted {when}{found}"
    if not n_checked:
        return "Nothing was checked"
    if n_wrong or n_mistrusted:
        return _wrong_text(n_wrong, n_mistrusted)
    checks = "The one check is" if n_checked == 1 else f"All {n_checked} checks are"
    # What is within it may have no digit left: see `_without_digits`.
    within = "what profile standard allows" if report.profile == STANDARD else "bounds"
    return f"{checks} within {within}"


def _wrong_text(n_wrong: int, n_mistrusted: int) -> str:
    wrong = f"{count(n_wrong, 'result')} {'is' if n_wrong == 1 else 'are'} wrong"
    mistrusted = f"{count(n_mistrusted, 'check')} could not have found a fault"
    return " and ".join([wrong] * (n_wrong > 0) + [mistrusted] * (n_mistrusted > 0))


def peers_text(report: Report) -> str:
    """How many results of peers are wrong, in a sentence; empty without peers."""
    n_wrong = len(failures(report, of_peers=True))
    n_results = sum(
        result.implementation in report.peers and result.verdict != "left out"
        for result in report.results
    )
    if not n_results:
        return ""
    return (
        f"Other libraries, only to compare with: {n_wrong or 'none'} of {n_results} results wrong."
    )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Cases that were not, or not wholly, put to some implementations, and why."""

    reason: str
    implementations: list[str]
    cases: list[str]
    dtypes: list[str]


def left_out(report: Report) -> list[LeftOut]:
    """What was left out, and why."""
    cases: dict[tuple[str, str], dict[str, None]] = {}
    dtypes: dict[tuple[str, str], dict[str, None]] = {}
    for result in report.results:
        for reason in sorted(result.left_out):
            key = (result.implementation, reason)
            cases.setdefault(key, {})[result.case] = None
            dtypes.setdefault(key, {})[result.dtype] = None
    # What is the same for several implementations is said once.
    found: dict[tuple[str, ...], LeftOut] = {}
    for (implementation, reason), names in cases.items():
        used = dtypes[implementation, reason]
        empty = LeftOut(reason, [], list(names), list(used))
        group = found.setdefault((reason, *names, *used), empty)
        group.implementations.append(implementation)
    return sorted(found.values(), key=lambda each: each.reason)


def left_out_lines(report: Report) -> list[str]:
    """The same for a terminal: a line for each implementation and kind of reason."""
    groups: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for result in report.results:
        for reason in sorted(result.left_out):
            # "takes no axis" and "takes no softcap" are one line.
            kind, found, what = reason.partition(" no ")
            key = (result.implementation, f"{kind} no " if found else reason)
            objects, cases = groups.setdefault(key, ([], []))
            _append_new(objects, what)
            _append_new(cases, result.case)
    return [
        f"{name} {kind}{', '.join(filter(None, objects))}: left out in {_names(cases)}"
        for (name, kind), (objects, cases) in groups.items()
    ]


def _append_new(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} cases"


def notes(report: Report) -> list[str]:
    """What there is to say about the whole run, without what was left out."""
    of_results = dict.fromkeys(note for result in report.results for note in sorted(result.notes))
    return [*report.notes, *of_results, *_without_digits(report), *_parity(report)]


def _without_digits(report: Report) -> list[str]:
    """Where results that pass have no correct digit, since the plain formula has none either."""
    cases: dict[tuple[str, str], dict[str, None]] = {}
    for result in report.results:
        if result.implementation in report.peers or result.is_wrong:
            continue
        names = (result.case,) * 2 if result.case in FUNCTIONS else ("losses", "gradients")
        dtype = dtype_named(result.dtype)
        dtypes = (loss_dtype(dtype), dtype)
        for name, part, of in zip(names, (result.loss, result.output), dtypes, strict=True):
            # One ULP is at most 2 u of a number: an error as large as the number itself, or more.
            if part is not None and part.ulp * 2 * unit_roundoff(of) >= 1:
                cases.setdefault((result.implementation, name), {})[result.case] = None
    together: dict[tuple[str, ...], list[str]] = {}
    for (implementation, name), found in cases.items():
        together.setdefault((implementation, *found), []).append(name)
    return [
        f"{implementation}: {' and '.join(names)} without a correct digit in {_names(found)}, as "
        "the plain formula gives there; profile standard allows that, --profile strict does not"
        for (implementation, *found), names in together.items()
    ]


def _parity(report: Report) -> list[str]:
    """How the twins compare: in how many results they gave the same bits."""
    digests: dict[tuple[str, str], dict[str, str]] = {}
    for result in report.results:
        if result.digest and not result.left_out:
            digests.setdefault((result.case, result.dtype), {})[result.implementation] = (
                result.digest
            )
    pairs = [found for found in digests.values() if {"cython", "numba"} <= set(found)]
    same = sum(found["cython"] == found["numba"] for found in pairs)
    return (
        [f"cython and numba gave the same bits in {same} of {len(pairs)} results"] if pairs else []
    )


def run_command(report: Report) -> str:
    """The command that repeats the whole run."""
    own = [name for name in report.implementations if name not in report.peers]
    arguments = [report.arguments.get(name, "--impl MODULE:FUNCTION") for name in own]
    if report.peers:
        arguments = [
            "--peers",
            *(
                f"--backend {name}" if name in BACKENDS else argument
                for name, argument in zip(own, arguments, strict=True)
            ),
        ]
    dtypes = list(dict.fromkeys(result.dtype for result in report.results))
    cases = list(dict.fromkeys(result.case for result in report.results))
    return " ".join(
        [
            "fastxent verify",
            *arguments,
            f"--profile {report.profile}",
            *_level(report, cases, dtypes),
            *(f"--dtype {name}" for name in dtypes),
            f"--seed {report.seed}",
            *(f"--threads {n}" for n in report.thread_counts),
        ]
    )


def _level(report: Report, cases: list[str], dtypes: Iterable[str]) -> list[str]:
    """The option of the level, or the cases one by one where only some of it were run."""
    usual = [
        case.name
        for case in cases_named([], report.level)
        if any(
            dtype in case.dtypes and (report.profile != STANDARD or dtype in case.standard)
            for dtype in dtypes
        )
    ]
    if cases == usual:
        return [] if report.level == "default" else [f"--{report.level}"]
    return [f"--case {name}" for name in cases]


def breach_text(report: Report, result: Result, breach: Breach) -> str:
    """All that is known of a breach, a fact a line, with the command that repeats it."""
    where = f" ({breach.note})" if breach.note else ""
    facts: dict[str, object] = {
        "impl": result.implementation,
        "dtype": result.dtype,
        "row": breach.row,
        "column": breach.column,
        "input": breach.input,
        "got": breach.got,
        "wanted": breach.want,
        "error": _error_text(breach),
        "bound": _bound_text(breach),
        "repeat": report.command(result, breach),
    }
    lines = [f"BREACH {result.case}{where}: {breach.kind}"]
    lines += [f"  {name:<8} {value!s}" for name, value in facts.items() if value is not None]
    return "\n".join(lines) + "\n"


def _error_text(breach: Breach) -> str | None:
    if breach.difference is None or not math.isfinite(breach.difference):
        return None
    ulps = f"{breach.error:.6g} ULP, " if math.isfinite(breach.error) else ""
    return f"{ulps}{breach.difference:.3g} in absolute terms"


def _bound_text(breach: Breach) -> str | None:
    if breach.bound is not None:
        return f"{breach.bound:g} ULP"
    return None if breach.allowed is None else f"{breach.allowed:.3g} in absolute terms"


def failure_text(report: Report) -> str:
    """Everything that is wrong, or that nothing was checked."""
    own = failures(report)
    texts = [f"{verdict_text(report)}\n"]
    if not own:
        texts += [*notes(report), *left_out_lines(report)]
    for result in own:
        texts += [breach_text(report, result, breach) for breach in result.breaches.values()]
        if result.is_mistrusted:
            texts.append(mistrusted_text(report, result))
    return "\n".join(texts)


def mistrusted_text(report: Report, result: Result) -> str:
    """What is meant by MISTRUSTED, with the command that repeats it."""
    kinds = " and ".join(sorted(result.judged - result.trusted))
    return (
        f"MISTRUSTED {result.case}: {kinds}\n"
        f"  impl     {result.implementation}\n  dtype    {result.dtype}\n"
        "  reason   on this data an answer of nothing but 0, NaN or one number would pass\n"
        f"  repeat   {report.command(result)}\n"
    )
