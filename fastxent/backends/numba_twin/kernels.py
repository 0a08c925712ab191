"""The Numba twin: softmax cross-entropy, row by row and many rows side by side.

csrc_pyx/kernels.pyx holds the same functions in the same order. This file is compiled when it is
first used, once for each type the arithmetic is done in and what is needed; the modules beside it
hold what is done to a block of classes, or to a tile.

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

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..context import (
    BLOCK,
    CONTEXT_DTYPE,
    OUTPUT_GRADIENT,
    OUTPUT_HESSIAN,
    OUTPUT_HESSIAN_PRODUCT,
    OUTPUT_LABEL_GRADIENT,
    OUTPUT_LOG_SOFTMAX,
    OUTPUT_NOTHING,
    SCRATCH_CLASSES,
    SEGMENT,
    STATE_SIZE,
    TARGET_LABELS,
    TARGET_NOTHING,
    TARGET_PROBS,
)
from ..numba_functions import compiled, entry_of, inlined
from ..numba_scalars import (
    address_of,
    exp,
    finish_streams,
    fma,
    frexp,
    ldexp,
    log,
    log1p,
    pointer_at,
    stack_buffer,
)
from .divergence import block_divergence, row_softness
from .elements import (
    element_size,
    load_block,
    load_element,
    output_block,
    scale_values,
    store_block,
    store_element,
)
from .exponential import (
    Kept,
    balancing_exponent,
    keep_terms,
    kept_terms,
    largest_output_exponent,
    least_balanced_scale,
    least_output_exponent,
    most_balanced_scale,
    most_output_exponent,
    nothing_kept,
    reference_at,
    shift_exponent,
)
from .outputs import (
    Measure,
    block_hessian,
    block_hessian_product,
    block_label_gradient,
    block_log_softmax,
    block_softmax,
    block_softmax_minus_target,
    prefetch_ends,
)
from .precision import (
    block_buffer,
    kept_buffer,
    kept_references_buffer,
    real,
    real_bytes,
    zero,
)
from .settings import PROBS, REAL_BITS, SECOND_ORDER, SMOOTHS, TRANSFORMS, WRITES
from .sums import (
    Block,
    BlockSpread,
    BlockSum,
    BlockTarget,
    Total,
    Transformed,
    block_expectation,
    block_is_within,
    block_maximum,
    block_spread,
    block_sum,
    block_sum_and_spread,
    block_sum_with_tails,
    block_target,
    first_equal,
    new_block,
    open_block,
    shift_block,
    transform_block,
    transformed_buffer,
    transformed_in,
)
from .tiles import (
    TILES_AHEAD,
    Coming,
    LaneReference,
    LaneSpread,
    LaneSums,
    Tile,
    hessian_tile,
    lanes_for,
    load_tile,
    log_softmax_tile,
    shift_lanes,
    softmax_tile,
    spread_tile,
    store_tile,
    subtract_spread_from_tile,
    sum_tile,
    tile_buffer,
    tile_lanes_buffer,
    write_label_losses,
    write_lane_terms,
)
from .transforms import Pair, transformed_gap, transformed_value

INFINITY = math.inf
NAN = math.nan
E_TO_MINUS_128 = exp(-128.0)
least_output_scale = ldexp(0.5, least_output_exponent)
most_output_scale = ldexp(1.0, most_output_exponent)
# Whether a gradient may be of more than softmax less a number, and label.
MEASURES = PROBS or SMOOTHS or TRANSFORMS


class State(NamedTuple):
    maximum: Any
    count: Any
    rest: Any
    rest_lost: Any
    target_dot: Any
    target_dot_lost: Any
    mass: Any
    mass_lost: Any
    spread_dot: Any
    spread_dot_lost: Any
    spread_mass: Any
    spread_mass_lost: Any
    n_unmasked: Any
    label_logit: Any
    label_weight: Any
    label_count: Any


class Share(NamedTuple):
    """What labels and options make of a row.

    The numbers of its measure, and what all is multiplied by.
    """

    weight: Any
    label: Any
    probs: Any
    spread: Any


class Scale(NamedTuple):
    """The number value * 2^exponent."""

    value: Any
    exponent: Any


class Reading(NamedTuple):
    """The block that is being summed up, and the one that comes after it."""

    current: Block
    next: Block


@inlined
def with_maximum(state, maximum):
    """The state with another maximum."""
    return State(
        maximum=maximum, count=state.count, rest=state.rest, rest_lost=state.rest_lost,
        target_dot=state.target_dot, target_dot_lost=state.target_dot_lost, mass=state.mass,
        mass_lost=state.mass_lost, spread_dot=state.spread_dot,
        spread_dot_lost=state.spread_dot_lost, spread_mass=state.spread_mass,
        spread_mass_lost=state.spread_mass_lost, n_unmasked=state.n_unmasked,
        label_logit=state.label_logit, label_weight=state.label_weight,
        label_count=state.label_count,
    )  # fmt: skip


@inlined
def with_label_of(state, logit, weight, count):
    """The state with another label."""
    return State(
        maximum=state.maximum, count=state.count, rest=state.rest, rest_lost=state.rest_lost,
        target_dot=state.target_dot, target_dot_lost=state.target_dot_lost, mass=state.mass,
        mass_lost=state.mass_lost, spread_dot=state.spread_dot,
        spread_dot_lost=state.spread_dot_lost, spread_mass=state.spread_mass,
        spread_mass_lost=state.spread_mass_lost, n_unmasked=state.n_unmasked, label_logit=logit,
        label_weight=weight, label_count=count,
    )  # fmt: skip


lanes_buffer = stack_buffer(16)


@inlined
def empty_state():
    return State(
        maximum=-INFINITY, count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
        target_dot_lost=0.0, mass=0.0, mass_lost=0.0, spread_dot=0.0, spread_dot_lost=0.0,
        spread_mass=0.0, spread_mass_lost=0.0, n_unmasked=0.0, label_logit=0.0,
        label_weight=0.0, label_count=0.0,
    )  # fmt: skip


@inlined
def lost(a, b):
    # a + b minus its rounded value, exactly (Knuth). An infinite sum has lost nothing.
    total = a + b
    part = total - a
    if total - total != 0.0:
        return 0.0
    return (a - (total - part)) + (b - part)


@inlined
def gap(context, a, b):
    # y(a) - y(b), and what rounding has lost of it.
    if TRANSFORMS and context.transforms != 0:
        return transformed_gap(a, b, context.temperature, context.softcap)
    return Pair(value=a - b, low=lost(a, -b))


@inlined
def value_of(context, x):
    # y(x)
    if TRANSFORMS and context.transforms != 0:
        return transformed_value(x, context.temperature, context.softcap)
    return x


@compiled
def raise_maximum(context, state, maximum):
    # The same state, relative to a maximum at least as large as its own.
    if maximum == state.maximum:
        return state
    if (
        state.maximum == -INFINITY
        and state.rest == 0.0
        and state.mass == 0.0
        and state.spread_mass == 0.0
    ):
        return with_maximum(state, maximum)
    # y(state.maximum) - y(maximum) = value + low, and to float64
    # exp(value + low) = exp(value) * (1 + low). Far down the exponential alone would be
    # subnormal and short of digits, so it is kept e^128 too large until the end.
    difference = gap(context, state.maximum, maximum)
    base = state.maximum if state.maximum > -INFINITY else 0.0
    up = gap(context, maximum, base)
    if difference.value < -600.0:
        factor = exp(difference.value + 128.0) * (1.0 + difference.low)
        after = E_TO_MINUS_128
    else:
        factor = exp(difference.value) * (1.0 + difference.low)
        after = 1.0
    target_dot = state.target_dot
    target_dot_lost = state.target_dot_lost
    spread_dot = state.spread_dot
    spread_dot_lost = state.spread_dot_lost
    # without mass so far nothing rises, however far away the new maximum is
    if state.mass != 0.0:
        rise = state.mass * up.value
        target_dot_lost += state.mass_lost * up.value + lost(target_dot, rise)
        target_dot += rise
    if state.spread_mass != 0.0:
        rise = state.spread_mass * up.value
        spread_dot_lost += state.spread_mass_lost * up.value + lost(spread_dot, rise)
        spread_dot += rise
    return State(
        maximum=maximum, count=0.0, rest=(state.count + state.rest) * factor * after,
        rest_lost=state.rest_lost * factor * after, target_dot=target_dot,
        target_dot_lost=target_dot_lost, mass=state.mass, mass_lost=state.mass_lost,
        spread_dot=spread_dot, spread_dot_lost=spread_dot_lost,
        spread_mass=state.spread_mass, spread_mass_lost=state.spread_mass_lost,
        n_unmasked=state.n_unmasked, label_logit=state.label_logit,
        label_weight=state.label_weight, label_count=state.label_count,
    )  # fmt: skip


@inlined
def add_block(state, sums, target, spread):
    # The state with a block more, whose sums are relative to the state's own maximum.
    return State(
        maximum=state.maximum,
        count=state.count + sums.count,
        rest=state.rest + sums.rest,
        rest_lost=state.rest_lost + (sums.rest_lost + lost(state.rest, sums.rest)),
        target_dot=state.target_dot + target.dot,
        target_dot_lost=(
            state.target_dot_lost + (target.dot_lost + lost(state.target_dot, target.dot))
        ),
        mass=state.mass + target.mass,
        mass_lost=state.mass_lost + (target.mass_lost + lost(state.mass, target.mass)),
        spread_dot=state.spread_dot + spread.dot,
        spread_dot_lost=(
            state.spread_dot_lost + (spread.dot_lost + lost(state.spread_dot, spread.dot))
        ),
        spread_mass=state.spread_mass + spread.mass,
        spread_mass_lost=(
            state.spread_mass_lost + (spread.mass_lost + lost(state.spread_mass, spread.mass))
        ),
        n_unmasked=state.n_unmasked + spread.count,
        label_logit=state.label_logit,
        label_weight=state.label_weight,
        label_count=state.label_count,
    )


@compiled
def merge(context, a, b):
    maximum = a.maximum if a.maximum > b.maximum else b.maximum
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
    )  # fmt: skip
    # one of the two has the label; the other has zeros
    return with_label_of(
        a, a.label_logit + b.label_logit, a.label_weight + b.label_weight,
        a.label_count + b.label_count,
    )  # fmt: skip


@inlined
def sum_exp(state):
    # A row without a finite maximum has no softmax: NaN (a sum below 1 has no other cause).
    total = state.count + state.rest
    return total if total >= 1.0 else NAN


@inlined
def sum_exp_low(state):
    # What rounding keeps out of sum_exp.
    return lost(state.count, state.rest) + state.rest_lost


@inlined
def log_sum_exp(state):
    # log(sum_exp), relative to the maximum; log1p keeps the digits of a confident row.
    # Elsewhere log is as exact, and takes 5 ns instead of 20.
    if state.count == 1.0 and state.rest < 0.5:
        return log1p(state.rest + state.rest_lost)
    return log(sum_exp(state)) + sum_exp_low(state) / sum_exp(state)


@inlined
def others_share(state):
    # 1 - exp(m - m)/sum_exp: what the softmax leaves to all but one of the maxima.
    return (state.rest + (state.count - 1.0) + state.rest_lost) / sum_exp(state)


@inlined
def softmax_scale(state, factor, mass, mass_lost):
    # factor / sum_exp, times the mass if there is one, rounded once: the first quotient is put
    # right by its remainder, to which all that was lost before is added.
    total = sum_exp(state)
    top = factor * mass
    top_low = fma(factor, mass, -top) + factor * mass_lost
    quotient = top / total
    remainder = fma(-quotient, total, top) + (top_low - quotient * sum_exp_low(state))
    return quotient + remainder / total


@inlined
def is_ignored(context, i):
    return (
        context.target == TARGET_LABELS
        and context.has_ignore_index != 0
        and pointer_at(context.labels, 0)[i] == context.ignore_index
    )


@inlined
def row_weight(context, i):
    return pointer_at(context.row_weights, 0.0)[i] if context.row_weights != 0 else 1.0


@inlined
def is_left_out(context, i):
    # A row without weight is not read either.
    return is_ignored(context, i) or row_weight(context, i) == 0.0


@inlined
def class_weight(context, j):
    # 1 for a class there is none of: labels were classes when the call checked them, and their
    # array may have been written to since.
    if context.class_weights == 0 or j < 0 or j >= context.n_classes:
        return 1.0
    return float(pointer_at(context.class_weights, zero)[j])


@inlined
def next_kept(context, i, stop):
    # The first row from i on that is not ignored, or stop.
    while i < stop and is_left_out(context, i):
        i += 1
    return i


@inlined
def open_at(context, i, j, stop, block):
    # The block of row i that starts at class j, of classes below stop; none at all if i < 0.
    output = context.output + i * context.output_stride
    if (
        context.output_kind == OUTPUT_NOTHING
        or context.output_streams != 0
        or context.output == context.logits
    ):
        output = 0
    return open_block(
        block, context.logits + i * context.logits_stride, context.logits_element, j,
        min(BLOCK, stop - j) if i >= 0 else 0, output,
    )  # fmt: skip


@inlined
def keeps_terms(context):
    # Whether the exponentials of a row are kept for its output. In float64 they are not: a kept
    # one has been rounded, and where a target is taken away from it no digit is to spare.
    return (
        REAL_BITS == 32
        and context.n_classes <= (SEGMENT if context.scratch == 0 else SCRATCH_CLASSES)
        and (
            context.output_kind == OUTPUT_GRADIENT
            or context.output_kind == OUTPUT_HESSIAN
            or context.output_kind == OUTPUT_HESSIAN_PRODUCT
        )
    )


@inlined
def origin_of(context, maximum, reference):
    # What the logits of a block are relative to, whose exponentials are taken.
    return maximum if context.transforms != 0 else reference.shift


@compiled
def classes_state(context, i, start, stop, following, reading, kept):
    # The state of classes start..stop of row i. Always segment by segment, so that a row split
    # over threads has the same bits. `reading` holds the first block; afterwards it holds that
    # of the row `following`, if there is one. The exponentials are `kept` if there is room.
    probs_buffer = block_buffer(zero)
    terms_buffer = block_buffer(zero)
    transformed = transformed_in(transformed_buffer(zero))
    element = context.probs_element
    segment_stop = start + context.segment
    is_first_segment = True
    before = empty_state()
    state = empty_state()
    reference = reference_at(state.maximum)
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
            next = open_at(context, i, j + n, stop, reading.next)
        else:
            next = open_at(context, following, 0, context.n_classes, reading.next)
        if block.maximum > state.maximum:
            state = raise_maximum(context, state, block.maximum)
            reference = reference_at(block.maximum)
        maximum = state.maximum if state.maximum > -INFINITY else 0.0
        if TRANSFORMS and context.transforms != 0:
            # from here on the block is differences to the maximum, and 0 the largest of them
            block = transform_block(
                block, maximum, context.temperature, context.softcap, False, transformed
            )
            reference = reference_at(0.0)
            maximum = 0.0
        weights = weights_from(context, j)
        target = BlockTarget(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0)
        if PROBS and context.target == TARGET_PROBS:
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, probs_buffer,
            )  # fmt: skip
            target = block_target(block.logits, probs, weights, n, maximum)
        spread = BlockSpread(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0, count=0.0)
        mass = float(n)
        if SMOOTHS and context.smoothing != 0.0:
            if weights != 0:
                mass = pointer_at(context.class_masses, 0.0)[j // BLOCK]
            if TRANSFORMS and context.transforms != 0:
                spread = block_spread(block.logits, weights, n, maximum, mass)
        if reference.shift != 0.0:
            block = shift_block(block, reference.shift)
        terms = keep_terms(
            kept, j, origin_of(context, state.maximum, reference), reference, terms_buffer
        )
        if TRANSFORMS and context.transforms != 0:
            sums, next = block_sum_with_tails(block, transformed.tails, reference, next, terms)
        elif SMOOTHS and context.smoothing != 0.0:
            sums, next, spread = block_sum_and_spread(block, reference, next, weights, mass, terms)
        else:
            sums, next = block_sum(block, reference, next, terms)
        state = add_block(state, sums, target, spread)
        j += n
        reading = Reading(current=next, next=block)
    return (state if is_first_segment else merge(context, before, state)), reading


@inlined
def weights_from(context, j):
    # The weights of class j and those after it; NULL where there are none.
    if context.class_weights == 0:
        return 0
    return context.class_weights + j * real_bytes


@inlined
def offset_of_row(context, i, stride, inner_stride):
    # In bytes; rows lie in runs of n_inner.
    return i // context.n_inner * stride + i % context.n_inner * inner_stride


@inlined
def logit_at(context, i, j):
    # NaN for a class there is none of: labels were classes when the call checked them, and
    # their array may have been written to since.
    if j < 0 or j >= context.n_classes:
        return NAN
    return load_element(
        context.logits
        + offset_of_row(context, i, context.logits_stride, context.logits_inner_stride)
        + j * context.logits_class_stride,
        context.logits_element,
    )  # fmt: skip


@inlined
def with_label(context, i, start, stop, state):
    # The state of classes start..stop of row i, with what is known of its label if it is there.
    if context.target != TARGET_LABELS:
        return state
    label = pointer_at(context.labels, 0)[i] - context.class_offset
    if start <= label < stop:
        state = with_label_of(state, logit_at(context, i, label), class_weight(context, label), 1.0)
    return state


@inlined
def share_of(context, i, state):
    label = 1.0
    probs = 0.0
    spread = 0.0
    if context.target == TARGET_PROBS:
        label = 0.0
        probs = context.label_scale
    elif context.target == TARGET_LABELS:
        label = context.label_scale * state.label_weight
    if SMOOTHS and context.smoothing != 0.0:
        spread = context.smoothing / state.n_unmasked
    return Share(weight=row_weight(context, i), label=label, probs=probs, spread=spread)


@inlined
def scale_of(context, weight, factor, temperature, mass):
    # What the output of a row is multiplied by; `mass` is about what its measure has. Where
    # `real` would be short of digits for results that it holds, an exponent is taken out.
    value = context.output_scale * weight * factor / temperature
    if (
        context.output_exponent == 0
        and least_output_scale <= value <= most_output_scale
        and value * mass <= most_output_scale
    ):
        return Scale(value=value, exponent=0)
    mantissa, own = frexp(context.output_scale)
    others = own + context.output_exponent
    part, own = frexp(weight)
    mantissa *= part
    others += own
    part, own = frexp(factor)
    mantissa *= part
    others += own
    part, own = frexp(temperature)
    mantissa, rest = frexp(mantissa / part)
    others += rest - own
    # a mass far below 1 leaves room for a larger value
    own = frexp(mass)[1]
    most = most_output_exponent - min(own, 0)
    most = min(most, largest_output_exponent - max(own, 0))
    most = min(max(others, least_output_exponent), most)
    return Scale(value=ldexp(mantissa, most), exponent=others - most)


@inlined
def measured_mass(share, state, total):
    # The mass of a row's measure, and of what z-loss adds to it, within a factor of 2.
    return (
        abs(total.value) + share.label + share.probs * state.mass + share.spread * state.spread_mass
    )


@inlined
def is_nothing(context, share, state):
    # Whether nothing is asked of a row: no mass anywhere, and no z-loss.
    return (
        share.label == 0.0
        and (share.probs == 0.0 or state.mass == 0.0)
        and (share.spread == 0.0 or state.spread_mass == 0.0)
        and context.z_loss == 0.0
    )


@inlined
def measured_loss(context, share, state, log_sum):
    # The loss of a row of this state; log_sum is its log(sum_exp).
    loss = 0.0
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


@inlined
def with_part(total, a, b, b_lost):
    # total + a * (b + b_lost)
    product = a * b
    product_lost = fma(a, b, -product) + a * b_lost
    return Total(
        value=total.value + product,
        value_lost=total.value_lost + product_lost + lost(total.value, product),
    )


@inlined
def measured_total(context, share, state, log_sum):
    # What the softmax of a row is multiplied by in its gradient.
    total = Total(value=share.label, value_lost=0.0)
    if share.probs != 0.0:
        total = with_part(total, share.probs, state.mass, state.mass_lost)
    if share.spread != 0.0:
        total = with_part(total, share.spread, state.spread_mass, state.spread_mass_lost)
    if context.z_loss != 0.0:
        total = with_part(
            total, 2.0 * context.z_loss, value_of(context, state.maximum) + log_sum, 0.0
        )
    return total


@inlined
def label_gradient(context, share, state, total):
    # total * p_y - t_y at the label, without that difference where p_y is close to 1.
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


@inlined
def row_result(context, i, state):
    # The loss of row i, or logsumexp where there is no target.
    if context.target != TARGET_NOTHING:
        return measured_loss(context, share_of(context, i, state), state, log_sum_exp(state))
    return row_logsumexp(context, i, state)


@inlined
def row_logsumexp(context, i, state):
    if state.maximum == -INFINITY and state.rest == 0.0:
        return -INFINITY
    if state.maximum == INFINITY and not has_nan(context, i):
        return INFINITY
    return value_of(context, state.maximum) + log_sum_exp(state)


@compiled
def has_nan(context, i):
    for j in range(context.n_classes):
        value = logit_at(context, i, j)
        if value != value:
            return True
    return False


@compiled
def row_expectation(context, i, state):
    # sum_j exp(x_j - m) * v_j: v is the row's partner, or m - x_j where there are no partners.
    vectors_buffer = block_buffer(zero)
    transformed = transformed_in(transformed_buffer(zero))
    block = new_block(block_buffer(zero))
    element = context.partners_element
    j = 0
    total = 0.0
    total_lost = 0.0
    reference = reference_at(0.0 if context.transforms != 0 else state.maximum)
    while j < context.n_classes:
        block = open_at(context, i, j, context.n_classes, block)
        tails = 0
        if TRANSFORMS and context.transforms != 0:
            block = transform_block(
                block, state.maximum, context.temperature, context.softcap, False, transformed
            )
            tails = transformed.tails
        if reference.shift != 0.0:
            block = shift_block(block, reference.shift)
        vectors = 0
        if context.partners != 0:
            loaded = load_block(
                context.partners + i * context.partners_stride + j * element_size(element),
                element, block.n, vectors_buffer,
            )  # fmt: skip
            vectors = address_of(loaded)
        part = block_expectation(block.logits, tails, vectors, block.n, reference)
        total_lost += lost(total, part)
        total += part
        j += block.n
    return total + total_lost


@compiled
def write_output(context, i, start, stop, state, kept):
    # Classes start..stop of the output of row i. The state has the label's logit, read before
    # any of the row is written: the output may lie where the logits lie. Exponentials that have
    # been `kept` are not computed again.
    partners_buffer = block_buffer(zero)
    output_buffer = block_buffer(zero)
    transformed = transformed_in(transformed_buffer(zero))
    block = new_block(block_buffer(zero))
    element = context.logits_element
    partners_element = context.partners_element
    log_sum = log_sum_exp(state)
    share = share_of(context, i, state)
    total = measured_total(context, share, state, log_sum)
    reference = reference_at(0.0 if context.transforms != 0 else state.maximum)
    temperature = context.temperature
    factor = 1.0
    maximum = state.maximum
    label_value = 0.0
    mean = 0.0
    label = -1
    # (a shard does not know how many of the classes that are not masked are its own)
    masked = state.n_unmasked != float(context.n_classes) or context.n_labels != context.n_classes
    # (without mass the loss is 0, but not its slope by a probability)
    if is_nothing(context, share, state) and context.output_kind != OUTPUT_LABEL_GRADIENT:
        write_zeros(context, i, start, stop)
        return
    if TRANSFORMS and context.transforms != 0:
        maximum = 0.0
    if SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN:
        factor = total.value * context.hess_factor
    elif context.output_kind == OUTPUT_HESSIAN_PRODUCT and 0.0 < total.value < least_output_scale:
        # vectors may be large: what they are multiplied by must not be subnormal before
        factor = total.value
        total = Total(value=1.0, value_lost=total.value_lost / factor)
    elif SECOND_ORDER and context.output_kind == OUTPUT_LABEL_GRADIENT:
        temperature = 1.0
    mass = measured_mass(share, state, total) if factor == 1.0 else 1.0
    output_scale = scale_of(context, share.weight, factor, temperature, mass)
    if SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN_PRODUCT:
        mean = row_expectation(context, i, state) / sum_exp(state)
    if SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN:
        scale = softmax_scale(state, reference.factor, 1.0, 0.0)
    elif total.value == 1.0 and total.value_lost == 0.0:
        scale = output_scale.value * softmax_scale(state, reference.factor, 1.0, 0.0)
    else:
        # The total, output_scale included, as mass * 2^exponent: times the factor a tiny one
        # would be subnormal.
        product = with_part(
            Total(value=0.0, value_lost=0.0), output_scale.value, total.value,
            total.value_lost,
        )  # fmt: skip
        mass, exponent = frexp(product.value)
        mass_lost = ldexp(product.value_lost, -exponent)
        scale = softmax_scale(state, reference.factor, mass, mass_lost)
        shift = balancing_exponent(scale, exponent)
        reference = shift_exponent(reference, shift)
        scale = ldexp(scale, exponent + shift)
    if context.target == TARGET_LABELS:
        label = pointer_at(context.labels, 0)[i] - context.class_offset
        label_value = label_gradient(context, share, state, total) * output_scale.value
    is_plain = (
        context.output_kind == OUTPUT_GRADIENT
        and context.target != TARGET_PROBS
        and context.transforms == 0
        and (share.spread == 0.0 or (context.class_weights == 0 and not masked))
    )
    known = Transformed(values=0, tails=0, slopes=0, slope_tails=0)
    if context.softcap != 0.0:
        known = transformed
    elif TRANSFORMS and context.transforms != 0:
        known = Transformed(
            values=transformed.values, tails=transformed.tails, slopes=0, slope_tails=0
        )
    j = start
    while j < stop:
        destination = context.output + i * context.output_stride + j * element_size(element)
        output = output_block(destination, element, output_buffer)
        streams = (
            context.output_streams != 0
            and address_of(output) == destination
            and output_scale.exponent == 0
        )
        block = open_at(context, i, j, stop, block)
        n = block.n
        partners = output_buffer
        if SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN_PRODUCT:
            partners = load_block(
                context.partners + i * context.partners_stride
                + j * element_size(partners_element),
                partners_element, n, partners_buffer,
            )  # fmt: skip
        elif PROBS and context.target == TARGET_PROBS:
            partners = load_block(
                context.probs + i * context.probs_stride
                + j * element_size(context.probs_element),
                context.probs_element, n, partners_buffer,
            )  # fmt: skip
        terms = kept_terms(kept, j, origin_of(context, state.maximum, reference), reference, scale)
        measure = Measure(
            probs=address_of(partners) if context.target == TARGET_PROBS else 0,
            class_weights=weights_from(context, j), probs_scale=share.probs,
            spread=share.spread, transformed=known, total=total.value,
            total_lost=total.value_lost, others=others_share(state),
            output_scale=output_scale.value, label=label - j if label >= 0 else -1,
            label_value=label_value, masked=masked, terms=terms.address,
        )  # fmt: skip
        if TRANSFORMS and context.transforms != 0:
            block = transform_block(
                block, state.maximum, context.temperature, context.softcap, True, transformed
            )
        if context.output_kind == OUTPUT_LOG_SOFTMAX:
            block_log_softmax(block.logits, n, maximum, log_sum, output, streams)
        elif SECOND_ORDER and context.output_kind == OUTPUT_LABEL_GRADIENT:
            block_label_gradient(block.logits, n, measure, maximum, log_sum, output, streams)
        else:
            if reference.shift != 0.0:
                block = shift_block(block, reference.shift)
            if is_plain:
                block_softmax(
                    block.logits, terms.address, n, reference, terms.scale,
                    share.spread * output_scale.value, measure.label, label_value, output, streams,
                )  # fmt: skip
            elif SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN:
                block_hessian(block.logits, n, measure, reference, terms.scale, output, streams)
            elif SECOND_ORDER and context.output_kind == OUTPUT_HESSIAN_PRODUCT:
                block_hessian_product(
                    block.logits, partners, n, measure, reference, terms.scale, mean, output,
                    streams,
                )  # fmt: skip
            elif MEASURES:
                block_softmax_minus_target(
                    block.logits, n, measure, reference, terms.scale, output, streams
                )
        if output_scale.exponent != 0:
            scale_values(output, n, 1, output_scale.exponent)
        store_block(output, n, destination, element)
        j += n


@compiled
def write_zeros(context, i, start, stop):
    element = context.logits_element
    for j in range(start, stop):
        store_element(
            context.output + i * context.output_stride + j * element_size(element),
            element, 0.0,
        )  # fmt: skip


@compiled
def write_ignored(context, start, stop):
    # The results of rows start..stop, all of them left out.
    losses = pointer_at(context.losses, 0.0)
    for i in range(start, stop):
        losses[i] = 0.0
        if WRITES and context.output_kind != OUTPUT_NOTHING:
            write_zeros(context, i, 0, context.n_classes)


@compiled
def rows_evaluate(context, start, stop):
    # Losses, and the output if one is wanted, of rows start..stop.
    losses = pointer_at(context.losses, 0.0)
    reading = Reading(
        current=new_block(block_buffer(zero)),
        next=new_block(block_buffer(zero)),
    )
    terms = kept_buffer(zero)
    rounders = kept_references_buffer(0.0)
    origins = kept_references_buffer(0.0)
    kept = nothing_kept()
    if WRITES and keeps_terms(context):
        room = address_of(terms) if context.scratch == 0 else context.scratch
        kept = Kept(terms=room, rounders=address_of(rounders), origins=address_of(origins))
    i = next_kept(context, start, stop)
    write_ignored(context, start, i)
    if i < stop:
        first = open_at(context, i, 0, context.n_classes, reading.current)
        reading = Reading(current=block_maximum(first), next=reading.next)
    while i < stop:
        following = next_kept(context, i + 1, stop)
        if context.output_streams != 0:
            prefetch_ends(
                context.output + i * context.output_stride,
                context.n_classes * element_size(context.logits_element),
            )
        state, reading = classes_state(
            context, i, 0, context.n_classes, following if following < stop else -1, reading, kept
        )
        state = with_label(context, i, 0, context.n_classes, state)
        losses[i] = row_result(context, i, state)
        if WRITES and context.output_kind != OUTPUT_NOTHING:
            write_output(context, i, 0, context.n_classes, state, kept)
        write_ignored(context, i + 1, following)
        i = following
    finish_streams()


@inlined
def is_measured(context):
    # Whether an option changes the measure: 1 at the label is all there is otherwise.
    return (
        context.row_weights != 0
        or context.class_weights != 0
        or context.smoothing != 0.0
        or context.z_loss != 0.0
    )


@inlined
def lane_label_logit(context, i, tile, k):
    # The label's logit of row i, which is in lane k; NaN where the label is no class.
    label = pointer_at(context.labels, 0)[i]
    if label < 0 or label >= context.n_classes:
        return NAN
    return float(tile.logits[label * tile.lanes + k])


@inlined
def lane_state(context, i, tile, sums, spread, k):
    # What a State of row i, which is in lane k, says but for its sums of exponentials.
    spread_dot = 0.0
    spread_mass = 0.0
    n_unmasked = 0.0
    label_logit = 0.0
    label_weight = 1.0
    label_count = 0.0
    if SMOOTHS and context.smoothing != 0.0:
        spread_dot = spread.dot[k]
        spread_mass = spread.mass[k]
        n_unmasked = spread.count[k]
    if context.target == TARGET_LABELS:
        label = pointer_at(context.labels, 0)[i]
        if 0 <= label < context.n_classes:
            label_logit = float(tile.logits[label * tile.lanes + k])
            label_weight = class_weight(context, label)
            label_count = 1.0
    return State(
        maximum=sums.maximum[k], count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
        target_dot_lost=0.0, mass=0.0, mass_lost=0.0, spread_dot=spread_dot,
        spread_dot_lost=0.0, spread_mass=spread_mass, spread_mass_lost=0.0,
        n_unmasked=n_unmasked, label_logit=label_logit, label_weight=label_weight,
        label_count=label_count,
    )  # fmt: skip


@inlined
def lane_result(context, i, tile, sums, spread, k, measured):
    # row_result of row i, which is in lane k. The formula for any measure takes 15 ns more:
    # 0.55 ms against 0.23 for 20000 x 10 float32, one thread.
    if is_left_out(context, i):
        return 0.0
    if context.target == TARGET_LABELS:
        state = lane_state(context, i, tile, sums, spread, k)
        return measured_loss(context, share_of(context, i, state), state, sums.log_sum_exp[k])
    if sums.maximum[k] - sums.maximum[k] != 0.0 and not has_nan(context, i):
        return sums.maximum[k]
    return sums.maximum[k] + sums.log_sum_exp[k]


@compiled
def lanes_write(context, i, n, tile, sums, spread, reference, output, measured):
    # The output of rows i..i+n, in the tile, then to where it belongs.
    labels = pointer_at(context.labels, 0)
    scales = tile_lanes_buffer(0.0)
    totals = tile_lanes_buffer(0.0)
    spreads = tile_lanes_buffer(0.0)
    label_shares = tile_lanes_buffer(0.0)
    label_values = tile_lanes_buffer(0.0)
    shifts = tile_lanes_buffer(0.0)
    exponents = tile_lanes_buffer(0)
    factor = 1.0
    is_shifted = False
    lanes = tile.lanes
    has_labels = context.target == TARGET_LABELS
    is_gradient = context.output_kind == OUTPUT_GRADIENT
    is_hessian = context.output_kind == OUTPUT_HESSIAN
    plain = scale_of(context, 1.0, context.hess_factor if is_hessian else 1.0, 1.0, 1.0)
    for k in range(lanes):
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
            # p_y - 1 without the difference where y holds the maximum; elsewhere p_y is at most
            # a half, and p_y - 1 loses no digit
            if lane_label_logit(context, i + k, tile, k) == sums.maximum[k]:
                label_values[k] = -sums.others[k] * plain.value
        elif k < n and has_labels:
            state = lane_state(context, i + k, tile, sums, spread, k)
            share = share_of(context, i + k, state)
            total = measured_total(context, share, state, sums.log_sum_exp[k])
            if SECOND_ORDER and is_hessian:
                factor = total.value * context.hess_factor
            mass = 1.0 if is_hessian else measured_mass(share, state, total)
            output_scale = scale_of(context, share.weight, factor, 1.0, mass)
            exponents[k] = output_scale.exponent
            totals[k] = output_scale.value
            scales[k] = output_scale.value * total.value * sums.scale[k]
            # (the calls take longer than all the rest of the row)
            if not least_balanced_scale <= scales[k] < most_balanced_scale:
                shift = balancing_exponent(scales[k], 0)
                shifts[k] = float(shift)
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
    if context.output_kind == OUTPUT_LOG_SOFTMAX:
        log_softmax_tile(tile, context.n_classes, sums.maximum, sums.log_sum_exp)
    elif SECOND_ORDER and is_hessian:
        hessian_tile(tile, context.n_classes, sums.scale, sums.others, totals)
    else:
        if is_shifted:
            shift_lanes(reference, lanes, shifts)
            nothing = Coming(logits=0, logits_stride=0, output=0, output_stride=0)
            write_lane_terms(tile, context.n_classes, reference, nothing)
        softmax_tile(tile, context.n_classes, scales)
        if SMOOTHS and context.smoothing != 0.0:
            subtract_spread_from_tile(tile, context.n_classes, spreads, weights_from(context, 0))
    for k in range(n if has_labels else 0):
        label = labels[i + k]
        if label_shares[k] != label_shares[k]:
            for j in range(context.n_classes):
                tile.terms[j * lanes + k] = zero
        elif is_gradient and 0 <= label < context.n_classes:
            j = label * lanes + k
            if label_values[k] == label_values[k]:
                tile.terms[j] = real(label_values[k])
            else:
                tile.terms[j] = real(tile.terms[j] - label_shares[k])
    for k in range(n):
        if exponents[k] != 0:
            column = pointer_at(address_of(tile.terms) + k * real_bytes, zero)
            scale_values(column, context.n_classes, lanes, exponents[k])
    store_tile(
        tile, output, context.logits_element, context.n_classes, n,
        context.output_inner_stride, context.output_class_stride,
    )  # fmt: skip


@compiled
def lanes_evaluate(context, start, stop):
    # What rows_evaluate does, for labels or no target, with a row in each lane.
    losses = pointer_at(context.losses, 0.0)
    logits = tile_buffer(zero)
    terms = tile_buffer(zero)
    reference = LaneReference(
        shift=tile_lanes_buffer(zero), lowest=tile_lanes_buffer(zero),
        rounder=tile_lanes_buffer(zero),
    )  # fmt: skip
    sums = LaneSums(
        maximum=tile_lanes_buffer(0.0), log_sum_exp=tile_lanes_buffer(0.0),
        scale=tile_lanes_buffer(0.0), others=tile_lanes_buffer(0.0),
    )  # fmt: skip
    spread = LaneSpread(
        dot=tile_lanes_buffer(0.0), mass=tile_lanes_buffer(0.0), count=tile_lanes_buffer(0.0)
    )
    measured = is_measured(context)
    most = lanes_for(context.n_classes, stop - start)
    ahead_stride = max(
        context.logits_class_stride,
        most * context.logits_inner_stride // context.n_classes,
    )
    output_stride = max(
        context.output_class_stride,
        most * context.output_inner_stride // context.n_classes,
    )
    i = start
    while i < stop:
        n = min(most, stop - i)
        n = min(n, context.n_inner - i % context.n_inner)
        tile = Tile(logits=logits, terms=terms, lanes=lanes_for(context.n_classes, n))
        source = context.logits + offset_of_row(
            context, i, context.logits_stride, context.logits_inner_stride
        )
        load_tile(
            tile, source, context.logits_element, context.n_classes, n,
            context.logits_inner_stride, context.logits_class_stride,
        )  # fmt: skip
        output = 0  # nothing is written, and memory asked for nothing new
        if WRITES and context.output_kind != OUTPUT_NOTHING:
            output = context.output + offset_of_row(
                context, i, context.output_stride, context.output_inner_stride
            )
        coming = Coming(
            logits=source + TILES_AHEAD * most * context.logits_inner_stride,
            logits_stride=ahead_stride, output=output, output_stride=output_stride,
        )  # fmt: skip
        sum_tile(tile, context.n_classes, coming, reference, sums, output != 0)
        if SMOOTHS and context.smoothing != 0.0:
            spread_tile(tile, context.n_classes, weights_from(context, 0), sums.maximum, spread)
        if context.target == TARGET_LABELS and not measured:
            write_label_losses(
                tile, context.n_classes, pointer_at(context.labels + 8 * i, 0), n,
                context.has_ignore_index != 0, context.ignore_index, sums.maximum,
                sums.log_sum_exp, pointer_at(context.losses + 8 * i, 0.0),
            )  # fmt: skip
        else:
            for k in range(n):
                losses[i + k] = lane_result(context, i + k, tile, sums, spread, k, measured)
        if WRITES and output != 0:
            lanes_write(context, i, n, tile, sums, spread, reference, output, measured)
        i += n


@inlined
def store_state(context, k, state):
    slot = pointer_at(context.states + 8 * STATE_SIZE * k, 0.0)
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


@inlined
def stored_state(context, k):
    slot = pointer_at(context.states + 8 * STATE_SIZE * k, 0.0)
    return State(
        maximum=slot[0], count=slot[1], rest=slot[2], rest_lost=slot[3], target_dot=slot[4],
        target_dot_lost=slot[5], mass=slot[6], mass_lost=slot[7], spread_dot=slot[8],
        spread_dot_lost=slot[9], spread_mass=slot[10], spread_mass_lost=slot[11],
        n_unmasked=slot[12], label_logit=slot[13], label_weight=slot[14],
        label_count=slot[15],
    )  # fmt: skip


@compiled
def segments_reduce(context, start, stop):
    # The states of segments start..stop, numbered through the rows. Of a row that is left out
    # they are empty, and say so by a negative label_count.
    reading = Reading(
        current=new_block(block_buffer(zero)),
        next=new_block(block_buffer(zero)),
    )
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        if is_left_out(context, i):
            state = with_label_of(empty_state(), 0.0, 0.0, -1.0)
        else:
            block = open_at(context, i, first, last, reading.current)
            reading = Reading(current=block_maximum(block), next=reading.next)
            state, reading = classes_state(context, i, first, last, -1, reading, nothing_kept())
            state = with_label(context, i, first, last, state)
        store_state(context, k, state)


@compiled
def rows_merge(context, start, stop):
    # Merges the segments of rows start..stop into each row's first slot.
    for i in range(start, stop):
        state = stored_state(context, i * context.n_segments)
        for k in range(i * context.n_segments + 1, (i + 1) * context.n_segments):
            state = merge(context, state, stored_state(context, k))
        store_state(context, i * context.n_segments, state)


@compiled
def rows_finish(context, start, stop):
    # The losses of rows start..stop, after rows_merge.
    losses = pointer_at(context.losses, 0.0)
    for i in range(start, stop):
        state = stored_state(context, i * context.n_segments)
        losses[i] = 0.0 if state.label_count < 0.0 else row_result(context, i, state)


@compiled
def segments_write(context, start, stop):
    # The output of segments start..stop, numbered through the rows, after rows_merge.
    for k in range(start, stop):
        i = k // context.n_segments
        first = (k % context.n_segments) * context.segment
        last = min(first + context.segment, context.n_classes)
        state = stored_state(context, i * context.n_segments)
        if state.label_count < 0.0:
            write_zeros(context, i, first, last)
        else:
            write_output(context, i, first, last, state, nothing_kept())
    finish_streams()


@compiled
def find_class(context, i, logit):
    # The first class of row i with this logit, or -1.
    block = new_block(block_buffer(zero))
    j = 0
    while j < context.n_classes:
        block = open_at(context, i, j, context.n_classes, block)
        found = first_equal(block.logits, block.n, logit)
        if found >= 0:
            return j + found
        j += block.n
    return -1


@compiled
def rows_describe(context, start, stop):
    # Losses of rows start..stop, and into each row's slot of `states`: logsumexp, the logarithm
    # of the target's probability, entropy, the class of the largest logit and its probability.
    # Of an ignored row all are 0 and the class is -1.
    losses = pointer_at(context.losses, 0.0)
    reading = Reading(
        current=new_block(block_buffer(zero)),
        next=new_block(block_buffer(zero)),
    )
    for i in range(start, stop):
        slot = pointer_at(context.states + 8 * STATE_SIZE * i, 0.0)
        for k in range(STATE_SIZE):
            slot[k] = 0.0
        slot[3] = -1.0
        losses[i] = 0.0
        if is_ignored(context, i):
            continue
        block = open_at(context, i, 0, context.n_classes, reading.current)
        reading = Reading(current=block_maximum(block), next=reading.next)
        state, reading = classes_state(
            context, i, 0, context.n_classes, -1, reading, nothing_kept()
        )
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
            losses[i] = row_result(context, i, state)
        slot[2] = log_sum + row_expectation(context, i, state) / sum_exp(state)
        slot[4] = 1.0 / (sum_exp(state) + sum_exp_low(state))
        if log_sum == log_sum:
            slot[3] = float(find_class(context, i, state.maximum))


@compiled
def rows_diverge(context, start, stop):
    # The divergence of the softmax of each row from that of its partner, and its gradient if
    # one is wanted. With q the partner's softmax and d_j = log q_j - log p_j it is
    # sum_j q_j * (exp(-d_j) - 1 + d_j): no term is negative, and nothing cancels.
    own_buffer = block_buffer(zero)
    partner_buffer = block_buffer(zero)
    output_buffer = block_buffer(zero)
    losses = pointer_at(context.losses, 0.0)
    element = context.logits_element
    partners_element = context.partners_element
    for i in range(start, stop):
        if is_left_out(context, i):
            write_ignored(context, i, i + 1)
            continue
        output_scale = scale_of(context, row_weight(context, i), 1.0, context.temperature, 1.0)
        own_softness = row_softness(
            context.logits + i * context.logits_stride, element, context.n_classes,
            context.temperature, own_buffer,
        )  # fmt: skip
        partner_softness = row_softness(
            context.partners + i * context.partners_stride, partners_element,
            context.n_classes, context.temperature, own_buffer,
        )  # fmt: skip
        total = 0.0
        total_lost = 0.0
        j = 0
        while j < context.n_classes:
            n = min(BLOCK, context.n_classes - j)
            own = load_block(
                context.logits + i * context.logits_stride + j * element_size(element),
                element, n, own_buffer,
            )  # fmt: skip
            partner = load_block(
                context.partners + i * context.partners_stride
                + j * element_size(partners_element),
                partners_element, n, partner_buffer,
            )  # fmt: skip
            output = 0
            destination = context.output + i * context.output_stride + j * element_size(element)
            if context.output_kind != OUTPUT_NOTHING:
                output = address_of(output_block(destination, element, output_buffer))
            part = block_divergence(
                own, partner, n, own_softness, partner_softness, context.temperature,
                output_scale.value, output,
            )  # fmt: skip
            if output != 0:
                place = pointer_at(output, zero)
                if output_scale.exponent != 0:
                    scale_values(place, n, 1, output_scale.exponent)
                store_block(place, n, destination, element)
            total_lost += lost(total, part)
            total += part
            j += n
        losses[i] = row_weight(context, i) * (total + total_lost)


@compiled
def rows_check_labels(context, start, stop):
    # totals[0] = the first row whose label is neither a class nor ignored, or -1;
    # totals[1] = how many rows are not ignored; totals[2] = the sum of their weights.
    totals = pointer_at(context.totals, 0.0)
    bad = -1.0
    kept = 0.0
    weight = 0.0
    weight_lost = 0.0
    weighs = context.row_weights != 0 or context.class_weights != 0
    for i in range(start, stop):
        if is_ignored(context, i):
            continue
        kept += 1.0
        label = pointer_at(context.labels, 0)[i]
        if bad < 0.0 and (label < 0 or label >= context.n_labels):
            bad = float(i)
        if weighs:
            own = row_weight(context, i) * class_weight(context, label - context.class_offset)
            weight_lost += lost(weight, own)
            weight += own
    totals[0] = bad
    totals[1] = kept
    totals[2] = weight + weight_lost if weighs else kept


@compiled
def rows_check_probs(context, start, stop):
    # losses[i] = 0 where every probability of row i is from 0 to output_scale, else NaN.
    buffer = block_buffer(zero)
    losses = pointer_at(context.losses, 0.0)
    element = context.probs_element
    for i in range(start, stop):
        losses[i] = 0.0
        j = 0
        while j < context.n_classes:
            n = min(BLOCK, context.n_classes - j)
            probs = load_block(
                context.probs + i * context.probs_stride + j * element_size(element),
                element, n, buffer,
            )  # fmt: skip
            if not block_is_within(probs, n, 0.0, context.output_scale):
                losses[i] = NAN
            j += n


@compiled
def rows_sum(context, start, stop):
    # totals[0] = the sum of losses[start:stop], in an order that depends on their number alone:
    # sixteen interleaved sums over 1024 rows, folded in half, then compensated addition.
    losses = pointer_at(context.losses, 0.0)
    totals = pointer_at(context.totals, 0.0)
    lanes = lanes_buffer(0.0)
    total = 0.0
    total_lost = 0.0
    i = start
    while i < stop:
        for k in range(16):
            lanes[k] = 0.0
        for k in range(min(1024, stop - i)):
            lanes[k % 16] += losses[i + k]
        half = 8
        while half > 0:
            for k in range(half):
                lanes[k] += lanes[k + half]
            half //= 2
        total_lost += lost(total, lanes[0])
        total += lanes[0]
        i += 1024
    totals[0] = total + total_lost


def compile_entry(kernel: Callable[..., None]) -> Any:
    """A kernel as a C function, which lives as long as what is returned; `address` is its own."""
    return entry_of(kernel, CONTEXT_DTYPE)
