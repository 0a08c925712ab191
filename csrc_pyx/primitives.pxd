# cython: language_level=3
"""What the Cython twin uses of primitives.h and context.h."""

from libc.stdint cimport int64_t

from context cimport Context  # the kernels cimport it from here

cdef extern from "primitives.h" nogil:
    # The build decides whether `real` is float or double.
    ctypedef double real
    enum:
        BLOCK
    ctypedef struct Reference:
        double factor
    ctypedef struct BlockSum:
        double count
        double rest
        double rest_lost
    ctypedef struct BlockTarget:
        double dot
        double dot_lost
        double mass
        double mass_lost
    int64_t element_size(int64_t element)
    double load_element(const char* source, int64_t element)
    void store_element(char* destination, int64_t element, double value)
    const real* load_block(const char* source, int64_t element, int64_t n, real* buffer)
    real* output_block(char* destination, int64_t element, real* buffer)
    void store_block(const real* block, int64_t n, char* destination, int64_t element)
    Reference reference_at(double maximum)
    int balancing_exponent(double scale, int exponent)
    Reference shift_exponent(Reference reference, int exponent)
    double block_maximum(const real* logits, int64_t n)
    BlockSum block_sum(const real* logits, int64_t n, Reference reference)
    BlockTarget block_target(const real* logits, const real* targets, int64_t n, double maximum)
    void block_softmax(
        const real* logits, int64_t n, Reference reference, double scale, real* output)
    void block_softmax_minus_target(
        const real* logits, const real* targets, int64_t n, Reference reference, double scale,
        double target_scale, double mass, double mass_lost, double others, real* output)
    void block_log_softmax(
        const real* logits, int64_t n, double maximum, double log_sum_exp, real* output)
