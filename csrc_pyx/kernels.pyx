# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""The Cython twin: softmax cross-entropy, row by row and many rows side by side.

fastxent/backends/numba_twin/kernels.py holds the same functions in the same order. It is built
once for each type the arithmetic is done in (`real`) and each instruction set; `primitives.h`
holds what is done to a block of classes.

`rows_*` and `segments_*` go through a row whose classes lie next to each other, `lanes_*` through
tiles of many rows, wherever their classes lie.

A row is read block by block. Every block folds into one small state,

    maximum     m, the largest logit
    count       how many logits equal m, each of which adds exactly 1
    rest        sum over the others of exp(x_j - m)              sum_exp = count + rest
    target_dot  sum_j q_j * (m - x_j)                            (probabilities q only)
    mass        sum_j q_j                                        (probabilities q only)
    spread_dot  sum_j w_j * (m - x_j), over unmasked classes     (smoothing only)
    spread_mass sum_j w_j                                        (smoothing only)

together with what rounding has lost of each sum but the counts. With t the measure that labels and
options make (`Share`), loss and gradient follow without a difference of nearly equal numbers:

    loss       = sum_j t_j * (m - x_j) + A * log(sum_exp) + z * logsumexp^2     A = sum_j t_j
    gradient_j = (A + 2 * z * logsumexp) * exp(x_j - m) / sum_exp - t_j

Logits that are capped or divided by a temperature stand for y(x_j), maxima for y(m). States hold
m itself; differences are taken by `gap`.
"""

from libc.math cimport INFINITY, NAN, exp, fabs, fma, frexp, ldexp, log, log1p
from libc.stdint cimport int64_t, uintptr_t

from context cimport (
    OUTPUT_GRADIENT, OUTPUT_HESSIAN, OUTPUT_HESSIAN_PRODUCT, OUTPUT_LABEL_GRADIENT,
    OUTPUT_LOG_SOFTMAX, OUTPUT_NOTHING, SCRATCH_CLASSES, SEGMENT, TARGET_LABELS,
    TARGET_NOTHING, TARGET_PROBS,
)
from primitives cimport (
    LANES, MOST_LANES, LaneReference, LaneSpread, LaneSums, Tile, hessian_tile, load_tile,
    log_softmax_tile, shift_lanes, softmax_tile, spread_tile, store_tile,
    subtract_spread_from_tile, sum_tile,
)
from primitives cimport (
    BLOCK, LARGEST_OUTPUT_EXPONENT, LEAST_BALANCED_SCALE, LEAST_OUTPUT_EXPONENT, LEAST_OUTPUT_SCALE,
    MOST_BALANCED_SCALE, MOST_OUTPUT_EXPONENT, MOST_OUTPUT_SCALE, Block, BlockSpread, BlockSum,
    BlockTarget, Context, Gap, Kept, Measure, Reference, Softness, TermsBuffer, Transformed,
    balancing_exponent, block_divergence, block_expectation, block_hessian, block_hessian_product,
    block_is_within, block_label_gradient, block_log_softmax, block_maximum, block_softmax,
    block_softmax_minus_target, block_spread, block_sum, block_sum_and_spread, block_sum_with_tails,
    block_target, element_size, finish_streams, first_equal, keep_terms, kept_terms, load_block,
    load_element, open_block, output_block, prefetch_ends, real, reference_at, row_softness,
    scale_values, shift_block, shift_exponent, store_block, store_element, transform_block,
    transformed_gap, transformed_value,
)

cdef double E_TO_MINUS_128 = exp(-128.0)

cdef struct State:
    double maximum
    double count
    double rest
    double rest_lost
    double target_dot
    double target_dot_lost
    double mass
    double mass_lost
    double spread_dot
    double spread_dot_lost
    double spread_mass
    double spread_mass_lost
    double n_unmasked
    double label_logit
    double label_weight
    double label_count

# What labels and options make of a row: the numbers of its measure, and what all is multiplied by.
cdef struct Share:
    double weight
    double label
    double probs
    double spread

# A sum, and what rounding has lost of it.
cdef struct Total:
    double value
    double value_lost

# The number value * 2^exponent.
cdef struct Scale:
    double value
    int exponent

# The block that is being summed up, and the one that comes after it.
cdef struct Reading:
    Block* current
    Block* next

# The numbers of a State, as they are stored between threads.
cdef enum:
    STATE_SIZE = 16


cdef inline State empty_state() noexcept nogil:
    return State(
        maximum=-INFINITY, count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
        target_dot_lost=0.0, mass=0.0, mass_lost=0.0, spread_dot=0.0, spread_dot_lost=0.0,
        spread_mass=0.0, spread_mass_lost=0.0, n_unmasked=0.0, label_logit=0.0, label_weight=0.0,
        label_count=0.0,
    )


cdef inline double lost(double a, double b) noexcept nogil:
    # a + b minus its rounded value, exactly (Knuth). An infinite sum has lost nothing.
    cdef double total = a + b
    cdef double part = total - a
    if total - total != 0.0:
        return 0.0
    return (a - (total - part)) + (b - part)


cdef inline Gap gap(const Context* context, double a, double b) noexcept nogil:
    # y(a) - y(b), and what rounding has lost of it.
    if context.transforms != 0:
        return transformed_gap(a, b, context.temperature, context.softcap)
    return Gap(value=a - b, low=lost(a, -b))


cdef inline double value_of(const Context* context, double x) noexcept nogil:
    # y(x)
    if context.transforms != 0:
        return transformed_value(x, context.temperature, context.softcap)
    return x


cdef State raise_maximum(const Context* context, State state, double maximum) noexcept nogil:
    # The same state, relative to a maximum at least as large as its own.
    cdef double base, rise, factor, after
    cdef Gap difference, up
    if maximum == state.maximum:
        return state
    if (
        state.maximum == -INFINITY and state.rest == 0.0 and state.mass == 0.0
        and state.spread_mass == 0.0
    ):
        state.maximum = maximum
        return state
    # y(state.maximum) - y(maximum) = value + low, and to float64
    # exp(value + low) = exp(value) * (1 + low). Far down the exponential alone would be subnormal
    # and short of digits, so it is kept e^128 too large until the end.
    difference = gap(context, state.maximum, maximum)
    base = state.maximum if state.maximum > -INFINITY else 0.0
    up = gap(context, maximum, base)
    if difference.value < -600.0:
        factor = exp(difference.value + 128.0) * (1.0 + difference.low)
        after = E_TO_MINUS_128
    else:
        factor = exp(difference.value) * (1.0 + difference.low)
        after = 1.0
    state.maximum = maximum
    state.rest = (state.count + state.rest) * factor * after
    state.rest_lost = state.rest_lost * factor * after
    state.count = 0.0
    # without mass so far nothing rises, however far away the new maximum is
    if state.mass != 0.0:
        rise = state.mass * up.value
        state.target_dot_lost += state.mass_lost * up.value + lost(state.target_dot, rise)
        state.target_dot += rise
    if state.spread_mass != 0.0:
        rise = state.spread_mass * up.value
        state.spread_dot_lost += state.spread_mass_lost * up.value + lost(state.spread_dot, rise)
        state.spread_dot += rise
    return state


cdef inline State add_block(
    State state, BlockSum sums, BlockTarget target, BlockSpread spread
) noexcept nogil:
    # The state with a block more, whose sums are relative to the state's own maximum.
    state.count += sums.count
    state.rest_lost += sums.rest_lost + lost(state.rest, sums.rest)
    state.rest += sums.rest
    state.target_dot_lost += target.dot_lost + lost(state.target_dot, target.dot)
    state.target_dot += target.dot
    state.mass_lost += target.mass_lost + lost(state.mass, target.mass)
    state.mass += target.mass
    state.spread_dot_lost += spread.dot_lost + lost(state.spread_dot, spread.dot)
    state.spread_dot += spread.dot
    state.spread_mass_lost += spread.mass_lost + lost(state.spread_mass, spread.mass)
    state.spread_mass += spread.mass
    state.n_unmasked += spread.count
    return state


cdef State merge(const Context* context, State a, State b) noexcept nogil:
    cdef double maximum = a.maximum if a.maximum > b.maximum else b.maximum
    a = raise_maximum(context, a, maximum)
    b = raise_maximum(context, b, maximum)
    a = add_block(
        a,
        BlockSum(count=b.count, rest=b.rest, rest_lost=b.rest_lost),
        BlockTarget(
            dot=b.target_dot, dot_lost=b.target_dot_lost, mass=b.mass, mass_lost=b.mass_lost
        ),
        BlockSpread(
            dot=b.spread_dot, dot_lost=b.spread_dot_lost, mass=b.spread_mass,
            mass_lost=b.spread_mass_lost, count=b.n_unmasked,
        ),
    )
    # one of the two has the label; the other has zeros
    a.label_logit += b.label_logit
    a.label_weight += b.label_weight
    a.label_count += b.label_count
    return a


cdef double sum_exp(State state) noexcept nogil:
    # A row without a finite maximum has no softmax: NaN (a sum below 1 has no other cause).
    cdef double total = state.count + state.rest
    return total if total >= 1.0 else NAN


cdef double sum_exp_low(State state) noexcept nogil:
    # What rounding keeps out of sum_exp.
    return lost(state.count, state.rest) + state.rest_lost


cdef double log_sum_exp(State state) noexcept nogil:
    # log(sum_exp), relative to the maximum; log1p keeps the digits of a confident row. Elsewhere
    # log is as exact, and takes 5 ns instead of 20.
    if state.count == 1.0 and state.rest < 0.5:
        return log1p(state.rest + state.rest_lost)
    return log(sum_exp(state)) + sum_exp_low(state) / sum_exp(state)


cdef double others_share(State state) noexcept nogil:
    # 1 - exp(m - m)/sum_exp: what the softmax leaves to all but one of the maxima.
    return (state.rest + (state.count - 1.0) + state.rest_lost) / sum_exp(state)


cdef double softmax_scale(
    State state, double factor, double mass, double mass_lost
) noexcept nogil:
    # factor / sum_exp, times the mass if there is one, rounded once: the first quotient is put
    # right by its remainder, to which all that was lost before is added.
    cdef double total, top, top_low, quotient, remainder
    total = sum_exp(state)
    top = factor * mass
    top_low = fma(factor, mass, -top) + factor * mass_lost
    quotient = top / total
    remainder = fma(-quotient, total, top) + (top_low - quotient * sum_exp_low(state))
    return quotient + remainder / total


cdef inline bint is_ignored(const Context* context, int64_t i) noexcept nogil:
    return (
        context.target == TARGET_LABELS
        and context.has_ignore_index != 0
        and context.labels[i] == context.ignore_index
    )


cdef inline double row_weight(const Context* context, int64_t i) noexcept nogil:
    return context.row_weights[i] if context.row_weights != NULL else 1.0


cdef inline bint is_left_out(const Context* context, int64_t i) noexcept nogil:
    # A row without weight is not read either.
    return is_ignored(context, i) or row_weight(context, i) == 0.0


cdef inline double class_weight(const Context* context, int64_t j) noexcept nogil:
    # 1 for a class there is none of: labels were classes when the call checked them, and their
    # array may have been written to since.
    if context.class_weights == NULL or j < 0 or j >= context.n_classes:
        return 1.0
    return (<const real*>context.class_weights)[j]


cdef int64_t next_kept(const Context* context, int64_t i, int64_t stop) noexcept nogil:
    # The first row from i on that is not ignored, or stop.
    while i < stop and is_left_out(context, i):
        i += 1
    return i


cdef void open_at(
    const Context* context, int64_t i, int64_t j, int64_t stop, Block* block
) noexcept nogil:
    # The block of row i that starts at class j, of classes below stop; none at all if i < 0.
    cdef char* output = context.output + i * context.output_stride
    if (
        context.output_kind == OUTPUT_NOTHING
        or context.output_streams != 0
        or context.output == context.logits
    ):
        output = NULL
    open_block(
        block, context.logits + i * context.logits_stride, context.logits_element, j,
        min(<int64_t>BLOCK, stop - j) if i >= 0 else 0, output,
    )


cdef inline bint keeps_terms(const Context* context) noexcept nogil:
    # Whether the exponentials of a row are kept for its output. In float64 they are not: a kept
    # one has been rounded, and where a target is taken away from it no digit is to spare.
    return (
        sizeof(real) == 4
        and context.n_classes <= (SEGMENT if context.scratch == NULL else SCRATCH_CLASSES)
        and (
            context.output_kind == OUTPUT_GRADIENT
            or context.output_kind == OUTPUT_HESSIAN
            or context.output_kind == OUTPUT_HESSIAN_PRODUCT
        )
    )


cdef inline double origin_of(
    const Context* context, double maximum, Reference reference
) noexcept nogil:
    # What the logits of a block are relative to, whose exponentials are taken.
    return maximum if context.transforms != 0 else reference.shift


cdef State classes_state(
    const Context* context, int64_t i, int64_t start, int64_t stop, int64_t following,
    Reading* reading, Kept* kept
) noexcept nogil:
    # The state of classes start..stop of row i. Always segment by segment, so that a row split
    # over threads has the same bits. `reading` holds the first block; afterwards it holds that
    # of the row `following`, if there is one. The exponentials are `kept` if there is room.
    cdef real probs_buffer[BLOCK]
    cdef Transformed transformed
    cdef real* terms
    cdef const real* probs
    cdef const real* weights
    cdef int64_t j, n
    cdef int64_t element = context.probs_element
    cdef int64_t segment_stop = start + context.segment
    cdef bint is_first_segment = True
    cdef double maximum
    cdef double mass = 0.0
    cdef Block* block
    cdef BlockSum sums
    cdef BlockTarget target
    cdef BlockSpread spread
    cdef State before = empty_state()
    cdef State state = empty_state()
    cdef Reference reference = reference_at(state.maximum)
    j = start
    while j < stop:
        if j == segment_stop:
            before = state if is_first_segment else merge(context, before, state)
            is_first_segment = False
            state = empty_state()
            reference = reference_at(state.maximum)
            segment_stop += context.segment
        block = reading.current
        n = block.n
        if j + n < stop:
            open_at(context, i, j + n, stop, reading.next)
        else:
            open_at(context, following, 0, context.n_classes, reading.next)
        if block.maximum > state.maximum:
            state = raise_maximum(context, state, block.maximum)
            reference = reference_at(block.maximum)
        maximum = state.maximum if state.maximum > -INFINITY else 0.0
        if context.transforms != 0:
            # from here on the block is differences to the maximum, and 0 the largest of them
            transform_block(
                block, maximum, context.temperature, context.softcap, False, &transformed
            )
            reference = reference_at(0.0)
            maximum = 0.0
        weights = weights_from(context, j)
        target = BlockTarget(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0)
        if context.target == TARGET_PROBS:
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, probs_buffer,
            )
            target = block_target(block.logits, probs, weights, n, maximum)
        spread = BlockSpread(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0, count=0.0)
        if context.smoothing != 0.0:
            mass = <double>n if weights == NULL else context.class_masses[j // BLOCK]
        if context.smoothing != 0.0 and context.transforms != 0:
            spread = block_spread(block.logits, weights, n, maximum, mass)
        if reference.shift != 0.0:
            shift_block(block, reference.shift)
        terms = keep_terms(kept, j, origin_of(context, state.maximum, reference), reference)
        if context.transforms != 0:
            sums = block_sum_with_tails(
                block, transformed.tails, reference, reading.next, terms
            )
        elif context.smoothing != 0.0:
            sums = block_sum_and_spread(
                block, reference, reading.next, weights, mass, &spread, terms
            )
        else:
            sums = block_sum(block, reference, reading.next, terms)
        state = add_block(state, sums, target, spread)
        j += n
        reading.current = reading.next
        reading.next = block
    return state if is_first_segment else merge(context, before, state)


cdef inline const real* weights_from(const Context* context, int64_t j) noexcept nogil:
    # The weights of class j and those after it; NULL where there are none.
    if context.class_weights == NULL:
        return NULL
    return <const real*>context.class_weights + j


cdef int64_t offset_of_row(
    const Context* context, int64_t i, int64_t stride, int64_t inner_stride
) noexcept nogil:
    # In bytes; rows lie in runs of n_inner.
    return i // context.n_inner * stride + i % context.n_inner * inner_stride


cdef inline double logit_at(const Context* context, int64_t i, int64_t j) noexcept nogil:
    # NaN for a class there is none of: labels were classes when the call checked them, and their
    # array may have been written to since.
    if j < 0 or j >= context.n_classes:
        return NAN
    return load_element(
        context.logits
        + offset_of_row(context, i, context.logits_stride, context.logits_inner_stride)
        + j * context.logits_class_stride,
        context.logits_element,
    )


cdef inline State with_label(
    const Context* context, int64_t i, int64_t start, int64_t stop, State state
) noexcept nogil:
    # The state of classes start..stop of row i, with what is known of its label if it is there.
    cdef int64_t label
    if context.target != TARGET_LABELS:
        return state
    label = context.labels[i] - context.class_offset
    if start <= label < stop:
        state.label_logit = logit_at(context, i, label)
        state.label_weight = class_weight(context, label)
        state.label_count = 1.0
    return state


cdef inline Share share_of(const Context* context, int64_t i, State state) noexcept nogil:
    cdef Share share = Share(weight=row_weight(context, i), label=1.0, probs=0.0, spread=0.0)
    if context.target == TARGET_PROBS:
        share.label = 0.0
        share.probs = context.label_scale
    elif context.target == TARGET_LABELS:
        share.label = context.label_scale * state.label_weight
    if context.smoothing != 0.0:
        share.spread = context.smoothing / state.n_unmasked
    return share


cdef Scale scale_of(
    const Context* context, double weight, double factor, double temperature, double mass
) noexcept nogil:
    # What the output of a row is multiplied by; `mass` is about what its measure has. Where `real`
    # would be short of digits for results that it holds, an exponent is taken out.
    cdef int own, others, most
    cdef double mantissa
    cdef double value = context.output_scale * weight * factor / temperature
    if (
        context.output_exponent == 0 and LEAST_OUTPUT_SCALE <= value <= MOST_OUTPUT_SCALE
        and value * mass <= MOST_OUTPUT_SCALE
    ):
        return Scale(value=value, exponent=0)
    mantissa = frexp(context.output_scale, &own)
    others = own + <int>context.output_exponent
    mantissa *= frexp(weight, &own)
    others += own
    mantissa *= frexp(factor, &own)
    others += own
    mantissa /= frexp(temperature, &own)
    others -= own
    mantissa = frexp(mantissa, &own)
    others += own
    # a mass far below 1 leaves room for a larger value
    frexp(mass, &own)
    most = <int>MOST_OUTPUT_EXPONENT - min(own, 0)
    most = min(most, <int>LARGEST_OUTPUT_EXPONENT - max(own, 0))
    most = min(max(others, <int>LEAST_OUTPUT_EXPONENT), most)
    return Scale(value=ldexp(mantissa, most), exponent=others - most)


cdef double measured_mass(Share share, State state, Total total) noexcept nogil:
    # The mass of a row's measure, and of what z-loss adds to it, within a factor of 2.
    return (
        fabs(total.value) + share.label + share.probs * state.mass
        + share.spread * state.spread_mass
    )


cdef inline bint is_nothing(const Context* context, Share share, State state) noexcept nogil:
    # Whether nothing is asked of a row: no mass anywhere, and no z-loss.
    return (
        share.label == 0.0
        and (share.probs == 0.0 or state.mass == 0.0)
        and (share.spread == 0.0 or state.spread_mass == 0.0)
        and context.z_loss == 0.0
    )


cdef double measured_loss(
    const Context* context, Share share, State state, double log_sum
) noexcept nogil:
    # The loss of a row of this state; log_sum is its log(sum_exp).
    cdef double loss = 0.0
    cdef double logsumexp
    cdef Gap below
    if context.target == TARGET_LABELS and state.label_count != 1.0:
        return NAN
    if share.weight == 0.0 or is_nothing(context, share, state):
        return 0.0
    if share.label != 0.0:
        below = gap(context, state.maximum, state.label_logit)
        loss = share.label * ((below.value + log_sum) + below.low)
    if share.probs != 0.0 and state.mass != 0.0:
        loss = share.probs * (
            (state.target_dot + state.mass * log_sum)
            + (state.target_dot_lost + state.mass_lost * log_sum)
        )
    if share.spread != 0.0:
        loss += share.spread * (
            (state.spread_dot + state.spread_mass * log_sum)
            + (state.spread_dot_lost + state.spread_mass_lost * log_sum)
        )
    if context.z_loss != 0.0:
        logsumexp = value_of(context, state.maximum) + log_sum
        loss += context.z_loss * logsumexp * logsumexp
    # one NaN, whichever of several it comes from
    return share.weight * loss if loss == loss else NAN


cdef inline Total with_part(Total total, double a, double b, double b_lost) noexcept nogil:
    # total + a * (b + b_lost)
    cdef double product = a * b
    cdef double product_lost = fma(a, b, -product) + a * b_lost
    return Total(
        value=total.value + product,
        value_lost=total.value_lost + product_lost + lost(total.value, product),
    )


cdef Total measured_total(
    const Context* context, Share share, State state, double log_sum
) noexcept nogil:
    # What the softmax of a row is multiplied by in its gradient.
    cdef Total total = Total(value=share.label, value_lost=0.0)
    if share.probs != 0.0:
        total = with_part(total, share.probs, state.mass, state.mass_lost)
    if share.spread != 0.0:
        total = with_part(total, share.spread, state.spread_mass, state.spread_mass_lost)
    if context.z_loss != 0.0:
        total = with_part(
            total, 2.0 * context.z_loss, value_of(context, state.maximum) + log_sum, 0.0
        )
    return total


cdef double label_gradient(
    const Context* context, Share share, State state, Total total
) noexcept nogil:
    # total * p_y - t_y at the label, without that difference where p_y is close to 1.
    cdef double own, excess, term, rest
    cdef Gap below
    own = share.label
    if state.label_logit > -INFINITY:
        own += share.spread * state.label_weight
    excess = (total.value - own) + total.value_lost
    term = 1.0
    rest = others_share(state)
    if state.label_logit != state.maximum:
        below = gap(context, state.label_logit, state.maximum)
        term = exp(below.value) * (1.0 + below.low)
        rest = (sum_exp(state) - term) / sum_exp(state)
    if excess == 0.0:
        return -total.value * rest
    if rest < 0.5:
        return excess - total.value * rest
    return total.value * (term / sum_exp(state)) - own


cdef double row_result(const Context* context, int64_t i, State state) noexcept nogil:
    # The loss of row i, or logsumexp where there is no target.
    if context.target != TARGET_NOTHING:
        return measured_loss(context, share_of(context, i, state), state, log_sum_exp(state))
    return row_logsumexp(context, i, state)


cdef double row_logsumexp(const Context* context, int64_t i, State state) noexcept nogil:
    if state.maximum == -INFINITY and state.rest == 0.0:
        return -INFINITY
    if state.maximum == INFINITY and not has_nan(context, i):
        return INFINITY
    return value_of(context, state.maximum) + log_sum_exp(state)


cdef bint has_nan(const Context* context, int64_t i) noexcept nogil:
    cdef int64_t j
    cdef double value
    for j in range(context.n_classes):
        value = logit_at(context, i, j)
        if value != value:
            return True
    return False


cdef double row_expectation(const Context* context, int64_t i, State state) noexcept nogil:
    # sum_j exp(x_j - m) * v_j: v is the row's partner, or m - x_j where there are no partners.
    cdef real vectors_buffer[BLOCK]
    cdef Transformed transformed
    cdef const real* vectors
    cdef const real* tails
    cdef Block block
    cdef int64_t element = context.partners_element
    cdef int64_t j = 0
    cdef double part
    cdef double total = 0.0
    cdef double total_lost = 0.0
    cdef Reference reference = reference_at(0.0 if context.transforms != 0 else state.maximum)
    while j < context.n_classes:
        open_at(context, i, j, context.n_classes, &block)
        tails = NULL
        if context.transforms != 0:
            transform_block(
                &block, state.maximum, context.temperature, context.softcap, False, &transformed
            )
            tails = transformed.tails
        if reference.shift != 0.0:
            shift_block(&block, reference.shift)
        vectors = NULL
        if context.partners != NULL:
            vectors = load_block(
                context.partners + i * context.partners_stride + j * element_size(element),
                element, block.n, vectors_buffer,
            )
        part = block_expectation(block.logits, tails, vectors, block.n, reference)
        total_lost += lost(total, part)
        total += part
        j += block.n
    return total + total_lost


cdef void write_output(
    const Context* context, int64_t i, int64_t start, int64_t stop, State state, const Kept* kept
) noexcept nogil:
    # Classes start..stop of the output of row i. The state has the label's logit, read before any
    # of the row is written: the output may lie where the logits lie. Exponentials that
    # have been `kept` are not computed again.
    cdef real partners_buffer[BLOCK]
    cdef real output_buffer[BLOCK]
    cdef Transformed transformed
    cdef const real* partners
    cdef real* output
    cdef char* destination
    cdef Block block
    cdef Measure measure
    cdef int64_t j, n
    cdef int64_t element = context.logits_element
    cdef int64_t partners_element = context.partners_element
    cdef double log_sum = log_sum_exp(state)
    cdef Share share = share_of(context, i, state)
    cdef Total total = measured_total(context, share, state, log_sum)
    cdef Total product
    cdef Reference reference = reference_at(0.0 if context.transforms != 0 else state.maximum)
    cdef double temperature = context.temperature
    cdef double factor = 1.0
    cdef double maximum = state.maximum
    cdef double label_value = 0.0
    cdef double mean = 0.0
    cdef double mass, mass_lost, scale, block_scale
    cdef int64_t label = -1
    cdef int exponent, shift
    cdef Scale output_scale
    # (a shard does not know how many of the classes that are not masked are its own)
    cdef bint masked = (
        state.n_unmasked != <double>context.n_classes or context.n_labels != context.n_classes
    )
    cdef bint streams, is_plain
    # (without mass the loss is 0, but not its slope by a probability)
    if is_nothing(context, share, state) and context.output_kind != OUTPUT_LABEL_GRADIENT:
        write_zeros(context, i, start, stop)
        return
    if context.transforms != 0:
        maximum = 0.0
    if context.output_kind == OUTPUT_HESSIAN:
        factor = total.value * context.hess_factor
    elif (
        context.output_kind == OUTPUT_HESSIAN_PRODUCT and 0.0 < total.value < LEAST_OUTPUT_SCALE
    ):
        # vectors may be large: what they are multiplied by must not be subnormal before
        factor = total.value
        total = Total(value=1.0, value_lost=total.value_lost / factor)
    elif context.output_kind == OUTPUT_LABEL_GRADIENT:
        temperature = 1.0
    mass = measured_mass(share, state, total) if factor == 1.0 else 1.0
    output_scale = scale_of(context, share.weight, factor, temperature, mass)
    if context.output_kind == OUTPUT_HESSIAN_PRODUCT:
        mean = row_expectation(context, i, state) / sum_exp(state)
    if context.output_kind == OUTPUT_HESSIAN:
        scale = softmax_scale(state, reference.factor, 1.0, 0.0)
    elif total.value == 1.0 and total.value_lost == 0.0:
        scale = output_scale.value * softmax_scale(state, reference.factor, 1.0, 0.0)
    else:
        # The total, output_scale included, as mass * 2^exponent: times the factor a tiny one would
        # be subnormal.
        product = with_part(
            Total(value=0.0, value_lost=0.0), output_scale.value, total.value, total.value_lost
        )
        mass = frexp(product.value, &exponent)
        mass_lost = ldexp(product.value_lost, -exponent)
        scale = softmax_scale(state, reference.factor, mass, mass_lost)
        shift = balancing_exponent(scale, exponent)
        reference = shift_exponent(reference, shift)
        scale = ldexp(scale, exponent + shift)
    if context.target == TARGET_LABELS:
        label = context.labels[i] - context.class_offset
        label_value = label_gradient(context, share, state, total) * output_scale.value
    is_plain = (
        context.output_kind == OUTPUT_GRADIENT and context.target != TARGET_PROBS
        and context.transforms == 0
        and (share.spread == 0.0 or (context.class_weights == NULL and not masked))
    )
    measure = Measure(
        probs=NULL, class_weights=NULL, probs_scale=share.probs, spread=share.spread,
        transformed=NULL, total=total.value, total_lost=total.value_lost,
        others=others_share(state), output_scale=output_scale.value, label=-1,
        label_value=label_value, masked=masked, terms=NULL,
    )
    if context.transforms != 0:
        measure.transformed = &transformed
    j = start
    while j < stop:
        destination = context.output + i * context.output_stride + j * element_size(element)
        output = output_block(destination, element, output_buffer)
        streams = (
            context.output_streams != 0 and output != output_buffer and output_scale.exponent == 0
        )
        open_at(context, i, j, stop, &block)
        n = block.n
        partners = NULL
        if context.output_kind == OUTPUT_HESSIAN_PRODUCT:
            partners = load_block(
                context.partners + i * context.partners_stride
                + j * element_size(partners_element),
                partners_element, n, partners_buffer,
            )
        elif context.target == TARGET_PROBS:
            partners = load_block(
                context.probs + i * context.probs_stride
                + j * element_size(context.probs_element),
                context.probs_element, n, partners_buffer,
            )
        measure.probs = partners
        measure.class_weights = weights_from(context, j)
        measure.label = label - j if label >= 0 else -1
        if context.transforms != 0:
            transform_block(
                &block, state.maximum, context.temperature, context.softcap, True, &transformed
            )
        if context.output_kind == OUTPUT_LOG_SOFTMAX:
            block_log_softmax(block.logits, n, maximum, log_sum, output, streams)
        elif context.output_kind == OUTPUT_LABEL_GRADIENT:
            block_label_gradient(block.logits, n, &measure, maximum, log_sum, output, streams)
        else:
            if reference.shift != 0.0:
                shift_block(&block, reference.shift)
            block_scale = scale
            measure.terms = kept_terms(
                kept, j, origin_of(context, state.maximum, reference), reference, &block_scale
            )
            if is_plain:
                block_softmax(
                    block.logits, measure.terms, n, reference, block_scale,
                    share.spread * output_scale.value, measure.label, label_value, output, streams,
                )
            elif context.output_kind == OUTPUT_HESSIAN:
                block_hessian(block.logits, n, &measure, reference, block_scale, output, streams)
            elif context.output_kind == OUTPUT_HESSIAN_PRODUCT:
                block_hessian_product(
                    block.logits, partners, n, &measure, reference, block_scale, mean, output,
                    streams,
                )
            else:
                block_softmax_minus_target(
                    block.logits, n, &measure, reference, block_scale, output, streams
                )
        if output_scale.exponent != 0:
            scale_values(output, n, 1, output_scale.exponent)
        store_block(output, n, destination, element)
        j += n


cdef void write_zeros(
    const Context* context, int64_t i, int64_t start, int64_t stop
) noexcept nogil:
    cdef int64_t element = context.logits_element
    cdef int64_t j
    for j in range(start, stop):
        store_element(
            context.output + i * context.output_stride + j * element_size(element), element, 0.0
        )


cdef void write_ignored(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The results of rows start..stop, all of them left out.
    cdef int64_t i
    for i in range(start, stop):
        context.losses[i] = 0.0
        if context.output_kind != OUTPUT_NOTHING:
            write_zeros(context, i, 0, context.n_classes)


cdef void rows_evaluate(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Losses, and the output if one is wanted, of rows start..stop.
    cdef Block blocks[2]
    cdef Reading reading = Reading(current=&blocks[0], next=&blocks[1])
    cdef int64_t i = next_kept(context, start, stop)
    cdef int64_t following
    cdef TermsBuffer terms
    cdef Kept references
    cdef Kept* kept = NULL
    cdef State state
    if keeps_terms(context):
        kept = &references
        kept.terms = <real*>context.scratch if context.scratch != NULL else terms.terms
    write_ignored(context, start, i)
    if i < stop:
        open_at(context, i, 0, context.n_classes, reading.current)
        block_maximum(reading.current)
    while i < stop:
        following = next_kept(context, i + 1, stop)
        if context.output_streams != 0:
            prefetch_ends(
                context.output + i * context.output_stride,
                context.n_classes * element_size(context.logits_element),
            )
        state = classes_state(
            context, i, 0, context.n_classes, following if following < stop else -1, &reading, kept
        )
        state = with_label(context, i, 0, context.n_classes, state)
        context.losses[i] = row_result(context, i, state)
        if context.output_kind != OUTPUT_NOTHING:
            write_output(context, i, 0, context.n_classes, state, kept)
        write_ignored(context, i + 1, following)
        i = following
    finish_streams()


cdef inline bint is_measured(const Context* context) noexcept nogil:
    # Whether an option changes the measure: 1 at the label is all there is otherwise.
    return (
        context.row_weights != NULL or context.class_weights != NULL
        or context.smoothing != 0.0 or context.z_loss != 0.0
    )


cdef inline double lane_label_logit(
    const Context* context, int64_t i, const Tile* tile, int64_t k
) noexcept nogil:
    # The label's logit of row i, which is in lane k; NaN where the label is no class.
    cdef int64_t label = context.labels[i]
    if label < 0 or label >= context.n_classes:
        return NAN
    return tile.values[label * LANES + k]


cdef State lane_state(
    const Context* context, int64_t i, const Tile* tile, const LaneSums* sums,
    const LaneSpread* spread, int64_t k
) noexcept nogil:
    # What a State of row i, which is in lane k, says but for its sums of exponentials.
    cdef State state = empty_state()
    cdef int64_t label
    state.maximum = sums.maximum[k]
    state.label_weight = 1.0
    if context.smoothing != 0.0:
        state.spread_dot = spread.dot[k]
        state.spread_mass = spread.mass[k]
        state.n_unmasked = spread.count[k]
    if context.target == TARGET_LABELS:
        label = context.labels[i]
        if 0 <= label < context.n_classes:
            state.label_logit = tile.values[label * LANES + k]
            state.label_weight = class_weight(context, label)
            state.label_count = 1.0
    return state


cdef inline double lane_result(
    const Context* context, int64_t i, const Tile* tile, const LaneSums* sums,
    const LaneSpread* spread, int64_t k, bint measured
) noexcept nogil:
    # row_result of row i, which is in lane k. The formula for any measure takes 15 ns more: 0.55 ms
    # against 0.23 for 20000 x 10 float32, one thread.
    cdef State state
    if is_left_out(context, i):
        return 0.0
    if context.target == TARGET_LABELS and not measured:
        return (sums.maximum[k] - lane_label_logit(context, i, tile, k)) + sums.log_sum_exp[k]
    if context.target == TARGET_LABELS:
        state = lane_state(context, i, tile, sums, spread, k)
        return measured_loss(context, share_of(context, i, state), state, sums.log_sum_exp[k])
    if sums.maximum[k] - sums.maximum[k] != 0.0 and not has_nan(context, i):
        return sums.maximum[k]
    return sums.maximum[k] + sums.log_sum_exp[k]


cdef void lanes_write(
    const Context* context, int64_t i, int64_t n, Tile* tile, const LaneSums* sums,
    const LaneSpread* spread, const LaneReference* reference, char* output, bint measured
) noexcept nogil:
    # The output of rows i..i+n, in the tile, then to where it belongs.
    cdef double[MOST_LANES] scales
    cdef double[MOST_LANES] totals
    cdef double[MOST_LANES] spreads
    cdef double[MOST_LANES] label_shares
    cdef double[MOST_LANES] label_values
    cdef double[MOST_LANES] shifts
    cdef int[MOST_LANES] exponents
    cdef int64_t j, k, label
    cdef int shift
    cdef double factor = 1.0
    cdef double mass
    cdef bint is_shifted = False
    cdef LaneReference shifted = reference[0]
    cdef Scale output_scale
    cdef bint has_labels = context.target == TARGET_LABELS
    cdef bint is_gradient = context.output_kind == OUTPUT_GRADIENT
    cdef State state
    cdef Share share
    cdef Total total
    cdef bint is_hessian = context.output_kind == OUTPUT_HESSIAN
    cdef Scale plain = scale_of(context, 1.0, context.hess_factor if is_hessian else 1.0, 1.0, 1.0)
    for k in range(LANES):
        scales[k] = plain.value * sums.scale[k]
        totals[k] = plain.value
        spreads[k] = 0.0
        label_shares[k] = plain.value
        label_values[k] = NAN
        shifts[k] = 0.0
        exponents[k] = plain.exponent
        if k < n and has_labels and is_left_out(context, i + k):
            label_shares[k] = NAN
        elif k < n and has_labels and not measured:
            # p_y - 1 without the difference where y holds the maximum; elsewhere p_y is at most a
            # half, and p_y - 1 loses no digit
            if lane_label_logit(context, i + k, tile, k) == sums.maximum[k]:
                label_values[k] = -sums.others[k] * plain.value
        elif k < n and has_labels:
            state = lane_state(context, i + k, tile, sums, spread, k)
            share = share_of(context, i + k, state)
            total = measured_total(context, share, state, sums.log_sum_exp[k])
            if is_hessian:
                factor = total.value * context.hess_factor
            mass = 1.0 if is_hessian else measured_mass(share, state, total)
            output_scale = scale_of(context, share.weight, factor, 1.0, mass)
            exponents[k] = output_scale.exponent
            totals[k] = output_scale.value
            scales[k] = output_scale.value * total.value * sums.scale[k]
            # (the calls take longer than all the rest of the row)
            if not LEAST_BALANCED_SCALE <= scales[k] < MOST_BALANCED_SCALE:
                shift = balancing_exponent(scales[k], 0)
                shifts[k] = <double>shift
                scales[k] = ldexp(scales[k], shift)
                is_shifted = True
            spreads[k] = output_scale.value * share.spread
            label_shares[k] = output_scale.value * share.label
            if state.label_logit == state.maximum:
                label_values[k] = output_scale.value * (
                    (total.value - (share.label + share.spread * state.label_weight))
                    - total.value * sums.others[k]
                )
            if is_nothing(context, share, state):
                label_shares[k] = NAN
    if is_shifted:
        shifted = shift_lanes(reference, shifts)
    if context.output_kind == OUTPUT_LOG_SOFTMAX:
        log_softmax_tile(tile, context.n_classes, sums.maximum, sums.log_sum_exp)
    elif is_hessian:
        hessian_tile(tile, context.n_classes, reference, sums.scale, sums.others, totals)
    elif context.smoothing != 0.0:
        subtract_spread_from_tile(
            tile, context.n_classes, &shifted, scales, spreads, weights_from(context, 0)
        )
    else:
        softmax_tile(tile, context.n_classes, &shifted, scales)
    for k in range(n if has_labels else 0):
        label = context.labels[i + k]
        if label_shares[k] != label_shares[k]:
            for j in range(context.n_classes):
                tile.values[j * LANES + k] = 0.0
        elif is_gradient and 0 <= label < context.n_classes:
            j = label * LANES + k
            if label_values[k] == label_values[k]:
                tile.values[j] = <real>label_values[k]
            else:
                tile.values[j] = <real>(tile.values[j] - label_shares[k])
    for k in range(n):
        if exponents[k] != 0:
            scale_values(tile.values + k, context.n_classes, LANES, exponents[k])
    store_tile(
        tile, output, context.logits_element, context.n_classes, n, context.output_inner_stride,
        context.output_class_stride,
    )


cdef void lanes_evaluate(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # What rows_evaluate does, for labels or no target, with a row in each lane.
    cdef Tile tile
    cdef LaneSums sums
    cdef LaneSpread spread
    cdef LaneReference reference
    cdef const char* source
    cdef char* output
    cdef int64_t i, k, n
    cdef bint measured = is_measured(context)
    cdef int64_t ahead_stride = max(
        context.logits_class_stride,
        LANES * context.logits_inner_stride // context.n_classes,
    )
    cdef int64_t output_stride = max(
        context.output_class_stride,
        LANES * context.output_inner_stride // context.n_classes,
    )
    i = start
    while i < stop:
        n = min(LANES, stop - i)
        n = min(n, context.n_inner - i % context.n_inner)
        source = context.logits + offset_of_row(
            context, i, context.logits_stride, context.logits_inner_stride
        )
        load_tile(
            &tile, source, context.logits_element, context.n_classes, n,
            context.logits_inner_stride, context.logits_class_stride,
        )
        output = context.output + offset_of_row(
            context, i, context.output_stride, context.output_inner_stride
        )
        if context.output_kind == OUTPUT_NOTHING:
            output = <char*>source  # nothing is written, and memory asked for nothing new
        sum_tile(
            &tile, context.n_classes, source + 4 * LANES * context.logits_inner_stride,
            ahead_stride, output, output_stride, &sums, &reference,
        )
        if context.smoothing != 0.0:
            spread_tile(
                &tile, context.n_classes, weights_from(context, 0), sums.maximum, &spread
            )
        for k in range(n):
            context.losses[i + k] = lane_result(
                context, i + k, &tile, &sums, &spread, k, measured
            )
        if context.output_kind != OUTPUT_NOTHING:
            lanes_write(context, i, n, &tile, &sums, &spread, &reference, output, measured)
        i += n


cdef void store_state(const Context* context, int64_t k, State state) noexcept nogil:
    cdef double* slot = context.states + STATE_SIZE * k
    slot[0] = state.maximum
    slot[1] = state.count
    slot[2] = state.rest
    slot[3] = state.rest_lost
    slot[4] = state.target_dot
    slot[5] = state.target_dot_lost
    slot[6] = state.mass
    slot[7] = state.mass_lost
    slot[8] = state.spread_dot
    slot[9] = state.spread_dot_lost
    slot[10] = state.spread_mass
    slot[11] = state.spread_mass_lost
    slot[12] = state.n_unmasked
    slot[13] = state.label_logit
    slot[14] = state.label_weight
    slot[15] = state.label_count


cdef State stored_state(const Context* context, int64_t k) noexcept nogil:
    cdef const double* slot = context.states + STATE_SIZE * k
    return State(
        maximum=slot[0], count=slot[1], rest=slot[2], rest_lost=slot[3], target_dot=slot[4],
        target_dot_lost=slot[5], mass=slot[6], mass_lost=slot[7], spread_dot=slot[8],
        spread_dot_lost=slot[9], spread_mass=slot[10], spread_mass_lost=slot[11],
        n_unmasked=slot[12], label_logit=slot[13], label_weight=slot[14], label_count=slot[15],
    )


cdef void segments_reduce(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The states of segments start..stop, numbered through the rows. Of a row that is left out
    # they are empty, and say so by a negative label_count.
    cdef Block blocks[2]
    cdef Reading reading = Reading(current=&blocks[0], next=&blocks[1])
    cdef int64_t k, i, first, last
    cdef State state
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        if is_left_out(context, i):
            state = empty_state()
            state.label_count = -1.0
        else:
            open_at(context, i, first, last, reading.current)
            block_maximum(reading.current)
            state = classes_state(context, i, first, last, -1, &reading, NULL)
            state = with_label(context, i, first, last, state)
        store_state(context, k, state)


cdef void rows_merge(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Merges the segments of rows start..stop into each row's first slot.
    cdef int64_t i, k
    cdef State state
    for i in range(start, stop):
        state = stored_state(context, i * context.n_segments)
        for k in range(i * context.n_segments + 1, (i + 1) * context.n_segments):
            state = merge(context, state, stored_state(context, k))
        store_state(context, i * context.n_segments, state)


cdef void rows_finish(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The losses of rows start..stop, after rows_merge.
    cdef int64_t i
    cdef State state
    for i in range(start, stop):
        state = stored_state(context, i * context.n_segments)
        context.losses[i] = 0.0 if state.label_count < 0.0 else row_result(context, i, state)


cdef void segments_write(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The output of segments start..stop, numbered through the rows, after rows_merge.
    cdef int64_t k, i, first, last
    cdef State state
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        state = stored_state(context, i * context.n_segments)
        if state.label_count < 0.0:
            write_zeros(context, i, first, last)
        else:
            write_output(context, i, first, last, state, NULL)
    finish_streams()


cdef int64_t find_class(const Context* context, int64_t i, double logit) noexcept nogil:
    # The first class of row i with this logit, or -1.
    cdef Block block
    cdef int64_t found
    cdef int64_t j = 0
    while j < context.n_classes:
        open_at(context, i, j, context.n_classes, &block)
        found = first_equal(block.logits, block.n, logit)
        if found >= 0:
            return j + found
        j += block.n
    return -1


cdef void rows_describe(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Losses of rows start..stop, and into each row's slot of `states`: logsumexp, the logarithm of
    # the target's probability, entropy, the class of the largest logit and its probability. Of an
    # ignored row all are 0 and the class is -1.
    cdef Block blocks[2]
    cdef Reading reading = Reading(current=&blocks[0], next=&blocks[1])
    cdef int64_t i, k
    cdef double log_sum
    cdef double* slot
    cdef Gap below
    cdef State state
    for i in range(start, stop):
        slot = context.states + STATE_SIZE * i
        for k in range(STATE_SIZE):
            slot[k] = 0.0
        slot[3] = -1.0
        context.losses[i] = 0.0
        if is_ignored(context, i):
            continue
        open_at(context, i, 0, context.n_classes, reading.current)
        block_maximum(reading.current)
        state = classes_state(context, i, 0, context.n_classes, -1, &reading, NULL)
        state = with_label(context, i, 0, context.n_classes, state)
        log_sum = log_sum_exp(state)
        slot[0] = row_logsumexp(context, i, state)
        if context.target == TARGET_LABELS:
            below = gap(context, state.maximum, state.label_logit)
            slot[1] = -((below.value + log_sum) + below.low)
        elif context.target == TARGET_PROBS and state.mass != 0.0:
            slot[1] = -(
                (state.target_dot + state.mass * log_sum)
                + (state.target_dot_lost + state.mass_lost * log_sum)
            )
        if context.target != TARGET_NOTHING:
            context.losses[i] = row_result(context, i, state)
        slot[2] = log_sum + row_expectation(context, i, state) / sum_exp(state)
        slot[4] = 1.0 / (sum_exp(state) + sum_exp_low(state))
        if log_sum == log_sum:
            slot[3] = <double>find_class(context, i, state.maximum)


cdef void rows_diverge(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The divergence of the softmax of each row from that of its partner, and its gradient if one
    # is wanted. With q the partner's softmax and d_j = log q_j - log p_j it is
    # sum_j q_j * (exp(-d_j) - 1 + d_j): no term is negative, and nothing cancels.
    cdef real own_buffer[BLOCK]
    cdef real partner_buffer[BLOCK]
    cdef real output_buffer[BLOCK]
    cdef const real* own
    cdef const real* partner
    cdef real* output
    cdef char* destination = NULL
    cdef int64_t i, j, n
    cdef int64_t element = context.logits_element
    cdef int64_t partners_element = context.partners_element
    cdef double total, total_lost, part
    cdef Softness own_softness, partner_softness
    cdef Scale output_scale
    for i in range(start, stop):
        if is_left_out(context, i):
            write_ignored(context, i, i + 1)
            continue
        output_scale = scale_of(context, row_weight(context, i), 1.0, context.temperature, 1.0)
        own_softness = row_softness(
            context.logits + i * context.logits_stride, element, context.n_classes,
            context.temperature, own_buffer,
        )
        partner_softness = row_softness(
            context.partners + i * context.partners_stride, partners_element, context.n_classes,
            context.temperature, own_buffer,
        )
        total = 0.0
        total_lost = 0.0
        j = 0
        while j < context.n_classes:
            n = min(<int64_t>BLOCK, context.n_classes - j)
            own = load_block(
                context.logits + i * context.logits_stride + j * element_size(element),
                element, n, own_buffer,
            )
            partner = load_block(
                context.partners + i * context.partners_stride
                + j * element_size(partners_element),
                partners_element, n, partner_buffer,
            )
            output = NULL
            if context.output_kind != OUTPUT_NOTHING:
                destination = (
                    context.output + i * context.output_stride + j * element_size(element)
                )
                output = output_block(destination, element, output_buffer)
            part = block_divergence(
                own, partner, n, own_softness, partner_softness, context.temperature,
                output_scale.value, output,
            )
            if output != NULL:
                if output_scale.exponent != 0:
                    scale_values(output, n, 1, output_scale.exponent)
                store_block(output, n, destination, element)
            total_lost += lost(total, part)
            total += part
            j += n
        context.losses[i] = row_weight(context, i) * (total + total_lost)


cdef void rows_check_labels(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # totals[0] = the first row whose label is neither a class nor ignored, or -1;
    # totals[1] = how many rows are not ignored; totals[2] = the sum of their weights.
    cdef int64_t i, label
    cdef double bad = -1.0
    cdef double kept = 0.0
    cdef double weight = 0.0
    cdef double weight_lost = 0.0
    cdef double own
    cdef bint weighs = context.row_weights != NULL or context.class_weights != NULL
    for i in range(start, stop):
        if is_ignored(context, i):
            continue
        kept += 1.0
        label = context.labels[i]
        if bad < 0.0 and (label < 0 or label >= context.n_labels):
            bad = <double>i
        if weighs:
            own = row_weight(context, i) * class_weight(context, label - context.class_offset)
            weight_lost += lost(weight, own)
            weight += own
    context.totals[0] = bad
    context.totals[1] = kept
    context.totals[2] = weight + weight_lost if weighs else kept


cdef void rows_check_probs(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # losses[i] = 0 where every probability of row i is from 0 to output_scale, else NaN.
    cdef real buffer[BLOCK]
    cdef const real* probs
    cdef int64_t i, j, n
    cdef int64_t element = context.probs_element
    for i in range(start, stop):
        context.losses[i] = 0.0
        j = 0
        while j < context.n_classes:
            n = min(<int64_t>BLOCK, context.n_classes - j)
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, buffer,
            )
            if not block_is_within(probs, n, 0.0, context.output_scale):
                context.losses[i] = NAN
            j += n


cdef void rows_sum(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # totals[0] = the sum of losses[start:stop], in an order that depends on their number alone:
    # sixteen interleaved sums over 1024 rows, folded in half, then compensated addition.
    cdef double lanes[16]
    cdef double total = 0.0
    cdef double total_lost = 0.0
    cdef int64_t i, k, half
    i = start
    while i < stop:
        for k in range(16):
            lanes[k] = 0.0
        for k in range(min(<int64_t>1024, stop - i)):
            lanes[k % 16] += context.losses[i + k]
        half = 8
        while half > 0:
            for k in range(half):
                lanes[k] += lanes[k + half]
            half //= 2
        total_lost += lost(total, lanes[0])
        total += lanes[0]
        i += 1024
    context.totals[0] = total + total_lost


KERNELS = {
    "rows_evaluate": <uintptr_t>&rows_evaluate,
    "lanes_evaluate": <uintptr_t>&lanes_evaluate,
    "segments_reduce": <uintptr_t>&segments_reduce,
    "rows_merge": <uintptr_t>&rows_merge,
    "rows_finish": <uintptr_t>&rows_finish,
    "segments_write": <uintptr_t>&segments_write,
    "rows_describe": <uintptr_t>&rows_describe,
    "rows_diverge": <uintptr_t>&rows_diverge,
    "rows_check_labels": <uintptr_t>&rows_check_labels,
    "rows_check_probs": <uintptr_t>&rows_check_probs,
    "rows_sum": <uintptr_t>&rows_sum,
}
CONTEXT_SIZE = sizeof(Context)
