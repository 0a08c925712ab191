"""The process that verifies implementations named on a command line: a job in, its events out."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import traceback
import warnings

from .case import QUICK
from .cases import cases_named
from .errors import HarnessError, LoadError, StartError, said
from .implementation import BACKENDS, Implementation, load
from .jobs import Job, Starting, run_job
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

    implementations = []
    for argument in job.arguments:
        say(Starting(argument, "while it was imported"))
        try:
            implementations.append(_loaded(argument))
        except LoadError as error:
            say(error)
            return
    say(Starting(job.arguments[-1], "before its first problem"))
    if job.settings.profile == STRICT and set(job.arguments) <= set(BACKENDS):
        warnings.simplefilter("error")  # ours give none
    try:
        for event in run_job(job, cases_named(job.cases, QUICK), implementations):
            say(event)
        say("complete")
    except Exception:  # not the implementation's: what that raises is a breach
        say(HarnessError(f"the harness failed\n{traceback.format_exc()}"))


def _loaded(argument: str) -> Implementation:
    """The implementation of this name; LoadError, naming it, where there is none."""
    module = argument.partition(":")[0]
    try:
        return load(argument)
    except LoadError as error:
        raise LoadError(f"--impl {argument}: {error}") from None
    except BaseException as error:  # a module may do anything while it is imported
        is_missing = isinstance(error, ModuleNotFoundError) and (
            f"{module}.".startswith(f"{error.name}.")
        )
        # The line is in the words of these already.
        text = said(error, where=not isinstance(error, SyntaxError | ImportError))
        if is_missing:
            text += "; it has to be installed, or to lie in this folder"
        raise (LoadError if is_missing else StartError)(
            f"--impl {argument}: the module cannot be imported: {text}"
        ) from None


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however busy it is."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
