"""Versions of a package measured in turns of some milliseconds, in processes that live together.

Another tenant of a machine, or its clock, makes everything slower by half for a tenth of a second
or for minutes. Processes that follow each other are hit by it differently. So a process of each
version is started, all wait, and one at a time is told to call the benchmark for a few
milliseconds: A B C C B A, then B C A A C B, and so on. Each has the same middle of time in such a
round, so what drifts cancels out, and the median of many rounds does not see the few in which the
machine changed its speed. docs/benchmarks.md has what that is worth.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from fastxent.benchmarks.measure.processes import kill_group

# Of each benchmark: so long, but at least so many rounds, unless they take very long.
_SECONDS: Final = 0.5
_FEWEST_ROUNDS: Final = 7
_MOST_SECONDS: Final = 10.0

PLUGIN: Final = "fastxent.benchmarks.measure.turns_plugin"


@dataclass(frozen=True)
class Command:
    """pytest in a process of one version, which loads PLUGIN."""

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None  # None for the one that this process is in


@dataclass
class Timed:
    """A benchmark: a number for each round and version, the logarithm of the seconds of a call."""

    group: str | None
    logs: dict[str, list[float]]


@dataclass
class Block:
    """What processes that lived together found."""

    timed: dict[str, Timed] = field(default_factory=dict)  # by node id, of those that all can run
    # By version: what its process was ready for, called, and ended as passed; and what failed.
    ran: dict[str, set[str]] = field(default_factory=dict)
    failed: dict[str, set[str]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)


def measure_in_turns(commands: Mapping[str, Command]) -> Block:
    """Run each version's benchmarks, in one process for each, and those that all have in turns.

    Whatever ends this, no process is left behind.
    """
    block = Block()
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(name, command)) for name, command in commands.items()
        ]
        for worker in workers:
            worker.listen()
        order = list(dict.fromkeys(itertools.chain(*(worker.collected for worker in workers))))
        while ready := [worker for worker in workers if worker.ready]:
            # What comes first in the order and some are not ready for, they cannot run.
            first = min((worker.ready for worker in ready), key=order.index)
            able = [worker for worker in ready if worker.ready == first]
            if len(able) == len(workers) and (timed := _in_turns(able)):
                block.timed[first] = timed
            for worker in able:
                if worker.ready == first:
                    worker.go_on()
        for worker in workers:
            block.ran[worker.name] = worker.ran
            block.failed[worker.name] = worker.failed
            block.statuses[worker.name] = worker.process.wait()
            block.printed[worker.name] = worker.printed()
    # A test may look at what it has timed, and fail: what does nothing is quick.
    able_to = set.intersection(*block.ran.values())
    block.timed = {name: timed for name, timed in block.timed.items() if name in able_to}
    return block


def _in_turns(workers: Sequence[_Worker]) -> Timed | None:
    """None where one failed."""
    group = workers[0].group
    logs: dict[str, list[float]] = {worker.name: [] for worker in workers}
    started = time.monotonic()
    for number in itertools.count(1):
        at = number % len(workers)
        forth = [*workers[at:], *workers[:at]]
        taken = dict.fromkeys(logs, 0.0)
        for worker in (*forth, *reversed(forth)):
            if (seconds := worker.take_turn()) is None:
                return None
            taken[worker.name] += math.log(seconds) / 2
        for name, value in taken.items():
            logs[name].append(value)
        passed = time.monotonic() - started
        if passed > _MOST_SECONDS or (passed > _SECONDS and number >= _FEWEST_ROUNDS):
            return Timed(group, logs)
    raise AssertionError  # for mypy: it counts on


class _Worker:
    """A process whose benchmarks wait for their turns."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], connection: Connection, log: Path
    ) -> None:
        self.name = name
        self.process = process
        self.collected: list[str] = []
        self.ready = ""  # the node id of what waits; "" once it has ended
        self.group: str | None = None
        self.ran: set[str] = set()
        self.failed: set[str] = set()
        self._ready_for: set[str] = set()
        self._connection = connection
        self._log = log

    def listen(self) -> None:
        """Wait for its first benchmark to be ready."""
        collected = self._receive()
        self.collected = collected if isinstance(collected, list) else []
        self._wait(self._receive())

    def go_on(self) -> None:
        """To the next benchmark."""
        self._wait(self._ask(False))

    def take_turn(self) -> float | None:
        """Seconds of a call; None where it failed, and is at the next benchmark."""
        answer = self._ask(True)
        if isinstance(answer, float):
            return max(answer, 1e-12)  # a coarse clock may see no time pass
        self._wait(answer)
        return None

    def printed(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def _wait(self, message: object) -> None:
        """Until the next benchmark is ready; outcomes of those that have ended come before it."""
        while isinstance(message, dict):
            for name, outcome in message.items():
                if outcome == "failed":
                    self.failed.add(name)
                elif outcome == "passed" and name in self._ready_for:
                    self.ran.add(name)
            message = self._receive()
        self.ready, self.group = message if isinstance(message, tuple) else ("", None)
        self._ready_for.add(self.ready)

    def _ask(self, more: bool) -> object:
        with contextlib.suppress(OSError):  # it has ended: nothing is received either
            self._connection.send(more)
        return self._receive()

    def _receive(self) -> object:
        """None where the process has ended."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None


@contextlib.contextmanager
def _worker(name: str, command: Command) -> Iterator[_Worker]:
    with tempfile.TemporaryDirectory(prefix="fastxent-run-") as folder:
        ours, its = multiprocessing.Pipe()
        log = Path(folder) / "printed"
        with ours, log.open("wb") as output:
            with its:
                process = subprocess.Popen(
                    [*command.words, "-p", PLUGIN, f"--turns={its.fileno()}"],
                    cwd=command.folder or None,
                    env=dict(command.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                )
            try:
                yield _Worker(name, process, ours, log)
            finally:
                if process.poll() is None:
                    kill_group(process.pid)
                    process.wait()
