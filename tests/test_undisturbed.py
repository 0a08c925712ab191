"""Work that goes on where its caller is interrupted, and that never waits for its own caller."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import run_python

from fastxent.backends.undisturbed import undisturbed


class Interruption(BaseException):
    pass


@pytest.fixture
def interruption() -> Iterator[threading.Timer]:
    """A timer whose signal interrupts the main thread."""

    def interrupt(*_: object) -> None:
        raise Interruption

    previous = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    yield timer
    timer.cancel()
    signal.signal(signal.SIGUSR1, previous)


def test_interrupted_callers_stop_waiting_and_the_work_goes_on(
    interruption: threading.Timer,
) -> None:
    go_on, done = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait()
        done.set()

    interruption.start()
    with pytest.raises(Interruption):
        undisturbed(work)
    assert not done.is_set()
    go_on.set()
    undisturbed(lambda: None)  # one at a time
    assert done.is_set()


def test_what_the_work_raises_reaches_its_caller() -> None:
    def work() -> None:
        raise KeyError("key")

    with pytest.raises(KeyError, match="key"):
        undisturbed(work)


def test_nothing_is_collected_meanwhile() -> None:
    seen = []
    undisturbed(lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        undisturbed(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()


def thread_of_work() -> threading.Thread:
    threads = []
    undisturbed(lambda: threads.append(threading.current_thread()))
    return threads[0]


def test_nested_work_is_refused() -> None:
    refused = []

    def work() -> None:
        with pytest.raises(RuntimeError, match=r"warmup\(backend='numba'\) beforehand") as caught:
            undisturbed(lambda: None)
        refused.append(caught)

    undisturbed(work)
    assert refused
    assert thread_of_work() is not threading.current_thread(), "nothing has been left behind"


def test_the_middle_of_an_import_waits_for_no_other_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the work of another thread would wait for this module, which would wait for the work
    (tmp_path / "calls_while_imported.py").write_text(
        "from fastxent.backends.undisturbed import undisturbed\n"
        "def work():\n"
        "    import calls_while_imported\n"
        "undisturbed(work)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("calls_while_imported")
    del sys.modules["calls_while_imported"]


def test_the_middle_of_numbas_compiler_waits_for_no_other_thread() -> None:
    from numba.core.compiler_lock import global_compiler_lock

    with global_compiler_lock:
        assert thread_of_work() is threading.current_thread()


def test_who_gets_no_thread_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert thread_of_work() is threading.current_thread()


def test_a_small_stack_for_threads_is_not_for_this_one() -> None:
    previous = threading.stack_size(1 << 16)
    try:
        sizes = []
        undisturbed(lambda: sizes.append(_stack_size()))
        assert threading.stack_size(previous) == 1 << 16
    finally:
        threading.stack_size(previous)
    if sys.platform == "linux":
        assert sizes[0] >= 8 << 20


def _stack_size() -> int:
    """Of this thread, by the mapping that one of its variables lies in."""
    import ctypes

    libc = ctypes.CDLL(None)
    attributes = (ctypes.c_char * 256)()
    libc.pthread_self.restype = ctypes.c_void_p
    libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes)
    size = ctypes.c_size_t()
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    libc.pthread_attr_destroy(attributes)
    return size.value


PRELUDE = """
import os, signal, sys, threading, time, warnings
from fastxent.backends.undisturbed import undisturbed
warnings.filterwarnings('ignore', 'This process .* is multi-threaded')
"""

FORKS_IN_A_HANDLER = """
children = []
def fork(*_):
    children.append(os.fork())
    if not children[-1]:
        signal.alarm(30)
signal.signal(signal.SIGUSR1, fork)
others = threading.Event()
other = threading.Thread(target=undisturbed, args=(lambda: others.set() or time.sleep(1),))
other.start()
others.wait()
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
done = []
undisturbed(lambda: done.append('done'))
if not children[0]:
    os._exit(len(done))  # it may have been done before the fork, or after it by the child
print(done, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


def test_a_handler_may_fork_while_its_caller_waits() -> None:
    result = run_python(PRELUDE + FORKS_IN_A_HANDLER)
    assert result.stdout == "['done'] 1\n", result.stderr


# The lock of logging is one that a fork takes and that the import of Numba needs.
FORKS_IN_THE_MIDDLE = """
assert 'logging' not in sys.modules
working = threading.Event()
def work():
    import logging
    working.set()
    time.sleep(1)
    logging.getLogger('any')
caller = threading.Thread(target=undisturbed, args=(work,), daemon=True)
caller.start()
working.wait()
child = os.fork()
if not child:
    undisturbed(lambda: os._exit(3))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_waits_for_the_work_and_holds_nothing_that_it_needs() -> None:
    result = run_python(PRELUDE + FORKS_IN_THE_MIDDLE, timeout=60)
    assert result.stdout == "3\n", result.stderr
    assert result.stderr == ""


ENDS_IN_THE_MIDDLE = """
def work():
    print('working', flush=True)
    while True:
        time.sleep(0.01)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
undisturbed(work)
"""


def test_a_process_that_ends_does_not_wait_for_the_work() -> None:
    started = time.perf_counter()
    result = run_python(PRELUDE + ENDS_IN_THE_MIDDLE, timeout=60)
    assert time.perf_counter() - started < 30
    assert result.stdout == "working\n"
    assert result.returncode == -signal.SIGINT
    assert result.stderr.strip().endswith("KeyboardInterrupt")
