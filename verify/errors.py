"""Why nothing could be verified, and what an exception says of itself."""

from __future__ import annotations

import traceback
from pathlib import Path


class LoadError(ValueError):
    """A name leads to nothing that can be verified."""


class StartError(LoadError):
    """What a name leads to did not start: its import failed, ended the process, or never ended."""


class HarnessError(RuntimeError):
    """The harness itself failed, not what it verifies."""


def said(error: BaseException, *, where: bool = True) -> str:
    """The name of an exception, its text, and the line that raised it."""
    try:
        text = str(error)
    except Exception:
        text = "an error that cannot be printed"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place if where else ''}"
