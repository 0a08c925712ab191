"""The divergence of two rows, block by block."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..context import BLOCK
from ..numba_vectors import (
    add,
    add_to_sums,
    broadcast,
    choose_greater,
    clear_equal,
    compiled,
    count_equal,
    exact_sum,
    fold_maximum,
    inlined,
    magnitude,
    maximum,
    multiply,
    multiply_add,
    negate,
    pointer_at,
    store_partial,
    subtract,
    zero_sums,
)
from .elements import element_size, load_block, load_up_to
from .exponential import put_together, reduce, reference_at, with_tail
from .precision import half, last_power, line, minus_infinity, real, series_terms, zero
from .sums import add_lost, fold_line_sum
from .transforms import transform_relative_to, transformed_difference


class Softness(NamedTuple):
    """A row of logits divided by a temperature."""

    maximum: Any  # before that
    log_sum: Any  # log(sum_exp)
    scale: Any  # 1/sum_exp
    others: Any  # 1 - exp(m - m)/sum_exp


@inlined
def pair_term(d, reference):
    # exp(d) / factor
    return put_together(with_tail(reduce(d.value, reference), d.low))


@compiled
def row_softness(row, element, n_classes, temperature, buffer):
    reference = reference_at(0.0)
    size = element_size(element)
    maxima = broadcast(minus_infinity)
    for j in range(0, n_classes, BLOCK):
        n = min(BLOCK, n_classes - j)
        x = load_block(row + j * size, element, n, buffer)
        for k in range(0, n, line):
            maxima = maximum(load_up_to(x, k, n - k, minus_infinity), maxima)
    m = np.float64(fold_maximum(maxima))
    top = transform_relative_to(m, temperature, 0.0)
    sums = zero_sums(zero)
    sums_lost = sums
    count = 0
    for j in range(0, n_classes, BLOCK):
        n = min(BLOCK, n_classes - j)
        row_block = load_block(row + j * size, element, n, buffer)
        for k in range(0, n, line):
            x = load_up_to(row_block, k, n - k, minus_infinity)
            count += count_equal(x, top.maximum)
            d = transformed_difference(x, top)
            term = clear_equal(pair_term(d, reference), x, top.maximum)
            sums_lost = add_lost(sums, term, sums_lost)
            sums = add_to_sums(sums, term)
    total, lost = fold_line_sum(sums, sums_lost)
    above = (total + lost) * reference.factor + (np.float64(count) - 1.0)
    # a row without a finite maximum has no softmax
    y = above if m - m == 0.0 and above >= 0.0 else math.nan
    return Softness(maximum=m, log_sum=math.log1p(y), scale=1.0 / (1.0 + y), others=y / (1.0 + y))


@compiled
def block_divergence(
    logits, partners, n, own, partner, temperature, output_scale, output
):  # fmt: skip
    # The sum of q_j * (exp(-d_j) - 1 + d_j), with p and q the softmax of logits and partners
    # and d_j = log q_j - log p_j; where d_j is small from its series. Where there is an output
    # (an address, or 0), output_j = output_scale * (p_j - q_j).
    reference = reference_at(0.0)
    top = transform_relative_to(own.maximum, temperature, 0.0)
    partner_top = transform_relative_to(partner.maximum, temperature, 0.0)
    scale = broadcast(real(output_scale))
    own_scale = broadcast(real(own.scale * reference.factor))
    partner_scale = broadcast(real(partner.scale * reference.factor))
    log_sums_apart = broadcast(real(own.log_sum - partner.log_sum))
    sums = zero_sums(zero)
    sums_lost = sums
    for j in range(0, n, line):
        x = load_up_to(logits, j, n - j, minus_infinity)
        u = load_up_to(partners, j, n - j, minus_infinity)
        below = transformed_difference(x, top)
        partner_below = transformed_difference(u, partner_top)
        p = multiply(pair_term(below, reference), own_scale)
        q = multiply(pair_term(partner_below, reference), partner_scale)
        apart = exact_sum(partner_below.value, negate(below.value))
        d = add(
            add(apart.value, log_sums_apart),
            add(apart.low, subtract(partner_below.low, below.low)),
        )
        series = broadcast(series_terms[0])
        for k in range(1, last_power - 1):
            series = multiply_add(series, negate(d), broadcast(series_terms[k]))
        curve = multiply(multiply(d, d), series)  # exp(-d) - 1 + d
        difference = subtract(p, q)
        far_term = add(difference, clear_equal(multiply(q, d), q, broadcast(zero)))
        near = broadcast(half)
        size = magnitude(d)
        value = choose_greater(near, size, multiply(q, curve), far_term)
        sums_lost = add_lost(sums, value, sums_lost)
        sums = add_to_sums(sums, value)
        if output != 0:
            # where both have more than half, 1 - q - (1 - p) keeps the digits of confident rows
            others = broadcast(real(partner.others - own.others))
            gradient = choose_greater(near, size, multiply(q, subtract(curve, d)), difference)
            gradient = choose_greater(p, near, choose_greater(q, near, others, gradient), gradient)
            place = pointer_at(output, zero)
            store_partial(place, j, multiply(gradient, scale), min(line, n - j))
    total, lost = fold_line_sum(sums, sums_lost)
    return total + lost
