"""Verification: named cases against exact references, with errors in units in the last place.

`fastxent verify` and `python -m fastxent.verify` are the same program; `verify()` does it from
Python. All need the extra: `pip install 'fastxent[verify]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .result import Report

__all__ = ["verify"]


def verify(
    *,
    backends: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    cases: Sequence[str] = (),
    quick: bool = False,
    seed: int = 0,
    thread_counts: Sequence[int] = (1, 2),
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check the backends of this installation.

    Losses and gradients are held against SciPy in float64 and against extended precision where
    that has no digits left; results must be the same in every bit for all thread counts, for a
    row alone and in its batch, for padded and packed rows, and for the loss without its gradient.

    Parameters
    ----------
    backends : sequence of str, optional
        By default all of `fastxent.available_backends()`.
    dtypes : sequence of {"float32", "float64", "float16", "bfloat16"}, optional
        By default all; bfloat16 needs ml_dtypes and is left out, with a note, without it.
    cases : sequence of str
        Names of cases; by default all.
    quick : bool
        Leave the largest cases out.
    seed : int
        Of the random numbers; the same seed gives the same inputs.
    thread_counts : sequence of int
        Results must not depend on them.
    progress : callable, optional
        Is told the case and dtype that come next, the steps done and all steps.

    Returns
    -------
    Report
        `report.ok` says whether all is well, `report.results` has a line for each case,
        backend and dtype.

    Raises
    ------
    ValueError
        An unknown backend, dtype or case, a thread count below 1 or a negative seed.
    ImportError
        A package of the extra is missing, or bfloat16 was asked for without ml_dtypes.

    Examples
    --------
    >>> from fastxent.verify import verify
    >>> verify(cases=["forty_zero"], dtypes=["float32"], backends=["numba"]).ok
    True
    """
    from .runner import run
    from .selection import select

    selection = select(backends, dtypes, cases, quick, seed, thread_counts)
    return run(
        selection.cases,
        selection.implementations,
        selection.dtypes,
        seed=seed,
        thread_counts=selection.thread_counts,
        progress=progress,
        notes=selection.notes,
    )
