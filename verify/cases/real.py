"""Cases with logits of a real model on real data.

`digits_logits.npy` holds the logits of the logistic regression that `examples/digits.py` fits, for
the 450 scans that it was not fitted to, and `digits_labels.npy` the digits that they show. Both
were written by `python examples/digits.py --save-logits FOLDER`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import numpy as np

from ..case import Array, DType, Problem, Random, case, cast


def digits_logits() -> tuple[Array, Array]:
    """The logits (450, 10) in float32, and the digits (450,)."""
    folder = resources.files(__package__)
    with (folder / "digits_logits.npy").open("rb") as file:
        logits = np.load(file)
    with (folder / "digits_labels.npy").open("rb") as file:
        return logits, np.load(file).astype(np.int64)


@case()
def digits(random: Random, dtype: DType) -> Iterator[Problem]:
    """A classifier of scanned digits: ten classes, confident and right, or confident and wrong."""
    logits, labels = digits_logits()
    yield Problem(cast(logits, dtype), labels)
    # A model that has been scaled up is as wrong as before, and far more certain.
    yield Problem(cast(4.0 * logits, dtype), labels, "four times as certain")


CASES = (digits,)
