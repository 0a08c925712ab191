"""The self-test for a terminal: what caught each fault, and what was not caught."""

from __future__ import annotations

from typing import Final

import rich.box
from rich.console import Console
from rich.table import Table

from ..cases import CASES
from ..profile import STANDARD, STRICT, ProfileName
from .fault import Fault
from .self_test import CONTROL, LARGEST_REFERENCE_ERROR, Finding, SelfTest

_RED: Final = "bold red"


def print_self_test(self_test: SelfTest, console: Console) -> None:
    """A line for each fault, all that is wrong with the commands that repeat it, and a summary."""
    _print_table(self_test, console)
    if self_test.every:
        _print_cases(self_test, console)
    for finding in self_test.survivors:
        _print_lines(console, *_survivor(finding, self_test), style=_RED)
    for result in self_test.control:
        _print_lines(
            console,
            f"FALSE ALARM {result.case}: {', '.join(result.breaches) or result.verdict}",
            f"  repeat   {self_test.command(CONTROL, result.profile, result.dtype, [result.case])}",
            style=_RED,
        )
    for name in self_test.trusted_too_much:
        text = f"TRUSTED {name}: its data cannot tell right from wrong"
        _print_lines(console, text, style=_RED)
    for note in self_test.notes:
        console.print(f"note: left out were faults in {note}", markup=False)
    console.print(
        _summary(self_test),
        style="bold green" if self_test.ok else _RED,
        soft_wrap=True,
        markup=False,
    )


def _print_lines(console: Console, *lines: str, style: str) -> None:
    for line in lines:
        console.print(line, style=style, markup=False, soft_wrap=True)
    console.print()


def _print_table(self_test: SelfTest, console: Console) -> None:
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault", no_wrap=True)
    table.add_column("strict", overflow="fold")
    table.add_column("standard", overflow="fold")
    for fault in self_test.faults:
        findings = [finding for finding in self_test.findings if finding.fault is fault]
        is_caught = not any(finding.survived for finding in findings)
        cells = [_cell(findings, profile) for profile in (STRICT, STANDARD)]
        table.add_row(fault.name, *cells, style=None if is_caught else _RED)
    console.print("The case that caught each fault, in each profile; - where it is not asked for:")
    console.print(table, markup=False)


def _cell(findings: list[Finding], profile: ProfileName) -> str:
    """The first case in each dtype, and of every case how many there are; `-` where not asked."""
    texts = []
    for finding in findings:
        if finding.profile != profile:
            continue
        text = "SURVIVED" if finding.survived else finding.catches[0].case
        if len(finding.catches) > 1:
            text = f"{text} and {len(finding.catches) - 1} more"
        texts.append(text if finding.dtype == "float32" else f"{text} ({finding.dtype})")
    return ", ".join(texts) or "-"


def _print_cases(self_test: SelfTest, console: Console) -> None:
    """How many faults each case caught, and those that no other caught."""
    caught, needed = self_test.caught_by(), self_test.needed()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("faults", justify="right")
    table.add_column("caught by no other case", overflow="fold")
    for case in CASES:
        if case.name in self_test.cases:
            alone = ", ".join(needed.get(case.name, []))
            table.add_row(case.name, str(caught[case.name]), alone)
    console.print(table, markup=False)


def _survivor(finding: Finding, self_test: SelfTest) -> list[str]:
    fault: Fault = finding.fault
    names = [case.name for case in fault.cases]
    how = f"it only {finding.raised}" if finding.raised else f"in {finding.dtype}"
    return [
        f"SURVIVED {fault.name}: no case of the profile {finding.profile} caught it, {how}",
        f"  reason   {fault.reason}",
        f"  repeat   {self_test.command(fault.argument, finding.profile, finding.dtype, names)}",
    ]


def _summary(self_test: SelfTest) -> str:
    n_faults, n_survivors = len(self_test.faults), len({f.fault.name for f in self_test.survivors})
    caught = "all caught" if not n_survivors else f"{n_survivors} not caught"
    alarms = "no false alarm" if not self_test.control else f"{len(self_test.control)} false alarms"
    n_vacuous, n_trusted = len(self_test.vacuous), len(self_test.trusted_too_much)
    mistrusted = "all mistrusted" if not n_trusted else f"{n_trusted} of them trusted"
    error = f"references within {self_test.reference_error:.2g} of mpmath"
    if not self_test.is_reference_exact:
        error += f", which is more than {LARGEST_REFERENCE_ERROR:.2g}"
    return (
        f"{n_faults} faults: {caught}; {alarms} in {self_test.n_control} checks of a correct "
        f"implementation; {n_vacuous} checks that cannot fail: {mistrusted}; {error}; "
        f"seed {self_test.seed}, {self_test.seconds:.0f} s"
    )
