"""How a command ends: with the status of its verdict, or one line on standard error."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Final

import typer

from fastxent.cli import INTERRUPTED, stop

# Exit statuses; 2 is a wrong command.
STATUS: Final = {"pass": 0, "fail": 1, "inconclusive": 3}


@contextlib.contextmanager
def ending_with_a_message(program: str) -> Iterator[None]:
    """What is wrong with an argument, a file or the environment is said, not traced: status 2.

    So it is of a fault of this program, which is traced: 1 is a slowdown, and nothing else. Ctrl-C
    and SIGTERM end with 130, and leave no process behind.
    """
    try:
        with _terminated_as_interrupted():
            yield
    except (OSError, ValueError) as error:
        stop(f"{program}: error: {error}")
    except typer.Exit:
        raise
    except Exception:
        traceback.print_exc()
        stop(f"{program}: a fault of the program itself, see above: please report it")
    except KeyboardInterrupt:
        stop(f"{program}: interrupted", INTERRUPTED)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
