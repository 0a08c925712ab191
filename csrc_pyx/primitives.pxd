# cython: language_level=3
"""What the Cython twin uses of primitives.h, lanes.h and context.h."""

from libc.stdint cimport int64_t

from context cimport Context  # the kernels cimport it from here

cdef extern from "primitives.h" nogil:
    # The build decides whether `real` is float or double.
    ctypedef double real
    enum:
        BLOCK
        LEAST_OUTPUT_EXPONENT
        MOST_OUTPUT_EXPONENT
        LARGEST_OUTPUT_EXPONENT
    double LEAST_OUTPUT_SCALE
    double MOST_OUTPUT_SCALE
    double LEAST_BALANCED_SCALE
    double MOST_BALANCED_SCALE
    ctypedef struct Reference:
        double shift
        double factor
    ctypedef struct Kept:
        real* terms
    ctypedef struct TermsBuffer:
        real* terms
    ctypedef struct Block:
        const real* logits
        int64_t n
        double maximum
    ctypedef struct BlockSum:
        double count
        double rest
        double rest_lost
    ctypedef struct Transformed:
        real* tails
    ctypedef struct Gap:
        double value
        double low
    ctypedef struct BlockSpread:
        double dot
        double dot_lost
        double mass
        double mass_lost
        double count
    ctypedef struct Measure:
        const real* probs
        const real* class_weights
        double probs_scale
        double spread
        const Transformed* transformed
        double total
        double total_lost
        double others
        double output_scale
        int64_t label
        double label_value
        int64_t masked
        const real* terms
    ctypedef struct Softness:
        double maximum
        double log_sum
        double scale
        double others
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
    void scale_values(real* values, int64_t n, int64_t stride, int exponent)
    Reference reference_at(double maximum)
    int balancing_exponent(double scale, int exponent)
    Reference shift_exponent(Reference reference, int exponent)
    real* keep_terms(Kept* kept, int64_t j, double origin, Reference reference)
    const real* kept_terms(
        const Kept* kept, int64_t j, double origin, Reference reference, double* scale)
    void open_block(
        Block* block, const char* row, int64_t element, int64_t j, int64_t n,
        const char* output)
    void block_maximum(Block* block)
    void shift_block(Block* block, double shift)
    BlockSum block_sum(const Block* block, Reference reference, Block* next, real* terms)
    BlockSum block_sum_and_spread(
        const Block* block, Reference reference, Block* next, const real* class_weights,
        double mass, BlockSpread* spread, real* terms)
    void transform_block(
        Block* block, double maximum, double temperature, double softcap, bint wants_slopes,
        Transformed* transformed)
    Gap transformed_gap(double x, double m, double temperature, double softcap)
    double transformed_value(double x, double temperature, double softcap)
    BlockSum block_sum_with_tails(
        const Block* block, const real* tails, Reference reference, Block* next, real* terms)
    BlockTarget block_target(
        const real* logits, const real* targets, const real* class_weights, int64_t n,
        double maximum)
    BlockSpread block_spread(
        const real* logits, const real* class_weights, int64_t n, double maximum, double mass)
    double block_expectation(
        const real* logits, const real* tails, const real* vectors, int64_t n,
        Reference reference)
    int64_t first_equal(const real* values, int64_t n, double value)
    Softness row_softness(
        const char* row, int64_t element, int64_t n_classes, double temperature, real* buffer)
    double block_divergence(
        const real* logits, const real* partners, int64_t n, Softness own, Softness partner,
        double temperature, double output_scale, real* output)
    bint block_is_within(const real* values, int64_t n, double lowest, double highest)
    void block_softmax(
        const real* logits, const real* terms, int64_t n, Reference reference, double scale,
        double spread, int64_t label, double label_value, real* output, bint streams)
    void block_softmax_minus_target(
        const real* logits, int64_t n, const Measure* measure, Reference reference, double scale,
        real* output, bint streams)
    void block_hessian(
        const real* logits, int64_t n, const Measure* measure, Reference reference, double scale,
        real* output, bint streams)
    void block_hessian_product(
        const real* logits, const real* vectors, int64_t n, const Measure* measure,
        Reference reference, double scale, double mean, real* output, bint streams)
    void block_label_gradient(
        const real* logits, int64_t n, const Measure* measure, double maximum, double log_sum_exp,
        real* output, bint streams)
    void block_log_softmax(
        const real* logits, int64_t n, double maximum, double log_sum_exp, real* output,
        bint streams)
    void prefetch_ends(const char* row, int64_t n_bytes)
    void finish_streams()

cdef extern from "lanes.h" nogil:
    ctypedef struct Tile:
        real* values
    # each with LANES numbers
    ctypedef struct LaneSums:
        double* maximum
        double* log_sum_exp
        double* scale
        double* others
    ctypedef struct LaneSpread:
        double* dot
        double* mass
        double* count
    ctypedef struct LaneReference:
        pass
    int64_t LANES
    enum:
        MOST_LANES
    LaneReference shift_lanes(const LaneReference* reference, const double* exponents)
    void load_tile(
        Tile* tile, const char* source, int64_t element, int64_t n_classes, int64_t n,
        int64_t row_stride, int64_t class_stride)
    void store_tile(
        const Tile* tile, char* destination, int64_t element, int64_t n_classes, int64_t n,
        int64_t row_stride, int64_t class_stride)
    void sum_tile(
        const Tile* tile, int64_t n_classes, const char* ahead, int64_t ahead_stride,
        const char* output, int64_t output_stride, LaneSums* sums, LaneReference* reference)
    void softmax_tile(
        Tile* tile, int64_t n_classes, const LaneReference* reference, const double* scales)
    void spread_tile(
        const Tile* tile, int64_t n_classes, const real* class_weights, const double* maxima,
        LaneSpread* spread)
    void subtract_spread_from_tile(
        Tile* tile, int64_t n_classes, const LaneReference* reference, const double* scales,
        const double* spreads, const real* class_weights)
    void hessian_tile(
        Tile* tile, int64_t n_classes, const LaneReference* reference, const double* scales,
        const double* others, const double* totals)
    void log_softmax_tile(
        Tile* tile, int64_t n_classes, const double* maxima, const double* logs)
