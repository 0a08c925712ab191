"""The command `fastxent bench gate`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from fastxent.benchmarks.commands.errors import STATUS, ending_with_a_message
from fastxent.benchmarks.draw.counts import as_table
from fastxent.benchmarks.draw.markdown import verdict_text
from fastxent.benchmarks.draw.tables import print_table
from fastxent.benchmarks.judge.counting import (
    BACKENDS,
    INSTRUCTION_SETS,
    check_valgrind,
    count_all,
    toolchain_of,
)
from fastxent.benchmarks.judge.counts import (
    RECORDED,
    Judgement,
    differences,
    pair,
    read_recorded,
    with_recorded,
)
from fastxent.benchmarks.judge.sides import Side, open_side
from fastxent.benchmarks.judge.verdicts import verdict_of
from fastxent.benchmarks.results import commit_info
from fastxent.verify.reports.writers import check_target, write_text
from rich.progress import Progress

# What the processes import beside the package.
_NEEDS: Final = ("numpy", "ml_dtypes")

_Sections = dict[str, dict[str, int]]


def gate(
    base: Annotated[
        str | None,
        typer.Argument(metavar="[BASE]", help="A revision, a wheel or an environment's folder."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write them to benchmarks/judge/counts.json, which later ones are held against.",
        ),
    ] = False,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Only this one.")] = None,
    isa: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this instruction set.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, help="A count that is higher by more fails.")
    ] = 1.0,
    show_all: Annotated[bool, typer.Option("--all", help="Show what is the same too.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all counts to this file.")
    ] = None,
    markdown_path: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table to it.")
    ] = None,
) -> None:
    """Count the instructions of every kernel: against the recorded counts, or those of BASE.

    Exit status: 0 if none has more; 1 if one has; 2 for a wrong command, or where valgrind is
    missing; 3 where not enough could be compared, and the output says why; 130 after Ctrl-C.
    """
    with ending_with_a_message("fastxent bench gate"):
        backends = _chosen("--backend", backend, BACKENDS)
        sets = _chosen("--isa", isa, tuple(INSTRUCTION_SETS))
        if record and (base or isa):
            raise ValueError("--record goes with neither BASE nor --isa: it keeps all sets of HEAD")
        target = _recorded_in_checkout()
        for path in (json_path, markdown_path, target if record else None):
            if path:
                check_target(path)  # not after minutes
        check_valgrind()
        judgement, report = _judge(base, backends, sets, threshold / 100, target, record)
        if shown := judgement.counts if show_all else judgement.changed:
            print_table(as_table(shown, judgement.threshold))
        for line in judgement.summary():
            print(line)
        print(f"verdict: {judgement.verdict}" if not record else f"recorded in {target}")
        if json_path:
            write_text(json_path, json.dumps(report, indent=1))
        if markdown_path:
            write_text(markdown_path, verdict_text(verdict_of(report)))
    raise typer.Exit(0 if record else STATUS[judgement.verdict])


def _chosen(option: str, name: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    if name is not None and name not in names:
        raise ValueError(f"{option} must be one of {', '.join(names)}, not {name!r}")
    return (name,) if name else names


def _recorded_in_checkout() -> Path:
    """The file in the checkout one stands in: an installed one would be changed to no purpose."""
    here = Path("benchmarks", "judge", RECORDED.name)
    return here.resolve() if here.is_file() else RECORDED


def _judge(
    base: str | None,
    backends: tuple[str, ...],
    sets: tuple[str, ...],
    threshold: float,
    recorded_in: Path,
    record: bool,
) -> tuple[Judgement, dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(open_side(None, needs=_NEEDS))
        sides = [head]
        if base is not None:
            sides.append(stack.enter_context(open_side(base, needs=_NEEDS)))
        tools = [toolchain_of(side) for side in sides]
        counted = [each for each in sets if all(each in found["counted"] for found in tools)]
        reasons = _uncounted(sides, tools, sets)
        sections = _count(sides, backends, counted)
    recorded: dict[str, Any] = {}
    name: dict[str, str] | str
    if base is not None:
        before, name = sections[1], {"name": sides[1].name, "version": sides[1].version}
    else:
        recorded, before, name = read_recorded(recorded_in), {}, "recorded"
        for backend in backends if counted else ():
            if reason := differences(backend, recorded, tools[0]):
                reasons.append(reason)
            else:
                before |= {
                    section: counts
                    for section, counts in recorded["counts"].items()
                    if section.startswith(f"{backend} ")
                }
    if record:
        if not counted:
            raise ValueError("nothing was counted: " + "; ".join(reasons))
        write_text(recorded_in, with_recorded(recorded, tools[0], sections[0]))
        reasons = []
    # a section that has nothing to be held against is all new, which says nothing; the history
    # of this toolchain keeps it
    comparable = {key: counts for key, counts in sections[0].items() if key in before}
    alone = {key: counts for key, counts in sections[0].items() if key not in before}
    judgement = Judgement(list(pair(before, comparable)), threshold, reasons, list(pair({}, alone)))
    own = {"name": head.name, "version": head.version}
    return judgement, {**judgement.as_json(tools[0], name, own), "commit_info": commit_info()}


def _uncounted(sides: Sequence[Side], tools: Sequence[Any], sets: Sequence[str]) -> list[str]:
    reasons = []
    for side, found in zip(sides, tools, strict=True):
        if not found["counted"]:
            reasons.append(
                f"{side.name} cannot be counted: its driver has no driver_work, as versions before "
                "the gate, or installations without compiled modules; name a later BASE"
            )
        elif missing := [each for each in sets if each not in found["counted"]]:
            reasons.append(f"this CPU does not run {', '.join(missing)}: nothing is known of it")
    return list(dict.fromkeys(reasons))


def _count(sides: Sequence[Side], backends: Sequence[str], sets: Sequence[str]) -> list[_Sections]:
    jobs = [(side, backend, each) for side in sides for backend in backends for each in sets]
    with Progress(transient=True) as progress:
        task = progress.add_task("counting, some minutes", total=len(jobs))
        # a version from before an option does not know all cases
        counts = count_all(jobs, lenient=sides[1:], done=lambda: progress.advance(task))
    found: list[_Sections] = [{} for _ in sides]
    for (side, backend, each), own in zip(jobs, counts, strict=True):
        found[sides.index(side)][f"{backend} {each}"] = own
    return found
