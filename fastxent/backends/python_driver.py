"""The driver of an installation without compiled modules: a pool of Python threads.

It has those functions of the compiled driver that a call needs, with the same meaning. ctypes
releases the GIL around a kernel, so the threads do run at once; handing out a chunk costs some
10 us instead of a tenth of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from . import float_mode
from .context import (
    BLOCK,
    CHECKED,
    ELEMENTS,
    EMPTY,
    FLOAT64,
    LAYOUT_LANES,
    LAYOUT_PLANES,
    LAYOUT_ROWS,
    OUTPUT_GRADIENT,
    OUTPUT_HESSIAN,
    OUTPUT_HESSIAN_PRODUCT,
    OUTPUT_NOTHING,
    ROWS,
    SCRATCH_CLASSES,
    SEGMENT,
    SEGMENTS,
    STATE_SIZE,
    STREAM_BYTES,
    TARGET_LABELS,
    TARGET_PROBS,
    Context,
    Options,
    Program,
)
from .float_mode import default_float_mode

__all__ = ["default_float_mode", "evaluate", "is_apart", "quotient", "run"]

Array = np.ndarray[Any, Any]

_Kernel = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)

_LINE_BYTES = 64

_lock = threading.RLock()  # re-entrant: a signal handler may call in the middle
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    # A forked child has none of its parent's threads, and perhaps a lock that one of them held.
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.RLock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _pool_of(n_workers: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < n_workers:
            _pool = ThreadPoolExecutor(
                n_workers, thread_name_prefix="fastxent", initializer=float_mode.reset
            )
            _pool_size = n_workers
        return _pool


def run(
    kernel: int,
    context: Context,
    n_items: int,
    chunk: int,
    n_threads: int,
    arrays: tuple[object, ...] = (),
) -> None:
    """Run the kernel at an address over items 0..n_items on at most n_threads threads.

    `arrays` is what the context points to. Ctrl-C twice may end the call before its helpers are
    waited for: then they hold on to it.
    """
    if kernel == 0:
        raise ValueError("the kernel does not fit this build of fastxent")
    function = _Kernel(kernel)
    starts = itertools.count(0, chunk)  # next() on it is atomic
    scratch = itertools.count(context.scratch, context.scratch_stride)  # of each thread
    stopped = threading.Event()

    def take_chunks(_held: object = arrays) -> None:
        own = context._replace(scratch=next(scratch)).pack()
        # A chunk that has been taken is always worked on: `stopped` is asked before the next one.
        while not stopped.is_set():
            start = next(starts)
            if start >= n_items:
                return
            function(own, start, min(start + chunk, n_items))

    helpers = min(n_threads, -(-n_items // chunk)) - 1
    if helpers < 1:
        take_chunks()
        return
    pool = _pool_of(helpers)
    futures: list[Future[None]] = []
    try:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: no more threads
            futures.extend(pool.submit(take_chunks) for _ in range(helpers))
        take_chunks()
    finally:
        # A helper that has not started takes nothing any more, and is not waited for. The others
        # are, through any further Ctrl-C: they write into the caller's arrays.
        stopped.set()
        interrupt: BaseException | None = None
        running = [future for future in futures if not future.cancel()]
        while running:
            try:
                wait(running)
                running = []
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


@default_float_mode()
def evaluate(
    program: Program,
    logits: Array,
    target: Array | None,
    ignore_index: Any,
    losses: Array | None,
    output: Array | None,
    output_kind: int,
    mean: bool,
    chunk: int,
    n_threads: int,
    options: Options | None = None,
) -> tuple[int, float, float] | None:
    """Run a program: look at the target, stop where a row of it is wrong, then step by step.

    `fastxent.backends.evaluate` says what the arrays must be, and what comes back. All of it is in
    the default floating-point mode.
    """
    if chunk < 1 or n_threads < 1:
        raise ValueError("chunk and n_threads must be at least 1")
    if not (
        _is_laid_out(logits, program.layout, program.logits_element, logits)
        and _is_target(target, ignore_index, program, logits)
        and (output is None) == (output_kind == OUTPUT_NOTHING)
        and (output is None or _is_laid_out(output, program.layout, program.logits_element, logits))
        and (output is None or output.flags.writeable)
        and (losses is None or _has_room(losses, logits, program.layout))
    ):
        return None
    n_classes = logits.shape[_class_axis(program.layout)]
    n_rows = logits.size // n_classes
    n_segments = -(-n_classes // SEGMENT)
    given = Options() if options is None else options
    if not _are_options(given, program, logits, n_rows, n_classes):
        return None
    states = given.states
    if any(extent == SEGMENTS for _, extent in program.steps):
        if states is None:
            if n_segments == 1:
                return None
            states = np.zeros((n_rows, n_segments, STATE_SIZE))
        elif states.shape[1] != n_segments:
            return None
    if states is not None:
        n_segments = states.shape[1]
    if n_rows == 0:
        denominator = max(given.denominator, 0.0)
        is_refused = mean and given.refuses_empty and denominator == 0
        return (EMPTY, 0.0, 0.0) if is_refused else (-1, denominator, 0.0)
    totals = np.zeros(4)
    wide_losses = np.empty(n_rows)
    stride, inner_stride, class_stride = _strides_of(logits, program.layout)
    context = Context(
        n_classes=n_classes,
        n_segments=n_segments,
        n_inner={LAYOUT_ROWS: 1, LAYOUT_LANES: n_rows}.get(program.layout, logits.shape[-1]),
        logits=_address_of(logits),
        logits_stride=stride,
        logits_inner_stride=inner_stride,
        logits_class_stride=class_stride,
        logits_element=program.logits_element,
        target=program.target,
        class_offset=given.class_offset,
        n_labels=given.n_labels or n_classes,
        class_weights=_address_or_0(given.class_weights),
        class_masses=_address_or_0(given.class_masses),
        row_weights=_address_or_0(given.row_weights),
        label_scale=given.label_scale,
        smoothing=given.smoothing,
        z_loss=given.z_loss,
        temperature=given.temperature,
        softcap=given.softcap,
        transforms=given.temperature != 1 or given.softcap != 0,
        hess_factor=given.hess_factor,
        partners=_address_or_0(given.partners),
        partners_stride=0
        if given.partners is None
        else _strides_of(given.partners, program.layout)[0],
        partners_element=given.partners_element,
        losses=_address_of(wide_losses),
        states=_address_or_0(states),
        totals=_address_of(totals),
    )
    keeps = (
        output_kind in (OUTPUT_GRADIENT, OUTPUT_HESSIAN, OUTPUT_HESSIAN_PRODUCT)
        and program.logits_element != FLOAT64
        and SEGMENT < n_classes <= SCRATCH_CLASSES
        and all(extent != SEGMENTS for _, extent in program.steps)
    )
    scratch = None
    if keeps:
        # whole lines of memory, and two more that the kernels fill
        scratch_stride = (4 * n_classes // _LINE_BYTES + 3) * _LINE_BYTES
        scratch = np.empty(_LINE_BYTES + min(n_threads, n_rows) * scratch_stride, np.uint8)
        context = context._replace(
            scratch=_address_of(scratch) + -_address_of(scratch) % _LINE_BYTES,
            scratch_stride=scratch_stride,
        )
    arrays = (logits, target, output, given, wide_losses, states, totals, scratch)
    bad, denominator = -1, float(n_rows)
    if target is not None and program.target == TARGET_LABELS:
        context = context._replace(
            labels=_address_of(target),
            has_ignore_index=ignore_index is not None,
            ignore_index=ignore_index or 0,
        )
        if program.check != CHECKED:
            run(program.check, context, n_rows, n_rows, 1)
            bad, denominator = int(totals[0]), float(totals[2 if given.weighs else 1])
    elif target is not None:
        context = context._replace(
            probs=_address_of(target),
            probs_stride=_strides_of(target, program.layout)[0],
            probs_element=program.target_element,
            output_scale=program.largest,
        )
        if program.check != CHECKED:
            run(program.check, context, n_rows, chunk, n_threads, arrays)
            wrong = np.isnan(wide_losses)
            bad = int(wrong.argmax()) if wrong.any() else -1
    if bad >= 0:
        return bad, 0.0, 0.0
    if given.denominator >= 0:
        denominator = given.denominator
    output_scale, output_exponent = 1.0, 0
    if mean:
        if denominator == 0 and given.refuses_empty:
            return EMPTY, 0.0, 0.0
        output_scale, output_exponent = _output_scale_of(denominator)
    context = context._replace(output_scale=output_scale, output_exponent=output_exponent)
    totals[0] = 0.0
    if output is not None:
        stride, inner_stride, class_stride = _strides_of(output, program.layout)
        context = context._replace(
            output_kind=output_kind,
            output=_address_of(output),
            output_stride=stride,
            output_inner_stride=inner_stride,
            output_class_stride=class_stride,
            output_streams=(
                output.nbytes > STREAM_BYTES and _address_of(output) != _address_of(logits)
            ),
        )
    for kernel, extent in program.steps:
        if extent == ROWS:
            run(kernel, context, n_rows, chunk, n_threads, arrays)
        elif extent == SEGMENTS:
            run(kernel, context, n_rows * n_segments, 1, n_threads, arrays)
        else:
            run(kernel, context, n_rows, n_rows, 1)
    if losses is not None:
        with np.errstate(all="ignore"):  # a loss beyond float32 is inf, subnormal or 0
            losses[...] = wide_losses.reshape(losses.shape)
    return -1, denominator, float(totals[0])


def _output_scale_of(denominator: float) -> tuple[float, int]:
    """The output is divided by the denominator of a mean; one over nothing has none."""
    if denominator == 0:
        return 0.0, 0
    if 2.0**-1000 <= denominator <= 2.0**1000:
        return 1.0 / denominator, 0
    mantissa, exponent = math.frexp(denominator)
    return 1.0 / mantissa, -exponent


def quotient(numerator: float, denominator: float) -> float:
    """The same in every floating-point mode of the caller."""
    with default_float_mode():
        return numerator / denominator


def is_apart(output: object, logits: object, target: object) -> bool:
    """The complete test costs no more here: see _validation.check_out."""
    return False


def _is_target(target: Array | None, ignore_index: object, program: Program, logits: Array) -> bool:
    if program.target == TARGET_LABELS:
        return (
            target is not None
            and target.dtype == np.int64
            and target.shape == _rows_shape(logits, program.layout)
            and target.flags.c_contiguous
            and target.flags.aligned
            and (ignore_index is None or (type(ignore_index) is int and _fits_int64(ignore_index)))
        )
    if ignore_index is not None:
        return False
    if program.target == TARGET_PROBS:
        return (
            target is not None
            and program.layout == LAYOUT_ROWS
            and _is_laid_out(target, program.layout, program.target_element, logits)
        )
    return target is None


def _are_options(
    options: Options, program: Program, logits: Array, n_rows: int, n_classes: int
) -> bool:
    """Whether all arrays among the options are as the kernels take them."""
    weights, masses, states = options.class_weights, options.class_masses, options.states
    element = np.float64 if program.logits_element == FLOAT64 else np.float32
    return (
        (weights is None) == (masses is None)
        and (weights is None or _is_packed(weights, element, n_classes))
        and (masses is None or _is_packed(masses, np.float64, -(-n_classes // BLOCK)))
        and (options.row_weights is None or _is_packed(options.row_weights, np.float64, n_rows))
        and (
            options.partners is None
            or (
                program.layout == LAYOUT_ROWS
                and _is_laid_out(options.partners, program.layout, options.partners_element, logits)
            )
        )
        and (
            states is None
            or (
                states.ndim == 3
                and states.shape[0] == n_rows
                and states.shape[1] >= 1
                and states.shape[2] == STATE_SIZE
                and _is_packed(states, np.float64, states.size)
                and states.flags.writeable
            )
        )
    )


def _is_packed(array: Array, dtype: type[Any], size: int) -> bool:
    """Whether it holds so many elements of a dtype, one after another."""
    return (
        array.dtype == dtype
        and array.size == size
        and array.flags.c_contiguous
        and array.flags.aligned
    )


def _class_axis(layout: int) -> int:
    return 1 if layout == LAYOUT_PLANES else -1


def _rows_shape(logits: Array, layout: int) -> tuple[int, ...]:
    """The shape of the logits without their class axis."""
    shape: tuple[int, ...] = logits.shape
    return shape[:1] + shape[2:] if layout == LAYOUT_PLANES else shape[:-1]


def _is_laid_out(array: Array, layout: int, element: int, logits: Array) -> bool:
    """Whether it holds such elements, is shaped like the logits, and lies in memory as `layout`."""
    if not (
        ELEMENTS.get(array.dtype.name) == element
        and array.dtype.isnative
        and array.flags.aligned
        and array.shape == logits.shape
    ):
        return False
    packed = array.shape[-1:] == (1,) or array.strides[-1:] == (array.itemsize,)
    if layout == LAYOUT_PLANES:
        return array.ndim == 3 and array.shape[1] > 0 and packed
    return array.shape[-1:] > (0,) and (array.flags.c_contiguous or (array.ndim == 2 and packed))


def _strides_of(array: Array, layout: int) -> tuple[int, int, int]:
    """Bytes from a run of rows to the next, from row to row inside it, from class to class."""
    if layout == LAYOUT_PLANES:
        return array.strides[0], array.itemsize, array.strides[1]
    stride = array.strides[0] if array.ndim == 2 else array.shape[-1] * array.itemsize
    return (0, stride, array.itemsize) if layout == LAYOUT_LANES else (stride, 0, array.itemsize)


def _has_room(losses: Array, logits: Array, layout: int) -> bool:
    """Whether a loss for every row fits, in float64 or float32."""
    return (
        losses.dtype in (np.float64, np.float32)
        and losses.size * logits.shape[_class_axis(layout)] == logits.size
        and losses.flags.c_contiguous
        and losses.flags.aligned
        and losses.flags.writeable
    )


def _fits_int64(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _address_or_0(array: Array | None) -> int:
    return 0 if array is None else _address_of(array)


def _address_of(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
