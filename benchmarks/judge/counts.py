"""Counts of instructions judged: beside those of another version, or the recorded ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from fastxent.benchmarks.results import read_json

RECORDED: Final = Path(__file__).with_name("counts.json")
BLIND_TO: Final = (
    "Counts do not see what is waited for: bandwidth, cache misses, mispredicted branches, threads "
    "that wake up; nor AVX-512, which valgrind does not run. fastxent bench compare times it all."
)

NOT_COMPARED: Final = "not compared"

Change = Literal["same", "slower", "faster", "new", "gone"]
Verdict = Literal["pass", "fail", "inconclusive"]
Sections = Mapping[str, Mapping[str, int]]  # "backend instruction-set": {"case: kernel": count}


@dataclass(frozen=True)
class Count:
    """One kernel of one case, before and now; None where there is none."""

    name: str
    base: int | None
    head: int | None

    @property
    def ratio(self) -> float | None:
        return self.head / self.base if self.base and self.head is not None else None

    def change(self, threshold: float) -> Change:
        if self.base is None:
            return "new"
        if self.head is None:
            return "gone"
        if self.head > self.base * (1 + threshold):
            return "slower"
        return "faster" if self.head < self.base * (1 - threshold) else "same"


@dataclass(frozen=True)
class Judgement:
    """All counts; `alone` have nothing to be compared with, for `reasons` that say the way out."""

    counts: Sequence[Count]
    threshold: float
    reasons: Sequence[str] = ()
    alone: Sequence[Count] = ()

    @property
    def verdict(self) -> Verdict:
        """Never "pass" where a count has gone, or nothing was compared at all."""
        found = {count.change(self.threshold) for count in self.counts}
        if "slower" in found:
            return "fail"
        nothing = found <= {"new"}
        return "inconclusive" if self.reasons or nothing or "gone" in found else "pass"

    @property
    def changed(self) -> list[Count]:
        """What is not the same: the slowest first, then what is new or gone."""
        found = [count for count in self.counts if count.change(self.threshold) != "same"]
        return sorted(found, key=lambda count: (-(count.ratio or 0), count.name))

    def summary(self) -> list[str]:
        """What is to be said in words."""
        tally = Counter(count.change(self.threshold) for count in self.counts)
        unequal = sum(count.base != count.head for count in self.counts) - (
            len(self.counts) - tally["same"]
        )
        lines = [
            f"{len(self.counts)} counts: {tally['slower']} slower, {tally['faster']} faster, "
            f"{tally['new']} new, {tally['gone']} gone, {unequal} changed by up to "
            f"{100 * self.threshold:.3g} %, {tally['same'] - unequal} equal",
            *self.reasons,
        ]
        if self.alone:
            lines.append(f"{len(self.alone)} counts have nothing that they can be compared with")
        if tally["faster"] and not tally["slower"]:
            lines.append(
                "Fewer instructions: fastxent bench gate --record keeps them, so that the next "
                "change is held against these."
            )
        if tally["slower"]:
            lines.append(
                "More instructions: fastxent bench compare says whether they cost time. Where they "
                "are meant, fastxent bench gate --record keeps them, for a review to see."
            )
        return [*lines, BLIND_TO]

    def as_json(self, toolchain: Any, base: Any, head: Any) -> dict[str, Any]:
        return {
            "kind": "gate",
            "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "verdict": self.verdict,
            "threshold": self.threshold,
            "toolchain": toolchain,
            "base": base,
            "head": head,
            "reasons": list(self.reasons),
            "counts": [
                *(_entry(count, count.change(self.threshold)) for count in self.counts),
                *(_entry(count, NOT_COMPARED) for count in self.alone),
            ],
            "blind_to": BLIND_TO,
        }


def _entry(count: Count, verdict: str) -> dict[str, Any]:
    return {
        "name": count.name,
        "base": count.base,
        "head": count.head,
        "ratio": count.ratio,
        "verdict": verdict,
    }


def pair(base: Sections, head: Sections) -> Iterator[Count]:
    """The counts of the sections that are in `head`, by name; `base` may have others.

    Where a case runs other kernels than before, what all of them take is compared: a kernel that
    was split or has another name is not new.
    """
    for section, counts in sorted(head.items()):
        before = base.get(section, {})
        cases: dict[str, list[str]] = {}
        for name in sorted({*before, *counts}):
            cases.setdefault(name.rpartition(": ")[0], []).append(name)
        for case, names in cases.items():
            own_before = {name: before[name] for name in names if name in before}
            own_now = {name: counts[name] for name in names if name in counts}
            if own_before and own_now and own_before.keys() != own_now.keys():
                now = sum(own_now.values())
                yield Count(f"{section} {case}: all kernels", sum(own_before.values()), now)
                names = [name for name in names if name in own_before and name in own_now]
            for name in names:
                yield Count(f"{section} {name}", before.get(name), counts.get(name))


def differences(backend: str, recorded: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Why counts of a backend cannot be held against recorded ones; None where they can."""
    before, now = recorded.get("toolchain", {}).get(backend), here[backend]
    way_out = "record anew (`fastxent bench gate --record`), or name a BASE, which is counted here"
    if before is None:
        return f"{backend}: nothing is recorded; {way_out}"
    unlike = [
        f"{name} {before.get(name, 'unknown')}, here {now.get(name, 'unknown')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if unlike:
        return f"{backend}: recorded with {'; '.join(unlike)}; {way_out}"
    return None


def read_recorded(path: Path = RECORDED) -> dict[str, Any]:
    """What `--record` wrote; OSError or ValueError, naming the path."""
    recorded = read_json(path, "--record")
    if not isinstance(recorded, dict) or not isinstance(recorded.get("counts"), dict):
        raise ValueError(f"{path} has no counts, which --record writes")
    return recorded


def with_recorded(
    recorded: Mapping[str, Any], toolchain: Mapping[str, Any], sections: Sections
) -> str:
    """The text of the file with these counts in it, one a line, for each backend counted anew."""
    backends = {section.split()[0] for section in sections}
    kept = {
        section: counts
        for section, counts in recorded.get("counts", {}).items()
        if section.split()[0] not in backends
    }
    tools = dict(recorded.get("toolchain", {})) | {name: toolchain[name] for name in backends}
    found = {"counts": kept | dict(sections), "toolchain": tools}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"
