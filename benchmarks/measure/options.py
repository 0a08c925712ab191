"""What options cost: the options by name, and the calls with them."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.measure.arrays import make_arrays
from fastxent.benchmarks.measure.backends import Call
from fastxent.benchmarks.measure.case import Case

import fastxent

# The first has none: beside itself it shows how far the times of one run differ.
NAMES: Final = (
    "plain",
    "class_weight",
    "sample_weight",
    "label_smoothing",
    "z_loss",
    "weights_and_smoothing",
    "temperature",
    "softcap",
)


def call_with(options: str, case: Case, backend: str) -> Call:
    """A call of "loss" or "loss_and_grad" with the options of that name."""
    logits, labels = make_arrays(case)
    settings = {"backend": backend, "n_threads": case.threads, **_values(options, case)}
    if case.operation == "loss":
        return partial(fastxent.cross_entropy, logits, labels, **settings)
    out = np.empty_like(logits)
    return partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **settings)


def _values(options: str, case: Case) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    n_rows, n_classes = case.dimensions
    weights = rng.uniform(0.5, 2.0, n_classes).astype(np.float32)
    values: dict[str, dict[str, Any]] = {
        "plain": {},
        "class_weight": {"class_weight": weights},
        "sample_weight": {"sample_weight": rng.uniform(0.5, 2.0, n_rows)},
        "label_smoothing": {"label_smoothing": 0.1},
        "z_loss": {"z_loss": 1e-4},
        "weights_and_smoothing": {"class_weight": weights, "label_smoothing": 0.1},
        "temperature": {"temperature": 2.0},
        "softcap": {"softcap": 30.0},
    }
    return values[options]
