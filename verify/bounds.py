"""How large an error may be, in ULP: the recorded bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .case import CROSS_ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest error allowed; None where the operation has no such result.

    Losses of float16 and bfloat16 logits are float32 and counted in its units; gradients are
    counted in those of their own dtype, where rounding alone costs 0.5.
    """

    loss: float | None
    output: float | None


BOUNDS: Final = {
    CROSS_ENTROPY: {
        "float32": Bound(loss=2, output=4),
        "float64": Bound(loss=4, output=4),
        # The rounding itself, and what 4 units of float32 come to: truncated ones would show.
        "float16": Bound(loss=2, output=0.51),
        "bfloat16": Bound(loss=2, output=0.51),
    },
    SOFTMAX: {
        "float32": Bound(loss=None, output=4),
        "float64": Bound(loss=None, output=4),
        "float16": Bound(loss=None, output=1),
        "bfloat16": Bound(loss=None, output=1),
    },
    LOG_SOFTMAX: {
        "float32": Bound(loss=None, output=4),
        "float64": Bound(loss=None, output=4),
        "float16": Bound(loss=None, output=1),
        "bfloat16": Bound(loss=None, output=1),
    },
    LOGSUMEXP: {
        "float32": Bound(loss=4, output=None),
        "float64": Bound(loss=4, output=None),
        "float16": Bound(loss=4, output=None),
        "bfloat16": Bound(loss=4, output=None),
    },
}
