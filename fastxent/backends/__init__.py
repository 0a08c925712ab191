"""Backends by name, and the one place where kernels are run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import cython_kernels
from .context import (
    OUTPUT_NOTHING,
    SEGMENT,
    STATE_SIZE,
    TARGET_LABELS,
    TARGET_NOTHING,
    TARGET_PROBS,
    Context,
)

if TYPE_CHECKING:
    from .._plan import Plan
    from .._targets import Target
    from .._validation import Rows

run: Callable[[int, bytes, int, int, int], None]
if cython_kernels.driver is None:
    from .python_driver import run
else:
    run = cython_kernels.driver.run

NAMES = ("cython", "numba")

_default: str | None = None


class Kernels(Protocol):
    """What a twin offers: the address of each kernel, for float32 or float64 arithmetic."""

    def kernel_address(self, name: str, real_bits: int) -> int: ...


def available_backends() -> tuple[str, ...]:
    """The backends that work here, the default first.

    >>> import fastxent
    >>> "numba" in fastxent.available_backends()
    True
    """
    return tuple(name for name in NAMES if _is_available(name))


@cache
def _is_available(name: str) -> bool:
    if name == "cython":
        return cython_kernels.is_available()
    return name == "numba" and importlib.util.find_spec("numba") is not None


def set_backend(name: str | None) -> None:
    """Use a backend for every call of this process that does not name one.

    None goes back to what FASTXENT_BACKEND says, or else to the best there is.

    Raises ValueError for a name that is not in `available_backends()`.

    >>> import fastxent
    >>> fastxent.set_backend("numba")
    >>> fastxent.get_backend()
    'numba'
    >>> fastxent.set_backend(None)
    """
    global _default
    _default = None if name is None else check_backend(name)


def get_backend() -> str:
    """The backend that a call uses when it names none.

    >>> import fastxent
    >>> fastxent.get_backend() in fastxent.available_backends()
    True
    """
    return _default or _default_of_process()


@cache
def _default_of_process() -> str:
    name = os.environ.get("FASTXENT_BACKEND", "").strip()
    if name:
        try:
            return check_backend(name)
        except ValueError as error:
            raise ValueError(f"FASTXENT_BACKEND={name!r} cannot be used: {error}") from None
    return "cython" if cython_kernels.is_available() else check_backend("numba")


def check_backend(name: object) -> str:
    """`name` if it is the name of a backend that works here; ValueError otherwise."""
    if isinstance(name, str) and _is_available(name):
        return name
    if isinstance(name, str) and name in NAMES:
        reason = (
            "this installation has no compiled kernels for this CPU"
            if name == "cython"
            else "numba is not installed"
        )
        raise ValueError(f"backend {name!r} is not available: {reason}")
    raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, not {name!r}")


def kernels_of(backend: str) -> Kernels:
    if backend == "cython":
        return cython_kernels
    # Importing numba costs more than importing all the rest, so only its first user pays.
    from . import numba_kernels

    return numba_kernels


def address_of(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def evaluate(
    plan: Plan,
    rows: Rows,
    target: Target | None,
    losses: np.ndarray[Any, Any],
    *,
    output: Rows | None = None,
    output_kind: int = OUTPUT_NOTHING,
    output_scale: float = 1.0,
) -> None:
    """Fill `losses` (float64, one a row) and, where one is wanted, `output`."""
    if rows.n_rows == 0:
        return
    n_segments = -(-rows.n_classes // SEGMENT)
    split = plan.splits_rows and n_segments > 1
    states = np.empty(STATE_SIZE * n_segments * rows.n_rows if split else 0)
    fields = Context(
        n_classes=rows.n_classes,
        n_segments=n_segments,
        logits=address_of(rows.array),
        logits_stride=rows.stride,
        logits_element=rows.element,
        losses=address_of(losses),
        states=address_of(states),
        **_target_fields(target),
    )
    if output is not None:
        fields = fields._replace(
            output_kind=output_kind,
            output=address_of(output.array),
            output_stride=output.stride,
            output_scale=output_scale,
            output_streams=output.array.nbytes > 32 << 20
            and output.array.ctypes.data != rows.array.ctypes.data,
        )
    context = fields.pack()
    twin = kernels_of(plan.backend)

    def each(kernel: str, n_items: int, chunk: int, n_threads: int) -> None:
        run(twin.kernel_address(kernel, rows.real_bits), context, n_items, chunk, n_threads)

    if not split:
        each("rows_evaluate", rows.n_rows, plan.chunk, plan.n_threads)
        return
    each("segments_reduce", rows.n_rows * n_segments, 1, plan.n_threads)
    each("rows_merge", rows.n_rows, rows.n_rows, 1)
    if output is not None:
        each("segments_write", rows.n_rows * n_segments, 1, plan.n_threads)


def check_labels(
    plan: Plan, rows: Rows, labels: np.ndarray[Any, Any], ignore_index: int | None
) -> tuple[int, int]:
    """The first row whose label is neither a class nor ignored (-1: none), and the rows kept."""
    if rows.n_rows == 0:
        return -1, 0
    found = np.empty(2)
    context = Context(
        n_classes=rows.n_classes,
        target=TARGET_LABELS,
        labels=address_of(labels),
        has_ignore_index=ignore_index is not None,
        ignore_index=ignore_index or 0,
        states=address_of(found),
    ).pack()
    address = kernels_of(plan.backend).kernel_address("rows_check_labels", rows.real_bits)
    run(address, context, rows.n_rows, rows.n_rows, 1)
    return int(found[0]), int(found[1])


def check_probs(plan: Plan, probs: Rows, largest: float) -> int:
    """The first row with a probability that is negative, NaN or above `largest`, or -1."""
    if probs.n_rows == 0:
        return -1
    marks = np.empty(probs.n_rows)
    context = Context(
        n_classes=probs.n_classes,
        target=TARGET_PROBS,
        probs=address_of(probs.array),
        probs_stride=probs.stride,
        probs_element=probs.element,
        losses=address_of(marks),
        output_scale=largest,
    ).pack()
    # in the probabilities' own precision: a narrower one would round -1e-300 to 0
    address = kernels_of(plan.backend).kernel_address("rows_check_probs", probs.real_bits)
    run(address, context, probs.n_rows, plan.chunk, plan.n_threads)
    bad = np.isnan(marks)
    return int(bad.argmax()) if bad.any() else -1


def sum_losses(plan: Plan, losses: np.ndarray[Any, Any]) -> float:
    """The sum of float64 losses, in an order that depends on their number alone."""
    if losses.size == 0:
        return 0.0
    total = np.empty(1)
    context = Context(n_classes=1, losses=address_of(losses), states=address_of(total)).pack()
    address = kernels_of(plan.backend).kernel_address("rows_sum", 64)
    run(address, context, losses.size, losses.size, 1)
    return float(total[0])


def _target_fields(target: Target | None) -> dict[str, Any]:
    if target is None:
        return {"target": TARGET_NOTHING}
    if target.labels is not None:
        return {
            "target": TARGET_LABELS,
            "labels": address_of(target.labels),
            "has_ignore_index": target.ignore_index is not None,
            "ignore_index": target.ignore_index or 0,
        }
    assert target.probs is not None
    return {
        "target": TARGET_PROBS,
        "probs": address_of(target.probs.array),
        "probs_stride": target.probs.stride,
        "probs_element": target.probs.element,
    }
