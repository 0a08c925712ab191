"""Who is timed: fastxent's backends, the roofs that this machine sets, and other libraries.

To add one, write a factory and enter it in IMPLEMENTATIONS; it takes part in every group that it
can do. A factory gets (case, logits, labels), does all that is not to be timed, and returns what
is timed: a function without arguments.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest
from fastxent.benchmarks.machine import count_cpus
from fastxent.benchmarks.measure import peers, roofs
from fastxent.benchmarks.measure.backends import fastxent_with
from fastxent.benchmarks.measure.case import ALL_OPERATIONS, DTYPES, OPERATIONS, Array, Case

import fastxent

Call = Callable[[], Any]
Factory = Callable[[Case, Array, Array], Call]


def _nothing() -> None:
    """What is in the way of most implementations."""


@dataclass(frozen=True)
class Implementation:
    """One name in every group that it can do.

    A call of a "backend" or a "peer" returns the mean loss, (mean loss, gradient), or the softmax.
    The result of a "roof" means nothing.
    """

    kind: Literal["backend", "peer", "roof"]
    factory: Factory
    requires: tuple[str, ...] = ()  # modules that need not be installed
    obstacle: Callable[[], str | None] = _nothing  # what else is in the way, or None
    operations: tuple[str, ...] = OPERATIONS
    dtypes: tuple[str, ...] = tuple(DTYPES)
    any_axis: bool = True  # or the classes must lie along the last
    threads_of_process: bool = False  # as many as the process has CPUs; no call changes that
    always_moves: int | None = None  # arrays read or written, where the case does not say

    def can_do(self, case: Case) -> bool:
        return (
            case.operation in self.operations
            and case.dtype in self.dtypes
            and (self.any_axis or case.axis == -1)
        )

    def bytes_moved(self, case: Case, logits: Array) -> int:
        return (self.always_moves or case.arrays_moved) * logits.nbytes

    def skip_or_fail_if_missing(self) -> None:
        if reason := self.obstacle():
            pytest.skip(reason)
        missing = [name for name in self.requires if importlib.util.find_spec(name) is None]
        if not missing:
            return
        message = f"not installed: {', '.join(missing)}"
        if os.environ.get("FASTXENT_REQUIRE_PEERS") == "1":
            pytest.fail(f"{message}, and FASTXENT_REQUIRE_PEERS=1")
        pytest.skip(f"{message}; the extra 'peers' brings it")

    def skip_if_unavailable(self, name: str) -> None:
        if self.kind == "backend" and name not in fastxent.available_backends():
            pytest.skip(f"the backend {name} is not available in this installation")

    def skip_if_threads_differ(self, threads: int) -> None:
        if self.threads_of_process and (granted := count_cpus()) != threads:
            pytest.skip(
                f"it takes a thread for each CPU that its process may use (here {granted}), and "
                f"{threads} are asked for: `taskset` or `fastxent bench run` restrict a process"
            )


# Nobody but fastxent overwrites the logits.
_NOT_IN_PLACE: Final = tuple(name for name in OPERATIONS if name != "loss_and_grad_in_place")

# The libraries come last, those whose threads go on spinning after a call behind the others.
IMPLEMENTATIONS: Final = {
    "roof_read": Implementation("roof", roofs.plain_read, always_moves=1),
    "roof_copy": Implementation("roof", roofs.plain_copy, always_moves=2),
    "roof_exp_sum": Implementation(
        "roof",
        roofs.exp_sum,
        obstacle=roofs.no_compiled_roofs,
        operations=roofs.operations_under("roof_exp_sum"),
        always_moves=1,
    ),
    "roof_exp_write": Implementation(
        "roof",
        roofs.exp_write,
        obstacle=roofs.no_compiled_roofs,
        operations=roofs.operations_under("roof_exp_write"),
        always_moves=2,
    ),
    "cython": Implementation("backend", fastxent_with("cython"), operations=ALL_OPERATIONS),
    "numba": Implementation("backend", fastxent_with("numba"), operations=ALL_OPERATIONS),
    "scipy": Implementation("peer", peers.scipy_expression, operations=_NOT_IN_PLACE),
    "sklearn": Implementation(
        "peer",
        peers.sklearn_loss,
        requires=("sklearn",),
        operations=("loss", "loss_and_grad", "loss_and_grad_fresh"),
        dtypes=("float32", "float64"),
        any_axis=False,
    ),
    "jax": Implementation(
        "peer",
        peers.jax_jitted,
        requires=("jax", "optax"),
        operations=_NOT_IN_PLACE,
        threads_of_process=True,
    ),
    "tensorflow": Implementation(
        "peer",
        peers.tensorflow_function,
        requires=("tensorflow",),
        operations=_NOT_IN_PLACE,
        any_axis=False,
        threads_of_process=True,
    ),
    "torch": Implementation(
        "peer", peers.torch_eager, requires=("torch",), operations=_NOT_IN_PLACE
    ),
    "torch_compile": Implementation(
        "peer", peers.torch_compiled, requires=("torch",), operations=_NOT_IN_PLACE
    ),
}
