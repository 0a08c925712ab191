"""The reports that a command asks for: looked at before the run, written after it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..extra import extra_text
from ..result import Report
from .writers import check_target, is_special, write_text

STANDARD_OUTPUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class Output:
    """A report of a kind, "json", "junit" or "html", and where it goes."""

    kind: str
    path: Path
    text: Callable[[Report], str]

    @property
    def is_standard(self) -> bool:
        """Whether it goes to standard output."""
        return self.path == STANDARD_OUTPUT

    def write(self, report: Report) -> None:
        """Write it; OSError, naming the path, where that is not possible."""
        text = self.text(report)
        if self.is_standard:
            _write_standard(text)
        else:
            write_text(self.path, text)


def outputs(paths: Mapping[str, Path | None]) -> list[Output]:
    """What is asked for, by kind.

    OSError or ImportError for what could not be written, ValueError where two would be in one file.
    """
    found: list[Output] = []
    for kind, path in paths.items():
        if path is None:
            continue
        for other in found:
            if _is_same(path, other.path):
                raise ValueError(
                    f"--{other.kind} and --{kind} both name {path}: give each a file of its own"
                )
        if path != STANDARD_OUTPUT:
            check_target(path)
        try:
            # Each has packages of its own, and matplotlib takes half a second.
            module = importlib.import_module(f".{kind}", __package__)
        except ModuleNotFoundError as error:
            raise ImportError(extra_text(f"--{kind}", [error.name or "a package"])) from error
        found.append(Output(kind, path, getattr(module, f"{kind}_text")))
    return found


def write_all(asked: list[Output], report: Report) -> tuple[list[str], list[str]]:
    """Write all that can be written: what has been, and what could not be, a sentence each."""
    written: list[str] = []
    failed: list[str] = []
    for output in asked:
        try:
            output.write(report)
        except OSError as error:
            failed.append(f"--{output.kind}: {error}")
        else:
            if not output.is_standard:
                written.append(f"{output.path} has been written")
    return written, failed


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, which the second would overwrite."""
    if STANDARD_OUTPUT in (path, other):
        return path == other
    if os.path.realpath(path) == os.path.realpath(other):
        return not is_special(path)
    return path.is_file() and other.is_file() and path.samefile(other)


def _write_standard(text: str) -> None:
    """Write in UTF-8, whatever the encoding of the terminal, as to a file."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error.strerror}") from error
