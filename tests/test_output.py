"""The destination of a gradient or softmax: out=."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import FLOATS, Array, random_logits, random_probs, same_bits

import fastxent
from fastxent.backends.context import STREAM_BYTES


def a_batch(soft: bool, dtype: Any = np.float32) -> tuple[Array, Array]:
    logits = random_logits((5, 37), dtype)
    return logits, random_probs((5, 37)) if soft else np.array([36, 0, 5, 5, 17])


soft_or_hard = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])


@soft_or_hard
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_out_is_filled_and_returned(backend: str, dtype: np.dtype[Any], soft: bool) -> None:
    logits, labels = a_batch(soft, dtype)
    loss, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend)
    wide = np.full((5, 80), np.nan, dtype)
    misaligned = np.zeros(gradient.nbytes + 1, np.uint8)[1:].view(dtype).reshape(5, 37)
    destinations = {
        "packed": np.full((5, 37), np.nan, dtype),
        "fortran": np.asfortranarray(np.full((5, 37), np.nan, dtype)),
        "padded": wide[:, :37],
        "every other class": wide[:, :74:2],
        "backwards": np.full((5, 37), np.nan, dtype)[::-1, ::-1],
        "misaligned": misaligned,
    }
    for name, out in destinations.items():
        got, returned = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=out)
        assert returned is out, name
        assert same_bits(out, gradient), name
        assert got == loss, name
    assert np.isnan(wide[:, 75:].astype(np.float32)).all()


@soft_or_hard
@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype(">f4"), np.dtype(">f8")], ids=str)
def test_out_may_be_logits(backend: str, dtype: np.dtype[Any], soft: bool) -> None:
    logits, labels = a_batch(soft, dtype)
    loss, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend)
    wide = np.zeros((5, 80), dtype)
    for place in (logits.copy(), np.asfortranarray(logits), wide[:, 3:40], wide[::-1, :74:2]):
        place[...] = logits
        got, returned = fastxent.cross_entropy_with_grad(place, labels, backend=backend, out=place)
        assert returned is place
        assert got == loss
        assert same_bits(place, gradient)


@soft_or_hard
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.usefixtures("eager_threads")
def test_out_may_be_logits_where_threads_share_a_row(
    backend: str, dtype: np.dtype[Any], soft: bool
) -> None:
    logits = random_logits((2, 40000), dtype)
    labels = random_probs((2, 40000), dtype) if soft else np.array([39999, 0])
    loss, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend, n_threads=1)
    got, _ = fastxent.cross_entropy_with_grad(
        logits, labels, backend=backend, n_threads=3, out=logits
    )
    assert got == loss
    assert same_bits(logits, gradient)


def test_a_view_of_exactly_the_same_memory_counts_as_logits(backend: str) -> None:
    logits, labels = a_batch(soft=False)
    _, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend)
    fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=logits[:])
    assert same_bits(logits, gradient)


@pytest.mark.parametrize("function", [fastxent.softmax, fastxent.log_softmax])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax_takes_out_too(backend: str, dtype: np.dtype[Any], function: Any) -> None:
    logits, _ = a_batch(False, dtype)
    want = function(logits, backend=backend)
    out = np.full_like(logits, np.nan)
    assert function(logits, -1, out, backend=backend) is out
    assert same_bits(out, want)
    assert function(logits, out=logits, backend=backend) is logits
    assert same_bits(logits, want)


def refused_outs() -> dict[str, tuple[Any, type[Exception], str]]:
    read_only = np.full((5, 37), 7.0, np.float32)
    read_only.flags.writeable = False
    shared = np.full((1, 37), 7.0, np.float32)
    windows = np.lib.stride_tricks.as_strided(np.full(80, 7.0, np.float32), (5, 37), (4, 4))
    wanted = r"it must have that of logits, \(5, 37\)"
    return {
        "shape": (np.full((37, 5), 7.0, np.float32), ValueError, r"out has shape \(37, 5\).*"),
        "fewer axes": (np.full(185, 7.0, np.float32), ValueError, wanted),
        "dtype": (np.full((5, 37), 7.0), TypeError, "out has dtype float64.*float32"),
        "byte order": (np.full((5, 37), 7.0, ">f4"), TypeError, "out has dtype >f4"),
        "read-only": (read_only, ValueError, "out is read-only"),
        "one row for all": (
            np.lib.stride_tricks.as_strided(shared, (5, 37), (0, 4)),
            ValueError,
            "out has elements that share memory",
        ),
        "windows": (windows, ValueError, "out has elements that share memory"),
        "list": ([[7.0]], TypeError, "out must be a NumPy array, not list"),
    }


@pytest.mark.parametrize("case", refused_outs())
def test_an_out_that_does_not_fit_is_refused_and_untouched(backend: str, case: str) -> None:
    out, error, message = refused_outs()[case]
    logits, labels = a_batch(soft=False)
    with pytest.raises(error, match=message):
        fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=out)
    with pytest.raises(error, match=message):
        fastxent.softmax(logits, out=out, backend=backend)
    assert (np.asarray(out) == 7).all()


def test_an_out_that_overlaps_logits_in_part_is_refused(backend: str) -> None:
    memory = random_logits((6, 37))
    before = memory.copy()
    logits, labels = memory[:5], np.zeros(5, int)
    for out in (memory[1:], memory[4::-1], memory[:5][:, ::-1]):
        with pytest.raises(ValueError, match=r"out overlaps logits .* pass out=logits"):
            fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=out)
        with pytest.raises(ValueError, match="out overlaps logits"):
            fastxent.log_softmax(logits, out=out, backend=backend)
    assert same_bits(memory, before)


def test_an_out_that_lies_between_the_logits_is_no_overlap(backend: str) -> None:
    memory = np.zeros((5, 74), np.float32)
    logits, out = memory[:, ::2], memory[:, 1::2]
    plain, labels = a_batch(soft=False)
    logits[...] = plain
    fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=out)
    assert same_bits(logits, plain)
    assert same_bits(out, fastxent.cross_entropy_with_grad(plain, labels, backend=backend)[1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_out_without_rows_is_taken(backend: str, order: Any) -> None:
    logits, labels = np.zeros((0, 3, 4), np.float32), np.zeros((0, 3), int)
    out = np.zeros_like(logits, order=order)
    loss, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="sum", backend=backend, out=out
    )
    assert loss == 0
    assert gradient is out


def test_an_out_that_overlaps_labels_is_refused(backend: str) -> None:
    logits, _ = a_batch(soft=False)
    probs = random_probs((5, 37))
    before = probs.copy()
    with pytest.raises(ValueError, match="out overlaps labels"):
        fastxent.cross_entropy_with_grad(logits, probs, backend=backend, out=probs)
    assert same_bits(probs, before)
    memory = np.zeros((5, 37), np.float32)
    labels = memory.view(np.int32)[:, 0]
    with pytest.raises(ValueError, match="out overlaps labels"):
        fastxent.cross_entropy_with_grad(logits, labels, backend=backend, out=memory)
    assert not memory.any()


def test_in_place_over_windows_that_overlap_each_other_is_refused(backend: str) -> None:
    series = random_logits((30,))
    before = series.copy()
    windows = np.lib.stride_tricks.sliding_window_view(series, 8, writeable=True)
    with pytest.raises(ValueError, match="out has elements that share memory"):
        fastxent.cross_entropy_with_grad(windows, [0] * 23, backend=backend, out=windows)
    assert same_bits(series, before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("misaligned", [0, 1, 9])
def test_an_output_too_large_for_the_caches_is_written_like_any_other(
    backend: str, dtype: np.dtype[Any], misaligned: int
) -> None:
    # Beyond STREAM_BYTES stores go past the caches; a few rows of the same logits do not.
    n_classes, padding = 1001, 3
    n_rows = STREAM_BYTES // (n_classes * dtype.itemsize) + 2
    few = random_logits((7, n_classes), dtype)
    few[3, 5:9] = -np.inf
    logits = np.resize(few, (n_rows, n_classes))
    labels = np.resize(np.arange(0, 7 * 143, 143), n_rows)
    soft = np.resize(np.full((1, n_classes), 1 / 1024, dtype), logits.shape)
    width = n_classes + padding
    memory = np.full(n_rows * width + 16, 7, dtype)
    out = memory[misaligned : misaligned + n_rows * width].reshape(n_rows, width)[:, :n_classes]
    assert out.size * out.itemsize > STREAM_BYTES
    for labelled in (labels, soft):
        expected = fastxent.cross_entropy_with_grad(
            few, labelled[:7], reduction="none", backend=backend
        )[1]
        fastxent.cross_entropy_with_grad(
            logits, labelled, reduction="none", backend=backend, n_threads=2, out=out
        )
        assert same_bits(out, np.resize(expected, out.shape))
    for function in (fastxent.softmax, fastxent.log_softmax):
        function(logits, out=out, backend=backend, n_threads=2)
        assert same_bits(out, np.resize(function(few, backend=backend), out.shape))
    out[...] = 7
    assert (memory == 7).all()
