"""The references themselves: pairs of floats and both softmaxes against mpmath, derivatives."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from fastxent.verify import reference
from fastxent.verify.case import CROSS_ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Problem
from fastxent.verify.reference import (
    Softmax,
    Transform,
    derivative,
    in_mpmath,
    longdouble_softmax,
    pair_softmax,
    pairs,
)
from fastxent.verify.reference.derivative import loss_derivatives
from fastxent.verify.reference.in_mpmath import ROWS, TRANSFORMS, mpmath_softmax, relative_errors
from fastxent.verify.reference.pairs import Pair, pair

Array = np.ndarray[Any, Any]

IS_EXTENDED = reference.LONGDOUBLE_IS_EXTENDED
BASES = [np.float64, np.longdouble] if IS_EXTENDED else [np.float64]
needs_extended = pytest.mark.skipif(not IS_EXTENDED, reason="longdouble is float64 here")


# ---- pairs ---------------------------------------------------------------------------------------


def exact(number: Any) -> Any:
    ratio = Fraction(*number.as_integer_ratio())
    return mpmath.mpf(ratio.numerator) / ratio.denominator


def exact_pairs(numbers: Pair) -> list[Any]:
    return [exact(a) + exact(b) for a, b in zip(numbers.high, numbers.low, strict=True)]


def random_pairs(base: Any, lowest: float, highest: float, seed: int, signs: bool = True) -> Pair:
    """Pairs of all their digits, with exponents of two between these."""
    random = np.random.default_rng(seed)
    high = np.exp2(random.uniform(lowest, highest, 300)).astype(base)
    high *= 1 + base(2) ** -50 * random.integers(0, 2**20, 300).astype(base)
    if signs:
        high *= random.choice([-1, 1], 300)
    low = high * np.finfo(base).eps * random.uniform(-0.49, 0.49, 300).astype(base)
    return Pair(*pairs.two_sum(high, low))


def largest_error(got: Pair, want: list[Any], at_least: float = 0.0) -> float:
    """In units of u^2, beside the exact value (or `at_least`)."""
    unit = mpmath.mpf(2) ** (-2 * (np.finfo(got.high.dtype).nmant + 1))
    errors = [
        abs(a - b) / max(abs(b), at_least) for a, b in zip(exact_pairs(got), want, strict=True)
    ]
    return float(max(errors) / unit)


@pytest.fixture(autouse=True)
def _many_digits() -> Any:
    with mpmath.workdps(110):
        yield


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("function", "exactly", "bound"),
    [
        (pairs.add, lambda a, b: a + b, 3),
        (pairs.multiply, lambda a, b: a * b, 8),
        (pairs.divide, lambda a, b: a / b, 8),
    ],
    ids=["add", "multiply", "divide"],
)
def test_arithmetic_of_pairs_has_twice_the_digits(
    base: Any, function: Callable[..., Pair], exactly: Callable[..., Any], bound: float
) -> None:
    a, b = random_pairs(base, -40, 40, 1), random_pairs(base, -40, 40, 2)
    want = [exactly(x, y) for x, y in zip(exact_pairs(a), exact_pairs(b), strict=True)]
    assert largest_error(function(a, b), want) < bound


@pytest.mark.parametrize("base", BASES)
def test_a_sum_that_cancels_keeps_its_digits(base: Any) -> None:
    a = random_pairs(base, -3, 3, 3)
    b = Pair(-a.high * (1 + 2 * np.finfo(base).eps), a.low / 3)
    want = [x + y for x, y in zip(exact_pairs(a), exact_pairs(b), strict=True)]
    assert largest_error(pairs.add(a, b), want) < 3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("function", "exactly", "lowest", "highest", "bound"),
    [
        (pairs.expm1, mpmath.expm1, -100, 0, 9),
        (pairs.expm1, mpmath.expm1, 0, 9.4, 8 + 677),
        (pairs.exp, mpmath.exp, -50, 0, 9),
        (pairs.exp, mpmath.exp, 0, 9.2, 8 + 589),
        (pairs.tanh, mpmath.tanh, -100, 8, 8),
        (pairs.sech_squared_pair, lambda x: mpmath.sech(x) ** 2, -50, 0, 18),
        (pairs.sech_squared_pair, lambda x: mpmath.sech(x) ** 2, 0, 8, 16 + 512),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_functions_of_pairs_have_twice_the_digits(
    base: Any,
    function: Callable[[Pair], Pair],
    exactly: Callable[[Any], Any],
    lowest: float,
    highest: float,
    bound: float,
) -> None:
    x = random_pairs(base, lowest, highest, 4)
    assert largest_error(function(x), list(map(exactly, exact_pairs(x)))) < bound


@pytest.mark.parametrize("base", BASES)
def test_logarithms_of_pairs_have_twice_the_digits(base: Any) -> None:
    x = random_pairs(base, -200, 0, 5, signs=False)
    assert largest_error(pairs.log1p(x), list(map(mpmath.log1p, exact_pairs(x)))) < 8
    x = random_pairs(base, -899, 899, 6, signs=False)
    assert largest_error(pairs.log(x), list(map(mpmath.log, exact_pairs(x))), at_least=1.0) < 8
    x = random_pairs(base, -1, 1, 7, signs=False)
    assert largest_error(pairs.log(x), list(map(mpmath.log, exact_pairs(x))), at_least=1.0) < 8
    assert pairs.log1p(pair([0.0], base)).high[0] == 0


@pytest.mark.parametrize("base", BASES)
def test_a_scaled_exponential_has_its_digits_where_it_would_be_subnormal(base: Any) -> None:
    x = pair(np.linspace(-1020, -600, 300), base)
    want = [mpmath.exp(value) * 2**512 for value in exact_pairs(x)]
    assert largest_error(pairs.exp(x, 512), want) < 8 + 1020
    r = pair(np.linspace(-510, -100, 300), base)
    want = [mpmath.sech(value) ** 2 * 2**512 for value in exact_pairs(r)]
    assert largest_error(pairs.sech_squared_pair(r, 512), want) < 16 + 1020


@pytest.mark.parametrize("base", BASES)
def test_an_exponential_too_small_for_its_type_is_zero(base: Any) -> None:
    found = pairs.exp(pair([-np.inf, -1e300, -13000.0, 0.0], base))
    np.testing.assert_array_equal(found.high, [0, 0, 0, 1])
    np.testing.assert_array_equal(found.low, 0)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 300])
def test_the_sum_of_pairs_is_that_of_each_row(base: Any, n: int) -> None:
    rows = [random_pairs(base, -5, 5, seed).at(slice(n)) for seed in (8, 9)]
    both = Pair(*(np.stack(parts) for parts in zip(*rows, strict=True)))
    size = max(float(mpmath.fsum(map(abs, exact_pairs(row)))) for row in rows)
    want = [mpmath.fsum(exact_pairs(row)) for row in rows]
    assert largest_error(pairs.total(both), want, at_least=size) < 3 * (1 + np.log2(n))


@pytest.mark.parametrize("base", BASES)
def test_beyond_the_valid_range_a_product_is_nan_and_never_wrong(base: Any) -> None:
    largest = np.finfo(base).maxexp - 28 if base is np.float64 else 16350
    number = pair([base(2) ** largest], base)
    assert pairs.multiply(number, pair(1, base)).high[0] == number.high[0]
    with np.errstate(all="ignore"):
        assert np.isnan(pairs.multiply(pair([np.finfo(base).max], base), pair(1, base)).high[0])


# ---- softmax -------------------------------------------------------------------------------------

PATHS = [
    pytest.param(
        longdouble_softmax, np.longdouble, 2.0**-60, id="longdouble", marks=needs_extended
    ),
    # rounded to longdouble once, and nothing else
    pytest.param(pair_softmax, np.float64, 2.0**-63 if IS_EXTENDED else 2.0**-52.9, id="pairs"),
]
Path = Callable[[Array, Transform], Softmax]


@pytest.mark.parametrize(("path", "range_of", "bound"), PATHS)
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_both_references_agree_with_mpmath(
    row: tuple[float, ...], transform: Transform, path: Path, range_of: Any, bound: float
) -> None:
    logits = np.array([row])
    errors = relative_errors(path(logits, transform), mpmath_softmax(logits, transform), range_of)
    assert all(error < bound for error in errors.values()), errors


@pytest.mark.parametrize(("path", "range_of", "bound"), PATHS)
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 10.0, 100.0, 1e6, 1e15])
def test_both_references_agree_with_mpmath_on_random_rows(
    sigma: float, path: Path, range_of: Any, bound: float
) -> None:
    random = np.random.default_rng(10)
    logits = sigma * random.standard_normal((2, 60))
    for transform in (Transform(), Transform(temperature=0.07), Transform(softcap=sigma)):
        # Where a cap of 1e15 is reached, an exponent is a difference of numbers of that size.
        if transform.softcap is not None and sigma > 1e6:
            continue
        errors = relative_errors(
            path(logits, transform), mpmath_softmax(logits, transform), range_of
        )
        assert all(error < bound for error in errors.values()), (transform, errors)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_float32_rows_are_right_to_the_digits_that_count(transform: Transform) -> None:
    random = np.random.default_rng(11)
    logits = (4 * random.standard_normal((2, 60))).astype(np.float32)
    want = mpmath_softmax(logits, transform)
    if IS_EXTENDED:
        # Capped without pairs: an error of 2^-63 |y| in the exponent.
        assert max(relative_errors(longdouble_softmax(logits, transform), want, float).values()) < (
            2.0**-45 if transform.softcap else 2.0**-60
        )
    assert max(relative_errors(pair_softmax(logits, transform), want, float).values()) < 2.0**-52.9


def test_the_check_against_mpmath_finds_no_error_and_would_find_a_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 0 < reference.check_against_mpmath() < (2.0**-61 if IS_EXTENDED else 2.0**-52.9)

    def off(logits: Array, transform: Transform) -> Softmax:
        rows = pair_softmax(logits, transform)
        rows.others[...] *= 1 + np.longdouble(2.0**-50)
        return rows

    monkeypatch.setattr(in_mpmath, "pair_softmax", off)
    assert 2.0**-51 < reference.check_against_mpmath() < 2.0**-49


@pytest.mark.parametrize(("path", "range_of", "bound"), PATHS)
def test_rows_without_a_softmax_are_nan_and_keep_their_maximum(
    path: Path, range_of: Any, bound: float
) -> None:
    logits = np.array(
        [[np.nan, 1.0], [np.inf, 1.0], [np.inf, np.inf], [-np.inf, -np.inf], [np.nan, -np.inf]]
    )
    for transform in TRANSFORMS:
        rows = path(logits, transform)
        for part in (rows.below, rows.log_sum, rows.probs, rows.others):
            assert np.isnan(part).all()
        np.testing.assert_array_equal(rows.maximum, [np.nan, np.inf, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize(("path", "range_of", "bound"), PATHS)
def test_equal_maxima_are_counted_exactly(path: Path, range_of: Any, bound: float) -> None:
    rows = path(np.array([[2.0, 2.0, 2.0, -2000.0], [-7.0, -7.0, -np.inf, -7.0]]), Transform())
    third = (np.longdouble(1) / 3).astype(float)
    np.testing.assert_array_equal(rows.probs[0, :3].astype(float), third)
    np.testing.assert_array_equal(rows.others[1].astype(float), [2 / 3, 2 / 3, 1, 2 / 3])
    np.testing.assert_array_equal(rows.log_sum.astype(float), np.log(3.0))
    np.testing.assert_array_equal(rows.below, [[0, 0, 0, 2002], [0, 0, np.inf, 0]])


@pytest.mark.parametrize(("path", "range_of", "bound"), PATHS)
def test_many_subnormal_exponentials_sum_to_the_last_digit(
    path: Path, range_of: Any, bound: float
) -> None:
    logits = np.zeros((1, 1500))
    logits[0, 3] = 744.0
    want = 1499 * mpmath.exp(-744)
    found = path(logits, Transform())
    # As single float64 numbers they would each be one and a half of the smallest.
    assert abs(exact(found.log_sum[0]) - want) <= 2.0**-1075 + want * bound
    assert abs(exact(found.others[0, 3]) - want) <= 2.0**-1075 + want * bound


def test_double_double_rounds_what_float64_cannot_hold_to_zero_or_infinity() -> None:
    rows = pair_softmax(np.array([[0.0, -2000.0, -1.7e308], [1.7e308, 0.0, -1.7e308]]), Transform())
    np.testing.assert_array_equal(rows.probs, [[1, 0, 0], [1, 0, 0]])
    assert rows.below[0, 2] == 1.7e308
    assert rows.below[1, 2] == 2 * np.longdouble(1.7e308)


@pytest.mark.parametrize("operation", [CROSS_ENTROPY, SOFTMAX, LOG_SOFTMAX, LOGSUMEXP])
def test_where_longdouble_is_float64_results_are_right_to_its_last_place(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [*plain_problems(), *problems_with_options()]
    want = [reference.expected(operation, problem) for problem in problems]
    monkeypatch.setattr(np, "longdouble", np.float64)
    monkeypatch.setattr(reference, "LONGDOUBLE_IS_EXTENDED", False)
    for problem, there in zip(problems, want, strict=True):
        here = reference.expected(operation, problem)
        assert here.source == there.source
        for name in ("losses", "output"):
            a, b = getattr(here, name), getattr(there, name)
            if b is None:
                continue
            assert a.dtype == np.float64
            scale = getattr(here, f"{name}_scale")
            with np.errstate(all="ignore"):
                size = np.maximum(abs(b) if scale is None else scale, 2.0**-1022)
                error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, abs(a - b) / size)
            assert error.max() < 2.0**-50, (problem.note, name)


# ---- derivatives ---------------------------------------------------------------------------------


def plain_problems() -> list[Problem]:
    random = np.random.default_rng(12)
    logits = 3 * random.standard_normal((6, 40))
    labels = random.integers(0, 40, 6)
    confident = logits.copy()
    confident[np.arange(6), labels] = np.linspace(20.0, 700.0, 6)
    masked = logits.copy()
    masked[:, ::3] = -np.inf
    offset = 1e8 + 20 * random.standard_normal((6, 40))
    far = logits.copy()
    far[np.arange(6), (labels + 1) % 40] = 10.0 ** np.arange(2, 8)
    tied = np.round(logits / 3)
    probs = random.uniform(0.0, 1.0, (6, 40)) * (random.uniform(0.0, 1.0, (6, 40)) < 0.5)
    return [
        Problem(logits, labels, "labels"),
        Problem(logits.astype(np.float32), labels, "float32"),
        Problem(confident, labels, "confident"),
        Problem(masked, labels, "masked"),
        Problem(offset, labels, "offset"),
        Problem(far, labels, "far from the label"),
        Problem(tied, labels, "ties"),
        Problem(logits, probs, "probabilities"),
        Problem(np.array([[40.0, 0.0], [40.0, 0.0]]), np.array([0, 1]), "forty and zero"),
        Problem(np.array([[7.0]]), np.array([0]), "one class"),
    ]


def problems_with_options() -> list[Problem]:
    random = np.random.default_rng(13)
    logits = 6 * random.standard_normal((6, 40))
    logits[4, 5:20] = -np.inf
    labels = random.integers(20, 40, 6)
    logits[5, labels[5]] = 80.0
    probs = random.uniform(0.0, 1.0, (6, 40))
    weights: dict[str, Any] = {
        "class_weight": random.uniform(0.1, 3.0, 40),
        "sample_weight": random.uniform(0.1, 3.0, 6),
    }
    whole = {
        **weights, "label_smoothing": 0.1, "temperature": 0.8, "softcap": 15.0, "z_loss": 1e-2,
    }  # fmt: skip
    return [
        Problem(logits, labels, "weights", options=weights),
        Problem(logits, labels, "smoothing", options={"label_smoothing": 0.3}),
        Problem(logits, labels, "all of it smoothed", options={"label_smoothing": 1.0}),
        Problem(logits, labels, "cold", options={"temperature": 0.01}),
        Problem(logits, labels, "warm", options={"temperature": 30.0}),
        Problem(logits, labels, "capped", options={"softcap": 30.0}),
        Problem(logits, labels, "saturated", options={"softcap": 1.0}),
        Problem(logits, labels, "z-loss", options={"z_loss": 0.1}),
        Problem(logits, labels, "all options", options=whole),
        Problem(logits, probs, "all options, probabilities", options=whole),
        Problem(logits.astype(np.float32), labels, "all options, float32", options=whole),
        Problem(logits, labels, "ignored", 99, options=weights),
    ]


def every_element(problem: Problem) -> tuple[Array, Array]:
    return np.nonzero(problem.logits > -np.inf)


def errors_of(problem: Problem, rows: Array, columns: Array, gradient: Array) -> Array:
    """In rounding errors of the derivative's type, beside the derivative's scale."""
    values, scale = loss_derivatives(problem, rows, columns)
    errors: Array = abs(gradient[rows, columns] - values) / (np.finfo(values.dtype).eps * scale)
    return errors


def exact_gradient(problem: Problem) -> Array:
    options = problem.options
    transform = Transform(options.get("temperature", 1.0), options.get("softcap"))
    # reference.expected takes float32 from SciPy, whose digits are those of float64.
    rows = reference.extended_softmax(problem.logits.astype(np.float64), transform)
    gradient = reference.results(CROSS_ENTROPY, problem, rows, "extended").output
    assert gradient is not None
    return gradient


@pytest.fixture(params=BASES, ids=["complex128", "clongdouble"][: len(BASES)])
def complex_type(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(derivative, "_REAL", request.param)
    monkeypatch.setattr(derivative, "_FARTHEST", 700.0 if request.param is np.float64 else 11000.0)
    return request.param


@pytest.mark.usefixtures("complex_type")
@pytest.mark.parametrize(
    "problem", [*plain_problems(), *problems_with_options()], ids=lambda problem: problem.note
)
def test_the_gradient_is_the_derivative_of_the_loss(problem: Problem) -> None:
    rows, columns = every_element(problem)
    errors = errors_of(problem, rows, columns, exact_gradient(problem))
    assert errors.max() < 16


@pytest.mark.usefixtures("complex_type")
@pytest.mark.parametrize(
    "problem", [*plain_problems(), *problems_with_options()], ids=lambda problem: problem.note
)
def test_a_formula_that_is_wrong_by_little_is_not_the_derivative(problem: Problem) -> None:
    if problem.logits.shape[1] == 1:
        return
    rows = np.arange(len(problem.logits))
    largest = problem.logits.astype(float).argmax(axis=1)
    columns = largest if problem.has_probs else problem.labels
    wrong = exact_gradient(problem)
    wrong[rows, columns] *= 1 + 1e-12
    errors = errors_of(problem, rows, columns, wrong)
    assert errors.max() > 1000


@pytest.mark.usefixtures("complex_type")
def test_derivatives_of_confident_rows_keep_their_digits() -> None:
    problem = Problem(np.array([[40.0, 0.0], [600.0, 0.0]]), np.array([0, 0]))
    rows, columns = every_element(problem)
    values, scale = loss_derivatives(problem, rows, columns)
    small = [mpmath.exp(-gap) / (1 + mpmath.exp(-gap)) for gap in (40, 600)]
    want = [-small[0], small[0], -small[1], small[1]]
    for got, exactly in zip(values, want, strict=True):
        assert abs(exact(got) / exactly - 1) < 1e-15
    np.testing.assert_array_equal(scale, abs(values))


@pytest.mark.usefixtures("complex_type")
def test_the_infinite_cost_of_a_masked_class_is_a_constant() -> None:
    problem = Problem(np.array([[1.0, -np.inf, 0.0]]), np.array([1]))
    values, _ = loss_derivatives(problem, np.array([0, 0]), np.array([0, 2]))
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(values.astype(float), [p, 1 - p], rtol=1e-15)


@pytest.mark.usefixtures("complex_type")
def test_derivatives_at_the_ends_of_the_range_are_right() -> None:
    logits = np.array([[1.79e308, -1.79e308], [3e4, 0.0], [2.0**-1074, 0.0]])
    for label, want in ((0, [[0, 0], [0, 0], [-0.5, 0.5]]), (1, [[1, -1], [1, -1], [0.5, -0.5]])):
        problem = Problem(logits, np.full(3, label))
        values, _ = loss_derivatives(problem, *every_element(problem))
        np.testing.assert_array_equal(values.astype(float), np.ravel(want))


def test_derivatives_do_not_depend_on_what_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for problem in problems_with_options():
        rows, columns = every_element(problem)
        whole = loss_derivatives(problem, rows, columns)
        monkeypatch.setattr(derivative, "_AT_ONCE", 7 * problem.logits.shape[1])
        parts = loss_derivatives(problem, rows, columns)
        monkeypatch.undo()
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(a, b)
    nothing = np.zeros(0, int)
    values, scale = loss_derivatives(problem, nothing, nothing)
    assert values.shape == scale.shape == (0,)


def test_derivatives_take_little_memory() -> None:
    logits = np.random.default_rng(14).standard_normal((2, 50_000))
    options = {"softcap": 30.0, "temperature": 0.7, "label_smoothing": 0.1, "z_loss": 1e-3}
    problem = Problem(logits, np.array([0, 1]), options=options)
    tracemalloc.start()
    try:
        loss_derivatives(problem, np.arange(6) % 2, np.arange(6))
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()
