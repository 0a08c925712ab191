"""The thread driver of an installation without compiled modules: a pool of Python threads.

It has the compiled driver's `run`. ctypes releases the GIL around a kernel, so the threads do run
at once; handing out a chunk costs some 10 us instead of a tenth of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

_Kernel = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)

_lock = threading.RLock()  # re-entrant: a signal handler may call in the middle
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    # A forked child has none of its parent's threads, and perhaps a lock that one of them held.
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.RLock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _pool_of(n_workers: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < n_workers:
            _pool = ThreadPoolExecutor(n_workers, thread_name_prefix="fastxent")
            _pool_size = n_workers
        return _pool


def run(kernel: int, context: bytes, n_items: int, chunk: int, n_threads: int) -> None:
    """Run the kernel at an address over items 0..n_items on at most n_threads threads."""
    if kernel == 0:
        raise ValueError("the kernel does not fit this build of fastxent")
    function = _Kernel(kernel)
    starts = itertools.count(0, chunk)  # next() on it is atomic
    stopped = threading.Event()

    def take_chunks() -> None:
        # A chunk that has been taken is always worked on: `stopped` is asked before the next one.
        while not stopped.is_set():
            start = next(starts)
            if start >= n_items:
                return
            function(context, start, min(start + chunk, n_items))

    helpers = min(n_threads, -(-n_items // chunk)) - 1
    if helpers < 1:
        take_chunks()
        return
    pool = _pool_of(helpers)
    futures: list[Future[None]] = []
    try:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: no more threads
            futures.extend(pool.submit(take_chunks) for _ in range(helpers))
        take_chunks()
    finally:
        # A helper that has not started takes nothing any more, and is not waited for. The others
        # are, through any further Ctrl-C: they write into the caller's arrays.
        stopped.set()
        interrupt: BaseException | None = None
        running = [future for future in futures if not future.cancel()]
        while running:
            try:
                wait(running)
                running = []
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
