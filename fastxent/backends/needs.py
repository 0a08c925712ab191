"""What a call needs of its kernels.

A twin that compiles on demand compiles no more than that.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Needs(IntFlag):
    """What a kernel may be compiled without; each name is a constant of the Numba twin."""

    CONVERTS = 1  # elements that are not of the type that is computed with
    PROBS = 2  # probabilities as targets
    WRITES = 4  # an output
    SMOOTHS = 8  # label smoothing
    TRANSFORMS = 16  # a temperature or a soft cap
    SECOND_ORDER = 32  # Hessians, and gradients with respect to probabilities


NOTHING: Final = Needs(0)
EVERYTHING: Final = ~NOTHING

# Without what looks into the classes of a row, or of second order.
PLAIN: Final = Needs.CONVERTS | Needs.PROBS | Needs.WRITES

# What makes a difference to each kernel.
KERNELS: Final = {
    "rows_evaluate": EVERYTHING,
    "lanes_evaluate": Needs.CONVERTS | Needs.WRITES | Needs.SMOOTHS | Needs.SECOND_ORDER,
    "segments_reduce": Needs.CONVERTS | Needs.PROBS | Needs.SMOOTHS | Needs.TRANSFORMS,
    "rows_merge": Needs.TRANSFORMS,
    "rows_finish": Needs.CONVERTS | Needs.SMOOTHS | Needs.TRANSFORMS,
    "segments_write": ~Needs.WRITES,
    "rows_describe": Needs.CONVERTS | Needs.PROBS | Needs.SMOOTHS | Needs.TRANSFORMS,
    "rows_diverge": Needs.CONVERTS | Needs.WRITES,
    "rows_check_labels": NOTHING,
    "rows_check_probs": Needs.CONVERTS,
    "rows_sum": NOTHING,
}
