"""Blocks of a row, and the passes that sum them up: maxima, exponentials, targets, spreads."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..numba_vectors import (
    add,
    add_to_sums,
    address_of,
    all_within,
    any_equal,
    broadcast,
    clear_equal,
    compiled,
    count_equal,
    fma,
    fold_line_and_lost,
    fold_maximum,
    fold_sum,
    fold_sum_and_lost,
    inlined,
    lane,
    load,
    load_partial,
    maximum,
    multiply,
    pointer_at,
    prefetch,
    prefetch_to_write,
    store,
    subtract,
    sum_error,
    sums_of,
    zero_sums,
)
from .elements import element_size, load_block, load_up_to, load_values
from .exponential import put_together, reduce, with_tail
from .precision import (
    LINE_BYTES,
    PREFETCH_DISTANCE,
    group,
    line,
    minus_infinity,
    nan,
    one,
    real,
    zero,
)
from .settings import REAL_BITS, TRANSFORMS
from .transforms import difference_with_slope, transform_relative_to, transformed_difference


class Block(NamedTuple):
    """A block of a row, ready for the passes.

    The largest logit of each group is kept for the sum, which looks for logits that equal m only
    where there is one.
    """

    logits: Any
    n: Any
    ahead: Any  # where the logits lie that memory is asked for meanwhile
    written: Any  # where the lines lie that are about to be written, or 0
    line_bytes: Any  # a line of logits in memory
    maximum: Any  # -inf where there is no logit
    group_maxima: Any
    buffer: Any  # BLOCK reals


class Transformed(NamedTuple):
    """What logits that are capped or divided by a temperature have besides.

    Addresses of BLOCK reals each; all 0 for logits that are not transformed.
    """

    tails: Any  # their differences to the maximum are logits + tails
    slopes: Any  # the derivatives of what was done to them are slopes + slope_tails
    slope_tails: Any


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


class BlockSpread(NamedTuple):
    """What smoothing spreads over the classes that are not masked."""

    dot: Any  # sum of w_j * (m - x_j)
    dot_lost: Any
    mass: Any  # sum of w_j
    mass_lost: Any
    count: Any


sums_equal_to = sums_of(line)


@inlined
def open_block(block, row, element, j, n, output):
    # Elements j to j + n of a row at `row`, before its maximum is known. `output` is where the
    # row's output goes through the caches, or 0.
    size = element_size(element)
    source = row + j * size
    ahead = source + PREFETCH_DISTANCE * size
    return Block(
        logits=load_block(source, element, n, block.buffer),
        n=n,
        ahead=ahead,
        written=output + j * size if output != 0 else 0,
        line_bytes=line * size,
        maximum=-math.inf,
        group_maxima=block.group_maxima,
        buffer=block.buffer,
    )


@inlined
def new_block(group_maxima, buffer):
    # An empty one; `group_maxima` is room for BLOCK // 8 reals, `buffer` for BLOCK.
    return Block(
        logits=buffer,
        n=0,
        ahead=0,
        written=0,
        line_bytes=0,
        maximum=-math.inf,
        group_maxima=group_maxima,
        buffer=buffer,
    )


@inlined
def group_maximum(block, k):
    # A NaN may hide other logits here; whatever comes of a row with a NaN is NaN.
    j = k * group
    a = load(block.logits, j)
    b = load(block.logits, j + line)
    c = load(block.logits, j + 2 * line)
    d = load(block.logits, j + 3 * line)
    a = maximum(load(block.logits, j + 4 * line), a)
    b = maximum(load(block.logits, j + 5 * line), b)
    c = maximum(load(block.logits, j + 6 * line), c)
    d = maximum(load(block.logits, j + 7 * line), d)
    largest = maximum(maximum(a, b), maximum(c, d))
    store(block.group_maxima, k * line, largest)
    return largest


@inlined
def finish_maximum(block, done, maxima):
    # The block with its maximum; the first `done` groups are in `maxima` already.
    logits = block.logits
    n = block.n
    for k in range(done, n // group):
        maxima = maximum(group_maximum(block, k), maxima)
    j = n // group * group
    while j + line <= n:
        maxima = maximum(load(logits, j), maxima)
        j += line
    if j < n:
        maxima = maximum(load_partial(logits, j, n - j, minus_infinity), maxima)
    return with_maximum(block, np.float64(fold_maximum(maxima)))


@inlined
def with_maximum(block, largest):
    return Block(
        logits=block.logits,
        n=block.n,
        ahead=block.ahead,
        written=block.written,
        line_bytes=block.line_bytes,
        maximum=largest,
        group_maxima=block.group_maxima,
        buffer=block.buffer,
    )


@compiled
def block_maximum(block):
    return finish_maximum(block, 0, broadcast(minus_infinity))


@inlined
def with_logits(block, logits):
    return Block(
        logits=logits,
        n=block.n,
        ahead=block.ahead,
        written=block.written,
        line_bytes=block.line_bytes,
        maximum=block.maximum,
        group_maxima=block.group_maxima,
        buffer=block.buffer,
    )


@compiled
def shift_block(block, shift):
    # The logits less the shift, which is exact for all that matter; in the block's own buffer.
    for j in range(block.n):
        block.buffer[j] = block.logits[j] - real(shift)
    return with_logits(block, block.buffer)


@compiled
def transform_block(block, maximum, temperature, softcap, wants_slopes, transformed):
    # The transformed logits less that of `maximum`, in the block's own buffer; their tails, and
    # their slopes if they are wanted and there is a cap.
    reference = transform_relative_to(maximum, temperature, softcap)
    n = block.n
    for j in range(0, n, line):
        x = load_up_to(block.logits, j, n - j, real(maximum))
        if wants_slopes and softcap != 0.0:
            difference, slope = difference_with_slope(x, reference)
            store(pointer_at(transformed.slopes, zero), j, slope.value)
            store(pointer_at(transformed.slope_tails, zero), j, slope.low)
        else:
            difference = transformed_difference(x, reference)
        store(block.buffer, j, difference.value)
        store(pointer_at(transformed.tails, zero), j, difference.low)
    return with_logits(block, block.buffer)


@inlined
def block_term(x, reference):
    # exp(x - m) / factor
    return put_together(reduce(x, reference))


@inlined
def block_term_but_maxima(x, reference):
    # The same, but 0 where x = m, which adds to the count instead.
    return clear_equal(block_term(x, reference), x, broadcast(reference.maximum))


@inlined
def pair_sum(logits, j, reference):
    return add(
        block_term(load(logits, j), reference), block_term(load(logits, j + line), reference)
    )


@inlined
def group_sum(logits, j, reference):
    # Eight lines added as a binary tree.
    return add(
        add(pair_sum(logits, j, reference), pair_sum(logits, j + 2 * line, reference)),
        add(pair_sum(logits, j + 4 * line, reference), pair_sum(logits, j + 6 * line, reference)),
    )


@inlined
def group_sum_but_maxima(logits, j, reference, sums, sums_lost):
    m = broadcast(reference.maximum)
    count = 0
    total = broadcast(zero)
    pair = total
    quad = total
    for k in range(8):
        x = load(logits, j + k * line)
        count += count_equal(x, m)
        term = block_term_but_maxima(x, reference)
        if k % 2 == 0:
            pair = term
        elif k % 4 == 1:
            quad = add(pair, term)
        elif k == 3:
            total = add(quad, add(pair, term))
        else:
            total = add(total, add(quad, add(pair, term)))
    added = add_to_sums(sums, total)
    return count, added, add_lost(sums, total, sums_lost)


@inlined
def add_lost(sums, value, sums_lost):
    # What `sums` have lost with `value` added. In float32 arithmetic float64 loses nothing.
    if REAL_BITS == 64:
        return add(sums_lost, sum_error(sums, value))
    return sums_lost


@inlined
def spread_line(logits, class_weights, j, n, m):
    # w_j * (m - x_j), the weights being 1 where there are none. What is beyond `n` adds 0.
    value = subtract(m, load_up_to(logits, j, n, lane(m, 0)))
    if class_weights != 0:
        value = multiply(value, load_up_to(pointer_at(class_weights, zero), j, n, zero))
    return value


@inlined
def spread_pair(logits, class_weights, j, m):
    return add(
        spread_line(logits, class_weights, j, line, m),
        spread_line(logits, class_weights, j + line, line, m),
    )


@inlined
def spread_group(logits, class_weights, j, m):
    # Eight lines of spread_line added as a binary tree.
    return add(
        add(
            spread_pair(logits, class_weights, j, m),
            spread_pair(logits, class_weights, j + 2 * line, m),
        ),
        add(
            spread_pair(logits, class_weights, j + 4 * line, m),
            spread_pair(logits, class_weights, j + 6 * line, m),
        ),
    )


def summing(spreads):
    # The function that sums a block, with what smoothing spreads over it or without.
    @inlined
    def block_sum_and_dot(block, reference, next, class_weights):
        # count: how many logits equal m; rest: the sum of exp(x_j - m) over the others;
        # rest_lost: what rounding has lost of it since the groups were added up. The sums of
        # groups go on in float64.
        #
        # Meanwhile `next`, the block that comes after this one, gets its maximum: a pass of its
        # own for it would wait for memory first, and the sum for it (65536 x 1000 float32, one
        # thread: 16.3 ms against 14.2).
        logits = block.logits
        m = broadcast(reference.maximum)
        unshifted = broadcast(real(np.float64(reference.maximum) + reference.shift))
        n = block.n
        n_groups = n // group
        n_next_groups = next.n // group
        sums = zero_sums(zero)
        sums_lost = sums
        dots = sums
        dots_lost = sums
        next_maxima = broadcast(minus_infinity)
        count = 0
        for k in range(n_groups):
            ahead = block.ahead + 8 * k * block.line_bytes
            for c in range(8):
                prefetch(ahead + c * block.line_bytes)
            if block.written != 0:
                for c in range(8):
                    prefetch_to_write(block.written + (8 * k + c) * block.line_bytes)
            if k < n_next_groups:
                next_maxima = maximum(group_maximum(next, k), next_maxima)
            if any_equal(load(block.group_maxima, k * line), unshifted):
                counted, sums, sums_lost = group_sum_but_maxima(
                    logits, k * group, reference, sums, sums_lost
                )
                count += counted
            else:
                total = group_sum(logits, k * group, reference)
                sums_lost = add_lost(sums, total, sums_lost)
                sums = add_to_sums(sums, total)
            if spreads:
                value = spread_group(logits, class_weights, k * group, m)
                dots_lost = add_lost(dots, value, dots_lost)
                dots = add_to_sums(dots, value)
        j = n_groups * group
        # What is left goes into float64 line by line: few terms have nothing to average
        # roundings with.
        for k in range(8 * n_groups, (n + line - 1) // line):
            prefetch(block.ahead + k * block.line_bytes)
        while j < n:
            if j + line <= n:
                x = load(logits, j)
            else:
                x = load_partial(logits, j, n - j, minus_infinity)
            count += count_equal(x, m)
            term = block_term_but_maxima(x, reference)
            sums_lost = add_lost(sums, term, sums_lost)
            sums = add_to_sums(sums, term)
            if spreads:
                value = spread_line(logits, class_weights, j, n - j, m)
                dots_lost = add_lost(dots, value, dots_lost)
                dots = add_to_sums(dots, value)
            j += line
        next = finish_maximum(next, min(n_groups, n_next_groups), next_maxima)
        dot, dot_lost = fold_line_sum(dots, dots_lost)
        return block_sum_of(count, sums, sums_lost, reference.factor), next, dot, dot_lost

    return block_sum_and_dot


sum_alone = summing(False)
sum_with_spread = summing(True)


@compiled
def block_sum(block, reference, next):
    sums, next, _, _ = sum_alone(block, reference, next, 0)
    return sums, next


@compiled
def block_sum_and_spread(block, reference, next, class_weights, mass):
    # block_sum and the spread in one pass: the multiply-adds of the exponentials leave time for
    # it.
    sums, next, dot, dot_lost = sum_with_spread(block, reference, next, class_weights)
    # while there is no finite maximum, what is not masked is NaN or infinite anyway
    m = np.float64(reference.maximum)
    if m != m:
        m = 0.0
    spread = spread_of(dot, dot_lost, block.logits, class_weights, block.n, m, mass)
    return sums, next, spread


@compiled
def block_sum_with_tails(block, tails, reference, next):
    # block_sum of a transformed block, whose maximum is 0.
    n = block.n
    sums = zero_sums(zero)
    sums_lost = sums
    count = 0
    for j in range(0, n, line):
        x = load_up_to(block.logits, j, n - j, minus_infinity)
        tail = load_values(pointer_at(tails, zero), j, n - j)
        m = broadcast(reference.maximum)
        count += count_equal(x, m)
        term = clear_equal(put_together(with_tail(reduce(x, reference), tail)), x, m)
        sums_lost = add_lost(sums, term, sums_lost)
        sums = add_to_sums(sums, term)
    return block_sum_of(count, sums, sums_lost, reference.factor), block_maximum(next)


@inlined
def block_sum_of(count, sums, sums_lost, factor):
    total, lost = fold_line_sum(sums, sums_lost)
    rest = total * factor
    rest_lost = fma(total, factor, -rest) + lost * factor
    return BlockSum(count=np.float64(count), rest=rest, rest_lost=rest_lost)


@inlined
def fold_line_sum(sums, sums_lost):
    # What float64 loses of a sum of float32 is nothing.
    if REAL_BITS == 64:
        return fold_line_and_lost(sums, sums_lost)
    else:
        return fold_sum(sums), 0.0


@inlined
def add_targets(a, b):
    return TargetLine(dot=add(a.dot, b.dot), mass=add(a.mass, b.mass))


@inlined
def target_line(logits, targets, class_weights, j, n, m):
    none = zero_sums(zero)
    left = n - j
    if left >= line:
        x = load(logits, j)
        t = load(targets, j)
    else:
        x = load_partial(logits, j, left, zero)
        t = load_partial(targets, j, left, zero)
    weights = add_to_sums(none, t)
    if class_weights != 0:
        own = load_up_to(pointer_at(class_weights, zero), j, left, zero)
        weights = multiply(weights, add_to_sums(none, own))
    terms = multiply(weights, subtract(m, add_to_sums(none, x)))
    return TargetLine(dot=clear_equal(terms, weights, none), mass=weights)


@inlined
def target_pair(logits, targets, class_weights, j, n, m):
    return add_targets(
        target_line(logits, targets, class_weights, j, n, m),
        target_line(logits, targets, class_weights, j + 4 * line, n, m),
    )


@compiled
def block_target(logits, targets, class_weights, n, maximum):
    # dot: sum of t_j * (m - x_j), where a class without mass costs nothing whatever its logit;
    # mass: sum of t_j. t_j is a target, times its class's weight if there are weights. In
    # float64 throughout: both are sums of products of the inputs.
    none = zero_sums(zero)
    m = add_to_sums(none, broadcast(real(maximum)))
    dots = none
    dots_lost = none
    masses = none
    masses_lost = none
    j = 0
    while j < n:
        # eight lines at a time, folded in half as in block_sum; what is missing adds 0
        ahead = address_of(targets) + (j + PREFETCH_DISTANCE) * (REAL_BITS // 8)
        for k in range(8):
            prefetch(ahead + k * LINE_BYTES)
        pair_a = target_pair(logits, targets, class_weights, j, n, m)
        pair_b = target_pair(logits, targets, class_weights, j + line, n, m)
        pair_c = target_pair(logits, targets, class_weights, j + 2 * line, n, m)
        pair_d = target_pair(logits, targets, class_weights, j + 3 * line, n, m)
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
def spread_but_masked(logits, class_weights, n, maximum):
    # The spread of a block where some classes are masked, or m - x_j is too large for a real:
    # in float64, with a look at each.
    none = zero_sums(zero)
    masked = broadcast(minus_infinity)
    m = sums_equal_to(maximum)
    dots = none
    dots_lost = none
    masses = none
    masses_lost = none
    count = 0
    for j in range(0, n, line):
        x = load_up_to(logits, j, n - j, minus_infinity)
        weight = broadcast(one)
        if class_weights != 0:
            weight = load_up_to(pointer_at(class_weights, zero), j, n - j, one)
        weights = add_to_sums(none, clear_equal(weight, x, masked))
        logit = add_to_sums(none, x)
        term = clear_equal(multiply(weights, subtract(m, logit)), logit, add_to_sums(none, masked))
        dots_lost = add(dots_lost, sum_error(dots, term))
        masses_lost = add(masses_lost, sum_error(masses, weights))
        dots = add(dots, term)
        masses = add(masses, weights)
        count += line - count_equal(x, masked)
    dot, dot_lost = fold_sum_and_lost(dots, dots_lost)
    mass, mass_lost = fold_sum_and_lost(masses, masses_lost)
    return BlockSpread(
        dot=dot, dot_lost=dot_lost, mass=mass, mass_lost=mass_lost, count=np.float64(count)
    )


@inlined
def spread_of(dot, dot_lost, logits, class_weights, n, maximum, mass):
    # A block's spread, given the sum of w_j * (m - x_j) and that of the weights of all its
    # classes.
    if dot - dot != 0.0:
        return spread_but_masked(logits, class_weights, n, maximum)
    return BlockSpread(dot=dot, dot_lost=dot_lost, mass=mass, mass_lost=0.0, count=np.float64(n))


@compiled
def block_spread(logits, class_weights, n, maximum, mass):
    # The spread alone.
    m = broadcast(real(maximum))
    sums = zero_sums(zero)
    sums_lost = sums
    j = 0
    while j < n:
        if j + group <= n:
            value = spread_group(logits, class_weights, j, m)
            width = group
        else:
            value = spread_line(logits, class_weights, j, n - j, m)
            width = line
        sums_lost = add_lost(sums, value, sums_lost)
        sums = add_to_sums(sums, value)
        j += width
    total, lost = fold_line_sum(sums, sums_lost)
    return spread_of(total, lost, logits, class_weights, n, maximum, mass)


@compiled
def block_is_within(values, n, lowest, highest):
    # Whether all n values are from `lowest` to `highest`; no NaN is.
    low = broadcast(real(lowest))
    high = broadcast(real(highest))
    inside = True
    j = 0
    while j + line <= n:
        inside &= all_within(load(values, j), low, high)
        j += line
    if j < n:
        inside &= all_within(load_partial(values, j, n - j, real(lowest)), low, high)
    return inside


@compiled
def block_expectation(logits, tails, vectors, n, reference):
    # The sum of exp(x_j - m) * v_j, with v_j = m - x_j where there are no vectors. A class
    # without probability adds nothing.
    m = broadcast(reference.maximum)
    sums = zero_sums(zero)
    sums_lost = sums
    for j in range(0, n, line):
        x = load_up_to(logits, j, n - j, minus_infinity)
        reduced = reduce(x, reference)
        if TRANSFORMS and tails != 0:
            tail = load_values(pointer_at(tails, zero), j, n - j)
            reduced = with_tail(reduced, tail)
        v = subtract(m, x)
        if vectors != 0:
            v = load_values(pointer_at(vectors, zero), j, n - j)
        # 2^spare_exponent too large, which keeps small terms' digits, but not for vectors
        term = put_together(reduced)
        if vectors != 0:
            term = multiply(term, broadcast(real(reference.factor)))
        value = clear_equal(multiply(term, v), term, broadcast(zero))
        sums_lost = add_lost(sums, value, sums_lost)
        sums = add_to_sums(sums, value)
    total, lost = fold_line_sum(sums, sums_lost)
    if vectors != 0:
        return total + lost
    return (total + lost) * reference.factor


@compiled
def first_equal(values, n, value):
    # The first of n values that equals `value`, or -1.
    wanted = real(value)
    for j in range(0, n, line):
        if any_equal(load_up_to(values, j, n - j, nan), broadcast(wanted)):
            for k in range(j, min(j + line, n)):
                if values[k] == wanted:
                    return k
    return -1
