# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False
"""The Cython twin: softmax cross-entropy, row by row and many rows side by side.

fastxent/backends/numba_kernels.py holds the same functions in the same order. This file is built
once for each type the arithmetic is done in (`real`) and each instruction set; `primitives.h`
holds what is done to a block of classes.

`rows_*` and `segments_*` go through a row whose classes lie next to each other, `lanes_*` through
tiles of many rows, wherever their classes lie.

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

from context cimport OUTPUT_LOG_SOFTMAX, OUTPUT_NOTHING, TARGET_LABELS, TARGET_PROBS
from primitives cimport (
    LANES, MOST_LANES, LaneReference, LaneSums, Tile, load_tile, log_softmax_tile, softmax_tile,
    store_tile, sum_tile,
)
from primitives cimport (
    BLOCK, Block, BlockSum, BlockTarget, Context, Reference, balancing_exponent,
    block_is_within, block_log_softmax, block_maximum, block_softmax,
    block_softmax_minus_target, block_sum, block_target, element_size, finish_streams,
    load_block, load_element, open_block, output_block, prefetch_ends, real, reference_at,
    shift_block, shift_exponent, store_block, store_element,
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

# The block that is being summed up, and the one that comes after it.
cdef struct Reading:
    Block* current
    Block* next

# The numbers of a State, as they are stored between threads.
cdef enum:
    STATE_SIZE = 8


cdef inline State empty_state() noexcept nogil:
    return State(
        maximum=-INFINITY, count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
        target_dot_lost=0.0, mass=0.0, mass_lost=0.0,
    )


cdef inline double lost(double a, double b) noexcept nogil:
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
    if state.maximum == -INFINITY and state.rest == 0.0 and state.mass == 0.0:
        state.maximum = maximum
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


cdef inline State add_block(State state, BlockSum sums, BlockTarget target) noexcept nogil:
    # The state with a block more, whose sums are relative to the state's own maximum.
    return State(
        maximum=state.maximum,
        count=state.count + sums.count,
        rest=state.rest + sums.rest,
        rest_lost=state.rest_lost + sums.rest_lost + lost(state.rest, sums.rest),
        target_dot=state.target_dot + target.dot,
        target_dot_lost=(
            state.target_dot_lost + target.dot_lost + lost(state.target_dot, target.dot)
        ),
        mass=state.mass + target.mass,
        mass_lost=state.mass_lost + target.mass_lost + lost(state.mass, target.mass),
    )


cdef State merge(State a, State b) noexcept nogil:
    cdef double maximum = a.maximum if a.maximum > b.maximum else b.maximum
    a = raise_maximum(a, maximum)
    b = raise_maximum(b, maximum)
    return add_block(
        a,
        BlockSum(count=b.count, rest=b.rest, rest_lost=b.rest_lost),
        BlockTarget(
            dot=b.target_dot, dot_lost=b.target_dot_lost, mass=b.mass, mass_lost=b.mass_lost
        ),
    )


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


cdef bint is_ignored(const Context* context, int64_t i) noexcept nogil:
    return (
        context.target == TARGET_LABELS
        and context.has_ignore_index != 0
        and context.labels[i] == context.ignore_index
    )


cdef int64_t next_kept(const Context* context, int64_t i, int64_t stop) noexcept nogil:
    # The first row from i on that is not ignored, or stop.
    while i < stop and is_ignored(context, i):
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


cdef State classes_state(
    const Context* context, int64_t i, int64_t start, int64_t stop, int64_t following,
    Reading* reading
) noexcept nogil:
    # The state of classes start..stop of row i. Always segment by segment, so that a row split
    # over threads has the same bits. `reading` holds the first block; afterwards it holds that
    # of the row `following`, if there is one.
    cdef real probs_buffer[BLOCK]
    cdef const real* probs
    cdef int64_t j, n
    cdef int64_t element = context.probs_element
    cdef int64_t segment_stop = start + context.segment
    cdef bint is_first_segment = True
    cdef double maximum
    cdef Block* block
    cdef BlockSum sums
    cdef BlockTarget target
    cdef State before = empty_state()
    cdef State state = empty_state()
    cdef Reference reference = reference_at(state.maximum)
    j = start
    while j < stop:
        if j == segment_stop:
            before = state if is_first_segment else merge(before, state)
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
            state = raise_maximum(state, block.maximum)
            reference = reference_at(block.maximum)
        target = BlockTarget(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0)
        if context.target == TARGET_PROBS:
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, probs_buffer,
            )
            maximum = state.maximum if state.maximum > -INFINITY else 0.0
            target = block_target(block.logits, probs, n, maximum)
        if reference.shift != 0.0:
            shift_block(block, reference.shift)
        sums = block_sum(block, reference, reading.next)
        state = add_block(state, sums, target)
        j += n
        reading.current = reading.next
        reading.next = block
    return state if is_first_segment else merge(before, state)


cdef int64_t offset_of_row(
    const Context* context, int64_t i, int64_t stride, int64_t inner_stride
) noexcept nogil:
    # In bytes; rows lie in runs of n_inner.
    return i // context.n_inner * stride + i % context.n_inner * inner_stride


cdef double logit_at(const Context* context, int64_t i, int64_t j) noexcept nogil:
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


cdef double label_logit(const Context* context, int64_t i) noexcept nogil:
    return logit_at(context, i, context.labels[i]) if context.target == TARGET_LABELS else 0.0


cdef double row_result(
    const Context* context, int64_t i, State state, double label_x
) noexcept nogil:
    # The loss of row i, whose label's logit is label_x, or logsumexp where there is no target.
    if context.target == TARGET_LABELS:
        return (state.maximum - label_x) + log_sum_exp(state)
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
    cdef int64_t j
    cdef double value
    for j in range(context.n_classes):
        value = logit_at(context, i, j)
        if value != value:
            return True
    return False


cdef void write_output(
    const Context* context, int64_t i, int64_t start, int64_t stop, State state,
    double label_x,
) noexcept nogil:
    # Classes start..stop of the output of row i. `label_x` is the label's logit, read before any
    # of the row is written: the output may lie where the logits lie.
    cdef real probs_buffer[BLOCK]
    cdef real output_buffer[BLOCK]
    cdef const real* probs
    cdef real* output
    cdef char* destination
    cdef Block block
    cdef int64_t j, n
    cdef int64_t label = -1
    cdef int64_t element = context.logits_element
    cdef Reference reference = reference_at(state.maximum)
    cdef double others = others_share(state)
    cdef double mass, mass_lost, scale
    cdef double label_value = 0.0
    cdef int exponent, shift
    cdef bint streams
    if context.target == TARGET_PROBS and state.mass == 0.0:
        write_zeros(context, i, start, stop)
        return
    if context.target == TARGET_PROBS:
        # The mass as mass * 2^exponent: times the factor a tiny one would be subnormal.
        mass = frexp(state.mass, &exponent)
        mass_lost = ldexp(state.mass_lost, -exponent)
        scale = context.output_scale * softmax_scale(state, reference.factor, mass, mass_lost)
        shift = balancing_exponent(scale, exponent)
        reference = shift_exponent(reference, shift)
        scale = ldexp(scale, exponent + shift)
    else:
        scale = context.output_scale * softmax_scale(state, reference.factor, 1.0, 0.0)
    if context.target == TARGET_LABELS:
        # p_y - 1 without the difference: -(sum_exp - exp(x_y - m)) / sum_exp
        label = context.labels[i]
        label_value = -others
        if label_x != state.maximum:
            label_value = -(sum_exp(state) - exp(label_x - state.maximum)) / sum_exp(state)
        label_value *= context.output_scale
    j = start
    while j < stop:
        destination = context.output + i * context.output_stride + j * element_size(element)
        output = output_block(destination, element, output_buffer)
        streams = context.output_streams != 0 and output != output_buffer
        open_at(context, i, j, stop, &block)
        n = block.n
        if context.output_kind == OUTPUT_LOG_SOFTMAX:
            block_log_softmax(block.logits, n, state.maximum, log_sum_exp(state), output, streams)
        elif context.target == TARGET_PROBS:
            probs = load_block(
                context.probs + i * context.probs_stride
                + j * element_size(context.probs_element),
                context.probs_element, n, probs_buffer,
            )
            if reference.shift != 0.0:
                shift_block(&block, reference.shift)
            block_softmax_minus_target(
                block.logits, probs, n, reference, scale, context.output_scale, state.mass,
                state.mass_lost, others, output, streams,
            )
        else:
            if reference.shift != 0.0:
                shift_block(&block, reference.shift)
            block_softmax(
                block.logits, n, reference, scale, label - j, label_value, output, streams
            )
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
    # The results of rows start..stop, all of them ignored.
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
    cdef double label_x
    cdef State state
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
            context, i, 0, context.n_classes, following if following < stop else -1, &reading
        )
        label_x = label_logit(context, i)
        context.losses[i] = row_result(context, i, state, label_x)
        if context.output_kind != OUTPUT_NOTHING:
            write_output(context, i, 0, context.n_classes, state, label_x)
        write_ignored(context, i + 1, following)
        i = following
    finish_streams()


cdef double lane_label_logit(
    const Context* context, int64_t i, const Tile* tile, int64_t k
) noexcept nogil:
    # label_logit of row i, which is in lane k.
    cdef int64_t label = context.labels[i]
    if label < 0 or label >= context.n_classes:
        return NAN
    return tile.values[label * LANES + k]


cdef double lane_result(
    const Context* context, int64_t i, const Tile* tile, const LaneSums* sums, int64_t k
) noexcept nogil:
    # row_result of row i, which is in lane k.
    if is_ignored(context, i):
        return 0.0
    if context.target == TARGET_LABELS:
        return (sums.maximum[k] - lane_label_logit(context, i, tile, k)) + sums.log_sum_exp[k]
    if sums.maximum[k] - sums.maximum[k] != 0.0 and not has_nan(context, i):
        return sums.maximum[k]
    return sums.maximum[k] + sums.log_sum_exp[k]


cdef void lanes_write(
    const Context* context, int64_t i, int64_t n, Tile* tile, const LaneSums* sums,
    const LaneReference* reference, char* output
) noexcept nogil:
    # The output of rows i..i+n, in place of their logits in the tile, then to where it belongs.
    cdef double[MOST_LANES] scales
    cdef double[MOST_LANES] label_values
    cdef int64_t j, k, label
    for k in range(LANES):
        scales[k] = context.output_scale * sums.scale[k]
        if k < n and context.target == TARGET_LABELS:
            # p_y - 1 without the difference where y holds the maximum; elsewhere p_y is at most a
            # half, and p_y - 1 loses no digit
            label_values[k] = NAN
            if lane_label_logit(context, i + k, tile, k) == sums.maximum[k]:
                label_values[k] = -sums.others[k] * context.output_scale
    if context.output_kind == OUTPUT_LOG_SOFTMAX:
        log_softmax_tile(tile, context.n_classes, sums.maximum, sums.log_sum_exp)
    else:
        softmax_tile(tile, context.n_classes, reference, scales)
    for k in range(n if context.target == TARGET_LABELS else 0):
        label = context.labels[i + k]
        if is_ignored(context, i + k):
            for j in range(context.n_classes):
                tile.values[j * LANES + k] = 0.0
        elif 0 <= label < context.n_classes:
            j = label * LANES + k
            if label_values[k] == label_values[k]:
                tile.values[j] = <real>label_values[k]
            else:
                tile.values[j] = <real>(tile.values[j] - context.output_scale)
    store_tile(
        tile, output, context.logits_element, context.n_classes, n, context.output_inner_stride,
        context.output_class_stride,
    )


cdef void lanes_evaluate(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # What rows_evaluate does, for labels or no target, with a row in each lane.
    cdef Tile tile
    cdef LaneSums sums
    cdef LaneReference reference
    cdef const char* source
    cdef char* output
    cdef int64_t i, k, n
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
            output = <char*>source  # nothing to ask memory for but what is there
        sum_tile(
            &tile, context.n_classes, source + 4 * LANES * context.logits_inner_stride,
            ahead_stride, output, output_stride, &sums, &reference,
        )
        for k in range(n):
            context.losses[i + k] = lane_result(context, i + k, &tile, &sums, k)
        if context.output_kind != OUTPUT_NOTHING:
            lanes_write(context, i, n, &tile, &sums, &reference, output)
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


cdef State stored_state(const Context* context, int64_t k) noexcept nogil:
    cdef const double* slot = context.states + STATE_SIZE * k
    return State(
        maximum=slot[0], count=slot[1], rest=slot[2], rest_lost=slot[3], target_dot=slot[4],
        target_dot_lost=slot[5], mass=slot[6], mass_lost=slot[7],
    )


cdef void segments_reduce(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # The states of segments start..stop, numbered through the rows.
    cdef Block blocks[2]
    cdef Reading reading = Reading(current=&blocks[0], next=&blocks[1])
    cdef int64_t k, i, first, last
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        if is_ignored(context, i):
            continue
        open_at(context, i, first, last, reading.current)
        block_maximum(reading.current)
        store_state(context, k, classes_state(context, i, first, last, -1, &reading))


cdef void rows_merge(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    # Merges the segments of rows start..stop into each row's first slot.
    cdef int64_t i, k
    cdef double label_x
    cdef State state
    for i in range(start, stop):
        if is_ignored(context, i):
            context.losses[i] = 0.0
            continue
        state = stored_state(context, i * context.n_segments)
        for k in range(i * context.n_segments + 1, (i + 1) * context.n_segments):
            state = merge(state, stored_state(context, k))
        label_x = label_logit(context, i)
        context.losses[i] = row_result(context, i, state, label_x)
        store_state(context, i * context.n_segments, state)
        # the next segment's slot is free now
        context.states[(i * context.n_segments + 1) * STATE_SIZE] = label_x


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
    finish_streams()


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
    "lanes_evaluate": <uintptr_t>&lanes_evaluate,
    "segments_reduce": <uintptr_t>&segments_reduce,
    "rows_merge": <uintptr_t>&rows_merge,
    "segments_write": <uintptr_t>&segments_write,
    "rows_check_labels": <uintptr_t>&rows_check_labels,
    "rows_check_probs": <uintptr_t>&rows_check_probs,
    "rows_sum": <uintptr_t>&rows_sum,
}
CONTEXT_SIZE = sizeof(Context)
