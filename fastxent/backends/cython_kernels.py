"""The Cython twin's builds: which one this CPU runs best, and its kernels' addresses."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from typing import Any, Final

from . import context
from .needs import EVERYTHING, Needs


def _import_driver() -> Any:
    try:
        return importlib.import_module(".driver", __package__)
    except ModuleNotFoundError:  # built without a compiler; a module that is broken may raise
        return None


driver: Final = _import_driver()

# Best last. On other machines than x86-64 there is one build.
INSTRUCTION_SETS: Final = (
    ("x86-64-v2", "x86-64-v3", "x86-64-v4")
    if platform.machine().lower() in ("x86_64", "amd64")
    else ("generic",)
)


def _choose_instruction_set() -> str | None:
    wanted = os.environ.get("FASTXENT_ISA", "").strip()
    if wanted and wanted not in INSTRUCTION_SETS:
        raise ValueError(
            f"FASTXENT_ISA={wanted!r} is not an instruction set fastxent is built for; "
            f"set it to one of {', '.join(INSTRUCTION_SETS)}, or unset it to use the best"
        )
    if driver is None:
        if wanted:
            raise ValueError(
                f"FASTXENT_ISA={wanted!r} cannot be used: this installation has no compiled "
                "kernels; unset it, or install with a C compiler"
            )
        return None
    if wanted:
        if not driver.cpu_supports(wanted):
            raise ValueError(
                f"FASTXENT_ISA={wanted!r} is not supported by this CPU, which runs up to "
                f"{driver.instruction_set()}; set it lower, or unset it to use the best"
            )
        return wanted
    best: str = driver.instruction_set()
    return best if best in INSTRUCTION_SETS else None


def _chosen_or_why_not() -> tuple[str | None, str]:
    try:
        return _choose_instruction_set(), ""
    except ValueError as error:
        return None, str(error)


# Importing fastxent does not fail for it: `show_config` says what is wrong, and so does a call.
_CHOSEN: Final = _chosen_or_why_not()
INSTRUCTION_SET: Final = _CHOSEN[0]
BAD_ISA: Final = _CHOSEN[1]


def obstacle() -> str | None:
    """Why there is no Cython twin here."""
    if INSTRUCTION_SET is None:
        return BAD_ISA or "this installation has no compiled kernels for this CPU"
    return None


_kernels: dict[int, dict[str, int]] = {}


def kernel_address(name: str, real_bits: int, needs: Needs = EVERYTHING) -> int:
    """The address of a kernel that computes in floats of `real_bits` bits, whatever is needed."""
    if real_bits not in _kernels:
        _load(real_bits)
    return _kernels[real_bits][name]


def _load(real_bits: int) -> None:
    _kernels[real_bits] = import_build("cython", real_bits).KERNELS


def import_build(name: str, real_bits: int) -> Any:
    """What is compiled under a name, for floats of `real_bits` bits, as this CPU runs it best."""
    if INSTRUCTION_SET is None:
        raise ValueError(obstacle())
    suffix = INSTRUCTION_SET.replace("-", "_")
    module = importlib.import_module(f".{name}_float{real_bits}_{suffix}", __package__)
    if module.CONTEXT_SIZE != context.CONTEXT_SIZE:
        raise ImportError(
            f"the compiled kernels in {module.__file__} belong to another version of "
            "fastxent; install it again"
        )
    return module


# A process may have changed its root or its user before the first call, and find no module any
# more. Both take 0.5 ms.
if INSTRUCTION_SET is not None and os.environ.get("FASTXENT_BACKEND", "").strip() != "numba":
    # what is wrong with them is said by a call that needs them
    with contextlib.suppress(ImportError):
        _load(32)
        _load(64)
