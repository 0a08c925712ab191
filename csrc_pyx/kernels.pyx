# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""The Cython twin: softmax cross-entropy over rows whose class axis is contiguous.

fastxent/backends/numba_kernels.py holds the same functions in the same order. This file is built
once for each type the arithmetic is done in (`real`) and each instruction set; `primitives.h`
holds what is done to a block of classes.

A row is read block by block. Every block folds into one small state,

    maximum     m, the largest logit
    count       how many logits equal m, each of which adds exactly 1
    rest        sum over the others of exp(x_j - m)              sum_exp = count + rest
    target_dot  sum_j t_j * (m - x_j)                            (probabilities only)
    mass        sum_j t_j                                        (probabilities only)

together with what rounding has lost of each of the last three sums. Loss and gradient follow from
it without a difference of nearly equal numbers:

    loss       = sum_j t_j * (m - x_j) + mass * log(sum_exp)
    gradient_j = mass * exp(x_j - m) / sum_exp - t_j
"""

from libc.math cimport INFINITY, NAN, exp, fma, frexp, ldexp, log, log1p
from libc.stdint cimport int64_t, uintptr_t

from primitives cimport (
    BLOCK, BlockSum, BlockTarget, Context, Reference, balancing_exponent, block_log_softmax,
    block_maximum,
    block_softmax, block_softmax_minus_target, block_sum, block_target, element_size,
    load_block, load_element, output_block, real, reference_at, shift_exponent, store_block,
    store_element,
)

cdef enum:
    TARGET_NOTHING = 0
    TARGET_LABELS = 1
    TARGET_PROBS = 2

cdef enum:
    OUTPUT_NOTHING = 0
    OUTPUT_GRADIENT = 1
    OUTPUT_LOG_SOFTMAX = 2

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

# The numbers of a State, as they are stored between threads.
cdef enum:
    STATE_SIZE = 8


cdef State empty_state() noexcept nogil:
    return State(
        maximum=-INFINITY, count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
        target_dot_lost=0.0, mass=0.0, mass_lost=0.0,
    )


cdef double lost(double a, double b) noexcept nogil:
    # a + b minus its rounded value, exactly (Knuth). An infinite sum has lost nothing.
    cdef double total = a + b
    cdef double part = total - a
    if total - total != 0.0:
        return 0.0
    return (a - (total - part)) + (b - part)


cdef State raise_maximum(State state, double maximum) noexcept nogil:
    # The same state, relative to a maximum at least as large as its own.
    cdef double difference, error, base, rise, rise_lost, factor, after
    if maximum == state.maximum:
        return state
    # state.maximum - maximum = difference + error exactly, and to float64
    # exp(difference + error) = exp(difference) * (1 + error). Far down the exponential alone
    # would be subnormal and short of digits, so it is kept e^128 too large until the end.
    difference = state.maximum - maximum
    error = lost(state.maximum, -maximum)
    base = state.maximum if state.maximum > -INFINITY else 0.0
    # without mass so far nothing rises, however far away the new maximum is
    rise = state.mass * (maximum - base) if state.mass != 0.0 else 0.0
    rise_lost = state.mass_lost * (maximum - base) if state.mass_lost != 0.0 else 0.0
    if difference < -600.0:
        factor = exp(difference + 128.0) * (1.0 + error)
        after = E_TO_MINUS_128
    else:
        factor = exp(difference) * (1.0 + error)
        after = 1.0
    return State(
        maximum=maximum,
        count=0.0,
        rest=(state.count + state.rest) * factor * after,
        rest_lost=state.rest_lost * factor * after,
        target_dot=state.target_dot + rise,
        target_dot_lost=(
            state.target_dot_lost + rise_lost + lost(state.target_dot, rise)
        ),
        mass=state.mass,
        mass_lost=state.mass_lost,
    )


cdef State merge(State a, State b) noexcept nogil:
    cdef double maximum = a.maximum if a.maximum > b.maximum else b.maximum
    a = raise_maximum(a, maximum)
    b = raise_maximum(b, maximum)
    return State(
        maximum=maximum,
        count=a.count + b.count,
        rest=a.rest + b.rest,
        rest_lost=a.rest_lost + b.rest_lost + lost(a.rest, b.rest),
        target_dot=a.target_dot + b.target_dot,
        target_dot_lost=(
            a.target_dot_lost + b.target_dot_lost + lost(a.target_dot, b.target_dot)
        ),
        mass=a.mass + b.mass,
        mass_lost=a.mass_lost + b.mass_lost + lost(a.mass, b.mass),
    )


cdef double sum_exp(State state) noexcept nogil:
    # A row without a finite maximum has no softmax: NaN (a sum below 1 has no other cause).
    cdef double total = state.count + state.rest
    return total if total >= 1.0 else NAN


cdef double sum_exp_low(State state) noexcept nogil:
    # What rounding keeps out of sum_exp.
    return lost(state.count, state.rest) + state.rest_lost


cdef double log_sum_exp(State state) noexcept nogil:
    # log(sum_exp), relative to the maximum; log1p keeps the digits of a confident row.
    if state.count == 1.0:
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


cdef bint is_ignored(const Context* context, int64_t i) noexcept nogil:
    return (
        context.target == TARGET_LABELS
        and context.has_ignore_index != 0
        and context.labels[i] == context.ignore_index
    )


cdef State segment_state(
    const Context* context, int64_t i, int64_t start, int64_t stop
) noexcept nogil:
    # The state of classes start..stop of row i.
    cdef real logits_buffer[BLOCK]
    cdef real probs_buffer[BLOCK]
    cdef const real* logits
    cdef const real* probs
    cdef int64_t j, n
    cdef int64_t element = context.logits_element
    cdef double maximum
    cdef BlockSum block
    cdef BlockTarget target
    cdef State state = empty_state()
    cdef Reference reference = reference_at(state.maximum)
    j = start
    while j < stop:
        n = min(<int64_t>BLOCK, stop - j)
        logits = load_block(
            context.logits + i * context.logits_stride + j * element_size(element),
            element, n, logits_buffer,
        )
        maximum = block_maximum(logits, n)
        if maximum > state.maximum:
            state = raise_maximum(state, maximum)
            reference = reference_at(maximum)
        block = block_sum(logits, n, reference)
        target = BlockTarget(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0)
        if context.target == TARGET_PROBS:
            element = context.probs_element
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, probs_buffer,
            )
            element = context.logits_element
            maximum = state.maximum if state.maximum > -INFINITY else 0.0
            target = block_target(logits, probs, n, maximum)
        state = merge(
            state,
            State(
                maximum=state.maximum, count=block.count, rest=block.rest,
                rest_lost=block.rest_lost, target_dot=target.dot,
                target_dot_lost=target.dot_lost, mass=target.mass, mass_lost=target.mass_lost,
            ),
        )
        j += n
    return state


cdef State row_state(const Context* context, int64_t i) noexcept nogil:
    # Always segment by segment, so that a row split over threads has the same bits.
    cdef int64_t start = context.segment
    cdef int64_t stop
    cdef State state = segment_state(context, i, 0, min(start, context.n_classes))
    while start < context.n_classes:
        stop = min(start + context.segment, context.n_classes)
        state = merge(state, segment_state(context, i, start, stop))
        start = stop
    return state


cdef double label_logit(const Context* context, int64_t i) noexcept nogil:
    # NaN for a label that is no class: it was one when the call checked it, and the array may
    # have been written to since.
    cdef int64_t element = context.logits_element
    cdef int64_t label = context.labels[i]
    if label < 0 or label >= context.n_classes:
        return NAN
    return load_element(
        context.logits + i * context.logits_stride + label * element_size(element), element
    )


cdef double row_result(const Context* context, int64_t i, State state) noexcept nogil:
    # The loss of row i, or logsumexp where there is no target.
    if context.target == TARGET_LABELS:
        return (state.maximum - label_logit(context, i)) + log_sum_exp(state)
    if context.target == TARGET_PROBS and state.mass == 0.0:
        return 0.0
    if context.target == TARGET_PROBS:
        return (state.target_dot + state.mass * log_sum_exp(state)) + (
            state.target_dot_lost + state.mass_lost * log_sum_exp(state)
        )
    if state.maximum == -INFINITY and state.rest == 0.0:
        return -INFINITY
    if state.maximum == INFINITY and not has_nan(context, i):
        return INFINITY
    return state.maximum + log_sum_exp(state)


cdef bint has_nan(const Context* context, int64_t i) noexcept nogil:
    cdef int64_t element = context.logits_element
    cdef int64_t j
    cdef double value
    for j in range(context.n_classes):
        value = load_element(
            context.logits + i * context.logits_stride + j * element_size(element), element
        )
        if value != value:
            return True
    return False


cdef void write_output(
    const Context* context, int64_t i, int64_t start, int64_t stop, State state,
    double label_x,
) noexcept nogil:
    # Classes start..stop of the output of row i. `label_x` is the label's logit, read before any
    # of the row is written: the output may lie where the logits lie.
    cdef real logits_buffer[BLOCK]
    cdef real probs_buffer[BLOCK]
    cdef real output_buffer[BLOCK]
    cdef const real* logits
    cdef const real* probs
    cdef real* output
    cdef char* destination
    cdef int64_t j, n, label
    cdef int64_t element = context.logits_element
    cdef Reference reference = reference_at(state.maximum)
    cdef double others = others_share(state)
    cdef double mass, mass_lost, scale, value
    cdef int exponent, shift
    if context.target == TARGET_PROBS and state.mass == 0.0:
        write_zeros(context, i, start, stop)
        return
    # The mass as mass * 2^exponent: times the factor a tiny one would be subnormal.
    mass = frexp(state.mass if context.target == TARGET_PROBS else 1.0, &exponent)
    mass_lost = ldexp(state.mass_lost, -exponent)
    scale = context.output_scale * softmax_scale(state, reference.factor, mass, mass_lost)
    shift = balancing_exponent(scale, exponent)
    reference = shift_exponent(reference, shift)
    scale = ldexp(scale, exponent + shift)
    j = start
    while j < stop:
        n = min(<int64_t>BLOCK, stop - j)
        logits = load_block(
            context.logits + i * context.logits_stride + j * element_size(element),
            element, n, logits_buffer,
        )
        destination = context.output + i * context.output_stride + j * element_size(element)
        output = output_block(destination, element, output_buffer)
        if context.output_kind == OUTPUT_LOG_SOFTMAX:
            block_log_softmax(logits, n, state.maximum, log_sum_exp(state), output)
        elif context.target == TARGET_PROBS:
            probs = load_block(
                context.probs + i * context.probs_stride
                + j * element_size(context.probs_element),
                context.probs_element, n, probs_buffer,
            )
            block_softmax_minus_target(
                logits, probs, n, reference, scale, context.output_scale, state.mass,
                state.mass_lost, others, output,
            )
        else:
            block_softmax(logits, n, reference, scale, output)
        store_block(output, n, destination, element)
        j += n
    if context.target == TARGET_LABELS:
        label = context.labels[i]
        if start <= label < stop:
            # p_y - 1 without the difference: -(sum_exp - exp(x_y - m)) / sum_exp
            value = -others
            if label_x != state.maximum:
                value = -(sum_exp(state) - exp(label_x - state.maximum)) / sum_exp(state)
            store_element(
                context.output + i * context.output_stride + label * element_size(element),
                element, value * context.output_scale,
            )


cdef void write_zeros(
    const Context* context, int64_t i, int64_t start, int64_t stop
) noexcept nogil:
    cdef int64_t element = context.logits_element
    cdef int64_t j
    for j in range(start, stop):
        store_element(
            context.output + i * context.output_stride + j * element_size(element), element, 0.0
        )


cdef void rows_evaluate(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Losses, and the output if one is wanted, of rows start..stop.
    cdef int64_t i
    cdef double label_x
    cdef State state
    for i in range(start, stop):
        if is_ignored(context, i):
            context.losses[i] = 0.0
            if context.output_kind != OUTPUT_NOTHING:
                write_zeros(context, i, 0, context.n_classes)
            continue
        state = row_state(context, i)
        context.losses[i] = row_result(context, i, state)
        if context.output_kind != OUTPUT_NOTHING:
            label_x = label_logit(context, i) if context.target == TARGET_LABELS else 0.0
            write_output(context, i, 0, context.n_classes, state, label_x)


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


cdef State stored_state(const Context* context, int64_t k) noexcept nogil:
    cdef const double* slot = context.states + STATE_SIZE * k
    return State(
        maximum=slot[0], count=slot[1], rest=slot[2], rest_lost=slot[3], target_dot=slot[4],
        target_dot_lost=slot[5], mass=slot[6], mass_lost=slot[7],
    )


cdef void segments_reduce(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The states of segments start..stop, numbered through the rows.
    cdef int64_t k, i, first
    cdef State state
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        if is_ignored(context, i):
            continue
        state = segment_state(
            context, i, first, min(first + context.segment, context.n_classes)
        )
        store_state(context, k, state)


cdef void rows_merge(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Merges the segments of rows start..stop into each row's first slot.
    cdef int64_t i, k
    cdef State state
    for i in range(start, stop):
        if is_ignored(context, i):
            context.losses[i] = 0.0
            continue
        state = stored_state(context, i * context.n_segments)
        for k in range(i * context.n_segments + 1, (i + 1) * context.n_segments):
            state = merge(state, stored_state(context, k))
        context.losses[i] = row_result(context, i, state)
        store_state(context, i * context.n_segments, state)
        if context.target == TARGET_LABELS:
            # the next segment's slot is free now
            context.states[(i * context.n_segments + 1) * STATE_SIZE] = label_logit(context, i)


cdef void segments_write(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The output of segments start..stop, numbered through the rows, after rows_merge.
    cdef int64_t k, i, first, last
    cdef double label_x
    cdef State state
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        if is_ignored(context, i):
            write_zeros(context, i, first, last)
            continue
        state = stored_state(context, i * context.n_segments)
        label_x = context.states[(i * context.n_segments + 1) * STATE_SIZE]
        write_output(context, i, first, last, state, label_x)


cdef void rows_check_labels(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # states[0] = the first row whose label is neither a class nor ignored, or -1;
    # states[1] = how many rows are not ignored.
    cdef int64_t i, label
    cdef double bad = -1.0
    cdef double kept = 0.0
    for i in range(start, stop):
        if is_ignored(context, i):
            continue
        kept += 1.0
        label = context.labels[i]
        if bad < 0.0 and (label < 0 or label >= context.n_classes):
            bad = <double>i
    context.states[0] = bad
    context.states[1] = kept


cdef void rows_check_probs(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # losses[i] = 0 where every probability of row i is from 0 to output_scale, else NaN.
    cdef real buffer[BLOCK]
    cdef const real* probs
    cdef int64_t i, j, k, n
    cdef int64_t element = context.probs_element
    cdef double bad
    for i in range(start, stop):
        bad = 0.0
        j = 0
        while j < context.n_classes:
            n = min(<int64_t>BLOCK, context.n_classes - j)
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, buffer,
            )
            for k in range(n):
                bad += 0.0 if 0.0 <= probs[k] <= context.output_scale else 1.0
            j += n
        context.losses[i] = 0.0 if bad == 0.0 else NAN


cdef void rows_sum(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # states[0] = the sum of losses[start:stop], in an order that depends on their number alone:
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
    context.states[0] = total + total_lost


KERNELS = {
    "rows_evaluate": <uintptr_t>&rows_evaluate,
    "segments_reduce": <uintptr_t>&segments_reduce,
    "rows_merge": <uintptr_t>&rows_merge,
    "segments_write": <uintptr_t>&segments_write,
    "rows_check_labels": <uintptr_t>&rows_check_labels,
    "rows_check_probs": <uintptr_t>&rows_check_probs,
    "rows_sum": <uintptr_t>&rows_sum,
}
CONTEXT_SIZE = sizeof(Context)
