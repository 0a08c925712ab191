"""Backends by name, and the one place where kernels are run."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import cython_kernels, numba_compiler
from .context import (
    CHECKED,
    ELEMENTS,
    FLOAT32,
    FLOAT64,
    LANE_CLASSES,
    LAYOUT_LANES,
    LAYOUT_PLANES,
    LAYOUT_ROWS,
    OUTPUT_GRADIENT,
    OUTPUT_HESSIAN_PRODUCT,
    OUTPUT_LABEL_GRADIENT,
    OUTPUT_LOG_SOFTMAX,
    OUTPUT_NOTHING,
    ROWS,
    ROWS_AT_ONCE,
    SEGMENTS,
    TARGET_LABELS,
    TARGET_NOTHING,
    TARGET_PROBS,
    Options,
    Program,
)
from .needs import EVERYTHING, KERNELS, NOTHING, PLAIN, Needs

if TYPE_CHECKING:
    from .._plan import Plan
    from . import driver
elif cython_kernels.driver is None:
    from . import python_driver as driver
else:
    driver = cython_kernels.driver

# What a call does besides the loss and its gradient: the kernels it runs, and over what.
TASKS = {
    "describe": (("rows_describe", ROWS),),
    "diverge": (("rows_diverge", ROWS),),
    "reduce": (("segments_reduce", SEGMENTS), ("rows_merge", ROWS_AT_ONCE)),
    "merge": (("rows_merge", ROWS_AT_ONCE),),
    "finish": (("rows_finish", ROWS_AT_ONCE),),
    "write": (("segments_write", SEGMENTS),),
}

_default: str | None = None


class Kernels(Protocol):
    """What a twin offers: the address of each kernel, for float32 or float64 arithmetic.

    It need not do what is not needed.
    `obstacle` says why there are none here.
    """

    def obstacle(self) -> str | None: ...

    def kernel_address(self, name: str, real_bits: int, needs: Needs = EVERYTHING) -> int: ...


# The best first.
_TWINS: dict[str, Kernels] = {"cython": cython_kernels, "numba": numba_compiler}
_usable: set[str] = set()  # those that have been asked for, and have no obstacle


def available_backends() -> tuple[str, ...]:
    """The backends that work here, the default first.

    With NUMBA_DISABLE_JIT=1 Numba compiles nothing, and its backend runs as Python: slowly, for
    debuggers and to measure coverage.

    >>> import fastxent
    >>> "numba" in fastxent.available_backends()
    True
    """
    return tuple(name for name, twin in _TWINS.items() if twin.obstacle() is None)


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
    if cython_kernels.BAD_ISA:  # another backend than the one that was meant would hide it
        raise ValueError(cython_kernels.BAD_ISA)
    obstacles = []
    for name, twin in _TWINS.items():
        obstacle = twin.obstacle()
        if obstacle is None:
            return name
        obstacles.append(f"{name!r}: {obstacle}")
    raise ValueError(f"no backend is available: {'; '.join(obstacles)}")


def check_backend(name: object) -> str:
    """`name` if it is the name of a backend that works here; ValueError otherwise."""
    if isinstance(name, str) and name in _usable:
        return name
    if not isinstance(name, str) or name not in _TWINS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _TWINS))}, not {name!r}")
    obstacle = _TWINS[name].obstacle()
    if obstacle is not None:
        raise ValueError(f"backend {name!r} is not available: {obstacle}")
    _usable.add(name)
    return name


def prepare(backend: str, element: int) -> None:
    """Compile or load every kernel that logits of an element may need."""
    kernels = _TWINS[backend]
    bits = _bits_of(element)
    for name in KERNELS:
        wanted = 64 if name == "rows_diverge" else bits
        if name != "rows_describe":
            kernels.kernel_address(name, wanted, PLAIN)
        kernels.kernel_address(name, wanted)
    for name, wanted in (("rows_sum", 64), ("rows_check_probs", 32), ("rows_check_probs", 64)):
        kernels.kernel_address(name, wanted)


_programs: dict[tuple[object, ...], tuple[Program | None, bool]] = {}


def evaluate(
    plan: Plan,
    logits: np.ndarray[Any, Any],
    target: np.ndarray[Any, Any] | None,
    ignore_index: object,
    losses: np.ndarray[Any, Any] | None,
    output: np.ndarray[Any, Any] | None,
    output_kind: int,
    mean: bool,
    planes: bool = False,
    task: str = "loss",
    options: Options | None = None,
) -> tuple[int, float, float] | None:
    """Fill `losses` and `output`, where they are given, for rows of logits.

    `target` is an int64 label for every row, or probabilities shaped like the logits; `losses`
    takes float64 or float32, one a row; `output` is shaped like the logits. `mean` divides the
    output by what a mean divides by. `task` is "loss" or one of TASKS.

    Returns the first row whose target is wrong, or -1, or EMPTY; what a mean divides by; the sum of
    the losses where there is a target and no `losses`. Nothing is written where a row is wrong.

    With `planes` the logits have three axes, the classes along the second (see `takes_planes`).

    Returns None, and has done nothing, where an array is not as the kernels take it: aligned, in
    native byte order, labels contiguous, the rest contiguous along the last axis and either
    contiguous altogether or of two axes; where an `ignore_index` is no int64; and where rows of a
    single segment were to be split.
    """
    if planes:
        layout = LAYOUT_PLANES
    elif task != "loss" or _transforms(options) or output_kind in _OUTPUTS_BY_ROWS:
        layout = LAYOUT_ROWS
    elif logits.shape[-1] <= LANE_CLASSES:
        layout = LAYOUT_LANES  # where there are kernels for it
    else:
        layout = LAYOUT_ROWS
    key = (
        plan.backend,
        layout,
        logits.dtype,
        None if target is None else target.dtype,
        plan.splits_rows,
        losses is None and (target is not None or task == "diverge"),
        task,
        output_kind,
        # as booleans: putting Needs together would take longer than a small call
        options is not None and options.smoothing != 0,
        _transforms(options),
        options is not None and options.partners is not None,
    )
    try:
        program, is_python = _programs[key]
    except KeyError:
        program = _make_program(*key)
        is_python = plan.backend == "numba" and numba_compiler.is_python()
        _programs[key] = program, is_python
    if program is None:
        return None
    # Python runs in this thread alone, where its errors can be raised: fork waits for other threads
    # inside kernels, and holds what they need to go on.
    n_threads = 1 if is_python else plan.n_threads
    try:
        return driver.evaluate(
            program, logits, target, ignore_index, losses, output, output_kind, mean,
            plan.chunk, n_threads, options,
        )  # fmt: skip
    finally:
        if is_python:
            numba_compiler.raise_what_kernels_raised()


_FIRST_ORDER = (OUTPUT_NOTHING, OUTPUT_GRADIENT, OUTPUT_LOG_SOFTMAX)
# What there are no tiles for.
_OUTPUTS_BY_ROWS = (OUTPUT_LABEL_GRADIENT, OUTPUT_HESSIAN_PRODUCT)


def takes_planes(
    logits: np.dtype[Any],
    n_classes: int,
    has_probs: bool,
    output_kind: int = OUTPUT_NOTHING,
    options: Options | None = None,
) -> bool:
    """Whether `evaluate` takes such logits with their classes apart from each other.

    Tiles are for few classes, labels (or no target) and arithmetic in float32: a logarithm that is
    good for float32 serves all rows of a tile at once. What else there is, `as_rows` brings into
    the form that rows have. None of this depends on how many rows there are, nor do the bits.
    """
    element = ELEMENTS.get(logits.name)
    return (
        element not in (None, FLOAT64)
        and n_classes <= LANE_CLASSES
        and not has_probs
        and output_kind not in _OUTPUTS_BY_ROWS
        and not _transforms(options)
    )


def _transforms(options: Options | None) -> bool:
    """Whether logits are capped or divided by a temperature."""
    return options is not None and (options.temperature != 1 or options.softcap != 0)


def _make_program(
    backend: str,
    layout: int,
    logits: np.dtype[Any],
    target: np.dtype[Any] | None,
    splits_rows: bool,
    sums: bool,
    task: str,
    output_kind: int,
    smooths: bool,
    transforms: bool,
    has_partners: bool,
) -> Program | None:
    """The kernels of such calls; None where there are none for these dtypes."""
    element = ELEMENTS.get(logits.name)
    if element is None or not logits.isnative:
        return None
    # a divergence has few digits to spare: it is the sum of second-order terms
    bits = 64 if task == "diverge" else _bits_of(element)

    needs = NOTHING
    for need, is_needed in (
        # partners may be of another type than the logits
        (Needs.CONVERTS, has_partners or element != _OWN_ELEMENTS[bits]),
        (Needs.WRITES, output_kind != OUTPUT_NOTHING),
        (Needs.SMOOTHS, smooths),
        (Needs.TRANSFORMS, transforms),
        (Needs.SECOND_ORDER, output_kind not in _FIRST_ORDER),
    ):
        if is_needed:
            needs |= need

    def address(kernel: str, real_bits: int = bits) -> int:
        return _TWINS[backend].kernel_address(kernel, real_bits, needs)

    target_kind, target_element, check = TARGET_NOTHING, 0, 0
    if target is not None and target == np.int64:
        target_kind, check = TARGET_LABELS, address("rows_check_labels")
    elif target is not None:
        probs_element = ELEMENTS.get(target.name)
        if probs_element is None or not target.isnative:
            return None
        target_kind, target_element = TARGET_PROBS, probs_element
        needs |= Needs.PROBS
        if probs_element != element:
            needs |= Needs.CONVERTS
        # in the probabilities' own precision: a narrower one would round -1e-300 to 0
        check = address("rows_check_probs", _bits_of(probs_element))
    if layout == LAYOUT_LANES and not takes_planes(logits, 1, target_kind == TARGET_PROBS):
        layout = LAYOUT_ROWS
    if task in ("merge", "finish"):
        check = CHECKED  # with the logits
    if task != "loss":
        steps = [(address(name), extent) for name, extent in TASKS[task]]
    elif layout != LAYOUT_ROWS:
        steps = [(address("lanes_evaluate"), ROWS)]
    elif splits_rows:
        steps = [
            (address("segments_reduce"), SEGMENTS),
            (address("rows_merge"), ROWS_AT_ONCE),
            (address("rows_finish"), ROWS_AT_ONCE),
        ]
        if output_kind != OUTPUT_NOTHING:
            steps.append((address("segments_write"), SEGMENTS))
    else:
        steps = [(address("rows_evaluate"), ROWS)]
    if sums:
        steps.append((address("rows_sum", 64), ROWS_AT_ONCE))
    return Program(
        layout, element, target_kind, target_element, largest_prob(logits), check, tuple(steps)
    )


# What is computed with floats of so many bits.
_OWN_ELEMENTS = {32: FLOAT32, 64: FLOAT64}


def _bits_of(element: int) -> int:
    """The width of the floats that are computed with."""
    return 64 if element == FLOAT64 else 32


def largest_prob(logits: np.dtype[Any]) -> float:
    """The largest probability that goes with logits of a dtype: what is computed with holds it."""
    return float(np.finfo(np.float64 if logits == np.float64 else np.float32).max)
