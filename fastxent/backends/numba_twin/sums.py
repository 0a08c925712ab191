"""Blocks of a row, and the passes that sum them up: maxima, exponentials, targets, spreads.

A pass computes a value for each class, which are then summed in an order of their own.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from ..context import BLOCK
from ..numba_functions import compiled, inlined
from ..numba_scalars import (
    address_of,
    bits_of,
    float_of_bits,
    fma,
    pointer_at,
    prefetch,
    prefetch_to_write,
    stack_buffer,
)
from .elements import copy_values, element_size, load_block
from .exponential import put_together, reduce, scaled_term, with_tail
from .precision import (
    PREFETCH_DISTANCE,
    block_buffer,
    group,
    line,
    minus_infinity,
    nan,
    real,
    real_bytes,
    zero,
)
from .settings import REAL_BITS, TRANSFORMS
from .transforms import (
    divide_all,
    exact_sum,
    transform_relative_to,
    turn_into_slopes,
    write_cap_exponentials,
    write_capped_differences,
    write_differences,
)


class Block(NamedTuple):
    """A block of a row, ready for the passes."""

    logits: Any
    n: Any
    ahead: Any  # where the logits lie that memory is asked for meanwhile
    written: Any  # where the lines lie that are about to be written, or 0
    line_bytes: Any  # a line of logits in memory
    maximum: Any  # -inf where there is no logit
    buffer: Any  # BLOCK reals


class Transformed(NamedTuple):
    """What logits that are capped or divided by a temperature have besides.

    Addresses of BLOCK reals each; all 0 for logits that are not transformed.
    """

    values: Any
    tails: Any  # their differences to the maximum are values + tails
    slopes: Any  # the derivatives of what was done to them are slopes + slope_tails
    slope_tails: Any


class BlockSum(NamedTuple):
    count: Any
    rest: Any
    rest_lost: Any


class BlockTarget(NamedTuple):
    dot: Any
    dot_lost: Any
    mass: Any
    mass_lost: Any


class BlockSpread(NamedTuple):
    """What smoothing spreads over the classes that are not masked."""

    dot: Any  # sum of w_j * (m - x_j)
    dot_lost: Any
    mass: Any  # sum of w_j
    mass_lost: Any
    count: Any


class Total(NamedTuple):
    """A sum, and what rounding has lost of it."""

    value: Any
    value_lost: Any


LANES: Final = 16
eighths_buffer = stack_buffer(BLOCK // 8)
rest_buffer = stack_buffer(9 * LANES)
sums_buffer = stack_buffer(2 * LANES)
masses_buffer = stack_buffer(BLOCK + LANES)
transformed_buffer = stack_buffer(4 * BLOCK)


@inlined
def open_block(block, row, element, j, n, output):
    # Elements j to j + n of a row at `row`, before its maximum is known. `output` is where the
    # row's output goes through the caches, or 0.
    size = element_size(element)
    source = row + j * size
    return Block(
        logits=load_block(source, element, n, block.buffer),
        n=n,
        ahead=source + PREFETCH_DISTANCE * size,
        written=output + j * size if output != 0 else 0,
        line_bytes=line * size,
        maximum=-math.inf,
        buffer=block.buffer,
    )


@inlined
def new_block(buffer):
    # An empty one; `buffer` is room for BLOCK reals.
    return Block(
        logits=buffer, n=0, ahead=0, written=0, line_bytes=0, maximum=-math.inf,
        buffer=buffer,
    )  # fmt: skip


@inlined
def transformed_in(buffer):
    # Room for a transformed block, in 4 * BLOCK reals.
    address = address_of(buffer)
    size = BLOCK * real_bytes
    return Transformed(
        values=address, tails=address + size, slopes=address + 2 * size,
        slope_tails=address + 3 * size,
    )  # fmt: skip


@inlined
def with_logits(block, logits):
    return Block(
        logits=logits, n=block.n, ahead=block.ahead, written=block.written,
        line_bytes=block.line_bytes, maximum=block.maximum,
        buffer=block.buffer,
    )  # fmt: skip


@compiled
def largest_of(values, n):
    # -inf where there is none. A NaN may hide other values. As integers the floats without a sign
    # are ordered as they are, and those with one the other way round and below.
    top = bits_of(minus_infinity)
    top_negative = top
    for j in range(n):
        bits = bits_of(values[j])
        top = bits if bits > top else top
        top_negative = bits if bits < top_negative else top_negative
    return float_of_bits(top if top >= 0 else top_negative)


@compiled
def block_maximum(block):
    # The block with its maximum; whatever comes of a row with a NaN is NaN.
    logits = block.logits
    n = block.n
    if n < 2 * line:
        largest = largest_of(logits, n)
    else:
        # the last lines once more: what a loop's vectors leave over is done one by one
        largest = largest_of(logits, n // (2 * line) * (2 * line))
        last = largest_of(
            pointer_at(address_of(logits) + (n - 2 * line) * real_bytes, zero), 2 * line
        )
        largest = last if last > largest else largest
    return Block(
        logits=logits, n=n, ahead=block.ahead, written=block.written,
        line_bytes=block.line_bytes, maximum=np.float64(largest), buffer=block.buffer,
    )  # fmt: skip


@compiled
def shift_block(block, shift):
    # The logits less the shift, which is exact for all that matter; in the block's own buffer.
    shifted = block.buffer
    amount = real(shift)
    if address_of(block.logits) == address_of(shifted):
        for j in range(block.n):
            shifted[j] -= amount
    else:
        for j in range(block.n):
            shifted[j] = block.logits[j] - amount
    return with_logits(block, shifted)


@compiled
def transform_block(block, maximum, temperature, softcap, wants_slopes, transformed):
    # The transformed logits less that of `maximum`, and their tails; their slopes if they are
    # wanted and there is a cap.
    reference = transform_relative_to(maximum, temperature, softcap)
    values = pointer_at(transformed.values, zero)
    tails = pointer_at(transformed.tails, zero)
    if softcap != 0.0:
        q = pointer_at(transformed.slopes, zero)
        q_tails = pointer_at(transformed.slope_tails, zero)
        write_cap_exponentials(block.logits, block.n, reference.transform, q, q_tails)
        write_capped_differences(block.logits, q, q_tails, block.n, reference, values, tails)
        if wants_slopes:
            turn_into_slopes(block.logits, q, q_tails, block.n)
    else:
        write_differences(block.logits, block.n, reference, values, tails)
    if temperature != 1.0:
        divide_all(values, tails, block.n, reference.transform)
    return with_logits(block, values)


@inlined
def lost(a, b):
    # a + b minus its rounded value.
    return exact_sum(a, b).low


@inlined
def add_eighths(values, eighth, sums):
    # The sums of eight values each, `eighth` apart, added as a binary tree.
    for k in range(eighth):
        j = k
        first = (values[j] + values[j + eighth]) + (values[j + 2 * eighth] + values[j + 3 * eighth])
        j += 4 * eighth
        other = (values[j] + values[j + eighth]) + (values[j + 2 * eighth] + values[j + 3 * eighth])
        sums[k] = first + other


@inlined
def add_to_lane(sums, k, value, compensates):
    if compensates:
        sums[LANES + k] += lost(sums[k], value)
    sums[k] += value


@inlined
def add_lines(values, n, sums, lanes, compensates):
    # n values, a multiple of LANES. (`lanes` is LANES, but LLVM must not know: it would unroll the
    # loops over it before it makes vectors of them, and then cannot.)
    whole = n // (4 * LANES) * (4 * LANES)
    for j in range(0, whole, 4 * LANES):
        for k in range(lanes):
            for line_start in range(j, j + 4 * LANES, LANES):
                add_to_lane(sums, k, np.float64(values[line_start + k]), compensates)
    for j in range(whole, n, LANES):
        for k in range(lanes):
            add_to_lane(sums, k, np.float64(values[j + k]), compensates)


@inlined
def fold_lanes(sums, n, compensates):
    for k in range(n):
        if compensates:
            sums[LANES + k] += sums[LANES + k + n]
        add_to_lane(sums, k, sums[k + n], compensates)


@inlined
def sum_in_lanes(eighths, eighth, rest, n_rest, sums, lanes, compensates):
    # In LANES sums of float64, which are folded in half until one is left. There is room for a
    # line after the rest.
    for k in range(2 * LANES):
        sums[k] = 0.0
    for k in range(LANES):
        rest[n_rest + k] = 0.0
    add_lines(eighths, eighth, sums, lanes, compensates)
    add_lines(rest, (n_rest + LANES - 1) // LANES * LANES, sums, lanes, compensates)
    fold_lanes(sums, LANES // 2, compensates)
    fold_lanes(sums, LANES // 4, compensates)
    fold_lanes(sums, LANES // 8, compensates)
    fold_lanes(sums, LANES // 16, compensates)
    if compensates:
        return Total(value=sums[0] + sums[LANES], value_lost=lost(sums[0], sums[LANES]))
    return Total(value=sums[0], value_lost=0.0)


# Sums of n values, of eight at a time as far as there are whole groups, and the rest.


@inlined
def n_eighths(n):
    return n // (8 * LANES) * LANES


@inlined
def sum_values_in(sums, values, n, lanes, none, value_bytes, compensates):
    # `none` is a 0 of the values' type.
    eighths = eighths_buffer(none)
    eighth = n_eighths(n)
    add_eighths(values, eighth, eighths)
    rest = pointer_at(address_of(values) + 8 * eighth * value_bytes, none)
    return sum_in_lanes(eighths, eighth, rest, n - 8 * eighth, sums, lanes, compensates)


@compiled
def sum_reals_in(sums, values, n, lanes):
    # in float32 arithmetic float64 loses nothing
    return sum_values_in(sums, values, n, lanes, zero, real_bytes, REAL_BITS == 64)


@compiled
def sum_doubles_in(sums, values, n, lanes):
    return sum_values_in(sums, values, n, lanes, 0.0, 8, True)


@inlined
def dot_at(logits, masses, j, m):
    dot = masses[j] * (m - np.float64(logits[j]))
    return dot if masses[j] != 0.0 else 0.0


@inlined
def add_eighths_of_dots(logits, masses, eighth, m, sums):
    for k in range(eighth):
        j = k
        a = dot_at(logits, masses, j, m) + dot_at(logits, masses, j + eighth, m)
        j += 2 * eighth
        b = dot_at(logits, masses, j, m) + dot_at(logits, masses, j + eighth, m)
        j += 2 * eighth
        c = dot_at(logits, masses, j, m) + dot_at(logits, masses, j + eighth, m)
        j += 2 * eighth
        d = dot_at(logits, masses, j, m) + dot_at(logits, masses, j + eighth, m)
        sums[k] = (a + b) + (c + d)


@compiled
def sum_dots_in(sums, logits, masses, n, m, lanes):
    # Of masses_j * (m - x_j), where what has no mass costs nothing.
    eighths = eighths_buffer(0.0)
    rest = rest_buffer(0.0)
    eighth = n_eighths(n)
    add_eighths_of_dots(logits, masses, eighth, m, eighths)
    for k in range(n - 8 * eighth):
        rest[k] = dot_at(logits, masses, 8 * eighth + k, m)
    return sum_in_lanes(eighths, eighth, rest, n - 8 * eighth, sums, lanes, True)


@inlined
def below(term, top):
    # NaN stays.
    return zero if term >= top else term


@inlined
def eight_below(terms, j, apart, top):
    first = (below(terms[j], top) + below(terms[j + apart], top)) + (
        below(terms[j + 2 * apart], top) + below(terms[j + 3 * apart], top)
    )
    j += 4 * apart
    other = (below(terms[j], top) + below(terms[j + apart], top)) + (
        below(terms[j + 2 * apart], top) + below(terms[j + 3 * apart], top)
    )
    return first + other


@inlined
def one_more(count, term, top):
    return np.int32(count + (1 if term >= top else 0))


@inlined
def add_eighths_below(terms, eighth, top, sums):
    # add_eighths of the terms below `top`; how many are not (in two counts: one would be
    # waited for)
    a = np.int32(0)
    b = np.int32(0)
    for k in range(eighth):
        sums[k] = eight_below(terms, k, eighth, top)
        a = one_more(a, terms[k], top)
        b = one_more(b, terms[k + eighth], top)
        a = one_more(a, terms[k + 2 * eighth], top)
        b = one_more(b, terms[k + 3 * eighth], top)
        a = one_more(a, terms[k + 4 * eighth], top)
        b = one_more(b, terms[k + 5 * eighth], top)
        a = one_more(a, terms[k + 6 * eighth], top)
        b = one_more(b, terms[k + 7 * eighth], top)
    return np.int32(a + b)


@inlined
def copy_below(terms, n, top, values):
    count = np.int32(0)
    for k in range(n):
        values[k] = below(terms[k], top)
        count = np.int32(count + (1 if terms[k] >= top else 0))
    return count


@compiled
def sum_below_in(sums, terms, n, top, lanes):
    # The sum of the terms below that of the maximum, and how many have that; of all of them where
    # that is NaN. There is room for 2 * line more than n: what a loop's vectors leave over is done
    # one by one.
    eighths = eighths_buffer(zero)
    rest = rest_buffer(zero)
    eighth = n_eighths(n)
    n_rest = n - 8 * eighth
    for k in range(2 * line):
        terms[n + k] = zero
    count = np.int32(0)
    if top == top:
        count = add_eighths_below(terms, eighth, top, eighths)
    else:
        add_eighths(terms, eighth, eighths)
    filled = (n_rest + 2 * line - 1) // (2 * line) * (2 * line)
    first = pointer_at(address_of(terms) + 8 * eighth * real_bytes, zero)
    count += copy_below(first, filled, top, rest)
    total = sum_in_lanes(eighths, eighth, rest, n_rest, sums, lanes, REAL_BITS == 64)
    return total, count


@inlined
def sum_of(values, n):
    return sum_reals_in(sums_buffer(0.0), values, n, LANES)


@inlined
def sum_of_float64(values, n):
    return sum_doubles_in(sums_buffer(0.0), values, n, LANES)


@inlined
def sum_of_dots(logits, masses, n, m):
    return sum_dots_in(sums_buffer(0.0), logits, masses, n, m, LANES)


@inlined
def sum_below(terms, n, top):
    return sum_below_in(sums_buffer(0.0), terms, n, top, LANES)


@compiled
def write_terms(logits, n, reference, terms):
    # exp(x_j - m) / factor. (A loop beside others in a function has its constants in memory,
    # and takes a third longer.)
    for j in range(n):
        terms[j] = put_together(reduce(logits[j], reference))


@compiled
def write_terms_with_tails(logits, tails, n, reference, terms):
    # The same for logits + tails.
    for j in range(n):
        terms[j] = put_together(with_tail(reduce(logits[j], reference), tails[j]))


@compiled
def multiply_terms(terms, n, scale, values):
    for j in range(n):
        values[j] = terms[j] * scale


@compiled
def write_multiples(logits, n, reference, scale, values):
    # scale * exp(x_j - m) / factor
    for j in range(n):
        values[j] = scaled_term(reduce(logits[j], reference), scale)


@compiled
def write_multiples_with_tails(logits, tails, n, reference, scale, values):
    # The same for logits + tails.
    for j in range(n):
        values[j] = scaled_term(with_tail(reduce(logits[j], reference), tails[j]), scale)


@inlined
def block_terms(block, reference, terms):
    # The terms of a block. Meanwhile memory is asked for what comes after it, and for the lines
    # that are about to be written.
    for j in range(0, block.n, 2 * group):
        for k in range(j // line, (min(j + 2 * group, block.n) + line - 1) // line):
            prefetch(block.ahead + k * block.line_bytes)
            if block.written != 0:
                prefetch_to_write(block.written + k * block.line_bytes)
        logits = pointer_at(address_of(block.logits) + j * real_bytes, zero)
        place = pointer_at(address_of(terms) + j * real_bytes, zero)
        write_terms(logits, min(2 * group, block.n - j), reference, place)


@inlined
def sum_but_maxima(terms, n, reference, has_maximum):
    # count: how many logits equal m, as far as their terms tell; rest: the sum of the other
    # exp(x_j - m); rest_lost: what rounding has lost of it. A comparison of each term takes half
    # as long again, and most blocks of a long row do without.
    top = put_together(reduce(reference.maximum, reference)) if has_maximum else nan
    total, count = sum_below(terms, n, top)
    rest = total.value * reference.factor
    rest_lost = fma(total.value, reference.factor, -rest) + total.value_lost * reference.factor
    return BlockSum(count=np.float64(count), rest=rest, rest_lost=rest_lost)


@compiled
def block_sum(block, reference, next, terms):
    # The terms are left behind; there is room for 2 * line more than the block has.
    block_terms(block, reference, terms)
    is_below = block.maximum < np.float64(reference.maximum) + reference.shift
    return sum_but_maxima(terms, block.n, reference, not is_below), block_maximum(next)


@compiled
def block_sum_with_tails(block, tails, reference, next, terms):
    # block_sum of a transformed block, whose maximum is 0.
    write_terms_with_tails(block.logits, pointer_at(tails, zero), block.n, reference, terms)
    return sum_but_maxima(terms, block.n, reference, True), block_maximum(next)


@compiled
def block_sum_and_spread(block, reference, next, class_weights, mass, terms):
    # while there is no finite maximum, what is not masked is NaN or infinite anyway
    m = np.float64(reference.maximum)
    spread = block_spread(block.logits, class_weights, block.n, m if m == m else 0.0, mass)
    sums, next = block_sum(block, reference, next, terms)
    return sums, next, spread


@compiled
def multiply_masses(masses, class_weights, n):
    for j in range(n):
        masses[j] *= np.float64(class_weights[j])


@compiled
def block_target(logits, targets, class_weights, n, maximum):
    # dot: sum of t_j * (m - x_j), where a class without mass costs nothing whatever its logit;
    # mass: sum of t_j. t_j is a target, times its class's weight if there are weights. In
    # float64 throughout: both are sums of products of the inputs.
    masses = masses_buffer(0.0)
    ahead = address_of(targets) + PREFETCH_DISTANCE * real_bytes
    for j in range(0, n, line):
        prefetch(ahead + j * real_bytes)
    copy_values(targets, n, masses)
    if class_weights != 0:
        multiply_masses(masses, pointer_at(class_weights, zero), n)
    mass = sum_of_float64(masses, n)
    dot = sum_of_dots(logits, masses, n, maximum)
    return BlockTarget(
        dot=dot.value, dot_lost=dot.value_lost, mass=mass.value, mass_lost=mass.value_lost
    )


@compiled
def spread_but_masked(logits, class_weights, n, maximum):
    # The spread of a block where some classes are masked, or m - x_j is too large for a real:
    # in float64, with a look at each.
    masses = masses_buffer(0.0)
    count = 0
    for j in range(n):
        masses[j] = 0.0 if logits[j] == minus_infinity else 1.0
        count += 0 if logits[j] == minus_infinity else 1
    if class_weights != 0:
        multiply_masses(masses, pointer_at(class_weights, zero), n)
    mass = sum_of_float64(masses, n)
    dot = sum_of_dots(logits, masses, n, maximum)
    return BlockSpread(
        dot=dot.value, dot_lost=dot.value_lost, mass=mass.value, mass_lost=mass.value_lost,
        count=np.float64(count),
    )  # fmt: skip


@compiled
def block_spread(logits, class_weights, n, maximum, mass):
    # The sum of w_j * (m - x_j), given that of the weights of all classes, which are 1 where
    # there are none.
    values = block_buffer(zero)
    m = real(maximum)
    for j in range(n):
        values[j] = m - logits[j]
    if class_weights != 0:
        weights = pointer_at(class_weights, zero)
        for j in range(n):
            values[j] *= weights[j]
    dot = sum_of(values, n)
    if dot.value - dot.value != 0.0:
        return spread_but_masked(logits, class_weights, n, maximum)
    return BlockSpread(
        dot=dot.value, dot_lost=dot.value_lost, mass=mass, mass_lost=0.0, count=np.float64(n)
    )


@compiled
def block_is_within(values, n, lowest, highest):
    # Whether all n values are from `lowest` to `highest`; no NaN is.
    low = real(lowest)
    high = real(highest)
    outside = 0
    for j in range(n):
        outside += 0 if low <= values[j] <= high else 1
    return outside == 0


@compiled
def write_products(terms, vectors, n, factor, products):
    for j in range(n):
        product = (np.float64(terms[j]) * factor) * np.float64(vectors[j])
        products[j] = product if terms[j] != zero else 0.0


@compiled
def block_expectation(logits, tails, vectors, n, reference):
    # The sum of exp(x_j - m) * v_j, with v_j = m - x_j where there are no vectors. A class
    # without probability adds nothing.
    terms = block_buffer(zero)
    if TRANSFORMS and tails != 0:
        write_terms_with_tails(logits, pointer_at(tails, zero), n, reference, terms)
    else:
        write_terms(logits, n, reference, terms)
    if vectors == 0:
        # 2^spare_exponent too large, which keeps small terms' digits, but not for vectors
        m = reference.maximum
        for j in range(n):
            terms[j] = terms[j] * (m - logits[j]) if terms[j] != zero else zero
        total = sum_of(terms, n)
        return (total.value + total.value_lost) * reference.factor
    # in float64: products with large vectors would overflow as they are added
    products = masses_buffer(0.0)
    write_products(terms, pointer_at(vectors, zero), n, reference.factor, products)
    total = sum_of_float64(products, n)
    return total.value + total.value_lost


@compiled
def first_equal(values, n, value):
    # The first of n values that equals `value`, or -1. In 32 bits, as many as there are floats.
    wanted = real(value)
    none = np.int32(n)
    place = none
    for k in range(n):
        found = np.int32(k) if values[k] == wanted else none
        place = found if found < place else place
    return np.int64(place) if place < none else -1
