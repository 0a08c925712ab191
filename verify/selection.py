"""What was asked for -> cases, implementations and dtypes, or a clear error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fastxent
from fastxent.backends import check_backend
from fastxent.config import check_environment

from .adapters import ADAPTERS, is_installed
from .case import DTYPES, Case, Level, dtype_named
from .cases import cases_named
from .implementation import BACKENDS, Implementation, from_callable, named
from .profile import PROFILES, STANDARD, STRICT, ProfileName
from .reference import LONGDOUBLE_IS_EXTENDED

_TIMEOUT: Final = 300.0
_GET_ML_DTYPES: Final = "python -m pip install ml_dtypes"

Impl = str | Callable[..., Any] | Implementation


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run; `dtypes` holds those of each implementation, by its name.

    timeout : seconds that a process may take for a problem
    """

    cases: list[Case]
    implementations: list[Implementation]
    dtypes: dict[str, list[str]]
    profile: ProfileName
    thread_counts: tuple[int, ...]
    timeout: float
    peers: frozenset[str]
    notes: list[str]


def select(
    *,
    impl: Impl | Sequence[Impl] | None,
    peers: bool,
    profile: str | None,
    backends: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    cases: Sequence[str],
    level: Level,
    seed: int,
    thread_counts: Sequence[int],
    problem: int | None,
    timeout: float | None,
) -> Selection:
    """Look everything up; ValueError for what is unknown, ImportError for what is missing."""
    check_environment()
    notes: list[str] = []
    implementations = _implementations(impl, peers, backends, notes)
    if profile is None:
        profile = STRICT if impl is None and not peers else STANDARD
        if profile == STANDARD and any(each.name in BACKENDS for each in implementations):
            notes.append(
                "the backends are judged by profile standard, as all that is given with --impl or "
                "--peers; --profile strict asks for their own bounds"
            )
    if profile not in PROFILES:
        raise ValueError(
            f"profile must be one of {', '.join(map(repr, PROFILES))}, not {profile!r}"
        )
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    if not thread_counts or min(thread_counts) < 1:
        raise ValueError(f"thread counts must be at least 1, not {list(thread_counts)}")
    if problem is not None and problem < 0:
        raise ValueError(f"problem must not be negative, but is {problem}")
    if problem is not None and len(cases) != 1:
        raise ValueError("problem counts the problems of one case; name that case, too")
    if not LONGDOUBLE_IS_EXTENDED:
        notes.append(
            "numpy.longdouble is no wider than float64 here: pairs of float64 are the reference"
        )
    return Selection(
        cases_named(list(cases), level),
        implementations,
        {each.name: _dtypes(each, dtypes, peers, notes) for each in implementations},
        profile,
        tuple(dict.fromkeys(thread_counts)),
        _TIMEOUT if timeout is None else _checked_timeout(timeout, implementations),
        frozenset(ADAPTERS) if peers else frozenset(),
        list(dict.fromkeys(notes)),
    )


def _implementations(
    impl: Impl | Sequence[Impl] | None,
    peers: bool,
    backends: Sequence[str] | None,
    notes: list[str],
) -> list[Implementation]:
    available = fastxent.available_backends()
    asked: list[Impl] = [check_backend(name) for name in backends or ()]
    if impl is not None:
        is_one = isinstance(impl, str | Implementation) or callable(impl)
        if not is_one and not isinstance(impl, Sequence):
            raise TypeError(f"impl must be callable, not {type(impl).__name__}")
        asked += [impl] if is_one else list(impl)  # type: ignore[list-item, arg-type]
    if peers:
        asked = [*(backends or available), *asked[len(backends or ()) :]]
        for name in ADAPTERS:
            if is_installed(name):
                asked.append(name)
            else:
                notes.append(f"{name} is not installed (python -m pip install {ADAPTERS[name][1]})")
    if not asked:
        asked = list(available)
        notes += [
            f"backend {name} is not available here and was not checked"
            for name in BACKENDS
            if name not in available
        ]
    found = [_one(each) for k, each in enumerate(asked) if not _is_among(each, asked[:k])]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two implementations are called {name!r}; wrap one in an "
                "Implementation with another name"
            )
    return found


def _checked_timeout(timeout: float, implementations: list[Implementation]) -> float:
    """A time-out that is kept; ValueError for one that is none, or that nothing could keep."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
    for each in implementations:
        if not each.argument:
            raise ValueError(
                f"timeout={timeout:g} cannot be kept for {each.name}, which is called in this "
                f"process: what ended it would end all else. Pass its name, {_name_of(each)!r}, "
                "for a process of its own, or leave timeout out"
            )
    return timeout


def _name_of(implementation: Implementation) -> str:
    """What the command line may call a callable, if that can be known."""
    function = implementation.with_grad
    module = getattr(function, "__module__", None) or "__main__"
    path = getattr(function, "__qualname__", "<")
    is_known = module != "__main__" and "<" not in path
    return f"{module}:{path}" if is_known else "MODULE:FUNCTION"


def _is_among(impl: Impl, others: list[Impl]) -> bool:
    return any(impl is other or (isinstance(impl, str) and impl == other) for other in others)


def _one(impl: Impl) -> Implementation:
    if isinstance(impl, Implementation):
        return impl
    return named(impl) if isinstance(impl, str) else from_callable(impl)


def _dtypes(
    implementation: Implementation, asked: Sequence[str] | None, peers: bool, notes: list[str]
) -> list[str]:
    usual = implementation.dtypes
    if peers:  # beside each other, all in the same
        usual = tuple(name for name in usual if name in ("float32", "float64"))
    found = []
    for name in asked or usual:
        if name not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, not {name!r}")
        try:
            dtype_named(name)
            found.append(name)
        except ModuleNotFoundError:
            if asked:
                raise ImportError(f"bfloat16 needs ml_dtypes: {_GET_ML_DTYPES}") from None
            notes.append(f"bfloat16 was not checked: ml_dtypes is not installed ({_GET_ML_DTYPES})")
    return found
