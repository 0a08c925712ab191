"""What `fastxent bench compare` and `fastxent bench gate` write, as pages and comments show it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks.judge.counts import NOT_COMPARED
from fastxent.benchmarks.results import read_json

# A word for each, the worst first.
_STATES = ("fail", "inconclusive", "pass")
# What came of a benchmark is shown in this order; equals are not.
RANKS: Final = ("slower", "unclear", "inconclusive", "gone", "new", "faster", NOT_COMPARED, "same")
# Benchmarks that `compare` does not judge, by the key in its JSON.
APART: Final = {
    "failed_in_head": "failed in HEAD",
    "failed_in_base": "failed in BASE",
    "only_in_base": "run in BASE only",
    "only_in_head": "run in HEAD only",
    "unreliable": "did not run in every process",
}

# What to do about verdicts of benchmarks that let a comparison end without one.
_ADVICE: Final = {
    "inconclusive": "BASE was not as fast as itself: the machine is too restless. Run it again "
    "when it is idle, or only these (-k) with more --blocks",
    "unclear": "the interval contains the threshold: more --blocks narrow it",
}


def advice(verdicts: Iterable[str]) -> Iterator[str]:
    """A line for each kind of verdict that is none."""
    found = Counter(verdicts)
    for verdict, text in _ADVICE.items():
        if found[verdict]:
            yield f"{found[verdict]} {verdict}: {text}"


@dataclass(frozen=True)
class Change:
    """A benchmark of `compare` or a count of `gate`; None for what is not known.

    ratio: of HEAD to BASE. low, high: the interval of the ratio.
    """

    name: str
    base: float | None
    head: float | None
    ratio: float | None
    verdict: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a gate says."""

    kind: str  # "compare" or "gate"
    verdict: str  # "pass", "fail" or "inconclusive"
    base: str
    head: str
    threshold: float
    changes: list[Change]
    notes: list[str]  # what bears on it: reasons, the load, what it cannot see

    @property
    def notable(self) -> list[Change]:
        """The changes that are not "same", by verdict, then by how large they are."""
        others = [each for each in self.changes if each.verdict not in ("same", NOT_COMPARED)]
        return sorted(others, key=lambda each: (RANKS.index(each.verdict), -_size(each)))

    def count(self, verdict: str) -> int:
        return sum(each.verdict == verdict for each in self.changes)


def _size(change: Change) -> float:
    return abs(math.log(change.ratio)) if change.ratio else 0.0


def worst(verdicts: list[Verdict]) -> str | None:
    """None where there are none."""
    found = {each.verdict for each in verdicts}
    return next((state for state in _STATES if state in found), None)


def read_object(path: Path) -> dict[str, Any]:
    """OSError or ValueError, naming the path, where a file holds no JSON object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is JSON, but no object: {type(found).__name__}")
    return found


def read_verdict(path: Path, kind: str) -> Verdict:
    """ValueError, naming the path, where it is not what `fastxent bench KIND --json` wrote."""
    found = read_object(path)
    try:
        if found.get("kind") != kind or found["verdict"] not in _STATES:
            raise ValueError(f"kind {found.get('kind')!r}, verdict {found.get('verdict')!r}")
        return verdict_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not what `fastxent bench {kind}` writes: {error!r}") from error


def verdict_of(report: dict[str, Any]) -> Verdict:
    """What a gate writes as JSON, as pages and comments show it."""
    kind = report["kind"]
    return Verdict(
        kind=kind,
        verdict=report["verdict"],
        base=_side(report.get("base")),
        head=_side(report.get("head")),
        threshold=_number(report, "threshold") or 0.0,
        changes=[_change(each) for each in report["benchmarks" if kind == "compare" else "counts"]],
        notes=list(_notes(report)),
    )


def _side(found: Any) -> str:
    if not isinstance(found, dict):
        return str(found or "?")
    name, version = str(found.get("name", "?")), found.get("version")
    return f"{name} ({version})" if version and version not in name else name


def _change(found: dict[str, Any]) -> Change:
    timed = "base_median" in found
    if found["verdict"] not in RANKS:
        raise ValueError(f"verdict {found['verdict']!r}")
    return Change(
        name=str(found["name"]),
        base=_number(found, "base_median" if timed else "base"),
        head=_number(found, "head_median" if timed else "head"),
        ratio=_number(found, "ratio"),
        verdict=found["verdict"],
        low=_number(found, "low"),
        high=_number(found, "high"),
    )


def _number(found: dict[str, Any], name: str) -> float | None:
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    return value if math.isfinite(value) else None


def _notes(found: dict[str, Any]) -> list[str]:
    notes = [str(reason) for reason in found.get("reasons") or []]
    notes += advice(str(each["verdict"]) for each in found.get("benchmarks") or [])
    for key, text in APART.items():
        if names := found.get(key):
            notes.append(f"{text}: {', '.join(map(str, names))}")
    if load := [each for each in found.get("load") or [] if each is not None]:
        notes.append(f"load of the machine before and after: {', '.join(map(str, load))}")
    if found.get("blocks"):
        notes.append(f"in {found['blocks']} blocks of fresh processes that took turns")
    if blind_to := found.get("blind_to"):
        notes.append(str(blind_to))
    return notes
