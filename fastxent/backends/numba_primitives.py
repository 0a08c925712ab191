"""Block primitives of the Numba twin: what is done to a run of classes that lies in the cache.

Notation: x_j a logit, m the largest logit of the row so far, n_j = rint(x_j / ln2).

    exp(x_j - m) = 2^(n_j - n_m) * e^(r_j) * e^(-r_m),      x_j = n_j * ln2 + r_j, |r_j| <= ln2/2

x_j is reduced itself, so the difference x_j - m is never formed and never rounded: the power of
two is exact and e^(-r_m) is one float64 factor a row. docs/numerics.md derives it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from .context import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from .numba_vectors import (
    add,
    add_to_sums,
    broadcast,
    clear_equal,
    count_equal,
    fma,
    fold_maximum,
    fold_sum,
    fold_sum_and_lost,
    lane,
    load,
    load_bfloat16,
    load_float16,
    load_float32,
    load_float64,
    load_one_bfloat16,
    load_one_float16,
    load_one_float32,
    load_one_float64,
    load_partial,
    maximum,
    multiply,
    multiply_add,
    pointer_at,
    power_of_two,
    prefetch,
    store,
    store_bfloat16,
    store_float16,
    store_one_bfloat16,
    store_one_float16,
    store_partial,
    subtract,
    sum_error,
    with_lane,
    zero_sums,
)

# A block is the largest run of classes handled at once; it and its copy fit the L1 cache.
BLOCK: Final = 1024
# Reals ahead of the exponentials that memory is asked for the logits: measured best 2048-4096.
PREFETCH_DISTANCE: Final = 4096

# Python never calls these functions, so they need no entry for it: 1.5 of 8.4 s to compile.
OPTIONS: Final[dict[str, Any]] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")


class Reference(NamedTuple):
    """What exponentials are taken relative to."""

    maximum: Any  # m, or NaN (which equals nothing) while no finite logit has been seen
    shift: Any  # m where x - m is exact, else 0
    lowest: Any  # x - shift is raised to it: there the power of two is exactly 0
    rounder: Any  # the rounding constant with the exponent's offset and -n_m in its low bits
    factor: Any  # e^(-r_m) * spare_factor: what the sums are multiplied by in the end


class Reduced(NamedTuple):
    """exp(x - m) / factor = power * (1 + r * slope), with slope = (e^r - 1) / r."""

    power: Any
    r: Any
    slope: Any


class Term(NamedTuple):
    """exp(x - m) / factor = power + part, not added up: e^r = 1 + part/power would be rounded."""

    power: Any
    part: Any


class BlockSum(NamedTuple):
    count: Any
    rest: Any
    rest_lost: Any


class TargetLine(NamedTuple):
    dot: Any
    mass: Any


class BlockTarget(NamedTuple):
    dot: Any
    dot_lost: Any
    mass: Any
    mass_lost: Any


class Arithmetic(NamedTuple):
    """What the exponential needs to know of the type that is computed with."""

    real: Any
    own_element: int
    # e^r = 1 + r + r^2 (...), minimax in relative error over |r| <= ln2/2, with coefficients that
    # the type holds exactly: 0.05 * 2^-24 (degree 6) and 0.03 * 2^-53 (degree 11).
    # docs/derive_exponential.py prints them.
    coefficients: tuple[str, ...]
    # ln2 in two parts; the first has so few bits that n * ln2_high is exact for every n that
    # matters (|n| < 2^9 and 2^12).
    ln2_high: str
    ln2_low: str
    log2_e: str
    rounder: str  # adding it leaves the nearest integer in the low bits
    mantissa_bits: int
    exponent_offset: int
    spare_exponent: int  # powers of two are kept this much too large
    exact_difference: float  # beyond it x - m is exact for all x within 104 (745) of m


ARITHMETIC: Final = {
    32: Arithmetic(
        real=np.float32,
        own_element=FLOAT32,
        coefficients=(
            "0x1p+0", "0x1p+0", "0x1.fffffcp-2", "0x1.555492p-3", "0x1.5558b0p-5",
            "0x1.12399cp-7", "0x1.6a4ecap-10",
        ),
        ln2_high="0x1.62e4p-1",
        ln2_low="0x1.7f7d1cp-20",
        log2_e="0x1.715476p+0",
        rounder="0x1.8p+23",
        mantissa_bits=23,
        exponent_offset=127,
        spare_exponent=62,
        exact_difference=208.0,
    ),
    64: Arithmetic(
        real=np.float64,
        own_element=FLOAT64,
        coefficients=(
            "0x1p+0", "0x1p+0", "0x1.000000000000ap-1", "0x1.555555555550ap-3",
            "0x1.5555555550773p-5", "0x1.1111111124d11p-7", "0x1.6c16c18446993p-10",
            "0x1.a01a013684148p-13", "0x1.a01999e21b19ep-16", "0x1.71df0f7ce0458p-19",
            "0x1.28ad8a5ee467fp-22", "0x1.ad9c208a16602p-26",
        ),
        ln2_high="0x1.62e42fefap-1",
        ln2_low="0x1.cf79abc9e3b3ap-40",
        log2_e="0x1.71547652b82fep+0",
        rounder="0x1.8p+52",
        mantissa_bits=52,
        exponent_offset=1023,
        spare_exponent=512,
        exact_difference=1490.0,
    ),
}  # fmt: skip


def make_primitives(real_bits: int) -> SimpleNamespace:
    """The primitives for float32 or float64 arithmetic, compiled when they are first called."""
    arithmetic = ARITHMETIC[real_bits]
    real = arithmetic.real
    own_element = arithmetic.own_element
    line = 512 // real_bits
    zero = real(0.0)
    minus_infinity = real(-math.inf)
    coefficients = tuple(real(float.fromhex(text)) for text in reversed(arithmetic.coefficients))
    ln2_high = real(float.fromhex(arithmetic.ln2_high))
    ln2_low = real(float.fromhex(arithmetic.ln2_low))
    log2_e = real(float.fromhex(arithmetic.log2_e))
    mantissa_bits = arithmetic.mantissa_bits
    exponent_offset = float(arithmetic.spare_exponent + arithmetic.exponent_offset)
    rounder = float.fromhex(arithmetic.rounder)
    spare_exponent = arithmetic.spare_exponent
    spare_factor = 2.0**-spare_exponent
    most_exponent = spare_exponent + arithmetic.exponent_offset - 8
    exact_difference = arithmetic.exact_difference
    # what is left of ln2 beyond ln2_high, to float64
    ln2_rest = LN2 - float(ln2_high) if real_bits == 32 else float(ln2_low)
    ln2_first = float(ln2_high)
    degree = len(coefficients) - 1
    highest = coefficients[0]

    inlined = njit(forceinline=True, **OPTIONS)
    compiled = njit(**OPTIONS)

    @inlined
    def reference_at(maximum):
        finite = maximum - maximum == 0.0
        m = maximum if finite else 0.0
        shift = m if abs(m) > exact_difference else 0.0
        n = np.rint((m - shift) * LOG2_E)
        r = ((m - shift) - n * ln2_first) - n * ln2_rest
        return Reference(
            maximum=real(maximum if finite else math.nan),
            shift=real(shift),
            lowest=real((n - exponent_offset) * LN2),
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
            maximum=reference.maximum,
            shift=reference.shift,
            lowest=reference.lowest + real(exponent * LN2),
            rounder=reference.rounder - real(exponent),
            factor=math.ldexp(reference.factor, exponent),
        )

    @inlined
    def reduce(x, reference):
        # A NaN stays NaN; for -inf, or anything far below m, the power is exactly 0.
        d = maximum(broadcast(reference.lowest), subtract(x, broadcast(reference.shift)))
        t = multiply_add(d, broadcast(log2_e), broadcast(reference.rounder))
        n = subtract(broadcast(reference.rounder), t)
        r = multiply_add(n, broadcast(ln2_high), d)
        r = multiply_add(n, broadcast(ln2_low), r)
        slope = broadcast(highest)
        for k in range(1, degree):
            slope = multiply_add(slope, r, broadcast(coefficients[k]))
        return Reduced(power=power_of_two(t, mantissa_bits), r=r, slope=slope)

    @inlined
    def scaled_exponential(x, reference, scale):
        # scale * exp(x - m) / factor, rounded once more than scale is: e^r itself is never rounded.
        reduced = reduce(x, reference)
        power = multiply(scale, reduced.power)
        return multiply_add(power, multiply(reduced.slope, reduced.r), power)

    # ---- reading and writing a block ----

    @inlined
    def element_size(element):
        return 8 if element == FLOAT64 else (4 if element == FLOAT32 else 2)

    @inlined
    def load_element(source, element):
        if element == FLOAT16:
            return np.float64(load_one_float16(source, zero))
        if element == BFLOAT16:
            return np.float64(load_one_bfloat16(source, zero))
        if element == FLOAT32:
            return np.float64(load_one_float32(source, zero))
        return np.float64(load_one_float64(source, 0.0))

    @inlined
    def store_element(destination, element, value):
        if element == own_element:
            pointer_at(destination, zero)[0] = real(value)
        elif element == FLOAT16:
            store_one_float16(destination, real(value))
        else:
            store_one_bfloat16(destination, real(value))

    @compiled
    def convert_block(source, element, n, buffer):
        size = element_size(element)
        j = 0
        while j + line <= n:
            place = source + j * size
            if element == FLOAT16:
                store(buffer, j, load_float16(place, zero))
            elif element == BFLOAT16:
                store(buffer, j, load_bfloat16(place, zero))
            elif element == FLOAT32:
                store(buffer, j, load_float32(place, zero))
            else:
                store(buffer, j, load_float64(place, zero))
            j += line
        while j < n:
            buffer[j] = real(load_element(source + j * size, element))
            j += 1

    @inlined
    def load_block(source, element, n, buffer):
        # n elements as reals: where they lie, or converted into `buffer` (BLOCK reals).
        if element == own_element:
            return pointer_at(source, zero)
        convert_block(source, element, n, buffer)
        return buffer

    @inlined
    def output_block(destination, element, buffer):
        # Where results go first: to their place, or to `buffer` until store_block converts.
        if element == own_element:
            return pointer_at(destination, zero)
        return buffer

    @compiled
    def store_block(block, n, destination, element):
        if element == own_element:
            return
        j = 0
        while j + line <= n:
            if element == FLOAT16:
                store_float16(destination + 2 * j, load(block, j))
            else:
                store_bfloat16(destination + 2 * j, load(block, j))
            j += line
        while j < n:
            store_element(destination + 2 * j, element, np.float64(block[j]))
            j += 1

    # ---- passes over a block ----

    @compiled
    def block_maximum(logits, n):
        # The largest of n logits, -inf where there is none; a NaN is passed over.
        a = broadcast(minus_infinity)
        b = a
        c = a
        d = a
        j = 0
        while j + 4 * line <= n:
            a = maximum(load(logits, j), a)
            b = maximum(load(logits, j + line), b)
            c = maximum(load(logits, j + 2 * line), c)
            d = maximum(load(logits, j + 3 * line), d)
            j += 4 * line
        while j + line <= n:
            a = maximum(load(logits, j), a)
            j += line
        if j < n:
            a = maximum(load_partial(logits, j, n - j, minus_infinity), a)
        return np.float64(fold_maximum(maximum(maximum(a, b), maximum(c, d))))

    @inlined
    def block_term(x, reference):
        # power and part are both 0 where x = m, which adds to the count instead.
        reduced = reduce(x, reference)
        power = clear_equal(reduced.power, x, broadcast(reference.maximum))
        return Term(power=power, part=multiply(power, multiply(reduced.slope, reduced.r)))

    @inlined
    def add_terms(a, b):
        return Term(power=add(a.power, b.power), part=add(a.part, b.part))

    @inlined
    def block_pair(logits, j, reference):
        prefetch(logits, j + PREFETCH_DISTANCE)
        prefetch(logits, j + line + PREFETCH_DISTANCE)
        return add_terms(
            block_term(load(logits, j), reference), block_term(load(logits, j + line), reference)
        )

    @inlined
    def block_count(logits, j, reference):
        m = broadcast(reference.maximum)
        count = 0
        for k in range(8):
            count += count_equal(load(logits, j + k * line), m)
        return count

    @compiled
    def block_sum(logits, n, reference):
        # count: how many logits equal m; rest: the sum of exp(x_j - m) over the others; rest_lost:
        # what rounding has lost of it since the lanes were folded. Eight lines
        # are added as a binary tree, which is exact for equal terms, and then go on in float64.
        powers = zero_sums(zero)
        parts = powers
        m = broadcast(reference.maximum)
        count = 0
        j = 0
        while j + 8 * line <= n:
            count += block_count(logits, j, reference)
            total = add_terms(
                add_terms(
                    block_pair(logits, j, reference),
                    block_pair(logits, j + 2 * line, reference),
                ),
                add_terms(
                    block_pair(logits, j + 4 * line, reference),
                    block_pair(logits, j + 6 * line, reference),
                ),
            )
            powers = add_to_sums(powers, total.power)
            parts = add_to_sums(parts, total.part)
            j += 8 * line
        if j < n:
            total = Term(power=broadcast(zero), part=broadcast(zero))
            while j + line <= n:
                prefetch(logits, j + PREFETCH_DISTANCE)
                x = load(logits, j)
                count += count_equal(x, m)
                total = add_terms(total, block_term(x, reference))
                j += line
            if j < n:
                x = load_partial(logits, j, n - j, minus_infinity)
                count += count_equal(x, m)
                total = add_terms(total, block_term(x, reference))
            powers = add_to_sums(powers, total.power)
            parts = add_to_sums(parts, total.part)
        # |part| < power, so the sum's error is exact (Dekker); that of the product is by fma
        power = fold_sum(powers)
        part = fold_sum(parts)
        sum_total = power + part
        rest = sum_total * reference.factor
        rest_lost = fma(sum_total, reference.factor, -rest) + (part - (sum_total - power)) * (
            reference.factor
        )
        return BlockSum(count=np.float64(count), rest=rest, rest_lost=rest_lost)

    @inlined
    def add_targets(a, b):
        return TargetLine(dot=add(a.dot, b.dot), mass=add(a.mass, b.mass))

    @inlined
    def target_line(logits, targets, j, n, m):
        none = zero_sums(zero)
        left = n - j
        if left >= line:
            x = load(logits, j)
            t = load(targets, j)
        else:
            x = load_partial(logits, j, left, zero)
            t = load_partial(targets, j, left, zero)
        weights = add_to_sums(none, t)
        terms = multiply(weights, subtract(m, add_to_sums(none, x)))
        return TargetLine(dot=clear_equal(terms, weights, none), mass=weights)

    @inlined
    def target_pair(logits, targets, j, n, m):
        return add_targets(
            target_line(logits, targets, j, n, m),
            target_line(logits, targets, j + 4 * line, n, m),
        )

    @compiled
    def block_target(logits, targets, n, maximum):
        # dot: sum of t_j * (m - x_j), where a class without mass costs nothing whatever its logit;
        # mass: sum of t_j. In float64 throughout: both are sums of products of the inputs.
        none = zero_sums(zero)
        m = add_to_sums(none, broadcast(real(maximum)))
        dots = none
        dots_lost = none
        masses = none
        masses_lost = none
        j = 0
        while j < n:
            # eight lines at a time, folded in half as in block_sum; what is missing adds 0
            pair_a = target_pair(logits, targets, j, n, m)
            pair_b = target_pair(logits, targets, j + line, n, m)
            pair_c = target_pair(logits, targets, j + 2 * line, n, m)
            pair_d = target_pair(logits, targets, j + 3 * line, n, m)
            group = add_targets(add_targets(pair_a, pair_c), add_targets(pair_b, pair_d))
            dots_lost = add(dots_lost, sum_error(dots, group.dot))
            masses_lost = add(masses_lost, sum_error(masses, group.mass))
            dots = add(dots, group.dot)
            masses = add(masses, group.mass)
            j += 8 * line
        dot, dot_lost = fold_sum_and_lost(dots, dots_lost)
        mass, mass_lost = fold_sum_and_lost(masses, masses_lost)
        return BlockTarget(dot=dot, dot_lost=dot_lost, mass=mass, mass_lost=mass_lost)

    @compiled
    def block_softmax(logits, n, reference, scale, output):
        # output_j = scale * exp(x_j - m) / factor
        scales = broadcast(real(scale))
        j = 0
        while j + line <= n:
            store(output, j, scaled_exponential(load(logits, j), reference, scales))
            j += line
        if j < n:
            x = load_partial(logits, j, n - j, zero)
            store_partial(output, j, scaled_exponential(x, reference, scales), n - j)

    @compiled
    def block_softmax_minus_target(
        logits, targets, n, reference, scale, target_scale, mass, mass_lost, others, output
    ):
        # output_j = scale * exp(x_j - m) / factor - target_scale * t_j, except at a logit x_j = m
        # that has more than half of the softmax: there
        # A*p_j - t_j = (A - t_j) - A*(sum_exp - 1)/sum_exp, which keeps its digits as p_j comes
        # close to 1 (A is the mass of t, `others` is 1 - p_j).
        scales = broadcast(real(scale))
        target_scales = broadcast(real(-target_scale))
        m = broadcast(reference.maximum)
        j = 0
        while j < n:
            left = min(line, n - j)
            if left == line:
                x = load(logits, j)
                t = load(targets, j)
            else:
                x = load_partial(logits, j, left, zero)
                t = load_partial(targets, j, left, zero)
            value = add(scaled_exponential(x, reference, scales), multiply(t, target_scales))
            if others < 0.5 and count_equal(x, m) != 0:
                for k in range(left):
                    if lane(x, k) == reference.maximum:
                        t_k = np.float64(lane(t, k))
                        label = target_scale * (((mass - t_k) + mass_lost) - mass * others)
                        value = with_lane(value, k, real(label))
            if left == line:
                store(output, j, value)
            else:
                store_partial(output, j, value, left)
            j += left

    @compiled
    def block_log_softmax(logits, n, maximum, log_sum_exp, output):
        # output_j = (x_j - m) - log(sum_exp)
        m = broadcast(real(maximum))
        log_sum = broadcast(real(log_sum_exp))
        j = 0
        while j + line <= n:
            store(output, j, subtract(subtract(load(logits, j), m), log_sum))
            j += line
        if j < n:
            x = load_partial(logits, j, n - j, zero)
            store_partial(output, j, subtract(subtract(x, m), log_sum), n - j)

    return SimpleNamespace(
        real=real,
        reference_at=reference_at,
        balancing_exponent=balancing_exponent,
        shift_exponent=shift_exponent,
        element_size=element_size,
        load_element=load_element,
        store_element=store_element,
        load_block=load_block,
        output_block=output_block,
        store_block=store_block,
        block_maximum=block_maximum,
        block_sum=block_sum,
        block_target=block_target,
        block_softmax=block_softmax,
        block_softmax_minus_target=block_softmax_minus_target,
        block_log_softmax=block_log_softmax,
    )
