"""The type that is computed with, and what the exponential needs to know of it."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from ..context import BLOCK, FLOAT32, FLOAT64
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
# Exponentials that a row keeps: 64 kB of a thread's stack.
KEPT_BLOCKS: Final = 16
kept_buffer = stack_buffer(KEPT_BLOCKS * BLOCK + 2 * line)
kept_references_buffer = stack_buffer(KEPT_BLOCKS)
