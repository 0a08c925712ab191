"""What this installation runs on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import _threads, backends
from .backends import cython_kernels

_VARIABLES = ("FASTXENT_BACKEND", "FASTXENT_ISA", "FASTXENT_NUM_THREADS", "OMP_NUM_THREADS")


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print what fastxent runs on here: versions, backends, instruction set, threads.

    An environment variable that holds nothing usable is an entry of `errors`, and what it decides
    is None: it is not an error here, where one looks for it, but in the first call that needs it.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as a dictionary.

    Raises ValueError for another mode.

    >>> import fastxent
    >>> sorted(fastxent.show_config(mode="dicts"))
    ['backends', 'environment', 'errors', 'python', 'threads', 'versions']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', not {mode!r}")

    def version_of(name: str) -> str:
        try:
            from importlib.metadata import PackageNotFoundError, version
        except ImportError:  # no module is found any more, as after chroot
            return "unknown"
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    config: dict[str, Any] = {
        "versions": {
            "fastxent": version_of("fastxent"),
            "numpy": np.__version__,
            "numba": version_of("numba"),
            "scipy": version_of("scipy"),
            "ml_dtypes": version_of("ml_dtypes"),
        },
        "python": {
            "version": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "fastxent is in": str(Path(__file__).parent),
        },
        "backends": {
            "available": list(backends.available_backends()),
            "default": _answer(backends.get_backend)[0],
            "cython instruction set": cython_kernels.INSTRUCTION_SET or "none",
            "thread driver": "compiled" if cython_kernels.driver is not None else "Python",
        },
        "threads": {
            "used by default": _answer(_threads.get_num_threads)[0],
            "granted by the machine": _threads.machine_threads(),
        },
        "environment": {name: os.environ.get(name, "not set") for name in _VARIABLES},
        "errors": environment_errors(),
    }
    if mode == "dicts":
        return config
    lines = []
    for section, entries in config.items():
        if section == "errors":
            continue
        lines.append(f"{section}:")
        for name, value in entries.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            lines.append(f"  {name}: {'none, see errors' if value is None else shown}")
    if config["errors"]:
        lines += ["errors:", *(f"  {text}" for text in config["errors"])]
    # Paths and variables may hold what the encoding of standard output does not.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))
    return None


def environment_errors() -> list[str]:
    """What is wrong with fastxent's environment variables, and the way out, a sentence each."""
    found = [
        cython_kernels.BAD_ISA,
        _answer(backends.get_backend)[1],
        _answer(_threads.get_num_threads)[1],
    ]
    return list(dict.fromkeys(filter(None, found)))


def check_environment() -> None:
    """ValueError where an environment variable of fastxent's holds nothing usable."""
    if errors := environment_errors():
        raise ValueError("; ".join(errors))


def _answer(ask: Callable[[], Any]) -> tuple[Any, str]:
    """What it answers; or None, and what is wrong."""
    try:
        return ask(), ""
    except ValueError as error:
        return None, str(error)
