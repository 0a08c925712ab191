"""Derives the coefficients of the exponential in csrc_pyx/primitives.h, and checks them.

    e^r ~ 1 + r + c_2 r^2 + ... + c_d r^d      for |r| <= ln2/2

The first two coefficients are 1, so that a small r comes out right without any rounding. The
others make the largest relative error as small as the type allows: the Remez exchange finds the
best real coefficients, the lowest of them is rounded to the type and then kept, and the exchange
runs again for those that are left. So every later coefficient makes up for the rounding of the
earlier ones.

Run it from anywhere: `python docs/derive_exponential.py`. It prints what it derives and exits
with 1 where primitives.h holds anything else.
"""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mpmath
from mpmath import mp

HEADER: Final = Path(__file__).parent.parent / "csrc_pyx" / "primitives.h"

# mpmath carries no types; a Real is its number, of as many digits as mp.dps says.
Real = Any

N_GRID: Final = 1500
MAX_EXCHANGES: Final = 30


@dataclass(frozen=True)
class Format:
    """A type that the coefficients are rounded to, and the degree that suits it."""

    name: str
    real_bits: int
    precision: int  # bits of the significand
    degree: int

    def rounded(self, value: Real) -> Real:
        """The nearest number of this type."""
        code = "f" if self.real_bits == 32 else "d"
        (nearest,) = struct.unpack(code, struct.pack(code, float(value)))
        return mp.mpf(nearest)


FORMATS: Final = (
    Format("float32", real_bits=32, precision=24, degree=6),
    Format("float64", real_bits=64, precision=53, degree=11),
)


def half_width() -> Real:
    """The interval is |r| <= this: ln2/2, and a little more.

    The integer nearest to x/ln2 is found from a rounded product, so r may pass ln2/2 slightly.
    """
    return mp.log(2) / 2 * mp.mpf("1.0005")


def starting_points(n: int) -> list[Real]:
    """Where the exchange starts: n points, denser towards the ends, none of them 0."""
    points = [half_width() * mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    return [r if abs(r) > half_width() / 100 else half_width() / 20 for r in points]


def grid() -> list[Real]:
    """Where errors are looked at, from the upper end of the interval to the lower."""
    return [half_width() * mp.cos(mp.pi * i / mp.mpf(N_GRID)) for i in range(N_GRID + 1)]


def polynomial(coefficients: list[Real], r: Real) -> Real:
    """Their polynomial at r, the lowest coefficient first."""
    return mp.polyval(coefficients[::-1], r)


def sign_of_power(r: Real, exponent: int) -> int:
    """The sign of r^exponent.

    With k coefficients given, what the others add is r^k times a polynomial. That polynomial's
    error is what alternates, so for odd k the error of the whole does not change sign at 0.
    """
    return -1 if exponent % 2 and r < 0 else 1


def levelled(fixed: list[Real], n_free: int, points: list[Real]) -> list[Real]:
    """The free coefficients for which the relative error has one size and alternates in sign.

    There is one point more than there are coefficients; the extra unknown is the error itself.
    """
    k = len(fixed)
    matrix = mp.matrix(n_free + 1, n_free + 1)
    wanted = mp.matrix(n_free + 1, 1)
    for i, r in enumerate(points):
        exact = mp.exp(r)
        for column in range(n_free):
            matrix[i, column] = r ** (k + column) / exact
        matrix[i, n_free] = (-1) ** i * sign_of_power(r, k)
        wanted[i] = 1 - polynomial(fixed, r) / exact
    return list(mp.lu_solve(matrix, wanted))[:n_free]


def extrema(places: list[Real], errors: list[Real]) -> list[tuple[Real, Real]]:
    """(place, size) of the largest error in each run of errors of one sign."""
    found: list[tuple[Real, Real]] = []
    sign = 0
    for r, error in zip(places, errors, strict=True):
        if found and mp.sign(error) in (0, sign):
            if abs(error) > found[-1][1]:
                found[-1] = (r, abs(error))
        else:
            sign = int(mp.sign(error))
            found.append((r, abs(error)))
    return found


def next_points(found: list[tuple[Real, Real]], n: int) -> list[Real]:
    """n of the extrema, the largest errors as far as their signs go on alternating."""
    kept = list(found)
    while len(kept) > n:
        i = min(range(len(kept)), key=lambda i: kept[i][1])
        if len(kept) == n + 1 and 0 < i < n:
            i = 0 if kept[0][1] < kept[-1][1] else n
        inner = 0 < i < len(kept) - 1
        del kept[i]
        if inner:  # its two neighbours have one sign
            del kept[i - 1 if kept[i - 1][1] < kept[i][1] else i]
    return [r for r, _ in kept]


def best(fixed: list[Real], n_free: int) -> list[Real]:
    """The free coefficients with the smallest largest relative error (the Remez exchange)."""
    k = len(fixed)
    places = grid()
    exact = [mp.exp(r) for r in places]
    given = [polynomial(fixed, r) for r in places]
    points = starting_points(n_free + 1)
    for _ in range(MAX_EXCHANGES):
        free = levelled(fixed, n_free, points)
        errors = [
            sign_of_power(r, k) * ((base + r**k * polynomial(free, r)) / e - 1)
            for r, base, e in zip(places, given, exact, strict=True)
        ]
        moved = next_points(extrema(places, errors), n_free + 1)
        if moved == points:
            return free
        points = moved
    raise ArithmeticError(f"the exchange for {n_free} coefficients has not settled")


def derive(target: Format) -> list[Real]:
    """All coefficients, the lowest first, each of them a number of the target type."""
    fixed = [mp.mpf(1), mp.mpf(1)]
    while len(fixed) <= target.degree:
        free = best(fixed, target.degree + 1 - len(fixed))
        fixed.append(target.rounded(free[0]))
    return fixed


def largest_error(coefficients: list[Real]) -> Real:
    """The largest relative error of the polynomial over the interval."""
    return max(abs(polynomial(coefficients, r) / mp.exp(r) - 1) for r in grid())


def held(text: str, target: Format) -> list[Real]:
    """The coefficients that primitives.h holds for this type."""
    arrays = re.findall(r"COEFFICIENTS\[DEGREE \+ 1\] = \{(.*?)\};", text, re.DOTALL)
    numbers = arrays[FORMATS.index(target)].split(",")
    return [mp.mpf(_number(number.strip())) for number in numbers]


def _number(literal: str) -> float:
    literal = literal.removesuffix("f") if "." in literal and "p" not in literal else literal
    if not literal.startswith("0x"):
        return float(literal)
    mantissa, _, exponent = literal.partition("p")
    return float.fromhex(f"{mantissa}p{exponent.removesuffix('f')}")


def main() -> int:
    """Print both sets of coefficients; 1 where the header disagrees."""
    text = HEADER.read_text()
    agrees = True
    with mpmath.workdps(60):
        print(f"e^r for |r| <= {mp.nstr(half_width(), 8)} (1.0005 * ln2/2)")
        for target in FORMATS:
            coefficients = derive(target)
            error = largest_error(coefficients) * mp.mpf(2) ** target.precision
            print(
                f"\n{target.name}, degree {target.degree}: largest relative error "
                f"{mp.nstr(error, 3)} * 2^-{target.precision}"
            )
            for k, coefficient in enumerate(coefficients):
                print(f"  r^{k:<2}  {float(coefficient).hex()}")
            same = coefficients == held(text, target)
            agrees = agrees and same
            print(f"  {HEADER.name} holds {'the same' if same else 'OTHER COEFFICIENTS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
