"""The exponential of a logit, relative to the largest logit.

Notation: x_j a logit, m the largest logit of the row so far, n_j = rint(x_j / ln2).

    exp(x_j - m) = 2^(n_j - n_m) * e^(r_j) * e^(-r_m),
    x_j = n_j * ln2 + r_j,  |r_j| <= ln2/2

x_j is reduced itself, so the difference x_j - m is never formed and never rounded, and e^(-r_m) is
one float64 factor a row. docs/numerics.md derives it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..context import BLOCK
from ..numba_functions import inlined
from ..numba_scalars import exp, fma, frexp, ldexp, pointer_at, shift_bits
from .precision import LN2, LOG2_E, arithmetic, real, real_bytes, zero
from .settings import REAL_BITS

# e^r = 1 + r + r^2 (c_2 + c_3 r + r^2 (c_4 + c_5 r + ...)): in pairs, which a CPU computes at once,
# the chain of multiply-adds that it waits for is half as long
_coefficients = tuple(real(float.fromhex(text)) for text in arithmetic.coefficients)
ends_even = len(_coefficients) % 2 == 1
highest_pair = _coefficients[-1:] if ends_even else _coefficients[-2:]
even_coefficients = _coefficients[2 : -len(highest_pair) : 2][::-1]
odd_coefficients = _coefficients[3 : -len(highest_pair) : 2][::-1]
n_pairs = len(odd_coefficients)
ln2_high = real(float.fromhex(arithmetic.ln2_high))
ln2_low = real(float.fromhex(arithmetic.ln2_low))
log2_e = real(float.fromhex(arithmetic.log2_e))
mantissa_bits = arithmetic.mantissa_bits
exponent_offset = float(arithmetic.spare_exponent + arithmetic.exponent_offset)
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
least_normal = 2.0**-126  # in float32
# Of terms relative to another maximum; times 2^-126 it is half of the smallest float32.
most_kept_scale = 2.0**-24
# Between these balancing_exponent is 0.
least_balanced_scale = math.ldexp(0.5, -spare_exponent - spare_exponent // 2)
most_balanced_scale = math.ldexp(1.0, -spare_exponent + spare_exponent // 2)
exact_difference = arithmetic.exact_difference
# what is left of ln2 beyond ln2_high, to float64
ln2_rest = LN2 - float(ln2_high) if REAL_BITS == 32 else float(ln2_low)
ln2_first = float(ln2_high)


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
    n = np.rint(m * LOG2_E)
    r = (m - n * ln2_first) - n * ln2_rest
    return Reference(
        shift=shift,
        maximum=real(m if finite else math.nan),
        lowest=real((n - exponent_offset) * LN2),
        rounder=real((rounder + exponent_offset) - n),
        factor=exp(-r) * spare_factor,
    )


@inlined
def balancing_exponent(scale, exponent):
    # The power of two to multiply scale * 2^exponent by so that `real` holds it with all its
    # digits: 0 unless it is far from spare_factor, as tiny or huge target masses make it. The
    # limits keep every power of two that a reference shifted by it can give within the normal
    # range.
    if not 0.0 < abs(scale) < math.inf:
        return 0
    distance = -spare_exponent - (frexp(scale)[1] + exponent)
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
        rounder=reference.rounder - real(exponent),
        factor=ldexp(reference.factor, exponent),
    )


class Kept(NamedTuple):
    """Exponentials of a row that are kept for its output, and what they were taken relative to.

    The row's largest logit may come after them. Taken relative to that they are the same but for
    a power of two, unless the logits have been shifted or transformed relative to another one.
    Addresses; 0 where nothing is kept.
    """

    terms: Any  # BLOCK reals for each block of the row
    rounders: Any  # a float64 for each block
    origins: Any


class KeptTerms(NamedTuple):
    """Those of a block, and what they are multiplied by; an address of 0 if they do not serve."""

    address: Any
    scale: Any


@inlined
def nothing_kept():
    return Kept(terms=0, rounders=0, origins=0)


@inlined
def keep_terms(kept, j, origin, reference, buffer):
    # Where the terms of the block at class j are put: in `buffer` if none are kept.
    if kept.terms == 0:
        return buffer
    pointer_at(kept.origins, 0.0)[j // BLOCK] = origin
    pointer_at(kept.rounders, 0.0)[j // BLOCK] = float(reference.rounder)
    return pointer_at(kept.terms + j * real_bytes, zero)


@inlined
def kept_terms(kept, j, origin, reference, scale):
    # The terms of the block at class j, and what times them is `scale` times those of this
    # reference. They do not serve where that would be a subnormal number. A term that is below
    # 2^-126 relative to this one, but not to that it was kept with, is more exact than it would be:
    # up to most_kept_scale it comes to 0 either way.
    none = KeptTerms(address=0, scale=scale)
    if kept.terms == 0 or pointer_at(kept.origins, 0.0)[j // BLOCK] != origin:
        return none
    if scale != scale:  # of two NaNs a product is the first, whichever that is in machine code
        return none
    exponent = int(float(reference.rounder) - pointer_at(kept.rounders, 0.0)[j // BLOCK])
    if not -(spare_exponent // 2) <= exponent <= 0:
        return none
    own_scale = ldexp(scale, exponent)
    if exponent != 0 and not (abs(own_scale) >= least_normal and abs(scale) <= most_kept_scale):
        return none
    return KeptTerms(address=kept.terms + j * real_bytes, scale=own_scale)


@inlined
def reduce(x, reference):
    # A NaN stays NaN; for -inf, or anything far below m, the power is exactly 0.
    d = reference.lowest if reference.lowest > x else x
    t = fma(d, log2_e, reference.rounder)
    n = reference.rounder - t
    r = fma(n, ln2_low, fma(n, ln2_high, d))
    square = r * r
    slope = highest_pair[0]
    if not ends_even:
        slope = fma(highest_pair[1], r, slope)
    for k in range(n_pairs):
        slope = fma(slope, square, fma(odd_coefficients[k], r, even_coefficients[k]))
    return Reduced(power=shift_bits(t, mantissa_bits), part=fma(square, slope, r))


@inlined
def put_together(reduced):
    # power * (1 + part), rounded once
    return fma(reduced.power, reduced.part, reduced.power)


@inlined
def scaled_term(reduced, scale):
    # scale * power * (1 + part), rounded once; in float32 the term is rounded first, as one that
    # has been kept is
    if REAL_BITS == 32:
        return put_together(reduced) * scale
    return put_together(Reduced(power=scale * reduced.power, part=reduced.part))


@inlined
def with_tail(reduced, tail):
    # The same times 1 + tail, for a tail far below 1.
    return Reduced(power=reduced.power, part=reduced.part + fma(tail, reduced.part, tail))
