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


@contextlib.contextmanager
def busy_neighbour(present: bool = True) -> Iterator[None]:
    """The process runs as long as the context, and ends with whoever started it."""
    if not present:
        yield
        return
    command = [sys.executable, "-c", f"from {__name__} import disturb; disturb()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.kill()


def disturb() -> None:
    """Until standard input is closed, as it is when the process that started this one has ended."""
    import os
    import threading

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    source, destination = np.ones(_STREAMED // 8), np.ones(_STREAMED // 8)
    numbers = np.linspace(0, 1, _IN_CACHE)
    while True:
        for work in (
            lambda: np.copyto(destination, source),
            lambda: np.sin(numbers, out=numbers),
        ):
            until = time.monotonic() + TURN
            while time.monotonic() < until:
                work()
