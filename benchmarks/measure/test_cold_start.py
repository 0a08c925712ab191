"""From nothing to an import, and to a first result: each round is a fresh process.

Times include the start of Python and the import of NumPy, which each group shows beside them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import pytest
from fastxent.benchmarks.machine import cpu_name, load
from fastxent.benchmarks.measure.implementations import IMPLEMENTATIONS
from fastxent.benchmarks.measure.selection import Selection, parametrize

import fastxent

_ARRAYS: Final = (
    "import numpy as np; "
    "logits = np.random.default_rng(0).standard_normal((8, 10), dtype=np.float32); "
    "labels = np.arange(8); "
)


@dataclass(frozen=True)
class _Start:
    """A program that a fresh process runs."""

    group: str
    name: str
    kind: str
    program: str
    rounds: int = 5


def _first_result(backend: str, function: str, rounds: int) -> _Start:
    output = ", out=logits" if function == "cross_entropy_with_grad" else ""
    operation = "loss_and_grad" if output else "loss"
    call = f"import fastxent; fastxent.{function}(logits, labels, backend={backend!r}{output})"
    return _Start(f"first {operation} 8x10", backend, "backend", _ARRAYS + call, rounds)


_SCIPY: Final = (
    "from scipy.special import log_softmax; -log_softmax(logits, axis=1)[labels, labels].mean()"
)
_TORCH: Final = (
    "import torch; from torch.nn.functional import cross_entropy; "
    "cross_entropy(torch.tensor(logits), torch.tensor(labels))"
)
# Numba compiles for some 5 s, and PyTorch takes seconds to import: three rounds of those. What
# nothing that computes with NumPy can start without is the roof.
_STARTS: Final = (
    _Start("import", "python", "roof", "pass"),
    _Start("import", "numpy", "roof", "import numpy"),
    _Start("import", "fastxent", "backend", "import fastxent"),
    _Start("import", "scipy", "peer", "import scipy.special"),
    _Start("import", "torch", "peer", "import torch", 3),
    _Start("first loss 8x10", "numpy", "roof", _ARRAYS),
    _first_result("cython", "cross_entropy", 5),
    _first_result("numba", "cross_entropy", 3),
    _Start("first loss 8x10", "scipy", "peer", _ARRAYS + _SCIPY),
    _Start("first loss 8x10", "torch", "peer", _ARRAYS + _TORCH, 3),
    _Start("first loss_and_grad 8x10", "numpy", "roof", _ARRAYS),
    _first_result("cython", "cross_entropy_with_grad", 5),
    _first_result("numba", "cross_entropy_with_grad", 3),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    def parameters(selection: Selection) -> Iterator[Any]:
        for each in _STARTS if selection.starts() else ():
            if each.name == "fastxent" or selection.takes(each.name, each.kind):
                # pytest-benchmark keeps parameters beside the results: numbers and text only.
                yield pytest.param(each.group, each.name, id=f"{each.group}-{each.name}")

    parametrize(metafunc, "start,name", parameters)


def test_a_fresh_process_in_time(start: str, name: str, benchmark: Any) -> None:
    chosen = next(each for each in _STARTS if (each.group, each.name) == (start, name))
    if name in IMPLEMENTATIONS:
        IMPLEMENTATIONS[name].skip_or_fail_if_missing()
        IMPLEMENTATIONS[name].skip_if_unavailable(name)
    _check_package()
    benchmark.group = chosen.group
    # No "implementation", by which results of throughput are known: there is nothing to divide by.
    benchmark.extra_info.update(starts=name, kind=chosen.kind, cpu=cpu_name(), load=load())
    # The warm-up brings the files into the operating system's cache.
    benchmark.pedantic(_run, (chosen.program,), rounds=chosen.rounds, warmup_rounds=1)


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


@lru_cache
def _check_package() -> None:
    found = _run("import fastxent; print(fastxent.__file__)")
    if found != fastxent.__file__:
        pytest.skip(f"a fresh process imports {found}, and not {fastxent.__file__}")
