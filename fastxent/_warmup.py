"""Kernels made ready before the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from . import backends
from .backends.context import ELEMENTS


def warmup(dtypes: Iterable[Any] | str = ("float32",), *, backend: str | None = None) -> None:
    """Compile or load all kernels that calls with logits of these dtypes may need.

    The Numba backend compiles a kernel when a call first needs it, some seconds for each kind of
    arithmetic; after this no call waits. The arithmetic of float16, bfloat16 and float32 logits is
    the same, so one of them warms up all three. What is compiled is kept in this process and
    nowhere on disk. The Cython backend has nothing to compile, and loads its modules.

    After it calls read no file and import nothing, so that a process may change its root or its
    user (chroot, setuid) before them. Importing fastxent is enough for the Cython backend, unless
    FASTXENT_BACKEND names the other. A call from the middle of Numba's own import or compiler, in
    a signal handler or a finalizer, needs it as well.

    Parameters
    ----------
    dtypes : iterable of dtypes or their names, or one name
        Of float16, bfloat16, float32 and float64.
    backend : {"cython", "numba"}, optional
        By default that of `get_backend()`.

    Raises
    ------
    TypeError
        A dtype that is not one of these.
    ValueError
        An unknown backend, or one that is not available here.

    Examples
    --------
    >>> import fastxent
    >>> fastxent.warmup(["float32", "float64"], backend="cython")
    """
    name = backends.get_backend() if backend is None else backends.check_backend(backend)
    alone = isinstance(dtypes, str | type | np.dtype)
    try:
        elements = [_element_of(dtype) for dtype in ((dtypes,) if alone else dtypes)]
    except (TypeError, ValueError) as error:
        choices = ", ".join(ELEMENTS)
        raise TypeError(f"dtypes must be one or several of {choices}, not {dtypes!r}") from error
    for element in elements:
        backends.prepare(name, element)


def _element_of(dtype: Any) -> int:
    """The kernels' number for a dtype; TypeError for anything else."""
    if isinstance(dtype, str) and dtype in ELEMENTS:
        return ELEMENTS[dtype]  # NumPy by itself does not know bfloat16
    if not isinstance(dtype, str | type | np.dtype) or np.dtype(dtype).name not in ELEMENTS:
        raise TypeError
    return ELEMENTS[np.dtype(dtype).name]
