"""What is verified: this package's backends, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastxent

from .case import LOG_SOFTMAX, LOGSUMEXP, OPTIONS, SOFTMAX


@dataclass(frozen=True, slots=True)
class Implementation:
    """Something that computes losses and gradients.

    with_grad : f(logits, labels) -> (losses, grad_logits), a loss for every row and the gradient
        of each with respect to its row
    loss_alone : f(logits, labels) -> losses, if there is a way without the gradient
    functions : softmax, log_softmax, logsumexp: f(logits) -> array, as far as they exist
    options : which of the keywords "out", "ignore_index" and "n_threads" all of these take
        (logsumexp and the loss alone go without "out"), and which of those in `OPTIONS`
        `with_grad` and `loss_alone` take; problems with any other are left out
    """

    name: str
    with_grad: Callable[..., tuple[Any, Any]]
    loss_alone: Callable[..., Any] | None = None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()


def backend_implementation(backend: str) -> Implementation:
    """One of this package's backends."""

    def with_grad(logits: Any, labels: Any, **options: Any) -> tuple[Any, Any]:
        return fastxent.cross_entropy_with_grad(
            logits, labels, reduction="none", backend=backend, **options
        )

    def loss_alone(logits: Any, labels: Any, **options: Any) -> Any:
        return fastxent.cross_entropy(logits, labels, reduction="none", backend=backend, **options)

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits, **options: function(logits, backend=backend, **options)

    return Implementation(
        backend,
        with_grad,
        loss_alone,
        {
            SOFTMAX: named(fastxent.softmax),
            LOG_SOFTMAX: named(fastxent.log_softmax),
            LOGSUMEXP: named(fastxent.logsumexp),
        },
        frozenset({"out", "ignore_index", "n_threads", *OPTIONS}),
    )
