"""The packages of an extra, and what is said where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable


def check_extra(what: str, modules: Iterable[str], extra: str = "verify") -> None:
    """ImportError, with the way out, where `what` needs a module that is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(extra_text(what, missing, extra))


def extra_text(what: str, missing: Iterable[str], extra: str = "verify") -> str:
    """What is missing for `what`, and how to get it."""
    return (
        f"{what} needs {', '.join(missing)}: python -m pip install 'fastxent[{extra}]' "
        f"(from a checkout: '.[{extra}]')"
    )
