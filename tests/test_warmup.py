"""Kernels made ready ahead of the first call."""

from __future__ import annotations

import numpy as np
import pytest
from support import run_python

import fastxent

AFTERWARDS = """
import sys
import numpy as np, fastxent
from fastxent.backends import numba_compiler
fastxent.warmup(["float32"], backend="numba")
ready = set(numba_compiler._entries)
fastxent.set_backend("numba")
finders = sys.meta_path[:]
sys.meta_path[:] = [type("Nothing", (), {"find_spec": lambda *_: None})]  # as after chroot
fastxent.set_num_threads(2)
for shape in ((5, 10), (40, 3000), (1, 2_000_000)):
    logits = np.zeros(shape, np.float32)
    for labels in (np.zeros(shape[0], int), np.full(shape, 0.5, 'f4'), np.full(shape, 0.5)):
        for dtype in ("float16", "float32"):
            fastxent.cross_entropy_with_grad(logits.astype(dtype), labels)
    fastxent.log_softmax(logits)
    fastxent.cross_entropy(logits, [0] * shape[0], label_smoothing=0.1, softcap=3.0)
    fastxent.row_stats(logits)
assert set(numba_compiler._entries) == ready, set(numba_compiler._entries) - ready
sys.meta_path[:] = finders
fastxent.cross_entropy(logits.astype(float), [0])
assert set(numba_compiler._entries) != ready
print(sorted({bits for _, bits, _ in ready}))
"""


def test_after_it_no_call_compiles_or_imports() -> None:
    done = run_python(AFTERWARDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[32, 64]", "losses are summed in float64"


def test_one_dtype_or_many_by_name_or_not() -> None:
    for dtypes in ("f4", np.float32, np.dtype("float16"), ["bfloat16", np.float64], ()):
        fastxent.warmup(dtypes, backend="cython")


@pytest.mark.parametrize(
    "wrong",
    ["int32", ["float32", "complex64"], [3], 3, None, [None], "no dtype", b"float32", np.ones(2)],
    ids=repr,
)
def test_a_dtype_that_is_not_taken_is_an_error(wrong: object) -> None:
    with pytest.raises(TypeError, match="dtypes must be one or several of float16, bfloat16"):
        # a type checker would refuse it too
        fastxent.warmup(wrong, backend="cython")  # type: ignore[arg-type]


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        fastxent.warmup(backend="fortran")
