"""Every build that this CPU runs, in a process of its own."""

from __future__ import annotations

import os

import pytest
from support import run_python

from fastxent.backends import cython_kernels, driver

RUNNABLE = [name for name in cython_kernels.INSTRUCTION_SETS if driver.cpu_supports(name)]

# Arrays end where memory ends: the page after them may not be touched, nor the page before.
GUARDED = """
import ctypes, mmap, sys
import ml_dtypes
import numpy as np
import fastxent
from fastxent.backends import cython_kernels

sys.path.append(sys.argv[2])
from support import exact_cross_entropy, ulps

wanted, backend = sys.argv[1], sys.argv[3]
assert wanted == "any" or cython_kernels.INSTRUCTION_SET == wanted
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
keep = []

def guarded(array, at_the_end):
    page = mmap.PAGESIZE
    inside = -(-max(array.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    keep.append(memory)
    whole = np.frombuffer(memory, np.uint8)
    for guard in (0, page + inside):
        assert libc.mprotect(whole.ctypes.data + guard, page, 0) == 0
    start = page + (inside - array.nbytes if at_the_end else 0)
    placed = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed

rng = np.random.default_rng(0)
counts = [*range(1, 71), 127, 128, 129, 1023, 1024, 1025, 1040, 2047, 2049, 16385]
for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
    loss_bound, gradient_bound = (2, 4) if np.dtype(dtype).itemsize < 8 else (4, 4)
    for n_classes in counts:
        for at_the_end in (True, False):
            plain = (rng.standard_normal((2, n_classes)) * 5).astype(dtype)
            logits = guarded(plain, at_the_end)
            soft = rng.random((2, n_classes)).astype(dtype)
            hard = np.array([n_classes - 1, 0])
            out = guarded(np.zeros_like(plain), at_the_end)
            for labels in (guarded(hard, at_the_end), guarded(soft, at_the_end)):
                losses, _ = fastxent.cross_entropy_with_grad(
                    logits, labels, reduction="none", out=out, backend=backend
                )
                exact, exact_gradient = exact_cross_entropy(plain, labels)
                assert ulps(losses, exact, losses.dtype) <= loss_bound, (dtype, n_classes)
                if labels.ndim == 1:
                    assert ulps(out, exact_gradient, dtype) <= gradient_bound, (dtype, n_classes)
            fastxent.softmax(logits, out=out, backend=backend)
            fastxent.log_softmax(logits, out=out, backend=backend)
            fastxent.logsumexp(logits, backend=backend)
            if n_classes <= 129:
                plain = (rng.standard_normal((2, n_classes, 19)) * 5).astype(dtype)
                fastxent.cross_entropy_with_grad(
                    guarded(plain, at_the_end), np.zeros((2, 19), int), axis=1,
                    out=guarded(np.zeros_like(plain), at_the_end), backend=backend,
                )
        for memory in keep[:-50]:
            keep.remove(memory)
print("all right")
"""


@pytest.mark.parametrize("instruction_set", RUNNABLE)
def test_every_build_is_right_and_stays_inside_its_arrays(instruction_set: str) -> None:
    env = {**os.environ, "FASTXENT_ISA": instruction_set}
    result = run_python(GUARDED, instruction_set, os.path.dirname(__file__), "cython", env=env)
    assert (result.returncode, result.stdout) == (0, "all right\n"), result.stderr


def test_the_numba_kernels_stay_inside_their_arrays() -> None:
    result = run_python(GUARDED, "any", os.path.dirname(__file__), "numba")
    assert (result.returncode, result.stdout) == (0, "all right\n"), result.stderr


def test_the_best_build_is_used_by_default() -> None:
    env = {name: value for name, value in os.environ.items() if name != "FASTXENT_ISA"}
    code = "from fastxent.backends import cython_kernels as c; print(c.INSTRUCTION_SET)"
    assert run_python(code, env=env).stdout.strip() == RUNNABLE[-1]
    env["FASTXENT_ISA"] = " "
    assert run_python(code, env=env).stdout.strip() == RUNNABLE[-1]


@pytest.mark.parametrize("value", ["avx9", "x86-64", "X86-64-V3"])
def test_an_unknown_instruction_set_is_an_error_at_import(value: str) -> None:
    result = run_python("import fastxent", env={**os.environ, "FASTXENT_ISA": value})
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith(f"ValueError: FASTXENT_ISA={value!r} is not an instruction set")
    assert "or unset it" in last


def test_an_unsupported_instruction_set_is_an_error_at_import() -> None:
    code = (
        "import sys, types\n"
        "import numpy\n"
        "stand_in = types.ModuleType('fastxent.backends.driver')\n"
        "stand_in.cpu_supports = lambda name: False\n"
        "stand_in.instruction_set = lambda: 'x86-64-v2'\n"
        "sys.modules['fastxent.backends.driver'] = stand_in\n"
        "import fastxent\n"
    )
    wanted = cython_kernels.INSTRUCTION_SETS[-1]
    result = run_python(code, env={**os.environ, "FASTXENT_ISA": wanted})
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ValueError: FASTXENT_ISA={wanted!r} is not supported by this CPU")
    assert "unset it" in last
