"""Intervals for ratios of times, and what they say.

The values are logarithms of ratios, one of each block of processes, a row a benchmark. Their centre
is the mean without the fifth at either end: one process that is disturbed makes one wild value.

The interval is the percentile bootstrap's (scipy.stats.bootstrap), at a confidence corrected for
the number of benchmarks (Bonferroni). What is resampled is what each value contributes to the
trimmed mean: of the values themselves a wild one comes three times in 7 of 100 samples of 10, which
is past the trimming. Resampling knows nothing of the spread that a few values happen not to show,
so the interval is at least Student's t of the same (Yuen's), at the error that a series may have
where it takes two series to call something slower. docs/gates.md has the false alarms and what is
caught.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]
Verdict = Literal["same", "slower", "faster", "unclear", "inconclusive"]
Overall = Literal["pass", "fail", "inconclusive"]

_CUT: Final = 0.2
# Of the bootstrap's values so many are to lie beyond the end of an interval.
_VALUES_BEYOND: Final = 10
_MOST_RESAMPLES: Final = 100_000


@dataclass(frozen=True)
class Interval:
    """A ratio of times, and where it may lie; infinite where too little was measured."""

    ratio: float
    low: float
    high: float


def intervals(
    log_ratios: Array, confidence: float, n_benchmarks: int | None = None
) -> list[Interval]:
    """One for each row of (benchmarks, blocks).

    `confidence` is that of two series for all benchmarks together, of which there may be more than
    these: `n_benchmarks`.
    """
    n_rows, n_values = log_ratios.shape
    if not n_rows or not n_values:
        return [Interval(math.nan, 0.0, math.inf)] * n_rows
    n_benchmarks = n_benchmarks or n_rows
    parts, freedom = _contributions(log_ratios)
    centre = parts.mean(axis=1)
    low, high = np.full_like(centre, -np.inf), np.full_like(centre, np.inf)
    if freedom > 0:
        error = parts.std(axis=1, ddof=1) / math.sqrt(n_values)
        reach = stats.t.ppf(1 - error_of_a_series(confidence, n_benchmarks) / 2, freedom) * error
        resampled_low, resampled_high = _resampled(parts, 1 - (1 - confidence) / n_benchmarks)
        low = np.minimum(centre - reach, resampled_low)
        high = np.maximum(centre + reach, resampled_high)
    with np.errstate(over="ignore"):  # two values far apart: infinite is what is known then
        ends = np.exp(centre), np.exp(low), np.exp(high)
    return [Interval(*map(float, each)) for each in zip(*ends, strict=True)]


def error_of_a_series(confidence: float, n_benchmarks: int) -> float:
    """How often an interval may miss the truth, on either side.

    With e / 2 above the threshold by chance in each of two series, n (e / 2)^2 of n benchmarks are
    called slower: (1 - confidence) / 2 for e = 2 sqrt((1 - confidence) / 2 / n). Never more than
    1 - confidence.
    """
    return min(1 - confidence, 2 * math.sqrt((1 - confidence) / 2 / n_benchmarks))


def _contributions(values: Array) -> tuple[Array, int]:
    """Numbers whose mean is the trimmed mean, and whose standard error is its own; their freedom.

    Its standard error is that of the winsorized values (those cut off moved to the nearest that is
    left) over the share that is left: Yuen 1974.
    """
    n = values.shape[1]
    n_cut = int(_CUT * n)
    in_order = np.sort(values, axis=1)
    winsorized = np.clip(values, in_order[:, [n_cut]], in_order[:, [n - 1 - n_cut]])
    from_middle = winsorized - winsorized.mean(axis=1, keepdims=True)
    centre = in_order[:, n_cut : n - n_cut].mean(axis=1, keepdims=True)
    return centre + from_middle / (1 - 2 * n_cut / n), n - 2 * n_cut - 1


def _resampled(parts: Array, confidence: float) -> tuple[Array, Array]:
    n_resamples = min(_MOST_RESAMPLES, math.ceil(_VALUES_BEYOND / ((1 - confidence) / 2)))
    found = stats.bootstrap(
        (parts,),
        np.mean,
        axis=-1,
        n_resamples=n_resamples,
        batch=max(1, 2_000_000 // parts.size),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),  # the same measurements have the same verdict
    )
    interval = found.confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def is_quiet(control: Interval, threshold: float) -> bool:
    """Whether a version against itself is known to lie within the threshold."""
    return control.low >= 1 / (1 + threshold) and control.high <= 1 + threshold


def judge(measured: Interval, control: Interval, threshold: float) -> Verdict:
    """What one series says of a benchmark.

    "slower" or "faster" where all of the interval lies beyond the threshold, "unclear" where it may
    be slower, "inconclusive" where the control is not quiet.
    """
    if not is_quiet(control, threshold):
        return "inconclusive"
    if measured.low > 1 + threshold:
        return "slower"
    if measured.high > 1 + threshold:
        return "unclear"
    return "faster" if measured.high < 1 / (1 + threshold) else "same"


def overall(verdicts: Iterable[Verdict]) -> Overall:
    """Of all benchmarks, each judged to the end."""
    found = set(verdicts)
    if "slower" in found:
        return "fail"
    return "inconclusive" if not found or found & {"unclear", "inconclusive"} else "pass"
