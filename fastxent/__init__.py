"""Softmax cross-entropy and its gradient on the CPU: fused, multithreaded, right to the last digit.

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
from .losses import (
    cross_entropy,
    cross_entropy_with_grad,
    softmax_cross_entropy_with_logits,
    sparse_softmax_cross_entropy_with_logits,
)
from .softmax import log_softmax, logsumexp, softmax

__all__ = [
    "available_backends",
    "cross_entropy",
    "cross_entropy_with_grad",
    "get_backend",
    "get_num_threads",
    "log_softmax",
    "logsumexp",
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
