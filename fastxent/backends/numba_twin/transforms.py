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

from ..numba_vectors import (
    Pair,
    add,
    broadcast,
    choose_equal,
    choose_greater,
    compiled,
    divide,
    exact_product,
    exact_sum,
    fma,
    inlined,
    lane,
    magnitude,
    multiply,
    multiply_add,
    multiply_pairs,
    negate,
    ordered_sum,
    shift_bits,
    subtract,
)
from .precision import arithmetic, half, last_power, minus_infinity, one, real, zero


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


class Gap(NamedTuple):
    """A Pair of float64 numbers."""

    value: Any
    low: Any


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
def pair_of(number):
    # A float64 number as a Pair.
    value = real(number)
    return Pair(value=broadcast(value), low=broadcast(real(number - np.float64(value))))


@inlined
def inverse_of(number):
    # 1 / number as a Pair, for a number that is not 0.
    inverse = 1.0 / number
    rest = fma(-inverse, number, 1.0) / number
    value = real(inverse)
    return Pair(value=broadcast(value), low=broadcast(real((inverse - np.float64(value)) + rest)))


@inlined
def invert_pair(a):
    # 1 / a to twice the digits, for a far from 0 and infinity.
    whole = broadcast(one)
    inverse = divide(whole, a.value)
    product = exact_product(inverse, a.value)
    rest = subtract(subtract(subtract(whole, product.value), product.low), multiply(inverse, a.low))
    return Pair(value=inverse, low=multiply(inverse, rest))


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
    return shift_bits(subtract(broadcast(power_rounder), n), mantissa_bits)


@inlined
def falling_exponential(v):
    # e^-v for v >= 0 up to twice cap_limit: v = n ln2 - r, and
    # e^r = 1 + r + r^2/2 + r^3/6 + r^4 (...), the first terms in Pairs.
    to_integer = broadcast(rounder)
    n = subtract(multiply_add(v.value, broadcast(log2_e), to_integer), to_integer)
    # exact: near 0, or n is 0
    high = subtract(multiply(n, broadcast(ln2_high)), v.value)
    r = exact_sum(high, multiply(n, broadcast(ln2_low)))
    r_low = subtract(r.low, v.low)
    square = exact_product(r.value, r.value)
    square_low = add(square.low, multiply(multiply(broadcast(two), r.value), r_low))
    cube = exact_product(square.value, r.value)
    cube_low = add(cube.low, add(multiply(square_low, r.value), multiply(square.value, r_low)))
    third = exact_product(cube.value, broadcast(sixth))
    third_low = add(
        third.low,
        add(multiply(cube.value, broadcast(sixth_low)), multiply(cube_low, broadcast(sixth))),
    )
    series = broadcast(series_terms[0])
    for k in range(1, last_power - 3):
        series = multiply_add(series, r.value, broadcast(series_terms[k]))
    fourth = multiply(multiply(square.value, square.value), series)
    first_sum = ordered_sum(broadcast(one), r.value)
    second_sum = ordered_sum(first_sum.value, multiply(square.value, broadcast(half)))
    third_sum = ordered_sum(second_sum.value, third.value)
    low = add(
        add(
            add(add(first_sum.low, second_sum.low), third_sum.low),
            add(r_low, multiply(square_low, broadcast(half))),
        ),
        add(third_low, fourth),
    )
    total = ordered_sum(third_sum.value, low)
    # in two steps: 2^-n itself may be below the normal range
    part = subtract(add(multiply(n, broadcast(half)), to_integer), to_integer)
    scale = negative_power(part)
    rest = negative_power(subtract(n, part))
    return Pair(
        value=multiply(multiply(total.value, scale), rest),
        low=multiply(multiply(total.low, scale), rest),
    )


@inlined
def cap_parts(x, transform):
    # c tanh(x/c); q = e^(-2|x|/c) and 1 / (1 + q), from which its derivative follows.
    none = broadcast(zero)
    limit = broadcast(cap_limit)
    ratio = multiply_pairs(Pair(value=magnitude(x), low=none), transform.inverse_cap)
    double_value = multiply(broadcast(two), choose_greater(limit, ratio.value, ratio.value, limit))
    double_low = multiply(broadcast(two), choose_greater(limit, ratio.value, ratio.low, none))
    q = falling_exponential(Pair(value=double_value, low=double_low))
    below = ordered_sum(broadcast(one), negate(q.value))
    above = ordered_sum(broadcast(one), q.value)
    inverse = invert_pair(Pair(value=above.value, low=add(above.low, q.low)))
    tangent = multiply_pairs(Pair(value=below.value, low=subtract(below.low, q.low)), inverse)
    capped = multiply_pairs(transform.cap, tangent)
    signed = Pair(
        value=choose_greater(none, x, negate(capped.value), capped.value),
        low=choose_greater(none, x, negate(capped.low), capped.low),
    )
    return signed, q, inverse


@compiled
def cap_logits(x, transform):
    # c tanh(x/c)
    return cap_parts(x, transform)[0]


@compiled
def cap_with_slope(x, transform):
    # The same and its derivative 1 - tanh^2, which is 1 at a class that is masked.
    masked = broadcast(minus_infinity)
    capped, q, inverse = cap_parts(x, transform)
    top = Pair(value=multiply(broadcast(four), q.value), low=multiply(broadcast(four), q.low))
    slope = multiply_pairs(multiply_pairs(top, inverse), inverse)
    return capped, Pair(
        value=choose_equal(x, masked, broadcast(one), slope.value),
        low=choose_equal(x, masked, broadcast(zero), slope.low),
    )


@inlined
def transform_relative_to(maximum, temperature, softcap):
    m = broadcast(real(maximum))
    transform = make_transform(temperature, softcap)
    capped = Pair(value=broadcast(zero), low=broadcast(zero))
    if softcap != 0.0:
        capped = cap_logits(m, transform)
    return TransformReference(transform=transform, maximum=m, capped=capped)


@inlined
def difference_of_capped(x, own, reference):
    none = broadcast(zero)
    other = reference.capped
    whole = exact_sum(own.value, negate(other.value))
    whole = exact_sum(whole.value, add(whole.low, subtract(own.low, other.low)))
    return Pair(
        value=choose_equal(x, reference.maximum, none, whole.value),
        low=choose_equal(x, reference.maximum, none, whole.low),
    )


@inlined
def finished_difference(x, difference, reference):
    if reference.transform.divides:
        difference = multiply_pairs(difference, reference.transform.inverse_temperature)
    # x - x: 0, or NaN for what is not finite
    masked = broadcast(minus_infinity)
    value = add(difference.value, subtract(x, x))
    return Pair(
        value=choose_equal(x, masked, x, value),
        low=choose_equal(x, masked, broadcast(zero), difference.low),
    )


@inlined
def transformed_difference(x, reference):
    # y(x) - y(m)
    if reference.transform.caps:
        own = cap_logits(x, reference.transform)
        difference = difference_of_capped(x, own, reference)
    else:
        difference = exact_sum(x, negate(reference.maximum))
    return finished_difference(x, difference, reference)


@inlined
def difference_with_slope(x, reference):
    # The same with a cap, and y'(x) T.
    own, slope = cap_with_slope(x, reference.transform)
    difference = difference_of_capped(x, own, reference)
    return finished_difference(x, difference, reference), slope


@compiled
def transformed_gap(x, m, temperature, softcap):
    # y(x) - y(m); where x or m is infinite what comes of their difference.
    if softcap == 0.0:
        difference = x - m
        part = difference - x
        error = (x - (difference - part)) + (-m - part)
        quotient = difference / temperature
        if quotient - quotient != 0.0:
            return Gap(value=quotient, low=0.0)
        remainder = fma(-quotient, temperature, difference) + error
        return Gap(value=quotient, low=remainder / temperature)
    if x - x != 0.0 or m - m != 0.0:
        return Gap(value=x - m, low=0.0)
    reference = transform_relative_to(m, temperature, softcap)
    found = transformed_difference(broadcast(real(x)), reference)
    return Gap(value=np.float64(lane(found.value, 0)), low=np.float64(lane(found.low, 0)))


@compiled
def transformed_value(x, temperature, softcap):
    # y(x) for a finite x; the others stay what they are.
    if x - x != 0.0:
        return x
    if softcap == 0.0:
        return x / temperature
    capped = cap_logits(broadcast(real(x)), make_transform(temperature, softcap))
    value = np.float64(lane(capped.value, 0))
    return (value + np.float64(lane(capped.low, 0))) / temperature
