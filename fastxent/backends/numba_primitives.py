"""Block primitives of the Numba twin: what is done to a run of classes that lies in the cache.

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
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from .context import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from .numba_vectors import (
    add,
    add_bits,
    add_to_sums,
    address_of,
    all_within,
    any_equal,
    broadcast,
    clear_equal,
    count_equal,
    finish_streams,
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
    lookup_in,
    maximum,
    multiply,
    multiply_add,
    pointer_at,
    prefetch,
    prefetch_to_write,
    separately,
    shift_bits,
    stack_buffer,
    store,
    store_bfloat16,
    store_float16,
    store_one_bfloat16,
    store_one_float16,
    store_partial,
    store_past_caches,
    subtract,
    sum_error,
    table_bits,
    with_lane,
    zero_sums,
)

# A block is the largest run of classes handled at once; it and its copy fit the L1 cache.
BLOCK: Final = 1024
# Reals ahead of the exponentials that memory is asked for the logits: measured best 4096 to 8192.
PREFETCH_DISTANCE: Final = 4096
# The bytes of a line, whatever it holds.
LINE_BYTES: Final = 64

# Python never calls these functions, so they need no entry for it: 1.5 of 8.4 s to compile.
OPTIONS: Final[dict[str, Any]] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

inlined = njit(forceinline=True, **OPTIONS)


def compiled(function: Any) -> Any:
    """Compiled by itself, and called."""
    return separately(njit(**OPTIONS)(function))


LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")


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
    # e^r = 1 + r + r^2 (...), minimax in relative error over |r| <= ln2/(2s), with coefficients
    # that the type holds exactly, for each number of table_bits; docs/derive_exponential.py prints
    # them and their errors: at most 0.053 units of 2^-24, 0.034 of 2^-53. The more steps to a power
    # of two, the lower the degree, and multiply-adds are what the pass over the exponentials waits
    # for.
    coefficients: dict[int, tuple[str, ...]]
    # 2^(i/s), rounded, and what rounding has left out of it: 2^(i/s) = powers[i] * (1 +
    # corrections[i]). With fewer steps it is every second of them.
    powers: tuple[str, ...]
    corrections: tuple[str, ...]
    # ln2 in two parts; the first has so few bits that n * ln2_high is exact for every n that
    # matters where there is no fused multiply-add (s = 1, |n| < 2^9 and 2^12).
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
        coefficients={
            4: ("0x1p+0", "0x1p+0", "0x1.00021ep-1", "0x1.555598p-3"),
            3: ("0x1p+0", "0x1p+0", "0x1p-1", "0x1.555c70p-3", "0x1.555664p-5"),
            0: (
                "0x1p+0", "0x1p+0", "0x1.fffffcp-2", "0x1.555492p-3", "0x1.5558b0p-5",
                "0x1.12399cp-7", "0x1.6a4ecap-10",
            ),
        },
        powers=(
            "0x1p+0", "0x1.0b5586p+0", "0x1.172b84p+0", "0x1.2387a6p+0", "0x1.306fep+0",
            "0x1.3dea64p+0", "0x1.4bfdaep+0", "0x1.5ab07ep+0", "0x1.6a09e6p+0", "0x1.7a1148p+0",
            "0x1.8ace54p+0", "0x1.9c4918p+0", "0x1.ae89fap+0", "0x1.c199bep+0", "0x1.d5818ep+0",
            "0x1.ea4afap+0"
        ),
        corrections=(
            "0x0p+0", "0x1.8d96d4p-25", "-0x1.9c0c22p-27", "0x1.964904p-25", "0x1.125002p-25",
            "0x1.370be4p-25", "-0x1.0a355p-25", "-0x1.00d8acp-27", "0x1.26055cp-26",
            "-0x1.05cb44p-25", "0x1.67a1cap-28", "0x1.a3b5e4p-28", "-0x1.f9c304p-27",
            "-0x1.6961b4p-28", "-0x1.a5217cp-28", "0x1.61428ep-28"
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
        coefficients={
            3: (
                "0x1p+0", "0x1p+0", "0x1.000000000010bp-1", "0x1.555555555512ep-3",
                "0x1.555555480bc0ep-5", "0x1.11111125e58fap-7", "0x1.6c1cbe4eb57b6p-10",
                "0x1.a0163741ab3e9p-13",
            ),
            0: (
                "0x1p+0", "0x1p+0", "0x1.000000000000ap-1", "0x1.555555555550ap-3",
                "0x1.5555555550773p-5", "0x1.1111111124d11p-7", "0x1.6c16c18446993p-10",
                "0x1.a01a013684148p-13", "0x1.a01999e21b19ep-16", "0x1.71df0f7ce0458p-19",
                "0x1.28ad8a5ee467fp-22", "0x1.ad9c208a16602p-26",
            ),
        },
        powers=(
            "0x1p+0", "0x1.172b83c7d517bp+0", "0x1.306fe0a31b715p+0", "0x1.4bfdad5362a27p+0",
            "0x1.6a09e667f3bcdp+0", "0x1.8ace5422aa0dbp+0", "0x1.ae89f995ad3adp+0",
            "0x1.d5818dcfba487p+0"
        ),
        corrections=(
            "0x0p+0", "-0x1.01b15eaa59348p-55", "0x1.34d754db0abb6p-55", "0x1.690cebb7aafbp-56",
            "-0x1.3b3efbf5e2228p-54", "0x1.db72fc1f0eab4p-55", "0x1.c1a7792cb3387p-55",
            "0x1.4a385a63d07a7p-56"
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
    group = 8 * line  # whose exponentials are added before anything is added to the sums
    zero = real(0.0)
    minus_infinity = real(-math.inf)
    steps_bits = table_bits(real_bits)
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
    exact_difference = arithmetic.exact_difference
    # what is left of ln2 beyond ln2_high, to float64
    ln2_rest = LN2 / steps - float(ln2_high) if real_bits == 32 else float(ln2_low)
    ln2_first = float(ln2_high)
    degree = len(coefficients) - 1
    highest = coefficients[0]
    if steps > 1:
        lookup_power = lookup_in(real_bits, _power_bits(arithmetic, steps, exponent_shift))
        lookup_correction = lookup_in(
            real_bits, [_bits(real, text) for text in _every_step(arithmetic.corrections, steps)]
        )

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
    def scaled(reduced, scale):
        return put_together(Reduced(power=multiply(scale, reduced.power), part=reduced.part))

    @inlined
    def scaled_exponential(x, reference, scale):
        # scale * exp(x - m) / factor
        return scaled(reduce(x, reference), scale)

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

    @compiled
    def shift_block(block, shift):
        # The logits less the shift, which is exact for all that matter; in the block's own buffer.
        for j in range(block.n):
            block.buffer[j] = block.logits[j] - real(shift)
        return Block(
            logits=block.buffer,
            n=block.n,
            ahead=block.ahead,
            written=block.written,
            line_bytes=block.line_bytes,
            maximum=block.maximum,
            group_maxima=block.group_maxima,
            buffer=block.buffer,
        )

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
            add(
                pair_sum(logits, j + 4 * line, reference), pair_sum(logits, j + 6 * line, reference)
            ),
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
        if real_bits == 64:
            return add(sums_lost, sum_error(sums, value))
        return sums_lost

    @compiled
    def block_sum(block, reference, next):
        # count: how many logits equal m; rest: the sum of exp(x_j - m) over the others; rest_lost:
        # what rounding has lost of it since the groups were added up. The sums of groups go on in
        # float64.
        #
        # Meanwhile `next`, the block that comes after this one, gets its maximum: a pass of its own
        # for it would wait for memory first, and the sum for it (65536 x 1000 float32, one thread:
        # 16.3 ms against 14.2).
        logits = block.logits
        m = broadcast(reference.maximum)
        unshifted = broadcast(real(np.float64(reference.maximum) + reference.shift))
        n = block.n
        n_groups = n // group
        n_next_groups = next.n // group
        sums = zero_sums(zero)
        sums_lost = sums
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
        j = n_groups * group
        # What is left goes into float64 line by line: few terms have nothing to average roundings
        # with.
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
            j += line
        next = finish_maximum(next, min(n_groups, n_next_groups), next_maxima)
        if real_bits == 64:
            sum_total, lost = fold_sum_and_lost(sums, sums_lost)
        else:
            sum_total = fold_sum(sums)
            lost = 0.0
        rest = sum_total * reference.factor
        rest_lost = fma(sum_total, reference.factor, -rest) + lost * reference.factor
        return BlockSum(count=np.float64(count), rest=rest, rest_lost=rest_lost), next

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
            ahead = address_of(targets) + (j + PREFETCH_DISTANCE) * (real_bits // 8)
            for k in range(8):
                prefetch(ahead + k * LINE_BYTES)
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

    # Output that `streams` goes past the caches, from its first whole line on.

    @inlined
    def reals_to_line(output, n, streams):
        if not streams:
            return 0
        return min((-address_of(output) % LINE_BYTES) // (real_bits // 8), n)

    @inlined
    def store_line(output, j, value, streams):
        if streams:
            store_past_caches(output, j, value)
        else:
            store(output, j, value)

    @inlined
    def prefetch_ends(row, n_bytes):
        # The first and the last line of a row may be shared with its neighbours, and are not
        # streamed where they are. A store to a line that is not in the cache holds up all stores
        # after it, so they are asked for early.
        prefetch_to_write(row)
        prefetch_to_write(row + n_bytes - 1)

    @compiled
    def block_softmax(logits, n, reference, scale, label, label_value, output, streams):
        # output_j = scale * exp(x_j - m) / factor, but label_value at the label; a negative one is
        # none. (Put there afterwards, it would wait for a line that has just been sent past the
        # caches.)
        scales = broadcast(real(scale))
        j = reals_to_line(output, n, streams)
        if j > 0:
            value = scaled_exponential(load_partial(logits, 0, j, zero), reference, scales)
            if 0 <= label < j:
                value = with_lane(value, label, real(label_value))
            store_partial(output, 0, value, j)
        while j + line <= n:
            value = scaled_exponential(load(logits, j), reference, scales)
            if j <= label < j + line:
                value = with_lane(value, label - j, real(label_value))
            store_line(output, j, value, streams)
            j += line
        if j < n:
            value = scaled_exponential(load_partial(logits, j, n - j, zero), reference, scales)
            if j <= label < n:
                value = with_lane(value, label - j, real(label_value))
            store_partial(output, j, value, n - j)

    @inlined
    def softmax_minus_target(
        x, t, n, reference, scales, target_scale, mass, mass_lost, others
    ):  # fmt: skip
        value = subtract(
            scaled_exponential(x, reference, scales), multiply(t, broadcast(real(target_scale)))
        )
        if others < 0.5 and any_equal(x, broadcast(reference.maximum)):
            for k in range(n):
                if lane(x, k) == reference.maximum:
                    t_k = np.float64(lane(t, k))
                    label = target_scale * (((mass - t_k) + mass_lost) - mass * others)
                    value = with_lane(value, k, real(label))
        return value

    @compiled
    def block_softmax_minus_target(
        logits, targets, n, reference, scale, target_scale, mass, mass_lost, others, output,
        streams,
    ):  # fmt: skip
        # output_j = scale * exp(x_j - m) / factor - target_scale * t_j, except at a logit x_j = m
        # that has more than half of the softmax: there
        # A*p_j - t_j = (A - t_j) - A*(sum_exp - 1)/sum_exp, which keeps its digits as p_j comes
        # close to 1 (A is the mass of t, `others` is 1 - p_j).
        scales = broadcast(real(scale))
        first = reals_to_line(output, n, streams)
        j = 0
        while j < n:
            left = first if j < first else min(line, n - j)
            if left == line:
                x = load(logits, j)
                t = load(targets, j)
            else:
                x = load_partial(logits, j, left, zero)
                t = load_partial(targets, j, left, zero)
            value = softmax_minus_target(
                x, t, left, reference, scales, target_scale, mass, mass_lost, others
            )
            if left == line:
                store_line(output, j, value, streams)
            else:
                store_partial(output, j, value, left)
            j += left

    @compiled
    def block_log_softmax(logits, n, maximum, log_sum_exp, output, streams):
        # output_j = (x_j - m) - log(sum_exp)
        m = broadcast(real(maximum))
        log_sum = broadcast(real(log_sum_exp))
        j = reals_to_line(output, n, streams)
        if j > 0:
            x = load_partial(logits, 0, j, zero)
            store_partial(output, 0, subtract(subtract(x, m), log_sum), j)
        while j + line <= n:
            store_line(output, j, subtract(subtract(load(logits, j), m), log_sum), streams)
            j += line
        if j < n:
            x = load_partial(logits, j, n - j, zero)
            store_partial(output, j, subtract(subtract(x, m), log_sum), n - j)

    return SimpleNamespace(
        real=real,
        steps=steps,
        reduce_with=reduce_with,
        put_together=put_together,
        scaled=scaled,
        convert_block=convert_block,
        reference_at=reference_at,
        balancing_exponent=balancing_exponent,
        shift_exponent=shift_exponent,
        element_size=element_size,
        load_element=load_element,
        store_element=store_element,
        load_block=load_block,
        output_block=output_block,
        store_block=store_block,
        new_block=new_block,
        open_block=open_block,
        shift_block=shift_block,
        block_maximum=block_maximum,
        block_sum=block_sum,
        block_target=block_target,
        block_is_within=block_is_within,
        block_softmax=block_softmax,
        block_softmax_minus_target=block_softmax_minus_target,
        block_log_softmax=block_log_softmax,
        prefetch_ends=prefetch_ends,
        finish_streams=finish_streams,
        block_buffer=stack_buffer(BLOCK),
        group_maxima_buffer=stack_buffer(BLOCK // 8),
    )


def _bits(real: Any, text: str) -> int:
    """The bits of a float, as an integer."""
    width = np.int32 if real is np.float32 else np.int64
    return int(real(float.fromhex(text)).view(width))


def _every_step(values: tuple[str, ...], steps: int) -> tuple[str, ...]:
    return values[:: len(values) // steps]


def _power_bits(arithmetic: Arithmetic, steps: int, exponent_shift: int) -> list[int]:
    """What a lane's shifted index lacks to be the bits of its power of two."""
    one = _bits(arithmetic.real, "0x1p+0")
    return [
        _bits(arithmetic.real, text) - one - (i << exponent_shift)
        for i, text in enumerate(_every_step(arithmetic.powers, steps))
    ]
