"""softmax, log_softmax and logsumexp against extended precision."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from support import FLOATS, Array, exact_softmax, loss_dtype, random_logits, same_bits, ulps

import fastxent

every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
BOUND = {2: 1.0, 4: 4.0, 8: 4.0}


@every_float
def test_values_are_exact_to_the_last_places(backend: str, dtype: np.dtype[Any]) -> None:
    for n_classes in (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 130, 1024, 1025, 16385, 40000):
        logits = random_logits((3, n_classes), dtype, seed=n_classes)
        below, log_sum, exact = exact_softmax(logits)
        probs = fastxent.softmax(logits, backend=backend)
        log_probs = fastxent.log_softmax(logits, backend=backend)
        total = fastxent.logsumexp(logits, backend=backend)
        assert probs.dtype == log_probs.dtype == dtype
        assert total.dtype == loss_dtype(dtype)
        assert ulps(probs, exact, dtype) <= BOUND[dtype.itemsize]
        assert ulps(log_probs, -(below + log_sum), dtype) <= BOUND[dtype.itemsize]
        largest = logits.max(-1).astype(np.longdouble)
        exact_total = largest + log_sum[:, 0]
        scale = np.abs(largest) + log_sum[:, 0]
        assert ulps(total, exact_total, total.dtype, scale) <= 2


@every_float
def test_masked_classes_have_no_probability(backend: str, dtype: np.dtype[Any]) -> None:
    logits = np.array([[1, -np.inf, 2], [-np.inf, -np.inf, 5]], dtype)
    probs = fastxent.softmax(logits, backend=backend).astype(np.float64)
    log_probs = fastxent.log_softmax(logits, backend=backend).astype(np.float64)
    assert (probs == 0).tolist() == [[False, True, False], [True, True, False]]
    assert (log_probs == -np.inf).tolist() == [[False, True, False], [True, True, False]]
    assert probs[1, 2] == 1
    assert log_probs[1, 2] == 0


@every_float
@pytest.mark.parametrize("n_classes", [2, 40, 1500, 20000])
def test_rows_without_a_softmax_are_nan_and_alone(
    backend: str, dtype: np.dtype[Any], n_classes: int
) -> None:
    logits = random_logits((5, n_classes), dtype)
    clean = [f(logits, backend=backend) for f in (fastxent.softmax, fastxent.log_softmax)]
    logits[1, -1] = np.nan
    logits[2, 0] = np.inf
    logits[3] = -np.inf
    for function, want in zip((fastxent.softmax, fastxent.log_softmax), clean, strict=True):
        got = function(logits, backend=backend)
        assert np.isnan(got[1:4].astype(np.float32)).all()
        assert same_bits(got[[0, 4]], want[[0, 4]])
    total = fastxent.logsumexp(logits, backend=backend)
    assert np.isnan(total[1])
    assert total[2] == np.inf
    assert total[3] == -np.inf
    assert np.isfinite(total[[0, 4]]).all()
    logits[2, -1] = np.nan
    assert np.isnan(fastxent.logsumexp(logits, backend=backend)[2])


def test_any_axis_and_keepdims(backend: str) -> None:
    logits = random_logits((2, 5, 3))
    total = fastxent.logsumexp(logits, axis=1, backend=backend)
    assert total.shape == (2, 3)
    kept = fastxent.logsumexp(logits, axis=1, keepdims=True, backend=backend)
    assert kept.shape == (2, 1, 3)
    assert same_bits(kept[:, 0], total)
    for function in (fastxent.softmax, fastxent.log_softmax):
        got = function(logits, 1, backend=backend)
        want = np.moveaxis(function(np.moveaxis(logits, 1, -1), backend=backend), -1, 1)
        assert same_bits(got, want)


def test_in_one_dimension_logsumexp_is_a_number(backend: str) -> None:
    for dtype in FLOATS:
        total = fastxent.logsumexp(np.zeros(4, dtype), backend=backend)
        assert type(total) is np.float64
        assert total == np.log(4).astype(loss_dtype(dtype))
        assert json.loads(json.dumps(total)) == total


def test_softmax_is_the_gradient_of_logsumexp_and_log_softmax_its_logarithm(backend: str) -> None:
    logits = random_logits((3, 50), np.float64, scale=1.0)
    probs = fastxent.softmax(logits, backend=backend)
    assert np.allclose(probs.sum(-1), 1, rtol=1e-14)
    assert np.allclose(fastxent.log_softmax(logits, backend=backend), np.log(probs), rtol=1e-13)


FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
AXES: list[Any] = [None, (), 0, 1, 2, -1, (0, 1), (0, 2), (1, 2), (2, 0), (-1, -3), (0, 1, 2), (1,)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("axis", AXES, ids=str)
def test_axes_are_those_of_scipy(backend: str, name: str, axis: Any) -> None:
    ours, scipys = getattr(fastxent, name), getattr(scipy.special, name)
    logits = random_logits((3, 4, 5), np.float64)
    spoilt = logits.copy()
    spoilt[1, 2, 3], spoilt[2, 0] = np.nan, -np.inf
    keeps = [{}, {"keepdims": True}] if name == "logsumexp" else [{}]
    for array in (logits, spoilt, logits[::-1, :, ::2], logits.transpose(2, 0, 1), logits[:0]):
        for options in keeps:
            if array.size == 0 and axis not in (1, 2, -1):  # SciPy takes no others
                continue
            with np.errstate(all="ignore"):
                want = np.asarray(scipys(array, axis=axis, **options))
            if name == "log_softmax":  # SciPy takes a row of -inf alone for a softmax
                alone = np.isneginf(array.max(axis=axis, keepdims=True, initial=-np.inf))
                want = np.where(alone, np.nan, want)
            got = ours(array, axis=axis, backend=backend, **options)
            assert got.shape == want.shape
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, want, 1e-14, 1e-15)
            if isinstance(axis, tuple) and axis:
                again = ours(array, axis=tuple(sorted(k % 3 for k in axis)), **options)
                assert same_bits(ours(array, axis=axis, **options), again)


def test_all_axes_together_have_the_bits_of_one_long_row(backend: str) -> None:
    for dtype in FLOATS:
        logits = random_logits((6, 7, 50), dtype)
        for function in (fastxent.softmax, fastxent.log_softmax):
            want = function(logits.reshape(-1), backend=backend).reshape(logits.shape)
            assert same_bits(function(logits, None, backend=backend), want)
            last_two = function(logits.reshape(6, -1), backend=backend).reshape(logits.shape)
            assert same_bits(function(logits, (1, 2), backend=backend), last_two)
        total = fastxent.logsumexp(logits.reshape(-1), backend=backend)
        assert fastxent.logsumexp(logits, None, backend=backend) == total
        kept = fastxent.logsumexp(logits, None, keepdims=True, backend=backend)
        assert kept.dtype == loss_dtype(dtype)
        assert kept.shape == (1, 1, 1)
        assert kept.item() == total


@pytest.mark.parametrize("axis", [None, (0, 1), (0, 2), (1, 2)], ids=str)
def test_several_axes_take_out_and_work_in_place(backend: str, axis: Any) -> None:
    logits = random_logits((3, 4, 5))
    want = fastxent.softmax(logits, axis, backend=backend)
    whole = np.full((3, 4, 10), 7, np.float32)
    for out in (np.empty_like(logits), whole[:, :, ::2], np.empty((5, 4, 3), np.float32).T):
        assert fastxent.softmax(logits, axis, out=out, backend=backend) is out
        assert same_bits(np.ascontiguousarray(out), want)
    assert (whole[:, :, 1::2] == 7).all()
    assert fastxent.softmax(logits, axis, out=logits, backend=backend) is logits
    assert same_bits(logits, want)
    with pytest.raises(ValueError, match="out overlaps logits"):
        fastxent.softmax(logits[:2], axis, out=logits[1:], backend=backend)
    with pytest.raises(TypeError, match="out has dtype float64"):
        fastxent.softmax(logits, axis, out=logits.astype(np.float64), backend=backend)


def test_integers_and_lists_are_taken_as_float64(backend: str) -> None:
    for values in (
        [[1, 2, 3], [4, 5, 7]], np.array([[1, 2, 3], [4, 5, 7]], np.int8),
        np.array([[250, 251, 255], [0, 3, 1]], np.uint8), np.array([[True, False]]),
        np.array([[2**60, 2**60 + 4096]]),
    ):  # fmt: skip
        wide = np.asarray(values, np.float64)
        for name in FUNCTIONS:
            got = getattr(fastxent, name)(values, backend=backend)
            assert same_bits(got, getattr(fastxent, name)(wide, backend=backend))
            np.testing.assert_allclose(got, getattr(scipy.special, name)(wide, axis=-1), 1e-14)
    out = np.empty(3)
    assert fastxent.softmax([1, 2, 3], out=out, backend=backend) is out
    np.testing.assert_allclose(out, scipy.special.softmax([1, 2, 3]), 1e-15)


def test_a_single_number_is_a_row_of_one_as_in_scipy(backend: str) -> None:
    for number in (3.0, 3, np.float32(3), np.array(3, np.float16)):
        for axis in (None, -1, 0):
            for name, want in zip(FUNCTIONS, (1.0, 0.0, 3.0), strict=True):
                got = getattr(fastxent, name)(number, axis=axis, backend=backend)
                assert type(got) is np.float64
                assert want == getattr(scipy.special, name)(number, axis=axis)
                # the exponential of 0 is rounded: of float32, in the build for AVX2, 1 - 2^-24
                is_rounded = name == "softmax" and isinstance(number, np.float32)
                assert abs(got - want) <= (2**-24 if is_rounded else 0)
        with pytest.raises(ValueError, match="axis 1 is out of range"):
            fastxent.softmax(number, axis=1, backend=backend)
    assert fastxent.softmax(3.0, axis=(), backend=backend) == 1
    got = fastxent.logsumexp(np.float32(3), keepdims=True, backend=backend)
    assert same_bits(got, scipy.special.logsumexp(np.float32(3), keepdims=True))
    out = np.empty((), np.float64)
    assert fastxent.softmax(3.0, out=out, backend=backend) is out
    assert out == 1


def test_a_sum_over_nothing_is_0_and_a_softmax_of_nothing_an_error(backend: str) -> None:
    empty = np.empty((3, 0), np.float32)
    got = fastxent.logsumexp(empty, backend=backend)
    assert same_bits(got, scipy.special.logsumexp(empty, axis=-1))
    assert fastxent.logsumexp([], backend=backend) == -np.inf
    assert fastxent.logsumexp(empty, axis=None, b=2, backend=backend) == -np.inf
    assert fastxent.logsumexp([], return_sign=True, backend=backend) == (-np.inf, 0)
    assert fastxent.logsumexp(empty, axis=0, backend=backend).shape == (0,)
    with pytest.raises(ValueError, match=r"shape \(3, 0\) has no classes along axis 1"):
        fastxent.softmax(empty, backend=backend)
    with pytest.raises(ValueError, match=r"shape \(3, 0\) has no classes along axes \(0, 1\)"):
        fastxent.softmax(empty, axis=None, backend=backend)


def exact_scaled_sum(logits: Array, factors: Array) -> tuple[Any, float, float]:
    """The logarithm of |sum|, the sign, and how much larger the sum of magnitudes is."""
    with mpmath.workdps(60):
        pairs = [(x, b) for x, b in zip(logits, factors, strict=True) if b and x != -np.inf]
        terms = [mpmath.mpf(float(b)) * mpmath.exp(mpmath.mpf(float(x))) for x, b in pairs]
        total = mpmath.fsum(terms)
        if not total:
            return -mpmath.inf, 0.0, math.inf
        growth = float(mpmath.fsum(map(abs, terms)) / abs(total))
        return mpmath.log(abs(total)), float(mpmath.sign(total)), growth


def test_scaled_sums_are_as_good_as_their_cancellation_allows() -> None:
    rng = np.random.default_rng(3)
    for _ in range(1500):
        n = int(rng.integers(1, 40))
        logits = rng.standard_normal(n) * rng.choice([1, 5, 60, 700, 1e-3]) + rng.choice([0, 50])
        if rng.random() < 0.4:
            logits = np.round(logits)
        signed = rng.standard_normal(n)
        factors = rng.choice(
            [rng.random(n), signed, np.sign(signed), signed * 10.0 ** rng.integers(-200, 200, n)]
        )
        factors[rng.random(n) < 0.2] = 0
        want, sign, growth = exact_scaled_sum(logits, factors)
        got, got_sign = fastxent.logsumexp(logits, b=factors, return_sign=True)
        if growth > 1e12:
            continue
        assert got_sign == sign
        if sign == 0:
            assert got == -np.inf
            continue
        # what two numbers add up to here may cancel: the largest term's logit, and log of the rest
        sizes = logits + np.log(np.where(factors == 0, np.nan, np.abs(factors)))
        pivot = abs(logits[np.nanargmax(sizes)])
        error = float(abs(mpmath.mpf(float(got)) - want))
        scale = pivot + abs(float(want) - logits[np.nanargmax(sizes)]) + 4 * growth
        assert error <= 2.0**-53 * (scale + 2 * abs(float(want)))
        plain = fastxent.logsumexp(logits, b=factors)
        assert plain == got if sign > 0 else np.isnan(plain)


@pytest.mark.parametrize(
    ("logits", "factors", "want"),
    [
        ([0.0, -40.0], [1.0, 1.0], 4.248354255291589e-18),
        ([0.0, 0.0, -40.0], [0.5, 0.5, 1.0], 4.248354255291589e-18),
        ([0.0, 0.0, -40.0], [2.0, -1.0, -1.0], -4.248354255291589e-18),
        ([0.0, -0.0, -40.0], [-2.0, 1.0, 1.0], -4.248354255291589e-18),
        ([1.0, 0.0], [1e-20, 1.0], 2.718281828459045e-20),  # SciPy: 4.4e-16
        ([800.0, 0.0], [1e-320, 1e300], 690.7755278982137),  # SciPy: 63.2
        ([5.0, 5.0], [1.0, -1.0], -np.inf),
        ([1000.0, 1000.0], [1.0, -1.0], -np.inf),  # SciPy: NaN
        ([-5000.0, -5000.0], [3.0, -1.0], -4999.306852819440055),
    ],
)
def test_small_terms_beside_a_sum_of_1_keep_their_digits(
    logits: list[float], factors: list[float], want: float
) -> None:
    got, _ = fastxent.logsumexp(logits, b=factors, return_sign=True)
    np.testing.assert_allclose(got, want, 3e-16)


def test_infinite_terms_add_up_as_numbers_do_and_as_in_scipy_where_it_says_a_number() -> None:
    values = [np.nan, np.inf, -np.inf, 0.0, 1000.0, -1000.0]
    factors = [0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan]
    pairs = list(itertools.product(itertools.product(values, factors), repeat=2))
    x, b = np.moveaxis(np.array(pairs), -1, 0)
    got, sign = fastxent.logsumexp(x, b=b, return_sign=True)
    with np.errstate(all="ignore"):
        scipys, scipys_sign = scipy.special.logsumexp(x, b=b, axis=-1, return_sign=True)
        # a factor of 0 adds nothing; what is infinite hides what is finite
        infinite = (b != 0) & ~(np.isfinite(b) & (x < np.inf))
        terms = np.where(infinite, b * np.where(np.isfinite(x), 1, np.exp(x)), 0).sum(-1)
    says = ~np.isnan(scipys)
    np.testing.assert_allclose(got[says], scipys[says], 1e-15)
    assert np.array_equal(sign[says], scipys_sign[says])
    some = infinite.any(-1)
    assert np.array_equal(got[some], np.where(np.isnan(terms), np.nan, np.inf)[some], True)
    assert np.array_equal(sign[some], np.sign(terms[some]), True)
    plain = fastxent.logsumexp(x, b=b)
    assert np.array_equal(plain, np.where(sign < 0, np.nan, got), True)


def test_factors_are_broadcast_and_their_dtype_counts_as_in_scipy() -> None:
    logits = random_logits((2, 3, 4))
    rng = np.random.default_rng(0)
    for shape, axis in itertools.product(
        [(), (4,), (3, 1), (2, 1, 4), (1, 3, 4), (5, 1, 1, 1)], [-1, None, 0, (0, 2)]
    ):
        b = rng.standard_normal(shape)
        for factors in (b, b.astype(np.float32), np.round(b).astype(int), b > 0):
            for keepdims in (False, True):
                options: dict[str, Any] = {"axis": axis, "keepdims": keepdims, "return_sign": True}
                got = fastxent.logsumexp(logits, b=factors, **options)
                with np.errstate(all="ignore"):
                    want = scipy.special.logsumexp(logits, b=factors, **options)
                for ours, scipys in zip(got, want, strict=True):
                    assert ours.shape == scipys.shape
                    if ours.shape:
                        assert ours.dtype == scipys.dtype
                    np.testing.assert_allclose(ours, scipys, 2e-5, 2e-5)
    # a bare number changes no dtype
    assert fastxent.logsumexp(logits, b=2).dtype == np.float32
    assert fastxent.logsumexp(logits, b=2.0).dtype == np.float32
    wide = fastxent.logsumexp(logits[0, 0], axis=0, b=np.ones((5, 4)))
    assert wide.shape == (4,)


def test_scaled_sums_of_a_row_do_not_depend_on_the_others() -> None:
    for n_classes in (1, 5, 9, 200, 16384, 40_000):
        logits = random_logits((9, n_classes), np.float64)
        factors = random_logits((9, n_classes), np.float64, seed=1)
        whole = fastxent.logsumexp(logits, b=factors, return_sign=True)
        for k in (0, 8):
            alone = fastxent.logsumexp(logits[k], b=factors[k], return_sign=True)
            assert (whole[0][k], whole[1][k]) == alone
        strided = fastxent.logsumexp(logits[::2, ::-1][:, ::-1], b=factors[::2], return_sign=True)
        assert same_bits(strided[0], whole[0][::2])
    many = np.broadcast_to(logits[:1, :2], (100_000, 2))
    values = fastxent.logsumexp(many, b=[1.0, -0.5], return_sign=True)[0]
    assert (values == values[0]).all()


def test_signs_without_factors_are_those_of_the_sums(backend: str) -> None:
    logits = np.array([[0, 1], [-np.inf, -np.inf], [np.nan, 0], [np.inf, 0]], np.float32)
    values, signs = fastxent.logsumexp(logits, return_sign=True, backend=backend)
    assert same_bits(values, fastxent.logsumexp(logits, backend=backend))
    with np.errstate(all="ignore"):
        want = scipy.special.logsumexp(logits, axis=-1, return_sign=True)[1]
    assert same_bits(signs, want)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an axis that is no integer": ({"axis": 1.0}, TypeError, "axis must be an integer.*1.0"),
    "an axis in a tuple that is none": ({"axis": (0, "1")}, TypeError, "axis must be an integer"),
    "an axis twice": ({"axis": (1, -1)}, ValueError, "names an axis twice"),
    "an axis that is not there": ({"axis": (0, 2)}, ValueError, "axis 2 is out of range"),
    "complex logits": ({"logits": np.ones(2, complex)}, TypeError, "complex128.*real numbers"),
    "complex logits, all axes": (
        {"logits": np.ones(2, complex), "axis": None}, TypeError, "complex128.*real numbers",
    ),
    "complex logits, none": (
        {"logits": np.ones((2, 0), complex), "axis": None}, TypeError, "complex128.*real numbers",
    ),
    "text": ({"logits": ["a"]}, TypeError, "logits must be.*str"),
    "an unknown backend": ({"axis": None, "backend": "gpu"}, ValueError, "backend must be"),
}  # fmt: skip
WRONG_SUMS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "complex factors": ({"b": 1j}, TypeError, "b must hold real numbers, not complex128"),
    "factors of another shape": ({"b": np.ones(4)}, ValueError, r"b has shape \(4,\).*\(2, 3\)"),
    "masked factors": (
        {"b": np.ma.array([1.0, 2, 3], mask=[0, 1, 0])}, TypeError, r"b\.filled\(0\)",
    ),
    "complex logits, factors": (
        {"b": 2, "logits": np.ones(2, complex)}, TypeError, "complex128.*real numbers",
    ),
    "a backend that is none, with factors": ({"b": 2, "backend": "gpu"}, ValueError, "backend"),
    "threads that are none, of nothing": (
        {"logits": [], "n_threads": 0}, ValueError, "n_threads",
    ),
    "a number for keepdims": ({"keepdims": 1}, TypeError, "keepdims must be True or False, not 1"),
    "a number for return_sign": ({"return_sign": None}, TypeError, "return_sign must be True"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_argument_is_a_clear_error(
    name: str, case: tuple[dict[str, Any], type[Exception], str]
) -> None:
    options, error, message = case
    with pytest.raises(error, match=message):
        getattr(fastxent, name)(**{"logits": np.zeros((2, 3)), **options})


@pytest.mark.parametrize("case", WRONG_SUMS.values(), ids=WRONG_SUMS.keys())
def test_a_wrong_argument_of_a_sum_is_a_clear_error(
    case: tuple[dict[str, Any], type[Exception], str],
) -> None:
    options, error, message = case
    with pytest.raises(error, match=message):
        fastxent.logsumexp(**{"logits": np.zeros((2, 3)), **options})


def test_a_list_of_axes_is_one_of_numbers_like_a_tuple() -> None:
    logits = random_logits((2, 3, 4))
    assert same_bits(fastxent.softmax(logits, [0, 2]), fastxent.softmax(logits, (0, 2)))
    assert same_bits(fastxent.logsumexp(logits, [1]), fastxent.logsumexp(logits, 1))
