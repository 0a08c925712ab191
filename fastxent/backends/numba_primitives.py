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

from .context import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from .numba_transform import make_transforms
from .numba_vectors import (
    add,
    add_bits,
    add_to_sums,
    address_of,
    all_within,
    any_equal,
    broadcast,
    choose_equal,
    choose_greater,
    clear_equal,
    compiled,
    count_equal,
    exact_sum,
    finish_streams,
    fma,
    fold_line_and_lost,
    fold_maximum,
    fold_sum,
    fold_sum_and_lost,
    inlined,
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
    magnitude,
    maximum,
    multiply,
    multiply_add,
    negate,
    pointer_at,
    prefetch,
    prefetch_to_write,
    shift_bits,
    stack_buffer,
    store,
    store_bfloat16,
    store_float16,
    store_float32,
    store_one_bfloat16,
    store_one_float16,
    store_one_float32,
    store_partial,
    store_past_caches,
    subtract,
    sum_error,
    sums_of,
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


class Measure(NamedTuple):
    """What a block's output is made of besides its softmax.

    A measure is t_j = class_weights_j * (probs_scale * probs_j + spread), where there are 1 and 0
    in place of weights and probs that are not given, and nothing is spread over a class that is
    masked. Arrays are addresses, and 0 where there is none.
    """

    probs: Any
    class_weights: Any
    probs_scale: Any
    spread: Any
    transformed: Transformed  # what a transformed block has besides
    total: Any  # what the softmax is multiplied by
    total_lost: Any
    others: Any  # 1 - exp(m - m)/sum_exp
    output_scale: Any  # of everything
    label: Any  # where label_value goes; negative for none
    label_value: Any
    masked: Any  # whether a class of the row may be masked


class MeasureValues(NamedTuple):
    """A measure and a softmax, ready for the lines of a block."""

    logits: Any
    measure: Measure
    reference: Reference
    scale: Any
    probs_scale: Any  # these two times output_scale
    spread: Any


class ProductValues(NamedTuple):
    measured: MeasureValues
    vectors: Any
    mean: Any


class LabelGradientValues(NamedTuple):
    logits: Any
    measure: Measure
    maximum: Any
    log_sum_exp: Any
    scale: Any


class Softness(NamedTuple):
    """A row of logits divided by a temperature."""

    maximum: Any  # before that
    log_sum: Any  # log(sum_exp)
    scale: Any  # 1/sum_exp
    others: Any  # 1 - exp(m - m)/sum_exp


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
    last_power: int  # of an exponential's Taylor series
    cap_limit: float  # beyond it 1 - tanh is below the smallest number


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
        last_power=9,
        cap_limit=60.0,
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
        last_power=15,
        cap_limit=400.0,
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
    # What an output is multiplied by is kept between these two, where every result that `real`
    # holds is computed with all its digits; the power of two that is missing comes last.
    least_output_exponent = -(spare_exponent // 2)
    most_output_exponent = spare_exponent
    # Neither it nor its product with the mass is beyond 2 to this: times the 0 of a masked class,
    # infinity would be NaN.
    largest_output_exponent = 120 if real_bits == 32 else 1000
    # Between these balancing_exponent is 0.
    least_balanced_scale = math.ldexp(0.5, -spare_exponent - spare_exponent // 2)
    most_balanced_scale = math.ldexp(1.0, -spare_exponent + spare_exponent // 2)
    exact_difference = arithmetic.exact_difference
    # what is left of ln2 beyond ln2_high, to float64
    ln2_rest = LN2 / steps - float(ln2_high) if real_bits == 32 else float(ln2_low)
    ln2_first = float(ln2_high)
    sums_equal_to = sums_of(line)
    one = real(1.0)
    half = real(0.5)
    nan = real(math.nan)
    # 1/k! from the last one down to 1/2!
    last_power = arithmetic.last_power
    series_terms = tuple(real(1.0 / math.factorial(k)) for k in range(last_power, 1, -1))
    transforms = make_transforms(arithmetic)
    transform_relative_to = transforms.transform_relative_to
    transformed_difference = transforms.transformed_difference
    difference_with_slope = transforms.difference_with_slope
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
    def with_tail(reduced, tail):
        # The same times 1 + tail, for a tail far below 1.
        part = add(reduced.part, multiply_add(tail, reduced.part, tail))
        return Reduced(power=reduced.power, part=part)

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

    @compiled
    def scale_values(values, n, stride, exponent):
        # n values times 2^exponent, each rounded once.
        for j in range(n):
            values[j * stride] = real(math.ldexp(np.float64(values[j * stride]), exponent))

    @inlined
    def store_element(destination, element, value):
        if element == own_element:
            pointer_at(destination, zero)[0] = real(value)
        elif element == FLOAT16:
            store_one_float16(destination, real(value))
        elif element == FLOAT32:
            store_one_float32(destination, real(value))
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
        size = element_size(element)
        j = 0
        while j + line <= n:
            place = destination + j * size
            if element == FLOAT16:
                store_float16(place, load(block, j))
            elif element == FLOAT32:
                store_float32(place, load(block, j))
            else:
                store_bfloat16(place, load(block, j))
            j += line
        while j < n:
            store_element(destination + j * size, element, np.float64(block[j]))
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
        if real_bits == 64:
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
            ahead = address_of(targets) + (j + PREFETCH_DISTANCE) * (real_bits // 8)
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

    @inlined
    def load_up_to(source, j, n, fill):
        # The line at element j, of which n lanes or more are there; the others hold `fill`.
        if n >= line:
            return load(source, j)
        return load_partial(source, j, n, fill)

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
            term = clear_equal(
                multiply(weights, subtract(m, logit)), logit, add_to_sums(none, masked)
            )
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
        return BlockSpread(
            dot=dot, dot_lost=dot_lost, mass=mass, mass_lost=0.0, count=np.float64(n)
        )

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

    @inlined
    def write_softmax(
        logits, n, reference, scale, spread, smoothed, label, label_value, output, streams
    ):
        scales = broadcast(real(scale))
        spreads = broadcast(real(spread))
        first = reals_to_line(output, n, streams)
        j = 0
        while j < n:
            count = first if j < first else min(line, n - j)
            value = scaled_exponential(load_up_to(logits, j, count, zero), reference, scales)
            if smoothed:
                value = subtract(value, spreads)
            if j <= label < j + count:
                value = with_lane(value, label - j, real(label_value))
            if count == line:
                store_line(output, j, value, streams)
            else:
                store_partial(output, j, value, count)
            j += count

    @compiled
    def block_softmax(logits, n, reference, scale, spread, label, label_value, output, streams):
        # output_j = scale * exp(x_j - m) / factor - spread, but label_value at the label; a
        # negative one is none. (Put there afterwards, it would wait for a line that has just been
        # sent past the caches.)
        if spread != 0.0:
            write_softmax(
                logits, n, reference, scale, spread, True, label, label_value, output, streams
            )
        else:
            write_softmax(
                logits, n, reference, scale, spread, False, label, label_value, output, streams
            )

    def writing(values):
        # A function that writes n values; past the caches where the output `streams`, from its
        # first whole line on. `values` gives the value of output_j to output_(j + count), `count`
        # being the lanes of a line or fewer.
        @compiled
        def write_values(closure, n, output, streams):
            first = reals_to_line(output, n, streams)
            j = 0
            while j < n:
                count = first if j < first else min(line, n - j)
                value = values(closure, j, count)
                if count == line:
                    store_line(output, j, value, streams)
                else:
                    store_partial(output, j, value, count)
                j += count

        return write_values

    @inlined
    def load_values(source, j, n):
        return load_up_to(source, j, n, zero)

    @inlined
    def measure_values_of(logits, measure, reference, scale):
        return MeasureValues(
            logits=logits,
            measure=measure,
            reference=reference,
            scale=real(scale),
            probs_scale=real(measure.probs_scale * measure.output_scale),
            spread=real(measure.spread * measure.output_scale),
        )

    @inlined
    def measure_term(values, x, j, n):
        reduced = reduce(x, values.reference)
        tails = values.measure.transformed.tails
        if tails != 0:
            tail = load_values(pointer_at(tails, zero), j, n)
            reduced = with_tail(reduced, tail)
        return scaled(reduced, broadcast(values.scale))

    @inlined
    def measure_at(measure, j, x):
        # One t_j in float64.
        t = 0.0 if x == minus_infinity else measure.spread
        if measure.probs != 0:
            t += measure.probs_scale * np.float64(pointer_at(measure.probs, zero)[j])
        if measure.class_weights != 0:
            t *= np.float64(pointer_at(measure.class_weights, zero)[j])
        return t

    @inlined
    def softmax_minus_target_values(values, j, n):
        measure = values.measure
        x = load_values(values.logits, j, n)
        t = broadcast(values.spread)
        if measure.masked:
            t = clear_equal(t, x, broadcast(minus_infinity))
        if measure.probs != 0:
            probs = load_values(pointer_at(measure.probs, zero), j, n)
            t = multiply_add(probs, broadcast(values.probs_scale), t)
        value = measure_term(values, x, j, n)
        if measure.class_weights != 0:
            weights = load_values(pointer_at(measure.class_weights, zero), j, n)
            value = multiply_add(negate(t), weights, value)
        else:
            value = subtract(value, t)
        m = values.reference.maximum
        if measure.others < 0.5 and any_equal(x, broadcast(m)):
            for k in range(n):
                if lane(x, k) == m:
                    own = ((measure.total - measure_at(measure, j + k, m)) + measure.total_lost) - (
                        measure.total * measure.others
                    )
                    value = with_lane(value, k, real(measure.output_scale * own))
        if j <= measure.label < j + n:
            value = with_lane(value, measure.label - j, real(measure.label_value))
        if measure.transformed.slopes != 0:
            slopes = load_values(pointer_at(measure.transformed.slopes, zero), j, n)
            tails = load_values(pointer_at(measure.transformed.slope_tails, zero), j, n)
            value = multiply_add(value, slopes, multiply(value, tails))
        return value

    write_softmax_minus_target = writing(softmax_minus_target_values)

    @inlined
    def block_softmax_minus_target(logits, n, measure, reference, scale, output, streams):
        # output_j = scale * exp(x_j - m) / factor - output_scale * t_j, except at a logit x_j = m
        # that has more than half of the softmax: there
        # B*p_j - t_j = (B - t_j) - B*(sum_exp - 1)/sum_exp, which keeps its digits as p_j comes
        # close to 1 (B is `total`, `others` is 1 - p_j); and at the label.
        values = measure_values_of(logits, measure, reference, scale)
        write_softmax_minus_target(values, n, output, streams)

    @inlined
    def hessian_values(values, j, n):
        measure = values.measure
        p = measure_term(values, load_values(values.logits, j, n), j, n)
        rest = choose_greater(
            p, broadcast(half), broadcast(real(measure.others)), subtract(broadcast(one), p)
        )
        scale = broadcast(real(measure.output_scale))
        return multiply(multiply(p, rest), scale)

    write_hessian = writing(hessian_values)

    @inlined
    def block_hessian(logits, n, measure, reference, scale, output, streams):
        # output_j = output_scale * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor
        values = measure_values_of(logits, measure, reference, scale)
        write_hessian(values, n, output, streams)

    @inlined
    def hessian_product_values(values, j, n):
        measured = values.measured
        p = measure_term(measured, load_values(measured.logits, j, n), j, n)
        vectors = load_values(values.vectors, j, n)
        value = multiply(p, subtract(vectors, broadcast(values.mean)))
        return clear_equal(value, p, broadcast(zero))

    write_hessian_product = writing(hessian_product_values)

    @inlined
    def block_hessian_product(
        logits, vectors, n, measure, reference, scale, mean, output, streams
    ):  # fmt: skip
        # output_j = scale * exp(x_j - m) / factor * (v_j - mean)
        values = ProductValues(
            measured=measure_values_of(logits, measure, reference, scale),
            vectors=vectors,
            mean=real(mean),
        )
        write_hessian_product(values, n, output, streams)

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
            if tails != 0:
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

    @inlined
    def label_gradient_values(values, j, n):
        measure = values.measure
        x = load_values(values.logits, j, n)
        value = add(subtract(broadcast(values.maximum), x), broadcast(values.log_sum_exp))
        value = multiply(value, broadcast(values.scale))
        if measure.class_weights != 0:
            value = multiply(value, load_values(pointer_at(measure.class_weights, zero), j, n))
        probs = load_values(pointer_at(measure.probs, zero), j, n)
        kept = clear_equal(value, probs, broadcast(zero))
        kept = clear_equal(kept, broadcast(values.scale), broadcast(zero))
        if measure.class_weights != 0:
            weights = load_values(pointer_at(measure.class_weights, zero), j, n)
            kept = clear_equal(kept, weights, broadcast(zero))
        return choose_equal(x, broadcast(minus_infinity), kept, value)

    write_label_gradient = writing(label_gradient_values)

    @inlined
    def block_label_gradient(logits, n, measure, maximum, log_sum_exp, output, streams):
        # output_j = output_scale * probs_scale * class_weights_j * ((m - x_j) + log(sum_exp)), the
        # gradient with respect to a probability; 0 at a masked class without mass.
        values = LabelGradientValues(
            logits=logits,
            measure=measure,
            maximum=real(maximum),
            log_sum_exp=real(log_sum_exp),
            scale=real(measure.output_scale * measure.probs_scale),
        )
        write_label_gradient(values, n, output, streams)

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

    # ---- divergence of two rows ----

    @inlined
    def pair_term(d, reference):
        # exp(d) / factor
        return put_together(with_tail(reduce(d.value, reference), d.low))

    @compiled
    def row_softness(row, element, n_classes, temperature, buffer):
        reference = reference_at(0.0)
        size = element_size(element)
        maxima = broadcast(minus_infinity)
        for j in range(0, n_classes, BLOCK):
            n = min(BLOCK, n_classes - j)
            x = load_block(row + j * size, element, n, buffer)
            for k in range(0, n, line):
                maxima = maximum(load_up_to(x, k, n - k, minus_infinity), maxima)
        m = np.float64(fold_maximum(maxima))
        top = transform_relative_to(m, temperature, 0.0)
        sums = zero_sums(zero)
        sums_lost = sums
        count = 0
        for j in range(0, n_classes, BLOCK):
            n = min(BLOCK, n_classes - j)
            row_block = load_block(row + j * size, element, n, buffer)
            for k in range(0, n, line):
                x = load_up_to(row_block, k, n - k, minus_infinity)
                count += count_equal(x, top.maximum)
                d = transformed_difference(x, top)
                term = clear_equal(pair_term(d, reference), x, top.maximum)
                sums_lost = add_lost(sums, term, sums_lost)
                sums = add_to_sums(sums, term)
        total, lost = fold_line_sum(sums, sums_lost)
        above = (total + lost) * reference.factor + (np.float64(count) - 1.0)
        # a row without a finite maximum has no softmax
        y = above if m - m == 0.0 and above >= 0.0 else math.nan
        return Softness(
            maximum=m, log_sum=math.log1p(y), scale=1.0 / (1.0 + y), others=y / (1.0 + y)
        )

    @compiled
    def block_divergence(
        logits, partners, n, own, partner, temperature, output_scale, output
    ):  # fmt: skip
        # The sum of q_j * (exp(-d_j) - 1 + d_j), with p and q the softmax of logits and partners
        # and d_j = log q_j - log p_j; where d_j is small from its series. Where there is an output
        # (an address, or 0), output_j = output_scale * (p_j - q_j).
        reference = reference_at(0.0)
        top = transform_relative_to(own.maximum, temperature, 0.0)
        partner_top = transform_relative_to(partner.maximum, temperature, 0.0)
        scale = broadcast(real(output_scale))
        own_scale = broadcast(real(own.scale * reference.factor))
        partner_scale = broadcast(real(partner.scale * reference.factor))
        log_sums_apart = broadcast(real(own.log_sum - partner.log_sum))
        sums = zero_sums(zero)
        sums_lost = sums
        for j in range(0, n, line):
            x = load_up_to(logits, j, n - j, minus_infinity)
            u = load_up_to(partners, j, n - j, minus_infinity)
            below = transformed_difference(x, top)
            partner_below = transformed_difference(u, partner_top)
            p = multiply(pair_term(below, reference), own_scale)
            q = multiply(pair_term(partner_below, reference), partner_scale)
            apart = exact_sum(partner_below.value, negate(below.value))
            d = add(
                add(apart.value, log_sums_apart),
                add(apart.low, subtract(partner_below.low, below.low)),
            )
            series = broadcast(series_terms[0])
            for k in range(1, last_power - 1):
                series = multiply_add(series, negate(d), broadcast(series_terms[k]))
            curve = multiply(multiply(d, d), series)  # exp(-d) - 1 + d
            difference = subtract(p, q)
            far_term = add(difference, clear_equal(multiply(q, d), q, broadcast(zero)))
            near = broadcast(half)
            size = magnitude(d)
            value = choose_greater(near, size, multiply(q, curve), far_term)
            sums_lost = add_lost(sums, value, sums_lost)
            sums = add_to_sums(sums, value)
            if output != 0:
                # where both have more than half, 1 - q - (1 - p) keeps the digits of confident rows
                others = broadcast(real(partner.others - own.others))
                gradient = choose_greater(near, size, multiply(q, subtract(curve, d)), difference)
                gradient = choose_greater(
                    p, near, choose_greater(q, near, others, gradient), gradient
                )
                place = pointer_at(output, zero)
                store_partial(place, j, multiply(gradient, scale), min(line, n - j))
        total, lost = fold_line_sum(sums, sums_lost)
        return total + lost

    return SimpleNamespace(
        real=real,
        steps=steps,
        reduce_with=reduce_with,
        put_together=put_together,
        scaled=scaled,
        convert_block=convert_block,
        reference_at=reference_at,
        least_output_exponent=least_output_exponent,
        most_output_exponent=most_output_exponent,
        largest_output_exponent=largest_output_exponent,
        least_balanced_scale=least_balanced_scale,
        most_balanced_scale=most_balanced_scale,
        balancing_exponent=balancing_exponent,
        shift_exponent=shift_exponent,
        element_size=element_size,
        load_element=load_element,
        store_element=store_element,
        load_block=load_block,
        output_block=output_block,
        store_block=store_block,
        scale_values=scale_values,
        new_block=new_block,
        open_block=open_block,
        shift_block=shift_block,
        transformed_gap=transforms.transformed_gap,
        transformed_value=transforms.transformed_value,
        transform_block=transform_block,
        block_maximum=block_maximum,
        block_sum=block_sum,
        block_sum_with_tails=block_sum_with_tails,
        block_target=block_target,
        block_spread=block_spread,
        block_sum_and_spread=block_sum_and_spread,
        block_is_within=block_is_within,
        block_softmax=block_softmax,
        block_softmax_minus_target=block_softmax_minus_target,
        block_hessian=block_hessian,
        block_hessian_product=block_hessian_product,
        block_expectation=block_expectation,
        block_label_gradient=block_label_gradient,
        block_log_softmax=block_log_softmax,
        first_equal=first_equal,
        row_softness=row_softness,
        block_divergence=block_divergence,
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
