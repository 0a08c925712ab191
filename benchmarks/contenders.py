"""Who is timed: fastxent's backends, the limits of this machine's memory, and other libraries.

To add one, write a factory and enter it in CONTENDERS; it then takes part in every group. A
factory gets (operation, logits, labels, threads), does all that is not to be timed, and returns
what is timed: a function without arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal

import numpy as np
import pytest
from scipy.special import log_softmax

import fastxent

from .cases import Array

Call = Callable[[], Any]
Factory = Callable[[str, Array, Array, int], Call]

# Less than this is read in less time than another thread takes to wake up.
_BYTES_PER_THREAD: Final = 1 << 21


@dataclass(frozen=True)
class Contender:
    """One name in every group.

    A call of a "backend" or a "peer" returns the mean loss, or (mean loss, gradient). The result
    of a "limit" means nothing.
    """

    kind: Literal["backend", "peer", "limit"]
    factory: Factory
    requires: str | None = None  # a module that need not be installed
    always_moves: int | None = None  # arrays read or written, where the operation does not say

    def arrays_moved(self, operation: str) -> int:
        """How often a call must read or write as many bytes as the logits have."""
        return self.always_moves or (1 if operation == "loss" else 2)

    def skip_or_fail_if_missing(self) -> None:
        if self.requires is None or importlib.util.find_spec(self.requires):
            return
        message = f"{self.requires} is not installed"
        if os.environ.get("FASTXENT_REQUIRE_PEERS") == "1":
            pytest.fail(f"{message}, and FASTXENT_REQUIRE_PEERS=1")
        pytest.skip(f"{message}: the extra 'peers' brings it")


def fastxent_with(backend: str) -> Factory:
    """The package itself."""

    def factory(operation: str, logits: Array, labels: Array, threads: int) -> Call:
        if operation == "loss":
            return partial(
                fastxent.cross_entropy, logits, labels, backend=backend, n_threads=threads
            )
        out = None
        if operation == "loss_and_grad":
            out = np.empty_like(logits)
        elif operation == "loss_and_grad_in_place":
            # From the second call on the logits are the last gradient: other numbers, equal work.
            out = logits = logits.copy()
        return partial(
            fastxent.cross_entropy_with_grad,
            logits,
            labels,
            backend=backend,
            n_threads=threads,
            out=out,
        )

    return factory


def plain_read(operation: str, logits: Array, labels: Array, threads: int) -> Call:
    """Read every byte of the logits once.

    Of NumPy's reductions, OR over 64-bit integers was the fastest on 262 MB with one thread of
    an AMD EPYC (Zen 5): 30.4 GB/s; dot of float32 29.6, sum of int64 29.2, max of float32 28.6,
    sum of float32 25.0, max of int32 19.6.
    """
    parts = np.array_split(_words(logits), _useful_threads(logits, threads))
    return partial(_in_threads, [partial(np.bitwise_or.reduce, part) for part in parts])


def plain_copy(operation: str, logits: Array, labels: Array, threads: int) -> Call:
    """Read the logits and write as much: to a fresh array where the operation does so."""
    n_parts = _useful_threads(logits, threads)
    sources = np.array_split(_words(logits), n_parts)

    def copy_to(out: Array) -> Array:
        targets = np.array_split(_words(out), n_parts)
        pairs = zip(targets, sources, strict=True)
        _in_threads([partial(np.copyto, target, source) for target, source in pairs])
        return out

    if operation == "loss_and_grad_fresh":
        return lambda: copy_to(np.empty_like(logits))
    return partial(copy_to, np.empty_like(logits))


def scipy_expression(operation: str, logits: Array, labels: Array, threads: int) -> Call:
    """What a user of SciPy writes; it knows neither threads nor 16 bits.

    For logits of 16 bits the gradient stays float32: NumPy's conversion to float16 would take
    longer than all the rest.
    """
    rows = np.arange(len(labels))
    wide = np.result_type(logits.dtype, np.float32)

    def loss() -> Any:
        log_probs = log_softmax(logits.astype(wide, copy=False), axis=1)
        return -log_probs[rows, labels].mean()

    def loss_and_grad() -> tuple[Any, Array]:
        log_probs = log_softmax(logits.astype(wide, copy=False), axis=1)
        mean = -log_probs[rows, labels].mean()
        grad_logits = np.exp(log_probs, out=log_probs)
        grad_logits[rows, labels] -= 1
        grad_logits /= len(labels)
        return mean, grad_logits

    return loss if operation == "loss" else loss_and_grad


def torch_eager(operation: str, logits: Array, labels: Array, threads: int) -> Call:
    """PyTorch without compilation, on arrays of its own; its gradient is always a fresh array."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    if logits.dtype.name == "bfloat16":
        own_logits = torch.tensor(logits.view(np.int16)).view(torch.bfloat16)
    else:
        own_logits = torch.tensor(logits)
    own_labels = torch.tensor(labels)
    cross_entropy = torch.nn.functional.cross_entropy

    def mean_loss() -> Any:
        if logits.dtype.name == "float16":
            # Its own mean adds the losses up in float16, which ends at 65504: 16384 rows gave inf.
            losses = cross_entropy(own_logits, own_labels, reduction="none")
            return losses.mean(dtype=torch.float32)
        return cross_entropy(own_logits, own_labels)

    def loss() -> Any:
        with torch.inference_mode():
            return mean_loss()

    def loss_and_grad() -> tuple[Any, Any]:
        own_logits.grad = None
        mean = mean_loss()
        mean.backward()
        return mean.detach(), own_logits.grad

    if operation == "loss":
        return loss
    own_logits.requires_grad_()
    return loss_and_grad


# PyTorch comes last: its threads go on spinning for a while after a call.
CONTENDERS: Final = {
    "read": Contender("limit", plain_read, always_moves=1),
    "copy": Contender("limit", plain_copy, always_moves=2),
    "cython": Contender("backend", fastxent_with("cython")),
    "numba": Contender("backend", fastxent_with("numba")),
    "scipy": Contender("peer", scipy_expression),
    "torch": Contender("peer", torch_eager, requires="torch"),
}


def as_numpy(array: Any) -> Array:
    """A result's gradient, whichever library made it."""
    if isinstance(array, np.ndarray):
        return array
    wide: Array = array.double().numpy()  # NumPy cannot take PyTorch's bfloat16
    return wide


def _words(array: Array) -> Array:
    return array.reshape(-1).view(np.int64)


def _useful_threads(array: Array, threads: int) -> int:
    return max(1, min(threads, array.nbytes // _BYTES_PER_THREAD))


@lru_cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers)


def _in_threads(tasks: list[Call]) -> list[Any]:
    """The tasks' results: the first task runs here, the others in threads."""
    first, *others = tasks
    waiting = [_pool(len(others)).submit(task) for task in others]
    return [first(), *(future.result() for future in waiting)]
