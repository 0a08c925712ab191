"""How a command ends: with the status of its verdict, or one line on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from fastxent.cli import INTERRUPTED, stop

# Exit statuses; 2 is a wrong command.
STATUS: Final = {"pass": 0, "fail": 1, "inconclusive": 3}


@contextlib.contextmanager
def ending_with_a_message(command: str, program: str = "fastxent bench") -> Iterator[None]:
    """What is wrong with an argument, a file or the environment is said, not traced: status 2.

    Ctrl-C ends with 130.
    """
    name = f"{program} {command}".rstrip()
    try:
        yield
    except (OSError, ValueError) as error:
        stop(f"{name}: error: {error}")
    except KeyboardInterrupt:
        stop(f"{name}: interrupted", INTERRUPTED)
