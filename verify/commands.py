"""The command `fastxent verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from fastxent.cli import INTERRUPTED, printing, stop
from fastxent.config import check_environment

from . import verify as run_verification
from .case import DTYPES
from .cases import CASES
from .errors import HarnessError, StartError
from .extra import check_extra
from .profile import PROFILES
from .reports.outputs import STANDARD_OUTPUT, Output, outputs, write_all
from .reports.terminal import make_console, print_cases, print_report, progress_bar
from .reports.words import verdict_text
from .reports.writers import printable
from .result import InterruptedRunError, Report

# No docstring, which `python -OO` would leave out.
_HELP: Final = """\
Check losses and gradients of every backend, or of any implementation, against exact values.

Exit status: 0 if all is well; 1 after a breach; 2 for a wrong command, and where a report or the
table cannot be written; 3 where nothing could be found out, since an implementation did not start;
130 after Ctrl-C, with the reports of what was checked until then.
"""
NOT_STARTED: Final = 3
_INTERRUPTED_TEXT: Final = "fastxent verify: interrupted"

# The plain help, in which an option that takes no value shows no type.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=_HELP)
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
        typer.Option(
            metavar="NAME",
            help="cython or numba, beside --impl if that is given; may be repeated. [default: all]",
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"{', '.join(DTYPES)}; may be repeated. [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random inputs.")] = 0,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=2**31 - 1,
            help="A thread count; may be repeated. [default: 1 and 2]",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="What one problem may take, and the import of what --impl names.",
        ),
    ] = 300.0,
    json_path: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Write all results as JSON; - is standard output."
        ),
    ] = None,
    junit_path: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="The same as JUnit XML, for CI.")
    ] = None,
    html_path: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="The same as one page with tables and plots."),
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
    """Run the command; its text is `_HELP`."""
    paths = {"json": json_path, "junit": junit_path, "html": html_path}
    # A report on standard output is alone there.
    console = make_console(stderr=STANDARD_OUTPUT in paths.values())
    if list_cases:
        with printing():
            print_cases(list(CASES), console)
        return
    try:
        check_environment()
    except ValueError as error:
        stop(f"fastxent verify: {error}")
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
            **{f"--{kind}": path for kind, path in paths.items()},
        }
        given = [name for name, value in others.items() if value]
        _self_test(seed, threads or (1, 2), every, given, console)
        return
    try:
        # Before the run, which would be for nothing otherwise.
        asked = outputs(paths)
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
    except InterruptedRunError as stopped:
        report = stopped.report
    except KeyboardInterrupt:
        stop(_INTERRUPTED_TEXT, INTERRUPTED)
    except (StartError, HarnessError) as error:
        stop(f"fastxent verify: {error}", NOT_STARTED)
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    try:
        status = _finish(report, asked, console, every)
    except KeyboardInterrupt:
        stop(_INTERRUPTED_TEXT, INTERRUPTED)
    raise typer.Exit(status)


def _finish(report: Report, asked: list[Output], console: Console, every: bool) -> int:
    """Write the reports and print the table; the exit status."""
    # The reports first: where the table cannot be printed, they are what is left.
    written, failed = write_all(asked, report)
    with printing():
        if report.results:
            print_report(report, console, every=every)
        else:
            console.print(verdict_text(report))
        for line in written:
            console.print(printable(line), markup=False, soft_wrap=True)
    if failed:
        stop("\n".join(f"fastxent verify: {line}" for line in failed))
    if not report.is_complete:
        return INTERRUPTED
    return 0 if report.ok else 1


def _self_test(
    seed: int, threads: Sequence[int], every: bool, others: list[str], console: Console
) -> None:
    """Run the self-test of the harness, or say that an option does not go with it."""
    from .faults.self_test import run_self_test
    from .faults.terminal import print_self_test

    if others:
        raise typer.BadParameter(
            f"--self-test goes with --seed, --threads and --all, not with {', '.join(others)}"
        )
    try:
        check_extra("--self-test", ["mpmath"])
        with progress_bar(console) as progress:
            found = run_self_test(seed=seed, thread_counts=threads, every=every, progress=progress)
    except KeyboardInterrupt:
        stop(_INTERRUPTED_TEXT, INTERRUPTED)
    except (StartError, HarnessError) as error:
        stop(f"fastxent verify: {error}", NOT_STARTED)
    except (ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    with printing():
        print_self_test(found, console)
    if not found.ok:
        raise typer.Exit(1)
