"""The packages of the extra `verify`, and what is said where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable


def check_extra(what: str, modules: Iterable[str]) -> None:
    """ImportError, with the way out, where `what` needs a module that is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(extra_text(what, missing))


def extra_text(what: str, missing: Iterable[str]) -> str:
    """What is missing for `what`, and how to get it."""
    return (
        f"{what} needs {', '.join(missing)}: python -m pip install 'fastxent[verify]' "
        "(from a checkout: '.[verify]')"
    )
