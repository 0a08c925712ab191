"""The proof of the gates: which comparisons are made, and what is kept of each.

A comparison is one line of JSON in a file, written when it is finished: a run that was interrupted
goes on where it stopped. What was made from other sources than those in the checkout is made again,
unless it is asked for that it counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks import machine
from fastxent.benchmarks.judge.counting import INSTRUCTION_SETS, Counts, count_all
from fastxent.benchmarks.judge.counts import Judgement, pair
from fastxent.benchmarks.judge.planted import PLANTS, Gate, Plant
from fastxent.benchmarks.judge.planted.builds import Builds
from fastxent.benchmarks.judge.planted.neighbour import busy_neighbour
from fastxent.benchmarks.judge.sides import open_side
from fastxent.benchmarks.measure.processes import launched

Record = dict[str, Any]

# What is compared with itself: rows in the caches, tiles, tiny calls; with one thread and with all.
# The Numba twin would be compiled in every process, which takes longer than all the rest.
SAME_TIMED: Final = "float32 and (8x10- or 1024x1000- or 20000x10-)"
SAME_BACKENDS: Final = ("cython",)
# The fewest of a first round that `compare` takes by itself: it has that many where all its
# benchmarks are timed. More would see more, and take longer than a night.
BLOCKS: Final = 4
THRESHOLD: Final = 0.01  # of gate A
_NEEDED_TO_COUNT: Final = ("numpy", "ml_dtypes")
_VERDICTS: Final = (0, 1, 3)  # exit statuses: pass, fail, inconclusive


@dataclass(frozen=True)
class Task:
    """One comparison; without a plant the sources are compared with themselves."""

    gate: Gate
    plant: str
    neighbour: bool = False
    pair: int = 0

    @property
    def text(self) -> str:
        what = self.plant or f"the same, {self.pair + 1}"
        return f"gate {self.gate}{', busy neighbour' if self.neighbour else ''}: {what}"


def tasks(pairs: int, neighbours: Sequence[bool], plants: Iterable[Plant] = PLANTS) -> list[Task]:
    """Everything: each plant by both gates, and `pairs` comparisons of equals by each.

    Gate A counts instructions, which a neighbour does not change: it has no busy ones.
    """
    chosen = list(plants)
    made = [Task("A", plant.name) for plant in chosen]
    made += [Task("A", "", pair=pair) for pair in range(pairs)]
    for neighbour in neighbours:
        made += [Task("B", plant.name, neighbour) for plant in chosen if plant.timed]
        made += [Task("B", "", neighbour, pair) for pair in range(pairs)]
    return made


def read_records(path: Path) -> list[Record]:
    """All lines of the file; OSError or ValueError where it is none of ours."""
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is no JSON: {error}") from error
    return records


def append(path: Path, record: Record) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def task_of(record: Record) -> Task:
    return Task(record["gate"], record["plant"], record["neighbour"], record["pair"])


def comparisons(records: Iterable[Record]) -> dict[Task, Record]:
    """The last of each task."""
    return {task_of(record): record for record in records if "gate" in record}


class Proof:
    """Makes comparisons of a checkout and its plants, and keeps them in a file.

    of_other_sources: what the file has of them counts as done.
    cases: gate A counts those with one of these texts in their names; without any, all.
    same_timed: which benchmarks gate B times of equals, as pytest's -k.
    """

    def __init__(
        self,
        checkout: Path,
        folder: Path,
        results: Path,
        *,
        of_other_sources: bool = False,
        cases: Sequence[str] = (),
        same_timed: str = SAME_TIMED,
    ) -> None:
        self.builds = Builds(checkout, folder)
        self.results = results
        self.cases = cases
        self.same_timed = same_timed
        self._base_counts: dict[str, Counts] = {}
        self._counted: set[str] = set()
        self._plants = {plant.name: plant for plant in PLANTS}
        facts = machine.facts()
        self.machine = machine.fingerprint(facts)
        known = read_records(results) if results.exists() else []
        self.done = {
            task_of(record)
            for record in known
            if "gate" in record
            and (of_other_sources or record["sources"] == self.builds.fingerprint)
            and record["machine"] == self.machine
        }
        if not any("facts" in record and record["machine"] == self.machine for record in known):
            append(results, {"machine": self.machine, "facts": facts})

    def run(self, task: Task) -> Record:
        """Compare, and write the line."""
        plant = self._plants[task.plant] if task.plant else None
        base, head = self.builds.wheel(), self.builds.wheel(plant)
        backends = plant.backends if plant else SAME_BACKENDS
        load, started = os.getloadavg()[0], time.monotonic()
        with busy_neighbour(task.neighbour):
            if task.gate == "A":
                found = self._count(base, head, backends)
            else:
                timed = plant.timed if plant else self.same_timed
                found = self._time(base, head, backends, timed)
        record = {
            **asdict(task),
            **found,
            "seconds": round(time.monotonic() - started, 1),
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": self.machine,
            "sources": self.builds.fingerprint,
        }
        append(self.results, record)
        self.done.add(task)
        return record

    def _count(self, base: Path, head: Path, backends: Sequence[str]) -> Record:
        # as `fastxent bench gate BASE` does it; the sources are counted once
        if missing := [backend for backend in backends if backend not in self._counted]:
            self._counted.update(missing)
            self._base_counts |= counts_of(base, missing, self.cases)
        counts = counts_of(head, backends, self.cases)
        judged = Judgement(list(pair(self._base_counts, counts)), THRESHOLD)
        return summary_of(judged.verdict, judged.as_json({}, {}, {})["counts"])

    def _time(self, base: Path, head: Path, backends: Sequence[str], timed: str) -> Record:
        named = [word for backend in backends for word in ("--backend", backend)]
        chosen = ("--set", "compare", *named, "-k", timed, "--blocks", str(BLOCKS))
        report = bench("compare", str(base), str(head), *chosen)
        return summary_of(report["verdict"], report["benchmarks"])


def counts_of(wheel: Path, backends: Sequence[str], cases: Sequence[str] = ()) -> dict[str, Counts]:
    """The counts of a wheel, by "backend instruction-set"; of all cases, or those with a text."""
    with open_side(str(wheel), needs=_NEEDED_TO_COUNT) as side:
        jobs = [(side, backend, isa) for backend in backends for isa in INSTRUCTION_SETS]
        counted = count_all(jobs, cases)
    return {
        f"{backend} {isa}": counts for (_, backend, isa), counts in zip(jobs, counted, strict=True)
    }


def summary_of(verdict: str, measured: Sequence[Record]) -> Record:
    """The verdict, how many were measured and are worse, and the largest ratio of them."""
    worse = sum(each["verdict"] == "slower" for each in measured)
    known = [each for each in measured if each.get("ratio") is not None]
    largest = max(known, key=lambda each: float(each["ratio"]), default={})
    kept = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in largest.items()
        if key in ("name", "ratio", "low", "high")
    }
    return {"verdict": verdict, "measured": len(measured), "worse": worse, "largest": kept}


def bench(command: str, *arguments: str) -> Record:
    """What a command of `fastxent bench` writes as JSON.

    Raises ChildProcessError where it ends with neither of a gate's verdicts.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report.json"
        program = (sys.executable, "-P", "-m", "fastxent", "bench", command)
        done = subprocess.run(
            [*program, *arguments, "--json", str(written)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in _VERDICTS or not written.exists():
            raise ChildProcessError(
                f"fastxent bench {command} {' '.join(arguments)} ended with status "
                f"{done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        report: Record = json.loads(written.read_text("utf-8"))
        return report


def wrong_results(wheel: Path, backends: Sequence[str]) -> Iterator[str]:
    """What `fastxent verify` finds wrong in a wheel: a planted slowdown is no bug."""
    with open_side(str(wheel)) as side:
        for backend in backends:
            done = subprocess.run(
                launched(side.python, "fastxent", "verify", "--backend", backend, "--quick"),
                env=side.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                yield f"{backend}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
