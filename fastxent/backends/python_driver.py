"""The thread driver of an installation without compiled modules: a pool of Python threads.

It has the compiled driver's `run`. ctypes releases the GIL around a kernel, so the threads do run
at once; handing out a chunk costs some 10 us instead of a tenth of one.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

_Kernel = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    # A forked child has none of its parent's threads, and perhaps a lock that one of them held.
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0


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
        for start in starts:
            if start >= n_items or stopped.is_set():
                return
            function(context, start, min(start + chunk, n_items))

    helpers = min(n_threads, -(-n_items // chunk)) - 1
    if helpers < 1:
        take_chunks()
        return
    pool = _pool_of(helpers)
    futures = [pool.submit(take_chunks) for _ in range(helpers)]
    try:
        take_chunks()
    finally:
        # A helper that has not started takes nothing any more, and is not waited for.
        stopped.set()
        wait([future for future in futures if not future.cancel()])
    for future in futures:
        if not future.cancelled():
            future.result()
