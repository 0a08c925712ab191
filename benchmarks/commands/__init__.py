"""The program `fastxent bench`: one file a command."""

from __future__ import annotations

from typing import Final

import typer
from fastxent.benchmarks.commands import history
from fastxent.benchmarks.commands.compare import compare_command
from fastxent.benchmarks.commands.gate import gate
from fastxent.benchmarks.commands.page import page
from fastxent.benchmarks.commands.reach import reach
from fastxent.benchmarks.commands.run import run

# No docstring, which `python -OO` would leave out.
_HELP: Final = """\
How fast it is, how far from what the machine can do, and whether that has changed.
"""

# The plain help, in which an option that takes no value shows no type.
app = typer.Typer(
    add_completion=False,
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(reach)
app.command("compare")(compare_command)
app.command()(gate)
app.add_typer(history.app, name="history")
app.command()(page)
