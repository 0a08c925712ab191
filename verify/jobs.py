"""Runs of several implementations, each in a process of its own where it has a name.

A process may end (an implementation reads past an array) or hang. That is a breach of the problem
it was at, and another process goes on behind it. Where that happens before the first problem, the
implementation did not start: a StartError, and nothing is verified. Results are those of a run in
one process: they depend neither on the processes nor on their order.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .case import Case, dtype_named
from .errors import HarnessError, LoadError, StartError
from .implementation import Implementation
from .profile import bound_of
from .result import Breach, Result
from .steps import Begun, Event, Key, Settings, run_steps, steps

Progress = Callable[[str, int, int], None]
# A process starts in the folder of its parent, which may hold a folder of the same name: -P.
_PROGRAM: Final = "from fastxent.verify.worker import main; main()"
_LAST_WORDS: Final = 12
_LAST_BYTES: Final = 1 << 16
_MOST_TIMEOUTS: Final = 3
# What a signal that ends a process says of it.
_HINTS: Final = {
    "SIGSEGV": ": memory outside of the arrays was read or written",
    "SIGBUS": ": memory outside of the arrays was read or written",
    "SIGKILL": ": from outside, as where memory runs out",
}
# Seconds that Python and the harness may take to start, on a busy machine, whatever the time-out of
# the implementation; and that a process may take to end once it says nothing more.
_HARNESS_TIMEOUT: Final = 120.0
_END_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: cases by name on implementations by argument, or by themselves."""

    cases: tuple[str, ...]
    dtypes: tuple[str, ...]
    arguments: tuple[str, ...]
    settings: Settings
    path: tuple[str, ...] = ()
    n_timeouts: int = 0  # of the processes before


@dataclass(frozen=True, slots=True)
class Starting:
    """What a process is at before its first problem."""

    argument: str
    when: str


def run_job(
    job: Job, cases: Sequence[Case], implementations: Sequence[Implementation]
) -> Iterator[Event]:
    """A job in this process."""
    dtypes = [dtype_named(name) for name in job.dtypes]
    return run_steps(cases, implementations, dtypes, job.settings)


@dataclass(slots=True)
class Run:
    """Jobs, the results so far, and where progress is told."""

    cases: Sequence[Case]
    settings: Settings
    timeout: float
    progress: Progress | None = None
    # What may fail to start without ending the run, which says so in `notes`: the peers.
    optional: frozenset[str] = frozenset()
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _total: int = 0
    _done: int = 0
    _events: queue.Queue[tuple[str, Any]] = field(default_factory=queue.Queue)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def here(self, implementation: Implementation, dtypes: Sequence[str]) -> None:
        """Verify an implementation in this process."""
        job = self._job(dtypes, ())
        self._total += self._n_steps(dtypes)
        for event in run_job(job, self.cases, [implementation]):
            self._take(event)

    def apart(self, groups: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
        """Verify groups of arguments, each with its dtypes, in processes of their own."""
        settings = replace(self.settings, is_apart=True)
        jobs = [
            replace(self._job(dtypes, arguments), settings=settings) for arguments, dtypes in groups
        ]
        self._total += sum(self._n_steps(job.dtypes) for job in jobs)
        with ThreadPoolExecutor(max_workers=_n_processes()) as pool:
            futures = [pool.submit(self._in_process, job) for job in jobs]
            try:
                left = len(futures)
                while left:
                    kind, value = self._events.get()
                    if kind == "event":
                        self._take(value)
                    elif kind == "failed":
                        raise value
                    else:
                        left -= 1
            except BaseException:
                self._stopped.set()
                for future in futures:
                    future.cancel()
                raise

    def _job(self, dtypes: Sequence[str], arguments: Sequence[str]) -> Job:
        names = tuple(case.name for case in self.cases)
        return Job(names, tuple(dtypes), tuple(arguments), self.settings, tuple(sys.path))

    def _n_steps(self, dtypes: Sequence[str]) -> int:
        each = [dtype_named(name) for name in dtypes]
        return len(steps(self.cases, each, self.settings.profile, quick=self.settings.quick))

    def _take(self, event: Event) -> None:
        """Keep results; a step that ended its process is counted once, by the process behind it."""
        if isinstance(event, Begun):
            if self.progress is not None:
                name = f"{event.case} {event.dtype} {event.implementation} {event.note}"
                self.progress(name.strip(), self._done, self._total)
            return
        self.results += event
        self._done = min(self._done + 1, self._total)

    def _in_process(self, job: Job) -> None:
        """A job to its end, in as many processes as that takes."""
        try:
            left: Job | None = job
            ended: Result | None = None
            while left is not None and not self._stopped.is_set():
                try:
                    left, ended = self._one_process(left)
                except LoadError as error:
                    if ended is not None:  # it has started before
                        ended.notes.add(f"what was left is not checked: {error}")
                    elif set(job.arguments) <= self.optional:
                        self.notes.append(f"not checked: {error}")
                    else:
                        raise
                    left = None
            self._events.put(("finished", None))
        except BaseException as error:
            self._events.put(("failed", error))

    def _one_process(self, job: Job) -> tuple[Job | None, Result | None]:
        """Follow one process to its end; what is left if it ended too early, and its breach."""
        at: Begun | Starting | None = None
        done: set[Key] = set(job.settings.done)
        caught: set[str] = set()
        with Worker(job) as worker:
            for event in worker.events(self.timeout, self._stopped):
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Starting):
                    at = event
                    continue
                if isinstance(event, Begun):
                    at = event
                else:
                    done |= {(each.case, each.dtype, each.implementation) for each in event}
                    caught |= {each.implementation for each in event if each.breaches}
                self._events.put(("event", event))
            if worker.is_complete or self._stopped.is_set():
                return None, None
            said = worker.end()
        if at is None:
            raise HarnessError(f"the harness did not start: {said}")
        if isinstance(at, Starting):
            advice = "; a longer --timeout gives it more" if worker.is_too_late else ""
            raise StartError(f"--impl {at.argument} did not start: {at.when} {said}{advice}")
        result = self._ended(at, said)
        self._events.put(("event", [result]))
        done.add((at.case, at.dtype, at.implementation))
        caught.add(at.implementation)
        n_timeouts = job.n_timeouts + worker.is_too_late
        if n_timeouts >= _MOST_TIMEOUTS:
            result.notes.add(f"{at.implementation} was given up after {_MOST_TIMEOUTS} time-outs")
            return None, result
        arguments = job.arguments
        if job.settings.until_breach:
            arguments = tuple(each for each in arguments if each not in caught)
        if not arguments:
            return None, result
        settings = replace(job.settings, done=frozenset(done))
        left = replace(job, settings=settings, arguments=arguments, n_timeouts=n_timeouts)
        return left, result

    def _ended(self, at: Begun, said: str) -> Result:
        case = next(case for case in self.cases if case.name == at.case)
        bound = bound_of(self.settings.profile, case.operation, dtype_named(at.dtype))
        result = Result(at.case, at.implementation, at.dtype, self.settings.profile, bound)
        result.checks["process survives"] += 1
        result.add(Breach(said, at.problem, at.note))
        return result


class Worker:
    """A process that runs a job."""

    def __init__(self, job: Job) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        self._reader: threading.Thread | None = None
        self._problem = ""
        self.is_complete = False
        assert self._process.stdin is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.close()
        except BrokenPipeError:  # it has ended already, and its last words will say why
            self._process.stdin = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        if self._reader is not None:
            self._reader.join(1)
        # What an implementation has started may hold the pipe, and the reader wait for it.
        if self._process.stdout is not None and not (self._reader and self._reader.is_alive()):
            self._process.stdout.close()
        self._stderr.close()

    def _kill(self) -> None:
        """End the process, and those that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def events(
        self, timeout: float, stopped: threading.Event
    ) -> Iterator[Event | Starting | Exception]:
        """What it says, until it ends, says nothing for `timeout` seconds, or is stopped."""
        found: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(found,), daemon=True)
        self._reader.start()
        allowed = max(timeout, _HARNESS_TIMEOUT)
        waited = 0.0
        while not stopped.is_set():
            try:
                event = found.get(timeout=0.2)
            except queue.Empty:
                waited += 0.2
                if waited > 1 and self._process.poll() is not None:
                    return
                if waited > allowed:
                    self._give_up(f"no answer within {allowed:g} s")
                    return
                continue
            waited = 0.0
            allowed = timeout
            if event is None:
                return
            if event == "complete":
                self.is_complete = True
                return
            yield event

    def _give_up(self, problem: str) -> None:
        self._problem = problem
        self._kill()

    def _read(self, found: queue.Queue[Any]) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                found.put(pickle.load(self._process.stdout))
        except Exception:  # the end, or what is no event of ours
            found.put(None)

    @property
    def is_too_late(self) -> bool:
        """Whether it was ended because it gave no answer."""
        return bool(self._problem)

    def end(self) -> str:
        """How it ended, and the last that it wrote."""
        if not self._problem:
            try:
                self._process.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._give_up("what the process said could not be read, and it did not end")
        if self._problem:
            return self._problem
        code = self._process.returncode
        if code < 0:
            name = _signal_name(-code)
            return f"the process was ended by {name}{_HINTS.get(name, '')}"
        words = " / ".join(self._last_lines())
        return f"the process ended with exit status {code}{f': {words}' if words else ''}"

    def _last_lines(self) -> list[str]:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_BYTES))
        text = self._stderr.read().decode(errors="replace").strip()
        return text.splitlines()[-_LAST_WORDS:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of those for real time have no name
        return f"signal {number}"


def _n_processes() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
