"""Results as pytest-benchmark writes them, and what is asked of them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastxent.benchmarks.measure.case import Case
from fastxent.benchmarks.measure.roofs import ROOFS
from pytest_benchmark.utils import get_commit_info


@dataclass(frozen=True)
class Timing:
    """One implementation in one group."""

    kind: str  # "backend", "peer" or "roof"
    median: float  # seconds
    n_bytes: int  # that must be read or written

    @property
    def bandwidth(self) -> float:
        return self.n_bytes / self.median


Timings = dict[Case, dict[str, Timing]]


def commit_info() -> dict[str, Any]:
    """The revision of the checkout one stands in, as pytest-benchmark writes it."""
    # pytest-benchmark has no annotations
    found: dict[str, Any] = get_commit_info()  # type: ignore[no-untyped-call]
    return found


def read_json(path: Path, writer: str = "") -> Any:
    """What a file holds; OSError or ValueError, naming the path and what writes such files."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        hint = f", which {writer} writes" if writer else ""
        raise ValueError(f"{path} is no JSON{hint}: {error}") from error


def read_results(path: Path) -> dict[str, Any]:
    """What --benchmark-json, or reach.py, wrote; OSError or ValueError, naming the path."""
    results = read_json(path, "--benchmark-json")
    if not isinstance(results, dict) or not isinstance(results.get("benchmarks"), list):
        raise ValueError(f"{path} has no results of benchmarks, which --benchmark-json writes")
    return results


def read_timings(results: dict[str, Any]) -> Timings:
    """Cases and their implementations, in the order in which they were timed.

    ValueError where there is no usable result.
    """
    timings: Timings = defaultdict(dict)
    for number, entry in enumerate(results["benchmarks"], start=1):
        try:
            info = entry["extra_info"]
            if "implementation" not in info:  # options.py has a table of its own
                continue
            case = Case(info["operation"], info["dtype"], info["shape"], info["threads"])
            timing = Timing(info["kind"], entry["stats"]["median"], info["bytes"])
            if not (min(case.dimensions) > 0 and 0 < timing.median < math.inf):
                raise ValueError(f"{case.group} in {timing.median} s")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"result {number} of a benchmark cannot be read: {error!r}") from error
        timings[case][info["implementation"]] = timing
    return timings


def of_memory(case: Case, timings: dict[str, Timing], name: str) -> float | None:
    """Bandwidth as a share of a plain read's (loss) or copy's: 1 is as fast as the memory."""
    roof = timings.get("roof_read" if case.operation == "loss" else "roof_copy")
    return timings[name].bandwidth / roof.bandwidth if roof else None


def share_of_roof(case: Case, timings: dict[str, Timing], name: str) -> float | None:
    """Time of the operation's roof / time: 1 is as fast as this machine allows.

    None where the group lacks it.
    """
    roofs = ROOFS.get(case.operation, ())
    if not roofs or not all(roof in timings for roof in roofs):
        return None
    return sum(timings[roof].median for roof in roofs) / timings[name].median


def best_peer(timings: dict[str, Timing]) -> str | None:
    peers = {name: timing.median for name, timing in timings.items() if timing.kind == "peer"}
    return min(peers, key=peers.__getitem__, default=None)


def times_faster(timings: dict[str, Timing], backend: str, other: str | None) -> float | None:
    """Time of another implementation / time of the backend: above 1 the backend wins."""
    if other not in timings:
        return None
    return timings[other].median / timings[backend].median
