"""Where a series of runs becomes slower or faster, by the method of Apache Otava.

E-divisive (Matteson and James, 2014) looks for the split of a series whose parts differ most in
their distances, a statistic that no single outlier decides. As in Hunter (Fleming and others,
2023), which Apache Otava has become, it runs in windows that overlap, a t-test decides instead of
permutations, and change points that are weak beside their final neighbours are dropped again.
Three things are otherwise. Series are in logarithms, so that a change is a ratio; the t-test is of
trimmed means, so that a run that was disturbed does not hide a change; and its p-value pays for the
choice of the split, which was made to be the best one.

Apache Otava itself cannot be a dependency: version 0.8 needs NumPy 2.2.0 and no other, and the
clients of BigQuery, Slack and PostgreSQL. Of the libraries that do not, ruptures has no such test
(one gives it the number of change points, or a penalty that depends on the noise).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from scipy.stats import ttest_ind

Array = np.ndarray[Any, Any]

WINDOW: Final = 50
# Both sides of a change need so many runs: what fewer show may pass.
FEWEST_RUNS: Final = 4
_TRIM: Final = 0.25  # of 4 runs the middle two
SIGNIFICANCE: Final = 0.001
# For the first pass, whose change points may still turn out to be weak.
_WEAK: Final = 10 * SIGNIFICANCE


@dataclass(frozen=True)
class ChangePoint:
    """The first run that is otherwise; `before` and `after` are the levels between neighbours."""

    index: int
    before: float
    after: float
    p_value: float  # 0 for counts, which have no noise

    @property
    def ratio(self) -> float:
        """Above 1 it has become slower."""
        return self.after / self.before


def find_change_points(values: Sequence[float], threshold: float = 0.02) -> list[ChangePoint]:
    """In medians of runs in their order, above 0; changes of at most `threshold` are left out."""
    logs = np.log(np.asarray(values, np.float64))
    found = _divide(logs)
    while found:  # one at a time: the neighbours of what goes are other ones then
        p_values = [_p_value(logs, *part) for part in _parts(found, len(logs))]
        weakest = int(np.argmax(p_values))
        if p_values[weakest] < SIGNIFICANCE:
            sizes = [
                abs(_level(logs[b:c]) - _level(logs[a:b])) for a, b, c in _parts(found, len(logs))
            ]
            weakest = int(np.argmin(sizes))
            if sizes[weakest] > np.log1p(threshold):
                break
        del found[weakest]
    return [
        ChangePoint(
            middle,
            float(np.exp(_level(logs[start:middle]))),
            float(np.exp(_level(logs[middle:stop]))),
            _p_value(logs, start, middle, stop),
        )
        for start, middle, stop in _parts(found, len(logs))
    ]


def find_steps(counts: Sequence[float], threshold: float = 0.0) -> list[ChangePoint]:
    """The same for what has no noise: every run that is otherwise than the one before it."""
    return [
        ChangePoint(i, before, after, 0.0)
        for i, (before, after) in enumerate(pairwise(counts), start=1)
        if abs(after - before) > threshold * before
    ]


def _divide(logs: Array) -> list[int]:
    """The change points of all windows, weak ones included."""
    found: set[int] = set()
    for first in range(0, max(len(logs) - WINDOW // 2, 1), WINDOW // 2):
        last = min(first + WINDOW, len(logs))
        found.update(first + split for split in _divide_window(logs[first:last]))
    return sorted(found)


def _divide_window(logs: Array) -> list[int]:
    if len(logs) < 2 * FEWEST_RUNS:
        return []
    middle = _best_split(logs)
    if _p_value(logs, 0, middle, len(logs)) >= _WEAK:
        return []
    right = (middle + split for split in _divide_window(logs[middle:]))
    return [*_divide_window(logs[:middle]), middle, *right]


def _best_split(logs: Array) -> int:
    """The `middle` that makes logs[:middle] and logs[middle:stop] differ most, for any `stop`."""
    sums = np.abs(logs[:, None] - logs).cumsum(0).cumsum(1)
    sizes = np.arange(FEWEST_RUNS, len(logs) + 1)
    middle, stop = np.meshgrid(sizes, sizes, indexing="ij")
    n, m = middle, np.maximum(stop - middle, 2)
    within_left = sums[middle - 1, middle - 1]
    between = sums[middle - 1, stop - 1] - within_left
    within_right = sums[stop - 1, stop - 1] - within_left - 2 * between
    energy = 2 * between / (n * m) - within_left / (n * (n - 1)) - within_right / (m * (m - 1))
    scaled = np.where(stop - middle >= FEWEST_RUNS, energy * n * m / (n + m), -np.inf)
    return int(sizes[np.unravel_index(np.argmax(scaled), scaled.shape)[0]])


def _parts(found: Sequence[int], length: int) -> Iterator[tuple[int, int, int]]:
    """(start, middle, stop) of each change point: up to its neighbours."""
    edges = [0, *found, length]
    return zip(edges, edges[1:], edges[2:], strict=False)


def _p_value(logs: Array, start: int, middle: int, stop: int) -> float:
    left, right = logs[start:middle], logs[middle:stop]
    if min(len(left), len(right)) < FEWEST_RUNS:
        return 1.0
    if not (left - left[0]).any() and not (right - right[0]).any():
        return float(left[0] == right[0])  # a t-test would divide by 0
    n_choices = stop - start - 2 * FEWEST_RUNS + 1
    return min(1.0, n_choices * float(ttest_ind(left, right, trim=_TRIM).pvalue))


def _level(logs: Array) -> float:
    return float(np.median(logs))
