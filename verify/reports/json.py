"""A report as JSON: everything that is in it, in a layout that programs can rely on.

Valid for any parser: numbers that JSON has no form for are the strings "NaN", "Infinity" and
"-Infinity", so every field that holds an error is a number or one of these. Fields are only ever
added while `schema_version` stays the same. null means that there is no such thing. A result is on
a line of its own.

    schema          "fastxent.verify"
    schema_version  1
    summary         ok (is all well?), complete (false where the run was interrupted: not ok),
                    verdict (a sentence), cases (how many); results and peers, how many in all and
                    of each verdict: total, ok, breach, bits_differ, mistrusted, left_out. Peers are
                    only compared with: ok and verdict leave them aside
    environment     versions and the machine, text by name
    settings        profile, seed, thread_counts, level; implementations: a list of name, and
                    argument (its option on the command line, null if it has none), and is_peer
    seconds         what the run took
    notes           sentences about the whole run
    results         a list, one for each case, implementation and dtype

A result:

    case, implementation, dtype, profile
    verdict         "ok", "BREACH", "BITS DIFFER", "MISTRUSTED" or "left out"
    bound           loss and output: the largest errors allowed in ULP; null in profile standard
    errors          loss and output: the largest errors found, each as ulp, relative, scaled and
                    of_allowed (beside the error allowed: above 1 is a breach). output is the
                    gradient, and in the cases named softmax and log_softmax their values; those of
                    logsumexp are in loss
    reference       what gave the exact values: "scipy", "extended", "both" or "-"
    checks          how often each check was made, by its name
    mistrusted      kinds of result whose check could not have failed
    breaches        a list, see below
    left_out        reasons why some or all problems were not put to it
    notes           sentences
    points          for every problem: n_rows, n_classes, and the errors in ULP loss and output
    digest          of the bits of all that was computed; the same for the same bits
    seconds         what it took
    command         repeats it

A breach is the worst of its kind:

    kind            what is wrong
    problem, note   which of the case's problems, counted from 0, and what that one is
    row, column     where
    input, got, wanted
                    a number as type ("float32"), shortest (digits enough to get it back), decimal
                    (all its digits) and hex ("0x1.8p+1"); the last two are null unless it is
                    finite. What is no number has type "text", and text
    error           in ULP
    difference, allowed
                    |got - wanted| and the largest that may be
    of_allowed      the one beside the other
    bound           in ULP
    command         repeats this problem
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..bounds import Bound
from ..result import Breach, Report, Result, Worst
from .exact_text import decimal_digits, hexadecimal, is_number, shortest, type_name
from .words import verdict_text
from .writers import printable, write_text

SCHEMA: Final = "fastxent.verify"
SCHEMA_VERSION: Final = 1


def write_json(report: Report, path: str | Path) -> None:
    """Write a report as JSON; OSError, naming the path, where that is not possible."""
    write_text(path, json_text(report))


def json_text(report: Report) -> str:
    """The report as JSON, in the layout described above."""
    head = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "summary": _summary(report),
        "environment": report.environment,
        "settings": _settings(report),
        "seconds": report.seconds,
        "notes": report.notes,
    }
    fields = [f"{_json(name)}: {_json(value)}" for name, value in head.items()]
    results = ",\n".join(_json(_result(report, result)) for result in report.results)
    fields.append(f'"results": [\n{results}\n]')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The same with nothing in it that some parser might refuse."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, np.integer):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else shortest(number)


def _summary(report: Report) -> dict[str, Any]:
    own = [result for result in report.results if result.implementation not in report.peers]
    peers = [result for result in report.results if result.implementation in report.peers]
    return {
        "ok": report.ok,
        "complete": report.is_complete,
        "verdict": verdict_text(report),
        "cases": len({result.case for result in report.results}),
        "results": _counts(own),
        "peers": _counts(peers),
    }


def _counts(results: list[Result]) -> dict[str, int]:
    found = Counter(result.verdict for result in results)
    names = ("ok", "BREACH", "BITS DIFFER", "MISTRUSTED", "left out")
    counts = {name.lower().replace(" ", "_"): found[name] for name in names}
    return {"total": len(results)} | counts


def _settings(report: Report) -> dict[str, Any]:
    return {
        "profile": report.profile,
        "seed": report.seed,
        "thread_counts": report.thread_counts,
        "level": report.level,
        "implementations": [
            {
                "name": name,
                "argument": report.arguments.get(name),
                "is_peer": name in report.peers,
            }
            for name in report.implementations
        ],
    }


def _result(report: Report, result: Result) -> dict[str, Any]:
    return {
        "case": result.case,
        "implementation": result.implementation,
        "dtype": result.dtype,
        "profile": result.profile,
        "verdict": result.verdict,
        "bound": _bound(result.bound),
        "errors": {"loss": _worst(result.loss), "output": _worst(result.output)},
        "reference": result.reference,
        "checks": dict(sorted(result.checks.items())),
        "mistrusted": sorted(result.judged - result.trusted),
        "breaches": [_breach(report, result, each) for each in result.breaches.values()],
        "left_out": sorted(result.left_out),
        "notes": sorted(result.notes),
        "points": [
            {"n_rows": p.n_rows, "n_classes": p.n_classes, "loss": p.loss, "output": p.output}
            for p in result.points
        ],
        "digest": result.digest,
        "seconds": result.seconds,
        "command": report.command(result),
    }


def _bound(bound: Bound | None) -> dict[str, float | None] | None:
    return None if bound is None else {"loss": bound.loss, "output": bound.output}


def _worst(worst: Worst | None) -> dict[str, float] | None:
    if worst is None:
        return None
    return {
        "ulp": worst.ulp,
        "relative": worst.relative,
        "scaled": worst.scaled,
        "of_allowed": worst.of_allowed,
    }


def _breach(report: Report, result: Result, breach: Breach) -> dict[str, Any]:
    return {
        "kind": breach.kind,
        "problem": breach.problem,
        "note": breach.note,
        "row": breach.row,
        "column": breach.column,
        "input": _value(breach.input),
        "got": _value(breach.got),
        "wanted": _value(breach.want),
        "error": breach.error,
        "difference": breach.difference,
        "allowed": breach.allowed,
        "of_allowed": breach.of_allowed,
        "bound": breach.bound,
        "command": report.command(result, breach),
    }


def _value(value: Any) -> dict[str, str | None] | None:
    if value is None:
        return None
    if not is_number(value):
        return {"type": "text", "text": str(value)}
    return {
        "type": type_name(value),
        "shortest": shortest(value),
        "decimal": decimal_digits(value),
        "hex": hexadecimal(value),
    }
