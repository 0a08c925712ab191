"""Where reports go, what is kept when one cannot be written, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from fastxent.verify import verify
from fastxent.verify.cases import CASES
from fastxent.verify.reports import terminal
from fastxent.verify.reports.terminal import make_console, progress_bar

from fastxent.cli import main

ONE_CASE = ("--backend", "cython", "--case", "forty_zero", "--dtype", "float32")
COMMAND = (sys.executable, "-m", "fastxent", "verify")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The program's status, and what it wrote to standard output and error."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    status = stopped.value.code
    assert isinstance(status, int)
    return status, captured.out, captured.err


def run_apart(
    folder: Path, *command: str, stdout: IO[str] | int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


# ---- the environment -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("FASTXENT_ISA", "avx9"), ("FASTXENT_BACKEND", "nump"), ("FASTXENT_NUM_THREADS", "many")],
)
def test_a_wrong_variable_is_a_line_in_verify_and_no_error_in_config(
    tmp_path: Path, name: str, value: str
) -> None:
    env = {name: value}
    done = run_apart(tmp_path, "fastxent", "verify", *ONE_CASE, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastxent verify: {name}={value!r} ")
    assert done.stderr.count("\n") == 1
    config = run_apart(tmp_path, "fastxent", "config", **env)
    assert (config.returncode, config.stderr) == (0, "")
    assert f"errors:\n  {name}={value!r} " in config.stdout
    for option in ("--help", "--list-cases"):
        assert run_apart(tmp_path, "fastxent", "verify", option, **env).returncode == 0


def test_verify_from_python_says_what_is_wrong_with_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastxent.backends.cython_kernels.BAD_ISA", "FASTXENT_ISA='x' is none")
    with pytest.raises(ValueError, match="FASTXENT_ISA='x' is none"):
        verify(cases=["gaussian"])


def test_python_m_fastxent_is_the_program(tmp_path: Path) -> None:
    done = run_apart(tmp_path, "fastxent", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fastxent ")


# ---- paths ---------------------------------------------------------------------------------------


def test_a_full_disk_costs_one_report_and_not_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = ("--json", "/dev/full", "--junit", str(tmp_path / "j"), "--html", str(tmp_path / "h"))
    status, out, err = run(capsys, "verify", *ONE_CASE, *paths)
    assert status == 2
    assert "The one check is within bounds" in out
    assert err == (
        "fastxent verify: --json: /dev/full cannot be written: No space left on device\n"
    )
    assert "forty_zero" in (tmp_path / "j").read_text("utf-8")
    assert "forty_zero" in (tmp_path / "h").read_text("utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ("config",),
        ("verify", "--help"),
        ("verify", "--list-cases"),
        ("verify", *ONE_CASE, "--html", "report"),
        ("verify", *ONE_CASE, "--html", "report", "--json", "-"),
    ],
)
def test_a_full_standard_output_is_a_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run_apart(tmp_path, "fastxent", *command, stdout=full)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.endswith("standard output cannot be written: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "--html" in command:
        assert "forty_zero" in (tmp_path / "report").read_text("utf-8")


@pytest.mark.parametrize(
    "command", [("config",), ("verify", "--list-cases"), ("verify", *ONE_CASE)]
)
def test_a_reader_that_has_seen_enough_is_no_breach(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = run_apart(tmp_path, "fastxent", *command, stdout=closed)
    assert (done.returncode, done.stderr) == (141, "")


def test_two_reports_in_one_file_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").touch()
    os.link("c", "d")
    for one, other in (("a", "a"), ("a", "./a"), ("a", "b"), ("c", "d"), ("-", "-")):
        status, _, err = run(capsys, "verify", *ONE_CASE, "--json", one, "--html", other)
        assert status == 2
        assert "--json and --html both name" in " ".join(err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "d"]
    status, out, _ = run(capsys, "verify", *ONE_CASE, "--json", "/dev/null", "--html", "/dev/null")
    assert status == 0
    assert out.count("/dev/null has been written") == 2


@pytest.mark.parametrize("option", ["--json", "--junit", "--html"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no/such/folder", "there is no folder"),
        (".", "it is a folder"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("file/report", "Not a directory"),
        ("/proc/report", "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error_before_the_run(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    path: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    status, out, err = run(capsys, "verify", *ONE_CASE, option, path)
    assert (status, out) == (2, "")
    assert reason in " ".join(err.split())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("kind", ["json", "junit", "html"])
def test_a_report_on_standard_output_is_alone_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "report"
    status, out, err = run(capsys, "verify", *ONE_CASE, f"--{kind}", "-")
    assert status == 0
    assert "The one check is within bounds" in err
    assert "has been written" not in err
    run(capsys, "verify", *ONE_CASE, f"--{kind}", str(file))
    assert out.startswith(file.read_text("utf-8")[:20])
    if kind == "json":
        assert json.loads(out)["summary"]["ok"] is True


# ---- what is said --------------------------------------------------------------------------------


def test_no_digits_and_no_breach_do_not_contradict_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = ("--case", "confident", "--case", "gaussian", "--dtype", "float32")
    status, out, _ = run(capsys, "verify", "--impl", "scipy", *cases)
    assert status == 0
    assert "losses within" not in out
    assert "within bounds" not in out
    assert "float32: largest errors 1." in out
    assert "e+07 ULP in losses" in out
    assert "scipy: losses and gradients without a correct digit in confident, as the plain" in out
    assert out.endswith("All 2 checks are within what profile standard allows\n")
    status, out, _ = run(capsys, "verify", "--impl", "cython", "--profile", "strict", *cases)
    assert status == 0
    assert "without a correct digit" not in out
    assert out.endswith("All 2 checks are within bounds\n")


def test_a_backend_beside_an_implementation_is_apart_in_the_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases = ("--case", "confident", "--dtype", "float32")
    status, out, _ = run(capsys, "verify", "--impl", "scipy", "--backend", "cython", *cases)
    assert status == 0
    (ours,) = [line for line in out.splitlines() if line.startswith("float32, cython: largest")]
    assert float(ours.split()[4]) < 4
    assert "float32, scipy: largest errors 1." in out
    assert "the backends are judged by profile standard" in out


@pytest.mark.parametrize("option", ["--list-cases", "--help"])
def test_optimised_python_keeps_what_is_written_in_docstrings(tmp_path: Path, option: str) -> None:
    usual = run_apart(tmp_path, "fastxent", "verify", option)
    optimised = run_apart(tmp_path, "fastxent", "verify", option, PYTHONOPTIMIZE="2")
    assert "exact values" in usual.stdout or "the loss is 4.248e-18" in usual.stdout
    assert optimised.stdout == usual.stdout


def test_without_docstrings_and_sources_the_list_says_why_it_is_empty(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = tuple(replace(case, reason="") for case in CASES)
    monkeypatch.setattr("fastxent.verify.commands.CASES", cases)
    _, out, _ = run(capsys, "verify", "--list-cases")
    assert "python -OO has left out the reasons" in out


def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with progress_bar(make_console()) as show:
        for step in range(100):
            now = float(step)
            show(f"case {step}", step, 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"{seconds} s: {seconds} of 100 steps done, now case {seconds}"
        for seconds in (15, 30, 45, 60, 75, 90)
    ]


# ---- Ctrl-C --------------------------------------------------------------------------------------

SLEEPER = """
import os, time
from scipy.special import log_softmax

def sleeps(logits, labels):
    if logits.shape[1] == 2:  # forty_zero
        with open("begun-", "w") as file:
            file.write(str(os.getpid()))
        os.rename("begun-", "begun")
        time.sleep(600)
    return 0 * labels.astype("float32"), 0 * logits
"""


def interrupt(folder: Path, *options: str) -> tuple[int, str, str]:
    """Ctrl-C in the second case: what the program ends with, and no process stays behind."""
    (folder / "sleeper.py").write_text(SLEEPER)
    command = [*COMMAND, "--dtype", "float32", "--impl", "sleeper:sleeps", *options]
    command += ["--case", "gaussian", "--case", "forty_zero"]
    program = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    begun = folder / "begun"
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline
        assert program.poll() is None, program.communicate()
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    return program.returncode, out, err


def test_ctrl_c_leaves_what_was_found_and_no_process(tmp_path: Path) -> None:
    paths = {kind: tmp_path / kind for kind in ("json", "junit", "html")}
    options = [text for kind, path in paths.items() for text in (f"--{kind}", str(path))]
    status, out, err = interrupt(tmp_path, *options)
    assert (status, err) == (130, "")
    assert "BREACH gaussian" in out
    assert "Interrupted after 1 check: 1 result is wrong" in out
    assert "Traceback" not in out
    summary = json.loads(paths["json"].read_text("utf-8"))["summary"]
    assert (summary["complete"], summary["ok"], summary["results"]["total"]) == (False, False, 1)
    for path in paths.values():
        assert "Interrupted after 1 check" in path.read_text("utf-8")
        assert f"{path} has been written" in out


def test_ctrl_c_in_the_self_test_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastxent.verify.faults.self_test.run_self_test", interrupted)
    assert run(capsys, "verify", "--self-test") == (130, "", "fastxent verify: interrupted\n")
