"""The program `fastxent`; `fastxent.verify.commands` holds the command that needs more packages."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

import fastxent

_NEEDED: Final = ("typer", "rich", "scipy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; exit status 2 for a wrong command or where `verify` lacks packages."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["verify"]:
        _verify(given[1:])
        return
    parser = _parser()
    if parser.parse_args(given).command == "config":
        fastxent.show_config()
    else:
        parser.print_help()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastxent",
        description="Softmax cross-entropy and its gradient on the CPU.",
        epilog="fastxent verify --help shows the options of verify.",
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
    return parser


def _verify(arguments: list[str]) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"fastxent verify needs {', '.join(missing)}: python -m pip install "
            "'fastxent[verify]' (from a checkout: '.[verify]')",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from .verify.commands import app

    app(args=arguments, prog_name="fastxent verify")
