"""Tiles of the Numba twin: many rows side by side.

Where classes are few, or lie far apart in memory, a row by itself keeps no register filled. A tile
holds the logits of up to MOST_LANES rows class after class, a row in each lane, and what is done
to a row is a loop over the lanes; every lane goes through the same arithmetic as a block of a row
does, by itself. All loops are over whole lines of lanes, those without a row being 0.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from ..context import LANE_CLASSES
from ..numba_functions import compiled, inlined
from ..numba_scalars import (
    SQUARE_BYTES,
    address_of,
    bits_of,
    float_of_bits,
    fma,
    pointer_at,
    prefetch,
    prefetch_to_write,
    stack_buffer,
    transpose_square,
)
from .elements import (
    convert_block,
    convert_results,
    copy_values,
    element_size,
    load_block,
    output_block,
    store_block,
)
from .exponential import Reference, log2_e, put_together, reduce
from .precision import (
    LINE_BYTES,
    LN2,
    arithmetic,
    half,
    line,
    minus_infinity,
    one,
    own_element,
    real,
    real_bytes,
    zero,
)
from .settings import CONVERTS

MOST_LANES: Final = 256
# The bytes of a tile's logits; its exponentials take as many.
TILE_BYTES: Final = 32768
# Memory is asked for the logits of the tile that comes so many later.
TILES_AHEAD: Final = 2


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
    """A Reference for each lane: pointers to reals."""

    shift: Any
    lowest: Any
    rounder: Any


class Tile(NamedTuple):
    """Class after class, a row in each lane."""

    logits: Any
    terms: Any  # exp(x_j - m) / factor, and what is made of them
    lanes: Any  # how many


class Coming(NamedTuple):
    """Lines of memory to ask for: addresses, or 0, and how much further they are for each class."""

    logits: Any  # of a tile that comes later
    logits_stride: Any
    output: Any  # of this one, which is about to be written
    output_stride: Any


exact_difference = real(arithmetic.exact_difference)
rounder = real(float.fromhex(arithmetic.rounder))
step = real(LN2)
offset = real(arithmetic.spare_exponent + arithmetic.exponent_offset)
# of reals in a square
side = SQUARE_BYTES // real_bytes
tile_size = TILE_BYTES // real_bytes
tile_buffer = stack_buffer(tile_size)
rows_buffer = stack_buffer(side * LANE_CLASSES)
tile_lanes_buffer = stack_buffer(MOST_LANES)
four_buffer = stack_buffer(4 * MOST_LANES)
no_count = np.int32(0)


@inlined
def lanes_for(n_classes, n_rows):
    # How many lanes a tile has, a multiple of a line.
    most = min(tile_size // n_classes // line * line, MOST_LANES)
    return min((n_rows + line - 1) // line * line, most)


@inlined
def lanes_of(values, j, lanes):
    # Those of class j.
    return pointer_at(address_of(values) + j * lanes * real_bytes, zero)


@compiled
def copy_apart(values, stride, n, places, other_stride):
    # reals that lie `stride` apart to places `other_stride` apart
    for k in range(n):
        places[k * other_stride] = values[k * stride]


@compiled
def transpose(source, stride, n_rows, n_columns, destination, other_stride):
    # The element in row k and column j, at source + k * stride + j * real_bytes, to
    # destination + j * other_stride + k * real_bytes. Squares are read and written by vectors: one
    # by one, elements took 0.31 ns each instead of 0.1. The last square of a row laps over the one
    # before it.
    whole = n_rows // side * side if n_columns >= side else 0
    for j in range(0, n_columns if whole > 0 else 0, side):
        first = min(j, n_columns - side)
        for k in range(0, whole, side):
            transpose_square(
                source + k * stride + first * real_bytes, stride,
                destination + first * other_stride + k * real_bytes, other_stride, zero,
            )  # fmt: skip
    if n_rows - whole < n_columns:
        for k in range(whole, n_rows):
            copy_apart(
                pointer_at(source + k * stride, zero), 1, n_columns,
                pointer_at(destination + k * real_bytes, zero), other_stride // real_bytes,
            )  # fmt: skip
    else:
        for j in range(n_columns):
            copy_apart(
                pointer_at(source + whole * stride + j * real_bytes, zero), stride // real_bytes,
                n_rows - whole,
                pointer_at(destination + j * other_stride + whole * real_bytes, zero), 1,
            )  # fmt: skip


@compiled
def fill_values(places, start, stop):
    for k in range(start, stop):
        places[k] = zero


@compiled
def load_tile(tile, source, element, n_classes, n, row_stride, class_stride):
    # The logits of n rows; the other lanes hold 0. Element j of row k lies at
    # source + k * row_stride + j * class_stride, and one of the two strides is an element's
    # size.
    logits = address_of(tile.logits)
    apart = tile.lanes * real_bytes
    if row_stride == element_size(element):
        buffer = tile_lanes_buffer(zero)
        for j in range(n_classes):
            values = load_block(source + j * class_stride, element, n, buffer)
            copy_values(values, n, lanes_of(tile.logits, j, tile.lanes))
    elif not CONVERTS or element == own_element:
        transpose(source, row_stride, n, n_classes, logits, apart)
    else:
        rows = rows_buffer(zero)
        for k in range(0, n, side):
            n_rows = min(side, n - k)
            for r in range(n_rows):
                row = lanes_of(rows, r, LANE_CLASSES)
                convert_block(source + (k + r) * row_stride, element, n_classes, row)
            transpose(
                address_of(rows), LANE_CLASSES * real_bytes, n_rows, n_classes,
                logits + k * real_bytes, apart,
            )  # fmt: skip
    if n < tile.lanes:
        for j in range(n_classes):
            fill_values(lanes_of(tile.logits, j, tile.lanes), n, tile.lanes)


@compiled
def store_tile(tile, destination, element, n_classes, n, row_stride, class_stride):
    # The terms of n rows to where they belong: load_tile the other way round.
    terms = address_of(tile.terms)
    apart = tile.lanes * real_bytes
    if row_stride == element_size(element):
        buffer = tile_lanes_buffer(zero)
        for j in range(n_classes):
            place = destination + j * class_stride
            output = output_block(place, element, buffer)
            copy_values(lanes_of(tile.terms, j, tile.lanes), n, output)
            store_block(output, n, place, element)
    elif not CONVERTS or element == own_element:
        transpose(terms, apart, n_classes, n, destination, row_stride)
    else:
        rows = rows_buffer(zero)
        for k in range(0, n, side):
            n_rows = min(side, n - k)
            transpose(
                terms + k * real_bytes, apart, n_classes, n_rows, address_of(rows),
                LANE_CLASSES * real_bytes,
            )  # fmt: skip
            for r in range(n_rows):
                row = lanes_of(rows, r, LANE_CLASSES)
                convert_results(row, n_classes, destination + (k + r) * row_stride, element)


@inlined
def larger(a, b):
    return a if a > b else b


@inlined
def write_larger(values, others, lanes, larger_ones):
    # (Into another array: where the larger one of both was there, LLVM would leave it out with a
    # masked store, which is microcode on AMD.)
    for k in range(lanes):
        larger_ones[k] = larger(values[k], others[k])


@compiled
def write_largest(logits, n_classes, lanes, tops):
    others = tile_lanes_buffer(zero)
    first = lanes_of(logits, 0, lanes)
    for k in range(lanes):
        tops[k] = larger(first[k], minus_infinity)
    for j in range(1, n_classes - 1, 2):
        write_larger(lanes_of(logits, j, lanes), tops, lanes, others)
        write_larger(lanes_of(logits, j + 1, lanes), others, lanes, tops)
    if n_classes % 2 == 0:
        write_larger(lanes_of(logits, n_classes - 1, lanes), tops, lanes, others)
        for k in range(lanes):
            tops[k] = others[k]


@compiled
def refer_lanes_to(tops, lanes, shifts, lowest, rounders):
    for k in range(lanes):
        top = tops[k]
        finite = top - top == zero
        magnitude = -top if top < zero else top
        far = top if magnitude > exact_difference else zero
        shifts[k] = far if finite else zero
        m = top - far if finite else zero
        # the nearest integer, by adding the rounder
        n = fma(m, log2_e, rounder) - rounder
        lowest[k] = (n - offset) * step
        rounders[k] = (rounder + offset) - n


@inlined
def reference_of(reference, k):
    return Reference(
        shift=0.0, maximum=zero, lowest=reference.lowest[k], rounder=reference.rounder[k],
        factor=0.0,
    )  # fmt: skip


@compiled
def write_lane_terms(tile, n_classes, reference, coming):
    # exp(x - m) / factor, each lane relative to a maximum of its own. Meanwhile memory is asked for
    # what is `coming`, class by class: all at once, there are more lines than a CPU waits for.
    lanes = tile.lanes
    for j in range(n_classes):
        for k in range(lanes // line):
            if coming.logits != 0:
                prefetch(coming.logits + j * coming.logits_stride + k * LINE_BYTES)
            if coming.output != 0:
                prefetch_to_write(coming.output + j * coming.output_stride + k * LINE_BYTES)
        x = lanes_of(tile.logits, j, lanes)
        own = lanes_of(tile.terms, j, lanes)
        for k in range(lanes):
            own[k] = put_together(reduce(x[k] - reference.shift[k], reference_of(reference, k)))


@compiled
def write_units(tops, lanes, reference, tops_terms, units):
    # exp(m - m) / factor as it comes out of the exponential, not rounded to 1: as a term, and
    # not rounded to one
    for k in range(lanes):
        own = reduce(tops[k] - reference.shift[k], reference_of(reference, k))
        tops_terms[k] = put_together(own)
        units[k] = np.float64(own.power) + np.float64(own.power) * np.float64(own.part)


@inlined
def write_below(terms, tops_terms, lanes, places, counts):
    # A loop of its own, over numbers of one width: LLVM takes as many lanes as the widest has.
    for k in range(lanes):
        is_top = terms[k] >= tops_terms[k]
        places[k] = zero if is_top else terms[k]
        counts[k] += 1 if is_top else 0


@inlined
def add_four(terms, lanes, rest):
    for k in range(lanes):
        a = np.float64(terms[k]) + np.float64(terms[k + lanes])
        b = np.float64(terms[k + 2 * lanes]) + np.float64(terms[k + 3 * lanes])
        rest[k] += a + b


@compiled
def add_lanes_below(terms, n_classes, lanes, tops_terms, rest, counts):
    # The terms below those of the maxima, and how many are not. (NaN stays.) Four classes at a
    # time: the sums are read and written a quarter as often.
    four = four_buffer(zero)
    for k in range(lanes):
        rest[k] = 0.0
        counts[k] = no_count
    for j in range(0, n_classes, 4):
        for c in range(4):
            own = lanes_of(four, c, lanes)
            if j + c < n_classes:
                write_below(lanes_of(terms, j + c, lanes), tops_terms, lanes, own, counts)
            else:
                fill_values(own, 0, lanes)
        add_four(four, lanes, rest)


@compiled
def write_above(rest, counts, units, lanes, above):
    # sum_exp - 1; a row without a finite maximum has no count, and no softmax: NaN
    for k in range(lanes):
        y = rest[k] / units[k] + (np.float64(counts[k]) - 1.0)
        above[k] = y if y >= 0.0 else math.nan


HALF_BITS: Final = int(np.float64(math.sqrt(0.5)).view(np.int64))
MAGIC_BITS: Final = int(np.float64(2.0**52).view(np.int64))


@compiled
def write_log1p(above, lanes, logs):
    # log(1 + y) for y >= 0, to 2^-44 of itself: 1 + y = 2^k (1 + f), and with s = f / (2 + f)
    # log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...). Where k is 0, f is y itself, which keeps the
    # digits of a confident row. The arithmetic of lanes is in float32, and 16 calls of log1p
    # would take longer than all the rest of a tile of 10 classes.
    for k in range(lanes):
        y = above[k]
        bits = bits_of(y + 1.0)
        places = np.uint64(bits - HALF_BITS) >> np.uint64(52)
        exponent = float_of_bits(np.int64(places | np.uint64(MAGIC_BITS))) - 2.0**52
        mantissa = float_of_bits(np.int64(np.uint64(bits) - (places << np.uint64(52))))
        f = y if exponent == 0.0 else mantissa - 1.0
        s = f / (f + 2.0)
        z = s * s
        series = 1.0 / 15.0
        series = series * z + 1.0 / 13.0
        series = series * z + 1.0 / 11.0
        series = series * z + 1.0 / 9.0
        series = series * z + 1.0 / 7.0
        series = series * z + 1.0 / 5.0
        series = series * z + 1.0 / 3.0
        twice = 2.0 * s
        # y - y: 0, or NaN for a NaN, which taken apart into exponent and mantissa would be one
        # no more
        logs[k] = (exponent * LN2 + (twice + twice * z * series)) + (y - y)


@compiled
def write_shares(above, units, lanes, scales, others):
    for k in range(lanes):
        total = 1.0 + above[k]
        scales[k] = 1.0 / (total * units[k])
        others[k] = above[k] / total


@compiled
def sum_tile(tile, n_classes, coming, reference, sums, writes):
    # The sums of a tile, and what they are relative to. Every term is added in float64: a sum
    # of a few in float32 has nothing to average its roundings with, and was wrong by 2.9 ULP at
    # worst instead of 1.5.
    lanes = tile.lanes
    tops = tile_lanes_buffer(zero)
    tops_terms = tile_lanes_buffer(zero)
    counts = tile_lanes_buffer(no_count)
    rest = tile_lanes_buffer(0.0)
    units = tile_lanes_buffer(0.0)
    above = tile_lanes_buffer(0.0)
    write_largest(tile.logits, n_classes, lanes, tops)
    refer_lanes_to(tops, lanes, reference.shift, reference.lowest, reference.rounder)
    write_units(tops, lanes, reference, tops_terms, units)
    write_lane_terms(tile, n_classes, reference, coming)
    add_lanes_below(tile.terms, n_classes, lanes, tops_terms, rest, counts)
    write_above(rest, counts, units, lanes, above)
    copy_values(tops, lanes, sums.maximum)
    write_log1p(above, lanes, sums.log_sum_exp)
    if writes:
        write_shares(above, units, lanes, sums.scale, sums.others)


@compiled
def write_label_losses(
    tile, n_classes, labels, n, has_ignore_index, ignore_index, maxima, logs, losses
):
    # The losses of rows whose measure is 1 at the label, which is all there is otherwise.
    for k in range(n):
        label = labels[k]
        is_class = 0 <= label < n_classes
        logit = tile.logits[(label if is_class else 0) * tile.lanes + k]
        loss = (maxima[k] - np.float64(logit)) + logs[k]
        is_ignored = has_ignore_index and label == ignore_index
        losses[k] = 0.0 if is_ignored else (loss if is_class else math.nan)


@compiled
def scale_lanes(terms, n_classes, lanes, scales):
    for j in range(n_classes):
        own = lanes_of(terms, j, lanes)
        for k in range(lanes):
            own[k] *= scales[k]


@inlined
def softmax_tile(tile, n_classes, scales):
    # values_j = scale * exp(x_j - m) / factor
    narrow = tile_lanes_buffer(zero)
    copy_values(scales, tile.lanes, narrow)
    scale_lanes(tile.terms, n_classes, tile.lanes, narrow)


@compiled
def shift_lanes(reference, lanes, exponents):
    # shift_exponent, by an exponent for each lane.
    for k in range(lanes):
        exponent = real(exponents[k])
        reference.lowest[k] += exponent * real(LN2)
        reference.rounder[k] -= exponent


@inlined
def weight_of(class_weights, j):
    # `class_weights` is an address, or 0 where there are none.
    return pointer_at(class_weights, zero)[j] if class_weights != 0 else one


@compiled
def spread_tile(tile, n_classes, class_weights, tops, spread):
    # w_j * (m - x_j) and w_j summed over the classes that are not masked, in float64.
    lanes = tile.lanes
    m = tile_lanes_buffer(zero)
    copy_values(tops, lanes, m)
    for k in range(lanes):
        spread.dot[k] = 0.0
        spread.mass[k] = 0.0
        spread.count[k] = 0.0
    for j in range(n_classes):
        weight = weight_of(class_weights, j)
        x = lanes_of(tile.logits, j, lanes)
        for k in range(lanes):
            masked = x[k] == minus_infinity
            term = (m[k] - x[k]) * weight
            spread.dot[k] += np.float64(zero if masked else term)
            spread.mass[k] += np.float64(zero if masked else weight)
            spread.count[k] += 0.0 if masked else 1.0


@compiled
def subtract_spread_from_tile(tile, n_classes, spreads, class_weights):
    # values_j = scale * exp(x_j - m) / factor - spread * w_j, less nothing at a class that is
    # masked
    lanes = tile.lanes
    narrow = tile_lanes_buffer(zero)
    copy_values(spreads, lanes, narrow)
    for j in range(n_classes):
        weight = weight_of(class_weights, j)
        x = lanes_of(tile.logits, j, lanes)
        own = lanes_of(tile.terms, j, lanes)
        for k in range(lanes):
            own[k] -= zero if x[k] == minus_infinity else narrow[k] * weight


@compiled
def hessian_tile(tile, n_classes, scales, others, totals):
    # values_j = total * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor
    lanes = tile.lanes
    rest = tile_lanes_buffer(zero)
    total = tile_lanes_buffer(zero)
    softmax_tile(tile, n_classes, scales)
    copy_values(others, lanes, rest)
    copy_values(totals, lanes, total)
    for j in range(n_classes):
        own = lanes_of(tile.terms, j, lanes)
        for k in range(lanes):
            p = own[k]
            own[k] = (p * (rest[k] if p > half else one - p)) * total[k]


@compiled
def log_softmax_tile(tile, n_classes, tops, logs):
    # values_j = (x_j - m) - log(sum_exp)
    lanes = tile.lanes
    m = tile_lanes_buffer(zero)
    log_sum = tile_lanes_buffer(zero)
    copy_values(tops, lanes, m)
    copy_values(logs, lanes, log_sum)
    for j in range(n_classes):
        x = lanes_of(tile.logits, j, lanes)
        own = lanes_of(tile.terms, j, lanes)
        for k in range(lanes):
            own[k] = (x[k] - m[k]) - log_sum[k]
