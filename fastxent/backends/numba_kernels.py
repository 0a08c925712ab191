"""The Numba twin: softmax cross-entropy, row by row and many rows side by side.

csrc_pyx/kernels.pyx holds the same functions in the same order. This file is compiled when it is
first used, once for each type the arithmetic is done in; `numba_primitives.py` holds what is done
to a block of classes.

`rows_*` and `segments_*` go through a row whose classes lie next to each other, `lanes_*` through
tiles of many rows, wherever their classes lie.

A row is read block by block. Every block folds into one small state,

    maximum     m, the largest logit
    count       how many logits equal m, each of which adds exactly 1
    rest        sum over the others of exp(x_j - m)              sum_exp = count + rest
    target_dot  sum_j t_j * (m - x_j)                            (probabilities only)
    mass        sum_j t_j                                        (probabilities only)

together with what rounding has lost of each of the last three sums. Loss and gradient follow from
it without a difference of nearly equal numbers:

    loss       = sum_j t_j * (m - x_j) + mass * log(sum_exp)
    gradient_j = mass * exp(x_j - m) / sum_exp - t_j
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from functools import cache
from math import exp, frexp, ldexp, log, log1p
from typing import Any, NamedTuple

import numba
from numba import carray, cfunc, types

from .context import (
    CONTEXT_DTYPE,
    OUTPUT_LOG_SOFTMAX,
    OUTPUT_NOTHING,
    STATE_SIZE,
    TARGET_LABELS,
    TARGET_PROBS,
)
from .numba_lanes import LaneSums, make_lanes
from .numba_primitives import (
    BLOCK,
    Block,
    BlockSum,
    BlockTarget,
    compiled,
    inlined,
    make_primitives,
)
from .numba_vectors import address_of, finish_streams, fma, pointer_at, stack_buffer

INFINITY = math.inf
NAN = math.nan
E_TO_MINUS_128 = exp(-128.0)

_CONTEXT = numba.from_dtype(CONTEXT_DTYPE)


_compiling = threading.RLock()  # re-entrant: a signal handler may call in the middle
if hasattr(os, "register_at_fork"):
    # A child forked while another thread compiles would find this lock, and Numba's, held forever.
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )


class State(NamedTuple):
    maximum: Any
    count: Any
    rest: Any
    rest_lost: Any
    target_dot: Any
    target_dot_lost: Any
    mass: Any
    mass_lost: Any


class Reading(NamedTuple):
    """The block that is being summed up, and the one that comes after it."""

    current: Block
    next: Block


def make_kernels(real_bits: int) -> dict[str, Callable[..., None]]:
    """The kernels for float32 or float64 arithmetic, compiled when they are first called."""
    primitives = make_primitives(real_bits)
    real = primitives.real
    reference_at = primitives.reference_at
    balancing_exponent = primitives.balancing_exponent
    shift_exponent = primitives.shift_exponent
    element_size = primitives.element_size
    load_element = primitives.load_element
    store_element = primitives.store_element
    load_block = primitives.load_block
    output_block = primitives.output_block
    store_block = primitives.store_block
    new_block = primitives.new_block
    open_block = primitives.open_block
    shift_block = primitives.shift_block
    block_maximum = primitives.block_maximum
    block_sum = primitives.block_sum
    block_target = primitives.block_target
    block_is_within = primitives.block_is_within
    block_softmax = primitives.block_softmax
    block_softmax_minus_target = primitives.block_softmax_minus_target
    block_log_softmax = primitives.block_log_softmax
    prefetch_ends = primitives.prefetch_ends
    block_buffer = primitives.block_buffer
    group_maxima_buffer = primitives.group_maxima_buffer
    zero = real(0.0)

    tiles = make_lanes(real_bits, primitives)
    lanes = tiles.lanes
    tile_buffer = tiles.tile_buffer
    numbers_buffer = tiles.numbers_buffer
    load_tile = tiles.load_tile
    store_tile = tiles.store_tile
    sum_tile = tiles.sum_tile
    softmax_tile = tiles.softmax_tile
    log_softmax_tile = tiles.log_softmax_tile

    lanes_buffer = stack_buffer(16)

    @inlined
    def empty_state():
        return State(
            maximum=-INFINITY, count=0.0, rest=0.0, rest_lost=0.0, target_dot=0.0,
            target_dot_lost=0.0, mass=0.0, mass_lost=0.0,
        )  # fmt: skip

    @inlined
    def lost(a, b):
        # a + b minus its rounded value, exactly (Knuth). An infinite sum has lost nothing.
        total = a + b
        part = total - a
        if total - total != 0.0:
            return 0.0
        return (a - (total - part)) + (b - part)

    @compiled
    def raise_maximum(state, maximum):
        # The same state, relative to a maximum at least as large as its own.
        if maximum == state.maximum:
            return state
        if state.maximum == -INFINITY and state.rest == 0.0 and state.mass == 0.0:
            return State(
                maximum=maximum, count=state.count, rest=state.rest, rest_lost=state.rest_lost,
                target_dot=state.target_dot, target_dot_lost=state.target_dot_lost,
                mass=state.mass, mass_lost=state.mass_lost,
            )  # fmt: skip
        # state.maximum - maximum = difference + error exactly, and to float64
        # exp(difference + error) = exp(difference) * (1 + error). Far down the exponential alone
        # would be subnormal and short of digits, so it is kept e^128 too large until the end.
        difference = state.maximum - maximum
        error = lost(state.maximum, -maximum)
        base = state.maximum if state.maximum > -INFINITY else 0.0
        # without mass so far nothing rises, however far away the new maximum is
        rise = state.mass * (maximum - base) if state.mass != 0.0 else 0.0
        rise_lost = state.mass_lost * (maximum - base) if state.mass_lost != 0.0 else 0.0
        if difference < -600.0:
            factor = exp(difference + 128.0) * (1.0 + error)
            after = E_TO_MINUS_128
        else:
            factor = exp(difference) * (1.0 + error)
            after = 1.0
        return State(
            maximum=maximum,
            count=0.0,
            rest=(state.count + state.rest) * factor * after,
            rest_lost=state.rest_lost * factor * after,
            target_dot=state.target_dot + rise,
            target_dot_lost=(state.target_dot_lost + rise_lost + lost(state.target_dot, rise)),
            mass=state.mass,
            mass_lost=state.mass_lost,
        )

    @inlined
    def add_block(state, sums, target):
        # The state with a block more, whose sums are relative to the state's own maximum.
        return State(
            maximum=state.maximum,
            count=state.count + sums.count,
            rest=state.rest + sums.rest,
            rest_lost=state.rest_lost + sums.rest_lost + lost(state.rest, sums.rest),
            target_dot=state.target_dot + target.dot,
            target_dot_lost=(
                state.target_dot_lost + target.dot_lost + lost(state.target_dot, target.dot)
            ),
            mass=state.mass + target.mass,
            mass_lost=state.mass_lost + target.mass_lost + lost(state.mass, target.mass),
        )

    @compiled
    def merge(a, b):
        maximum = a.maximum if a.maximum > b.maximum else b.maximum
        a = raise_maximum(a, maximum)
        b = raise_maximum(b, maximum)
        return add_block(
            a,
            BlockSum(count=b.count, rest=b.rest, rest_lost=b.rest_lost),
            BlockTarget(
                dot=b.target_dot, dot_lost=b.target_dot_lost, mass=b.mass, mass_lost=b.mass_lost
            ),
        )

    @inlined
    def sum_exp(state):
        # A row without a finite maximum has no softmax: NaN (a sum below 1 has no other cause).
        total = state.count + state.rest
        return total if total >= 1.0 else NAN

    @inlined
    def sum_exp_low(state):
        # What rounding keeps out of sum_exp.
        return lost(state.count, state.rest) + state.rest_lost

    @inlined
    def log_sum_exp(state):
        # log(sum_exp), relative to the maximum; log1p keeps the digits of a confident row.
        # Elsewhere log is as exact, and takes 5 ns instead of 20.
        if state.count == 1.0 and state.rest < 0.5:
            return log1p(state.rest + state.rest_lost)
        return log(sum_exp(state)) + sum_exp_low(state) / sum_exp(state)

    @inlined
    def others_share(state):
        # 1 - exp(m - m)/sum_exp: what the softmax leaves to all but one of the maxima.
        return (state.rest + (state.count - 1.0) + state.rest_lost) / sum_exp(state)

    @inlined
    def softmax_scale(state, factor, mass, mass_lost):
        # factor / sum_exp, times the mass if there is one, rounded once: the first quotient is put
        # right by its remainder, to which all that was lost before is added.
        total = sum_exp(state)
        top = factor * mass
        top_low = fma(factor, mass, -top) + factor * mass_lost
        quotient = top / total
        remainder = fma(-quotient, total, top) + (top_low - quotient * sum_exp_low(state))
        return quotient + remainder / total

    @inlined
    def is_ignored(context, i):
        return (
            context.target == TARGET_LABELS
            and context.has_ignore_index != 0
            and pointer_at(context.labels, 0)[i] == context.ignore_index
        )

    @inlined
    def next_kept(context, i, stop):
        # The first row from i on that is not ignored, or stop.
        while i < stop and is_ignored(context, i):
            i += 1
        return i

    @inlined
    def open_at(context, i, j, stop, block):
        # The block of row i that starts at class j, of classes below stop; none at all if i < 0.
        output = context.output + i * context.output_stride
        if (
            context.output_kind == OUTPUT_NOTHING
            or context.output_streams != 0
            or context.output == context.logits
        ):
            output = 0
        return open_block(
            block, context.logits + i * context.logits_stride, context.logits_element, j,
            min(BLOCK, stop - j) if i >= 0 else 0, output,
        )  # fmt: skip

    @compiled
    def classes_state(context, i, start, stop, following, reading):
        # The state of classes start..stop of row i. Always segment by segment, so that a row split
        # over threads has the same bits. `reading` holds the first block; afterwards it holds that
        # of the row `following`, if there is one.
        probs_buffer = block_buffer(zero)
        element = context.probs_element
        segment_stop = start + context.segment
        is_first_segment = True
        before = empty_state()
        state = empty_state()
        reference = reference_at(state.maximum)
        j = start
        while j < stop:
            if j == segment_stop:
                before = state if is_first_segment else merge(before, state)
                is_first_segment = False
                state = empty_state()
                reference = reference_at(state.maximum)
                segment_stop += context.segment
            block = reading.current
            n = block.n
            if j + n < stop:
                next = open_at(context, i, j + n, stop, reading.next)
            else:
                next = open_at(context, following, 0, context.n_classes, reading.next)
            if block.maximum > state.maximum:
                state = raise_maximum(state, block.maximum)
                reference = reference_at(block.maximum)
            target = BlockTarget(dot=0.0, dot_lost=0.0, mass=0.0, mass_lost=0.0)
            if context.target == TARGET_PROBS:
                probs = load_block(
                    context.probs + i * context.probs_stride + j * element_size(element),
                    element, n, probs_buffer,
                )  # fmt: skip
                maximum = state.maximum if state.maximum > -INFINITY else 0.0
                target = block_target(block.logits, probs, n, maximum)
            if reference.shift != 0.0:
                block = shift_block(block, reference.shift)
            sums, next = block_sum(block, reference, next)
            state = add_block(state, sums, target)
            j += n
            reading = Reading(current=next, next=block)
        return (state if is_first_segment else merge(before, state)), reading

    @inlined
    def offset_of_row(context, i, stride, inner_stride):
        # In bytes; rows lie in runs of n_inner.
        return i // context.n_inner * stride + i % context.n_inner * inner_stride

    @inlined
    def logit_at(context, i, j):
        # NaN for a class there is none of: labels were classes when the call checked them, and
        # their array may have been written to since.
        if j < 0 or j >= context.n_classes:
            return NAN
        return load_element(
            context.logits
            + offset_of_row(context, i, context.logits_stride, context.logits_inner_stride)
            + j * context.logits_class_stride,
            context.logits_element,
        )  # fmt: skip

    @inlined
    def label_logit(context, i):
        if context.target == TARGET_LABELS:
            return logit_at(context, i, pointer_at(context.labels, 0)[i])
        return 0.0

    @inlined
    def row_result(context, i, state, label_x):
        # The loss of row i, whose label's logit is label_x, or logsumexp where there is no target.
        if context.target == TARGET_LABELS:
            return (state.maximum - label_x) + log_sum_exp(state)
        if context.target == TARGET_PROBS and state.mass == 0.0:
            return 0.0
        if context.target == TARGET_PROBS:
            return (state.target_dot + state.mass * log_sum_exp(state)) + (
                state.target_dot_lost + state.mass_lost * log_sum_exp(state)
            )
        if state.maximum == -INFINITY and state.rest == 0.0:
            return -INFINITY
        if state.maximum == INFINITY and not has_nan(context, i):
            return INFINITY
        return state.maximum + log_sum_exp(state)

    @compiled
    def has_nan(context, i):
        for j in range(context.n_classes):
            value = logit_at(context, i, j)
            if value != value:
                return True
        return False

    @compiled
    def write_output(context, i, start, stop, state, label_x):
        # Classes start..stop of the output of row i. `label_x` is the label's logit, read before
        # any of the row is written: the output may lie where the logits lie.
        if context.target == TARGET_PROBS and state.mass == 0.0:
            write_zeros(context, i, start, stop)
            return
        block = new_block(group_maxima_buffer(zero), block_buffer(zero))
        probs_buffer = block_buffer(zero)
        output_buffer = block_buffer(zero)
        element = context.logits_element
        label = -1
        label_value = 0.0
        reference = reference_at(state.maximum)
        others = others_share(state)
        if context.target == TARGET_PROBS:
            # The mass as mass * 2^exponent: times the factor a tiny one would be subnormal.
            mass, exponent = frexp(state.mass)
            mass_lost = ldexp(state.mass_lost, -exponent)
            scale = context.output_scale * softmax_scale(state, reference.factor, mass, mass_lost)
            shift = balancing_exponent(scale, exponent)
            reference = shift_exponent(reference, shift)
            scale = ldexp(scale, exponent + shift)
        else:
            scale = context.output_scale * softmax_scale(state, reference.factor, 1.0, 0.0)
        if context.target == TARGET_LABELS:
            # p_y - 1 without the difference: -(sum_exp - exp(x_y - m)) / sum_exp
            label = pointer_at(context.labels, 0)[i]
            label_value = -others
            if label_x != state.maximum:
                label_value = -(sum_exp(state) - exp(label_x - state.maximum)) / sum_exp(state)
            label_value *= context.output_scale
        j = start
        while j < stop:
            destination = context.output + i * context.output_stride + j * element_size(element)
            output = output_block(destination, element, output_buffer)
            streams = context.output_streams != 0 and address_of(output) == destination
            block = open_at(context, i, j, stop, block)
            n = block.n
            if context.output_kind == OUTPUT_LOG_SOFTMAX:
                block_log_softmax(
                    block.logits, n, state.maximum, log_sum_exp(state), output, streams
                )
            elif context.target == TARGET_PROBS:
                probs = load_block(
                    context.probs + i * context.probs_stride
                    + j * element_size(context.probs_element),
                    context.probs_element, n, probs_buffer,
                )  # fmt: skip
                if reference.shift != 0.0:
                    block = shift_block(block, reference.shift)
                block_softmax_minus_target(
                    block.logits, probs, n, reference, scale, context.output_scale, state.mass,
                    state.mass_lost, others, output, streams,
                )  # fmt: skip
            else:
                if reference.shift != 0.0:
                    block = shift_block(block, reference.shift)
                block_softmax(
                    block.logits, n, reference, scale, label - j, label_value, output, streams
                )
            store_block(output, n, destination, element)
            j += n

    @compiled
    def write_zeros(context, i, start, stop):
        element = context.logits_element
        for j in range(start, stop):
            store_element(
                context.output + i * context.output_stride + j * element_size(element),
                element, 0.0,
            )  # fmt: skip

    @compiled
    def write_ignored(context, start, stop):
        # The results of rows start..stop, all of them ignored.
        losses = pointer_at(context.losses, 0.0)
        for i in range(start, stop):
            losses[i] = 0.0
            if context.output_kind != OUTPUT_NOTHING:
                write_zeros(context, i, 0, context.n_classes)

    @compiled
    def rows_evaluate(context, start, stop):
        # Losses, and the output if one is wanted, of rows start..stop.
        losses = pointer_at(context.losses, 0.0)
        reading = Reading(
            current=new_block(group_maxima_buffer(zero), block_buffer(zero)),
            next=new_block(group_maxima_buffer(zero), block_buffer(zero)),
        )
        i = next_kept(context, start, stop)
        write_ignored(context, start, i)
        if i < stop:
            first = open_at(context, i, 0, context.n_classes, reading.current)
            reading = Reading(current=block_maximum(first), next=reading.next)
        while i < stop:
            following = next_kept(context, i + 1, stop)
            if context.output_streams != 0:
                prefetch_ends(
                    context.output + i * context.output_stride,
                    context.n_classes * element_size(context.logits_element),
                )
            state, reading = classes_state(
                context, i, 0, context.n_classes, following if following < stop else -1, reading
            )
            label_x = label_logit(context, i)
            losses[i] = row_result(context, i, state, label_x)
            if context.output_kind != OUTPUT_NOTHING:
                write_output(context, i, 0, context.n_classes, state, label_x)
            write_ignored(context, i + 1, following)
            i = following
        finish_streams()

    @inlined
    def lane_label_logit(context, i, tile, k):
        # label_logit of row i, which is in lane k.
        label = pointer_at(context.labels, 0)[i]
        if label < 0 or label >= context.n_classes:
            return NAN
        return float(tile[label * lanes + k])

    @inlined
    def lane_result(context, i, tile, sums, k):
        # row_result of row i, which is in lane k.
        if is_ignored(context, i):
            return 0.0
        if context.target == TARGET_LABELS:
            return (sums.maximum[k] - lane_label_logit(context, i, tile, k)) + sums.log_sum_exp[k]
        if sums.maximum[k] - sums.maximum[k] != 0.0 and not has_nan(context, i):
            return sums.maximum[k]
        return sums.maximum[k] + sums.log_sum_exp[k]

    @compiled
    def lanes_write(context, i, n, tile, sums, reference, output):
        # The output of rows i..i+n, in place of their logits in the tile, then to where it belongs.
        labels = pointer_at(context.labels, 0)
        scales = numbers_buffer(0.0)
        label_values = numbers_buffer(0.0)
        for k in range(lanes):
            scales[k] = context.output_scale * sums.scale[k]
            if k < n and context.target == TARGET_LABELS:
                # p_y - 1 without the difference where y holds the maximum; elsewhere p_y is at most
                # a half, and p_y - 1 loses no digit
                label_values[k] = NAN
                if lane_label_logit(context, i + k, tile, k) == sums.maximum[k]:
                    label_values[k] = -sums.others[k] * context.output_scale
        if context.output_kind == OUTPUT_LOG_SOFTMAX:
            log_softmax_tile(tile, context.n_classes, sums.maximum, sums.log_sum_exp)
        else:
            softmax_tile(tile, context.n_classes, reference, scales)
        for k in range(n if context.target == TARGET_LABELS else 0):
            label = labels[i + k]
            if is_ignored(context, i + k):
                for j in range(context.n_classes):
                    tile[j * lanes + k] = zero
            elif 0 <= label < context.n_classes:
                j = label * lanes + k
                if label_values[k] == label_values[k]:
                    tile[j] = real(label_values[k])
                else:
                    tile[j] = real(tile[j] - context.output_scale)
        store_tile(
            tile, output, context.logits_element, context.n_classes, n,
            context.output_inner_stride, context.output_class_stride,
        )  # fmt: skip

    @compiled
    def lanes_evaluate(context, start, stop):
        # What rows_evaluate does, for labels or no target, with a row in each lane.
        losses = pointer_at(context.losses, 0.0)
        tile = tile_buffer(zero)
        sums = LaneSums(
            maximum=numbers_buffer(0.0), log_sum_exp=numbers_buffer(0.0),
            scale=numbers_buffer(0.0), others=numbers_buffer(0.0),
        )  # fmt: skip
        ahead_stride = max(
            context.logits_class_stride,
            lanes * context.logits_inner_stride // context.n_classes,
        )
        output_stride = max(
            context.output_class_stride,
            lanes * context.output_inner_stride // context.n_classes,
        )
        i = start
        while i < stop:
            n = min(lanes, stop - i)
            n = min(n, context.n_inner - i % context.n_inner)
            source = context.logits + offset_of_row(
                context, i, context.logits_stride, context.logits_inner_stride
            )
            load_tile(
                tile, source, context.logits_element, context.n_classes, n,
                context.logits_inner_stride, context.logits_class_stride,
            )  # fmt: skip
            output = context.output + offset_of_row(
                context, i, context.output_stride, context.output_inner_stride
            )
            if context.output_kind == OUTPUT_NOTHING:
                output = source  # nothing to ask memory for but what is there
            reference = sum_tile(
                tile, context.n_classes, source + 4 * lanes * context.logits_inner_stride,
                ahead_stride, output, output_stride, sums,
            )  # fmt: skip
            for k in range(n):
                losses[i + k] = lane_result(context, i + k, tile, sums, k)
            if context.output_kind != OUTPUT_NOTHING:
                lanes_write(context, i, n, tile, sums, reference, output)
            i += n

    @inlined
    def store_state(context, k, state):
        slot = pointer_at(context.states + 8 * STATE_SIZE * k, 0.0)
        slot[0] = state.maximum
        slot[1] = state.count
        slot[2] = state.rest
        slot[3] = state.rest_lost
        slot[4] = state.target_dot
        slot[5] = state.target_dot_lost
        slot[6] = state.mass
        slot[7] = state.mass_lost

    @inlined
    def stored_state(context, k):
        slot = pointer_at(context.states + 8 * STATE_SIZE * k, 0.0)
        return State(
            maximum=slot[0], count=slot[1], rest=slot[2], rest_lost=slot[3], target_dot=slot[4],
            target_dot_lost=slot[5], mass=slot[6], mass_lost=slot[7],
        )  # fmt: skip

    @compiled
    def segments_reduce(context, start, stop):
        # The states of segments start..stop, numbered through the rows.
        reading = Reading(
            current=new_block(group_maxima_buffer(zero), block_buffer(zero)),
            next=new_block(group_maxima_buffer(zero), block_buffer(zero)),
        )
        for k in range(start, stop):
            i = k // context.n_segments
            first = (k % context.n_segments) * context.segment
            last = min(first + context.segment, context.n_classes)
            if is_ignored(context, i):
                continue
            block = open_at(context, i, first, last, reading.current)
            reading = Reading(current=block_maximum(block), next=reading.next)
            state, reading = classes_state(context, i, first, last, -1, reading)
            store_state(context, k, state)

    @compiled
    def rows_merge(context, start, stop):
        # Merges the segments of rows start..stop into each row's first slot.
        losses = pointer_at(context.losses, 0.0)
        for i in range(start, stop):
            if is_ignored(context, i):
                losses[i] = 0.0
                continue
            state = stored_state(context, i * context.n_segments)
            for k in range(i * context.n_segments + 1, (i + 1) * context.n_segments):
                state = merge(state, stored_state(context, k))
            label_x = label_logit(context, i)
            losses[i] = row_result(context, i, state, label_x)
            store_state(context, i * context.n_segments, state)
            # the next segment's slot is free now
            pointer_at(context.states, 0.0)[(i * context.n_segments + 1) * STATE_SIZE] = label_x

    @compiled
    def segments_write(context, start, stop):
        # The output of segments start..stop, numbered through the rows, after rows_merge.
        for k in range(start, stop):
            i = k // context.n_segments
            first = (k % context.n_segments) * context.segment
            last = min(first + context.segment, context.n_classes)
            if is_ignored(context, i):
                write_zeros(context, i, first, last)
                continue
            state = stored_state(context, i * context.n_segments)
            label_x = pointer_at(context.states, 0.0)[(i * context.n_segments + 1) * STATE_SIZE]
            write_output(context, i, first, last, state, label_x)
        finish_streams()

    @compiled
    def rows_check_labels(context, start, stop):
        # states[0] = the first row whose label is neither a class nor ignored, or -1;
        # states[1] = how many rows are not ignored.
        states = pointer_at(context.states, 0.0)
        bad = -1.0
        kept = 0.0
        for i in range(start, stop):
            if is_ignored(context, i):
                continue
            kept += 1.0
            label = pointer_at(context.labels, 0)[i]
            if bad < 0.0 and (label < 0 or label >= context.n_classes):
                bad = float(i)
        states[0] = bad
        states[1] = kept

    @compiled
    def rows_check_probs(context, start, stop):
        # losses[i] = 0 where every probability of row i is from 0 to output_scale, else NaN.
        buffer = block_buffer(zero)
        losses = pointer_at(context.losses, 0.0)
        element = context.probs_element
        for i in range(start, stop):
            losses[i] = 0.0
            j = 0
            while j < context.n_classes:
                n = min(BLOCK, context.n_classes - j)
                probs = load_block(
                    context.probs + i * context.probs_stride + j * element_size(element),
                    element, n, buffer,
                )  # fmt: skip
                if not block_is_within(probs, n, 0.0, context.output_scale):
                    losses[i] = NAN
                j += n

    @compiled
    def rows_sum(context, start, stop):
        # states[0] = the sum of losses[start:stop], in an order that depends on their number alone:
        # sixteen interleaved sums over 1024 rows, folded in half, then compensated addition.
        losses = pointer_at(context.losses, 0.0)
        states = pointer_at(context.states, 0.0)
        lanes = lanes_buffer(0.0)
        total = 0.0
        total_lost = 0.0
        i = start
        while i < stop:
            for k in range(16):
                lanes[k] = 0.0
            for k in range(min(1024, stop - i)):
                lanes[k % 16] += losses[i + k]
            half = 8
            while half > 0:
                for k in range(half):
                    lanes[k] += lanes[k + half]
                half //= 2
            total_lost += lost(total, lanes[0])
            total += lanes[0]
            i += 1024
        states[0] = total + total_lost

    return {
        "rows_evaluate": rows_evaluate,
        "lanes_evaluate": lanes_evaluate,
        "segments_reduce": segments_reduce,
        "rows_merge": rows_merge,
        "segments_write": segments_write,
        "rows_check_labels": rows_check_labels,
        "rows_check_probs": rows_check_probs,
        "rows_sum": rows_sum,
    }


_SIGNATURE = types.void(types.CPointer(_CONTEXT), types.int64, types.int64)
_entries: dict[tuple[str, int], Any] = {}
_kernels = cache(make_kernels)


def kernel_address(name: str, real_bits: int) -> int:
    """The address of a kernel that computes in floats of `real_bits` bits; compiled if need be."""
    entry = _entries.get((name, real_bits))
    if entry is None:
        with _compiling:
            kernel = _kernels(real_bits)[name]

            @cfunc(_SIGNATURE)
            def enter(context, start, stop):
                kernel(carray(context, 1)[0], start, stop)

            entry = _entries.setdefault((name, real_bits), enter)
    address: int = entry.address
    return address
