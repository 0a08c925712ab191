"""The thread driver: many callers, forks, Ctrl-C, the GIL and the end of the interpreter."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastxent.verify.float_mode import MODES
from support import random_logits, random_probs, run_python, same_bits

import fastxent

# A call that takes long enough for other things to happen meanwhile, and what it should return.
PRELUDE = """
import atexit, multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
import fastxent

warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts without it
backend = sys.argv[1]
rng = np.random.default_rng(0)
small = rng.standard_normal((4000, 100)).astype(np.float32)
labels = rng.integers(0, 100, 4000)
large = rng.standard_normal((6000, 1000), np.float32)
large_labels = rng.integers(0, 1000, 6000)
large_out = np.empty_like(large)
huge = np.lib.stride_tricks.as_strided(large, (5_000_000, 1000), (0, 4))  # some seconds' work

def compute(n_threads=2):
    return fastxent.cross_entropy_with_grad(small, labels, backend=backend, n_threads=n_threads)

def compute_large(n_threads=2):
    return fastxent.cross_entropy_with_grad(
        large, large_labels, backend=backend, n_threads=n_threads, out=large_out
    )[0]

def right():
    loss, gradient = compute()
    return loss == want[0] and np.array_equal(gradient, want[1])

def child_is_right():
    # in a forked child: ends it
    signal.alarm(20)  # a child that hangs ends with this signal
    os._exit(0 if right() else 3)

def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

want = compute(1)
large_loss = compute_large(1)
"""


def run_program(body: str, backend: str, timeout: float = 60.0) -> str:
    result = run_python(PRELUDE + body, backend, timeout=timeout)
    assert result.returncode == 0, (result.returncode, result.stdout, result.stderr)
    return result.stdout


def test_many_python_threads_may_call_at_once(backend: str) -> None:
    batches = [random_logits((3000 + 500 * k, 100), seed=k) for k in range(8)]
    probs = [random_probs(logits.shape, seed=k) for k, logits in enumerate(batches)]
    wanted = [
        fastxent.cross_entropy_with_grad(x, t, backend=backend, n_threads=1)
        for x, t in zip(batches, probs, strict=True)
    ]
    start = threading.Barrier(8)

    def work(k: int) -> bool:
        start.wait()
        for repeat in range(25):
            got = fastxent.cross_entropy_with_grad(
                batches[k], probs[k], backend=backend, n_threads=1 + repeat % 4
            )
            if not (got[0] == wanted[k][0] and same_bits(got[1], wanted[k][1])):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_both_backends_may_be_used_at_once() -> None:
    logits, labels = random_logits((4000, 100)), np.zeros(4000, int)
    wanted = {
        name: fastxent.cross_entropy(logits, labels, backend=name, n_threads=1)
        for name in ("cython", "numba")
    }

    def work(k: int) -> bool:
        name = ("cython", "numba")[k % 2]
        return all(
            fastxent.cross_entropy(logits, labels, backend=name, n_threads=3) == wanted[name]
            for _ in range(50)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_the_gil_is_released(backend: str) -> None:
    logits, labels = random_logits((20_000, 1000)), np.zeros(20_000, int)
    out = np.empty_like(logits)
    fastxent.cross_entropy_with_grad(logits[:10], labels[:10], backend=backend)
    running = threading.Event()
    finished = threading.Event()
    steps_while_running = 0

    def call() -> None:
        running.set()
        for _ in range(5):
            fastxent.cross_entropy_with_grad(logits, labels, out=out, backend=backend, n_threads=1)
        finished.set()

    # With so long a turn a thread that kept the GIL would not give it up in the middle.
    turn = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        caller = threading.Thread(target=call)
        caller.start()
        running.wait()
        while not finished.is_set():
            steps_while_running += 1
            time.sleep(0.001)
        caller.join()
    finally:
        sys.setswitchinterval(turn)
    assert steps_while_running > 10


def test_small_work_starts_no_worker() -> None:
    output = run_program(
        "from fastxent.backends import driver\n"
        "print(driver.worker_count())\n"
        "fastxent.cross_entropy_with_grad(small[:100], labels[:100], n_threads=8)\n"
        "print(driver.worker_count())\n"
        "compute(3)\n"
        "print(driver.worker_count())\n"
        "compute_large(3); compute_large(2)\n"
        "print(driver.worker_count())\n",
        "cython",
    )
    assert output.split() == ["0", "0", "2", "2"]


# What a program does in the middle of calls, and what it then prints.
PROGRAMS = {
    "a forked child": (
        "for _ in range(20):\n"
        "    assert right()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        grandchild = os.fork()\n"
        "        if grandchild == 0:\n"
        "            child_is_right()\n"
        "        if code_of(grandchild) != 0:\n"
        "            os._exit(4)\n"
        "        child_is_right()\n"
        "    assert code_of(child) == 0\n"
        "print(right())\n",
        "True\n",
    ),
    "a child forked while other threads are inside calls": (
        "stop = threading.Event()\n"
        "losses = set()\n"
        "def keep_calling(call):\n"
        "    while not stop.is_set():\n"
        "        losses.add(call())\n"
        "calls = [compute_large, lambda: compute(3)[0], lambda: compute(2)[0]]\n"
        "callers = [threading.Thread(target=keep_calling, args=(call,)) for call in calls]\n"
        "for caller in callers: caller.start()\n"
        "codes = []\n"
        "for k in range(60):\n"
        "    time.sleep(0.0007 * (k % 10))\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        child_is_right()\n"
        "    codes.append(code_of(child))\n"
        "stop.set()\n"
        "for caller in callers: caller.join()\n"
        "print(set(codes), losses == {large_loss, want[0]}, right())\n",
        "{0} True True\n",
    ),
    "a fork in a signal handler during a call": (
        "codes, children = [], []\n"
        "me = os.getpid()\n"
        "def handler(*_):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    else:\n"
        "        children.append(child)\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.05)\n"
        "for _ in range(60):\n"
        "    loss = compute_large()\n"
        "    if loss != large_loss: os._exit(5)\n"
        "    if os.getpid() != me:\n"
        "        signal.signal(signal.SIGALRM, signal.SIG_DFL)\n"
        "        child_is_right()\n"
        "    if len(children) >= 5: break\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "codes = [code_of(child) for child in children]\n"
        "print(set(codes), right())\n",
        "{0} True\n",
    ),
    "a call in a signal handler during a call": (
        "inner = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: inner.append(compute()[0]))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.06)\n"
        "losses = {compute_large() for _ in range(20)}\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(losses == {large_loss}, set(inner) == {want[0]})\n",
        "True True\n",
    ),
    "a pool of forked processes": (
        "def task(k):\n"
        "    return right()\n"
        "assert right()\n"
        "with multiprocessing.get_context('fork').Pool(3) as pool:\n"
        "    print(all(pool.map_async(task, range(12)).get(30)))\n",
        "True\n",
    ),
    "an exception of a signal handler": (
        "def handler(*_):\n"
        "    raise LookupError('from the handler')\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try:\n"
        "    fastxent.logsumexp(huge, backend=backend, n_threads=2)\n"
        "except LookupError as error:\n"
        "    print(error, right())\n",
        "from the handler True\n",
    ),
    "Ctrl-C in a child that another thread forked": (
        "def fork():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "        try:\n"
        "            fastxent.logsumexp(huge, backend=backend, n_threads=2)\n"
        "        except KeyboardInterrupt:\n"
        "            os._exit(7)\n"
        "        os._exit(8)\n"
        "    codes.append(code_of(child))\n"
        "codes = []\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "forking = threading.Thread(target=fork)\n"
        "forking.start()\n"
        "forking.join()\n"
        "print(codes)\n",
        "[7]\n",
    ),
    "Ctrl-C": (
        "for n_threads in (1, 1, 2, 2):\n"
        "    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "    started = time.perf_counter()\n"
        "    try:\n"
        "        fastxent.logsumexp(huge, backend=backend, n_threads=n_threads)\n"
        "    except KeyboardInterrupt:\n"
        "        late = time.perf_counter() - started - 0.3\n"
        "        print('interrupted', 'in time' if late < 1 else f'after {late}', right())\n",
        "interrupted in time True\n" * 4,
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_calls_survive(program: str) -> None:
    body, expected = PROGRAMS[program]
    assert run_program(body, "cython") == expected


def test_calls_of_the_numba_kernels_survive_it_all() -> None:
    # in one process, because each compiles the kernels anew
    bodies = "".join(f"print({program!r})\n{body}" for program, (body, _) in PROGRAMS.items())
    expected = "".join(f"{program}\n{printed}" for program, (_, printed) in PROGRAMS.items())
    assert run_program(bodies, "numba", timeout=150) == expected


def test_a_spawned_process_works() -> None:
    output = run_program(
        "import concurrent.futures\n"
        "pool = concurrent.futures.ProcessPoolExecutor(\n"
        "    1, mp_context=multiprocessing.get_context('spawn'))\n"
        "with pool:\n"
        "    future = pool.submit(fastxent.cross_entropy, small, labels, n_threads=2)\n"
        "    print(future.result(30) == want[0])\n",
        "cython",
    )
    assert output == "True\n"


def test_a_child_forked_during_the_first_compilation_keeps_working() -> None:
    code = (
        "import os, signal, threading, time, warnings\n"
        "import numpy as np\n"
        "import fastxent\n"
        "warnings.filterwarnings('ignore', 'This process .* is multi-threaded')\n"
        "def call():\n"
        "    x = np.zeros((5, 4), np.float32)\n"
        "    return fastxent.cross_entropy(x, [0] * 5, backend='numba')\n"
        "caller = threading.Thread(target=call)\n"
        "caller.start()\n"
        "time.sleep(2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(40)\n"
        "    os._exit(0 if abs(call() - np.log(4)) < 1e-6 else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "caller.join()\n"
    )
    assert run_python(code).stdout == "0\n"


def test_ctrl_c_from_the_terminal_ends_the_program(tmp_path: Path) -> None:
    code = (
        PRELUDE + "print('calling', flush=True)\n"
        "fastxent.logsumexp(huge, backend=backend, n_threads=2)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "cython"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "calling\n"
        time.sleep(0.3)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=20)
    assert program.returncode == -signal.SIGINT
    assert errors.strip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "ending",
    [
        "compute(3)\n",
        "compute_large(3)\nos._exit(0)\n",
        "atexit.register(lambda: print(right(), flush=True))\n",
        "threading.Thread(target=lambda: [compute_large() for _ in range(9**9)], daemon=True)"
        ".start()\ntime.sleep(0.3)\n",
    ],
    ids=["sleeping workers", "at once", "calls at exit", "a thread inside a call"],
)
def test_the_interpreter_ends_cleanly(ending: str) -> None:
    result = run_python(PRELUDE + "compute(2)\n" + ending, "cython", timeout=30)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == ("True\n" if "atexit" in ending else "")


# Eight threads in calls of seconds when the interpreter ends. While `slow` is thrown away they ask
# for the GIL, and never come back; so large a stack is unmapped then.
DAEMONS = """
def keep_calling():
    while True:
        fastxent.logsumexp(huge, backend=backend, n_threads=2)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

fastxent.logsumexp(huge[:1000], backend=backend)  # compiled beforehand
threading.stack_size(64 << 20)
for _ in range(8):
    threading.Thread(target=keep_calling, daemon=True).start()
slow = Slow()
time.sleep(0.2)
"""


def test_threads_that_never_come_back_leave_no_work_behind() -> None:
    # nine in ten of these processes used to crash
    for backend, repeats in (("cython", 4), ("numba", 1)):
        for _ in range(repeats):
            assert run_program(DAEMONS, backend, timeout=150) == ""


# ---- floating-point modes ------------------------------------------------------------------------

# Rows whose losses are subnormal numbers, and a long call over one of them.
SUBNORMAL = """
from fastxent.backends import float_mode
from fastxent.verify.float_mode import MODES, SUBNORMALS_OFF, control_bits, mode

confident = np.zeros((60_000, 10), np.float32)
confident[:, 3] = 95
one_row = np.zeros(1000, np.float32)
one_row[3] = 95
many = np.lib.stride_tricks.as_strided(one_row, (500_000, 1000), (0, 4))
threes = np.full(500_000, 3)

def losses(n_threads, logits=confident):
    return fastxent.cross_entropy(
        logits, threes[:len(logits)], reduction="none", backend=backend, n_threads=n_threads)
"""
needs_modes = pytest.mark.skipif(not MODES, reason="not known how to set a mode here")


@needs_modes
@pytest.mark.parametrize("python_driver", [False, True], ids=["compiled", "python"])
def test_workers_do_not_take_over_the_mode_of_the_thread_that_starts_them(
    python_driver: bool,
) -> None:
    code = PRELUDE.partition("want = compute(1)")[0] + SUBNORMAL
    if python_driver:
        code += (
            "from fastxent.backends import python_driver\n"
            "fastxent.backends.driver = python_driver\n"
        )
    code += (
        "with mode(SUBNORMALS_OFF):\n"
        "    first = losses(2)\n"
        "print(np.unique(first).tolist() == losses(1)[:1].tolist(), 0 < first[0] < 1e-38)\n"
    )
    result = run_python(code, "cython")
    assert (result.stdout, result.stderr) == ("True True\n", "")


@needs_modes
def test_a_signal_handler_that_changes_the_mode_changes_no_result() -> None:
    body = SUBNORMAL + (
        "def handler(*_):\n"
        "    changed = float_mode.current()\n"
        "    with mode(SUBNORMALS_OFF):\n"
        "        changed = float_mode.current()\n"
        "    float_mode.restore(changed)\n"
        "    called.append(1)\n"
        "called = []\n"
        "one = losses(1)[0]\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.03)\n"
        "found = losses(1, many)\n"
        "print(called, len(np.unique(found)), 0 < found[0] < 1e-38)\n"
    )
    assert run_program(body, "cython") == "[1] 1 True\n"


@needs_modes
def test_ctrl_c_leaves_the_callers_mode_as_it_was() -> None:
    body = SUBNORMAL + (
        "with mode(SUBNORMALS_OFF):\n"
        "    for n_threads in (1, 2):\n"
        "        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "        try:\n"
        "            fastxent.logsumexp(huge, backend=backend, n_threads=n_threads)\n"
        "        except KeyboardInterrupt:\n"
        "            print(control_bits() == MODES[SUBNORMALS_OFF])\n"
        "print(control_bits())\n"
    )
    assert run_program(body, "cython") == "True\nTrue\n0\n"


@pytest.mark.parametrize("shape", [(4000, 100), (400, 5000)], ids=str)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_a_call_from_a_thread_with_little_stack_is_right(
    shape: tuple[int, int], softcap: float | None, backend: str
) -> None:
    def call() -> Any:
        return fastxent.cross_entropy_with_grad(
            logits, labels, softcap=softcap, n_threads=2, backend=backend
        )

    logits, labels = random_logits(shape, np.float16), np.zeros(shape[0], int)
    want = call()
    got: list[Any] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: got.append(call()))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert got[0][0] == want[0]
    np.testing.assert_array_equal(got[0][1], want[1])
