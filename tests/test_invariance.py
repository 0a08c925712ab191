"""The same bits whatever the threads, the batch around a row, its stride and its alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastxent.verify.float_mode import MODES, control_bits, mode
from support import FLOATS, Array, random_logits, random_probs, same_bits

import fastxent
from fastxent import backends
from fastxent._plan import make_plan
from fastxent.backends import driver, python_driver

soft_or_hard = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def a_batch(shape: tuple[int, int], dtype: Any, soft: bool) -> tuple[Array, Array]:
    logits = random_logits(shape, dtype)
    if soft:
        return logits, random_probs(shape, dtype)
    return logits, np.random.default_rng(3).integers(0, shape[1], shape[0])


def assert_same(a: Any, b: Any) -> None:
    assert same_bits(a[0], b[0])
    assert same_bits(a[1], b[1])


@soft_or_hard
@every_float
@pytest.mark.parametrize("shape", [(301, 17), (33, 1025), (700, 3), (5, 3000)], ids=str)
@pytest.mark.usefixtures("eager_threads")
def test_threads_change_no_bit(
    backend: str,
    dtype: np.dtype[Any],
    soft: bool,
    shape: tuple[int, int],
) -> None:
    logits, labels = a_batch(shape, dtype, soft)
    for reduction in ("none", "sum", "mean"):
        options: dict[str, Any] = {"reduction": reduction, "backend": backend}
        one = fastxent.cross_entropy_with_grad(logits, labels, n_threads=1, **options)
        for n_threads in (2, 3, 7):
            more = fastxent.cross_entropy_with_grad(logits, labels, n_threads=n_threads, **options)
            assert_same(more, one)
            alone = fastxent.cross_entropy(logits, labels, n_threads=n_threads, **options)
            assert same_bits(alone, one[0])
    assert driver.worker_count() >= 2


@soft_or_hard
@every_float
@pytest.mark.parametrize("shape", [(1, 300_000), (3, 100_000), (2, 16385), (7, 32768)], ids=str)
@pytest.mark.usefixtures("eager_threads")
def test_rows_shared_by_threads_have_the_same_bits(
    backend: str,
    dtype: np.dtype[Any],
    soft: bool,
    shape: tuple[int, int],
) -> None:
    logits, labels = a_batch(shape, dtype, soft)
    logits[-1, : shape[1] // 2] = -np.inf
    if soft:
        labels[-1, : shape[1] // 2] = 0
    else:
        labels[-1] = shape[1] - 1
    options: dict[str, Any] = {"reduction": "none", "backend": backend}
    one = fastxent.cross_entropy_with_grad(logits, labels, n_threads=1, **options)
    assert np.isfinite(one[0]).all()
    for n_threads in (2, 3):
        more = fastxent.cross_entropy_with_grad(logits, labels, n_threads=n_threads, **options)
        assert_same(more, one)
        alone = fastxent.cross_entropy(logits, labels, n_threads=n_threads, **options)
        assert same_bits(alone, one[0])
        for function in (fastxent.softmax, fastxent.log_softmax, fastxent.logsumexp):
            assert same_bits(
                function(logits, backend=backend, n_threads=n_threads),
                function(logits, backend=backend, n_threads=1),
            )


def rows_whose_maxima_come_late(n_classes: int) -> Array:
    """Exponentials of the first blocks are relative to other maxima than the last one."""
    j = np.arange(n_classes)
    noise = random_logits((8, n_classes))
    rises = [j / 1024, j / 100, 30.0 * (j // 1024), 1e4 + j / 1024, j * 0.0]
    rows = [np.float32(noise[k] + rise) for k, rise in enumerate(rises)]
    first = np.where(j < 3000, -np.inf, noise[5] + j / 1024)
    last = np.where(j == n_classes - 1, 60.0, noise[6])
    # relative to the last one exponentials are 0 or subnormal, relative to the first they are not
    far_below = np.linspace(-130.0, -105.0, n_classes)
    far_below[0], far_below[-1] = 0.0, 20 * np.log(2)
    return np.array([*rows, first, last, far_below], np.float32)


@pytest.mark.parametrize("n_classes", [16385, 40_000, 131_072, 131_073])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"label_smoothing": 0.1}, {"temperature": 0.7}, {"softcap": 30.0}, {"z_loss": 1e-3},
        {"sample_weight": 2.0**36}, {"sample_weight": 2.0**40}, {"sample_weight": 2.0**80},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("eager_threads", "driver")
def test_kept_exponentials_give_the_bits_of_computed_ones(
    backend: str, n_classes: int, options: dict[str, Any]
) -> None:
    """A row that threads share keeps none, nor does one of more than 131072 classes."""
    logits = rows_whose_maxima_come_late(n_classes)
    labels = np.array([0, 1024, n_classes - 1, 5, 0, 0, n_classes - 1, 0])

    def evaluate(times: int, n_threads: int) -> Any:
        given = dict(options)
        if "sample_weight" in options:
            given["sample_weight"] = np.full(8 * times, options["sample_weight"])
        return fastxent.cross_entropy_with_grad(
            np.tile(logits, (times, 1)), np.tile(labels, times), reduction="none",
            backend=backend, n_threads=n_threads, **given,
        )  # fmt: skip

    assert make_plan(8, n_classes, backend, 2).splits_rows
    whole = evaluate(1, 1)
    assert_same(whole, evaluate(1, 2))
    # each thread keeps exponentials of its own
    assert not make_plan(24, n_classes, backend, 2).splits_rows
    many = evaluate(3, 2)
    assert_same((many[0][:8], many[1][:8]), whole)
    assert_same((many[0][16:], many[1][16:]), whole)


@pytest.mark.usefixtures("eager_threads")
def test_ignored_and_spoilt_rows_are_the_same_where_threads_share_them(backend: str) -> None:
    logits = random_logits((5, 40_000))
    logits[1, 39_999] = np.nan
    logits[2] = -np.inf
    logits[3, 17_000] = np.inf
    labels = np.array([-1, 3, 39_999, 0, 16_384])
    options: dict[str, Any] = {"reduction": "none", "ignore_index": -1, "backend": backend}
    one = fastxent.cross_entropy_with_grad(logits, labels, n_threads=1, **options)
    assert np.isnan(one[0]).tolist() == [False, True, True, True, False]
    assert_same(fastxent.cross_entropy_with_grad(logits, labels, n_threads=3, **options), one)


def test_large_work_is_the_same_on_two_threads_without_any_forcing(backend: str) -> None:
    logits, labels = a_batch((4000, 100), np.float32, soft=False)
    one = fastxent.cross_entropy_with_grad(logits, labels, n_threads=1, backend=backend)
    assert_same(fastxent.cross_entropy_with_grad(logits, labels, n_threads=2, backend=backend), one)


@soft_or_hard
@every_float
@pytest.mark.parametrize("n_classes", [1, 3, 16, 33, 1500, 17_000])
def test_a_row_alone_has_the_bits_it_has_in_a_batch(
    backend: str, dtype: np.dtype[Any], soft: bool, n_classes: int
) -> None:
    logits, labels = a_batch((5, n_classes), dtype, soft)
    options: dict[str, Any] = {"reduction": "none", "backend": backend}
    batch = fastxent.cross_entropy_with_grad(logits, labels, **options)
    for i in range(5):
        row = fastxent.cross_entropy_with_grad(logits[i : i + 1], labels[i : i + 1], **options)
        assert_same(row, (batch[0][i : i + 1], batch[1][i : i + 1]))
    order = np.array([3, 1, 4, 0, 2])
    mixed = fastxent.cross_entropy_with_grad(logits[order], labels[order], **options)
    assert_same(mixed, (batch[0][order], batch[1][order]))


@soft_or_hard
@every_float
@pytest.mark.parametrize("n_classes", [16, 61, 1030])
def test_alignment_and_row_stride_change_no_bit(
    backend: str, dtype: np.dtype[Any], soft: bool, n_classes: int
) -> None:
    logits, labels = a_batch((3, n_classes), dtype, soft)
    options: dict[str, Any] = {"reduction": "none", "backend": backend}
    want = fastxent.cross_entropy_with_grad(logits, labels, **options)
    row_bytes = n_classes * dtype.itemsize
    for offset in range(64):
        padded_bytes = row_bytes + dtype.itemsize * (offset % 7)
        memory = np.zeros(3 * padded_bytes + 128, np.uint8)
        start = (-memory.ctypes.data) % 64 + offset
        placed = np.ndarray((3, n_classes), dtype, memory, start, (padded_bytes, dtype.itemsize))
        assert placed.ctypes.data % 64 == offset
        placed[...] = logits
        assert same_bits(fastxent.cross_entropy(placed, labels, **options), want[0])
        got = fastxent.cross_entropy_with_grad(placed, labels, out=placed, **options)
        assert_same(got, want)


@every_float
def test_a_call_gives_the_same_bits_again(backend: str, dtype: np.dtype[Any]) -> None:
    logits, labels = a_batch((200, 333), dtype, soft=True)
    want = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, n_threads=3)
    for _ in range(20):
        got = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, n_threads=3)
        assert_same(got, want)


@soft_or_hard
@every_float
def test_backends_agree_to_a_few_places(dtype: np.dtype[Any], soft: bool) -> None:
    for n_classes in (2, 33, 1030, 17_000):
        logits, labels = a_batch((4, n_classes), dtype, soft)
        a, b = (
            fastxent.cross_entropy_with_grad(logits, labels, reduction="none", backend=name)
            for name in ("cython", "numba")
        )
        places = {2: 2.0**-7, 4: 2e-6, 8: 2e-12}[dtype.itemsize]
        assert np.allclose(a[0].astype(float), b[0].astype(float), rtol=min(places, 1e-6), atol=0)
        assert np.allclose(a[1].astype(float), b[1].astype(float), rtol=places, atol=places)


# ---- the caller's floating-point mode ------------------------------------------------------------


SMALL_WEIGHTS = np.full(300, 1e-40, np.float32)


def confident_batches(dtype: np.dtype[Any]) -> list[tuple[Array, Array]]:
    """Losses and gradients that are subnormal numbers, of few and many classes."""
    loss_lead = 740.0 if dtype.itemsize == 8 else 95.0
    gradient_lead = {2: 11.0}.get(dtype.itemsize, loss_lead)
    batches = []
    for n_rows, n_classes in ((300, 7), (40, 1030), (2, 40_000)):
        logits = random_logits((n_rows, n_classes), dtype, scale=0.5)
        labels = np.arange(n_rows) % n_classes
        leads = np.where(labels % 2, loss_lead, gradient_lead)
        logits[np.arange(n_rows), labels] += leads.astype(dtype)
        batches.append((logits, labels))
    return batches


def all_results(batches: list[tuple[Array, Array]], backend: str, n_threads: int) -> list[Any]:
    options: dict[str, Any] = {"backend": backend, "n_threads": n_threads}
    found: list[Any] = []
    for logits, labels in batches:
        for reduction in ("none", "sum", "mean"):
            found += fastxent.cross_entropy_with_grad(
                logits, labels, reduction=reduction, **options
            )
        found += fastxent.cross_entropy_with_grad(
            logits, labels, sample_weight=SMALL_WEIGHTS[: len(labels)], **options
        )
        found.append(fastxent.cross_entropy(logits, labels, normalizer=1e300, **options))
        found.append(fastxent.cross_entropy(logits, labels, normalizer=1e-310, **options))
        found.append(fastxent.softmax(logits, **options))
    return found


@pytest.mark.skipif(not MODES, reason="not known how to set a mode here")
@pytest.mark.parametrize("drives", [driver, python_driver], ids=["compiled", "python"])
@pytest.mark.parametrize("name", MODES)
@every_float
@pytest.mark.usefixtures("eager_threads")
def test_the_callers_floating_point_mode_changes_no_bit(
    backend: str, dtype: np.dtype[Any], name: str, drives: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "driver", drives)
    batches = confident_batches(dtype)
    want = all_results(batches, backend, 1)
    for n_threads in (1, 2):
        with mode(name):
            got = all_results(batches, backend, n_threads)
            assert control_bits() & MODES[name] == MODES[name]
        assert control_bits() == 0
        assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.skipif(not MODES, reason="not known how to set a mode here")
@pytest.mark.parametrize("drives", [driver, python_driver], ids=["compiled", "python"])
@pytest.mark.parametrize("name", MODES)
def test_an_error_leaves_the_callers_mode_as_it_was(
    name: str, drives: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "driver", drives)
    logits = np.zeros((3, 4), np.float32)
    with mode(name):
        with pytest.raises(ValueError, match="labels"):
            fastxent.cross_entropy(logits, np.array([0, 9, 1]))
        with pytest.raises(ValueError, match="sample_weight"):
            fastxent.cross_entropy(logits, np.array([0, 1, 1]), sample_weight=[1, -1, 1])
        with pytest.raises(TypeError):
            drives.evaluate(None, logits, None, None, None, None, 0, False, "chunk", 1)
        assert control_bits() & MODES[name] == MODES[name]
