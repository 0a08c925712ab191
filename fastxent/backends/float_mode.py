"""How the current thread computes with floats, for the driver in Python.

csrc_pyx/float_mode.h says what that is, and why kernels have a mode of their own. Here it is read
and set by the C library's fenv.h, through ctypes. Where that has no default mode that is known (on
Windows, say), `is_known` is False, nothing is read or set, and kernels run in their caller's mode.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from collections.abc import Iterator
from typing import Any, Final

# Larger than any fenv_t (32 bytes on x86-64).
Environment = ctypes.c_uint32 * 64


def _find_library() -> Any:
    """What has the functions of fenv.h: the C library, or glibc's libm; None where neither does."""
    for name in (None, "libm.so.6"):
        try:
            library = ctypes.PyDLL(name)  # with the GIL held: they take nanoseconds
            library.fegetenv.argtypes = library.fesetenv.argtypes = [ctypes.c_void_p]
        except (OSError, TypeError, AttributeError):
            continue
        return library
    return None


def _find_default(library: Any) -> Any:
    """What FE_DFL_ENV stands for; None where that is not known."""
    if library is not None and sys.platform == "darwin":
        return ctypes.byref(Environment.in_dll(library, "_FE_DFL_ENV"))
    if library is not None and sys.platform == "linux":
        is_known = platform.machine() in ("x86_64", "aarch64")
        return ctypes.c_void_p(-1) if is_known else None
    return None


_library: Final = _find_library()
_default: Final = _find_default(_library)
is_known: Final = _default is not None


def current() -> ctypes.Array[ctypes.c_uint32]:
    """The current thread's mode, for `restore`."""
    environment = Environment()
    if is_known:
        _library.fegetenv(environment)
    return environment


def restore(environment: ctypes.Array[ctypes.c_uint32]) -> None:
    """Let the current thread compute as it did before."""
    if is_known:
        _library.fesetenv(environment)


def reset() -> None:
    """Let the current thread compute in the default mode."""
    if is_known:
        _library.fesetenv(_default)


@contextlib.contextmanager
def default_float_mode() -> Iterator[None]:
    """What the current thread computes inside is computed in the default mode."""
    before = current()
    try:
        reset()
        yield
    finally:
        restore(before)
