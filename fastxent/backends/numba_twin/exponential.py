"""The exponential of a line of logits, relative to the largest logit.

Notation: x_j a logit, m the largest logit of the row so far, s = 2^table_bits steps to a power of
two, n_j = rint(x_j * s / ln2).

    exp(x_j - m) = 2^((n_j - n_m)/s) * e^(r_j) * e^(-r_m),
    x_j = n_j * ln2/s + r_j,  |r_j| <= ln2/(2s)

x_j is reduced itself, so the difference x_j - m is never formed and never rounded: the power of two
is looked up and its rounding error with it, and e^(-r_m) is one float64 factor a row.
docs/numerics.md derives it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..numba_vectors import (
    add,
    add_bits,
    broadcast,
    inlined,
    lookup_in,
    maximum,
    multiply,
    multiply_add,
    shift_bits,
    subtract,
    table_bits,
)
from .precision import LN2, LOG2_E, arithmetic, real
from .settings import REAL_BITS

steps_bits = table_bits(REAL_BITS)
steps = 2**steps_bits
coefficients = tuple(
    real(float.fromhex(text)) for text in reversed(arithmetic.coefficients[steps_bits])
)
ln2_high = real(float.fromhex(arithmetic.ln2_high) / steps)
ln2_low = real(float.fromhex(arithmetic.ln2_low) / steps)
log2_e = real(float.fromhex(arithmetic.log2_e) * steps)
exponent_shift = arithmetic.mantissa_bits - steps_bits
exponent_offset = float(steps * (arithmetic.spare_exponent + arithmetic.exponent_offset))
rounder = float.fromhex(arithmetic.rounder)
spare_exponent = arithmetic.spare_exponent
spare_factor = 2.0**-spare_exponent
most_exponent = spare_exponent + arithmetic.exponent_offset - 8
# What an output is multiplied by is kept between these two, where every result that `real`
# holds is computed with all its digits; the power of two that is missing comes last.
least_output_exponent = -(spare_exponent // 2)
most_output_exponent = spare_exponent
# Neither it nor its product with the mass is beyond 2 to this: times the 0 of a masked class,
# infinity would be NaN.
largest_output_exponent = 120 if REAL_BITS == 32 else 1000
# Between these balancing_exponent is 0.
least_balanced_scale = math.ldexp(0.5, -spare_exponent - spare_exponent // 2)
most_balanced_scale = math.ldexp(1.0, -spare_exponent + spare_exponent // 2)
exact_difference = arithmetic.exact_difference
# what is left of ln2 beyond ln2_high, to float64
ln2_rest = LN2 / steps - float(ln2_high) if REAL_BITS == 32 else float(ln2_low)
ln2_first = float(ln2_high)
degree = len(coefficients) - 1
highest = coefficients[0]


def _bits(text: str) -> int:
    """The bits of a float, as an integer."""
    width = np.int32 if REAL_BITS == 32 else np.int64
    return int(real(float.fromhex(text)).view(width))


def _every_step(values: tuple[str, ...]) -> tuple[str, ...]:
    return values[:: len(values) // steps]


if steps > 1:
    # what a lane's shifted index lacks to be the bits of its power of two
    lookup_power = lookup_in(
        REAL_BITS,
        [
            _bits(text) - _bits("0x1p+0") - (i << exponent_shift)
            for i, text in enumerate(_every_step(arithmetic.powers))
        ],
    )
    lookup_correction = lookup_in(
        REAL_BITS, [_bits(text) for text in _every_step(arithmetic.corrections)]
    )


class Reference(NamedTuple):
    """What exponentials are taken relative to."""

    shift: Any  # m where x - m is exact, else 0; what follows is for logits less the shift
    maximum: Any  # m, or NaN (which equals nothing) while no finite logit has been seen
    lowest: Any  # logits are raised to it: there the power of two is exactly 0
    rounder: Any  # the rounding constant with the exponent's offset and -n_m in its low bits
    factor: Any  # e^(-r_m) * spare_factor: what the sums are multiplied by in the end


class Reduced(NamedTuple):
    """exp(x - m) / factor = power * (1 + part)."""

    power: Any
    part: Any


@inlined
def reference_at(maximum):
    finite = maximum - maximum == 0.0
    shift = maximum if finite and abs(maximum) > exact_difference else 0.0
    m = maximum - shift if finite else 0.0
    n = np.rint(m * (steps * LOG2_E))
    r = (m - n * ln2_first) - n * ln2_rest
    return Reference(
        shift=shift,
        maximum=real(m if finite else math.nan),
        lowest=real((n - exponent_offset) * (LN2 / steps)),
        rounder=real((rounder + exponent_offset) - n),
        factor=math.exp(-r) * spare_factor,
    )


@inlined
def balancing_exponent(scale, exponent):
    # The power of two to multiply scale * 2^exponent by so that `real` holds it with all its
    # digits: 0 unless it is far from spare_factor, as tiny or huge target masses make it. The
    # limits keep every power of two that a reference shifted by it can give within the normal
    # range.
    if not 0.0 < abs(scale) < math.inf:
        return 0
    distance = -spare_exponent - (math.frexp(scale)[1] + exponent)
    if abs(distance) <= spare_exponent // 2:
        return 0
    return min(max(distance, -(spare_exponent - 4)), most_exponent)


@inlined
def shift_exponent(reference, exponent):
    # The same reference for powers of two that are 2^exponent smaller.
    return Reference(
        shift=reference.shift,
        maximum=reference.maximum,
        lowest=reference.lowest + real(exponent * LN2),
        rounder=reference.rounder - real(steps * exponent),
        factor=math.ldexp(reference.factor, exponent),
    )


@inlined
def reduce_with(x, lowest, rounder):
    # A NaN stays NaN; for -inf, or anything far below m, the power is exactly 0.
    d = maximum(lowest, x)
    t = multiply_add(d, broadcast(log2_e), rounder)
    n = subtract(rounder, t)
    r = multiply_add(n, broadcast(ln2_high), d)
    r = multiply_add(n, broadcast(ln2_low), r)
    slope = broadcast(highest)
    for k in range(1, degree):
        slope = multiply_add(slope, r, broadcast(coefficients[k]))
    bits = shift_bits(t, exponent_shift)
    if steps > 1:
        return Reduced(
            power=add_bits(bits, lookup_power(t)),
            part=multiply_add(slope, r, lookup_correction(t)),
        )
    else:
        return Reduced(power=bits, part=multiply(slope, r))


@inlined
def reduce(x, reference):
    return reduce_with(x, broadcast(reference.lowest), broadcast(reference.rounder))


@inlined
def put_together(reduced):
    # power * (1 + part), rounded once
    return multiply_add(reduced.power, reduced.part, reduced.power)


@inlined
def with_tail(reduced, tail):
    # The same times 1 + tail, for a tail far below 1.
    part = add(reduced.part, multiply_add(tail, reduced.part, tail))
    return Reduced(power=reduced.power, part=part)


@inlined
def scaled(reduced, scale):
    return put_together(Reduced(power=multiply(scale, reduced.power), part=reduced.part))


@inlined
def scaled_exponential(x, reference, scale):
    # scale * exp(x - m) / factor
    return scaled(reduce(x, reference), scale)
