"""What NumPy does about underflow and the like (`numpy.seterr`) is nothing to fastxent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import FLOATS, Array, run_python, same_bits

import fastxent

both_drivers = pytest.mark.usefixtures("driver")
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
Call = Callable[[], Any]


def extreme_logits(dtype: Any) -> Array:
    with np.errstate(all="ignore"):
        largest = np.finfo(np.float32 if dtype.itemsize < 4 else dtype).max
        rows = np.array([
            [90, 0, -np.inf], [0, 110, -3], [800, 0, 0], [largest, -largest, largest / 2],
            [1e-310, -1e-310, 0], [1e-45, 1e-40, -1e-39], [1e-8, -6e-8, 1e-5], [16, 0, -0.0],
            [np.nan, 0, 1], [np.inf, 0, 1], [-np.inf] * 3, [3e38, -3e38, 1e38],
        ])  # fmt: skip
        return rows.astype(dtype)


LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, -1])
PROBS = np.array([[1e-320, 1, 0], [1e-40, 1 - 1e-7, 1e-38], [1e30, 1e-30, 0], [0, 0, 0]] * 3)
with np.errstate(all="ignore"):
    NARROW_PROBS = PROBS.astype(np.float32)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"class_weight": [1e-40, 1, 1e30]},
    {"class_weight": np.array([1e-320, 1e-46, 1])},
    {"class_weight": np.array([1, 2, 3], np.longdouble) / 10**400},
    {"sample_weight": np.array([1e-320, 1e30, 0, 1e-45] * 3), "label_smoothing": 1e-40},
    {"class_weight": [1e-200, 1, 2], "sample_weight": np.full(12, 1e-200)},
    {"label_smoothing": 0.1, "z_loss": 1e30},
    {"z_loss": 1e-320, "temperature": 1e-30},
    {"temperature": 1e30, "softcap": 1e-30},
    {"softcap": 1e30, "temperature": np.longdouble(3.7)},
]
MEANS: list[dict[str, Any]] = [
    {"reduction": "none"},
    {"reduction": "sum"},
    {"reduction": "mean"},
    {"reduction": "mean", "normalizer": 1e-320},
    {"reduction": "sum", "normalizer": np.float32(3e38)},
    {"reduction": "mean", "mean_over": "valid"},
]


def targets(dtype: Any) -> Iterator[tuple[Array, dict[str, Any]]]:
    yield LABELS, {"ignore_index": -1}
    yield PROBS if dtype.itemsize == 8 else NARROW_PROBS, {}


def losses_and_more(logits: Array, backend: str) -> Iterator[Call]:
    for labels, ignored in targets(logits.dtype):
        for options in OPTIONS:
            given = {**options, **ignored, "backend": backend}
            yield lambda a=labels, o=given: fastxent.row_stats(logits, a, **o)
            for mean in MEANS:
                yield lambda a=labels, o=given, m=mean: fastxent.cross_entropy(logits, a, **o, **m)
                yield lambda a=labels, o=given, m=mean: fastxent.cross_entropy_with_grad(
                    logits, a, grad_labels=a.ndim > 1, **o, **m
                )
                if not {"temperature", "softcap", "z_loss"} & set(options):
                    yield lambda a=labels, o=given, m=mean: fastxent.cross_entropy_grad_hess(
                        logits, a, hess_factor=1e-30, **o, **m
                    )
                    yield lambda a=labels, o=given, m=mean: fastxent.cross_entropy_hvp(
                        logits, a, logits, **o, **m
                    )
                yield lambda a=labels, o=given, m=mean: of_shards(logits, a, o, m)


def of_shards(
    logits: Array, labels: Array, options: dict[str, Any], mean: dict[str, Any]
) -> list[Any]:
    weights = options.get("class_weight")
    results: list[Any] = []
    shards = []
    for first, last in ((0, 2), (2, 3)):
        shards.append({
            "logits": logits[:, first:last],
            "labels": labels[:, first:last] if labels.ndim > 1 else labels,
            "class_offset": first,
            "class_weight": None if weights is None else weights[first:last],
        })  # fmt: skip
    state = fastxent.merge(*(fastxent.partial(**(options | shard)) for shard in shards))
    results += [state.numbers, state.max_logit, state.sum_exp, state.has_label]
    results.append(fastxent.finish(state, **mean))
    for shard in shards:
        ignored = {"ignore_index": options.get("ignore_index")}
        results.append(fastxent.finish_grad(state, **shard, **ignored, **mean))
    return results


def other_functions(logits: Array, backend: str) -> Iterator[Call]:
    options: dict[str, Any] = {"backend": backend}
    for function in (fastxent.softmax, fastxent.log_softmax, fastxent.logsumexp):
        for axis in (-1, 0):
            yield lambda f=function, a=axis: f(logits, axis=a, **options)
    yield lambda: fastxent.row_stats(logits, **options)
    yield lambda: fastxent.sparse_softmax_cross_entropy_with_logits(abs(LABELS), logits, **options)
    yield lambda: fastxent.softmax_cross_entropy_with_logits(NARROW_PROBS, logits, **options)
    for mean, temperature in itertools.product(MEANS[:5], (1.0, 1e-30, 1e30)):
        yield lambda m=mean, t=temperature: fastxent.kl_divergence_with_logits_and_grad(
            logits[::-1].copy(), logits, temperature=t, **m, **options
        )
        yield lambda m=mean, t=temperature: fastxent.kl_divergence_with_logits(
            logits[::-1].copy(), logits, temperature=t, sample_weight=[1e-320, 1e30, 1] * 4, **m,
            **options,
        )  # fmt: skip


def flat(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | list):
        for part in result:
            yield from flat(part)
    elif result is not None:
        yield result


def check_that_nothing_depends_on_the_error_state(calls: Iterator[Call]) -> None:
    n_calls = 0
    for call in calls:
        want = list(flat(call()))
        for state in ("raise", "warn"):  # a warning is an error here
            with np.errstate(all=state):  # type: ignore[call-overload]
                got = list(flat(call()))
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
        n_calls += 1
    assert n_calls > 30


@both_drivers
@every_float
def test_losses_and_gradients_are_the_same_whatever_seterr_says(backend: str, dtype: Any) -> None:
    check_that_nothing_depends_on_the_error_state(losses_and_more(extreme_logits(dtype), backend))


@both_drivers
@every_float
def test_other_functions_are_the_same_whatever_seterr_says(backend: str, dtype: Any) -> None:
    check_that_nothing_depends_on_the_error_state(other_functions(extreme_logits(dtype), backend))


@both_drivers
def test_statistics_of_a_confident_row_are_subnormal_and_no_error(backend: str) -> None:
    with np.errstate(all="raise"):
        stats = fastxent.row_stats(np.array([[90, 0]], np.float32), [0], backend=backend)
    assert stats.losses is not None
    assert stats.losses[0] == np.float32(8.19401262e-40)


WRONG: dict[str, Call] = {
    "a NaN among probabilities": lambda: fastxent.cross_entropy(
        np.zeros((1, 2), np.float32), np.array([[np.nan, 1]], np.float32)
    ),
    "a subnormal probability below 0": lambda: fastxent.cross_entropy(
        np.zeros((1, 2), np.float32), np.array([[-1e-320, 1]])
    ),
    "a NaN among weights": lambda: fastxent.cross_entropy(
        np.zeros((1, 2)), [0], class_weight=[1, np.nan]
    ),
    "a weight beyond float64": lambda: fastxent.cross_entropy(
        np.zeros((1, 2)), [0], sample_weight=np.array([10], np.longdouble) ** 400
    ),
    "a normalizer that is NaN": lambda: fastxent.cross_entropy(
        np.zeros((1, 2)), [0], normalizer=np.float32(np.nan)
    ),
    "a temperature beyond float64": lambda: fastxent.cross_entropy(
        np.zeros((1, 2)), [0], temperature=np.longdouble(10) ** 400
    ),
}


@both_drivers
@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_the_same_error_whatever_seterr_says(call: Call) -> None:
    messages = []
    for state in ("ignore", "warn", "raise"):
        with np.errstate(all=state), pytest.raises(ValueError, match=r".") as error:  # type: ignore[call-overload]
            call()
        messages.append(str(error.value))
    assert len(set(messages)) == 1


def test_a_process_may_start_with_every_error_raised(backend: str) -> None:
    result = run_python(
        "import sys, numpy as np\n"
        "np.seterr(all='raise')\n"
        "import fastxent\n"
        "logits = np.array([[90, 0]], np.float32)\n"
        "print(float(fastxent.cross_entropy(logits, [0], backend=sys.argv[1])))\n",
        backend,
    )
    assert result.stderr == ""
    assert math.isclose(float(result.stdout), math.exp(-90), rel_tol=1e-6)
