"""The program `fastxent`: what it prints and its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fastxent.verify.cases import CASES

import fastxent
from fastxent.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status: object = 0
    try:
        main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    return (status if isinstance(status, int) else 0), captured.out + captured.err


ONE_CASE = ("verify", "--backend", "cython", "--case", "forty_zero", "--dtype", "float32")


def test_verify_prints_a_table_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, *ONE_CASE, "--seed", "3", "--threads", "1", "--threads", "2")
    assert status == 0
    line = next(line for line in text.splitlines() if "forty_zero" in line)
    assert line.split()[:3] == ["forty_zero", "cython", "float32"]
    assert line.split()[-2:] == ["extended", "ok"]
    assert re.search(r"^float32: losses within 0\.\d\d, gradients within 0\.\d\d ULP$", text, re.M)
    assert "1 check of 1 case with 1 and 2 threads, profile strict, seed 3" in text
    assert text.rstrip().endswith("The one check is within bounds")


TWO_CASES = ("verify", "--backend", "cython", "--case", "forty_zero", "--case", "softmax")


def test_the_table_shows_the_worst_dtype_and_with_all_every_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dtypes = ("float32", "float64", "float16", "bfloat16")

    def dtypes_in_table(text: str) -> list[str]:
        rows = [line.split() for line in text.splitlines() if line.endswith("  ok")]
        return [word for row in rows for word in row if word in dtypes]

    _, text = run(capsys, *TWO_CASES, "--all")
    assert dtypes_in_table(text) == [*dtypes, *dtypes]
    assert "--all" not in text
    _, text = run(capsys, *TWO_CASES)
    assert len(dtypes_in_table(text)) == 2, "of each case the one nearest to its bound"
    assert "8 checks of 2 cases" in text
    assert "--all shows every dtype" in text
    assert all(f"\n{dtype}: losses within" in text for dtype in dtypes)
    assert "functions within" in text


def test_the_table_fits_80_columns_and_breaks_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = max((case.name for case in CASES), key=len)
    case = ("--case", name, "--backend", "cython", "--dtype", "float32")
    _, text = run(capsys, "verify", *case)
    assert name in text.splitlines()
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "120")
    _, text = run(capsys, "verify", *case)
    assert any(line.startswith(f"{name}  cython ") for line in text.splitlines())


FAULTS = """
import fastxent, numpy as np

def wrong_at_label(logits, labels):
    losses, gradient = fastxent.cross_entropy_with_grad(logits, labels, reduction="none")
    gradient[range(len(labels)), labels] += 1
    return losses, gradient

def other_with_two_threads(logits, labels, n_threads):
    losses, gradient = fastxent.cross_entropy_with_grad(logits, labels, reduction="none")
    return (np.nextafter(losses, losses.dtype.type(9)) if n_threads > 1 else losses), gradient

def zeros(logits, labels):
    return np.zeros(len(labels)), np.zeros_like(logits)
"""
STRICT = ("--profile", "strict", "--case", "forty_zero", "--dtype", "float32")


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults.py").write_text(FAULTS)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("faults")
def test_a_breach_ends_with_1_and_says_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("verify", "--impl", "faults:wrong_at_label", *STRICT, "--seed", "5")
    status, text = run(capsys, *command, "--threads", "1")
    assert status == 1
    assert "BREACH forty_zero: gradient error" in text
    facts = [line.split() for line in text.partition("gradient error\n")[2].splitlines()[:10]]
    shown = {fact[0]: fact[1:] for fact in facts if fact}
    assert shown["row"] == ["0"]
    assert shown["column"] == ["0"]
    assert shown["input"] == ["40.0"]
    exact = -4.248354255291588977e-18  # -exp(-40) / (1 + exp(-40))
    assert float(shown["wanted"][0]) == pytest.approx(exact, rel=1e-15)
    assert float(shown["got"][0]) == 1.0
    assert shown["bound"] == ["4", "ULP"]
    assert " ".join(shown["repeat"]) == (
        "fastxent verify --impl faults:wrong_at_label --profile strict --case forty_zero "
        "--problem 0 --dtype float32 --seed 5 --threads 1"
    )
    assert "1 result is wrong" in text
    again, repeated = run(capsys, *shown["repeat"][1:])
    assert again == 1
    assert (
        text.partition("gradient error\n")[2].splitlines()[:9]
        == (repeated.partition("gradient error\n")[2].splitlines()[:9])
    )


@pytest.mark.usefixtures("faults")
def test_every_dtype_that_failed_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("verify", "--impl", "faults:wrong_at_label", "--case", "forty_zero")
    status, text = run(capsys, *command)
    assert status == 1
    rows = [line.split() for line in text.splitlines() if line.endswith("  BREACH")]
    assert ["float32" in rows[0], "float64" in rows[1], len(rows)] == [True, True, 2]
    assert "2 results are wrong" in text


@pytest.mark.usefixtures("faults")
def test_bits_that_differ_are_a_verdict_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "verify", "--impl", "faults:other_with_two_threads", *STRICT)
    assert status == 1
    assert any(line.endswith("  BITS DIFFER") for line in text.splitlines())
    assert "bits differ: 2 threads" in text


@pytest.mark.usefixtures("faults")
def test_a_check_that_could_not_fail_is_mistrusted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Confident and right, so that a loss of 0 is as good as the plain formula's: why the case is
    # left out of the profile.
    from fastxent.verify import cases

    case = next(case for case in CASES if case.name == "very_confident")
    changed = [replace(c, standard=c.dtypes) if c is case else c for c in CASES]
    monkeypatch.setattr(cases, "CASES", tuple(changed))
    from fastxent.verify import verify
    from fastxent.verify.implementation import load

    report = verify(
        replace(load("scipy"), argument=""), cases=["very_confident"], dtypes=["float32"]
    )
    assert [result.verdict for result in report.results] == ["MISTRUSTED"]
    assert not report.ok


def test_peers_are_shown_beside_the_backends(capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "verify",
        "--peers",
        "--case",
        "confident",
        "--case",
        "gaussian",
        "--dtype",
        "float32",
    )
    status, text = run(capsys, *command)
    assert status == 0
    lines = [line.lstrip() for line in text.splitlines()]
    header = next(line for line in lines if line.startswith("case"))
    assert header.split()[:3] == ["case", "cython", "numba"]
    assert "scipy" in header.split()
    cells = next(
        line for line in text.splitlines() if line.lstrip().startswith("confident")
    ).split()
    ours, scipys = float(cells[1]), float(cells[header.split().index("scipy")])
    assert ours < 4
    assert scipys > 1e6, "where a confident row has no digits left"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--case", "nonsense"], "no case 'nonsense'"),
        (["verify", "--backend", "fortran"], "backend must be one of"),
        (["verify", "--dtype", "float8"], "dtype must be one of"),
        (["verify", "--threads", "0"], "--threads"),
        (["verify", "--seed", "-1"], "--seed"),
        (["verify", "--nonsense"], "--nonsense"),
        (["verify", "--impl", "nonsense"], "or MODULE:FUNCTION, not 'nonsense'"),
        (["verify", "--impl", "no_such_module:loss"], "no_such_module"),
        (["verify", "--profile", "lax"], "profile must be one of"),
        (["verify", "--quick", "--full"], "exclude each other"),
        (["verify", "--problem", "1"], "name that case"),
        (["verify", "--json", "no/such/folder/report.json"], "no/such/folder"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_command_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, text = run(capsys, *arguments)
    assert status == 2
    assert message in " ".join(text.replace("│", " ").split())


def test_all_cases_are_listed_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "verify", "--list-cases")
    assert status == 0
    listed = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert {case.name for case in CASES} <= listed
    assert "the loss is 4.248e-18" in text


def test_the_list_of_cases_is_as_wide_as_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        _, text = run(capsys, "verify", "--list-cases")
        longest = max(len(line.rstrip()) for line in text.splitlines())
        assert width - 10 <= longest <= width


def test_config_version_and_help_need_no_other_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("typer", "rich", "scipy", "mpmath", "pytest_benchmark"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("fastxent.verify.commands", "fastxent.benchmarks.commands"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    status, text = run(capsys, "config")
    assert status == 0
    assert "cython instruction set:" in text
    status, text = run(capsys, "--version")
    assert (status, text) == (0, f"fastxent {fastxent.__version__}\n")
    for arguments in (("--help",), ()):
        status, text = run(capsys, *arguments)
        assert status == 0
        assert "Print the version and exit." in text
        for command in ("config", "verify", "bench"):
            assert command in text


def test_the_help_of_verify_shows_no_type_where_no_value_is_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, text = run(capsys, "verify", "--help")
    assert status == 0
    assert "Usage: fastxent verify [OPTIONS]" in text
    assert "--all" in text
    assert "bool" not in text.lower()


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastxent.verify", *ONE_CASE[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "within bounds" in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout, "no colours in a file"


@pytest.mark.parametrize(
    ("command", "module"),
    [
        *(("verify", name) for name in ("typer", "rich", "scipy")),
        *(("bench", name) for name in ("typer", "rich", "pytest_benchmark", "jinja2")),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    status, text = run(capsys, command)
    assert status == 2
    assert module in text
    assert f"pip install 'fastxent[{command}]' (from a checkout: '.[{command}]')" in text


def test_the_commands_of_bench_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "bench", "--help")
    assert status == 0
    for command in ("run", "reach", "compare", "gate", "history", "page"):
        assert f"\n  {command} " in text


def test_bfloat16_without_ml_dtypes_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    status, text = run(capsys, "verify", "--backend", "cython", "--case", "forty_zero")
    assert status == 0
    said = " ".join(text.split())
    assert "bfloat16 was not checked: ml_dtypes is not installed" in said
    assert "python -m pip install ml_dtypes" in said
    status, text = run(capsys, "verify", "--backend", "cython", "--dtype", "bfloat16")
    assert status == 2
    assert "bfloat16 needs ml_dtypes" in text


@pytest.mark.parametrize(
    ("option", "module"),
    [("--html", "matplotlib"), ("--html", "jinja2"), ("--junit", "junitparser")],
)
def test_a_report_without_its_package_is_an_error_before_the_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    option: str,
    module: str,
) -> None:
    for name in [name for name in sys.modules if name.startswith("fastxent.verify.reports.")]:
        if name.rpartition(".")[2] in ("html", "junit", "page_parts", "plots", "plot_parts"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    status, text = run(capsys, *ONE_CASE, option, str(tmp_path / "report"))
    assert status == 2
    assert f"{option} needs {module}" in text
    assert "checks of" not in text


def test_reports_are_written_after_a_breach_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ("verify", "--impl", "scipy", "--profile", "strict", "--case", "forty_zero")
    paths = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    options = [text for kind, path in paths.items() for text in (f"--{kind}", str(path))]
    status, text = run(capsys, *command, *options)
    assert status == 1
    for path in paths.values():
        assert "forty_zero" in path.read_text("utf-8")
        assert f"{path} has been written" in text


@pytest.mark.parametrize("option", ["--peers", "--full"])
def test_the_self_test_takes_no_options_of_a_run(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    status, text = run(capsys, "verify", "--self-test", option)
    assert status == 2
    assert f"not with {option}" in " ".join(text.split())
