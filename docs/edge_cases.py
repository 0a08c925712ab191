"""Prints the table of edge cases in docs/numerics.md from what fastxent computes.

Run it from anywhere: `python docs/edge_cases.py`. It exits with 1 where the backends disagree or
numerics.md holds another table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

import fastxent

PAGE: Final = Path(__file__).parent / "numerics.md"
INF: Final = np.inf
NAN: Final = np.nan

Row = list[float]

# Why the row is here, its logits, and its label or its probabilities; all in float32.
LOSSES: Final[list[tuple[str, Row, int | Row]]] = [
    ("confident and right", [40, 0], 0),
    ("confident and wrong", [40, 0], 1),
    ("loss below the normal range", [90, 0], 0),
    ("loss below the smallest number", [110, 0], 0),
    ("one class", [7], 0),
    ("all equal", [3, 3, 3, 3], 1),
    ("maximum tied", [1, 1, 0], 0),
    ("zeros of both signs", [-0.0, 0], 0),
    ("subnormal logit", [1e-45, 0], 0),
    ("common offset", [1e8 + 8, 1e8], 0),
    ("ends of the range, right", [3e38, -3e38], 0),
    ("ends of the range, wrong", [3e38, -3e38], 1),
    ("masked class", [1, -INF, 0], 0),
    ("label on a masked class", [1, -INF, 0], 1),
    ("every class masked", [-INF, -INF], 0),
    ("one class, masked", [-INF], 0),
    ("+inf at the label", [INF, 1], 0),
    ("+inf elsewhere", [INF, 1], 1),
    ("NaN at the label", [NAN, 1], 0),
    ("NaN elsewhere", [NAN, 1], 1),
    ("NaN and a masked class", [NAN, -INF], 1),
    ("ignored row", [NAN, INF], -100),
    ("probabilities of a hard label", [40, 0], [1, 0]),
    ("probabilities that tie", [2, 2, 0], [0.5, 0.5, 0]),
    ("probabilities of sum 3", [1, 2], [2, 1]),
    ("no mass on a masked class", [1, -INF], [1, 0]),
    ("mass on a masked class", [1, -INF, 0], [0.5, 0.5, 0]),
    ("no mass at all", [1, 2], [0, 0]),
    ("no mass, NaN", [NAN, 2], [0, 0]),
    ("no mass, every class masked", [-INF, -INF], [0, 0]),
]

SOFTMAXES: Final[list[Row]] = [
    [40, 0],
    [1000, 1000],
    [1, -INF],
    [-INF, -INF],
    [INF, 1],
    [INF, INF],
    [NAN, 1],
    [NAN, INF],
]


def shown(values: Any, digits: int = 6) -> str:
    """Numbers with so many digits, in brackets where there are several."""
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        return f"{float(array):.{digits}g}"
    return "[" + ", ".join(f"{value:.{digits}g}" for value in array) + "]"


def agreed(compute: Callable[[str], tuple[Any, ...]]) -> list[str]:
    """What every backend computes; an error where they differ in the digits shown."""
    found = [[shown(value) for value in compute(name)] for name in fastxent.available_backends()]
    if any(other != found[0] for other in found):
        raise SystemExit(f"the backends disagree: {found}")
    return found[0]


def loss_line(name: str, logits: Row, labels: int | Row) -> str:
    """A row of the table of losses and gradients."""
    wanted = np.array([labels], np.int64 if isinstance(labels, int) else np.float32)
    ignored = -100 if labels == -100 else None

    def compute(backend: str) -> tuple[Any, Any]:
        losses, gradient = fastxent.cross_entropy_with_grad(
            np.array([logits], np.float32),
            wanted,
            ignore_index=ignored,
            reduction="none",
            backend=backend,
        )
        return losses[0], gradient[0]

    cells = [name, shown(logits, 9), shown(labels), *agreed(compute)]
    return "| " + " | ".join(cells) + " |"


def softmax_line(logits: Row) -> str:
    """A row of the table of softmax, log_softmax and logsumexp."""
    row = np.array(logits, np.float32)

    def compute(backend: str) -> tuple[Any, Any, Any]:
        return (
            fastxent.softmax(row, backend=backend),
            fastxent.log_softmax(row, backend=backend),
            fastxent.logsumexp(row, backend=backend),
        )

    return "| " + " | ".join([shown(logits, 9), *agreed(compute)]) + " |"


def main() -> int:
    """Print both tables; 1 where numerics.md holds others."""
    lines = [
        "| case | logits | label or probabilities | loss | gradient |",
        "| --- | --- | --- | --- | --- |",
        *(loss_line(*case) for case in LOSSES),
        "",
        "| logits | softmax | log_softmax | logsumexp |",
        "| --- | --- | --- | --- |",
        *(softmax_line(logits) for logits in SOFTMAXES),
    ]
    table = "\n".join(lines)
    print(table)
    if table not in PAGE.read_text():
        print(f"{PAGE.name} holds other tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
