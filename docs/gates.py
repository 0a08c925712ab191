"""Proves the gates of `fastxent bench`, and writes the tables of docs/gates.md.

    python docs/gates.py              every plant by both gates, and 50 comparisons of equals: hours
    python docs/gates.py --write      the tables again, from the results kept in the repository
    python docs/gates.py --short      a few minutes, for CI: exits with 1 where a gate fails
    python docs/gates.py --check      whether results of the planted versions are right

What was finished is kept in the file of results: a run that was interrupted goes on from there, and
after a change of the sources begins anew, or goes on as well (--continue).
Run it from anywhere, in an environment with the extras `bench` and `dev`, with a C compiler and
valgrind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import platformdirs
import typer
from fastxent.benchmarks.commands.errors import ending_with_a_message
from fastxent.benchmarks.judge.planted import PLANTS, Plant
from fastxent.benchmarks.judge.planted.proof import (
    Proof,
    Record,
    Task,
    comparisons,
    read_records,
    tasks,
    wrong_results,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import binomtest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "gates.md"
RESULTS: Final = ROOT / "docs" / "gates.jsonl"
CACHE: Final = platformdirs.user_cache_path("fastxent") / "planted"
BEGIN, END = "<!-- written by docs/gates.py -->\n", "<!-- written until here -->\n"
CAUGHT, QUIET, UNSURE = "fail", "pass", "inconclusive"

# Without the Numba twin, which would be compiled four times.
SHORT: Final = (
    Task("A", "cython_block_sum_10"),
    Task("A", ""),
    Task("B", "slower_python"),
    Task("B", ""),
)
SHORT_CASES: Final = ("loss float32", "gradient float32")
SHORT_TIMED: Final = "float32 and 8x10-"

Comparisons = dict[Task, Record]


def main(
    results: Annotated[Path, typer.Option(help="The file of results.")] = RESULTS,
    pairs: Annotated[int, typer.Option(min=0, help="Comparisons of equals, of each kind.")] = 50,
    idle: Annotated[bool, typer.Option("--idle", help="Only without a neighbour.")] = False,
    busy: Annotated[bool, typer.Option("--busy", help="Only beside a busy neighbour.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this plant, or `same`; may be repeated."),
    ] = None,
    gate: Annotated[str, typer.Option(help="Only this gate: A or B.")] = "",
    cache: Annotated[Path, typer.Option(help="Where the wheels are built and kept.")] = CACHE,
    write: Annotated[bool, typer.Option("--write", help="Only write the page's tables.")] = False,
    keep: Annotated[
        bool, typer.Option("--continue", help="What was made from earlier sources counts.")
    ] = False,
    short: Annotated[bool, typer.Option("--short", help="The form for CI.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Verify the planted versions.")] = False,
) -> None:
    """Prove the gates of `fastxent bench`."""
    names = only or []
    with ending_with_a_message("python docs/gates.py"):
        if gate not in ("", "A", "B"):
            raise ValueError(f"--gate must be A or B, not {gate!r}")
        if write:
            write_page(results)
        elif check:
            raise typer.Exit(check_plants(cache, chosen_plants(names)))
        elif short:
            raise typer.Exit(prove_shortly(cache))
        else:
            neighbours = [False, True] if idle == busy else [busy]
            with_same = not names or "same" in names
            wanted = tasks(pairs if with_same else 0, neighbours, chosen_plants(names))
            prove(
                Proof(ROOT, cache, results, of_other_sources=keep),
                [task for task in wanted if gate in task.gate],
            )
            if results.resolve() == RESULTS:
                write_page(results)


def chosen_plants(only: Sequence[str]) -> list[Plant]:
    """All plants, or those that are named; ValueError for one that there is not."""
    names = [plant.name for plant in PLANTS]
    if unknown := set(only) - {*names, "same"}:
        raise ValueError(f"--only {unknown.pop()}: the plants are {', '.join(names)}")
    return [plant for plant in PLANTS if not only or plant.name in only]


def prove(proof: Proof, wanted: Sequence[Task]) -> list[Record]:
    """Make those comparisons that the file has not yet, and show how far they are."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeElapsedColumn(),
    )
    records = []
    with Progress(*columns) as progress:
        shown = progress.add_task("", total=len(wanted))
        for task in wanted:
            if task not in proof.done:
                progress.update(shown, description=task.text)
                record = proof.run(task)
                records.append(record)
                progress.console.print(f"{task.text}: {record['verdict']}{_largest(record)}")
            progress.advance(shown)
    return records


def prove_shortly(cache: Path) -> int:
    """1 where a gate does not see a plant that it claims to see, or cries wolf."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        proof = Proof(ROOT, cache, results, cases=SHORT_CASES, same_timed=SHORT_TIMED)
        records = prove(proof, SHORT)
    console, status = Console(), 0
    for task, record in zip(SHORT, records, strict=True):
        expected = CAUGHT if task.plant else QUIET
        if record["verdict"] == UNSURE and task.gate == "B":
            console.print(f"{task.text}: the machine is too restless for a verdict")
        elif record["verdict"] != expected:
            console.print(f"{task.text}: the verdict is {record['verdict']}, not {expected}")
            status = 1
    return status


def check_plants(cache: Path, plants: Sequence[Plant]) -> int:
    """1 where a planted version gives a wrong result."""
    with tempfile.TemporaryDirectory() as folder:
        builds = Proof(ROOT, cache, Path(folder) / "results.jsonl").builds
    console, status = Console(), 0
    for plant in plants:
        wrong = list(wrong_results(builds.wheel(plant), plant.backends))
        console.print(f"{plant.name}: {'; '.join(wrong) or 'right'}")
        status |= bool(wrong)
    return status


# ---- the page ------------------------------------------------------------------------------------


def write_page(results: Path) -> None:
    """Write the tables of these results into the page."""
    page = PAGE.read_text("utf-8")
    PAGE.write_text(with_tables(page, read_records(results)), "utf-8")
    print(f"{PAGE.name} has been written")


def with_tables(page: str, records: Sequence[Record]) -> str:
    """The page with the tables of these results between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(tables(records)) + "\n\n" + END + behind


def tables(records: Sequence[Record]) -> Iterator[str]:
    """The lines between the page's two marks."""
    found = comparisons(records)
    if not found:
        yield "There are no results yet."
        return
    yield from circumstances(records, found)
    yield from false_alarms(found)
    yield from rates(found)
    for title, twin in (
        ("The Cython twin", "cython"),
        ("The Numba twin", "numba"),
        ("Memory, threads and the Python layer", "driver"),
    ):
        yield from caught(title, [plant for plant in PLANTS if plant.twin == twin], found)


def circumstances(records: Sequence[Record], found: Comparisons) -> Iterator[str]:
    """On which machine, under which load, and when."""
    names = {record["machine"] for record in found.values()}
    for record in records:
        if "facts" in record and record["machine"] in names:
            facts = record["facts"]
            sets = ", ".join(facts["instruction_sets"])
            yield f"Machine: {facts['cpu']}, {facts['cpus']} CPUs ({sets})."
    for neighbour, words in ((False, "without the neighbour"), (True, "beside it")):
        own = [record for task, record in found.items() if task.neighbour == neighbour]
        if own:
            loads = sorted(record["load"][0] for record in own)
            hours = sum(record["seconds"] for record in own) / 3600
            yield (
                f"{len(own)} comparisons {words}, {hours:.1f} hours; load of the machine as each "
                f"began: {loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}."
            )
    times = sorted(record["time"] for record in found.values())
    n_sources = len({record["sources"] for record in found.values()})
    of = "one state" if n_sources == 1 else f"{n_sources} states"
    yield f"From {times[0]} to {times[-1]}, with {of} of the sources."


_SETTINGS: Final = (
    ("gate A", "A", False),
    ("gate B, idle", "B", False),
    ("gate B, busy neighbour", "B", True),
)


def false_alarms(found: Comparisons) -> Iterator[str]:
    """The table of comparisons of equals."""
    yield "\n## False alarms\n"
    yield (
        "The sources compared with themselves. The bound is that of Clopper and Pearson, with 95 % "
        "confidence.\n"
    )
    yield "| | comparisons | false alarms | at most | inconclusive |"
    yield "| --- | --- | --- | --- | --- |"
    for words, gate, neighbour in _SETTINGS:
        own = _verdicts(found, gate, neighbour, [""])
        if own:
            alarms = own.count(CAUGHT)
            most = binomtest(alarms, len(own)).proportion_ci(0.95, "exact").high
            yield (
                f"| {words} | {len(own)} | {alarms} of {len(own)} | {most:.1%} | "
                f"{own.count(UNSURE)} |"
            )


def rates(found: Comparisons) -> Iterator[str]:
    """The table of what was caught, by size."""
    yield "\n## Caught, by size\n"
    yield "| more work in a kernel | gate A | gate B, idle | gate B, busy neighbour |"
    yield "| --- | --- | --- | --- |"
    for percent in sorted({plant.percent for plant in PLANTS if plant.percent}):
        names = [plant.name for plant in PLANTS if plant.percent == percent]
        cells = [_share(_verdicts(found, gate, busy, names)) for _, gate, busy in _SETTINGS]
        yield f"| {percent} % | {' | '.join(cells)} |"
    for words, gates in (("seen by B alone", ("B",)), ("seen by both", ("A", "B"))):
        names = [plant.name for plant in PLANTS if plant.seen_by == gates]
        cells = [_share(_verdicts(found, gate, busy, names)) for _, gate, busy in _SETTINGS]
        yield f"| others: {words} | {' | '.join(cells)} |"


def caught(title: str, plants: Sequence[Plant], found: Comparisons) -> Iterator[str]:
    """A row for each plant."""
    yield f"\n## {title}\n"
    yield "| plant | what it stands for | must be seen by | gate A | gate B, idle | gate B, busy |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for plant in plants:
        cells = [
            _cell(found.get(Task(gate, plant.name, busy)), plant, gate)  # type: ignore[arg-type]
            for _, gate, busy in _SETTINGS
        ]
        expected = " and ".join(plant.seen_by) or "neither"
        yield f"| {plant.name} | {plant.stands_for} | {expected} | {' | '.join(cells)} |"


def _cell(record: Record | None, plant: Plant, gate: str) -> str:
    """How many are worse and the largest ratio; "-" where it was not compared."""
    if record is None:
        return "-"
    if record["verdict"] == CAUGHT:
        verdict = f"caught, {record['worse']} of {record['measured']}"
    elif record["verdict"] == UNSURE:
        verdict = "inconclusive"
    else:
        verdict = "MISSED" if gate in plant.seen_by else "not seen"
    return verdict + _largest(record)


def _largest(record: Record) -> str:
    largest: dict[str, Any] = record["largest"]
    if "ratio" not in largest:
        return ""
    interval = f" ({largest['low']:.2f} to {largest['high']:.2f})" if "low" in largest else ""
    digits = 2 if interval else 3
    return f": {largest['ratio']:.{digits}f}{interval}"


def _verdicts(found: Comparisons, gate: str, neighbour: bool, plants: Sequence[str]) -> list[str]:
    return [
        record["verdict"]
        for task, record in found.items()
        if (task.gate, task.neighbour) == (gate, neighbour) and task.plant in plants
    ]


def _share(verdicts: Sequence[str]) -> str:
    unsure = verdicts.count(UNSURE)
    words = f"{verdicts.count(CAUGHT)} of {len(verdicts)}" if verdicts else "-"
    return f"{words}, {unsure} inconclusive" if unsure else words


if __name__ == "__main__":
    typer.run(main)
