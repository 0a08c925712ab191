"""The Numba twin as Python, with NUMBA_DISABLE_JIT=1: its bits are those of the compiled one."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run_python

import fastxent
from fastxent.backends import numba_scalars


def results() -> dict[str, Any]:
    """Losses, gradients and more of a few rows, by name."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}

    def add(name: str, *values: Any) -> None:
        found.update({f"{name} {k}": np.asarray(value) for k, value in enumerate(values)})

    for dtype, shape in (
        ("float32", (17, 9)), ("float32", (2, 3)), ("float32", (2, 140)), ("float64", (2, 9)),
        ("float16", (9, 9)),
    ):  # fmt: skip
        logits = (3 * rng.standard_normal(shape)).astype(dtype)
        logits[0, 0] = -np.inf
        labels = rng.integers(1, shape[1], shape[0])
        with_gradient = fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend="numba"
        )
        add(f"{dtype} {shape}", *with_gradient)
        add(f"softmax {dtype} {shape}", fastxent.softmax(logits, axis=1, backend="numba"))
    logits = (3 * rng.standard_normal((2, 140))).astype("float32")
    labels = rng.integers(0, 140, 2)
    options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-3}
    transforms: dict[str, Any] = {"temperature": 1.5, "softcap": 9.0}
    for each in (options, transforms):
        add(
            f"with {', '.join(each)}",
            *fastxent.cross_entropy_with_grad(logits, labels, backend="numba", **each),
        )
    add(
        "tiny and huge weights",
        *fastxent.cross_entropy_with_grad(
            logits, labels, sample_weight=np.array([1e-20, 1e30]), reduction="sum", backend="numba"
        ),
    )
    few = logits[:, :5].copy()
    add(
        "tiny weights of few classes",
        *fastxent.cross_entropy_with_grad(
            few, labels % 5, sample_weight=np.array([1e-20, 1.0]), reduction="sum",
            backend="numba",
        ),
    )  # fmt: skip
    probabilities = rng.random((2, 140)).astype("float32")
    add("soft", *fastxent.cross_entropy_with_grad(logits, probabilities, backend="numba"))
    add("statistics", *fastxent.row_stats(logits, labels, backend="numba"))
    add("Hessian", *fastxent.cross_entropy_grad_hess(logits, labels, backend="numba"))
    return found


def save_results(path: str) -> None:
    """Write them into a file."""
    np.savez(path, **results())


def test_python_gives_the_bits_of_the_compiled_twin(tmp_path: Path) -> None:
    path = tmp_path / "results.npz"
    code = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore", RuntimeWarning)  # that says that it is slow
from test_numba_in_python import save_results
save_results(sys.argv[2])
from fastxent.backends import numba_scalars
print(numba_scalars.COMPILES)
"""
    folder = str(Path(__file__).parent)
    result = run_python(
        code, folder, str(path), env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, timeout=300.0
    )
    assert result.stdout == "False\n", result.stderr
    assert "Exception ignored" not in result.stderr, result.stderr
    compiled = results()
    with np.load(path) as in_python:
        assert set(in_python.files) == set(compiled)
        for name, expected in compiled.items():
            assert in_python[name].dtype == expected.dtype, name
            assert in_python[name].tobytes() == expected.tobytes(), name


PRELUDE = """
import os, sys, threading, warnings
import numpy as np, fastxent
warnings.simplefilter("ignore", RuntimeWarning)

def call(n=2):
    return fastxent.cross_entropy(np.zeros((n, 200), "f4"), np.ones(n, int), backend="numba")

call()
kernels = sys.modules["fastxent.backends.numba_twin_float32_0.kernels"]
right = kernels.with_label
"""


def run_in_python(code: str) -> str:
    result = run_python(PRELUDE + code, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_call_raises_what_a_kernel_in_python_raises() -> None:
    code = """
for wrong in (TypeError, KeyboardInterrupt, SystemExit):
    def with_label(*arguments):
        raise wrong("from the kernel")
    kernels.with_label = with_label
    try:
        call()
    except BaseException as error:
        print(type(error).__name__, error)
    kernels.with_label = right
    print(abs(call() - np.log(200)) < 1e-6)
"""
    names = ("TypeError", "KeyboardInterrupt", "SystemExit")
    expected = "".join(f"{name} from the kernel\nTrue\n" for name in names)
    assert run_in_python(code) == expected


def test_kernels_in_python_run_in_the_thread_that_calls() -> None:
    code = """
seen = set()
def with_label(*arguments):
    seen.add(threading.get_ident())
    return right(*arguments)
kernels.with_label = with_label
fastxent.set_num_threads(2)
call(64)
print(seen == {threading.get_ident()})
"""
    assert run_in_python(code) == "True\n"


NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.1, 1.0 + 2.0**-23, 3.0e38, 1e-40, np.inf, -np.inf, np.nan)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_multiply_add_in_python_is_rounded_once(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        drawn = rng.choice(NUMBERS, (500, 3)).astype(dtype)
        cancelling = [(a, b, -(a * b)) for a, b, _ in drawn]
        for a, b, c in (*drawn, *cancelling):
            found = numba_scalars._fma(a, b, c)
            plain = a * b + c
            assert found.dtype == dtype
            if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(c)):
                assert found == plain or (np.isnan(found) and np.isnan(plain)), (a, b, c)
                continue
            exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
            if not np.isfinite(found):
                assert abs(exact) >= Fraction(float(np.finfo(dtype).max)), (a, b, c)
                continue
            error = abs(Fraction(float(found)) - exact)
            for other in (np.nextafter(found, -dtype(np.inf)), np.nextafter(found, dtype(np.inf))):
                if np.isfinite(other):
                    assert error <= abs(Fraction(float(other)) - exact), (a, b, c)
