"""Work that nothing may leave half done: Numba's import, and compiling.

An exception from a signal handler, as Ctrl-C raises it, can come between any two steps of Python
code. In the middle of an import it leaves modules that never work again; in the middle of Numba's
compiler nobody knows what. A handler that calls fastxent itself would find it half done as well.
Handlers run in the main thread only. So the work is done in another one, and its callers wait.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Final

_lock = threading.RLock()  # held while the work is done

_starting = threading.RLock()  # the size of new threads' stacks is the process's


def _forget_starting() -> None:
    global _starting
    _starting = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_starting)

# What a main thread has on most machines. A program may have set less for threads of its own, and
# LLVM ends the process when it has too little.
_STACK_BYTES: Final = 8 << 20

# What compiling takes on a slow machine, and more.
_PATIENCE: Final = 300.0

_IN_THE_MIDDLE: Final = (
    "this call, perhaps of a signal handler or a finalizer, comes from the middle of Numba's "
    "compiler and needs it itself; call fastxent.warmup(backend='numba') beforehand"
)


@cache
def _let_forks_wait() -> None:
    """A child would find half of the work, and its locks, Numba's and those of imports, held."""
    # A fork takes what was registered last first. The lock of logging, which the import of Numba
    # needs, must not be taken before ours.
    with suppress(ImportError):  # then there will be no Numba either
        import logging  # noqa: F401
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
        )


def undisturbed(work: Callable[[], None]) -> None:
    """Do `work`, and raise what it raises. It goes on where its caller is interrupted.

    It is done by one thread at a time, so of several callers that want the same the later ones
    find it done. A caller that holds what the work needs does it by itself, one from the middle of
    an import or of Numba's compiler; and so does one that gets no thread.

    Raises RuntimeError in the middle of LLVM, or of other work in the same thread.
    """
    if _must_do_it_itself():
        _alone(work, _PATIENCE)
        return
    helper = _Helper(work)
    try:
        with _starting:
            previous = threading.stack_size(_STACK_BYTES)
            try:
                helper.start()
            finally:
                threading.stack_size(previous)
    except RuntimeError:  # no thread to be had, as at the end of the process
        _alone(work)
        return
    # Not `join`: interrupted, Python 3.11's takes the thread for ended. With a time-out, because
    # this may be a child that was forked in here, by a signal handler: it has no such thread.
    while not helper.done.wait(0.1):
        if not (helper.is_alive() or helper.done.is_set()):
            undisturbed(work)
            return
    helper.join()  # it has but to end, and a call leaves no thread behind
    if helper.error is not None:
        raise helper.error


class _Helper(threading.Thread):
    # A daemon, because `_abandon` ends it: any other would be waited for until it is done.
    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="fastxent compiles", daemon=True)
        self._work = work
        self.has_begun = False
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        _alone(self._run)

    def _run(self) -> None:
        self.has_begun = True
        try:
            if not _process_ends:
                self._work()
        except BaseException as error:
            self.error = error
        self.done.set()  # in here, because a fork in the middle of it would leave a lock held


_is_working = False
_process_ends = False


def _alone(work: Callable[[], None], patience: float = -1) -> None:
    global _is_working
    # Another thread may be at work, and wait for what this one holds.
    if not _lock.acquire(timeout=patience):
        raise RuntimeError(_IN_THE_MIDDLE)
    try:
        if _is_working:
            raise RuntimeError(_IN_THE_MIDDLE)
        # A collection would run finalizers in this thread, and one that calls fastxent would find
        # its own thread in the middle of the work.
        collects = gc.isenabled()
        gc.disable()
        _is_working = True
        try:
            _let_forks_wait()
            work()
        finally:
            _is_working = False
            if collects:
                gc.enable()
    finally:
        _lock.release()


def _must_do_it_itself() -> bool:
    """Whether the helper would wait for what this thread holds while it waits for the helper."""
    numba_module = sys.modules.get("numba.core.compiler_lock")  # may be half imported
    numba_lock = getattr(numba_module, "global_compiler_lock", None)
    must = _lock._is_owned() or (  # type: ignore[attr-defined]
        numba_lock is not None and numba_lock.is_locked()
    )
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            must = True  # a module is locked while it is imported
        elif frame.f_globals.get("__name__") == "llvmlite.binding.executionengine":
            # Entered again there, LLVM ends the process by an assertion.
            raise RuntimeError(_IN_THE_MIDDLE)
        frame = frame.f_back
    return must


@atexit.register
def _abandon() -> None:
    # Nobody waits any more, and LLVM must not be at work while the process takes itself apart.
    global _process_ends
    _process_ends = True
    for thread in threading.enumerate():
        while isinstance(thread, _Helper) and thread.is_alive():
            # Only where it works: one that waits for the lock would have it and not give it back.
            # Again and again, because a weak reference's callback takes the exception for its own.
            if thread.has_begun:
                import ctypes

                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
                )
            thread.join(0.1)
