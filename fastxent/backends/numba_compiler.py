"""The Numba twin's compiler: whether it works here, and its kernels' addresses.

Importing Numba costs more than importing all the rest, so only the first kernel pays for it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Final

from .needs import EVERYTHING, KERNELS, Needs
from .undisturbed import undisturbed

_SWITCHED_OFF: Final = (
    "Numba's compiler is switched off, by NUMBA_DISABLE_JIT (or disable_jit in .numba_config.yaml, "
    "or numba.config.DISABLE_JIT)"
)
_SWITCHED_SINCE: Final = (
    "since fastxent loaded its kernels, Numba's compiler has been switched {} (by "
    "NUMBA_DISABLE_JIT, disable_jit in .numba_config.yaml, or numba.config.DISABLE_JIT); switch it "
    "back, or start another process"
)


def obstacle() -> str | None:
    """Why there is no Numba twin here, as far as can be said without importing Numba."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    return _switched_since()


def _switched_since() -> str | None:
    """Why the kernels that have been loaded, to be compiled or as Python, cannot be added to."""
    off = _is_switched_off()
    if _compiles() is not off:
        return None
    return _SWITCHED_SINCE.format("off" if off else "on")


def _compiles() -> bool | None:
    """Whether the kernels are compiled (or are Python); None before the first has been loaded."""
    scalars = sys.modules.get(f"{__package__}.numba_scalars")
    return getattr(scalars, "COMPILES", None)


def _is_switched_off() -> bool:
    config = sys.modules.get("numba.core.config")
    if config is not None and hasattr(config, "reload_config"):  # not while it is imported
        config.reload_config()  # or Numba would, in the middle of compiling
        return bool(config.DISABLE_JIT)
    try:
        return int(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0
    except ValueError:  # Numba warns, and goes on without it
        return False


_entries: dict[tuple[str, int, Needs], Any] = {}  # with the compiled code
_idle: dict[tuple[int, Needs], ModuleType] = {}


def kernel_address(name: str, real_bits: int, needs: Needs = EVERYTHING) -> int:
    """The address of a kernel that computes in floats of `real_bits` bits; compiled if need be.

    It does what is needed. One that does more has the same bits, and is taken where there is one.
    Where Numba's compiler is switched off it is Python, with a warning.

    Raises ValueError where that has changed since the first kernel.
    """
    wanted = (name, real_bits, needs & KERNELS[name])
    key = nearest(wanted, _entries)
    if key is None:
        undisturbed(lambda: _compile(*wanted))
        key = wanted
    address: int = _entries[key].address
    return address


def is_python() -> bool:
    """Whether the kernels that have been loaded are Python, not compiled."""
    return _compiles() is False


def raise_what_kernels_raised() -> None:
    """What a kernel in Python raised in this thread, which C cannot pass on."""
    from .numba_scalars import stack

    error, stack.error = stack.error, None
    if error is not None:
        raise error


def nearest(
    wanted: tuple[str, int, Needs], keys: Iterable[tuple[str, int, Needs]]
) -> tuple[str, int, Needs] | None:
    """The kernel that is wanted, or of those that do more the one that does least."""
    name, real_bits, needs = wanted
    fitting = [key for key in tuple(keys) if key[:2] == (name, real_bits) and needs & ~key[2] == 0]
    return min(fitting, key=lambda key: (int(key[2]).bit_count(), key[2]), default=None)


def _compile(name: str, real_bits: int, needs: Needs) -> None:
    if (name, real_bits, needs) in _entries:
        return
    import numba

    if getattr(numba.__spec__, "_initializing", False):
        raise ImportError(
            "this call, perhaps of a signal handler or a finalizer, comes from the middle of the "
            "import of numba; import fastxent and call fastxent.warmup(backend='numba') beforehand"
        )
    if changed := _switched_since():
        raise ValueError(f"backend 'numba' is not available: {changed}")
    if not _entries and _is_switched_off():
        warnings.warn(
            f"{_SWITCHED_OFF}: backend 'numba' runs as Python, ten thousand times slower or more",
            RuntimeWarning,
            stacklevel=2,
        )
    from .numba_twin import load_twin

    # What an exception from outside has left half compiled is not used again.
    kernels = _idle.pop((real_bits, needs), None)
    if kernels is None:
        kernels = load_twin(real_bits, needs)
    _entries[name, real_bits, needs] = kernels.compile_entry(getattr(kernels, name))
    _idle[real_bits, needs] = kernels
