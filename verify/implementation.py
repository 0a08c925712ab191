"""What is verified: this package's backends, other libraries, or any callable."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import fastxent
from fastxent.backends import check_backend

from .case import DTYPES, LOG_SOFTMAX, LOGSUMEXP, OPTIONS, SOFTMAX
from .errors import LoadError

BACKENDS: Final = ("cython", "numba")
# Keywords beside those in OPTIONS that a problem can do without.
KEYWORDS: Final = ("out", "ignore_index", "n_threads", "axis")
# What a callable is asked in unless more is asked for: 16 bits are a matter of their own.
USUAL_DTYPES: Final = ("float32", "float64")
# Numba compiles these apart, some ten seconds for each precision.
_SLOW_WITH_NUMBA: Final = frozenset({"label_smoothing", "temperature", "softcap"})


@dataclass(frozen=True, slots=True, eq=False)
class Implementation:
    """Something that computes losses and gradients.

    with_grad : f(logits, labels) -> (losses, grad_logits): logits (n_rows, n_classes), integer
        labels (n_rows,), a loss for every row, and row i of the gradient being that of losses[i]
    loss_alone : f(logits, labels) -> losses, if there is a way without the gradient
    functions : softmax, log_softmax, logsumexp: f(logits) -> array, as far as they exist
    options : which of the keywords "out", "ignore_index", "n_threads" and "axis" all of these take
        (logsumexp and the loss alone go without "out", functions without labels), and which of
        those in `OPTIONS` `with_grad` and `loss_alone` take; "probs" says that labels may be
        probabilities. Problems with any other are left out
    dtypes : those that it is asked in by default
    slow_options : options that quick runs leave out
    copies : packed copies are made of its arguments, so that layouts say nothing about it
    argument : how it is named on the command line, if it can be: it is then verified in a process
        of its own
    """

    name: str
    with_grad: Callable[..., tuple[Any, Any]]
    loss_alone: Callable[..., Any] | None = None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    dtypes: tuple[str, ...] = USUAL_DTYPES
    slow_options: frozenset[str] = frozenset()
    copies: bool = False
    argument: str = ""


def backend_implementation(backend: str) -> Implementation:
    """One of this package's backends."""

    def with_grad(logits: Any, labels: Any, **options: Any) -> tuple[Any, Any]:
        return fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend, **options
        )

    def loss_alone(logits: Any, labels: Any, **options: Any) -> Any:
        return fastxent.cross_entropy(logits, labels, reduction="none", backend=backend, **options)

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits, **options: function(logits, backend=backend, **options)

    return Implementation(
        backend,
        with_grad,
        loss_alone,
        {
            SOFTMAX: named(fastxent.softmax),
            LOG_SOFTMAX: named(fastxent.log_softmax),
            LOGSUMEXP: named(fastxent.logsumexp),
        },
        frozenset({"probs", *KEYWORDS, *OPTIONS}),
        DTYPES,
        _SLOW_WITH_NUMBA if backend == "numba" else frozenset(),
        argument=backend,
    )


def from_callable(
    function: Callable[..., Any], name: str = "", argument: str = ""
) -> Implementation:
    """An implementation from f(logits, labels) -> (losses, grad_logits).

    Of its parameters, those called as a keyword in `KEYWORDS` or `OPTIONS` are taken to mean the
    same as in `fastxent.cross_entropy_with_grad`, and problems with them are put to it. TypeError
    for what cannot be called, and for a class.
    """
    if inspect.isclass(function):
        raise TypeError(
            f"impl must be a function or an object that can be called, not the class "
            f"{function.__name__}; pass an instance of it"
        )
    if not callable(function):
        raise TypeError(f"impl must be callable, not {type(function).__name__}")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some compiled functions have none to show
        parameters = {}  # type: ignore[assignment]
    known = frozenset(parameters) & {*KEYWORDS, *OPTIONS}
    title = name or getattr(function, "__name__", "") or type(function).__name__
    return Implementation(title, function, options=known, argument=argument)


def named(argument: str) -> Implementation:
    """A stand-in for what the command line calls `argument`, without importing it.

    A backend, an adapter of another library, or MODULE:FUNCTION. ValueError for what is neither,
    ImportError where an adapter's library is missing.
    """
    from .adapters import ADAPTERS, check_installed

    if argument in BACKENDS:
        return backend_implementation(check_backend(argument))
    if argument in ADAPTERS:
        check_installed(argument)
    else:
        _module_and_path(argument)
    return Implementation(argument, _nothing, argument=argument)


def _nothing(logits: Any, labels: Any) -> tuple[Any, Any]:
    raise AssertionError("a stand-in is not called")


def load(argument: str) -> Implementation:
    """The implementation that the command line calls `argument`: what `named` stands for.

    LoadError where a module has no such function; any error of its import.
    """
    from .adapters import ADAPTERS, adapter

    if argument in BACKENDS:
        return backend_implementation(argument)
    if argument in ADAPTERS:
        return adapter(argument)
    module_name, path = _module_and_path(argument)
    found: Any = importlib.import_module(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            known = ", ".join(_public_callables(found)) or "no public function"
            raise LoadError(f"{module_name} has no {part!r}; it has {known}")
        found = getattr(found, part)
    if isinstance(found, Implementation):
        return replace(found, name=argument, argument=argument)
    try:
        return from_callable(found, argument, argument)
    except TypeError as error:
        raise LoadError(str(error)) from None


def _module_and_path(argument: str) -> tuple[str, str]:
    from .adapters import ADAPTERS

    module_name, _, path = argument.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"impl names a module, not a file: {name}:{path or 'FUNCTION'}")
    if not module_name or not path:
        known = ", ".join((*BACKENDS, *ADAPTERS))
        raise ValueError(f"impl must be one of {known}, or MODULE:FUNCTION, not {argument!r}")
    return module_name, path


def _public_callables(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isroutine(value)
    ]
