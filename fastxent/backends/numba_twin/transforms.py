"""What is done to logits before their softmax: soft-capping, then a temperature (Numba twin).

    y(x) = c tanh(x/c) / T

The softmax needs differences y(x_j) - y(m), and an error of theirs is a relative error of an
exponential: rounded, a difference of 40 would cost 20 ULP. So each is a Pair, two reals whose exact
sum is meant. tanh comes from q = e^(-2|x|/c) as (1 - q)/(1 + q), all of it in Pairs.
docs/numerics.md has the errors.

-inf stays -inf, a class that is masked; +inf and NaN become NaN, as without a cap.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..numba_functions import compiled, inlined
from ..numba_scalars import fma, shift_bits
from .precision import arithmetic, half, last_power, minus_infinity, one, real, zero


class Pair(NamedTuple):
    """Two numbers whose exact sum is meant; `low` is far below `value`."""

    value: Any
    low: Any


class Transform(NamedTuple):
    divides: Any  # whether the temperature is not 1
    caps: Any
    inverse_temperature: Any  # a division takes as long as ten products
    cap: Any
    inverse_cap: Any


class TransformReference(NamedTuple):
    """What differences are taken to: a finite logit m, and m capped."""

    transform: Transform
    maximum: Any
    capped: Any


two = real(2.0)
four = real(4.0)
cap_limit = real(arithmetic.cap_limit)
mantissa_bits = arithmetic.mantissa_bits
log2_e = real(float.fromhex(arithmetic.log2_e))
ln2_high = real(float.fromhex(arithmetic.ln2_high))
ln2_low = real(float.fromhex(arithmetic.ln2_low))
rounder = real(float.fromhex(arithmetic.rounder))
power_rounder = real(float.fromhex(arithmetic.rounder) + arithmetic.exponent_offset)
# 1/3! with what rounding leaves out of it: (1 - 6 sixth) / 6
sixth = real(1.0 / 6.0)
sixth_low = (
    real(1.0 / 6.0 - float(sixth))
    if real is np.float32
    else real(float.fromhex("0x1.5555555555555p-57"))
)
# 1/k! for the end of the exponential's series
series_terms = tuple(
    real(1.0 / math.factorial(k)) for k in range(last_power, 3, -1)
)  # from the last one down to 1/4!


@inlined
def exact_sum(a, b):
    # a + b exactly (Knuth); nothing is lost of a sum that is not finite.
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return Pair(value=total, low=error if total - total == zero else zero)


@inlined
def ordered_sum(a, b):
    # The same for finite |a| >= |b| (Dekker).
    total = a + b
    return Pair(value=total, low=b - (total - a))


@inlined
def exact_product(a, b):
    # a * b exactly, unless it is infinite or what is lost is below the normal range.
    product = a * b
    return Pair(value=product, low=fma(a, b, -product))


@inlined
def multiply_pairs(a, b):
    # a * b to twice the digits; what is not finite has no low part.
    product = exact_product(a.value, b.value)
    low = product.low + fma(a.value, b.low, a.low * b.value)
    return Pair(value=product.value, low=low if low - low == zero else zero)


@inlined
def pair_of(number):
    # A float64 number as a Pair.
    value = real(number)
    return Pair(value=value, low=real(number - np.float64(value)))


@inlined
def inverse_of(number):
    # 1 / number as a Pair, for a float64 number that is not 0.
    inverse = 1.0 / number
    rest = fma(-inverse, number, 1.0) / number
    value = real(inverse)
    return Pair(value=value, low=real((inverse - np.float64(value)) + rest))


@inlined
def invert_pair(a):
    # 1 / a to twice the digits, for a far from 0 and infinity.
    inverse = one / a.value
    product = exact_product(inverse, a.value)
    rest = ((one - product.value) - product.low) - inverse * a.low
    return Pair(value=inverse, low=inverse * rest)


@inlined
def make_transform(temperature, softcap):
    cap = softcap if softcap != 0.0 else 1.0
    return Transform(
        divides=temperature != 1.0, caps=softcap != 0.0,
        inverse_temperature=inverse_of(temperature), cap=pair_of(cap),
        inverse_cap=inverse_of(cap),
    )  # fmt: skip


@inlined
def negative_power(n):
    # 2^-n for integers n from 0 to the exponent's offset - 1.
    return shift_bits(power_rounder - n, mantissa_bits)


@inlined
def falling_exponential(v):
    # e^-v for v >= 0 up to twice cap_limit: v = n ln2 - r, and
    # e^r = 1 + r + r^2/2 + r^3/6 + r^4 (...), the first terms in Pairs.
    n = fma(v.value, log2_e, rounder) - rounder
    # exact: near 0, or n is 0
    high = n * ln2_high - v.value
    r = exact_sum(high, n * ln2_low)
    r_low = r.low - v.low
    square = exact_product(r.value, r.value)
    square_low = square.low + (two * r.value) * r_low
    cube = exact_product(square.value, r.value)
    cube_low = cube.low + (square_low * r.value + square.value * r_low)
    third = exact_product(cube.value, sixth)
    third_low = third.low + (cube.value * sixth_low + cube_low * sixth)
    series = series_terms[0]
    for k in range(1, last_power - 3):
        series = fma(series, r.value, series_terms[k])
    fourth = (square.value * square.value) * series
    first_sum = ordered_sum(one, r.value)
    second_sum = ordered_sum(first_sum.value, square.value * half)
    third_sum = ordered_sum(second_sum.value, third.value)
    low = (((first_sum.low + second_sum.low) + third_sum.low) + (r_low + square_low * half)) + (
        third_low + fourth
    )
    total = ordered_sum(third_sum.value, low)
    # in two steps: 2^-n itself may be below the normal range
    part = (n * half + rounder) - rounder
    scale = negative_power(part)
    rest = negative_power(n - part)
    return Pair(value=(total.value * scale) * rest, low=(total.low * scale) * rest)


@inlined
def cap_exponential(x, transform):
    # q = e^(-2|x|/c)
    ratio = multiply_pairs(Pair(value=abs(x), low=zero), transform.inverse_cap)
    is_near = cap_limit > ratio.value
    return falling_exponential(
        Pair(
            value=two * (ratio.value if is_near else cap_limit),
            low=two * (ratio.low if is_near else zero),
        )
    )


@inlined
def inverse_above(q):
    # 1 / (1 + q)
    above = ordered_sum(one, q.value)
    return invert_pair(Pair(value=above.value, low=above.low + q.low))


@inlined
def capped(x, q, transform):
    # c tanh(x/c)
    below = ordered_sum(one, -q.value)
    tangent = multiply_pairs(Pair(value=below.value, low=below.low - q.low), inverse_above(q))
    size = multiply_pairs(transform.cap, tangent)
    is_negative = x < zero
    return Pair(
        value=-size.value if is_negative else size.value,
        low=-size.low if is_negative else size.low,
    )


@inlined
def slope_of_cap(x, q):
    # Its derivative 1 - tanh^2, which is 1 at a class that is masked.
    inverse = inverse_above(q)
    top = Pair(value=four * q.value, low=four * q.low)
    slope = multiply_pairs(multiply_pairs(top, inverse), inverse)
    is_masked = x == minus_infinity
    return Pair(
        value=one if is_masked else slope.value,
        low=zero if is_masked else slope.low,
    )


@inlined
def cap_logit(x, transform):
    return capped(x, cap_exponential(x, transform), transform)


@inlined
def transform_relative_to(maximum, temperature, softcap):
    m = real(maximum)
    transform = make_transform(temperature, softcap)
    own = Pair(value=zero, low=zero)
    if softcap != 0.0:
        own = cap_logit(m, transform)
    return TransformReference(transform=transform, maximum=m, capped=own)


@inlined
def difference_of_logits(x, reference):
    return exact_sum(x, -reference.maximum)


@inlined
def difference_of_capped(x, own, reference):
    other = reference.capped
    whole = exact_sum(own.value, -other.value)
    whole = exact_sum(whole.value, whole.low + (own.low - other.low))
    is_maximum = x == reference.maximum
    return Pair(
        value=zero if is_maximum else whole.value,
        low=zero if is_maximum else whole.low,
    )


@inlined
def divided(difference, transform):
    return multiply_pairs(difference, transform.inverse_temperature)


@inlined
def finished_difference(x, difference):
    # x - x: 0, or NaN for what is not finite
    is_masked = x == minus_infinity
    value = difference.value + (x - x)
    return Pair(
        value=x if is_masked else value,
        low=zero if is_masked else difference.low,
    )


@inlined
def transformed_difference(x, reference):
    # y(x) - y(m)
    transform = reference.transform
    if transform.caps:
        difference = difference_of_capped(x, cap_logit(x, transform), reference)
    else:
        difference = difference_of_logits(x, reference)
    if transform.divides:
        difference = divided(difference, transform)
    return finished_difference(x, difference)


# The steps of a block's transformation, each a pass of its own: all of it in one would wait for a
# chain of operations longer than a CPU looks ahead. x is logits, and what is written are Pairs.


@compiled
def write_cap_exponentials(x, n, transform, values, tails):
    for j in range(n):
        q = cap_exponential(x[j], transform)
        values[j] = q.value
        tails[j] = q.low


@compiled
def write_capped_differences(x, q, q_tails, n, reference, values, tails):
    for j in range(n):
        own = capped(x[j], Pair(value=q[j], low=q_tails[j]), reference.transform)
        difference = finished_difference(x[j], difference_of_capped(x[j], own, reference))
        values[j] = difference.value
        tails[j] = difference.low


@compiled
def turn_into_slopes(x, q, q_tails, n):
    for j in range(n):
        slope = slope_of_cap(x[j], Pair(value=q[j], low=q_tails[j]))
        q[j] = slope.value
        q_tails[j] = slope.low


@compiled
def write_differences(x, n, reference, values, tails):
    for j in range(n):
        difference = finished_difference(x[j], difference_of_logits(x[j], reference))
        values[j] = difference.value
        tails[j] = difference.low


@compiled
def divide_all(values, tails, n, transform):
    for j in range(n):
        quotient = divided(Pair(value=values[j], low=tails[j]), transform)
        values[j] = quotient.value
        tails[j] = quotient.low


@compiled
def transformed_gap(x, m, temperature, softcap):
    # y(x) - y(m), in float64; where x or m is infinite what comes of their difference.
    if softcap == 0.0:
        difference = x - m
        part = difference - x
        error = (x - (difference - part)) + (-m - part)
        quotient = difference / temperature
        if quotient - quotient != 0.0:
            return Pair(value=quotient, low=0.0)
        remainder = fma(-quotient, temperature, difference) + error
        return Pair(value=quotient, low=remainder / temperature)
    if x - x != 0.0 or m - m != 0.0:
        return Pair(value=x - m, low=0.0)
    reference = transform_relative_to(m, temperature, softcap)
    found = transformed_difference(real(x), reference)
    return Pair(value=np.float64(found.value), low=np.float64(found.low))


@compiled
def transformed_value(x, temperature, softcap):
    # y(x) for a finite x; the others stay what they are.
    if x - x != 0.0:
        return x
    if softcap == 0.0:
        return x / temperature
    own = cap_logit(real(x), make_transform(temperature, softcap))
    return (np.float64(own.value) + np.float64(own.low)) / temperature
