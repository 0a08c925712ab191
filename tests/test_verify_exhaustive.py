"""The sweeps over every float32 and every 16-bit number: that they cover all, and can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from fastxent.verify.case import Case, dtype_named
from fastxent.verify.cases import exhaustive, halves
from fastxent.verify.cases.exhaustive import PARTS, Part, every_float32_exponential
from fastxent.verify.cases.screen import per_ulp
from fastxent.verify.implementation import Implementation, backend_implementation
from fastxent.verify.metrics import spacing
from fastxent.verify.result import Result
from fastxent.verify.steps import Settings, check_case

Array = np.ndarray[Any, Any]
Terms = Callable[[Array, Array], Array]

SWEEP, SAMPLE = exhaustive.CASES
FAR_AWAY = next(part for part in PARTS if part.least == part.most)
NEAR_ZERO = next(part for part in PARTS if part.stride > 1)
DENSE = [part for part in PARTS if part not in (FAR_AWAY, NEAR_ZERO)]
BLOCKS_BELOW_ZERO, BLOCKS, ALONE, TILES = DENSE


def run(case: Case, implementation: Implementation, profile: Any = "strict") -> Result:
    results: list[Result] = []
    for event in check_case(
        case, [implementation], dtype_named(case.dtypes[0]), Settings(profile=profile)
    ):
        if isinstance(event, list):
            results = event
    (result,) = results
    return result


def sweep(
    implementation: Implementation,
    magnitudes: tuple[float, float],
    *parts: Part,
    profile: str = "strict",
) -> Result:
    function = partial(every_float32_exponential, magnitudes=magnitudes, parts=parts or None)
    return run(replace(SWEEP, sweep=function), implementation, profile)


def neighbours(x: float, n: int) -> Array:
    """n float32 numbers in a row, x the first of them in magnitude."""
    first = np.float32(x).view(np.uint32)
    return (first + np.arange(n, dtype=np.uint32)).view(np.float32)


def made_of(terms: Terms) -> Implementation:
    """Correct, in float64, but for exp(x - m), which is what `terms` makes of it."""

    def with_grad(logits: Array, labels: Array) -> tuple[Array, Array]:
        x, i = logits.astype(np.float64), np.arange(len(logits))
        first = logits.argmax(axis=1)
        term = terms(logits, logits[i, first][:, None])
        term[i, first] = 0
        rest = term.sum(axis=1)
        term[i, first] = 1
        gradient = term / (1 + rest)[:, None]
        others = np.where(first == labels, rest, 1 + rest - term[i, labels])
        gradient[i, labels] = -others / (1 + rest)
        losses = x[i, first] - x[i, labels] + np.log1p(rest)
        return losses.astype(np.float32), gradient.astype(np.float32)

    return Implementation("made", with_grad)


def exact(x: Array, m: Array) -> Array:
    terms: Array = np.exp(x.astype(np.float64) - m)
    return terms


def wrong_by_8_ulp(numbers: Array) -> Terms:
    """The exponential of these logits is wrong, whether it is a term or the largest logit's."""

    def factor(x: Array) -> Array:
        return np.where(np.isin(x, numbers), 1 + 8 * 2.0**-23, 1.0)

    return lambda x, m: exact(x, m) * factor(x) / factor(m)


def clamped(x: Array, m: Array) -> Array:
    return exact(np.where(np.isneginf(x), x, np.maximum(x, m - 87)), m)


@pytest.mark.parametrize(
    "magnitudes", [(2.0**-26, 2.0**-25.99), (0.34, 0.3402), (87.33, 87.34), (103.9, 104.1)]
)
def test_the_backends_pass_where_the_exponential_changes_its_ways(
    backend: str, magnitudes: tuple[float, float]
) -> None:
    result = sweep(backend_implementation(backend), magnitudes, *DENSE)
    assert result.breaches == {}
    assert result.judged == {"loss", "gradient"}
    assert result.checks["float32 number"] > 4 * 256
    assert result.loss is not None
    assert 0.4 < result.loss.ulp < 2


def test_the_backends_pass_far_from_zero_and_next_to_it(backend: str) -> None:
    implementation = backend_implementation(backend)
    assert sweep(implementation, (208.0, 208.0), FAR_AWAY).verdict == "ok"
    assert sweep(implementation, (0.0, 2.0**-20), NEAR_ZERO).breaches == {}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("part", DENSE)
def test_5_adjacent_numbers_that_are_wrong_by_8_ulp_are_found(part: Part, sign: int) -> None:
    numbers = sign * neighbours(5.7, 5)
    result = sweep(made_of(wrong_by_8_ulp(numbers)), (5.69, 5.71), part)
    if part == BLOCKS_BELOW_ZERO and sign > 0:  # it has none of them
        assert result.verdict == "ok"
        return
    assert result.verdict == "BREACH"
    breach = max(result.breaches.values(), key=lambda breach: breach.error)
    assert breach.input in numbers
    assert breach.note == part.kernels
    assert 6 < breach.error < 20
    assert breach.bound is not None
    assert any(f"x = {breach.input} " in note for note in result.notes)


def test_the_same_numbers_when_they_are_right_pass() -> None:
    result = sweep(made_of(exact), (5.69, 5.71), *DENSE)
    assert result.verdict == "ok"
    assert result.loss is not None
    assert 0.45 < result.loss.ulp <= 0.5001


@pytest.mark.parametrize("part", [BLOCKS_BELOW_ZERO, ALONE, TILES])
def test_an_exponential_clamped_at_87_is_found(part: Part) -> None:
    assert sweep(made_of(clamped), (86.99, 87.0), part).breaches == {}
    assert sweep(made_of(clamped), (86.99, 87.01), part).verdict == "BREACH"


@pytest.mark.parametrize("part", [BLOCKS_BELOW_ZERO, ALONE, TILES])
def test_flushed_subnormal_numbers_are_found(part: Part) -> None:
    def with_grad(logits: Array, labels: Array) -> tuple[Array, Array]:
        found = made_of(exact).with_grad(logits, labels)
        losses, gradient = (
            np.where(abs(array) < 2.0**-126, 0, array).astype(np.float32) for array in found
        )
        return losses, gradient

    implementation = Implementation("flushing", with_grad)
    assert sweep(implementation, (87.31, 87.33), part).breaches == {}
    assert sweep(implementation, (87.33, 87.35), part).verdict == "BREACH"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_number_without_a_result_is_found(value: float) -> None:
    def without(x: Array, m: Array) -> Array:
        return np.where(x == np.float32(-3.25), value, exact(x, m))

    for part in DENSE:
        with np.errstate(invalid="ignore"):
            result = sweep(made_of(without), (3.249, 3.251), part)
        assert result.verdict == "BREACH", part


def constant(logits: Array, labels: Array) -> tuple[Array, Array]:
    return np.full(len(logits), 0.5, np.float32), np.full(logits.shape, 0.5, np.float32)


def test_results_that_are_one_number_are_a_breach() -> None:
    assert sweep(Implementation("constant", constant), (1.0, 1.001)).verdict == "BREACH"


def test_numbers_that_all_have_one_result_are_not_trusted() -> None:
    result = sweep(made_of(exact), (2.0**-40, 2.0**-39.999), ALONE, TILES)
    assert result.verdict == "MISTRUSTED"


@pytest.mark.parametrize("part", DENSE)
def test_every_number_of_a_range_is_put_to_the_implementation(part: Part) -> None:
    first, last = 4.0, 4.02
    given: set[int] = set()

    def recording(logits: Array, labels: Array) -> tuple[Array, Array]:
        given.update(np.unique(logits.view(np.uint32)).tolist())
        return backend_implementation("cython").with_grad(logits, labels)

    magnitudes = (max(first, part.least), min(last, part.most))
    result = sweep(Implementation("recording", recording), magnitudes, part)
    start, stop = (int(np.float32(x).view(np.uint32)) for x in magnitudes)
    expected = {bits | 1 << 31 for bits in range(start, stop + 1)}
    if part.n_signs == 2:
        expected |= set(range(start, stop + 1))
    assert expected <= given
    assert result.breaches == {}


def test_the_parts_cover_all_magnitudes_that_matter() -> None:
    everything = (0.0, np.inf)
    blocks, tiles = (int(np.float32(x).view(np.uint32)) + 1 for x in (208, 104))
    assert BLOCKS_BELOW_ZERO.count(everything) == blocks
    assert BLOCKS.count(everything) == 2 * blocks
    assert TILES.count(everything) == 2 * tiles
    _, last = NEAR_ZERO.bits(everything)
    first, _ = ALONE.bits(everything)
    assert last + 1 == first


def test_a_sweep_says_how_far_it_is() -> None:
    def quick(screen: Any, first: int, last: int) -> Iterator[int]:
        for _ in range(10):
            yield 2**26

    result = Result("every_float32_exponential", "cython", "float32", "strict")
    part = Part("nothing", 0.0, 208.0, quick)
    notes = list(
        every_float32_exponential(backend_implementation("cython"), result, (1,), parts=[part])
    )
    assert len(notes) == 10
    assert notes[0] == "2 % of 2.3e9 floats"


def test_an_error_in_the_middle_of_a_sweep_is_a_breach() -> None:
    def failing(logits: Array, labels: Array) -> tuple[Array, Array]:
        if (logits == -2.5).any():
            raise ValueError("not this one")
        return made_of(exact).with_grad(logits, labels)

    result = sweep(Implementation("failing", failing), (2.49, 2.51), TILES)
    assert list(result.breaches) == ["raised ValueError: not this one"]


def test_losses_of_another_type_are_a_breach() -> None:
    def wide(logits: Array, labels: Array) -> tuple[Array, Array]:
        losses, gradient = made_of(exact).with_grad(logits, labels)
        return losses.astype(np.float64), gradient

    (kind,) = sweep(Implementation("wide", wide), (1.0, 1.001), TILES).breaches
    assert kind == "float64 of shape (32768,) instead of float32 of shape (32768,)"


def test_sweeps_are_left_out_where_rounding_the_logits_is_allowed() -> None:
    for case in exhaustive.CASES:
        result = run(case, made_of(exact), "standard")
        assert result.verdict == "left out"
        assert result.left_out == {"is swept in the profile strict alone"}


def test_the_quick_count_of_units_is_that_of_the_metrics() -> None:
    random = np.random.default_rng(0)
    want = np.exp2(random.uniform(-160, 20, 100_000)) * random.choice([-1, 1], 100_000)
    powers = np.exp2(np.arange(-155.0, 20.0))
    for step in (-(2.0**-24), -(2.0**-25), -(2.0**-26), 0.0, 2.0**-25):
        want = np.append(want, powers * (1 + step))
    np.testing.assert_array_equal(
        1 / per_ulp(want, np.empty_like(want)), spacing(want, np.dtype(np.float32))
    )


def sample(implementation: Implementation, n_arguments: int) -> Result:
    function = partial(exhaustive.sampled_float64_exponential, n_arguments=n_arguments)
    return run(replace(SAMPLE, sweep=function), implementation)


def test_the_backends_pass_the_sample_in_float64(backend: str) -> None:
    result = sample(backend_implementation(backend), 2**19)
    assert result.verdict in ("ok", "left out")


def test_an_exponential_without_its_last_digits_is_found_in_float64() -> None:
    def with_grad(logits: Array, labels: Array) -> tuple[Array, Array]:
        losses, gradient = backend_implementation("cython").with_grad(logits, labels)
        return losses, gradient.astype(np.float32).astype(np.float64)

    result = sample(Implementation("coarse", with_grad), 2**17)
    assert result.verdict in ("BREACH", "left out")


@pytest.mark.parametrize("case", halves.CASES)
def test_every_16_bit_number_is_a_logit(case: Case) -> None:
    dtype = dtype_named(case.dtypes[0])
    problems = list(case.problems(dtype, seed=0))
    few, many = set(), set()
    for problem in problems:
        bits = problem.logits.view(np.uint16)
        (few if bits.shape[1] == 2 else many).update(np.unique(bits).tolist())
        assert bits.size < 2_000_000
    assert len(few) == len(many) == 2**16


@pytest.mark.parametrize("case", halves.CASES)
def test_the_backends_pass_every_16_bit_number(case: Case, backend: str) -> None:
    assert run(case, backend_implementation(backend)).verdict == "ok"
