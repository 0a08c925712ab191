"""The type that is computed with, and what the exponential needs to know of it."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from ..context import BLOCK, FLOAT32, FLOAT64, SCRATCH_CLASSES, SEGMENT
from ..numba_scalars import stack_buffer
from .settings import REAL_BITS

# Reals ahead of the exponentials that memory is asked for the logits: measured best 4096 to 8192.
PREFETCH_DISTANCE: Final = 4096
# The bytes of a line, whatever it holds.
LINE_BYTES: Final = 64

LN2: Final = float.fromhex("0x1.62e42fefa39efp-1")
LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")


class Arithmetic(NamedTuple):
    """What the exponential needs to know of the type that is computed with."""

    real: Any
    own_element: int
    # e^r = 1 + r + r^2 (...), minimax in relative error over |r| <= ln2/2, with coefficients that
    # the type holds exactly; docs/derive_exponential.py prints them and their errors: at most 0.053
    # units of 2^-24, 0.034 of 2^-53.
    coefficients: tuple[str, ...]
    # ln2 in two parts; the first has so few bits that n * ln2_high is exact for every n that
    # matters where there is no fused multiply-add (|n| < 2^9 and 2^12).
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
        coefficients=(
            "0x1p+0", "0x1p+0", "0x1.fffffcp-2", "0x1.555492p-3", "0x1.5558b0p-5", "0x1.12399cp-7",
            "0x1.6a4ecap-10",
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
        last_power=15,
        cap_limit=400.0,
    ),
}  # fmt: skip


arithmetic = ARITHMETIC[REAL_BITS]
real = arithmetic.real
own_element = arithmetic.own_element
real_bytes = REAL_BITS // 8
line = 512 // REAL_BITS
group = 8 * line  # whose exponentials are added before anything is added to the sums
zero = real(0.0)
one = real(1.0)
half = real(0.5)
nan = real(math.nan)
infinity = real(math.inf)
minus_infinity = real(-math.inf)
# 1/k! from the last one down to 1/2!
last_power = arithmetic.last_power
series_terms = tuple(real(1.0 / math.factorial(k)) for k in range(last_power, 1, -1))

# A block is the largest run of classes handled at once; it and its copies fit the L1 cache. Sums
# need room for two lines more.
block_buffer = stack_buffer(BLOCK + 2 * line)
# Exponentials that a row keeps, and what those of each block were taken relative to.
kept_buffer = stack_buffer(SEGMENT + 2 * line)
kept_references_buffer = stack_buffer(SCRATCH_CLASSES // BLOCK)
