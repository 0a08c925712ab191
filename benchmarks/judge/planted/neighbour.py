"""A busy neighbour: a process that takes turns between arithmetic and streaming through memory.

It keeps one core busy, wherever the operating system puts it, as another tenant of a machine does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import numpy as np

TURN: Final = 0.5  # seconds
_STREAMED: Final = 1 << 28  # bytes, more than caches hold
_IN_CACHE: Final = 1 << 12
# -P: the root of a checkout, where one may stand, would shadow the installed package.
COMMAND: Final = (sys.executable, "-P", "-c", f"from {__name__} import disturb; disturb()")


@contextlib.contextmanager
def busy_neighbour(present: bool = True) -> Iterator[None]:
    """The process runs as long as the context, and ends with whoever started it.

    Raises ChildProcessError where it does not start, or has not lasted: what was measured beside
    it would be of an idle machine.
    """
    if not present:
        yield
        return
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise ChildProcessError("the busy neighbour did not start: see its message above")
            yield
            if process.poll() is not None:
                raise ChildProcessError("the busy neighbour ended before what it was to disturb")
        finally:
            process.kill()


def disturb() -> None:
    """Until standard input is closed, as it is when the process that started this one has ended."""
    import os
    import threading

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    source, destination = np.ones(_STREAMED // 8), np.ones(_STREAMED // 8)
    numbers = np.linspace(0, 1, _IN_CACHE)
    print(flush=True)  # it has started
    while True:
        for work in (
            lambda: np.copyto(destination, source),
            lambda: np.sin(numbers, out=numbers),
        ):
            until = time.monotonic() + TURN
            while time.monotonic() < until:
                work()
