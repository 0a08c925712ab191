"""Outputs of a block: softmax, gradients, Hessians and log-softmax, from its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..numba_functions import compiled, inlined
from ..numba_scalars import address_of, copy_line_past_caches, fma, pointer_at, prefetch_to_write
from .precision import (
    LINE_BYTES,
    block_buffer,
    half,
    line,
    minus_infinity,
    one,
    real,
    real_bytes,
    zero,
)
from .settings import PROBS, REAL_BITS, TRANSFORMS
from .sums import (
    Transformed,
    first_equal,
    multiply_terms,
    write_multiples,
    write_multiples_with_tails,
)


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
    terms: Any  # exp(x_j - m) / factor where they have been kept, or 0


# Results are computed in their place, or in a buffer: where the output `streams` past the caches,
# and where it lies on the logits, which LLVM cannot know when it makes vectors of a loop.


@inlined
def place_of(output, logits, buffer, streams):
    if streams or address_of(output) == address_of(logits):
        return buffer
    return output


@inlined
def put_in_place(values, n, output, streams):
    if address_of(values) == address_of(output):
        return
    j = 0
    if streams:
        # from the first whole line of memory on
        j = min((-address_of(output) % LINE_BYTES) // real_bytes, n)
        for k in range(j):
            output[k] = values[k]
        while j + line <= n:
            copy_line_past_caches(values, j, output, j)
            j += line
    for k in range(j, n):
        output[k] = values[k]


@inlined
def prefetch_ends(row, n_bytes):
    # The first and the last line of a row may be shared with its neighbours, and are not
    # streamed where they are. A store to a line that is not in the cache holds up all stores
    # after it, so they are asked for early.
    prefetch_to_write(row)
    prefetch_to_write(row + n_bytes - 1)


@inlined
def write_softmax(logits, terms, n, tails, reference, scale, values):
    # values_j = scale * exp(x_j - m) / factor
    factor = real(scale)
    if REAL_BITS == 32 and terms != 0:
        multiply_terms(pointer_at(terms, zero), n, factor, values)
    elif TRANSFORMS and tails != 0:
        write_multiples_with_tails(logits, pointer_at(tails, zero), n, reference, factor, values)
    else:
        write_multiples(logits, n, reference, factor, values)


@compiled
def block_softmax(logits, terms, n, reference, scale, spread, label, label_value, output, streams):
    # output_j = scale * exp(x_j - m) / factor - spread, but label_value at the label; a
    # negative one is none. (Put there afterwards, it would wait for a line that has just been
    # sent past the caches.)
    values = place_of(output, logits, block_buffer(zero), streams)
    write_softmax(logits, terms, n, 0, reference, scale, values)
    if spread != 0.0:
        part = real(spread)
        for j in range(n):
            values[j] -= part
    if 0 <= label < n:
        values[label] = real(label_value)
    put_in_place(values, n, output, streams)


@inlined
def measure_at(measure, j, x):
    # One t_j in float64.
    t = 0.0 if x == minus_infinity else measure.spread
    if PROBS and measure.probs != 0:
        t += measure.probs_scale * np.float64(pointer_at(measure.probs, zero)[j])
    if measure.class_weights != 0:
        t *= np.float64(pointer_at(measure.class_weights, zero)[j])
    return t


@compiled
def block_softmax_minus_target(logits, n, measure, reference, scale, output, streams):
    # output_j = scale * exp(x_j - m) / factor - output_scale * t_j, except at a logit x_j = m
    # that has more than half of the softmax: there
    # B*p_j - t_j = (B - t_j) - B*(sum_exp - 1)/sum_exp, which keeps its digits as p_j comes
    # close to 1 (B is `total`, `others` is 1 - p_j); and at the label.
    values = place_of(output, logits, block_buffer(zero), streams)
    targets = block_buffer(zero)
    write_softmax(logits, measure.terms, n, measure.transformed.tails, reference, scale, values)
    spread = real(measure.spread * measure.output_scale)
    if measure.masked:
        for j in range(n):
            targets[j] = zero if logits[j] == minus_infinity else spread
    else:
        for j in range(n):
            targets[j] = spread
    if PROBS and measure.probs != 0:
        probs = pointer_at(measure.probs, zero)
        probs_scale = real(measure.probs_scale * measure.output_scale)
        for j in range(n):
            targets[j] = fma(probs[j], probs_scale, targets[j])
    if measure.class_weights != 0:
        weights = pointer_at(measure.class_weights, zero)
        for j in range(n):
            values[j] = fma(-targets[j], weights[j], values[j])
    else:
        for j in range(n):
            values[j] -= targets[j]
    if measure.others < 0.5:
        # then no other logit is the maximum
        j = first_equal(logits, n, reference.maximum)
        if j >= 0:
            own = (
                (measure.total - measure_at(measure, j, reference.maximum)) + measure.total_lost
            ) - measure.total * measure.others
            values[j] = real(measure.output_scale * own)
    if 0 <= measure.label < n:
        values[measure.label] = real(measure.label_value)
    if TRANSFORMS and measure.transformed.slopes != 0:
        slopes = pointer_at(measure.transformed.slopes, zero)
        slope_tails = pointer_at(measure.transformed.slope_tails, zero)
        for j in range(n):
            values[j] = fma(values[j], slopes[j], values[j] * slope_tails[j])
    put_in_place(values, n, output, streams)


@compiled
def block_hessian(logits, n, measure, reference, scale, output, streams):
    # output_j = output_scale * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor
    values = place_of(output, logits, block_buffer(zero), streams)
    write_softmax(logits, measure.terms, n, measure.transformed.tails, reference, scale, values)
    others = real(measure.others)
    output_scale = real(measure.output_scale)
    for j in range(n):
        rest = others if values[j] > half else one - values[j]
        values[j] = (values[j] * rest) * output_scale
    put_in_place(values, n, output, streams)


@compiled
def block_hessian_product(
    logits, vectors, n, measure, reference, scale, mean, output, streams
):  # fmt: skip
    # output_j = scale * exp(x_j - m) / factor * (v_j - mean)
    values = place_of(output, logits, block_buffer(zero), streams)
    write_softmax(logits, measure.terms, n, measure.transformed.tails, reference, scale, values)
    middle = real(mean)
    for j in range(n):
        value = values[j] * (vectors[j] - middle)
        values[j] = value if values[j] != zero else zero
    put_in_place(values, n, output, streams)


@compiled
def block_label_gradient(logits, n, measure, maximum, log_sum_exp, output, streams):
    # output_j = output_scale * probs_scale * class_weights_j * ((m - x_j) + log(sum_exp)), the
    # gradient with respect to a probability; 0 at a masked class without mass.
    values = place_of(output, logits, block_buffer(zero), streams)
    m = real(maximum)
    log_sum = real(log_sum_exp)
    scale = real(measure.output_scale * measure.probs_scale)
    probs = pointer_at(measure.probs, zero)
    for j in range(n):
        value = ((m - logits[j]) + log_sum) * scale
        has_mass = (logits[j] != minus_infinity) | ((probs[j] != zero) & (scale != zero))
        values[j] = value if has_mass else zero
    if measure.class_weights != 0:
        weights = pointer_at(measure.class_weights, zero)
        for j in range(n):
            has_mass = (logits[j] != minus_infinity) | (weights[j] != zero)
            values[j] = values[j] * weights[j] if has_mass else zero
    put_in_place(values, n, output, streams)


@compiled
def block_log_softmax(logits, n, maximum, log_sum_exp, output, streams):
    # output_j = (x_j - m) - log(sum_exp)
    values = place_of(output, logits, block_buffer(zero), streams)
    m = real(maximum)
    log_sum = real(log_sum_exp)
    for j in range(n):
        values[j] = (logits[j] - m) - log_sum
    put_in_place(values, n, output, streams)
