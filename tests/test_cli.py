"""The program `fastxent`: what it prints and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastxent.verify import bounds, selection
from fastxent.verify.cases import CASES
from fastxent.verify.implementation import Implementation, backend_implementation

import fastxent
from fastxent.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    status = stopped.value.code
    return (status if isinstance(status, int) else 0), captured.out + captured.err


ONE_CASE = ("verify", "--backend", "cython", "--case", "forty_zero", "--dtype", "float32")


def test_verify_prints_a_table_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, *ONE_CASE, "--seed", "3", "--threads", "1", "--threads", "2")
    assert status == 0
    line = next(line for line in text.splitlines() if "forty_zero" in line)
    assert line.split()[:3] == ["forty_zero", "cython", "float32"]
    assert line.split()[-3:] == ["extended", "same", "ok"]
    assert "with 1 and 2 thread(s), seed 3" in text
    assert text.rstrip().endswith("all within bounds")


def _without_gradient_at_label(backend: str) -> Implementation:
    real = backend_implementation(backend)

    def with_grad(logits, labels, **options):  # type: ignore[no-untyped-def]
        losses, gradient = real.with_grad(logits, labels, **options)
        gradient[range(len(labels)), labels] += 1
        return losses, gradient

    return Implementation(backend, with_grad, options=real.options)


def test_a_breach_ends_with_1_and_says_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "backend_implementation", _without_gradient_at_label)
    status, text = run(capsys, *ONE_CASE, "--seed", "5", "--threads", "1")
    assert status == 1
    assert "BREACH forty_zero: gradient error" in text
    facts = [line.split() for line in text.partition("BREACH forty_zero: ")[2].splitlines()[1:11]]
    shown = {fact[0]: fact[1:] for fact in facts}
    assert shown["row"] == ["0"]
    assert shown["column"] == ["0"]
    assert shown["input"] == ["40.0"]
    exact = -4.248354255291588977e-18  # -exp(-40) / (1 + exp(-40))
    assert float(shown["wanted"][0]) == pytest.approx(exact, rel=1e-15)
    assert float(shown["got"][0]) == 1.0
    assert shown["bound"] == ["4", "ULP"]
    assert " ".join(shown["repeat"]) == (
        "fastxent verify --case forty_zero --backend cython --dtype float32 --seed 5 --threads 1"
    )
    assert "1 with a breach" in text


def test_a_bound_of_nothing_is_broken_by_rounding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = {"float32": bounds.Bound(loss=0, output=0)}
    monkeypatch.setitem(bounds.BOUNDS, "cross_entropy", strict)
    status, text = run(capsys, *ONE_CASE)
    assert status == 1
    assert "BREACH forty_zero: loss error" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--case", "nonsense"], "no case 'nonsense'"),
        (["verify", "--backend", "fortran"], "backend must be one of"),
        (["verify", "--dtype", "float8"], "dtype must be one of"),
        (["verify", "--threads", "0"], "--threads"),
        (["verify", "--seed", "-1"], "--seed"),
        (["verify", "--nonsense"], "--nonsense"),
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


def test_config_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "config")
    assert status == 0
    assert "cython instruction set:" in text
    status, text = run(capsys, "--version")
    assert (status, text) == (0, f"fastxent {fastxent.__version__}\n")


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastxent.verify", *ONE_CASE[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all within bounds" in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout, "no colours in a file"


@pytest.mark.parametrize("module", ["typer", "rich", "scipy", "mpmath"])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    status, text = run(capsys, "verify")
    assert status == 2
    assert module in text
    assert "pip install 'fastxent[verify]'" in text


def test_bfloat16_without_ml_dtypes_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    status, text = run(capsys, "verify", "--backend", "cython", "--case", "forty_zero")
    assert status == 0
    assert "ml_dtypes is not installed: bfloat16 was not checked" in text
    status, text = run(capsys, "verify", "--backend", "cython", "--dtype", "bfloat16")
    assert status == 2
    assert "bfloat16 needs ml_dtypes" in text
