"""The divergence of two rows, block by block."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..context import BLOCK
from ..numba_functions import compiled
from ..numba_scalars import fma, log1p, pointer_at
from .elements import element_size, load_block
from .exponential import reference_at
from .precision import block_buffer, half, last_power, real, series_terms, zero
from .sums import largest_of, lost, sum_of, write_multiples_with_tails, write_terms_with_tails
from .transforms import divide_all, exact_sum, transform_relative_to, write_differences


class Softness(NamedTuple):
    """A row of logits divided by a temperature."""

    maximum: Any  # before that
    log_sum: Any  # log(sum_exp)
    scale: Any  # 1/sum_exp
    others: Any  # 1 - exp(m - m)/sum_exp


@compiled
def row_softness(row, element, n_classes, temperature, buffer):
    reference = reference_at(0.0)
    size = element_size(element)
    values = block_buffer(zero)
    tails = block_buffer(zero)
    terms = block_buffer(zero)
    m = -math.inf
    for j in range(0, n_classes, BLOCK):
        n = min(BLOCK, n_classes - j)
        x = load_block(row + j * size, element, n, buffer)
        largest = np.float64(largest_of(x, n))
        m = largest if largest > m else m
    top = transform_relative_to(m, temperature, 0.0)
    total = 0.0
    total_lost = 0.0
    count = 0
    for j in range(0, n_classes, BLOCK):
        n = min(BLOCK, n_classes - j)
        x = load_block(row + j * size, element, n, buffer)
        write_differences(x, n, top, values, tails)
        divide_all(values, tails, n, top.transform)
        write_terms_with_tails(values, tails, n, reference, terms)
        for k in range(n):
            count += 1 if x[k] == top.maximum else 0
            terms[k] = zero if x[k] == top.maximum else terms[k]
        part = sum_of(terms, n)
        total_lost += part.value_lost + lost(total, part.value)
        total += part.value
    above = (total + total_lost) * reference.factor + (np.float64(count) - 1.0)
    # a row without a finite maximum has no softmax
    y = above if m - m == 0.0 and above >= 0.0 else math.nan
    return Softness(maximum=m, log_sum=log1p(y), scale=1.0 / (1.0 + y), others=y / (1.0 + y))


@compiled
def write_distances(below, tails, partner_below, partner_tails, n, log_sums_apart):
    # d_j, in the place of `tails`
    for j in range(n):
        apart = exact_sum(partner_below[j], -below[j])
        low = apart.low + (partner_tails[j] - tails[j])
        tails[j] = (apart.value + log_sums_apart) + low


@compiled
def write_curves(distances, n, curves):
    # exp(-d_j) - 1 + d_j, by its series
    for j in range(n):
        d = distances[j]
        series = series_terms[0]
        for k in range(1, last_power - 1):
            series = fma(series, -d, series_terms[k])
        curves[j] = (d * d) * series


@compiled
def write_divergences(p, q, distances, curves, n, values):
    for j in range(n):
        d = distances[j]
        far = q[j] * d if q[j] != zero else zero
        value = q[j] * curves[j] if half > abs(d) else (p[j] - q[j]) + far
        values[j] = value


@compiled
def write_divergence_gradient(p, q, distances, curves, n, others, scale, output):
    # p_j - q_j; where both have more than half, 1 - q - (1 - p) keeps the digits of confident
    # rows
    for j in range(n):
        d = distances[j]
        gradient = q[j] * (curves[j] - d) if half > abs(d) else p[j] - q[j]
        gradient = others if (p[j] > half) & (q[j] > half) else gradient
        output[j] = gradient * scale


@compiled
def block_divergence(
    logits, partners, n, own, partner, temperature, output_scale, output
):  # fmt: skip
    # The sum of q_j * (exp(-d_j) - 1 + d_j), with p and q the softmax of logits and partners
    # and d_j = log q_j - log p_j; where d_j is small from its series. Where there is an output
    # (an address, or 0), output_j = output_scale * (p_j - q_j).
    reference = reference_at(0.0)
    below = block_buffer(zero)
    tails = block_buffer(zero)
    partner_below = block_buffer(zero)
    partner_tails = block_buffer(zero)
    p = block_buffer(zero)
    q = block_buffer(zero)
    top = transform_relative_to(own.maximum, temperature, 0.0)
    write_differences(logits, n, top, below, tails)
    divide_all(below, tails, n, top.transform)
    top = transform_relative_to(partner.maximum, temperature, 0.0)
    write_differences(partners, n, top, partner_below, partner_tails)
    divide_all(partner_below, partner_tails, n, top.transform)
    scale = real(own.scale * reference.factor)
    write_multiples_with_tails(below, tails, n, reference, scale, p)
    scale = real(partner.scale * reference.factor)
    write_multiples_with_tails(partner_below, partner_tails, n, reference, scale, q)
    write_distances(
        below, tails, partner_below, partner_tails, n, real(own.log_sum - partner.log_sum)
    )
    write_curves(tails, n, partner_tails)
    write_divergences(p, q, tails, partner_tails, n, below)
    total = sum_of(below, n)
    if output != 0:
        write_divergence_gradient(
            p, q, tails, partner_tails, n, real(partner.others - own.others), real(output_scale),
            pointer_at(output, zero),
        )  # fmt: skip
    return total.value + total.value_lost
