"""Every build that this CPU runs, in a process of its own."""

from __future__ import annotations

import os

import pytest
from support import run_python

from fastxent.backends import cython_kernels, driver

RUNNABLE = [name for name in cython_kernels.INSTRUCTION_SETS if driver.cpu_supports(name)]

# Every tail of every vector, between pages that may not be touched, in every dtype.
GUARDED = """
import sys
from fastxent.backends import cython_kernels
from fastxent.verify import assert_verified

wanted, backend = sys.argv[1:]
assert wanted == "any" or cython_kernels.INSTRUCTION_SET == wanted
cases = ["guarded_pages_of_all_tails", "guarded_pages_axis_1"]
cases += ["softmax", "log_softmax", "logsumexp"]
report = assert_verified(backend, profile="strict", cases=cases)
assert not any(result.left_out for result in report.results)
print("all right")
"""


@pytest.mark.parametrize("instruction_set", RUNNABLE)
def test_every_build_is_right_and_stays_inside_its_arrays(instruction_set: str) -> None:
    env = {**os.environ, "FASTXENT_ISA": instruction_set}
    result = run_python(GUARDED, instruction_set, "cython", env=env)
    assert (result.returncode, result.stdout) == (0, "all right\n"), result.stderr


def test_the_numba_kernels_stay_inside_their_arrays() -> None:
    result = run_python(GUARDED, "any", "numba")
    assert (result.returncode, result.stdout) == (0, "all right\n"), result.stderr


def test_the_best_build_is_used_by_default() -> None:
    env = {name: value for name, value in os.environ.items() if name != "FASTXENT_ISA"}
    code = "from fastxent.backends import cython_kernels as c; print(c.INSTRUCTION_SET)"
    assert run_python(code, env=env).stdout.strip() == RUNNABLE[-1]
    env["FASTXENT_ISA"] = " "
    assert run_python(code, env=env).stdout.strip() == RUNNABLE[-1]


# What a wrong FASTXENT_ISA does: not an error at import, but wherever the Cython backend is meant.
WITH_A_WRONG_ONE = """
import fastxent, numpy as np
x, y = np.zeros((2, 3), np.float32), np.zeros(2, int)
print(fastxent.available_backends())
for ask in (
    fastxent.get_backend,
    lambda: fastxent.softmax(x),
    lambda: fastxent.cross_entropy(x, y),
    lambda: fastxent.cross_entropy(x, y, backend="cython"),
    lambda: fastxent.set_backend("cython"),
    lambda: fastxent.warmup(backend="cython"),
):
    try:
        print("nothing raised", ask())
    except ValueError as error:
        print(error)
fastxent.set_backend("numba")
print(fastxent.get_backend())
"""


@pytest.mark.parametrize("value", ["avx9", "x86-64", "X86-64-V3"])
def test_an_unknown_instruction_set_is_an_error_where_the_backend_is_used(value: str) -> None:
    result = run_python(WITH_A_WRONG_ONE, env={**os.environ, "FASTXENT_ISA": value})
    available, *said, other = result.stdout.splitlines()
    assert available == "('numba',)", result.stderr
    assert other == "numba"
    assert len(said) == 6
    for line in said:
        assert f"FASTXENT_ISA={value!r} is not an instruction set" in line
        assert "or unset it" in line


def test_an_unsupported_instruction_set_is_an_error_where_the_backend_is_used() -> None:
    code = (
        "import sys, types\n"
        "import numpy\n"
        "stand_in = types.ModuleType('fastxent.backends.driver')\n"
        "stand_in.cpu_supports = lambda name: False\n"
        "stand_in.instruction_set = lambda: 'x86-64-v2'\n"
        "sys.modules['fastxent.backends.driver'] = stand_in\n"
        "import fastxent\n"
        "fastxent.set_backend('cython')"
    )
    wanted = cython_kernels.INSTRUCTION_SETS[-1]
    result = run_python(code, env={**os.environ, "FASTXENT_ISA": wanted})
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: backend 'cython' is not available: ")
    assert f"FASTXENT_ISA={wanted!r} is not supported by this CPU" in last
    assert "unset it" in last
