"""Writes docs/self_test.md: every planted fault, and the case that catches it.

python docs/self_test.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastxent.verify.faults.fault import Fault
from fastxent.verify.faults.self_test import SelfTest, run_self_test
from fastxent.verify.profile import STANDARD, STRICT, ProfileName

PAGE: Final = Path(__file__).parent / "self_test.md"
INTRODUCTION: Final = """\
# Planted faults

Written by `python docs/self_test.py`, which runs `fastxent verify --self-test`. Every fault is
planted in a correct implementation by itself; named is the first case that catches it, with the
dtype where that is not float32. "-" stands where the profile does not ask: digits beyond the plain
formula's, bits, dtypes, and errors for labels that are no class
([verification.md](verification.md#profiles)). Each can be looked at:

    fastxent verify --impl fastxent.verify.faults:NAME --profile strict
"""


def caught_by(self_test: SelfTest, fault: Fault, profile: ProfileName) -> str:
    """The cases that caught a fault in a profile, one for each of its dtypes."""
    cells: dict[str, list[str]] = {}
    for finding in self_test.findings:
        if finding.fault.name == fault.name and finding.profile == profile:
            case = finding.catches[0].case if finding.catches else "SURVIVED"
            cells.setdefault(case, []).append(finding.dtype)
    return ", ".join(
        case if dtypes == ["float32"] else f"{case} ({', '.join(dtypes)})"
        for case, dtypes in cells.items()
    ) or "-"  # fmt: skip


def table(self_test: SelfTest) -> Iterator[str]:
    """A row for each fault."""
    yield "| fault | what it is | caught in strict by | in standard by |"
    yield "| --- | --- | --- | --- |"
    for fault in self_test.faults:
        cells = [caught_by(self_test, fault, profile) for profile in (STRICT, STANDARD)]
        yield f"| {fault.name} | {fault.reason} | {' | '.join(cells)} |"


def main() -> int:
    """Run, and write the page; 1 where the self-test failed."""
    self_test = run_self_test()
    PAGE.write_text("\n".join([INTRODUCTION, *table(self_test)]) + "\n")
    print(
        f"{PAGE.name} has been written: {len(self_test.faults)} faults, "
        f"{len(self_test.survivors)} not caught; {self_test.seconds:.0f} s"
    )
    return 0 if self_test.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
