# cython: language_level=3
"""Roofs: what no kernel can be faster than; fastxent/backends/roofs.py runs them.

Built once for each type the arithmetic is done in and each instruction set, as kernels.pyx is; all
that is computed is in roofs.h. Each is run over the segments of a single row.
"""

from libc.stdint cimport int64_t, uintptr_t

from context cimport Context

cdef extern from "roofs.h" nogil:
    enum:
        HALVINGS
    void exp_sum(const Context* context, int64_t start, int64_t stop) noexcept
    void exp_write(const Context* context, int64_t start, int64_t stop) noexcept

ROOFS = {"exp_sum": <uintptr_t>&exp_sum, "exp_write": <uintptr_t>&exp_write}
# What the exponentials are multiplied by.
FACTOR = 2.0 ** -HALVINGS
CONTEXT_SIZE = sizeof(Context)
