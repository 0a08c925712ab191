"""The program `fastxent`; `verify` and `bench`, which need more packages, have their
commands in `fastxent.verify.commands` and `fastxent.benchmarks.commands`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

import fastxent

# The modules without which these do not start, and the extra that brings them.
_VERIFY_NEEDS: Final = ("typer", "rich", "scipy")
_BENCH_NEEDS: Final = (*_VERIFY_NEEDS, "pytest_benchmark", "matplotlib", "jinja2", "ml_dtypes")
# As a shell says of what SIGINT and SIGPIPE have ended.
INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program.

    Exit status 2 for a wrong command, where `verify` lacks packages, and where standard output
    cannot be written; 130 after Ctrl-C, 141 where a pipe was closed; `verify` has others besides.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["verify"]:
            _verify(given[1:])
            return
        if given[:1] == ["bench"]:
            _bench(given[1:])
            return
        with printing():
            _run(given)
    except KeyboardInterrupt:
        stop("fastxent: interrupted", INTERRUPTED)


def stop(message: str, status: int = 2) -> NoReturn:
    """End the program with a line on standard error."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    raise SystemExit(status)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """End the program where standard output cannot be written: a full disk, a closed pipe."""
    if sys.stdout is None:  # it was closed before the program started
        stop("fastxent: standard output cannot be written: it is closed")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at the end, and says so where that fails, too.
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # by the reader, who has seen enough
            raise SystemExit(_PIPE_CLOSED) from None
        stop(f"fastxent: standard output cannot be written: {error.strerror}")


def _run(arguments: list[str]) -> None:
    parser = _parser()
    if parser.parse_args(arguments).command == "config":
        fastxent.show_config()
    else:
        parser.print_help()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastxent",
        description="Softmax cross-entropy and its gradient on the CPU.",
        epilog="fastxent verify --help and fastxent bench --help show their options.",
        add_help=False,
    )
    parser.add_argument("--help", "-h", action="help", help="Print this and exit.")
    parser.add_argument(
        "--version",
        action="version",
        version=f"fastxent {fastxent.__version__}",
        help="Print the version and exit.",
    )
    commands = parser.add_subparsers(title="commands", dest="command", metavar="command")
    commands.add_parser("config", help="Show versions, backends, instruction set and threads.")
    commands.add_parser("verify", help="Check losses and gradients against exact values.")
    commands.add_parser("bench", help="Measure, judge and draw how fast it is.")
    return parser


def _verify(arguments: list[str]) -> None:
    from .verify.extra import check_extra

    try:
        check_extra("fastxent verify", _VERIFY_NEEDS)
    except ImportError as error:
        stop(str(error))
    from .verify.commands import app

    with printing():  # the help; it looks after its tables itself
        app(args=arguments, prog_name="fastxent verify")


def _bench(arguments: list[str]) -> None:
    from .verify.extra import check_extra

    try:
        check_extra("fastxent bench", _BENCH_NEEDS, "bench")
    except ImportError as error:
        stop(str(error))
    from .benchmarks.commands import app

    with printing():
        app(args=arguments, prog_name="fastxent bench")
