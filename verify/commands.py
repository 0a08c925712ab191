"""The command `fastxent verify`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from . import verify as run_verification
from .case import DTYPES
from .cases import CASES
from .profile import PROFILES
from .reports.terminal import make_console, print_cases, print_report, progress_bar
from .reports.writers import check_target
from .result import Report

# The plain help, in which an option that takes no value shows no type.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def verify(
    impl: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to check instead of the backends: torch, jax, tensorflow, scikit-learn, "
            "scipy, or MODULE:FUNCTION, which is f(logits, labels) -> (losses, grad_logits); "
            "may be repeated.",
        ),
    ] = None,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Show all installed libraries beside the backends."),
    ] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{' or '.join(PROFILES)}: fastxent's own bounds and promises, or no worse than "
            "the plain formula in the same precision. [default: strict for backends only]",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave the largest cases and much of 16 bits out."),
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Run exhaustive sweeps of all floats, too: many minutes."),
    ] = False,
    case: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this case; may be repeated.")
    ] = None,
    problem: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Only the N-th problem of the one case named."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="cython or numba; may be repeated. [default: all]"),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"{', '.join(DTYPES)}; may be repeated. [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.")] = 0,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, help="A thread count; may be repeated. [default: 1 and 2]"
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1, help="What one problem may take."),
    ] = 300.0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all results as JSON.")
    ] = None,
    junit_path: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, for CI.")
    ] = None,
    html_path: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page with tables and plots."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show every dtype, not only the worst of each case.")
    ] = False,
    list_cases: Annotated[
        bool, typer.Option("--list-cases", help="Show all cases and why they exist.")
    ] = False,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Plant faults in a correct implementation: is each one caught? With --all by "
            "every case, not only the first.",
        ),
    ] = False,
) -> None:
    """Check losses and gradients of every backend, or of any implementation, against exact values.

    Exit status: 0 if all is well, 1 after a breach, 2 for a wrong command.
    """
    console = make_console()
    if list_cases:
        print_cases(list(CASES), console)
        return
    if self_test:
        others = {
            "--impl": impl,
            "--peers": peers,
            "--profile": profile,
            "--case": case,
            "--problem": problem,
            "--backend": backend,
            "--dtype": dtype,
            "--full": full,
            "--json": json_path,
            "--junit": junit_path,
            "--html": html_path,
        }
        _self_test(
            seed, threads or (1, 2), every, [name for name, given in others.items() if given]
        )
        return
    paths = {"json": json_path, "junit": junit_path, "html": html_path}
    try:
        # Before the run, which would be for nothing otherwise.
        writers = [_writer(name, path) for name, path in paths.items() if path is not None]
        with progress_bar(console) as progress:
            report = run_verification(
                impl,
                profile=profile,
                peers=peers,
                backends=backend,
                dtypes=dtype,
                cases=case or (),
                quick=quick,
                full=full,
                seed=seed,
                thread_counts=threads or (1, 2),
                problem=problem,
                timeout=timeout,
                progress=progress,
            )
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    print_report(report, console, every=every)
    for write in writers:
        console.print(f"{write(report)} has been written", markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _writer(name: str, path: Path) -> Callable[[Report], Path]:
    """What writes this kind of report; OSError or ImportError where it could not."""
    check_target(path)
    try:
        # Each has packages of its own, and matplotlib takes half a second.
        module = importlib.import_module(f".reports.{name}", __package__)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"--{name} needs {error.name}: python -m pip install 'fastxent[verify]'"
        ) from error

    def write(report: Report) -> Path:
        getattr(module, f"write_{name}")(report, path)
        return path

    return write


def _self_test(seed: int, threads: Sequence[int], every: bool, others: list[str]) -> None:
    """Run the self-test of the harness, or say that an option does not go with it."""
    from .faults.self_test import run_self_test
    from .faults.terminal import print_self_test

    if others:
        raise typer.BadParameter(
            f"--self-test goes with --seed, --threads and --all, not with {', '.join(others)}"
        )
    console = make_console()
    if importlib.util.find_spec("mpmath") is None:
        raise typer.BadParameter(
            "--self-test needs mpmath: python -m pip install 'fastxent[verify]'"
        )
    with progress_bar(console) as progress:
        found = run_self_test(seed=seed, thread_counts=threads, every=every, progress=progress)
    print_self_test(found, console)
    if not found.ok:
        raise typer.Exit(1)
