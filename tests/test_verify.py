"""The verification itself: exact references, a defined error, and every planted fault found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
from fastxent.verify import cases_options, reference, verify
from fastxent.verify.case import CROSS_ENTROPY, DTYPES, OPTIONS, Case, Problem, dtype_named
from fastxent.verify.cases import CASES, cases_named
from fastxent.verify.implementation import Implementation, backend_implementation
from fastxent.verify.memory import Guarded
from fastxent.verify.metrics import spacing, ulp_errors
from fastxent.verify.result import Report
from fastxent.verify.runner import loss_dtype, run

Array = np.ndarray[Any, Any]
FLOAT32 = np.dtype(np.float32)


def check(
    implementation: Implementation, *names: str, dtypes: tuple[str, ...] = ("float32",)
) -> Report:
    return run(
        cases_named(list(names), quick=True),
        [implementation],
        [dtype_named(name) for name in dtypes],
        seed=0,
        thread_counts=(1, 2),
    )


def kinds_of_breach(report: Report) -> set[str]:
    return {kind for result in report.results for kind in result.breaches}


# ---- a correct implementation, and planted faults in it ------------------------------------------


def correct(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Rounded from extended precision; the gradient at the label without a difference."""
    x = logits.astype(np.float64).astype(np.longdouble)
    i = np.arange(len(x))
    with np.errstate(all="ignore"):
        m = x.max(axis=1, keepdims=True)
        terms = np.exp(x - m)
        rest = terms.copy()
        rest[i, np.argmax(x, axis=1)] = 0
        rest_sum = rest.sum(axis=1)
        log_sum = np.log1p(rest_sum)
        if labels.ndim == 2:
            target = labels.astype(np.longdouble)
            mass = target.sum(axis=1)
            costs = np.where(target == 0, 0, target * (m - x)).sum(axis=1)
            losses = costs + mass * log_sum
            gradient = mass[:, None] * terms / (1 + rest_sum)[:, None] - target
        else:
            kept = labels != (labels.max() + 1 if ignore_index is None else ignore_index)
            y = np.where(kept, labels, 0)
            losses = (m[:, 0] - x[i, y]) + log_sum
            gradient = terms / (1 + rest_sum)[:, None]
            is_first_maximum = np.argmax(x, axis=1) == y
            others = np.where(is_first_maximum, rest_sum, 1 + rest_sum - terms[i, y])
            gradient[i, y] = -others / (1 + rest_sum)
        bad = ~np.isfinite(m[:, 0])
        losses[bad] = np.nan
        gradient[bad] = np.nan
        if labels.ndim == 1:
            losses[~kept] = 0
            gradient[~kept] = 0
        rounded = losses.astype(loss_dtype(logits.dtype))
        result = np.empty(logits.shape, logits.dtype) if out is None else out
        result[...] = gradient.astype(np.float32 if logits.itemsize < 4 else logits.dtype)
    return rounded, result


CORRECT = Implementation("correct", correct, options=frozenset({"out", "ignore_index"}))
OPTION_CASES = {case.name for case in cases_options.CASES}


def test_a_correct_implementation_passes_every_case() -> None:
    names = [case.name for case in CASES if case.operation == CROSS_ENTROPY and case.quick]
    names = [name for name in names if name not in OPTION_CASES]
    report = check(CORRECT, *names, dtypes=("float32", "float16", "bfloat16"))
    assert kinds_of_breach(report) == set()
    assert report.ok
    assert len(report.results) > 3 * len(names) - 10
    assert all(result.verdict == "ok" for result in report.results)


def naive_in_float32(logits: Array, labels: Array) -> tuple[Array, Array]:
    log_probs = scipy.special.log_softmax(logits, axis=1)
    i = np.arange(len(logits))
    gradient = np.exp(log_probs)
    gradient[i, labels] -= 1
    return -log_probs[i, labels], gradient


def without_last_class(logits: Array, labels: Array) -> tuple[Array, Array]:
    shortened = logits.copy()
    shortened[:, -1] = np.where(labels == logits.shape[1] - 1, logits[:, -1], -np.inf)
    return correct(shortened, labels)


def gradient_of_the_mean(logits: Array, labels: Array) -> tuple[Array, Array]:
    losses, gradient = correct(logits, labels)
    return losses, gradient / FLOAT32.type(len(losses))


def label_off_by_one(logits: Array, labels: Array) -> tuple[Array, Array]:
    return correct(logits, (labels + 1) % logits.shape[1])


def nan_leaks(logits: Array, labels: Array) -> tuple[Array, Array]:
    losses, gradient = correct(logits, labels)
    after = np.flatnonzero(np.isnan(losses[:-1])) + 1
    losses[after] = np.nan
    gradient[after] = np.nan
    return losses, gradient


def nan_is_swallowed(logits: Array, labels: Array) -> tuple[Array, Array]:
    losses, gradient = correct(logits, labels)
    return np.nan_to_num(losses), np.nan_to_num(gradient)


def batch_dependent(logits: Array, labels: Array) -> tuple[Array, Array]:
    losses, gradient = correct(logits, labels)
    return (np.nextafter(losses, np.float32(9)) if len(losses) > 1 else losses), gradient


def losses_in_float64(logits: Array, labels: Array) -> tuple[Array, Array]:
    losses, gradient = correct(logits, labels)
    return losses.astype(np.float64), gradient


def overwrites_logits(logits: Array, labels: Array) -> tuple[Array, Array]:
    result = correct(logits, labels)
    logits -= logits.max()
    return result


def gives_up(logits: Array, labels: Array) -> tuple[Array, Array]:
    raise MemoryError("no room")


@pytest.mark.parametrize(
    ("fault", "case", "kinds"),
    [
        (naive_in_float32, "forty_zero", {"loss error", "gradient error"}),
        (naive_in_float32, "confident", {"loss error", "gradient error"}),
        (without_last_class, "class_counts_to_70", {"loss error", "gradient error"}),
        (gradient_of_the_mean, "gaussian", {"gradient error"}),
        (label_off_by_one, "gaussian", {"loss error", "gradient error"}),
        (nan_leaks, "trouble", {"loss error", "gradient error"}),
        (nan_is_swallowed, "trouble", {"loss error", "gradient error"}),
        (batch_dependent, "gaussian", {"bits differ: row alone"}),
        (losses_in_float64, "gaussian", {"losses: float64 of shape (16,)"}),
        (overwrites_logits, "gaussian", {"the logits were changed"}),
        (gives_up, "gaussian", {"raised MemoryError: no room"}),
    ],
)
def test_a_planted_fault_is_a_breach(
    fault: Callable[..., tuple[Array, Array]], case: str, kinds: set[str]
) -> None:
    report = check(Implementation("faulty", fault), case)
    assert not report.ok
    found = kinds_of_breach(report)
    assert all(any(kind.startswith(wanted) for kind in found) for wanted in kinds), found


def test_an_unwritten_slot_is_a_breach() -> None:
    def forgetful(logits: Array, labels: Array, out: Array) -> tuple[Array, Array]:
        losses, gradient = correct(logits, labels)
        out[:, :-1] = gradient[:, :-1]
        return losses, out

    report = check(Implementation("forgetful", forgetful, options=frozenset({"out"})), "gaussian")
    breach = report.results[0].breaches["gradient error"]
    assert breach.column == 999
    assert np.isnan(breach.got)


def test_a_write_between_the_rows_is_a_breach() -> None:
    def careless(logits: Array, labels: Array, out: Array) -> tuple[Array, Array]:
        losses, gradient = correct(logits, labels)
        out[...] = gradient
        n_rows, n_classes = out.shape
        if n_rows > 1:
            beyond = np.lib.stride_tricks.as_strided(out, (n_rows, n_classes + 1), out.strides)
            beyond[0, -1] = 0
        return losses, out

    faulty = Implementation("careless", careless, options=frozenset({"out"}))
    assert "memory around the rows was written to" in kinds_of_breach(check(faulty, "padded_rows"))


def test_a_result_that_depends_on_threads_is_a_breach() -> None:
    def racy(logits: Array, labels: Array, n_threads: int) -> tuple[Array, Array]:
        losses, gradient = correct(logits, labels)
        return losses, np.nextafter(gradient, FLOAT32.type(n_threads - 1))

    faulty = Implementation("racy", racy, options=frozenset({"n_threads"}))
    assert "bits differ: 2 threads" in kinds_of_breach(check(faulty, "gaussian"))


def test_another_loss_without_the_gradient_is_a_breach() -> None:
    def loss_alone(logits: Array, labels: Array) -> Array:
        return np.nextafter(correct(logits, labels)[0], FLOAT32.type(0))

    faulty = Implementation("two ways", correct, loss_alone)
    found = kinds_of_breach(check(faulty, "gaussian"))
    assert found == {"bits differ: loss without gradient"}


def test_a_wrong_function_is_a_breach() -> None:
    functions = {"log_softmax": lambda logits: scipy.special.log_softmax(logits, axis=1)}
    faulty = Implementation("scipy in float32", correct, functions=functions)
    assert "error" in kinds_of_breach(check(faulty, "log_softmax"))


def test_what_an_implementation_cannot_do_is_left_out_and_said() -> None:
    plain = Implementation("plain", correct)
    report = check(plain, "in_place", "softmax", "ignored_rows", "z_loss")
    assert [result.verdict for result in report.results] == ["left out"] * 4
    reasons = set().union(*(result.left_out for result in report.results))
    assert reasons >= {"cannot work in place", "has no softmax", "takes no ignore_index"}
    assert "takes no z_loss" in reasons
    assert not report.ok, "nothing was checked, so nothing is known to be well"


# ---- the same with options -----------------------------------------------------------------------


def correct_with_options(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int | None = None,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[Array, Array]:
    """From the definitions, in extended precision: enough for all but float64."""
    x = logits.astype(np.float64).astype(np.longdouble)
    n_rows, n_classes = x.shape
    i = np.arange(n_rows)
    ones = np.ones(n_classes)
    w = (ones if class_weight is None else class_weight).astype(np.float32).astype(np.longdouble)
    s = (np.ones(n_rows) if sample_weight is None else sample_weight).astype(np.longdouble)
    with np.errstate(all="ignore"):
        y, slope = x, np.ones_like(x)
        if softcap is not None:
            e = np.exp(-2 * abs(x / softcap))
            y = np.where(np.isfinite(x), softcap * np.tanh(x / softcap), x)
            slope = np.where(np.isfinite(x), 4 * e / (1 + e) ** 2, 0)
        y, slope = y / temperature, slope / temperature
        m = y.max(axis=1, keepdims=True)
        terms = np.exp(y - m)
        rest = terms.copy()
        rest[i, np.argmax(x, axis=1)] = 0
        log_sum = np.log1p(rest.sum(axis=1, keepdims=True))
        total = 1 + rest.sum(axis=1, keepdims=True)
        kept = np.ones(n_rows, bool)
        if labels.ndim == 2:
            b = labels.astype(np.longdouble)
        else:
            kept = labels != (labels.max() + 1 if ignore_index is None else ignore_index)
            b = np.zeros_like(x)
            b[i[kept], labels[kept]] = 1
        nothing = ~(w * b).any(axis=1) & (not label_smoothing or not w.any()) & (not z_loss)
        unmasked = x > -np.inf
        share = np.where(unmasked, label_smoothing / unmasked.sum(axis=1, keepdims=True), 0)
        t = w * ((1 - np.longdouble(label_smoothing)) * b + (share if label_smoothing else 0))
        mass = t.sum(axis=1, keepdims=True)
        lse = m + log_sum
        losses = np.where(t == 0, 0, t * (m - y)).sum(axis=1) + (mass * log_sum)[:, 0]
        losses += z_loss * lse[:, 0] ** 2 if z_loss else 0
        gradient = mass * terms / total - t
        if labels.ndim == 1 and not label_smoothing:
            others = terms.copy()
            others[i, np.where(kept, labels, 0)] = 0
            at_label = -mass * others.sum(axis=1, keepdims=True) / total
            gradient = np.where(b == 1, at_label, gradient)
        gradient += 2 * z_loss * lse * terms / total if z_loss else 0
        bad = ~np.isfinite(x.max(axis=1))
        losses, gradient = s * losses, s[:, None] * gradient * slope
        losses[bad], gradient[bad] = np.nan, np.nan
        free = ~kept | (s == 0) | nothing
        losses[free], gradient[free] = 0, 0
        rounded = losses.astype(loss_dtype(logits.dtype))
        narrow = gradient.astype(np.float32).astype(logits.dtype)
    return rounded, narrow


def taking_options(with_grad: Callable[..., tuple[Array, Array]]) -> Implementation:
    return Implementation("options", with_grad, options=frozenset({"ignore_index", *OPTIONS}))


def test_a_correct_implementation_passes_every_case_with_options() -> None:
    names = [case.name for case in cases_options.CASES if case.quick]
    report = check(taking_options(correct_with_options), *names, dtypes=("float32", "bfloat16"))
    assert kinds_of_breach(report) == set()
    assert report.ok
    assert all(result.verdict == "ok" for result in report.results)


def without(name: str) -> Callable[..., tuple[Array, Array]]:
    def forgetful(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
        options.pop(name, None)
        return correct_with_options(logits, labels, **options)

    return forgetful


def weights_after_rounding(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
    """The weighted gradient at the label as a difference of rounded numbers."""
    losses, gradient = correct_with_options(logits, labels, **options)
    i = np.arange(len(labels))
    w = options["class_weight"].astype(np.float32)[labels]
    gradient[i, labels] = (gradient[i, labels] + w) - w
    return losses, gradient


def masked_classes_share(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
    smallest = logits.dtype.type(-200)
    filled = np.where(np.isneginf(logits), smallest, logits)
    return correct_with_options(filled, labels, **options)


def nan_times_zero(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
    weights = options.pop("sample_weight").astype(np.float32)
    losses, gradient = correct_with_options(logits, labels, **options)
    return losses * weights, gradient * weights[:, None]


def gradient_of_the_transformed(
    logits: Array, labels: Array, **options: Any
) -> tuple[Array, Array]:
    losses, gradient = correct_with_options(logits, labels, **options)
    return losses, gradient * np.float32(options.get("temperature", 1.0))


def slope_as_a_difference(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
    cap = np.float32(options["softcap"])
    losses, gradient = correct_with_options(logits, labels, **options)
    t = np.tanh(logits / cap)
    e = np.exp(-2 * abs(logits / cap).astype(np.longdouble))
    return losses, (gradient / (4 * e / (1 + e) ** 2) * (1 - t * t)).astype(np.float32)


def half_of_the_z_gradient(logits: Array, labels: Array, **options: Any) -> tuple[Array, Array]:
    plain = correct_with_options(logits, labels, **{**options, "z_loss": 0.0})
    whole = correct_with_options(logits, labels, **options)
    return whole[0], (plain[1] + whole[1]) / 2


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        (without("class_weight"), "class_weights"),
        (without("class_weight"), "smoothing_weighted"),
        (without("label_smoothing"), "smoothing"),
        (without("sample_weight"), "sample_weights"),
        (without("z_loss"), "z_loss"),
        (without("temperature"), "temperatures"),
        (without("softcap"), "softcap"),
        (without("ignore_index"), "ignored_rows_weighted"),
        (without("softcap"), "transformed_rows"),
        (without("label_smoothing"), "soft_weighted"),
        (without("label_smoothing"), "long_row_weighted"),
        (without("class_weight"), "few_and_many_classes_weighted"),
        (weights_after_rounding, "class_weights_confident"),
        (masked_classes_share, "smoothing_masked"),
        (nan_times_zero, "sample_weights"),
        (gradient_of_the_transformed, "temperatures"),
        (slope_as_a_difference, "softcap_saturated"),
        (half_of_the_z_gradient, "z_loss"),
    ],
)
def test_a_fault_planted_in_an_option_is_a_breach(
    fault: Callable[..., tuple[Array, Array]], case: str
) -> None:
    with np.errstate(all="ignore"):
        report = check(taking_options(fault), case)
    assert not report.ok
    found = kinds_of_breach(report)
    assert any(kind in found for kind in ("loss error", "gradient error", "raised")), found


# ---- the backends --------------------------------------------------------------------------------


def test_backends_pass_every_quick_case_without_a_warning(backend: str) -> None:
    names = [case.name for case in CASES if case.quick]
    report = check(backend_implementation(backend), *names, dtypes=DTYPES)
    failed = [(result.case, result.dtype, *result.breaches) for result in report.failed]
    assert failed == []
    assert report.ok


def test_verify_checks_all_backends_and_counts_its_steps() -> None:
    steps: list[tuple[str, int, int]] = []
    report = verify(
        cases=["forty_zero", "gaussian"],
        dtypes=["float32"],
        progress=lambda name, done, total: steps.append((name, done, total)),
    )
    assert report.ok
    assert steps == [("gaussian float32", 0, 2), ("forty_zero float32", 1, 2)]
    assert [(result.case, result.implementation) for result in report.results] == [
        ("gaussian", "cython"),
        ("gaussian", "numba"),
        ("forty_zero", "cython"),
        ("forty_zero", "numba"),
    ]
    assert [result.reference for result in report.results[::2]] == ["scipy", "extended"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": ["nonsense"]}, "no case 'nonsense'"),
        ({"dtypes": ["float8"]}, "dtype must be one of"),
        ({"backends": ["fortran"]}, "backend must be one of"),
        ({"seed": -1}, "seed must not be negative"),
        ({"thread_counts": [0]}, "thread counts must be at least 1"),
        ({"thread_counts": []}, "thread counts must be at least 1"),
    ],
)
def test_verify_says_what_it_does_not_know(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify(**arguments)


# ---- the cases -----------------------------------------------------------------------------------


def test_every_case_has_a_name_of_its_own_and_a_reason() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.name and case.reason.endswith(".") for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_seed_determines_a_case(case: Case) -> None:
    dtype = np.dtype(np.float32)
    first, again, other = (
        [(p.logits.tobytes(), p.labels.tobytes()) for p in case.problems(dtype, seed)]
        for seed in (0, 0, 1)
    )
    assert first
    assert first == again
    fixed = {"forty_zero", "very_confident"}
    assert (first == other) == (case.name in fixed)


# ---- the references ------------------------------------------------------------------------------

ROWS = {
    "ordinary": [0.5, -1.25, 3.0, 0.125],
    "forty and zero": [40.0, 0.0],
    "subnormal loss": [740.0, 0.0, 1.0],
    "smallest subnormal loss": [745.0, 0.0],
    "offset": [1e8, 1e8 - 3.7, 1e8 - 20.0],
    "negative offset": [-1e8, -1e8 - 0.1, -1e8 - 700.0],
    "ties": [2.0, 2.0, -5.0, 2.0],
    "masked": [-np.inf, 3.0, -np.inf, 1.0],
    "one class": [7.0],
    "far apart": [1e300, -1e300],
    "deep": [0.1, -700.3, -703.77, -0.7],
}


TRANSFORMS = (
    reference.Transform(),
    reference.Transform(temperature=0.3),
    reference.Transform(softcap=30.0),
    reference.Transform(temperature=0.7, softcap=1000.3),
    reference.Transform(temperature=1e-3, softcap=1e4),
)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_longdouble_agrees_with_mpmath(row: list[float], transform: reference.Transform) -> None:
    logits = np.array([row])
    fast = reference.longdouble_softmax(logits, transform)
    slow = reference.mpmath_softmax(logits, transform)
    for name in ("log_sum", "probs", "others", "below", "slope"):
        got, want = getattr(fast, name), getattr(slow, name)
        same = got == want
        with np.errstate(invalid="ignore"):
            error = np.where(same, 0, abs(got - want) / abs(want))
        assert (error < 2.0**-60).all(), name


def test_mpmath_reference_gives_known_digits() -> None:
    with mpmath.workdps(40):
        want = mpmath.log(1 + mpmath.exp(mpmath.mpf(-40)))
        got = reference.mpmath_softmax(np.array([[40.0, 0.0]])).log_sum[0]
        assert abs(mpmath.mpf(float(got)) / want - 1) < mpmath.mpf(2) ** -52
    assert float(got) == pytest.approx(4.248354255291589e-18, rel=1e-15)


def test_scipy_and_extended_precision_agree_where_scipy_has_digits() -> None:
    logits = np.random.default_rng(3).standard_normal((5, 200)).astype(np.float32)
    coarse, fine = reference.scipy_softmax(logits), reference.longdouble_softmax(logits)
    np.testing.assert_allclose(coarse.log_sum, fine.log_sum.astype(float), rtol=1e-13)
    np.testing.assert_allclose(coarse.probs, fine.probs.astype(float), rtol=1e-13)
    np.testing.assert_allclose(coarse.others, fine.others.astype(float), rtol=1e-13)


def test_the_reference_changes_over_where_scipy_has_no_digits() -> None:
    def source(logits: list[list[float]], dtype: Any) -> str:
        array = np.array(logits, dtype)
        return reference.expected(CROSS_ENTROPY, Problem(array, np.zeros(len(array), int))).source

    assert source([[0, 1, 2]], np.float32) == "scipy"
    assert source([[40, 0, 1]], np.float32) == "extended"
    assert source([[40, 0, 1], [0, 1, 2]], np.float32) == "both"
    assert source([[0, 1, 2]], np.float64) == "extended"


# ---- the error -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_the_spacing_is_that_of_the_dtype(name: str) -> None:
    dtype = dtype_named(name)
    for value in (1.0, 1.5, 2.0, 0.75, 1000.0, 0.0):
        number = np.array(value).astype(dtype)
        above = number.astype(np.float64) + spacing(np.array(value), dtype)
        bits = np.dtype(f"u{dtype.itemsize}")
        following = (number.reshape(1).view(bits) + bits.type(1)).view(dtype)
        assert float(above) == float(following[0])


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        (1.0, 1.0, 0.0),
        (1.0 + 2.0**-22, 1.0, 2.0),
        (1.0, 1.0 + 2.0**-24, 0.5),
        (-0.0, 0.0, 0.0),
        (2.0**-149, 0.0, 1.0),
        (0.0, 2.0**-147, 4.0),
        (np.nan, np.nan, 0.0),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.inf),
        (np.inf, np.inf, 0.0),
        (np.inf, 1e39, 0.0),
        (-np.inf, np.inf, np.inf),
        (np.inf, 1.0, np.inf),
        (1.0, np.inf, np.inf),
        (np.nan, np.inf, np.inf),
    ],
)
def test_the_error_is_defined_everywhere(got: float, want: float, error: float) -> None:
    errors = ulp_errors(np.array([got], np.float32), np.array([want], np.longdouble))
    assert errors[0] == error


def test_the_error_of_a_difference_is_measured_at_the_larger_term() -> None:
    got, want = np.array([2.0**-24], np.float32), np.array([0.0])
    assert ulp_errors(got, want, scale=np.array([1.0]))[0] == 0.5
    assert ulp_errors(got, want)[0] > 1e30


@pytest.mark.parametrize("name", DTYPES)
def test_guarded_memory_starts_as_nan_and_notices_strangers(name: str) -> None:
    guarded = Guarded((3, 5), dtype_named(name), padding=2, offset=1)
    assert np.isnan(guarded.array.astype(np.float64)).all()
    guarded.array[...] = 1
    assert guarded.is_intact()
    address = guarded.array.__array_interface__["data"][0]
    assert address % 64 == 1
    itemsize = guarded.array.itemsize
    wider = np.lib.stride_tricks.as_strided(guarded.array, (3, 6), (7 * itemsize, itemsize))
    wider[1, 5] = 1
    assert not guarded.is_intact()
