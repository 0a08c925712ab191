# cython: language_level=3
"""One call, as the kernels see it: context.h for Cython."""

from libc.stdint cimport int64_t

cdef extern from "context.h" nogil:
    enum:
        FLOAT16
        BFLOAT16
        FLOAT32
        FLOAT64
        TARGET_NOTHING
        TARGET_LABELS
        TARGET_PROBS
        OUTPUT_NOTHING
        OUTPUT_GRADIENT
        OUTPUT_LOG_SOFTMAX
        OUTPUT_HESSIAN
        OUTPUT_LABEL_GRADIENT
        OUTPUT_HESSIAN_PRODUCT
        SEGMENT
        STATE_SIZE
        SCRATCH_CLASSES
        STREAM_BYTES
    ctypedef struct Context:
        int64_t n_classes
        int64_t segment
        int64_t n_segments
        int64_t n_inner
        const char* logits
        int64_t logits_stride
        int64_t logits_inner_stride
        int64_t logits_class_stride
        int64_t logits_element
        int64_t target
        const int64_t* labels
        int64_t class_offset
        int64_t n_labels
        int64_t has_ignore_index
        int64_t ignore_index
        const char* probs
        int64_t probs_stride
        int64_t probs_element
        const void* class_weights
        const double* class_masses
        const double* row_weights
        double label_scale
        double smoothing
        double z_loss
        double temperature
        double softcap
        int64_t transforms
        double hess_factor
        const char* partners
        int64_t partners_stride
        int64_t partners_element
        int64_t output_kind
        char* output
        int64_t output_stride
        int64_t output_inner_stride
        int64_t output_class_stride
        double output_scale
        int64_t output_exponent
        int64_t output_streams
        double* losses
        double* states
        double* totals
        char* scratch
        int64_t scratch_stride
