"""Implementations that do not start, and the ways in which one may end."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastxent.verify import Implementation, assert_verified, verify
from fastxent.verify.errors import StartError
from support import run_python

from fastxent.cli import main

Array = np.ndarray[Any, Any]

LOSSES = """
    import os, sys, threading, time
    import numpy as np
    from scipy.special import log_softmax

    def plain(logits, labels):
        log_probs = log_softmax(logits, axis=1)
        i = np.arange(len(labels))
        gradient = np.exp(log_probs)
        gradient[i, labels] -= 1
        return -log_probs[i, labels], gradient

    class Loss:
        def __call__(self, logits, labels):
            return plain(logits, labels)

    instance = Loss()

    def leaves(logits, labels):
        sys.exit()

    def interrupts(logits, labels):
        raise KeyboardInterrupt

    def ends_with_0(logits, labels):
        os._exit(0)

    def ends_by_a_signal_without_a_name(logits, labels):
        os.kill(os.getpid(), 37)

    def ends_for_want_of_memory(logits, labels):
        os.kill(os.getpid(), 9)

    def closes_what_is_not_its_own(logits, labels):
        os.closerange(3, 1000)
        time.sleep(600)

    def first_time_only(logits, labels):
        os.close(os.open("was_here", os.O_CREAT | os.O_WRONLY))
        os._exit(5)
"""

MODULES = {
    "slow": "import time; time.sleep(600)",
    "endless": "while True: print('x' * 1000)",
    "ends": "import os; os._exit(7)",
    "ends_with_0": "import os; os._exit(0)",
    "ends_with_words": "import os; os.write(2, b'no licence'); os._exit(1)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "aborts": "import os; os.abort()",
    "leaves": "raise SystemExit('no licence')",
    "leaves_in_silence": "raise SystemExit",
    "interrupted": "raise KeyboardInterrupt",
    "broken": "raise RuntimeError('no GPU')",
    "needs_another": "import no_such_dependency",
    "prints": "import os; print('x'); os.write(1, b'y')\nfrom losses import plain as f",
    "once": "import os\nif os.path.exists('was_here'): os._exit(4)\nfrom losses import *",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses.py").write_text(textwrap.dedent(LOSSES))
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "--case", "gaussian", "--dtype", "float32", *arguments])
    captured = capsys.readouterr()
    status = stopped.value.code
    assert isinstance(status, int)
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slow", "did not start: while it was imported no answer within 2 s; a longer --timeout"),
        ("endless", "did not start: while it was imported no answer within 2 s; a longer"),
        ("ends", "did not start: while it was imported the process ended with exit status 7\n"),
        ("ends_with_0", "while it was imported the process ended with exit status 0\n"),
        ("ends_with_words", "the process ended with exit status 1: no licence\n"),
        ("killed", "the process was ended by SIGKILL: from outside, as where memory runs out\n"),
        ("aborts", "the process was ended by SIGABRT\n"),
        ("leaves", "the module cannot be imported: SystemExit: no licence (leaves.py, line 1)\n"),
        ("leaves_in_silence", "cannot be imported: SystemExit (leaves_in_silence.py, line 1)\n"),
        ("interrupted", "cannot be imported: KeyboardInterrupt (interrupted.py, line 1)\n"),
        ("broken", "the module cannot be imported: RuntimeError: no GPU (broken.py, line 1)\n"),
        ("needs_another", "ModuleNotFoundError: No module named 'no_such_dependency'\n"),
    ],
)
def test_what_does_not_start_has_a_status_of_its_own_and_one_line(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    status, out, err = run(capsys, "--impl", f"{name}:f", "--timeout", "2")
    assert (status, out) == (3, "")
    assert err.startswith(f"fastxent verify: --impl {name}:f")
    assert message in err
    assert err.count("\n") == 1
    with pytest.raises(StartError, match=re.escape(message.strip())):
        verify(f"{name}:f", timeout=2, cases=["gaussian"])


def test_what_is_printed_during_an_import_disturbs_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = run(capsys, "--impl", "prints:f", "--impl", "losses:instance")
    assert status == 0
    assert out.endswith("All 2 checks are within what profile standard allows\n")


def test_a_class_is_asked_for_an_instance(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--impl", "losses:Loss")
    assert status == 2
    assert "not the class Loss; pass an instance of it" in " ".join(err.split())

    class Loss:
        def __call__(self, logits: Array, labels: Array) -> None: ...

    with pytest.raises(TypeError, match="not the class Loss; pass an instance of it"):
        verify(Loss)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("leaves", "raised SystemExit (losses.py, line "),
        ("interrupts", "raised KeyboardInterrupt (losses.py, line "),
        ("ends_with_0", "the process ended with exit status 0"),
        ("ends_by_a_signal_without_a_name", "the process was ended by signal 37"),
        ("ends_for_want_of_memory", "the process was ended by SIGKILL: from outside, as where"),
    ],
)
def test_every_way_to_end_in_a_call_is_a_breach(name: str, kind: str) -> None:
    report = verify(f"losses:{name}", cases=["gaussian"], dtypes=["float32"])
    (found,) = report.results[0].breaches
    assert found.startswith(kind)
    assert not found.endswith(":")


def test_a_process_that_can_say_nothing_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastxent.verify.jobs._END_TIMEOUT", 1.0)
    report = verify(
        "losses:closes_what_is_not_its_own", cases=["gaussian"], dtypes=["float32"], timeout=60
    )
    (found,) = report.results[0].breaches
    assert found == "what the process said could not be read, and it did not end"


def test_what_does_not_start_again_keeps_the_results_until_then() -> None:
    report = verify("once:first_time_only", cases=["gaussian", "wide"], dtypes=["float32"])
    (result,) = report.results
    assert list(result.breaches) == ["the process ended with exit status 5"]
    (note,) = result.notes
    assert note.startswith("what was left is not checked: --impl once:first_time_only did not ")


def test_a_peer_that_does_not_start_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: file too short')")
    from fastxent.verify import adapters

    monkeypatch.setattr(adapters, "is_installed", lambda name: name == "torch")
    monkeypatch.setattr("fastxent.verify.selection.is_installed", lambda name: name == "torch")
    report = verify(peers=True, backends=["cython"], cases=["gaussian"], dtypes=["float32"])
    assert report.ok
    (note,) = [note for note in report.notes if "not checked" in note]
    assert "OSError: libtorch.so: file too short" in note


# ---- in this process -----------------------------------------------------------------------------


def leaves(logits: Array, labels: Array) -> None:
    raise SystemExit(0)


def interrupts(logits: Array, labels: Array) -> None:
    raise KeyboardInterrupt


def test_sys_exit_is_a_breach_in_this_process_too() -> None:
    with pytest.raises(AssertionError, match=r"raised SystemExit: 0 \(test_verify_start.py, line"):
        assert_verified(leaves, cases=["gaussian"], dtypes=["float32"])


def test_a_keyboard_interrupt_stays_one_and_has_what_was_found() -> None:
    def second(logits: Array, labels: Array) -> tuple[Array, Array]:
        if len(seen := [*seen_before, 1]) > 1:
            raise KeyboardInterrupt
        seen_before[:] = seen
        return labels * 0.0, logits * 0

    seen_before: list[int] = []
    with pytest.raises(KeyboardInterrupt) as raised:
        assert_verified(second, cases=["gaussian", "wide"], dtypes=["float32"])
    report = raised.value.report  # type: ignore[attr-defined]
    assert not report.is_complete
    assert not report.ok
    assert [(result.case, result.verdict) for result in report.results] == [("gaussian", "BREACH")]


def test_a_timeout_that_nothing_could_keep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timeout=2 cannot be kept for leaves.*:leaves', for a"):
        assert_verified(leaves, timeout=2)
    for impl in (lambda logits, labels: None, Implementation("mine", leaves)):
        with pytest.raises(ValueError, match=r"timeout=2 cannot be kept for .*Pass its name"):
            assert_verified(impl, timeout=2)
    with pytest.raises(ValueError, match="cannot be kept for leaves"):
        verify(["losses:plain", leaves], timeout=2)
    assert assert_verified("losses:plain", timeout=60, cases=["gaussian"]).ok


@pytest.mark.parametrize(
    ("timeout", "error", "message"),
    [
        (0, ValueError, "timeout must be more than 0 seconds, not 0"),
        (-1, ValueError, "timeout must be more than 0 seconds, not -1"),
        (float("nan"), ValueError, "timeout must be more than 0 seconds, not nan"),
        ("2", TypeError, "timeout must be a number of seconds, not '2'"),
        (True, TypeError, "timeout must be a number of seconds, not True"),
    ],
)
def test_a_timeout_that_is_none_is_an_error(
    timeout: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        verify("losses:plain", timeout=timeout)


def test_python_is_told_of_a_missing_package_in_the_words_of_the_program() -> None:
    result = run_python(
        "import sys\n"
        "for name in ('scipy', 'rich', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "from fastxent.verify import assert_verified\n"
        "assert_verified('cython')\n"
    )
    assert result.stderr.splitlines()[-1] == (
        "ImportError: fastxent verify needs scipy: python -m pip install 'fastxent[verify]' "
        "(from a checkout: '.[verify]')"
    )
