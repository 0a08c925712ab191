"""Tiles of the Numba twin: as many rows side by side as a line has lanes.

Where classes are few, or lie far apart in memory, a row by itself keeps no register filled. A tile
holds a row in each lane, class after class; every lane goes through the same arithmetic as a block
of a row does, by itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..context import LANE_CLASSES
from ..numba_functions import compiled, inlined
from ..numba_scalars import address_of, pointer_at, prefetch, prefetch_to_write, stack_buffer
from ..numba_vectors import (
    add,
    add_to_sums,
    broadcast,
    choose_equal,
    choose_greater,
    clear_equal,
    divide,
    exponent_and_mantissa,
    load,
    load_partial,
    load_square,
    maximum,
    multiply,
    multiply_add,
    store,
    store_partial,
    store_square,
    store_sums,
    subtract,
    sums_of,
    zero_sums,
)
from .elements import convert_block, element_size, load_block, output_block, store_block
from .exponential import put_lanes_together, reduce_lanes, scaled_lanes, steps
from .precision import (
    LINE_BYTES,
    LN2,
    arithmetic,
    half,
    infinity,
    line,
    minus_infinity,
    nan,
    one,
    own_element,
    real,
    zero,
)
from .settings import CONVERTS


class LaneSums(NamedTuple):
    """What is known of the rows of a tile: pointers to float64 numbers, a lane each."""

    maximum: Any
    log_sum_exp: Any  # relative to the maximum
    scale: Any  # of the softmax: factor / sum_exp
    others: Any  # 1 - exp(m - m)/sum_exp


class LaneSpread(NamedTuple):
    """What smoothing spreads over the classes of each row that are not masked: see BlockSpread."""

    dot: Any
    mass: Any
    count: Any


class LaneReference(NamedTuple):
    """A Reference for each lane."""

    shift: Any
    maximum: Any
    lowest: Any
    rounder: Any


lanes = line
equal_sums = sums_of(lanes)
exact_difference = real(arithmetic.exact_difference)
rounder = real(float.fromhex(arithmetic.rounder))
# rounded as the C twin's are: in real
log2_e = real(real(float.fromhex(arithmetic.log2_e)) * steps)
step = real(LN2 / steps)
offset = real(steps * (arithmetic.spare_exponent + arithmetic.exponent_offset))
tile_buffer = stack_buffer(LANE_CLASSES * lanes)
line_buffer = stack_buffer(lanes)
square_buffer = stack_buffer(lanes * lanes)
numbers_buffer = stack_buffer(lanes)


@compiled
def load_tile(tile, source, element, n_classes, n, row_stride, class_stride):
    # The logits of n rows; the other lanes hold 0. Element j of row k lies at
    # source + k * row_stride + j * class_stride, and one of the two strides is an element's
    # size.
    if row_stride == element_size(element):
        buffer = line_buffer(zero)
        for j in range(n_classes):
            place = load_block(source + j * class_stride, element, n, buffer)
            if n == lanes:
                store(tile, j * lanes, load(place, 0))
            else:
                store(tile, j * lanes, load_partial(place, 0, n, zero))
        return
    square = square_buffer(zero)
    for j in range(0, n_classes, lanes):
        width = min(lanes, n_classes - j)
        start = source + j * class_stride
        if not CONVERTS or element == own_element:
            load_square(start, row_stride, n, width, tile, j * lanes)
        else:
            for k in range(n):
                row = pointer_at(address_of(square) + k * LINE_BYTES, zero)
                convert_block(start + k * row_stride, element, width, row)
            load_square(address_of(square), LINE_BYTES, n, width, tile, j * lanes)


@compiled
def store_tile(tile, destination, element, n_classes, n, row_stride, class_stride):
    # The values of n rows to where they belong: load_tile the other way round.
    if row_stride == element_size(element):
        buffer = line_buffer(zero)
        for j in range(n_classes):
            place = destination + j * class_stride
            output = output_block(place, element, buffer)
            if n == lanes:
                store(output, 0, load(tile, j * lanes))
            else:
                store_partial(output, 0, load(tile, j * lanes), n)
            store_block(output, n, place, element)
        return
    square = square_buffer(zero)
    for j in range(0, n_classes, lanes):
        width = min(lanes, n_classes - j)
        start = destination + j * class_stride
        if not CONVERTS or element == own_element:
            store_square(tile, j * lanes, start, row_stride, n, width)
        else:
            store_square(tile, j * lanes, address_of(square), LINE_BYTES, n, width)
            for k in range(n):
                row = pointer_at(address_of(square) + k * LINE_BYTES, zero)
                store_block(row, width, start + k * row_stride, element)


@inlined
def refer_lanes_to(largest):
    none = broadcast(zero)
    magnitude = choose_greater(none, largest, subtract(none, largest), largest)
    finite = choose_greater(broadcast(infinity), magnitude, broadcast(one), none)
    far = multiply(
        finite,
        choose_greater(magnitude, broadcast(exact_difference), broadcast(one), none),
    )
    shift = choose_equal(far, broadcast(one), largest, none)
    m = choose_equal(finite, broadcast(one), subtract(largest, shift), none)
    # the nearest integer, by adding the rounder
    n = subtract(multiply_add(m, broadcast(log2_e), broadcast(rounder)), broadcast(rounder))
    return LaneReference(
        shift=shift,
        maximum=choose_equal(finite, broadcast(one), m, broadcast(nan)),
        lowest=multiply(subtract(n, broadcast(offset)), broadcast(step)),
        rounder=subtract(add(broadcast(rounder), broadcast(offset)), n),
    )


@inlined
def lane_reduce(x, reference):
    # exp(x - m) / factor as power * (1 + part), each lane relative to a maximum of its own
    return reduce_lanes(subtract(x, reference.shift), reference.lowest, reference.rounder)


@inlined
def lane_log1p(y):
    # log(1 + y) for y >= 0, to 2^-44 of itself: 1 + y = 2^k (1 + f), and with s = f / (2 + f)
    # log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...). Where k is 0, f is y itself, which keeps the
    # digits of a confident row. The arithmetic of lanes is in float32, and 16 calls of log1p
    # would take longer than all the rest of a tile of 10 classes.
    whole = equal_sums(1.0)
    two = equal_sums(2.0)
    k, mantissa = exponent_and_mantissa(add(y, whole))
    f = choose_equal(k, zero_sums(zero), y, subtract(mantissa, whole))
    s = divide(f, add(f, two))
    z = multiply(s, s)
    series = divide(whole, equal_sums(15.0))
    for odd in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        series = add(multiply(series, z), divide(whole, equal_sums(odd)))
    twice = multiply(two, s)
    rest = add(twice, multiply(multiply(twice, z), series))
    # y - y: 0, or NaN for a NaN, which taken apart into exponent and mantissa would be one no
    # more
    return add(add(multiply(k, equal_sums(LN2)), rest), subtract(y, y))


@inlined
def lane_term(x, reference):
    # exp(x - m) / factor, but 0 where x = m, which adds to the count instead
    term = put_lanes_together(lane_reduce(x, reference))
    return clear_equal(term, subtract(x, reference.shift), reference.maximum)


@inlined
def lane_equal(x, reference):
    return choose_equal(
        subtract(x, reference.shift), reference.maximum, broadcast(one), broadcast(zero)
    )


@compiled
def sum_tile(tile, n_classes, ahead, ahead_stride, output, output_stride, sums):
    # The sums of a tile, and what they are relative to. Every term is added in float64: a sum
    # of a few in float32 has nothing to average its roundings with, and was wrong by 2.9 ULP at
    # worst instead of 1.5. Meanwhile memory is asked for the lines of a tile that comes later,
    # the first at `ahead` and one further on by `ahead_stride` for every class, and for those
    # of this tile's output, which are about to be written (20000 x 100 float32 with gradient,
    # one thread: 2.1 ms against 3.0).
    none = zero_sums(zero)
    largest = broadcast(minus_infinity)
    for j in range(n_classes):
        largest = maximum(load(tile, j * lanes), largest)
    reference = refer_lanes_to(largest)
    rest = none
    counts = broadcast(zero)
    for j in range(n_classes):
        prefetch(ahead + j * ahead_stride)
        prefetch_to_write(output + j * output_stride)
        x = load(tile, j * lanes)
        rest = add_to_sums(rest, lane_term(x, reference))
        counts = add(counts, lane_equal(x, reference))
    # exp(m - m) / factor as it comes out of the exponential, not rounded to 1
    own = lane_reduce(largest, reference)
    unit = add_to_sums(add_to_sums(none, own.power), multiply(own.power, own.part))
    # sum_exp = 1 + above; a row without a finite maximum has no count, and no softmax: NaN
    whole = equal_sums(1.0)
    above = add(divide(rest, unit), subtract(add_to_sums(none, counts), whole))
    y = choose_equal(maximum(above, none), above, above, equal_sums(math.nan))
    total = add(y, whole)
    store_sums(sums.maximum, add_to_sums(none, largest))
    store_sums(sums.log_sum_exp, lane_log1p(y))
    store_sums(sums.scale, divide(whole, multiply(total, unit)))
    store_sums(sums.others, divide(y, total))
    return reference


@inlined
def line_from(numbers):
    # float64 numbers as a line of reals
    buffer = line_buffer(zero)
    for k in range(lanes):
        buffer[k] = real(numbers[k])
    return load(buffer, 0)


@inlined
def shift_lanes(reference, exponents):
    # shift_exponent, by an exponent for each lane.
    exponent = line_from(exponents)
    return LaneReference(
        shift=reference.shift,
        maximum=reference.maximum,
        lowest=add(reference.lowest, multiply(exponent, broadcast(real(LN2)))),
        rounder=subtract(reference.rounder, multiply(exponent, broadcast(real(steps)))),
    )


@compiled
def softmax_tile(tile, n_classes, reference, scales):
    # values_j = scale * exp(x_j - m) / factor
    scale = line_from(scales)
    for j in range(n_classes):
        reduced = lane_reduce(load(tile, j * lanes), reference)
        store(tile, j * lanes, scaled_lanes(reduced, scale))


@inlined
def weight_of(class_weights, j):
    # `class_weights` is an address, or 0 where there are none.
    if class_weights == 0:
        return broadcast(one)
    return broadcast(pointer_at(class_weights, zero)[j])


@compiled
def spread_tile(tile, n_classes, class_weights, maxima, spread):
    # w_j * (m - x_j) and w_j summed over the classes that are not masked, in float64.
    none = zero_sums(zero)
    dots = none
    masses = none
    counts = broadcast(zero)
    m = line_from(maxima)
    masked = broadcast(minus_infinity)
    for j in range(n_classes):
        x = load(tile, j * lanes)
        weight = weight_of(class_weights, j)
        term = multiply(subtract(m, x), weight)
        dots = add_to_sums(dots, clear_equal(term, x, masked))
        masses = add_to_sums(masses, clear_equal(weight, x, masked))
        counts = add(counts, clear_equal(broadcast(one), x, masked))
    store_sums(spread.dot, dots)
    store_sums(spread.mass, masses)
    store_sums(spread.count, add_to_sums(none, counts))


@compiled
def subtract_spread_from_tile(tile, n_classes, reference, scales, spreads, class_weights):
    # values_j = scale * exp(x_j - m) / factor - spread * w_j, less nothing at a class that is
    # masked
    scale = line_from(scales)
    spread = line_from(spreads)
    for j in range(n_classes):
        x = load(tile, j * lanes)
        own = multiply(spread, weight_of(class_weights, j))
        value = scaled_lanes(lane_reduce(x, reference), scale)
        kept = clear_equal(own, x, broadcast(minus_infinity))
        store(tile, j * lanes, subtract(value, kept))


@compiled
def hessian_tile(tile, n_classes, reference, scales, others, totals):
    # values_j = total * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor
    scale = line_from(scales)
    rest = line_from(others)
    total = line_from(totals)
    for j in range(n_classes):
        p = scaled_lanes(lane_reduce(load(tile, j * lanes), reference), scale)
        most = choose_greater(p, broadcast(half), rest, subtract(broadcast(one), p))
        store(tile, j * lanes, multiply(multiply(p, most), total))


@compiled
def log_softmax_tile(tile, n_classes, maxima, logs):
    # values_j = (x_j - m) - log(sum_exp)
    m = line_from(maxima)
    log_sum = line_from(logs)
    for j in range(n_classes):
        store(tile, j * lanes, subtract(subtract(load(tile, j * lanes), m), log_sum))
