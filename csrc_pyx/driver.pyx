# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""One call on arrays: its context, its kernels in order, the threads; and the CPU's features."""

import os
import threading

cimport numpy as np
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.math cimport frexp
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from context cimport (
    BFLOAT16, FLOAT16, FLOAT32, FLOAT64, OUTPUT_GRADIENT, OUTPUT_HESSIAN,
    OUTPUT_HESSIAN_PRODUCT, OUTPUT_NOTHING, SCRATCH_CLASSES, SEGMENT, STATE_SIZE, STREAM_BYTES,
    TARGET_LABELS, TARGET_PROBS, Context,
)

cdef extern from "Python.h":
    # Cython's own declaration would turn the -1 into an exception of `interrupted`, which can
    # raise none, and drop it.
    int PyErr_CheckSignals() noexcept
    unsigned long PyThread_get_thread_ident() noexcept nogil

cdef extern from "driver.h" nogil:
    ctypedef void (*Kernel)(const Context* context, int64_t start, int64_t stop)
    ctypedef int (*InterruptCheck)() noexcept
    void driver_work(Kernel kernel, const Context* context, int64_t start, int64_t stop)
    int driver_run(
        Kernel kernel, const Context* context, int64_t n_items, int64_t chunk, int n_threads,
        InterruptCheck check)
    int driver_worker_count()

cdef extern from "float_mode.h" nogil:
    ctypedef struct FloatMode:
        pass
    FloatMode enter_float_mode()
    void leave_float_mode(FloatMode before)
    double divide_in_default_mode(double numerator, double denominator)

cdef extern from "cpu.h" nogil:
    const char* cpu_instruction_set()
    int cpu_runs(const char* instruction_set)

cdef enum:
    LAYOUT_ROWS = 0
    LAYOUT_LANES = 1
    LAYOUT_PLANES = 2

cdef enum:
    BLOCK = 1024
    EMPTY = -2
    CHECKED = -1

cdef enum:
    ROWS = 0
    SEGMENTS = 1
    ROWS_AT_ONCE = 2

cdef int64_t LINE_BYTES = 64
cdef int64_t MOST_ITEMS = <int64_t>1 << 62

# Beyond them 1/denominator is no number with all its digits.
cdef double LEAST_DENOMINATOR = 2.0 ** -1000
cdef double MOST_DENOMINATOR = 2.0 ** 1000

# Less work, in logits, is done with the GIL held: some 10 us. Who releases it may have to wait for
# it: beside a busy Python thread a loss of 64 x 27 took 10 us with it and 28 us without. A row by
# itself takes as much as some 100 logits.
cdef int64_t HELD_WORK = 1 << 13
cdef int64_t WORK_OF_A_ROW = 100

np.import_array()


# Python's signal handlers run in its main thread alone, so no other looks for signals. None may:
# who asks for the GIL while the interpreter ends never comes back.
cdef unsigned long main_thread = threading.main_thread().ident


def _after_fork_in_child():
    # The thread that forked is the only one left.
    global main_thread
    main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int interrupted() noexcept with gil:
    # A pending Ctrl-C becomes a KeyboardInterrupt here; it stays set until the call returns.
    cdef int answer = PyErr_CheckSignals()
    enter_float_mode()  # a handler may have changed it
    return answer


cdef int raise_pending(int answer) except -1:
    return answer


cdef bint holds(object array, int64_t element) noexcept:
    # Whether it is an array of elements that the kernels can read where they lie.
    cdef int number
    if not np.PyArray_CheckExact(array):
        return False
    number = np.PyArray_TYPE(<np.ndarray>array)
    return (
        np.PyArray_ISALIGNED(<np.ndarray>array)
        and np.PyArray_ISNOTSWAPPED(<np.ndarray>array)
        and (
            (element == FLOAT32 and number == np.NPY_FLOAT32)
            or (element == FLOAT64 and number == np.NPY_FLOAT64)
            or (element == FLOAT16 and number == np.NPY_FLOAT16)
            or (
                element == BFLOAT16
                and np.PyTypeNum_ISUSERDEF(number)
                and np.PyArray_ITEMSIZE(<np.ndarray>array) == 2
            )
        )
    )


cdef bint have_same_shape(np.ndarray a, np.ndarray b, int n_axes) noexcept:
    cdef int k
    for k in range(n_axes):
        if a.shape[k] != b.shape[k]:
            return False
    return True


cdef bint find_rows(
    object array, int64_t element, np.ndarray logits, char** data, int64_t* stride
) noexcept:
    # The first row and the bytes from each to the next, of an array shaped like the logits whose
    # last axis is contiguous; False for any other.
    cdef np.ndarray rows
    cdef int last = logits.ndim - 1
    if not holds(array, element):
        return False
    rows = <np.ndarray>array
    if rows.ndim != logits.ndim or not have_same_shape(rows, logits, rows.ndim):
        return False
    data[0] = rows.data
    if np.PyArray_IS_C_CONTIGUOUS(rows):
        stride[0] = rows.shape[last] * rows.itemsize
        return True
    stride[0] = rows.strides[0]
    return last == 1 and (rows.shape[1] == 1 or rows.strides[1] == rows.itemsize)


cdef bint find_planes(
    object array, int64_t element, np.ndarray logits, char** data, int64_t* stride,
    int64_t* class_stride
) noexcept:
    # The same for arrays of three axes, the classes along the second, whose last is contiguous.
    cdef np.ndarray planes
    if not holds(array, element):
        return False
    planes = <np.ndarray>array
    if planes.ndim != 3 or not have_same_shape(planes, logits, 3):
        return False
    data[0] = planes.data
    stride[0] = planes.strides[0]
    class_stride[0] = planes.strides[1]
    return planes.shape[2] == 1 or planes.strides[2] == planes.itemsize


cdef bint find_layout(
    int64_t layout, object array, int64_t element, np.ndarray logits, char** data,
    int64_t* stride, int64_t* inner_stride, int64_t* class_stride
) noexcept:
    # Where element (i, j) of an array shaped like the logits lies:
    # i // n_inner * stride + i % n_inner * inner_stride + j * class_stride bytes from its data.
    if layout == LAYOUT_PLANES:
        if not find_planes(array, element, logits, data, stride, class_stride):
            return False
        inner_stride[0] = (<np.ndarray>array).itemsize
        return True
    if not find_rows(array, element, logits, data, stride):
        return False
    class_stride[0] = (<np.ndarray>array).itemsize
    if layout == LAYOUT_LANES:
        inner_stride[0] = stride[0]
        stride[0] = 0
    return True


cdef bint set_logits(
    Context* context, int64_t layout, np.ndarray logits, int64_t element
) noexcept:
    cdef int class_axis = 1 if layout == LAYOUT_PLANES else logits.ndim - 1
    if logits.ndim <= class_axis or class_axis < 0 or logits.shape[class_axis] == 0:
        return False
    context.n_classes = logits.shape[class_axis]
    context.segment = SEGMENT
    context.n_segments = (context.n_classes - 1) // SEGMENT + 1
    context.n_inner = 1
    context.n_labels = context.n_classes
    if layout == LAYOUT_LANES:
        context.n_inner = logits.size // context.n_classes
    elif layout == LAYOUT_PLANES and logits.ndim == 3:
        context.n_inner = logits.shape[2]
    context.logits_element = element
    return find_layout(
        layout, logits, element, logits, <char**>&context.logits, &context.logits_stride,
        &context.logits_inner_stride, &context.logits_class_stride,
    )


cdef bint are_rows_of(np.ndarray labels, int64_t layout, np.ndarray logits) noexcept:
    # Whether they have the shape of the logits without their class axis.
    if labels.ndim != logits.ndim - 1:
        return False
    if layout == LAYOUT_PLANES:
        return labels.shape[0] == logits.shape[0] and labels.shape[1] == logits.shape[2]
    return have_same_shape(labels, logits, labels.ndim)


cdef bint set_labels(
    Context* context, int64_t layout, object labels, object ignore_index, np.ndarray logits
) noexcept:
    cdef np.ndarray array
    cdef int overflow = 0
    if not np.PyArray_CheckExact(labels):
        return False
    array = <np.ndarray>labels
    context.target = TARGET_LABELS
    context.labels = <const int64_t*>array.data
    if ignore_index is not None:
        if not PyLong_CheckExact(ignore_index):
            return False
        context.has_ignore_index = 1
        context.ignore_index = PyLong_AsLongLongAndOverflow(ignore_index, &overflow)
    return (
        overflow == 0
        and np.PyArray_TYPE(array) == np.NPY_INT64
        and np.PyArray_IS_C_CONTIGUOUS(array)
        and np.PyArray_ISALIGNED(array)
        and np.PyArray_ISNOTSWAPPED(array)
        and are_rows_of(array, layout, logits)
    )


cdef bint set_probs(Context* context, object probs, int64_t element, np.ndarray logits) noexcept:
    context.target = TARGET_PROBS
    context.probs_element = element
    return find_rows(probs, element, logits, <char**>&context.probs, &context.probs_stride)


cdef bint set_target(
    Context* context, int64_t layout, int64_t kind, int64_t element, object target,
    object ignore_index, np.ndarray logits,
) noexcept:
    if kind == TARGET_LABELS:
        return set_labels(context, layout, target, ignore_index, logits)
    if ignore_index is not None:
        return False
    if kind == TARGET_PROBS:
        if layout != LAYOUT_ROWS:
            return False
        return set_probs(context, target, element, logits)
    return target is None


cdef bint set_output(
    Context* context, int64_t layout, object output, int64_t kind, np.ndarray logits
) noexcept:
    context.output_kind = kind
    if output is None or kind == OUTPUT_NOTHING:
        return output is None and kind == OUTPUT_NOTHING
    if not find_layout(
        layout, output, context.logits_element, logits, &context.output, &context.output_stride,
        &context.output_inner_stride, &context.output_class_stride,
    ):
        return False
    context.output_streams = (
        <int64_t>(<np.ndarray>output).nbytes > STREAM_BYTES and context.output != context.logits
    )
    return np.PyArray_ISWRITEABLE(<np.ndarray>output)


cdef bint are_doubles(object array, int64_t size) noexcept:
    # Whether it is a float64 array of this size, element after element.
    return (
        holds(array, FLOAT64)
        and np.PyArray_IS_C_CONTIGUOUS(<np.ndarray>array)
        and (<np.ndarray>array).size == size
    )


cdef bint set_class_weights(Context* context, object weights, object masses) noexcept:
    if weights is None:
        return masses is None
    if not (
        holds(weights, FLOAT64 if context.logits_element == FLOAT64 else FLOAT32)
        and np.PyArray_IS_C_CONTIGUOUS(<np.ndarray>weights)
        and (<np.ndarray>weights).size == context.n_classes
        and are_doubles(masses, (context.n_classes - 1) // BLOCK + 1)
    ):
        return False
    context.class_weights = (<np.ndarray>weights).data
    context.class_masses = <const double*>(<np.ndarray>masses).data
    return True


cdef bint set_states(Context* context, object states, int64_t n_rows) noexcept:
    cdef np.ndarray array
    if states is None:
        return True
    if not holds(states, FLOAT64):
        return False
    array = <np.ndarray>states
    if (
        array.ndim != 3 or array.shape[0] != n_rows or array.shape[1] < 1
        or array.shape[2] != STATE_SIZE or not np.PyArray_IS_C_CONTIGUOUS(array)
        or not np.PyArray_ISWRITEABLE(array)
    ):
        return False
    context.states = <double*>array.data
    return True


cdef int set_options(
    Context* context, int64_t layout, object options, np.ndarray logits, int64_t n_rows
) except -1:
    # 1 where they are as the kernels take them, else 0.
    cdef int64_t partners_element
    if not isinstance(options, tuple) or PyTuple_GET_SIZE(options) != 17:
        raise TypeError("options must be Options")
    (
        class_weights, class_masses, row_weights, context.label_scale, context.smoothing,
        context.z_loss, context.temperature, context.softcap, context.hess_factor,
        context.class_offset, n_labels, partners, partners_element, states, _, _, _,
    ) = <tuple>options
    context.transforms = context.temperature != 1.0 or context.softcap != 0.0
    if n_labels != 0:
        context.n_labels = n_labels
    if not set_class_weights(context, class_weights, class_masses):
        return 0
    if row_weights is not None:
        if not are_doubles(row_weights, n_rows):
            return 0
        context.row_weights = <const double*>(<np.ndarray>row_weights).data
    if partners is not None:
        context.partners_element = partners_element
        if layout != LAYOUT_ROWS or not find_rows(
            partners, partners_element, logits, <char**>&context.partners,
            &context.partners_stride,
        ):
            return 0
    return set_states(context, states, n_rows)


cdef bint has_room(object losses, int64_t n_rows) noexcept:
    # Whether a loss for every row fits, in float64 or float32.
    return (
        (holds(losses, FLOAT64) or holds(losses, FLOAT32))
        and np.PyArray_IS_C_CONTIGUOUS(<np.ndarray>losses)
        and np.PyArray_ISWRITEABLE(<np.ndarray>losses)
        and (<np.ndarray>losses).size == n_rows
    )


cdef int run(
    object kernel, const Context* context, int64_t n_items, int64_t chunk, int n_threads, bint held
) except -1:
    # The kernel at an address over items 0..n_items. Ctrl-C ends it with KeyboardInterrupt.
    cdef Kernel function = <Kernel><uintptr_t>kernel
    cdef InterruptCheck check = NULL
    cdef int answer
    if function == NULL:
        raise ValueError("the kernel does not fit this build of fastxent")
    if held:
        driver_work(function, context, 0, n_items)
        return 0
    # Every thread asks for one chunk more than there are, and their sum must not wrap around.
    if n_items > MOST_ITEMS or chunk > MOST_ITEMS // (<int64_t>n_threads + 1):
        raise ValueError("n_items or chunk is too large to be counted")
    if PyThread_get_thread_ident() == main_thread:
        check = interrupted
    with nogil:
        answer = driver_run(function, context, n_items, chunk, n_threads, check)
    return raise_pending(answer)


cdef void set_output_scale(Context* context, double denominator) noexcept:
    # The output is divided by the denominator of a mean; one over nothing has none.
    cdef int exponent
    cdef double mantissa
    context.output_scale = 1.0 / denominator if denominator != 0.0 else 0.0
    if denominator != 0.0 and not LEAST_DENOMINATOR <= denominator <= MOST_DENOMINATOR:
        mantissa = frexp(denominator, &exponent)
        context.output_scale = 1.0 / mantissa
        context.output_exponent = -exponent


cdef char* set_scratch(Context* context, int64_t n_threads) except NULL:
    # Room for the exponentials of a row in every thread, each at a line of memory: whole lines,
    # and two more that the kernels fill. Returns what is to be freed.
    context.scratch_stride = (4 * context.n_classes // LINE_BYTES + 3) * LINE_BYTES
    cdef char* memory = <char*>PyMem_Malloc(LINE_BYTES + n_threads * context.scratch_stride)
    if memory == NULL:
        raise MemoryError
    context.scratch = memory + LINE_BYTES - <uintptr_t>memory % LINE_BYTES
    return memory


cdef int64_t first_nan(const double* marks, int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        if marks[i] != marks[i]:
            return i
    return -1


cdef void narrow(const double* losses, int64_t n, float* narrowed) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        narrowed[i] = <float>losses[i]


def evaluate(
    program, logits, target, ignore_index, losses, output, int64_t output_kind, bint mean,
    int64_t chunk, int n_threads, options=None,
):
    """Run a program; fastxent/backends/python_driver.py has the same in Python."""
    cdef FloatMode before = enter_float_mode()
    try:
        return run_program(
            program, logits, target, ignore_index, losses, output, output_kind, mean, chunk,
            n_threads, options)
    finally:
        leave_float_mode(before)


cdef object run_program(
    object program, object logits, object target, object ignore_index, object losses,
    object output, int64_t output_kind, bint mean, int64_t chunk, int n_threads, object options,
):
    # `evaluate`, all of it in the default floating-point mode.
    cdef Context context
    cdef int64_t n_rows, n_own, extent, layout, bad = -1
    cdef int64_t n_states = 0
    cdef double denominator, given_denominator = -1.0
    cdef double totals[4]
    cdef double* scratch
    cdef char* memory = NULL
    cdef bint held, narrows, keeps, weighs = False, refuses_empty = False
    if not isinstance(program, tuple) or PyTuple_GET_SIZE(program) != 7:
        raise TypeError("program must be a Program")
    # a named tuple: without the cast it would be gone through like any iterable, 0.1 us
    layout, logits_element, target_kind, target_element, largest, check, steps = <tuple>program
    if chunk < 1 or n_threads < 1:
        raise ValueError("chunk and n_threads must be at least 1")
    memset(&context, 0, sizeof(Context))
    context.label_scale = 1.0
    context.temperature = 1.0
    context.hess_factor = 1.0
    context.totals = totals
    if not (
        np.PyArray_CheckExact(logits)
        and set_logits(&context, layout, logits, logits_element)
        and set_target(&context, layout, target_kind, target_element, target, ignore_index, logits)
        and set_output(&context, layout, output, output_kind, logits)
    ):
        return None
    n_rows = (<np.ndarray>logits).size // context.n_classes
    if losses is not None and not has_room(losses, n_rows):
        return None
    if options is not None:
        if not set_options(&context, layout, options, logits, n_rows):
            return None
        given_denominator, weighs, refuses_empty = (<tuple>options)[14:]
    keeps = (
        context.output_kind in (OUTPUT_GRADIENT, OUTPUT_HESSIAN, OUTPUT_HESSIAN_PRODUCT)
        and context.logits_element != FLOAT64
        and SEGMENT < context.n_classes <= SCRATCH_CLASSES
    )
    if n_rows * context.n_segments > MOST_ITEMS // (16 * STATE_SIZE):
        raise MemoryError
    for _, extent in steps:
        if extent == SEGMENTS:
            keeps = False
        if extent == SEGMENTS and context.states == NULL:
            if context.n_segments == 1:
                return None
            n_states = STATE_SIZE * n_rows * context.n_segments
        elif extent == SEGMENTS:
            if (<np.ndarray>options[13]).shape[1] != context.n_segments:
                return None
    if context.states != NULL:
        context.n_segments = (<np.ndarray>options[13]).shape[1]
    if n_rows == 0:
        denominator = max(given_denominator, 0.0)
        if mean and refuses_empty and denominator == 0.0:
            return EMPTY, 0.0, 0.0
        return -1, denominator, 0.0
    narrows = losses is not None and holds(losses, FLOAT32)
    n_own = n_rows if losses is None or narrows else 0
    scratch = <double*>PyMem_Malloc(sizeof(double) * (n_states + n_own))
    if scratch == NULL:
        raise MemoryError
    try:
        if keeps:
            memory = set_scratch(&context, min(<int64_t>n_threads, n_rows))
        if context.states == NULL:
            context.states = scratch
        context.losses = scratch + n_states if n_own else <double*>(<np.ndarray>losses).data
        held = n_threads == 1 and n_rows * (WORK_OF_A_ROW + context.n_classes) < HELD_WORK
        denominator = <double>n_rows
        if check == CHECKED:
            pass  # its target is not read either
        elif context.target == TARGET_LABELS:
            run(check, &context, n_rows, n_rows, 1, held)
            bad = <int64_t>totals[0]
            denominator = totals[2] if weighs else totals[1]
        elif context.target == TARGET_PROBS:
            context.output_scale = largest
            run(check, &context, n_rows, chunk, n_threads, held)
            bad = first_nan(context.losses, n_rows)
        if bad >= 0:
            return bad, 0.0, 0.0
        if given_denominator >= 0.0:
            denominator = given_denominator
        context.output_scale = 1.0
        if mean:
            if denominator == 0.0 and refuses_empty:
                return EMPTY, 0.0, 0.0
            set_output_scale(&context, denominator)
        totals[0] = 0.0
        for kernel, extent in steps:
            if extent == ROWS:
                run(kernel, &context, n_rows, chunk, n_threads, held)
            elif extent == SEGMENTS:
                run(kernel, &context, n_rows * context.n_segments, 1, n_threads, held)
            else:
                run(kernel, &context, n_rows, n_rows, 1, held)
        if narrows:
            narrow(context.losses, n_rows, <float*>(<np.ndarray>losses).data)
        return -1, denominator, totals[0]
    finally:
        PyMem_Free(memory)
        PyMem_Free(scratch)


def quotient(double numerator, double denominator):
    """The same in every floating-point mode of the caller."""
    return divide_in_default_mode(numerator, denominator)


cdef class default_float_mode:
    """What the current thread computes inside `with` it is computed in the default mode."""
    cdef FloatMode before

    def __enter__(self):
        self.before = enter_float_mode()

    def __exit__(self, *_):
        leave_float_mode(self.before)


cdef bint lie_apart(np.ndarray a, np.ndarray b) noexcept:
    # Both contiguous.
    return (
        <uintptr_t>a.data + <uintptr_t>a.nbytes <= <uintptr_t>b.data
        or <uintptr_t>b.data + <uintptr_t>b.nbytes <= <uintptr_t>a.data
    )


def is_apart(output, logits, target):
    """Whether it is plain that `output` may take the result: yes is certain, no says nothing."""
    cdef np.ndarray out, array
    if not (
        np.PyArray_CheckExact(output)
        and np.PyArray_CheckExact(logits)
        and (target is None or np.PyArray_CheckExact(target))
    ):
        return False
    out, array = output, logits
    return (
        np.PyArray_EquivTypes(out.descr, array.descr)
        and np.PyArray_ISWRITEABLE(out)
        and np.PyArray_IS_C_CONTIGUOUS(out)
        and np.PyArray_IS_C_CONTIGUOUS(array)
        and out.ndim == array.ndim
        and have_same_shape(out, array, array.ndim)
        and (out.data == array.data or lie_apart(out, array))
        and (
            target is None
            or (np.PyArray_IS_C_CONTIGUOUS(<np.ndarray>target) and lie_apart(out, target))
        )
    )


def worker_count():
    """How many workers this process has started."""
    return driver_worker_count()


def instruction_set():
    """The best instruction set that the builds know and this CPU runs."""
    return cpu_instruction_set().decode()


def cpu_supports(str name not None):
    """Whether this CPU runs builds for the instruction set."""
    return bool(cpu_runs(name.encode()))


CONTEXT_SIZE = sizeof(Context)
