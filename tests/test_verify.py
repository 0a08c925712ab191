"""The verification itself: what it takes, what it finds, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.special
from fastxent.verify import Implementation, assert_verified, verify
from fastxent.verify.case import DTYPES, Case
from fastxent.verify.cases import CASES
from fastxent.verify.implementation import from_callable
from fastxent.verify.reports.words import notes

Array = np.ndarray[Any, Any]


def plain(logits: Array, labels: Array) -> tuple[Array, Array]:
    """What a user of SciPy writes: sound, and without digits in confident rows."""
    log_probs = scipy.special.log_softmax(logits, axis=1)
    i = np.arange(len(logits))
    gradient = np.exp(log_probs)
    gradient[i, labels] -= 1
    return -log_probs[i, labels], gradient


# ---- backends ------------------------------------------------------------------------------------


@pytest.mark.timeout(600)  # the Numba twin compiles every option: 210 s on two idle cores
def test_backends_pass_every_quick_case_with_all_options(backend: str) -> None:
    names = [case.name for case in CASES if case.quick]
    report = verify(backends=[backend], cases=names)
    failed = [(result.case, result.dtype, *result.breaches) for result in report.failed]
    assert failed == []
    assert report.ok
    assert {result.dtype for result in report.results} == set(DTYPES)
    assert not any(result.left_out for result in report.results)


def test_verify_checks_all_backends_and_counts_its_steps() -> None:
    steps: list[tuple[str, int, int]] = []
    report = verify(
        cases=["forty_zero", "gaussian"],
        dtypes=["float32"],
        progress=lambda *step: steps.append(step),
    )
    assert report.ok
    assert {step[2] for step in steps} == {4}
    assert max(step[1] for step in steps) == 3
    assert [(result.case, result.implementation) for result in report.results] == [
        ("gaussian", "cython"),
        ("gaussian", "numba"),
        ("forty_zero", "cython"),
        ("forty_zero", "numba"),
    ]
    assert [result.reference for result in report.results[::2]] == ["scipy", "extended"]


def test_only_the_same_bits_have_the_same_digest() -> None:
    digests = [
        verify(backends=["cython"], cases=["gaussian"], dtypes=["float32"], seed=seed)
        .results[0]
        .digest
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_twins_are_compared_bit_by_bit() -> None:
    report = verify(cases=["forty_zero", "gaussian"], dtypes=["float32"])
    for result in report.results:
        result.digest = f"{result.case} {result.implementation * (result.case == 'gaussian')}"
    assert "cython and numba gave the same bits in 1 of 2 results" in notes(report)


def test_every_check_that_was_made_is_counted() -> None:
    report = verify(backends=["cython"], cases=["shiftable"], dtypes=["float32"])
    checks = report.results[0].checks
    assert set(checks) == {
        "exact value",
        "gradient rows sum to zero",
        "derivative of the loss",
        "bits: the same call again",
        "bits: 2 threads",
        "bits: loss without gradient",
        "bits: row alone",
        "bits: rows in another order",
        "bits: subnormal numbers switched off in the caller",
        "classes in another order",
        "all logits shifted",
    }


# ---- any implementation --------------------------------------------------------------------------


def test_an_ordinary_implementation_passes_standard_and_not_strict() -> None:
    report = verify(plain)
    assert report.ok, [(result.case, *result.breaches) for result in report.failed]
    assert report.profile == "standard"
    assert {result.dtype for result in report.results} == {"float32", "float64"}
    strict = verify(
        plain, profile="strict", cases=["forty_zero", "confident", "labels_out_of_range"]
    )
    assert len(strict.failed) == len(strict.results)


def test_keywords_that_a_callable_has_are_used() -> None:
    asked: list[set[str]] = []

    def loss(
        logits: Array, labels: Array, ignore_index: int | None = None, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        given = {"ignore_index": ignore_index, "sample_weight": sample_weight}
        asked.append({name for name, value in given.items() if value is not None})
        kept = np.ones(len(labels)) if ignore_index is None else (labels != ignore_index)
        losses, gradient = plain(logits, np.where(kept, labels, 0).astype(int))
        weight = kept * (1.0 if sample_weight is None else sample_weight)
        with np.errstate(all="ignore"):
            losses = np.where(weight == 0, 0, losses * weight)
            gradient = np.where(weight[:, None] == 0, 0, gradient * weight[:, None])
        return losses.astype(logits.dtype), gradient.astype(logits.dtype)

    assert from_callable(loss).options == {"ignore_index", "sample_weight"}
    report = verify(loss, cases=["ignored_rows", "sample_weights", "z_loss"])
    assert report.ok
    verdicts = {result.case: result.verdict for result in report.results}
    assert verdicts == {"ignored_rows": "ok", "sample_weights": "ok", "z_loss": "left out"}
    assert {"ignore_index"} in asked
    assert {"sample_weight"} in asked


def test_an_implementation_with_functions_and_options_of_its_own() -> None:
    functions = {"softmax": lambda logits: scipy.special.softmax(logits, axis=1)}
    implementation = Implementation("mine", plain, functions=functions, dtypes=("float64",))
    report = verify(implementation, cases=["softmax", "log_softmax", "gaussian"])
    verdicts = {(result.case, result.dtype): result.verdict for result in report.results}
    assert verdicts == {
        ("gaussian", "float64"): "ok",
        ("softmax", "float64"): "ok",
        ("log_softmax", "float64"): "left out",
    }


def test_a_refusal_of_unusual_arrays_is_left_out_and_wrong_numbers_are_not() -> None:
    def packed_only(logits: Array, labels: Array) -> tuple[Array, Array]:
        if not logits.flags.c_contiguous:
            raise TypeError("C-contiguous arrays only")
        return plain(logits, labels)

    def takes_them_for_packed(logits: Array, labels: Array) -> tuple[Array, Array]:
        memory = np.lib.stride_tricks.as_strided(
            logits, logits.shape, (logits.shape[1] * logits.itemsize, logits.itemsize)
        )
        return plain(memory, labels)

    refused = verify(packed_only, cases=["padded_rows"]).results[0]
    assert refused.verdict == "left out"
    (reason, *_) = (text for text in refused.left_out if "C-contiguous" in text)
    assert reason.startswith("refuses this (TypeError: C-contiguous arrays only (test_verify.py")
    with np.errstate(all="ignore"):
        assert verify(takes_them_for_packed, cases=["padded_rows"]).results[0].verdict == "BREACH"


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (None, "NoneType returned instead of (losses, grad_logits)"),
        ((np.zeros(16), np.zeros((16, 3))), "the gradient: float64 of shape (16, 3) instead of"),
        ((np.zeros((16, 1)), np.zeros((16, 1000))), "losses: float64 of shape (16, 1) instead of"),
        ((np.zeros(16, int), np.zeros((16, 1000))), "losses: int64 of shape (16,) instead of"),
    ],
)
def test_a_result_of_another_form_is_named(result: Any, kind: str) -> None:
    report = verify(lambda logits, labels: result, cases=["gaussian"], dtypes=["float32"])
    (found,) = report.results[0].breaches
    assert found.startswith(kind)


def test_assert_verified_says_everything() -> None:
    def fault(logits: Array, labels: Array) -> tuple[Array, Array]:
        losses, gradient = plain(logits, labels)
        return losses, gradient / np.float32(len(losses))

    report = assert_verified(plain, cases=["gaussian"])
    assert report.ok
    with pytest.raises(AssertionError) as raised:
        assert_verified(fault, cases=["gaussian"], dtypes=["float32"])
    said = str(raised.value)
    assert "BREACH gaussian: gradient error" in said
    for name in ("row", "column", "input", "got", "wanted", "error", "bound", "repeat"):
        assert f"\n  {name}" in said
    with pytest.raises(AssertionError, match="Nothing was checked"):
        assert_verified(plain, cases=["in_place"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cases": ["nonsense"]}, ValueError, "no case 'nonsense'"),
        ({"cases": ["gausian"]}, ValueError, "did you mean 'gaussian'"),
        ({"dtypes": ["float8"]}, ValueError, "dtype must be one of"),
        ({"backends": ["fortran"]}, ValueError, "backend must be one of"),
        ({"seed": -1}, ValueError, "seed must not be negative"),
        ({"thread_counts": [0]}, ValueError, "thread counts must be at least 1"),
        ({"thread_counts": []}, ValueError, "thread counts must be at least 1"),
        ({"profile": "lax"}, ValueError, "profile must be one of 'strict', 'standard'"),
        ({"problem": 3}, ValueError, "name that case, too"),
        ({"quick": True, "full": True}, ValueError, "exclude each other"),
        ({"impl": "tourch"}, ValueError, "or MODULE:FUNCTION, not 'tourch'"),
        ({"impl": "loss.py:f"}, ValueError, "names a module, not a file: loss:f"),
        ({"impl": 3}, TypeError, "impl must be callable, not int"),
        ({"cases": "gausian"}, ValueError, "did you mean 'gaussian'"),
        ({"impl": [3]}, TypeError, "impl must be callable, not int"),
        ({"impl": [plain, plain, lambda x, y: 0, lambda x, y: 0]}, ValueError, "are called"),
    ],
)
def test_verify_says_what_it_does_not_know(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify(**arguments)


# ---- the cases -----------------------------------------------------------------------------------

MADE: list[Case] = [case for case in CASES if case.sweep is None]


def test_every_case_has_a_name_of_its_own_and_a_reason() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.name and case.reason.endswith(".") for case in CASES)


@pytest.mark.parametrize("case", MADE, ids=lambda case: case.name)
def test_a_seed_determines_a_case(case: Case) -> None:
    dtype = np.dtype("float32" if "float32" in case.dtypes else "float16")
    if dtype.name not in case.dtypes:
        dtype = np.dtype(ml_dtypes.bfloat16)
    first, again, other = (
        [(p.logits.tobytes(), p.labels.tobytes()) for p in case.problems(dtype, seed)]
        for seed in (0, 0, 1)
    )
    assert first
    assert first == again
    fixed = {"forty_zero", "many_ties", "very_confident", "digits"}
    assert (first == other) == (case.name in fixed)


def _answers(make: Callable[[tuple[int, ...]], Array]) -> Callable[..., tuple[Array, Array]]:
    return lambda logits, labels: (make(labels.shape), make(logits.shape))


@pytest.mark.parametrize(
    "make",
    [np.zeros, lambda shape: np.full(shape, np.nan), lambda shape: np.full(shape, 0.5)],
    ids=["zeros", "nan", "one half"],
)
@pytest.mark.parametrize("profile", ["strict", "standard"])
def test_an_answer_without_any_sense_passes_no_case(
    make: Callable[[tuple[int, ...]], Array], profile: str
) -> None:
    report = verify(_answers(make), profile=profile, dtypes=["float64"], quick=True)
    passed = [result.case for result in report.results if result.verdict == "ok"]
    assert passed == []
