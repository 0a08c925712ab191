"""Implementations in processes of their own: they may crash, hang, print, or not be there."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from fastxent.verify import verify
from fastxent.verify.result import Report

LOSSES = """
    import ctypes, os, time
    import numpy as np

    def plain(logits, labels):
        x = logits - logits.max(axis=1, keepdims=True)
        terms = np.exp(x)
        total = terms.sum(axis=1, keepdims=True)
        i = np.arange(len(labels))
        gradient = terms / total
        gradient[i, labels] -= 1
        return np.log(total)[:, 0] - x[i, labels], gradient

    def at_17(do):
        def loss(logits, labels):
            if logits.shape[1] == 17:
                do()
            return plain(logits, labels)
        return loss

    crash = at_17(lambda: ctypes.string_at(0))
    leave = at_17(lambda: os._exit(3))
    hang = at_17(lambda: time.sleep(600))

    def raises(logits, labels):
        raise MemoryError("no room")

    def prints(logits, labels):
        print("to standard output", flush=True)
        os.write(1, b"and past Python")
        return plain(logits, labels)

    def reads_past_the_end(logits, labels):
        ctypes.string_at(logits.ctypes.data, logits.nbytes + 1)
        return plain(logits, labels)

    def reads_before_the_start(logits, labels):
        ctypes.string_at(logits.ctypes.data - 1, 1)
        return plain(logits, labels)

    def reads_past_the_labels(logits, labels):
        ctypes.string_at(labels.ctypes.data, labels.nbytes + 1)
        return plain(logits, labels)

    def forks_and_dies(logits, labels):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.abort()

    number = 3

    class Group:
        loss = staticmethod(plain)
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(textwrap.dedent(LOSSES))
    (tmp_path / "bad_syntax.py").write_text("def f(:\n")
    (tmp_path / "bad_value.py").write_text("raise ValueError('settings missing')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)


def checked(name: str, *cases: str, **options: object) -> Report:
    return verify(f"my_losses:{name}", cases=cases, dtypes=["float32"], **options)  # type: ignore[arg-type]


def test_a_module_in_the_current_folder_is_found() -> None:
    report = checked("plain", "gaussian")
    assert report.ok
    assert report.command(report.results[0]) == (
        "fastxent verify --impl my_losses:plain --profile standard --case gaussian "
        "--dtype float32 --seed 0 --threads 1 --threads 2"
    )
    assert checked("Group.loss", "gaussian").ok


def test_what_an_implementation_prints_disturbs_nothing() -> None:
    assert checked("prints", "gaussian").ok


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("crash", "the process was ended by SIGSEGV: memory outside of the arrays"),
        ("leave", "the process ended with exit status 3"),
        ("hang", "no answer within 2 s"),
    ],
)
def test_a_process_that_ends_is_a_breach_and_the_others_are_checked(name: str, kind: str) -> None:
    report = checked(name, "gaussian", "class_counts_to_70", "forty_zero", timeout=2.0)
    verdicts = {result.case: result.verdict for result in report.results}
    assert verdicts == {"gaussian": "ok", "class_counts_to_70": "BREACH", "forty_zero": "ok"}
    (breach,) = report.failed[0].breaches.values()
    assert breach.kind.startswith(kind)
    assert (breach.problem, breach.note) == (16, "17 classes")


def test_an_exception_is_a_breach_with_its_words() -> None:
    (kind,) = checked("raises", "gaussian").results[0].breaches
    assert kind.startswith("raised MemoryError: no room (my_losses.py, line ")


@pytest.mark.parametrize(
    "name", ["reads_past_the_end", "reads_before_the_start", "reads_past_the_labels"]
)
def test_reading_past_an_array_is_a_breach(name: str) -> None:
    assert checked(name, "gaussian").ok, "without guards nobody notices"
    report = checked(name, "guarded_pages")
    (breach,) = report.results[0].breaches
    assert "SIGSEGV" in breach


def test_a_process_that_left_others_behind_ends_the_run_all_the_same() -> None:
    (breach,) = checked("forks_and_dies", "gaussian").results[0].breaches
    assert breach == "the process was ended by SIGABRT"


def test_a_problem_that_a_case_does_not_have_is_said() -> None:
    report = checked("plain", "gaussian", problem=7)
    assert report.results[0].left_out == {"has problems 0 to 0 alone in gaussian"}


def test_a_breach_is_repeated_by_its_problem() -> None:
    report = checked("leave", "class_counts_to_70", problem=16)
    assert [len(report.results), len(report.failed)] == [1, 1]
    assert checked("leave", "class_counts_to_70", problem=15).ok


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("my_losses:missing", ValueError, "my_losses has no 'missing'; it has .*plain"),
        ("my_losses:number", ValueError, "impl must be callable, not int"),
        ("my_losses:Group", ValueError, "not the class Group; pass an instance of it"),
        ("no_such_module:f", ValueError, "No module named 'no_such_module'; it has to be"),
        ("bad_syntax:f", ValueError, "--impl bad_syntax:f: .*SyntaxError.*line 1"),
        ("bad_value:f", ValueError, r"ValueError: settings missing \(bad_value.py, line 1\)"),
        ("leaves:f", ValueError, "SystemExit"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error(
    name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify(name, cases=["gaussian"])


def test_results_do_not_depend_on_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found() -> list[tuple[str, str, str, str]]:
        report = verify(["my_losses:plain", "scipy", "cython"], cases=["confident", "gaussian"])
        return [(r.case, r.implementation, r.dtype, r.digest) for r in report.results]

    several = found()
    assert len(several) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert found() == several
