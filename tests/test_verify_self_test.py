"""The test of the verification itself: what is planted is found, what is right let through."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastxent.verify import steps, verify
from fastxent.verify.case import Array, Case, Problem
from fastxent.verify.cases.layouts import guarded_pages
from fastxent.verify.cases.options import temperatures
from fastxent.verify.cases.values import gaussian
from fastxent.verify.faults import faults_named, self_test
from fastxent.verify.faults.correct import CORRECT, CrossEntropy
from fastxent.verify.faults.fault import FAULTS, Fault, fault
from fastxent.verify.faults.self_test import Catch, Finding, SelfTest, run_self_test
from fastxent.verify.faults.terminal import print_self_test
from fastxent.verify.implementation import Implementation, load
from fastxent.verify.profile import PROFILES
from fastxent.verify.reference import Expected, expected
from rich.console import Console

FLOAT32 = np.dtype(np.float32)
# Bugs that such code has had, each by the name of the fault that plants it.
KNOWN_BUGS = {
    "no maximum subtracted": "no_maximum",
    "stale maximum": "stale_maximum",
    "sum not rescaled": "sum_not_rescaled",
    "last partial vector dropped": "last_vector_dropped",
    "last partial vector counted twice": "last_vector_twice",
    "first block of -inf": "leading_masked_block_is_nan",
    "float32 accumulators": "float32_accumulators",
    "bfloat16 accumulators": "bfloat16_accumulators",
    "wrong row's label": "label_of_the_next_row",
    "label off by one": "labels_from_1",
    "negative label": "negative_labels_wrap",
    "label n_classes": "label_n_classes_accepted",
    "no check of labels": "labels_unchecked",
    "gradient divided by the batch": "gradient_of_the_mean",
    "losses divided by the batch": "losses_of_the_mean",
    "wrong denominator with ignored rows": "losses_scaled_by_kept_rows",
    "p - 1": "label_gradient_through_one",
    "log(1 + rest)": "loss_through_one",
    "slot unwritten": "last_slot_unwritten",
    "output transposed": "gradient_transposed",
    "race on the last chunk": "race_on_the_last_chunk",
    "depends on threads": "depends_on_threads",
    "depends on the batch": "depends_on_the_batch",
    "depends on the position": "depends_on_the_position",
    "depends on alignment": "depends_on_alignment",
    "depends on the earlier call": "sums_kept_from_an_earlier_call",
    "subnormal numbers flushed": "subnormal_losses_flushed",
    "flushed as in the caller": "depends_on_the_callers_float_mode",
    "exponent clamped": "exponent_clamped_at_20",
    "isnan folded away": "isnan_folded_away",
    "NaN leaks": "nan_leaks_into_the_next_row",
    "exp 8 ULP off": "exp_8_ulp_off",
    "log 8 ULP off": "log_8_ulp_off",
    "wrong coefficient": "exp_with_a_wrong_coefficient",
    "smoothing over the others": "smoothing_over_the_other_classes",
    "weights not in the gradient": "class_weight_not_in_the_gradient",
    "temperature not in the gradient": "temperature_not_in_the_gradient",
    "ties counted once": "ties_counted_once",
    "strides ignored": "row_stride_ignored",
    "byte order ignored": "byte_order_ignored",
    "reads past the end": "reads_past_the_end",
    "writes past the end": "writes_past_the_end",
    "logits overwritten": "logits_overwritten",
    "in place": "label_read_after_the_gradient",
    "float32 for float64": "float32_for_float64",
}


def text_of(found: SelfTest) -> str:
    console = Console(file=io.StringIO(), width=140, highlight=False)
    print_self_test(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_known_bugs_are_planted() -> None:
    assert set(KNOWN_BUGS.values()) <= set(FAULTS)
    assert len(FAULTS) >= 140


@pytest.mark.parametrize("planted", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_has_a_reason_and_can_be_run_by_its_name(planted: Fault) -> None:
    assert len(planted.reason) > 20
    assert planted.reason.endswith(".")
    assert planted.dtypes
    implementation = load(planted.argument)
    assert isinstance(implementation, Implementation)
    assert implementation.with_grad is planted.implementation.with_grad


def test_two_faults_cannot_share_a_name() -> None:
    class no_maximum(CrossEntropy):
        """Another of the same name."""

    with pytest.raises(ValueError, match="two faults called 'no_maximum'"):
        fault()(no_maximum)


def test_no_two_faults_have_the_same_reason() -> None:
    assert len({planted.reason for planted in FAULTS.values()}) == len(FAULTS)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_correct_implementation_passes_every_quick_case(profile: str) -> None:
    report = verify(CORRECT, profile=profile, dtypes=["float32"], quick=True)
    assert [(each.case, each.verdict, *each.breaches) for each in report.failed] == []
    assert report.ok


def test_the_correct_implementation_is_right_in_float64_and_16_bits() -> None:
    cases = ["confident", "ties", "softcap", "z_loss", "smoothing_masked", "padded_rows"]
    report = verify(CORRECT, profile="strict", dtypes=CORRECT.dtypes[1:], cases=cases)
    assert [(each.case, each.dtype, *each.breaches) for each in report.failed] == []
    assert len(report.results) == len(cases) * (len(CORRECT.dtypes) - 1)


def test_faults_are_caught_and_what_is_right_is_not() -> None:
    told: list[tuple[str, int, int]] = []
    found = run_self_test(
        faults=["gradient_of_the_mean", "loss_through_one", "reads_past_the_end"],
        cases=["trained_classifier", "guarded_pages"],
        progress=lambda name, done, total: told.append((name, done, total)),
    )
    assert found.survivors == []
    assert found.control == []
    assert found.ok, text_of(found)
    caught = {(each.fault.name, each.profile): each.catches[0] for each in found.findings}
    assert {key: catch.case for key, catch in caught.items()} == {
        ("gradient_of_the_mean", "strict"): "trained_classifier",
        ("gradient_of_the_mean", "standard"): "trained_classifier",
        ("loss_through_one", "strict"): "trained_classifier",
        ("reads_past_the_end", "strict"): "guarded_pages",
        ("reads_past_the_end", "standard"): "guarded_pages",
    }
    assert "SIGSEGV" in caught["reads_past_the_end", "strict"].breach.kind
    name, done, total = told[-1]
    assert name.startswith("standard guarded_pages")
    assert done <= total


def test_a_harmless_fault_survives_and_fails_the_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmless_faults.py").write_text(
        "from fastxent.verify.faults.correct import CORRECT as nothing_wrong\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    planted = Fault(
        "nothing_wrong",
        "There is nothing wrong with it.",
        CORRECT,
        in_standard=True,
        dtypes=("float32",),
        cases=(gaussian,),
        argument="harmless_faults:nothing_wrong",
    )
    found = run_self_test(faults=[planted, "losses_of_the_mean"], cases=["gaussian"])
    assert [(each.fault.name, each.profile) for each in found.survivors] == [
        ("nothing_wrong", "strict"),
        ("nothing_wrong", "standard"),
    ]
    assert not found.ok
    text = text_of(found)
    assert "SURVIVED nothing_wrong: no case of the profile strict caught it, in float32" in text
    assert (
        "fastxent verify --impl harmless_faults:nothing_wrong --profile standard --dtype float32 "
        "--case gaussian --seed 0 --threads 1 --threads 2"
    ) in text
    assert "2 faults: 1 not caught" in text


def test_an_error_is_no_catch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_faults.py").write_text("def gives_up(logits, labels):\n    1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    planted = replace(
        FAULTS["no_maximum"], name="gives_up", argument="raising_faults:gives_up", cases=(gaussian,)
    )
    found = run_self_test(faults=[planted], cases=["gaussian"])
    assert [each.profile for each in found.survivors] == ["strict", "standard"]
    assert (
        "it only raised ZeroDivisionError: division by zero (raising_faults.py, line 2) in gaussian"
        in text_of(found)
    )


def test_a_false_alarm_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "CONTROL", "fastxent.verify.faults:losses_of_the_mean")
    found = run_self_test(faults=["gradient_of_the_mean"], cases=["gaussian"])
    assert found.survivors == []
    assert {each.case for each in found.control} == {"gaussian"}
    assert not found.ok
    assert "FALSE ALARM gaussian: loss error" in text_of(found)


def test_every_case_can_be_put_to_a_fault() -> None:
    found = run_self_test(
        faults=["labels_from_1", "nan_read_as_zero"],
        cases=["gaussian", "trouble", "one_class"],
        every=True,
    )
    strict = [finding for finding in found.findings if finding.profile == "strict"]
    caught = {each.fault.name: [catch.case for catch in each.catches] for each in strict}
    assert caught == {
        "labels_from_1": ["gaussian", "trouble"],
        "nan_read_as_zero": ["trouble", "one_class"],
    }
    assert found.caught_by() == {"gaussian": 1, "trouble": 2, "one_class": 1}
    assert found.needed() == {}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", self_test.VACUOUS, ids=lambda case: case.name)
def test_a_case_that_cannot_tell_right_from_wrong_is_mistrusted(case: Any, profile: Any) -> None:
    assert self_test.verdict(case, profile, seed=0) == "MISTRUSTED"


def test_a_case_that_can_tell_right_from_wrong_is_trusted() -> None:
    assert self_test.verdict(gaussian, "strict", seed=0) == "ok"


def sample(**changes: Any) -> SelfTest:
    """A self-test in which all is well, but for the changes."""
    catch = Catch("gaussian", None)  # type: ignore[arg-type]
    finding = Finding(FAULTS["no_maximum"], "strict", "float32", [catch])
    found = SelfTest(0, (1, 2), every=False, findings=[finding], n_control=1)
    return replace(found, vacuous={"equal": "MISTRUSTED"}, **changes)


def test_all_that_can_go_wrong_fails_the_self_test() -> None:
    assert sample().ok
    assert not sample(reference_error=1e-15).ok
    assert not sample(n_control=0).ok
    trusted = replace(sample(), vacuous={"equal": "ok"})
    assert not trusted.ok
    assert "TRUSTED equal" in text_of(trusted)
    assert not replace(sample(), findings=[Finding(FAULTS["no_maximum"], "strict", "float32")]).ok


def test_an_unknown_fault_is_an_error_with_advice() -> None:
    with pytest.raises(ValueError, match="no fault 'no_maximun'; did you mean 'no_maximum'"):
        faults_named(["no_maximun"])
    with pytest.raises(ValueError, match="no case"):
        run_self_test(faults=["no_maximum"], cases=["nonsense"])


def test_guard_pages_are_where_reading_too_far_shows() -> None:
    assert FAULTS["reads_past_the_end"].cases == (guarded_pages,)
    logits = np.zeros((2, 3), np.float32)
    losses, _ = FAULTS["reads_past_the_end"].implementation.with_grad(logits, np.array([0, 1]))
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)


# ---- what the reference gets wrong, too ----------------------------------------------------------


def breaches_with(
    monkeypatch: pytest.MonkeyPatch, name: str, case: Case, spoil: Callable[[Problem, Array], Array]
) -> set[str]:
    """What is found of a fault in gradients that is in the reference as well."""

    def wrong(operation: str, problem: Problem) -> Expected:
        want = expected(operation, problem)
        assert want.output is not None
        return replace(want, output=spoil(problem, want.output))

    monkeypatch.setattr(steps, "expected", wrong)
    settings = steps.Settings()
    events = steps.check_case(case, [FAULTS[name].implementation], FLOAT32, settings)
    (result,) = next(event for event in events if isinstance(event, list))
    return set(result.breaches)


def test_the_derivative_of_the_loss_shows_what_the_reference_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_the_divided_logits(problem: Problem, gradient: Array) -> Array:
        return gradient * np.longdouble(problem.options["temperature"])

    found = breaches_with(
        monkeypatch, "temperature_not_in_the_gradient", temperatures, by_the_divided_logits
    )
    assert found == {"gradient is not the derivative of the loss"}


def test_the_sum_of_a_gradient_shows_what_the_reference_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_the_label(problem: Problem, gradient: Array) -> Array:
        whole = gradient.copy()
        whole[np.arange(len(whole)), problem.labels] += 1
        return whole

    found = breaches_with(monkeypatch, "gradient_without_the_label", gaussian, without_the_label)
    assert found == {
        "gradient is not the derivative of the loss",
        "gradient row does not sum to zero",
    }
