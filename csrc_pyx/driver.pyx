# cython: language_level=3
"""The thread driver and the CPU's features, for both twins."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uintptr_t

cdef extern from "Python.h":
    # Cython's own declaration would turn the -1 into an exception of `interrupted`, which can
    # raise none, and drop it.
    int PyErr_CheckSignals() noexcept

cdef extern from "driver.h" nogil:
    ctypedef void (*Kernel)(const void* context, int64_t start, int64_t stop)
    ctypedef int (*InterruptCheck)() noexcept
    int driver_run(
        Kernel kernel, const void* context, int64_t n_items, int64_t chunk, int n_threads,
        InterruptCheck check)
    int driver_worker_count()

cdef extern from "context.h" nogil:
    ctypedef struct Context:
        pass

cdef extern from "cpu.h" nogil:
    const char* cpu_instruction_set()
    int cpu_runs(const char* instruction_set)


cdef int64_t MOST_ITEMS = <int64_t>1 << 62


cdef int interrupted() noexcept with gil:
    # A pending Ctrl-C becomes a KeyboardInterrupt here; it stays set until run() returns.
    return PyErr_CheckSignals()


cdef int raise_pending(int answer) except -1:
    return answer


def run(
    uintptr_t kernel, bytes context not None, int64_t n_items, int64_t chunk, int n_threads
):
    """Run the kernel at an address over items 0..n_items on at most n_threads threads.

    The GIL is released meanwhile. Ctrl-C ends the call with KeyboardInterrupt.
    """
    cdef const void* fields = PyBytes_AS_STRING(context)
    cdef int answer
    if kernel == 0 or <size_t>PyBytes_GET_SIZE(context) != sizeof(Context):
        raise ValueError("the kernel or its context does not fit this build of fastxent")
    if n_items < 0 or chunk < 1 or n_threads < 1:
        raise ValueError("n_items must not be negative; chunk and n_threads must be at least 1")
    # Every thread asks for one chunk more than there are, and their sum must not wrap around.
    if n_items > MOST_ITEMS or chunk > MOST_ITEMS // (<int64_t>n_threads + 1):
        raise ValueError("n_items or chunk is too large to be counted")
    with nogil:
        answer = driver_run(<Kernel>kernel, fields, n_items, chunk, n_threads, interrupted)
    raise_pending(answer)


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
