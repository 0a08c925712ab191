"""What was asked for -> cases, implementations and dtypes, or a clear error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import fastxent

from .case import DTYPES, Case, DType, dtype_named
from .cases import cases_named
from .implementation import Implementation, backend_implementation
from .reference import LONGDOUBLE_IS_EXTENDED

_GET_ML_DTYPES: Final = "python -m pip install ml_dtypes"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run."""

    cases: list[Case]
    implementations: list[Implementation]
    dtypes: list[DType]
    thread_counts: tuple[int, ...]
    notes: list[str]


def select(
    backends: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    cases: Sequence[str],
    quick: bool,
    seed: int,
    thread_counts: Sequence[int],
) -> Selection:
    """Look everything up; ValueError for what is unknown."""
    available = fastxent.available_backends()
    for name in backends or ():
        if name not in available:
            raise ValueError(
                f"backend must be one of {', '.join(map(repr, available))} here, not {name!r}"
            )
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    if not thread_counts or min(thread_counts) < 1:
        raise ValueError(f"thread counts must be at least 1, not {list(thread_counts)}")
    notes = []
    if not backends:
        notes = [
            f"backend {name} is not available here and was not checked"
            for name in ("cython", "numba")
            if name not in available
        ]
    if not LONGDOUBLE_IS_EXTENDED:
        notes.append("numpy.longdouble is no wider than float64 here: mpmath is the reference")
    found = []
    for name in dtypes or DTYPES:
        if name not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, not {name!r}")
        try:
            found.append(dtype_named(name))
        except ModuleNotFoundError:
            if dtypes:
                raise ImportError(f"bfloat16 needs ml_dtypes: {_GET_ML_DTYPES}") from None
            notes.append(f"bfloat16 was not checked: ml_dtypes is not installed ({_GET_ML_DTYPES})")
    return Selection(
        cases=cases_named(list(cases), quick),
        implementations=[backend_implementation(name) for name in backends or available],
        dtypes=found,
        thread_counts=tuple(dict.fromkeys(thread_counts)),
        notes=notes,
    )
