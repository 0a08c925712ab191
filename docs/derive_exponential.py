"""Derives the numbers of the exponential, and checks those that the source holds.

    exp(x) = 2^(n/s) * e^r            x = n ln2/s + r,  |r| <= ln2/(2s)
    e^r ~ 1 + r + c_2 r^2 + ... + c_d r^d

s = 2^TABLE_BITS is how many steps a power of two is taken in; 2^(i/s) is looked up for s > 1.

The first two coefficients are 1, so that a small r comes out right without any rounding. The
others make the largest relative error as small as the type allows: the Remez exchange finds the
best real coefficients, the lowest of them is rounded to the type and then kept, and the exchange
runs again for those that are left. So every later coefficient makes up for the rounding of the
earlier ones.

POWERS[i] is 2^(i/s), rounded to the type; CORRECTIONS[i] is what rounding has left out of it,
2^(i/s) = POWERS[i] * (1 + CORRECTIONS[i]), itself rounded.

Run it from anywhere: `python docs/derive_exponential.py`. It prints what it derives, and exits
with 1 where csrc_pyx/primitives.h or fastxent/backends/numba_twin/precision.py holds anything else.
"""

from __future__ import annotations

import ast
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mpmath
from mpmath import mp

ROOT: Final = Path(__file__).parent.parent
CYTHON_TWIN: Final = ROOT / "csrc_pyx" / "primitives.h"
NUMBA_TWIN: Final = ROOT / "fastxent" / "backends" / "numba_twin" / "precision.py"

# mpmath carries no types; a Real is its number, of as many digits as mp.dps says.
Real = Any

N_GRID: Final = 1500
MAX_EXCHANGES: Final = 30


@dataclass(frozen=True)
class Format:
    """A type, how many steps to a power of two it is used with, and the degree that suits them."""

    real_bits: int
    precision: int  # bits of the significand
    table_bits: int
    degree: int

    @property
    def steps(self) -> int:
        """How many to a power of two."""
        return int(2**self.table_bits)

    def rounded(self, value: Real) -> Real:
        """The nearest number of this type."""
        code = "f" if self.real_bits == 32 else "d"
        (nearest,) = struct.unpack(code, struct.pack(code, float(value)))
        return mp.mpf(nearest)

    def half_width(self) -> Real:
        """The interval is |r| <= this: ln2/(2s), and a little more.

        The integer nearest to x s/ln2 is found from a rounded product, so r may pass ln2/(2s)
        slightly.
        """
        return mp.log(2) / 2 * mp.mpf("1.0005") / self.steps


FORMATS: Final = (
    Format(real_bits=32, precision=24, table_bits=4, degree=3),
    Format(real_bits=32, precision=24, table_bits=3, degree=4),
    Format(real_bits=32, precision=24, table_bits=0, degree=6),
    Format(real_bits=64, precision=53, table_bits=3, degree=7),
    Format(real_bits=64, precision=53, table_bits=0, degree=11),
)


@dataclass(frozen=True)
class Numbers:
    """What a build holds, or should hold; tables have an entry for each step, or none at all."""

    coefficients: list[Real]
    powers: list[Real]
    corrections: list[Real]


def starting_points(n: int, end: Real) -> list[Real]:
    """Where the exchange starts: n points, denser towards the ends, none of them 0."""
    points = [end * mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    return [r if abs(r) > end / 100 else end / 20 for r in points]


def grid(end: Real) -> list[Real]:
    """Where errors are looked at, from the upper end of the interval to the lower."""
    return [end * mp.cos(mp.pi * i / mp.mpf(N_GRID)) for i in range(N_GRID + 1)]


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


def best(fixed: list[Real], n_free: int, end: Real) -> list[Real]:
    """The free coefficients with the smallest largest relative error (the Remez exchange)."""
    k = len(fixed)
    places = grid(end)
    exact = [mp.exp(r) for r in places]
    given = [polynomial(fixed, r) for r in places]
    points = starting_points(n_free + 1, end)
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


def derive(target: Format) -> Numbers:
    """All coefficients, the lowest first, and the tables: numbers of the target type."""
    fixed = [mp.mpf(1), mp.mpf(1)]
    while len(fixed) <= target.degree:
        free = best(fixed, target.degree + 1 - len(fixed), target.half_width())
        fixed.append(target.rounded(free[0]))
    if target.steps == 1:
        return Numbers(fixed, [], [])
    exact = [mp.mpf(2) ** (mp.mpf(i) / target.steps) for i in range(target.steps)]
    powers = [target.rounded(power) for power in exact]
    corrections = [target.rounded(e / p - 1) for e, p in zip(exact, powers, strict=True)]
    return Numbers(fixed, powers, corrections)


def largest_error(coefficients: list[Real], end: Real) -> Real:
    """The largest relative error of the polynomial over the interval."""
    return max(abs(polynomial(coefficients, r) / mp.exp(r) - 1) for r in grid(end))


def held_by_cython(target: Format) -> Numbers:
    """What primitives.h holds for a build with this type and these steps."""
    text = "\n".join(lines_of_build(CYTHON_TWIN.read_text().splitlines(), target))

    def array(name: str) -> list[Real]:
        found = re.findall(rf"{name}\[[A-Z +1]*\] = \{{(.*?)\}};", text, re.DOTALL)
        literals = ",".join(found).split(",") if found else []
        return [number(literal.strip().removesuffix("f")) for literal in literals]

    return Numbers(array("COEFFICIENTS"), array("POWERS"), array("CORRECTIONS"))


def lines_of_build(lines: list[str], target: Format) -> Iterator[str]:
    """The lines that the preprocessor leaves; of macros only these two are known."""
    known = {"FASTXENT_REAL_BITS": target.real_bits, "TABLE_BITS": target.table_bits}

    def holds(condition: str) -> bool:
        condition = re.sub(r"defined\(\w+\)", "0", condition)
        return bool(eval(condition.replace("&&", " and ").replace("||", " or "), {}, known))

    branches: list[tuple[bool, bool]] = []  # whether this branch is taken, and whether any was yet
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "#if":
            branches.append((holds(rest),) * 2)
        elif word in ("#ifdef", "#ifndef"):
            branches.append((word == "#ifndef",) * 2)
        elif word == "#elif":
            _, done = branches.pop()
            branches.append((not done and holds(rest), done or holds(rest)))
        elif word == "#else":
            _, done = branches.pop()
            branches.append((not done, True))
        elif word == "#endif":
            branches.pop()
        elif all(taken for taken, _ in branches):
            yield line


def held_by_numba(target: Format) -> Numbers | None:
    """What the Numba twin holds for this type; it has no tables."""
    if target.steps > 1:
        return None
    tree = ast.parse(NUMBA_TWIN.read_text())
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ARITHMETIC"
    )
    assert isinstance(table, ast.Dict)
    entries = {ast.unparse(k): v for k, v in zip(table.keys, table.values, strict=True) if k}
    entry = entries[str(target.real_bits)]
    assert isinstance(entry, ast.Call)
    fields = {keyword.arg: keyword.value for keyword in entry.keywords}
    coefficients = ast.literal_eval(fields["coefficients"])
    return Numbers([number(literal) for literal in coefficients], [], [])


def number(literal: str) -> Real:
    """The number of a decimal or hexadecimal literal, without a suffix."""
    return mp.mpf(float.fromhex(literal) if "0x" in literal else float(literal))


def print_numbers(target: Format, numbers: Numbers) -> None:
    """The coefficients and their error, then each entry of the tables with its correction."""
    end = target.half_width()
    error = largest_error(numbers.coefficients, end) * mp.mpf(2) ** target.precision
    print(
        f"\nfloat{target.real_bits}, TABLE_BITS {target.table_bits}: degree {target.degree} for "
        f"|r| <= {mp.nstr(end, 8)}, largest relative error {mp.nstr(error, 3)} * "
        f"2^-{target.precision}"
    )
    for k, coefficient in enumerate(numbers.coefficients):
        print(f"  r^{k:<2}  {float(coefficient).hex()}")
    for i, (power, correction) in enumerate(zip(numbers.powers, numbers.corrections, strict=True)):
        print(f"  2^({i}/{target.steps})  {float(power).hex()}  {float(correction).hex()}")


def main() -> int:
    """Print all numbers; 1 where one of the twins disagrees."""
    agrees = True
    with mpmath.workdps(60):
        print("The intervals are 1.0005 * ln2/2 / 2^TABLE_BITS.")
        for target in FORMATS:
            derived = derive(target)
            print_numbers(target, derived)
            for twin, held in (
                (CYTHON_TWIN, held_by_cython(target)),
                (NUMBA_TWIN, held_by_numba(target)),
            ):
                if held is None:
                    continue
                same = derived == held
                agrees = agrees and same
                print(f"  {twin.name} holds {'the same' if same else 'OTHER NUMBERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
