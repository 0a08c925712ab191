"""The command `fastxent verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import verify as run_verification
from .case import DTYPES
from .cases import CASES
from .report import make_console, print_cases, print_report, progress_bar

# The plain help, in which an option that takes no value shows no type.
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def verify(
    quick: Annotated[bool, typer.Option("--quick", help="Leave the largest cases out.")] = False,
    case: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this case; may be repeated.")
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
    every: Annotated[
        bool, typer.Option("--all", help="Show every dtype, not only the worst of each case.")
    ] = False,
    list_cases: Annotated[
        bool, typer.Option("--list-cases", help="Show all cases and why they exist.")
    ] = False,
) -> None:
    """Check losses and gradients of every backend against exact values.

    Exit status: 0 if all is well, 1 after a breach, 2 for a wrong command.
    """
    console = make_console()
    if list_cases:
        print_cases(list(CASES), console)
        return
    try:
        with progress_bar(console) as progress:
            report = run_verification(
                backends=backend,
                dtypes=dtype,
                cases=case or (),
                quick=quick,
                seed=seed,
                thread_counts=threads or (1, 2),
                progress=progress,
            )
    except (ValueError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None
    print_report(report, console, every=every)
    if not report.ok:
        raise typer.Exit(1)
