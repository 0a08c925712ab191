"""The commands of the program `fastxent`."""

from __future__ import annotations

from typing import Annotated

import typer

import fastxent

from . import verify as run_verification
from .case import DTYPES
from .cases import CASES
from .report import make_console, print_cases, print_report, progress_bar

app = typer.Typer(
    name="fastxent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Softmax cross-entropy and its gradient on the CPU.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastxent {fastxent.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass


@app.command()
def config() -> None:
    """Show what fastxent runs on here: versions, backends, instruction set, threads."""
    fastxent.show_config()


@app.command()
def verify(
    quick: Annotated[bool, typer.Option("--quick", help="Leave the largest cases out.")] = False,
    case: Annotated[list[str] | None, typer.Option(help="Only this case; may be repeated.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="cython or numba; may be repeated. [default: all]")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(DTYPES)}; may be repeated. [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs.")] = 0,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="A thread count; may be repeated. [default: 1 and 2]"),
    ] = None,
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
    print_report(report, console)
    if not report.ok:
        raise typer.Exit(1)
