"""What this installation runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import _threads, backends
from .backends import cython_kernels


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print what fastxent runs on here: versions, backends, instruction set, threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it as a dictionary.

    Raises ValueError for another mode.

    >>> import fastxent
    >>> sorted(fastxent.show_config(mode="dicts"))
    ['backends', 'environment', 'python', 'threads', 'versions']
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

    variables = ("FASTXENT_BACKEND", "FASTXENT_ISA", "FASTXENT_NUM_THREADS", "OMP_NUM_THREADS")
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
            "default": backends.get_backend(),
            "cython instruction set": cython_kernels.INSTRUCTION_SET or "none",
            "thread driver": "compiled" if cython_kernels.driver is not None else "Python",
        },
        "threads": {
            "used by default": _threads.get_num_threads(),
            "granted by the machine": _threads.machine_threads(),
        },
        "environment": {name: os.environ.get(name, "not set") for name in variables},
    }
    if mode == "dicts":
        return config
    for section, entries in config.items():
        print(f"{section}:")
        for name, value in entries.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            print(f"  {name}: {shown}")
    return None
