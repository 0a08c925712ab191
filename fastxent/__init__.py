"""Softmax cross-entropy and its gradient on the CPU: fused, multithreaded, exact to a few ULP.

>>> import numpy as np, fastxent
>>> logits = np.array([[2.0, 1.0, 0.0]], dtype=np.float32)
>>> loss, grad_logits = fastxent.cross_entropy_with_grad(logits, np.array([0]))
>>> print(f"{loss:.6f}")
0.407606
"""

from __future__ import annotations

from typing import Any

from . import _checkout as _checkout  # first: the clear word where this is not an installation
from ._threads import get_num_threads, set_num_threads, threads
from ._warmup import warmup
from .backends import available_backends, get_backend, set_backend
from .config import show_config
from .divergence import kl_divergence_with_logits, kl_divergence_with_logits_and_grad
from .losses import (
    cross_entropy,
    cross_entropy_with_grad,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
)
from .partial import PartialState, finish, finish_grad, merge, partial
from .second_order import cross_entropy_grad_hess, cross_entropy_hvp
from .softmax import log_softmax, logsumexp, softmax
from .statistics import RowStats, row_stats

__all__ = [
    "PartialState",
    "RowStats",
    "available_backends",
    "cross_entropy",
    "cross_entropy_grad_hess",
    "cross_entropy_hvp",
    "cross_entropy_with_grad",
    "finish",
    "finish_grad",
    "get_backend",
    "get_num_threads",
    "kl_divergence_with_logits",
    "kl_divergence_with_logits_and_grad",
    "log_softmax",
    "logsumexp",
    "merge",
    "partial",
    "row_stats",
    "set_backend",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_cross_entropy_with_logits",
    "sparse_softmax_cross_entropy_with_logits",
    "threads",
    "warmup",
]


def __getattr__(name: str) -> Any:
    # Reading the version costs some milliseconds, so only who asks for it pays.
    if name == "__version__":
        from importlib.metadata import version

        return version("fastxent")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
