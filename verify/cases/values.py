"""Cases by the values of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..case import Array, DType, Problem, Random, case, cast, normal, random_labels, uniform

WIDE_DTYPES: Final = ("float32", "float64")

# Differences m - x for which exp(x - m) runs through the smallest normal and subnormal numbers
# of the float that losses and gradients are kept in.
_LOSS_GAPS: Final = {
    "float64": (100.0, 700.0, 708.0, 709.0, 720.0, 740.0, 744.0),
    "other": (20.0, 60.0, 87.0, 88.0, 95.0, 100.0, 103.0),
}
_GRADIENT_GAPS: Final = {
    "float16": (8.0, 18.0),
    "bfloat16": (84.0, 100.0),
    "float32": (84.0, 105.0),
    "float64": (704.0, 747.0),
}


@case()
def gaussian(random: Random, dtype: DType) -> Iterator[Problem]:
    """The ordinary row: logits of unit variance."""
    logits = normal(random, 16, 1000, dtype)
    yield Problem(logits, random_labels(random, logits))


@case()
def wide(random: Random, dtype: DType) -> Iterator[Problem]:
    """A standard deviation of 30: few classes matter, and exponents are large."""
    logits = normal(random, 16, 1000, dtype, sigma=30.0)
    yield Problem(logits, random_labels(random, logits))


@case()
def heavy_tailed(random: Random, dtype: DType) -> Iterator[Problem]:
    """Cauchy logits: single classes lie far beyond all the others."""
    logits = cast(np.clip(random.standard_cauchy((16, 1000)), -6e4, 6e4), dtype)
    yield Problem(logits, random_labels(random, logits))


@case()
def uniform_logits(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits spread evenly: every exponent of the exponential comes up."""
    for n_classes, half_width in ((300, 1.0), (1000, 20.0), (1000, 100.0)):
        logits = cast(random.uniform(-half_width, half_width, (8, n_classes)), dtype)
        yield Problem(logits, random_labels(random, logits), f"within {half_width:g}")


@case()
def trained_classifier(random: Random, dtype: DType) -> Iterator[Problem]:
    """A good classifier: the label leads by about 8, a few classes come close, one row is wrong."""
    logits = normal(random, 24, 1000, dtype, sigma=1.5)
    labels = random_labels(random, logits)
    near = (labels[:, None] + np.array([1, 2, 3])) % 1000
    i = np.arange(24)
    logits[i[:, None], near] = cast(5.0 + random.standard_normal(near.shape), dtype)
    logits[i, labels] = cast(8.0 + 4.0 * random.standard_normal(24), dtype)
    labels[5] = near[5, 0]
    yield Problem(logits, labels)


@case()
def language_model(random: Random, dtype: DType) -> Iterator[Problem]:
    """A vocabulary of 32000: few tokens are likely, most far below, and all negative on average."""
    ranks = np.arange(1, 32_001)
    base = -1.1 * np.log(ranks) - 2.0
    logits = base[random.permuted(np.tile(ranks - 1, (4, 1)), axis=1)]
    logits = cast(logits + 1.5 * random.standard_normal(logits.shape), dtype)
    scores = logits.astype(np.float64)
    labels = (scores + random.gumbel(size=scores.shape)).argmax(axis=1)
    yield Problem(logits, labels)


@case()
def shiftable(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits on a coarse grid, so that a number can be added to all without rounding."""
    step = {"float16": 0.5, "bfloat16": 1.0}.get(dtype.name, 2.0**-6)
    for n_classes in (10, 700):
        logits = cast(
            step * random.integers(-round(8 / step), round(8 / step), (9, n_classes)), dtype
        )
        yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")


@case()
def all_equal(random: Random, dtype: DType) -> Iterator[Problem]:
    """Equal logits: a loss of log(n_classes), every class holds the maximum; and one other row."""
    values = np.array([0.0, 1.0, -3.5, 88.0, -1000.0, 60000.0, 2.0])
    for n_classes in (2, 7, 1000, 1024, 1025, 4096):
        logits = cast(np.repeat(values[:, None], n_classes, axis=1), dtype)
        logits[-1, n_classes // 2] = 3.0
        yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")


@case(level="default")
def many_ties(random: Random, dtype: DType) -> Iterator[Problem]:
    """More equal maxima than 16 bits count, and one class that is below."""
    logits = np.zeros((2, 70_001), dtype)
    logits[:, 35_000] = -3.0
    yield Problem(logits, np.array([70_000, 35_000]))


@case()
def ties(random: Random, dtype: DType) -> Iterator[Problem]:
    """Several classes share the maximum, within one block and in different ones."""
    logits = normal(random, 12, 3000, dtype)
    labels = random_labels(random, logits)
    for i in range(12):
        tied = random.choice(3000, size=(2, 3, 17, 500)[i % 4], replace=False)
        logits[i, tied] = cast(np.array(3.0 + 10.0 * (i // 4)), dtype)
        if i % 3:
            labels[i] = tied[0]
    yield Problem(logits, labels)


@case()
def forty_zero(random: Random, dtype: DType) -> Iterator[Problem]:
    """[40, 0]: the loss is 4.248e-18, and 0 where 1 + exp(-40) is rounded."""
    logits = cast(np.array([[40.0, 0.0], [0.0, 40.0], [40.0, 0.0], [0.0, 40.0]]), dtype)
    yield Problem(logits, np.array([0, 1, 1, 0]))


@case()
def confident(random: Random, dtype: DType) -> Iterator[Problem]:
    """One class leads by 8 to 60, and it is the label, or another one is."""
    logits = normal(random, 24, 1000, dtype)
    labels = random_labels(random, logits)
    leads = np.linspace(8.0, 60.0, 24)
    logits[np.arange(24), labels] = cast(4.0 + leads, dtype)
    labels[::4] = (labels[::4] + 1) % 1000
    yield Problem(logits, labels)


@case(standard=())
def very_confident(random: Random, dtype: DType) -> Iterator[Problem]:
    """The lead is so large that loss and label gradient come near the smallest subnormal."""
    gaps = np.array(_LOSS_GAPS["float64" if dtype.name == "float64" else "other"])
    for n_classes, label in ((2, 0), (2, 1), (3, 1), (40, 17), (1500, 3), (1500, 1499)):
        logits = np.zeros((gaps.size, n_classes))
        logits[:, label] = gaps
        labels = np.full(gaps.size, label)
        yield Problem(cast(logits, dtype), labels, f"{n_classes} classes, label {label}")


@case()
def scattered_masked(random: Random, dtype: DType) -> Iterator[Problem]:
    """A third of the classes are -inf."""
    logits = normal(random, 16, 2500, dtype, sigma=3.0)
    logits[uniform(random, logits.shape) < 0.33] = -np.inf
    labels = random_labels(random, logits)
    logits[np.arange(16), labels] = cast(random.standard_normal(16), dtype)
    yield Problem(logits, labels)


@case()
def leading_masked(random: Random, dtype: DType) -> Iterator[Problem]:
    """The first classes are -inf, so whole blocks pass without a maximum."""
    for n_masked in (1, 17, 1023, 1024, 1025, 2048, 3000):
        logits = normal(random, 4, n_masked + 700, dtype)
        logits[:, :n_masked] = -np.inf
        labels = random.integers(n_masked, n_masked + 700, 4)
        yield Problem(logits, labels, f"{n_masked} masked")


@case()
def leading_masked_segment(random: Random, dtype: DType) -> Iterator[Problem]:
    """33000 leading -inf: two whole segments of the row pass without a maximum."""
    logits = normal(random, 2, 36_000, dtype)
    logits[:, :33_000] = -np.inf
    labels = random.integers(33_000, 36_000, 2)
    logits[1, labels[1]] = 15.0
    yield Problem(logits, labels)


@case(standard=WIDE_DTYPES)
def offset_3000(random: Random, dtype: DType) -> Iterator[Problem]:
    """All logits share an offset of 3000 or -3000, which must cancel."""
    for offset in (3000.0, -3000.0):
        logits = cast(offset + 5 * random.standard_normal((12, 1000)), dtype)
        yield Problem(logits, random_labels(random, logits), f"offset {offset:g}")


@case(dtypes=WIDE_DTYPES, standard=("float64",))
def offset_1e8(random: Random, dtype: DType) -> Iterator[Problem]:
    """All logits share an offset of 1e8 or -1e8, far beyond the range of exp."""
    for offset in (1e8, -1e8):
        logits = cast(offset + 20 * random.standard_normal((12, 1000)), dtype)
        yield Problem(logits, random_labels(random, logits), f"offset {offset:g}")


@case()
def around_exact_difference(random: Random, dtype: DType) -> Iterator[Problem]:
    """The largest logit lies about where the way to reduce the exponent changes."""
    switch = 1490.0 if dtype.name == "float64" else 208.0
    for sign in (1.0, -1.0):
        shifts = sign * switch + np.linspace(-6.0, 6.0, 12)
        logits = cast(shifts[:, None] + 20 * random.standard_normal((12, 500)), dtype)
        yield Problem(logits, random_labels(random, logits), f"around {sign * switch:g}")


@case()
def subnormal_logits(random: Random, dtype: DType) -> Iterator[Problem]:
    """Logits that are subnormal numbers of their dtype: as good as 0; the last row has a 20."""
    smallest = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}
    step = smallest.get(dtype.name, 2.0**-1074)
    logits = cast(step * random.integers(-100, 101, (8, 600)), dtype)
    labels = random_labels(random, logits)
    labels[-1] = 300
    logits[-1, 300] = 20.0
    yield Problem(logits, labels)


@case()
def subnormal_gradients(random: Random, dtype: DType) -> Iterator[Problem]:
    """Probabilities in the subnormal range of the gradient's dtype, and just around it."""
    low, high = _GRADIENT_GAPS[dtype.name]
    logits = cast(-random.uniform(low, high, (8, 1500)), dtype)
    logits[:, 700] = 0.0
    labels = random_labels(random, logits)
    labels[:2] = 700
    yield Problem(logits, labels)


@case(standard=())
def many_subnormals(random: Random, dtype: DType) -> Iterator[Problem]:
    """Subnormal losses and gradients in rows enough for two threads, of few and many classes."""
    gaps = np.array(_LOSS_GAPS["float64" if dtype.name == "float64" else "other"])[2:]
    for n_rows, n_classes in ((28_000, 5), (120, 1200)):
        logits = np.zeros((n_rows, n_classes))
        labels = random.integers(0, n_classes, n_rows)
        leads = random.choice(gaps, n_rows)
        leads[::2] = random.uniform(*_GRADIENT_GAPS[dtype.name], leads[::2].size)
        logits[np.arange(n_rows), labels] = leads
        yield Problem(cast(logits, dtype), labels, f"{n_classes} classes")


@case()
def huge(random: Random, dtype: DType) -> Iterator[Problem]:
    """Magnitudes near the largest number of the dtype, of one sign and of both."""
    largest = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38}.get(dtype.name, 1.79e308)
    fractions = random.uniform(-1.0, 1.0, (9, 300))
    fractions[3:6] = abs(fractions[3:6])
    fractions[6:] = -abs(fractions[6:])
    fractions[::3, 0] = 1.0
    fractions[::3, 1] = -1.0
    logits = cast(largest * fractions, dtype)
    labels = random_labels(random, logits)
    labels[0], labels[3], labels[6] = 0, 1, 1
    yield Problem(logits, labels)


@case()
def ascending(random: Random, dtype: DType) -> Iterator[Problem]:
    """Sorted upwards: the maximum rises in every block and every segment."""
    for span in (20.0, 400.0):
        logits = cast(np.sort(random.uniform(-span, span, (3, 20000)), axis=1), dtype)
        yield Problem(logits, random_labels(random, logits), f"span {span:g}")


@case()
def descending(random: Random, dtype: DType) -> Iterator[Problem]:
    """Sorted downwards: the maximum is known from the first block on."""
    for span in (20.0, 400.0):
        logits = cast(-np.sort(random.uniform(-span, span, (3, 20000)), axis=1), dtype)
        yield Problem(logits, random_labels(random, logits), f"span {span:g}")


@case()
def trouble(random: Random, dtype: DType) -> Iterator[Problem]:
    """Rows with a NaN, +inf or nothing but -inf are NaN, and the rows between them are not."""
    logits = normal(random, 17, 2100, dtype)
    labels = random_labels(random, logits)
    logits[1, 0] = np.nan
    logits[3, 2099] = np.nan
    logits[5, labels[5]] = np.nan
    logits[7, 1500] = np.inf
    logits[9] = -np.inf
    logits[11, labels[11]] = np.inf
    logits[13, 40] = np.inf
    logits[13, 1800] = np.nan
    logits[15] = -np.inf
    logits[15, 1030] = np.nan
    yield Problem(logits, labels)


def _in_trouble(random: Random, n_classes: int, dtype: DType) -> Array:
    """Rows with NaN or +inf at the start, in the middle and at the end, and rows of -inf."""
    logits = normal(random, 11, n_classes, dtype)
    for i, (value, j) in enumerate(
        (value, j) for value in (np.nan, np.inf) for j in (0, n_classes // 2, n_classes - 1)
    ):
        logits[i + i // 3, j] = value
    logits[8] = -np.inf
    logits[9, 1:] = -np.inf
    return logits


@case()
def trouble_of_few_classes(random: Random, dtype: DType) -> Iterator[Problem]:
    """NaN, +inf and masks among few classes, where rows share a vector."""
    for n_classes in (2, 3, 10, 17, 33, 64, 100, 128, 129):
        logits = _in_trouble(random, n_classes, dtype)
        yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")
        logits = normal(random, 19, n_classes, dtype, sigma=2.0)
        logits[uniform(random, logits.shape) < 0.4] = -np.inf
        logits[:, n_classes // 3] = cast(random.standard_normal(19), dtype)
        labels = random_labels(random, logits)
        note = f"{n_classes} classes, masked"
        yield Problem(logits, labels, note)
        yield Problem(logits, labels, f"{note}, smoothed", options={"label_smoothing": 0.1})
        logits[::4] = np.nan
        labels[::4] = -100
        yield Problem(logits, labels, f"{note}, ignored", ignore_index=-100)


@case(level="default")
def trouble_of_many_classes(random: Random, dtype: DType) -> Iterator[Problem]:
    """The same in rows of several segments, and in one that threads share."""
    for n_classes in (17_000, 40_000):
        logits = _in_trouble(random, n_classes, dtype)
        yield Problem(logits, random_labels(random, logits), f"{n_classes} classes")
    for value, j in ((np.nan, 0), (np.nan, 139_999), (np.inf, 70_000), (0.0, 5)):
        logits = normal(random, 2, 140_000, dtype)
        logits[0, 20_000:120_000] = -np.inf
        logits[1, j] = value
        yield Problem(logits, np.array([130_000, 3]), f"140000 classes, {value} at {j}")


CASES = (
    gaussian,
    wide,
    heavy_tailed,
    uniform_logits,
    trained_classifier,
    language_model,
    shiftable,
    all_equal,
    ties,
    many_ties,
    forty_zero,
    confident,
    very_confident,
    scattered_masked,
    leading_masked,
    leading_masked_segment,
    offset_3000,
    offset_1e8,
    around_exact_difference,
    subnormal_logits,
    subnormal_gradients,
    many_subnormals,
    huge,
    ascending,
    descending,
    trouble,
    trouble_of_few_classes,
    trouble_of_many_classes,
)
