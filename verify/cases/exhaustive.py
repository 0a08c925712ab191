"""Every float32 through the exponentials, and a sample of float64: what `--full` runs beside cases.

Rows of a few classes and rows of many go through kernels of their own, and both reduce a logit by
multiples of ln2/s before a polynomial (docs/numerics.md): a mistake in it may show at few numbers.
The sweeps go from the largest numbers down, since a wrong result is most likely there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..calls import BadCallError, Caller
from ..case import CROSS_ENTROPY, FULL, Array, Case, DType, Problem, Random, Sweep
from ..implementation import Implementation
from ..judge import Judge
from ..metrics import ulp_errors
from ..profile import STRICT, demand
from ..reference import LONGDOUBLE_IS_EXTENDED, expected
from ..result import Breach, Result
from .screen import Pairs, Rows, Screen

# Beyond this magnitude of the largest logit float32 kernels form x - m (docs/numerics.md).
_EXACT_DIFFERENCE: Final = 208.0
# exp(-104) is less than half of the smallest subnormal float32.
_LOWEST: Final = 104.0
# Below 2^-26, e^x = 1 + x rounds to 1.
_ROUNDS_TO_ONE: Final = 2.0**-26
# Rows and classes of a call: all arrays of a part together lie in the caches. From 129 classes on
# rows go through blocks.
_BLOCKS: Final = 32, 4096
_ALONE: Final = 2048, 129
_TILES: Final = 2**15, 2
_NOTE_EVERY: Final = 2**24
_NEGATIVE: Final = 1 << 31
# Of the 847 million numbers below 2^-26, in rows of 129 classes for each.
_STRIDE: Final = 1021
_ONLY_STRICT: Final = "is swept in the profile strict alone"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sweep: `run(screen, first, last)` checks magnitudes, and says how many it has.

    The magnitudes are given by their bits: those of floats from 0 up are consecutive integers.
    """

    kernels: str
    least: float
    most: float
    run: Callable[[Screen, int, int], Iterator[int]]
    stride: int = 1
    n_signs: int = 2

    def bits(self, magnitudes: tuple[float, float]) -> tuple[int, int]:
        """The first and the last of those that are asked for; the first is larger if none is."""
        first = max(self.least, magnitudes[0])
        last = min(self.most, magnitudes[1])
        return _bits(first), _bits(last)

    def count(self, magnitudes: tuple[float, float]) -> int:
        """How many numbers there are to sweep."""
        first, last = self.bits(magnitudes)
        return max(0, last - first + 1) * self.n_signs // self.stride


def every_float32_exponential(
    implementation: Implementation,
    result: Result,
    thread_counts: Sequence[int],
    *,
    magnitudes: tuple[float, float] = (0.0, _EXACT_DIFFERENCE),
    parts: Sequence[Part] | None = None,
) -> Iterator[str]:
    """Sweep every float32 whose magnitude lies in `magnitudes`, in all `PARTS` or those given."""
    if result.profile != STRICT:
        # A plain formula rounds x - m: what that costs is allowed there, and hides the rest.
        result.left_out.add(_ONLY_STRICT)
        return
    chosen = PARTS if parts is None else parts
    total = sum(part.count(magnitudes) for part in chosen)
    done = noted = 0
    for part in chosen:
        first, last = part.bits(magnitudes)
        if first > last:
            continue
        screen = Screen(implementation, result, thread_counts, part.kernels)
        try:
            for n in part.run(screen, first, last):
                done += n
                result.checks["float32 number"] += n
                if done - noted >= _NOTE_EVERY:
                    noted = done
                    yield f"{min(100 * done // total, 100)} % of {total / 1e9:.1f}e9 floats"
        except BadCallError as error:
            result.add(Breach(str(error), note=part.kernels))
            return
        screen.close()


def _below_zero(screen: Screen, first: int, last: int) -> Iterator[int]:
    """m = 0 and x from 0 down to -208: from terms that count to those that are flushed."""
    yield from _rows(screen, first, last, (_NEGATIVE,), lambda x: np.zeros(len(x), np.float32))


def _everywhere(screen: Screen, first: int, last: int) -> Iterator[int]:
    """x from -208 to 208, m above.

    In rows of nothing but neighbours their errors are the same, and S has them, too: they would
    cancel. So for most rows m is up to 40 larger, and 1 is most of S.
    """
    random = np.random.default_rng(0)

    def largest(x: Array) -> Array:
        offset = random.uniform(0, 40, len(x)).astype(np.float32)
        offset[::4] = 0
        most = x.max(axis=1)
        above = np.minimum(most + offset, np.float32(_EXACT_DIFFERENCE))
        found: Array = np.maximum(above, np.nextafter(most, np.float32(np.inf)))
        return found

    yield from _rows(screen, first, last, (_NEGATIVE, 0), largest)


def _rows(
    screen: Screen,
    first: int,
    last: int,
    signs: tuple[int, ...],
    largest: Callable[[Array], Array],
) -> Iterator[int]:
    """Rows of consecutive numbers, and one that is no smaller in front of them."""
    rows = Rows(screen, *_BLOCKS)
    x = rows.logits[:, 1:]
    bits = x.view(np.uint32)
    places = np.arange(x.size, dtype=np.uint32).reshape(x.shape)
    for sign in signs:
        for k, start in enumerate(_starts(first, last, x.size)):
            np.add(places, np.uint32(start | sign), out=bits)
            if start + x.size - 1 > last:
                np.minimum(bits, np.uint32(last | sign), out=bits)
            rows.logits[:, 0] = largest(x)
            rows.check()
            if k % 64 == 0:
                rows.trust()
            yield min(x.size, last - start + 1)


def _far_away(screen: Screen, first: int, last: int) -> Iterator[int]:
    """|m| > 208, where x - m is formed.

    It is exact for every x that matters (Sterbenz: x/2 <= m <= 2x), so what goes through the
    exponential are numbers of [-104, 0] again, which are swept with m = 0. A sample is enough.
    """
    random = np.random.default_rng(1)
    rows = Rows(screen, *_BLOCKS)
    shape = rows.logits.shape
    for scale in (208.0, 300.0, 1e3, 4096.0, 65504.0, 1e6, 2.0**24, 1e8, 1e12, 3e38):
        for sign in (-1.0, 1.0):
            m = np.float32(sign * scale) * random.uniform(1.0, 1.1, shape[0]).astype(np.float32)
            rows.logits[:] = (m[:, None] - random.uniform(0, 110, shape)).astype(np.float32)
            rows.logits[:, 0] = m
            rows.check()
            rows.trust()
            yield 0


def _alone_in_blocks(screen: Screen, first: int, last: int) -> Iterator[int]:
    """Rows [0, x] and 127 times -inf: the sum of a block has no error but that of one term.

    The gradients above come from the second pass over a row; here it is the first. For x > 0 the
    largest logit is x, so every factor e^(-r_m) is swept, too.
    """
    yield from _alone(screen, first, last, 1)


def _alone_in_blocks_near_zero(screen: Screen, first: int, last: int) -> Iterator[int]:
    """The same below 2^-26, every 1021st number.

    There n = 0 and r = x, exactly, so the term is 1 + x slope, where slope is 1 or next to it: it
    rounds to 1, whatever the digits of x. All other parts take every one of these numbers.
    """
    yield from _alone(screen, first, last, _STRIDE)


def _alone(screen: Screen, first: int, last: int, stride: int) -> Iterator[int]:
    pairs = Pairs(screen, *_ALONE)
    for k, size in enumerate(_magnitudes(first, last, len(pairs.logits), stride)):
        pairs.check_losses(size)
        if k % 1024 == 0:
            pairs.trust()
        yield 2 * size.size


def _tiles(screen: Screen, first: int, last: int) -> Iterator[int]:
    """Rows [0, x] of two classes, with either label: losses and gradients."""
    pairs = Pairs(screen, *_TILES)
    for k, size in enumerate(_magnitudes(first, last, len(pairs.logits), 1)):
        pairs.check(size)
        if k % 64 == 0:
            pairs.trust()
        yield 2 * size.size


def _magnitudes(first: int, last: int, n: int, stride: int) -> Iterator[Array]:
    """All numbers from `first` to `last`, n at a time, filled up with the last one."""
    places = np.arange(n, dtype=np.uint32) * np.uint32(stride)
    bits = np.empty_like(places)
    for start in _starts(first, last, n * stride):
        np.add(places, np.uint32(start), out=bits)
        np.minimum(bits, np.uint32(last), out=bits)
        yield bits.view(np.float32)


def _starts(first: int, last: int, step: int) -> range:
    """Where the steps from `first` to `last` begin, the last one first."""
    return range(first + (last - first) // step * step, first - 1, -step)


def _bits(magnitude: float) -> int:
    return int(np.float32(magnitude).view(np.uint32))


_JUST_BELOW: Final = float(np.nextafter(np.float32(_ROUNDS_TO_ONE), np.float32(0)))
PARTS: Final = (
    Part("blocks, m = 0", 0.0, _EXACT_DIFFERENCE, _below_zero, n_signs=1),
    Part("blocks", 0.0, _EXACT_DIFFERENCE, _everywhere),
    Part("blocks, |m| > 208", _EXACT_DIFFERENCE, _EXACT_DIFFERENCE, _far_away),
    Part("blocks, x alone", _ROUNDS_TO_ONE, _LOWEST, _alone_in_blocks),
    Part("blocks, x alone and tiny", 0.0, _JUST_BELOW, _alone_in_blocks_near_zero, stride=_STRIDE),
    Part("tiles", 0.0, _LOWEST, _tiles),
)


def sampled_float64_exponential(
    implementation: Implementation,
    result: Result,
    thread_counts: Sequence[int],
    *,
    n_arguments: int = 2**26,
) -> Iterator[str]:
    """Hold float64 rows of random numbers, and of breakpoints, against extended precision."""
    if result.profile != STRICT:
        result.left_out.add(_ONLY_STRICT)
        return
    if not LONGDOUBLE_IS_EXTENDED:
        result.left_out.add("has no reference here: numpy.longdouble is no wider than float64")
        return
    caller = Caller(implementation, CROSS_ENTROPY, STRICT)
    done, largest, text = 0, -1.0, ""
    for index, problem in enumerate(_float64_problems(n_arguments)):
        want = expected(CROSS_ENTROPY, problem)
        judge = Judge(result, problem, index, demand(STRICT, CROSS_ENTROPY, problem, want))
        try:
            outcome = caller.call(problem, max(thread_counts))
        except Exception as error:
            what = str(error) if isinstance(error, BadCallError) else f"raised {error!r}"
            result.add(Breach(what, index, problem.note))
            return
        _, ulp = judge.accuracy(outcome)
        if ulp is not None and ulp > largest:
            assert outcome.output is not None
            assert want.output is not None
            largest, errors = ulp, ulp_errors(outcome.output, want.output)
            i, j = divmod(int(errors.argmax()), errors.shape[1])
            where = f"at x = {problem.logits[i, j]}" if j else "at the label"
            m = problem.logits[i, 0]
            text = f"largest error of the gradient {ulp:.3f} ULP {where}, m = {m}"
        result.sources.add(want.source)
        done += problem.logits.size
        yield f"{done / 1e6:.0f} million numbers"
    result.notes.add(text)


def _float64_problems(n_arguments: int) -> Iterator[Problem]:
    random = np.random.default_rng(2)
    shape = _BLOCKS
    labels = np.zeros(shape[0], np.int64)
    yield from _breakpoints(shape[1])
    for k in range(-(-n_arguments // (shape[0] * shape[1]))):
        m = np.zeros(shape[0]) if k % 2 else random.uniform(-1490.0, 1490.0, shape[0])
        if k % 4 < 2:
            note, below = "uniform", random.uniform(0.0, 750.0, shape)
        else:
            note, below = "of every size", 2.0 ** random.uniform(-60.0, 9.55, shape)
        logits = m[:, None] - below
        logits[:, 0] = m
        yield Problem(logits, labels, f"{note}, m {'= 0' if k % 2 else 'anywhere'}")


def _breakpoints(n_classes: int) -> Iterator[Problem]:
    """Multiples of ln2/16 and their neighbours: where n changes, with tables of up to 8 steps."""
    n = int(1490.0 / np.log(2.0) * 16)
    middle = np.arange(-n, n + 1, dtype=np.longdouble) * (np.log(np.longdouble(2)) / 16)
    near = middle.astype(np.float64)[:, None] * (1 + np.arange(-4, 5) * 2.0**-52)
    near = near.reshape(-1)
    near = near[: near.size // (n_classes - 1) * (n_classes - 1)].reshape(-1, n_classes - 1)
    labels = np.zeros(len(near), np.int64)
    for offset in (0.0, 30.0, 400.0):
        m = near.max(axis=1, keepdims=True) + offset
        yield Problem(np.hstack((m, near)), labels, f"breakpoints, {offset:g} below m")


def _nothing(random: Random, dtype: DType) -> Iterator[Problem]:
    return iter(())


def _sweep(sweep: Sweep, reason: str, dtype: str) -> Case:
    return Case(getattr(sweep, "__name__", ""), reason, _nothing, (dtype,), level=FULL, sweep=sweep)


CASES: Final = (
    _sweep(
        every_float32_exponential,
        "The exponential of every float32 for which it is more than 0, with few and many classes.",
        "float32",
    ),
    _sweep(
        sampled_float64_exponential,
        "The exponential of 2^26 float64 numbers, and wherever its reduction changes.",
        "float64",
    ),
)
