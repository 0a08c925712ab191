"""Writes docs/peers.md: how every installed library comes out of `fastxent verify --peers`.

    python docs/peers.py

It takes some minutes, most of them JAX's compilation for every shape.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastxent.verify import Report, verify
from fastxent.verify.adapters import ADAPTERS
from fastxent.verify.cases import CASES
from fastxent.verify.reports.terminal import peers_rows

PAGE: Final = Path(__file__).parent / "peers.md"
PACKAGES: Final = {
    "torch": ("torch",),
    "jax": ("jax", "optax"),
    "tensorflow": ("tensorflow-cpu",),
    "scikit-learn": ("scikit-learn",),
    "scipy": ("scipy",),
}
INTRODUCTION: Final = """\
# Other libraries on the same cases

Written by `python docs/peers.py`, which runs `fastxent verify --peers --quick`: the profile
standard, which asks for no worse than the plain formula in the same precision
([verification.md](verification.md#profiles)). Shown is the larger error of loss and gradient in
units in the last place (ULP). Some 10<sup>7</sup> of them in float32, and 10<sup>15</sup> in
float64, are what the plain formula gives where a row is confident: all digits are lost. "!" marks
what is worse than the plain formula allows, "-" what was not asked: an option that the library does
not have, memory layouts where the library is given a packed copy, and with Numba the options that
it compiles apart, which quick runs leave out. fastxent is held to its own, far narrower bounds by
`fastxent verify`.
"""


def versions() -> str:
    """The versions of the libraries, and the machine."""
    names = [name for adapter in ADAPTERS for name in PACKAGES[adapter]]
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"{found}, NumPy {importlib.metadata.version('numpy')}; {machine()}."


def machine() -> str:
    """The processor and its cores, as Linux names them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    return f"{os.cpu_count()} cores of {model}"


def table(report: Report, dtype: str) -> Iterator[str]:
    """A row for each case, a column for each implementation."""
    names = report.implementations
    yield f"| {dtype} | {' | '.join(names)} |"
    yield f"| --- |{' ---: |' * len(names)}"
    rows = peers_rows(report, dtype)
    for case in CASES:
        if case.name in rows:
            cells = (rows[case.name].get(name, "-").replace("!", " !") for name in names)
            yield f"| {case.name} | {' | '.join(cells)} |"


def findings(report: Report) -> Iterator[str]:
    """What is worse than allowed, a line for each library, case and dtype."""
    reasons = {case.name: case.reason for case in CASES}
    for result in report.failed:
        kinds = ", ".join(sorted(result.breaches))
        breach = next(iter(result.breaches.values()))
        yield (
            f"- {result.implementation}, {result.case}, {result.dtype}: {kinds}; got {breach.got}, "
            f"wanted {breach.want}. {reasons[result.case]}"
        )


def main() -> None:
    """Run, and write the page."""
    report = verify(peers=True, quick=True)
    missing = set(ADAPTERS) - set(report.implementations)
    if missing:
        raise SystemExit(f"not installed: {', '.join(sorted(missing))}")
    parts = [INTRODUCTION, versions(), ""]
    for dtype in ("float32", "float64"):
        parts += [*table(report, dtype), ""]
    parts += ["## What is worse than the plain formula allows", ""]
    parts += [*findings(report)] or ["Nothing."]
    PAGE.write_text("\n".join(parts) + "\n")
    print(f"{PAGE.name} has been written; {report.seconds:.0f} s")


if __name__ == "__main__":
    main()
