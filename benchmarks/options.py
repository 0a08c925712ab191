"""What options cost: each against the plain call, in one run, round by round.

python benchmarks/options.py                       all shapes, one thread and all
python benchmarks/options.py --json results.json   the numbers too
python benchmarks/options.py --smoke               small shapes, few rounds

A round times every variant once, so that a machine that changes its speed changes it for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from fastxent.verify.reports.writers import check_target, write_text
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fastxent
from fastxent.config import check_environment

Call = Callable[[], Any]

SHAPES: Final = ((65536, 1000), (2048, 32000), (512, 128256), (1024, 1024), (100_000, 10))
SMOKE_SHAPES: Final = ((64, 1000), (1000, 10))
OPERATIONS: Final = ("loss", "loss_and_grad")
# Asked of those named here, where the logits are larger than the caches: at most 15 % more time.
ASKED: Final = ("class_weight", "label_smoothing", "z_loss")
MOST: Final = 1.15
_CACHE_BYTES: Final = 64 << 20


def variants(n_rows: int, n_classes: int) -> dict[str, dict[str, Any]]:
    """Options by name; "plain" has none."""
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.5, 2.0, n_classes).astype(np.float32)
    rows = rng.uniform(0.5, 2.0, n_rows)
    return {
        "plain": {},
        "class_weight": {"class_weight": weights},
        "sample_weight": {"sample_weight": rows},
        "label_smoothing": {"label_smoothing": 0.1},
        "z_loss": {"z_loss": 1e-4},
        "weights and smoothing": {"class_weight": weights, "label_smoothing": 0.1},
        "temperature": {"temperature": 2.0},
        "softcap": {"softcap": 30.0},
    }


def calls(shape: tuple[int, int], operation: str, backend: str, threads: int) -> dict[str, Call]:
    """What is timed, by the name of its options."""
    logits, labels = arrays(shape)
    settings = {"backend": backend, "n_threads": threads}
    if operation == "loss":
        function = partial(fastxent.cross_entropy, logits, labels, **settings)
    else:
        out = np.empty_like(logits)
        function = partial(fastxent.cross_entropy_with_grad, logits, labels, out=out, **settings)
    return {name: partial(function, **options) for name, options in variants(*shape).items()}


def arrays(shape: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Seeded logits and labels."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape, dtype=np.float32)
    return logits, rng.integers(0, shape[1], shape[0])


def medians(timed: dict[str, Call], n_rounds: int) -> dict[str, float]:
    """The median seconds of each, the rounds going through all."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for call in timed.values():
        call()
    for _ in range(n_rounds):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def measure(smoke: bool) -> Iterator[dict[str, Any]]:
    """A record for each shape, operation, backend and number of threads."""
    cases = [
        (shape, operation, backend, threads)
        for shape in (SMOKE_SHAPES if smoke else SHAPES)
        for operation in OPERATIONS
        for backend in fastxent.available_backends()
        for threads in sorted({1, fastxent.get_num_threads()})
    ]
    for shape, operation, backend, threads in track(cases, "options", transient=True):
        n_rounds = 2 if smoke else 9 if shape[0] * shape[1] > 1 << 24 else 101
        found = medians(calls(shape, operation, backend, threads), n_rounds)
        yield {
            "shape": f"{shape[0]}x{shape[1]}",
            "operation": operation,
            "backend": backend,
            "threads": threads,
            "large": 4 * shape[0] * shape[1] > _CACHE_BYTES,
            "medians": found,
            "ratios": {name: seconds / found["plain"] for name, seconds in found.items()},
        }


def table_of(records: list[dict[str, Any]]) -> Table:
    """Times relative to the plain call; what is asked and missed is marked."""
    names = [name for name in records[0]["ratios"] if name != "plain"]
    table = Table(
        title="Time with options / time without",
        caption=f"Asked, beyond the caches: at most {MOST} for {', '.join(ASKED)}; ! is more.",
    )
    for heading in ("case", "backend", "threads", "plain", *names):
        table.add_column(heading)
    for record in records:
        cells = [
            f"{ratio:.2f}" + ("!" if record["large"] and name in ASKED and ratio > MOST else "")
            for name, ratio in record["ratios"].items()
            if name != "plain"
        ]
        table.add_row(
            f"{record['operation']} {record['shape']}",
            record["backend"],
            str(record["threads"]),
            f"{1e3 * record['medians']['plain']:.3g} ms",
            *cells,
        )
    return table


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the medians and ratios to this file")
    parser.add_argument("--smoke", action="store_true", help="small shapes, few rounds")
    arguments = parser.parse_args()
    try:
        check_environment()
        if arguments.json:
            check_target(arguments.json)  # not after all has been measured
    except (OSError, ValueError) as error:
        parser.error(str(error))
    records = list(measure(arguments.smoke))
    Console(width=None if Console().is_terminal else 180).print(table_of(records))
    if arguments.json:
        try:
            write_text(arguments.json, json.dumps(records, indent=1))
        except OSError as error:
            parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
