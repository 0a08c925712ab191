"""Results of a machine in the order in which a page, a comment or the README shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastxent.benchmarks.draw.wording import count, words
from fastxent.benchmarks.judge.machines import machine_of
from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.results import Timing, Timings, read_results, read_timings, share_of_roof


@dataclass(frozen=True)
class Other:
    """A benchmark that is no throughput of an implementation: another project's, a start."""

    name: str
    group: str | None
    median: float
    spread: float
    rounds: int


@dataclass(frozen=True)
class Measured:
    """The results of one installation on one machine."""

    machine: dict[str, Any]
    instruction_set: str | None
    versions: dict[str, str]
    date: str
    command: str | None
    timings: Timings
    others: list[Other]
    implementations: list[str] = field(default_factory=list)  # roofs are none

    @property
    def threads(self) -> list[int]:
        return sorted({case.threads for case in self.timings})

    @property
    def title(self) -> str:
        cpu = self.machine.get("cpu") or "a machine without a name"
        return f"{cpu}, {self.instruction_set}" if self.instruction_set else str(cpu)

    @cached_property
    def grids(self) -> list[Grid]:
        """The cases of two axes, by operation, dtype and threads."""
        found: dict[tuple[str, str, int], dict[tuple[int, int], Case]] = {}
        for case in self.timings:
            if len(case.dimensions) == 2 and case.axis == -1:
                cells = found.setdefault((case.operation, case.dtype, case.threads), {})
                cells[case.dimensions[0], case.dimensions[1]] = case
        return [Grid(self, *key, _without_loners(cells)) for key, cells in found.items()]

    @property
    def outside_grids(self) -> list[Case]:
        inside = {case for grid in self.grids for case in grid.cells.values()}
        return [case for case in self.timings if case not in inside]

    def kind(self, name: str) -> str:
        return next(timings[name].kind for timings in self.timings.values() if name in timings)

    def names(self, kind: str, cases: Iterable[Case]) -> list[str]:
        """The implementations of a kind that were timed in any of these cases."""
        present = {name for case in cases for name in self.timings[case]}
        return [n for n in self.implementations if n in present and self.kind(n) == kind]

    def share_of_roof(self, case: Case, name: str) -> float | None:
        return share_of_roof(case, self.timings[case], name)

    def roof_seconds(self, case: Case) -> float | None:
        """The least time that the operation can take here."""
        for name, timing in self.timings[case].items():
            if timing.kind == "backend":
                share = self.share_of_roof(case, name)
                return share * timing.median if share else None
        return None


@dataclass(frozen=True)
class Grid:
    """An operation in a dtype with so many threads, over batches and classes."""

    measured: Measured
    operation: str
    dtype: str
    threads: int
    cells: dict[tuple[int, int], Case]  # by (batch, classes)

    @property
    def title(self) -> str:
        return f"{words(self.operation)}, {self.dtype}, {count(self.threads, 'thread')}"

    @property
    def batches(self) -> list[int]:
        return sorted({batch for batch, _ in self.cells})

    @property
    def classes(self) -> list[int]:
        return sorted({classes for _, classes in self.cells})

    def names(self, kind: str) -> list[str]:
        return self.measured.names(kind, self.cells.values())

    def timing(self, batch: int, classes: int, name: str) -> Timing | None:
        case = self.cells.get((batch, classes))
        return self.measured.timings[case].get(name) if case else None

    def throughput(self, batch: int, name: str) -> dict[int, float]:
        """Logits a second, by classes."""
        found = {n: self.timing(batch, n, name) for n in self.classes}
        return {n: batch * n / timing.median for n, timing in found.items() if timing}

    def roof(self, batch: int) -> dict[int, float]:
        """Logits a second that no kernel can pass, by classes."""
        found = {}
        for n in self.classes:
            case = self.cells.get((batch, n))
            seconds = self.measured.roof_seconds(case) if case else None
            if seconds:
                found[n] = batch * n / seconds
        return found

    def ratio(self, batch: int, classes: int, backend: str, peer: str) -> float | None:
        """Time of a peer / time of a backend."""
        ours, theirs = (self.timing(batch, classes, name) for name in (backend, peer))
        return theirs.median / ours.median if ours and theirs else None


def _without_loners(cells: dict[tuple[int, int], Case]) -> dict[tuple[int, int], Case]:
    """Without what has a batch and a number of classes for itself, where others do not."""
    batches = Counter(batch for batch, _ in cells)
    classes = Counter(n for _, n in cells)
    kept = {(b, n): case for (b, n), case in cells.items() if batches[b] > 1 or classes[n] > 1}
    return kept or cells


# ---- from files --------------------------------------------------------------------------------


def read_measured(paths: Sequence[Path]) -> list[Measured]:
    """Files of one installation on one machine are taken together; where both have a benchmark,
    the later file's counts.

    OSError or ValueError, naming the path.
    """
    found: dict[tuple[Any, ...], Measured] = {}
    for path in paths:
        results = read_results(path)
        try:
            measured = _measured(results)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has a result that cannot be shown: {error!r}") from error
        key = (
            measured.machine["fingerprint"],
            measured.instruction_set,
            *sorted(measured.versions.items()),
        )
        if before := found.get(key):
            for case, timings in measured.timings.items():
                before.timings.setdefault(case, {}).update(timings)
            others = {each.name: each for each in (*before.others, *measured.others)}
            before.others[:] = others.values()
            new = (n for n in measured.implementations if n not in before.implementations)
            before.implementations.extend(new)
        else:
            found[key] = measured
    return list(found.values())


def _measured(results: dict[str, Any]) -> Measured:
    timings = read_timings(results)
    names = [name for each in timings.values() for name, t in each.items() if t.kind != "roof"]
    ours = (results.get("commit_info") or {}).get("fastxent") or {}
    infos = [entry["extra_info"] for entry in results["benchmarks"]]
    python = (results.get("machine_info") or {}).get("python_version")
    versions = {
        **ours.get("versions", {}),
        **(results.get("libraries") or {}),
        **({"Python": python} if python else {}),
    }
    return Measured(
        machine=machine_of(results),
        instruction_set=next(
            (
                info["instruction_set"]
                for info in infos
                if info.get("implementation") == "cython" and info.get("instruction_set")
            ),
            ours.get("backends", {}).get("cython instruction set"),
        ),
        versions={name: str(version) for name, version in versions.items() if version},
        date=str(results.get("datetime") or "")[:10],
        command=results.get("command"),
        timings=dict(timings),
        others=[
            Other(
                name=entry["name"],
                group=entry.get("group"),
                median=float(entry["stats"]["median"]),
                spread=float(entry["stats"].get("iqr", 0.0)),
                rounds=int(entry["stats"].get("rounds", 1)),
            )
            for entry in results["benchmarks"]
            if "implementation" not in entry["extra_info"]
        ],
        # Backends first: their marks are the same on every page.
        implementations=sorted(dict.fromkeys(names), key=_place),
    )


_ORDER = ("cython", "numba", "torch", "torch_compile", "jax", "tensorflow", "sklearn", "scipy")


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
