"""Roofs: what no kernel can be faster than, run by the driver that runs the kernels.

They are for the benchmarks; the rest of the package does not import them. What is computed is in
csrc_pyx/roofs.h: FACTOR * exp of every element of an array where it lies, FACTOR being a power of
two that the compiled modules name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._plan import make_plan
from . import cython_kernels
from .context import (
    CHECKED,
    ELEMENTS,
    FLOAT64,
    LAYOUT_ROWS,
    OUTPUT_GRADIENT,
    OUTPUT_NOTHING,
    SEGMENT,
    SEGMENTS,
    STATE_SIZE,
    TARGET_NOTHING,
    Options,
    Program,
)

Array = np.ndarray[Any, Any]


def obstacle() -> str | None:
    """Why there are none here."""
    if reason := cython_kernels.obstacle():
        return reason
    try:
        for real_bits in (32, 64):
            cython_kernels.import_build("roofs", real_bits)
    except ImportError as error:
        return f"this installation has no compiled roofs: {error}"
    return None


def exp_sum(logits: Array, n_threads: int) -> Callable[[], Array]:
    """A function that sums the exponentials; its result holds parts of the sum."""
    run, parts = _prepare("exp_sum", logits, n_threads)

    def call() -> Array:
        run(None, OUTPUT_NOTHING)
        return parts

    return call


def exp_write(logits: Array, n_threads: int) -> Callable[[Array], Array]:
    """A function that writes the exponentials to an array like the logits, or to the logits."""
    run, _ = _prepare("exp_write", logits, n_threads)

    def call(output: Array) -> Array:
        if output.shape != logits.shape or not output.flags.c_contiguous:
            raise ValueError(
                f"output must be C-contiguous with the shape {logits.shape} of the logits; it has "
                f"the shape {output.shape} and the strides {output.strides}"
            )
        run(_as_one_row(output), OUTPUT_GRADIENT)
        return output

    return call


def _prepare(
    name: str, logits: Array, n_threads: int
) -> tuple[Callable[[Array | None, int], None], Array]:
    """What runs a roof, given an output and its kind; and the array that sums go to."""
    element = ELEMENTS.get(logits.dtype.name)
    if element is None or not logits.flags.c_contiguous:
        raise ValueError(
            f"logits must be C-contiguous and of one of {', '.join(ELEMENTS)}; they are "
            f"{logits.dtype} with the shape {logits.shape} and the strides {logits.strides}"
        )
    build = cython_kernels.import_build("roofs", 64 if element == FLOAT64 else 32)
    program = Program(
        LAYOUT_ROWS, element, TARGET_NOTHING, 0, 0.0, CHECKED, ((build.ROOFS[name], SEGMENTS),)
    )
    row = _as_one_row(logits)
    states = np.zeros((row.shape[0], (row.shape[1] - 1) // SEGMENT + 1, STATE_SIZE))
    options = Options(states=states)
    used_threads = make_plan(row.shape[0], row.shape[1], "cython", n_threads).n_threads
    evaluate = cython_kernels.driver.evaluate

    def run(output: Array | None, output_kind: int) -> None:
        answer = evaluate(
            program, row, None, None, None, output, output_kind, False, 1, used_threads, options
        )
        if answer is None:
            raise ValueError(
                "logits and output must be aligned arrays of the same dtype in native byte order, "
                "and output writeable"
            )

    return run, states[..., 0]


def _as_one_row(array: Array) -> Array:
    """The elements of a contiguous array as one row; no row where there is none."""
    return array.reshape(-1, max(array.size, 1))
