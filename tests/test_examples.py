"""The examples, run as a user runs them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import log_softmax

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_example", EXAMPLES / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small_problem() -> tuple[np.ndarray[Any, Any], ...]:
    rng = np.random.default_rng(3)
    pixels = rng.uniform(size=(20, 4))
    labels = rng.integers(0, 10, size=20)
    parameters = rng.standard_normal(5 * 10)
    return parameters, pixels, labels


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_digits_agrees_with_scikit_learn(backend: str, tmp_path: Path) -> None:
    done = run("digits.py", tmp_path, "--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"backend {backend}," in done.stdout
    assert "They agree" in done.stdout
    for name in ("fastxent", "scikit-learn"):
        row = re.search(rf"^{name} +(\S+) +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
        assert row is not None, done.stdout
        assert float(row[2]) > 0.95
        assert float(row[3]) > 0
    falling = [float(value) for value in re.findall(r"^ +\d+  (\S+)$", done.stdout, re.MULTILINE)]
    assert len(falling) >= 5
    assert falling == sorted(falling, reverse=True)


def test_digits_objective_is_that_of_scipy(
    digits: ModuleType, small_problem: tuple[np.ndarray[Any, Any], ...]
) -> None:
    parameters, pixels, labels = small_problem
    weights, intercept = parameters[:40].reshape(4, 10), parameters[40:]
    log_probs = log_softmax(pixels @ weights + intercept, axis=1)
    expected = -log_probs[np.arange(20), labels].mean() + digits.PENALTY / 2 * np.sum(weights**2)
    value, _ = digits.objective(parameters, pixels, labels)
    assert value == pytest.approx(expected, rel=1e-13)


def test_digits_gradient_is_that_of_finite_differences(
    digits: ModuleType, small_problem: tuple[np.ndarray[Any, Any], ...]
) -> None:
    parameters, pixels, labels = small_problem
    _, gradient = digits.objective(parameters, pixels, labels)

    def value(x: np.ndarray[Any, Any]) -> float:
        return float(digits.objective(x, pixels, labels)[0])

    differences = approx_fprime(parameters, value, 1e-7)
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-6)


def test_digits_exits_with_1_where_the_fits_disagree(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_sklearn = digits.fit_sklearn
    # Too small a change for any prediction, but not for the objective.
    monkeypatch.setattr(digits, "fit_sklearn", lambda *data: fit_sklearn(*data) * 1.005)
    assert digits.main(["--backend", "cython"]) == 1
    printed = capsys.readouterr().out
    assert "They DISAGREE" in printed
    assert ", 0 of 450 predictions different" in printed


def test_language_model_head_works_in_place_and_leaves_padding_out(tmp_path: Path) -> None:
    done = run("language_model_head.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "172 tokens, 84 pads" in done.stdout
    # The other classes add up to about 32000 * e^0.5 and the right one has about e^8.
    perplexity = re.search(r"^perplexity +(\S+)$", done.stdout, re.MULTILINE)
    assert perplexity is not None, done.stdout
    assert 15 < float(perplexity[1]) < 30
    assert re.search(r"^gradient in the logits' memory: True$", done.stdout, re.MULTILINE)
    assert re.search(r"^largest gradient at a pad: +0\.0$", done.stdout, re.MULTILINE)


# ---- the loss with a fault that is easily missed -------------------------------------------------


def verified(function: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "blockwise_loss.py").write_text((EXAMPLES / "blockwise_loss.py").read_text())
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "fastxent.verify",
            "--impl",
            f"blockwise_loss:{function}",
            *arguments,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_blockwise_loss_is_caught_where_the_page_says(tmp_path: Path) -> None:
    done = verified("loss", tmp_path, "--quick")
    assert done.returncode == 1, done.stdout + done.stderr
    page = (EXAMPLES.parent / "docs" / "verification.md").read_text()
    shown = page.partition("    $ fastxent verify --impl blockwise_loss:loss\n")[2]
    lines = shown.partition("\n\n")[0].splitlines()
    assert len(lines) == 10
    assert "\n".join(line.removeprefix("    ") for line in lines) in done.stdout
    found = set(re.findall(r"^BREACH (\w+)", done.stdout, re.MULTILINE))
    assert {"leading_masked", "leading_masked_segment"} <= found <= {
        "leading_masked", "leading_masked_segment", "label_masked",
    }  # fmt: skip


def test_the_mended_blockwise_loss_passes(tmp_path: Path) -> None:
    done = verified("mended_loss", tmp_path, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_the_loss_of_the_example() -> None:
    source = (EXAMPLES / "blockwise_loss.py").read_text()
    page = (EXAMPLES.parent / "docs" / "verification.md").read_text()
    shown = page.partition("```python\ndef loss(logits, labels):\n")[2].partition("```")[0]
    assert shown.count("\n") == 11
    assert shown in source.partition('for both sums."""\n')[2]


def test_the_logits_of_the_digits_model_are_those_that_the_verification_has(
    tmp_path: Path,
) -> None:
    from fastxent.verify.cases import real

    done = run("digits.py", tmp_path, "--save-logits", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    logits, labels = real.digits_logits()
    assert (np.load(tmp_path / "digits_labels.npy") == labels).all()
    np.testing.assert_allclose(np.load(tmp_path / "digits_logits.npy"), logits, atol=2e-3)
