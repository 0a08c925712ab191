"""Outputs of a block: softmax, gradients, Hessians and log-softmax, from its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..numba_vectors import (
    add,
    address_of,
    any_equal,
    broadcast,
    choose_equal,
    choose_greater,
    clear_equal,
    compiled,
    inlined,
    lane,
    load,
    load_partial,
    multiply,
    multiply_add,
    negate,
    pointer_at,
    prefetch_to_write,
    store,
    store_partial,
    store_past_caches,
    subtract,
    with_lane,
)
from .elements import load_up_to, load_values
from .exponential import Reference, reduce, scaled, scaled_exponential, with_tail
from .precision import LINE_BYTES, half, line, minus_infinity, one, real, zero
from .settings import PROBS, REAL_BITS, SMOOTHS, TRANSFORMS
from .sums import Transformed


class Measure(NamedTuple):
    """What a block's output is made of besides its softmax.

    A measure is t_j = class_weights_j * (probs_scale * probs_j + spread), where there are 1 and 0
    in place of weights and probs that are not given, and nothing is spread over a class that is
    masked. Arrays are addresses, and 0 where there is none.
    """

    probs: Any
    class_weights: Any
    probs_scale: Any
    spread: Any
    transformed: Transformed  # what a transformed block has besides
    total: Any  # what the softmax is multiplied by
    total_lost: Any
    others: Any  # 1 - exp(m - m)/sum_exp
    output_scale: Any  # of everything
    label: Any  # where label_value goes; negative for none
    label_value: Any
    masked: Any  # whether a class of the row may be masked


class MeasureValues(NamedTuple):
    """A measure and a softmax, ready for the lines of a block."""

    logits: Any
    measure: Measure
    reference: Reference
    scale: Any
    probs_scale: Any  # these two times output_scale
    spread: Any


class ProductValues(NamedTuple):
    measured: MeasureValues
    vectors: Any
    mean: Any


class LabelGradientValues(NamedTuple):
    logits: Any
    measure: Measure
    maximum: Any
    log_sum_exp: Any
    scale: Any


# Output that `streams` goes past the caches, from its first whole line on.


@inlined
def reals_to_line(output, n, streams):
    if not streams:
        return 0
    return min((-address_of(output) % LINE_BYTES) // (REAL_BITS // 8), n)


@inlined
def store_line(output, j, value, streams):
    if streams:
        store_past_caches(output, j, value)
    else:
        store(output, j, value)


@inlined
def prefetch_ends(row, n_bytes):
    # The first and the last line of a row may be shared with its neighbours, and are not
    # streamed where they are. A store to a line that is not in the cache holds up all stores
    # after it, so they are asked for early.
    prefetch_to_write(row)
    prefetch_to_write(row + n_bytes - 1)


@inlined
def write_softmax(
    logits, n, reference, scale, spread, smoothed, label, label_value, output, streams
):
    scales = broadcast(real(scale))
    spreads = broadcast(real(spread))
    first = reals_to_line(output, n, streams)
    j = 0
    while j < n:
        count = first if j < first else min(line, n - j)
        value = scaled_exponential(load_up_to(logits, j, count, zero), reference, scales)
        if smoothed:
            value = subtract(value, spreads)
        if j <= label < j + count:
            value = with_lane(value, label - j, real(label_value))
        if count == line:
            store_line(output, j, value, streams)
        else:
            store_partial(output, j, value, count)
        j += count


@compiled
def block_softmax(logits, n, reference, scale, spread, label, label_value, output, streams):
    # output_j = scale * exp(x_j - m) / factor - spread, but label_value at the label; a
    # negative one is none. (Put there afterwards, it would wait for a line that has just been
    # sent past the caches.)
    if SMOOTHS and spread != 0.0:
        write_softmax(
            logits, n, reference, scale, spread, True, label, label_value, output, streams
        )
    else:
        write_softmax(
            logits, n, reference, scale, spread, False, label, label_value, output, streams
        )


def writing(values):
    # A function that writes n values; past the caches where the output `streams`, from its
    # first whole line on. `values` gives the value of output_j to output_(j + count), `count`
    # being the lanes of a line or fewer.
    @compiled
    def write_values(closure, n, output, streams):
        first = reals_to_line(output, n, streams)
        j = 0
        while j < n:
            count = first if j < first else min(line, n - j)
            value = values(closure, j, count)
            if count == line:
                store_line(output, j, value, streams)
            else:
                store_partial(output, j, value, count)
            j += count

    return write_values


@inlined
def measure_values_of(logits, measure, reference, scale):
    return MeasureValues(
        logits=logits,
        measure=measure,
        reference=reference,
        scale=real(scale),
        probs_scale=real(measure.probs_scale * measure.output_scale),
        spread=real(measure.spread * measure.output_scale),
    )


@inlined
def measure_term(values, x, j, n):
    reduced = reduce(x, values.reference)
    tails = values.measure.transformed.tails
    if TRANSFORMS and tails != 0:
        tail = load_values(pointer_at(tails, zero), j, n)
        reduced = with_tail(reduced, tail)
    return scaled(reduced, broadcast(values.scale))


@inlined
def measure_at(measure, j, x):
    # One t_j in float64.
    t = 0.0 if x == minus_infinity else measure.spread
    if PROBS and measure.probs != 0:
        t += measure.probs_scale * np.float64(pointer_at(measure.probs, zero)[j])
    if measure.class_weights != 0:
        t *= np.float64(pointer_at(measure.class_weights, zero)[j])
    return t


@inlined
def softmax_minus_target_values(values, j, n):
    measure = values.measure
    x = load_values(values.logits, j, n)
    t = broadcast(values.spread)
    if measure.masked:
        t = clear_equal(t, x, broadcast(minus_infinity))
    if PROBS and measure.probs != 0:
        probs = load_values(pointer_at(measure.probs, zero), j, n)
        t = multiply_add(probs, broadcast(values.probs_scale), t)
    value = measure_term(values, x, j, n)
    if measure.class_weights != 0:
        weights = load_values(pointer_at(measure.class_weights, zero), j, n)
        value = multiply_add(negate(t), weights, value)
    else:
        value = subtract(value, t)
    m = values.reference.maximum
    if measure.others < 0.5 and any_equal(x, broadcast(m)):
        for k in range(n):
            if lane(x, k) == m:
                own = ((measure.total - measure_at(measure, j + k, m)) + measure.total_lost) - (
                    measure.total * measure.others
                )
                value = with_lane(value, k, real(measure.output_scale * own))
    if j <= measure.label < j + n:
        value = with_lane(value, measure.label - j, real(measure.label_value))
    if TRANSFORMS and measure.transformed.slopes != 0:
        slopes = load_values(pointer_at(measure.transformed.slopes, zero), j, n)
        tails = load_values(pointer_at(measure.transformed.slope_tails, zero), j, n)
        value = multiply_add(value, slopes, multiply(value, tails))
    return value


write_softmax_minus_target = writing(softmax_minus_target_values)


@inlined
def block_softmax_minus_target(logits, n, measure, reference, scale, output, streams):
    # output_j = scale * exp(x_j - m) / factor - output_scale * t_j, except at a logit x_j = m
    # that has more than half of the softmax: there
    # B*p_j - t_j = (B - t_j) - B*(sum_exp - 1)/sum_exp, which keeps its digits as p_j comes
    # close to 1 (B is `total`, `others` is 1 - p_j); and at the label.
    values = measure_values_of(logits, measure, reference, scale)
    write_softmax_minus_target(values, n, output, streams)


@inlined
def hessian_values(values, j, n):
    measure = values.measure
    p = measure_term(values, load_values(values.logits, j, n), j, n)
    rest = choose_greater(
        p, broadcast(half), broadcast(real(measure.others)), subtract(broadcast(one), p)
    )
    scale = broadcast(real(measure.output_scale))
    return multiply(multiply(p, rest), scale)


write_hessian = writing(hessian_values)


@inlined
def block_hessian(logits, n, measure, reference, scale, output, streams):
    # output_j = output_scale * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor
    values = measure_values_of(logits, measure, reference, scale)
    write_hessian(values, n, output, streams)


@inlined
def hessian_product_values(values, j, n):
    measured = values.measured
    p = measure_term(measured, load_values(measured.logits, j, n), j, n)
    vectors = load_values(values.vectors, j, n)
    value = multiply(p, subtract(vectors, broadcast(values.mean)))
    return clear_equal(value, p, broadcast(zero))


write_hessian_product = writing(hessian_product_values)


@inlined
def block_hessian_product(
    logits, vectors, n, measure, reference, scale, mean, output, streams
):  # fmt: skip
    # output_j = scale * exp(x_j - m) / factor * (v_j - mean)
    values = ProductValues(
        measured=measure_values_of(logits, measure, reference, scale),
        vectors=vectors,
        mean=real(mean),
    )
    write_hessian_product(values, n, output, streams)


@inlined
def label_gradient_values(values, j, n):
    measure = values.measure
    x = load_values(values.logits, j, n)
    value = add(subtract(broadcast(values.maximum), x), broadcast(values.log_sum_exp))
    value = multiply(value, broadcast(values.scale))
    if measure.class_weights != 0:
        value = multiply(value, load_values(pointer_at(measure.class_weights, zero), j, n))
    probs = load_values(pointer_at(measure.probs, zero), j, n)
    kept = clear_equal(value, probs, broadcast(zero))
    kept = clear_equal(kept, broadcast(values.scale), broadcast(zero))
    if measure.class_weights != 0:
        weights = load_values(pointer_at(measure.class_weights, zero), j, n)
        kept = clear_equal(kept, weights, broadcast(zero))
    return choose_equal(x, broadcast(minus_infinity), kept, value)


write_label_gradient = writing(label_gradient_values)


@inlined
def block_label_gradient(logits, n, measure, maximum, log_sum_exp, output, streams):
    # output_j = output_scale * probs_scale * class_weights_j * ((m - x_j) + log(sum_exp)), the
    # gradient with respect to a probability; 0 at a masked class without mass.
    values = LabelGradientValues(
        logits=logits,
        measure=measure,
        maximum=real(maximum),
        log_sum_exp=real(log_sum_exp),
        scale=real(measure.output_scale * measure.probs_scale),
    )
    write_label_gradient(values, n, output, streams)


@compiled
def block_log_softmax(logits, n, maximum, log_sum_exp, output, streams):
    # output_j = (x_j - m) - log(sum_exp)
    m = broadcast(real(maximum))
    log_sum = broadcast(real(log_sum_exp))
    j = reals_to_line(output, n, streams)
    if j > 0:
        x = load_partial(logits, 0, j, zero)
        store_partial(output, 0, subtract(subtract(x, m), log_sum), j)
    while j + line <= n:
        store_line(output, j, subtract(subtract(load(logits, j), m), log_sum), streams)
        j += line
    if j < n:
        x = load_partial(logits, j, n - j, zero)
        store_partial(output, j, subtract(subtract(x, m), log_sum), n - j)
