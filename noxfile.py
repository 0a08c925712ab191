"""The steps of .ci/run one at a time, for people: `nox` runs all but `ci`, `nox -s NAME` one."""

from __future__ import annotations

from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "tests", "verify", "benchmarks"]
nox.options.error_on_missing_interpreters = False


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff and cython-lint."""
    session.install("ruff>=0.9", "cython-lint>=0.16")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "csrc_pyx")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy on the installed package; in the root it would read the source folder instead."""
    session.install(".[verify]", "mypy>=1.14", "scipy-stubs>=1.14")
    session.chdir(session.create_tmp())
    session.run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "fastxent")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests; what follows `--` goes to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def verify(session: nox.Session) -> None:
    """Losses and gradients against exact values; what follows `--` goes to `fastxent verify`."""
    session.install(".[verify]")
    session.run("fastxent", "verify", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The set smoke, each benchmark once, without timing.

    Other libraries are not installed, so they are skipped; .ci/run installs and requires them.
    """
    session.install(".[bench]")
    session.run("pytest", "benchmarks", "--set", "smoke", "--benchmark-disable", "-q")


@nox.session
def ci(session: nox.Session) -> None:
    """What decides whether a change lands."""
    session.run("bash", ".ci/run", external=True)
