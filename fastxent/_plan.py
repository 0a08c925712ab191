"""One call's backend, threads and chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import backends
from ._threads import allowed_threads, check_num_threads, settled_threads
from .backends.context import SEGMENT

# A second thread is not worth waking for less: 2^16 logits take some 15 us on one thread, the
# wake-up about 50 us unless the worker is still looking for work after the previous call.
_WORK_PER_THREAD: Final = 1 << 16
# A chunk takes some 4 us or more: much longer than handing it out, much shorter than a call.
_WORK_PER_CHUNK: Final = 1 << 15


@dataclass(slots=True)  # frozen it would take 0.4 us more to make
class Plan:
    backend: str
    n_threads: int
    chunk: int  # rows handed out at once
    splits_rows: bool  # whether threads share rows, for want of rows


def make_plan(n_rows: int, n_classes: int, backend: object, n_threads: object) -> Plan:
    """How to run a call over this many rows and classes.

    No number that comes out of a call depends on the plan, only how fast it comes.
    """
    name = backends.get_backend() if backend is None else backends.check_backend(backend)
    useful = n_rows * n_classes // _WORK_PER_THREAD
    if n_threads is not None:
        allowed = check_num_threads(n_threads)
    elif useful > 1:
        allowed = allowed_threads()
    else:
        allowed = 1
        settled_threads()  # an error where the environment holds one
    if useful > allowed:
        useful = allowed
    if useful <= 1:
        return Plan(name, 1, _WORK_PER_CHUNK // n_classes or 1, False)
    return Plan(
        name,
        useful,
        _WORK_PER_CHUNK // n_classes or 1,
        n_rows < 8 * useful and n_classes > SEGMENT,
    )
