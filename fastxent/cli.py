"""The entry of the program `fastxent`; `fastxent.verify.commands` holds its commands."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

_NEEDED: Final = ("typer", "rich", "scipy", "mpmath")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; exit status 2 where the packages it needs are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"the command fastxent needs {', '.join(missing)}; install the extra that brings "
            "what it needs: python -m pip install 'fastxent[verify]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from .verify.commands import app

    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="fastxent")
