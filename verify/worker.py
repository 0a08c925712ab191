"""The process that verifies implementations named on a command line: a job in, its events out."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from .case import QUICK
from .cases import cases_named
from .implementation import BACKENDS, ImplementationError, LoadError, load
from .jobs import Job, run_job
from .profile import STRICT


def main() -> None:
    """Read a job from standard input, write what happens to standard output, both pickled."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # What an implementation prints must not get in between: it goes to standard error.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job: Job = pickle.load(sys.stdin.buffer)
    # As with any program that is told a module, that may lie in the folder it is started in.
    sys.path[:] = [os.getcwd(), *job.path]

    def say(event: object) -> None:
        pickle.dump(event, events)
        events.flush()

    try:
        implementations = [load(argument) for argument in job.arguments]
    except BaseException as error:  # a module may do anything while it is imported
        say(LoadError(_load_text(error)))
        return
    if job.settings.profile == STRICT and set(job.arguments) <= set(BACKENDS):
        warnings.simplefilter("error")  # ours give none
    try:
        for event in run_job(job, cases_named(job.cases, QUICK), implementations):
            say(event)
        say("complete")
    except Exception:  # not the implementation's: what that raises is a breach
        say(RuntimeError(f"the harness failed\n{traceback.format_exc()}"))


def _load_text(error: BaseException) -> str:
    """What is wrong with a module; where, if that is not in its own words."""
    if isinstance(error, ImplementationError):
        return str(error)
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, SyntaxError | ImportError) and frames:
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"the module cannot be imported: {type(error).__name__}: {error}{place}"


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however busy it is."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
