"""Verification: named cases against exact references, with errors in units in the last place.

`fastxent verify` and `python -m fastxent.verify` are the same program; `verify()` does it from
Python, and `assert_verified()` in a test. All need the extra: `pip install 'fastxent[verify]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .implementation import Implementation
    from .result import Report
    from .selection import Impl

__all__ = ["Implementation", "Report", "assert_verified", "verify"]


def verify(
    impl: Impl | Sequence[Impl] | None = None,
    *,
    profile: str | None = None,
    backends: Sequence[str] | None = None,
    peers: bool = False,
    dtypes: Sequence[str] | None = None,
    cases: Sequence[str] = (),
    quick: bool = False,
    full: bool = False,
    seed: int = 0,
    thread_counts: Sequence[int] = (1, 2),
    problem: int | None = None,
    timeout: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check an implementation of the loss, or the backends of this installation.

    Losses and gradients are held against SciPy in float64 and against extended precision where
    that has no digits left; gradients also against derivatives of the loss. Results must not depend
    on threads, batch, position, strides or the order of the classes, and nothing outside of the
    output may be written to.

    Parameters
    ----------
    impl : callable, str, Implementation, or a sequence of these; optional
        f(logits, labels) -> (losses, grad_logits): logits (n_rows, n_classes) in float32 or
        float64, labels (n_rows,) of int64, a loss for every row, and row i of the gradient being
        that of losses[i]. Of its parameters those called as one of `cross_entropy_with_grad` get
        the problems with that option, too. A name is one of "torch", "jax", "tensorflow",
        "scikit-learn", "scipy", "cython", "numba" or "MODULE:FUNCTION": what has a name runs in a
        process of its own, and may be checked for reading past an array.
        By default the backends.
    profile : {"strict", "standard"}, optional
        "strict" is what fastxent promises: bounds in ULP, the same bits however a row is computed,
        errors for labels that are no class. "standard" asks for no worse than the plain formula in
        the same precision, with a tolerance. By default strict for backends, else standard.
    backends : sequence of {"cython", "numba"}, optional
        Backends to be checked, beside `impl`; without both, all that are available.
    peers : bool
        Check every other library that is installed, too, beside the backends.
    dtypes : sequence of {"float32", "float64", "float16", "bfloat16"}, optional
        By default all for backends, float32 and float64 for others. bfloat16 needs ml_dtypes, and
        is left out, with a note, without it.
    cases : sequence of str
        Names of cases; by default all of the level.
    quick, full : bool
        Leave the largest cases out; or run exhaustive sweeps, too.
    seed : int
        Of the random numbers; the same seed gives the same inputs.
    thread_counts : sequence of int
        Results must not depend on them.
    problem : int, optional
        Only this problem of the one case named.
    timeout : float, optional
        Seconds that what has a name may take in its process for one problem, before that is a
        breach, and to start; 300 by default. A callable is called in this process, where nothing
        could end it and leave the rest running, so that a timeout for it is an error: name it, or
        end the whole test (pytest-timeout).
    progress : callable, optional
        Is told what comes next, the steps done and all steps.

    Returns
    -------
    Report
        `report.ok` says whether all is well, `report.results` has a line for each case,
        implementation and dtype.

    Raises
    ------
    ValueError
        An unknown implementation, profile, backend, dtype or case, a thread count below 1, a
        negative seed, or a timeout that cannot be kept; a name whose module cannot be imported, or
        whose process ends or gives no answer before the first problem; an environment variable of
        fastxent's that holds nothing usable.
    ImportError
        A package of the extra or the library of an adapter is missing, or bfloat16 was asked for
        without ml_dtypes.
    TypeError
        `impl` cannot be called, or is a class.
    KeyboardInterrupt
        It was interrupted; the exception's `report` has what was found until then.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import log_softmax
    >>> from fastxent.verify import verify
    >>> def plain(logits, labels):
    ...     i = np.arange(len(labels))
    ...     log_probs = log_softmax(logits, axis=1)
    ...     gradient = np.exp(log_probs)
    ...     gradient[i, labels] -= 1
    ...     return -log_probs[i, labels], gradient
    >>> verify(plain, cases=["gaussian"]).ok
    True
    >>> verify(plain, cases=["forty_zero"], profile="strict").results[0].verdict
    'BREACH'
    """
    from .extra import check_extra

    check_extra("fastxent verify", ["scipy"])
    from .case import DEFAULT, FULL, QUICK, Level
    from .run import run
    from .selection import select

    if quick and full:
        raise ValueError("quick and full exclude each other")
    # A single name is meant as such, not as its letters.
    cases = [cases] if isinstance(cases, str) else cases
    dtypes = [dtypes] if isinstance(dtypes, str) else dtypes
    backends = [backends] if isinstance(backends, str) else backends
    level: Level = QUICK if quick else FULL if full else DEFAULT
    selection = select(
        impl=impl,
        peers=peers,
        profile=profile,
        backends=backends,
        dtypes=dtypes,
        cases=cases,
        level=level,
        seed=seed,
        thread_counts=thread_counts,
        problem=problem,
        timeout=timeout,
    )
    return run(selection, level=level, seed=seed, problem=problem, progress=progress)


def assert_verified(impl: Impl | None = None, **options: Any) -> Report:
    """Assert in a test that an implementation, or this installation, is right.

    Takes what `verify` takes. The error message lists every breach: the case, input, got, wanted,
    error, bound, and the command that repeats it. What the implementation raises is a breach, and
    so is SystemExit; KeyboardInterrupt stays what it is.

    A callable runs in this process, and a `timeout` for it is a ValueError. What has a name
    ("my_module:my_loss") runs in a process of its own, which may hang or crash.

    Raises
    ------
    AssertionError
        Something is wrong, or nothing was checked.
    ValueError, TypeError, ImportError
        As `verify`.

    Examples
    --------
    >>> from fastxent.verify import assert_verified
    >>> report = assert_verified("cython", cases=["gaussian", "trouble"])
    """
    report = verify(impl, **options)
    if not report.ok:
        from .reports.words import failure_text

        raise AssertionError(failure_text(report))
    return report


def __getattr__(name: str) -> Any:
    # What needs SciPy is imported when it is first asked for.
    if name == "Implementation":
        from .implementation import Implementation

        return Implementation
    if name == "Report":
        from .result import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
