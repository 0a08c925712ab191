"""Calls from a thread that computes with floats in another mode than the default one."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from fastxent.backends import float_mode

SUBNORMALS_OFF: Final = "subnormals off"
# By machine: which word of fenv_t controls it (with glibc and musl), and its bits.
_WORDS: Final = {"x86_64": 7, "aarch64": 0}
_BITS: Final = {
    "x86_64": {
        SUBNORMALS_OFF: 0x8040,  # as torch.set_flush_denormal sets them: the two that follow
        "subnormal results are 0": 0x8000,
        "subnormal numbers are read as 0": 0x0040,
        "rounds down": 0x2000,
        "rounds up": 0x4000,
    },
    "aarch64": {SUBNORMALS_OFF: 1 << 24, "rounds up": 1 << 22, "rounds down": 1 << 23},
}
_MACHINE: Final = platform.machine() if sys.platform == "linux" and float_mode.is_known else ""

# The modes that can be set here; none where it is not known how.
MODES: Final[Mapping[str, int]] = MappingProxyType(_BITS.get(_MACHINE, {}))


@contextlib.contextmanager
def mode(name: str) -> Iterator[None]:
    """One of MODES, inside `with` it and in the current thread."""
    before, changed = float_mode.current(), float_mode.current()
    changed[_WORDS[_MACHINE]] |= MODES[name]
    try:
        float_mode.restore(changed)
        yield
    finally:
        float_mode.restore(before)


def control_bits() -> int:
    """Which bits of the modes are set in the current thread."""
    bits = 0
    for each in MODES.values():
        bits |= each
    return bits and float_mode.current()[_WORDS[_MACHINE]] & bits
