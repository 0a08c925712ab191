"""How many threads a call may use.

The first of: the call's `n_threads`, `threads(n)` around it, `set_num_threads`,
FASTXENT_NUM_THREADS, OMP_NUM_THREADS, and what the machine grants this process: the smaller of
its CPU affinity and its cgroup quota.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

_MOST = 2**31 - 1  # what the driver counts in

# Affinity and quota change while a process runs. Calls that would use more than one thread look at
# them again, at most this often: it takes 0.5 us, and in the quota's files some 200.
_AFFINITY_SECONDS: Final = 0.001
_QUOTA_SECONDS: Final = 1.0

_default: int | None = None  # set_num_threads, or the environment; 0 there: what the machine grants


class _Block:
    """A `with threads(n_threads)` that has been entered."""

    __slots__ = ("is_over", "n_threads")

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.is_over = False


_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("fastxent_threads", default=())


class _Grant:
    """What the machine grants this process, as it was when it was last looked at."""

    __slots__ = ("_affinity", "_affinity_until", "_quota", "_quota_until")

    def __init__(self) -> None:
        self._affinity, self._affinity_until = 1, -math.inf
        self._quota, self._quota_until = math.inf, -math.inf

    def threads(self) -> int:
        now = time.monotonic()
        if now >= self._affinity_until:
            self._affinity = _affinity()
            self._affinity_until = now + _AFFINITY_SECONDS
        if now >= self._quota_until:
            self._quota = _quota()
            self._quota_until = now + _QUOTA_SECONDS
        return _smaller(self._affinity, self._quota)


_grant = _Grant()


def _forget_grant() -> None:
    # A child may be put on other CPUs, or into another group, before its first call.
    global _grant
    _grant = _Grant()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_grant)


def check_num_threads(n_threads: object) -> int:
    """`n_threads` if it is an integer of at least 1."""
    try:
        number = operator.index(n_threads)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"n_threads must be an integer, not {n_threads!r}") from None
    if isinstance(n_threads, bool):
        raise TypeError(f"n_threads must be an integer, not {n_threads!r}")
    if not 1 <= number <= _MOST:
        raise ValueError(f"n_threads must be at least 1 (and at most {_MOST}), not {number}")
    return number


def get_num_threads() -> int:
    """How many threads a call uses at most when it does not say.

    What the machine grants is looked at anew.

    >>> import fastxent
    >>> with fastxent.threads(3):
    ...     fastxent.get_num_threads()
    3
    """
    _forget_grant()
    return _chosen_threads() or machine_threads()


def allowed_threads() -> int:
    """The same, but what the machine grants is looked at from time to time only."""
    return _chosen_threads() or _grant.threads()


def _chosen_threads() -> int:
    for block in reversed(_blocks.get()):
        if not block.is_over:
            return block.n_threads
    return settled_threads()


def settled_threads() -> int:
    """What `set_num_threads` or the environment say; 0 where they leave it to the machine."""
    global _default
    if _default is None:
        _default = _from_environment()
    return _default


def set_num_threads(n_threads: int | None) -> None:
    """Let every call of this process that does not say otherwise use `n_threads` threads.

    None goes back to what the environment says. Raises ValueError below 1.

    >>> import fastxent
    >>> fastxent.set_num_threads(2)
    >>> fastxent.get_num_threads()
    2
    >>> fastxent.set_num_threads(None)
    """
    global _default
    _default = None if n_threads is None else check_num_threads(n_threads)


@contextlib.contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Calls inside the `with` block use at most `n_threads` threads.

    It holds for the current thread or task only, and tasks that are started inside keep it. Of
    several blocks the one entered last holds. A block of a generator or an asynchronous fixture may
    be left in another thread or task than it was entered: then it is over in all of them. Raises
    ValueError below 1.

    >>> import fastxent, numpy as np
    >>> with fastxent.threads(1):
    ...     loss = fastxent.cross_entropy(np.zeros((2, 4), np.float32), np.array([0, 1]))
    """
    block = _Block(check_num_threads(n_threads))
    token = None
    try:  # at once: an exception of a signal handler may come between any two lines
        token = _blocks.set((*_blocks.get(), block))
        yield
    finally:
        entered = _blocks.get()
        try:
            if token is not None:
                _blocks.reset(token)
        except ValueError:  # this is another context: there is no way back into that one
            block.is_over = True
        # Blocks entered meanwhile may be left later.
        _blocks.set(tuple(each for each in entered if each is not block and not each.is_over))


def _from_environment() -> int:
    """What the environment says, or 0."""
    own = os.environ.get("FASTXENT_NUM_THREADS", "").strip()
    if own:
        number = _number_of_threads(own)
        if number is None:
            raise ValueError(
                f"FASTXENT_NUM_THREADS={own[:40]!r} is not a number of threads; set it to an "
                "integer of at least 1, or unset it"
            )
        return number
    # OpenMP allows a list, one number for each level of nesting, and leaves bad values to others.
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return _number_of_threads(openmp) or 0


def _number_of_threads(text: str) -> int | None:
    digits = text.lstrip("0")
    if text.isascii() and text.isdigit() and 0 < len(digits) <= 10 and int(digits) <= _MOST:
        return int(digits)
    return None


def machine_threads() -> int:
    """The CPUs this process may run on, or its cgroup's quota where that is smaller."""
    return _smaller(_affinity(), _quota())


def _smaller(n_cpus: int, quota: float) -> int:
    return n_cpus if quota >= n_cpus else max(1, math.ceil(quota))


def _affinity() -> int:
    count = getattr(os, "process_cpu_count", None)  # from Python 3.13 on: it heeds PYTHON_CPU_COUNT
    if count is None and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return (count or os.cpu_count)() or 1


def _quota() -> float:
    return cgroup_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cgroup_quota(membership: Path, mounted: Path) -> float:
    """The CPUs that the control groups in `membership` grant, or infinity.

    Version 2 keeps `cpu.max` ("quota period" or "max period") in the group and in every group
    around it; version 1 keeps two files below the `cpu` controller.
    """
    quota = math.inf
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return quota
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root = mounted
        elif "cpu" in controllers.split(","):
            root = mounted / controllers
            if not root.exists():
                root = mounted / "cpu"
        else:
            continue
        group = root / path.lstrip("/")
        # Inside a container the path may be the host's: then only the mount itself is there.
        for folder in (group, *group.parents):
            quota = min(quota, _quota_in(folder))
            if folder == root:
                break
    return quota


def _quota_in(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf
    return granted if granted > 0 else math.inf
