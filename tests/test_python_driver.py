"""The driver of an installation without compiled modules."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support import Array, run_python

from fastxent.backends import numba_compiler, python_driver
from fastxent.backends.context import Context

# An installation as it is without a compiler: no compiled module can be imported.
UNCOMPILED = """
import atexit, importlib.abc, os, signal, sys, threading, time, warnings
import numpy as np

class NoCompiledModules(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "fastxent.backends.driver" or name.startswith("fastxent.backends.cython_float"):
            raise ModuleNotFoundError(f"{name} was not compiled", name=name)
        return None

sys.meta_path.insert(0, NoCompiledModules())
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
import fastxent

assert fastxent.available_backends() == ("numba",)
assert fastxent.get_backend() == "numba"
assert fastxent.show_config(mode="dicts")["backends"]["thread driver"] == "Python"
try:
    fastxent.cross_entropy(np.zeros((2, 3)), [0, 1], backend="cython")
except ValueError as error:
    assert "no compiled kernels" in str(error)
else:
    raise AssertionError

rng = np.random.default_rng(0)
logits = rng.standard_normal((6000, 100)).astype(np.float32)
long_rows = rng.standard_normal((2, 300_000)).astype(np.float32)
labels = rng.integers(0, 100, 6000)

def compute(n_threads):
    loss, gradient = fastxent.cross_entropy_with_grad(logits, labels, n_threads=n_threads)
    return loss, gradient.tobytes()

want = compute(1)
long_want = fastxent.softmax(long_rows, n_threads=1)
assert threading.active_count() == 1
assert compute(3) == want
assert threading.active_count() in (2, 3)  # a helper that is done early is used again
assert np.array_equal(fastxent.softmax(long_rows, n_threads=2), long_want)

callers = []
right = []
for _ in range(4):
    callers.append(threading.Thread(
        target=lambda: right.extend(compute(n) == want for n in (1, 2, 3, 4, 5))))
    callers[-1].start()
for caller in callers:
    caller.join()
assert right == [True] * 20

for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if compute(2) == want else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("threads and forks")

huge = np.lib.stride_tricks.as_strided(logits, (20_000_000, 100), (0, 4))
for n_threads in (1, 2):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        for _ in range(50):  # on a busy machine the signal may come late
            fastxent.logsumexp(huge, n_threads=n_threads)
    except KeyboardInterrupt:
        print("interrupted")
    assert compute(2) == want

@atexit.register
def call_at_exit():
    print("at exit", compute(2) == want, flush=True)

# Threads in the middle of calls that never come back, see DAEMONS in test_driver.py.
def keep_calling():
    while True:
        compute(2)
        fastxent.logsumexp(huge[:1_000_000], n_threads=2)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

threading.stack_size(64 << 20)
for _ in range(8):
    threading.Thread(target=keep_calling, daemon=True).start()
slow = Slow()
time.sleep(0.2)
"""


def test_the_numba_backend_works_without_compiled_modules() -> None:
    names = ("FASTXENT_ISA", "FASTXENT_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in names}
    result = run_python(UNCOMPILED, env=env)
    lines = ["threads and forks", "interrupted", "interrupted", "at exit True"]
    assert result.stdout.splitlines() == lines, result.stderr
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_an_instruction_set_cannot_be_asked_for_without_compiled_modules() -> None:
    code = UNCOMPILED.split("assert fastxent.available_backends")[0]
    code += "\nfastxent.cross_entropy([[0.0, 1.0]], [1])"
    result = run_python(code, env={**os.environ, "FASTXENT_ISA": "x86-64-v2"})
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: FASTXENT_ISA='x86-64-v2' cannot be used")


def address_of(array: Array) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_row_is_computed_once(n_threads: int, chunk: int) -> None:
    logits = np.zeros((500, 3), np.float32)
    losses = np.full(500, np.nan)
    context = Context(
        n_classes=3,
        logits=address_of(logits),
        logits_stride=12,
        losses=address_of(losses),
    )
    kernel = numba_compiler.kernel_address("rows_evaluate", 32)
    python_driver.run(kernel, context, 500, chunk, n_threads)
    assert np.array_equal(losses, np.full(500, np.log(3)))


def test_many_threads_may_use_the_python_driver_at_once() -> None:
    kernel = numba_compiler.kernel_address("rows_evaluate", 32)

    def work(n_classes: int) -> bool:
        logits = np.zeros((500, n_classes), np.float32)
        for _ in range(20):
            losses = np.full(500, np.nan)
            context = Context(
                n_classes=n_classes,
                logits=address_of(logits),
                logits_stride=4 * n_classes,
                losses=address_of(losses),
            )
            python_driver.run(kernel, context, 500, 10, 1 + n_classes % 4)
            if not np.array_equal(losses, np.full(500, np.log(n_classes))):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(2, 10)))


def test_what_a_helper_still_works_on_stays_when_its_call_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a Ctrl-C between a helper's start and its being written down, and the call is over at once
    inside, go_on = threading.Event(), threading.Event()
    seen: list[bool] = []

    class Memory:
        pass

    memory = Memory()
    is_there = weakref.ref(memory)

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
    def kernel(context: bytes, start: int, stop: int) -> None:
        inside.set()
        go_on.wait(20)
        seen.append(is_there() is not None)

    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **keywords: Any) -> Any:
            super().submit(*arguments, **keywords)
            assert inside.wait(20)
            raise KeyboardInterrupt

    with InterruptedPool(1) as pool:
        monkeypatch.setattr(python_driver, "_pool_of", lambda n_workers: pool)
        address = ctypes.cast(kernel, ctypes.c_void_p).value
        assert address is not None
        with pytest.raises(KeyboardInterrupt):
            python_driver.run(address, Context(n_classes=1), 2, 1, 2, (memory,))
        del memory
        gc.collect()
        go_on.set()
    assert seen == [True]
    gc.collect()
    assert is_there() is None


def test_a_kernel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit this build"):
        python_driver.run(0, Context(n_classes=1), 1, 1, 1)
