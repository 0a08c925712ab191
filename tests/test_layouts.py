"""Axes, strides, byte order, memory and array protocols of the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import FLOATS, Array, as_rows, loss_dtype, random_logits, random_probs, same_bits

import fastxent


def results(logits: Any, labels: Any, backend: str, **options: Any) -> tuple[Array, Array]:
    losses, gradient = fastxent.cross_entropy_with_grad(
        logits, labels, reduction="none", backend=backend, **options
    )
    return losses, gradient


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((6,), 0),
        ((4, 6), 0),
        ((4, 6), -1),
        ((2, 5, 3, 4), 1),
        ((2, 5, 3, 4), -3),
        ((2, 5, 3, 4), 0),
        ((2, 5, 3, 4), 3),
        ((1, 1, 1, 1, 7, 1), 4),
        ((3, 0, 4), -1),
        ((2,) * 8, 5),
    ],
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_any_axis_of_any_shape(backend: str, shape: tuple[int, ...], axis: int, soft: bool) -> None:
    logits = random_logits(shape)
    last = np.moveaxis(logits, axis, -1)
    batch, n_classes = last.shape[:-1], last.shape[-1]
    labels: Array
    if soft:
        labels = random_probs(last.shape)
        given = np.moveaxis(labels, -1, axis)
    else:
        given = labels = np.random.default_rng(2).integers(0, n_classes, batch)
    losses, gradient = results(logits, given, backend, axis=axis)
    want, want_gradient = results(
        np.ascontiguousarray(last).reshape(-1, n_classes),
        labels.reshape(-1, n_classes) if soft else labels.reshape(-1),
        backend,
    )
    assert same_bits(as_rows(losses, want.dtype), want.reshape(batch))
    assert same_bits(np.moveaxis(gradient, axis, -1), want_gradient.reshape(last.shape))


def strided_variants(logits: Array) -> dict[str, Array]:
    rows, classes = logits.shape
    size = logits.itemsize
    memory = np.zeros(logits.nbytes + size, np.uint8)
    misaligned = memory[1 : 1 + logits.nbytes].view(logits.dtype).reshape(rows, classes)
    misaligned[...] = logits
    padded = np.zeros((rows, classes + 5), logits.dtype)
    padded[:, :classes] = logits
    variants = {
        "fortran": np.asfortranarray(logits),
        "transposed": np.ascontiguousarray(logits.T).T,
        "rows backwards": np.ascontiguousarray(logits[::-1])[::-1],
        "classes backwards": np.ascontiguousarray(logits[:, ::-1])[:, ::-1],
        "every other": np.repeat(np.repeat(logits, 2, 0), 3, 1)[::2, ::3],
        "padded": padded[:, :classes],
        "misaligned": misaligned,
    }
    if logits.dtype.name != "bfloat16":
        variants["other byte order"] = logits.astype(logits.dtype.newbyteorder())
    frozen = logits.copy()
    frozen.flags.writeable = False
    variants["read-only"] = frozen
    return variants


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strides_byte_order_and_alignment_change_nothing(
    backend: str, dtype: np.dtype[Any]
) -> None:
    logits = random_logits((5, 43), dtype)
    for labels in (np.array([0, 42, 7, 7, 3]), random_probs((5, 43))):
        losses, gradient = results(logits, labels, backend)
        for name, variant in strided_variants(logits).items():
            before = variant.tobytes()
            got, got_gradient = results(variant, labels, backend)
            assert same_bits(got, losses), name
            assert got_gradient.dtype == variant.dtype, name
            assert same_bits(got_gradient.astype(dtype), gradient), name
            assert variant.tobytes() == before, name


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_broadcast_logits_are_read_row_by_row(backend: str, dtype: np.dtype[Any]) -> None:
    row = random_logits((1, 11), dtype)
    column = random_logits((4, 1), dtype)
    labels = np.arange(4)
    for logits in (np.broadcast_to(row, (4, 11)), np.broadcast_to(column, (4, 11))):
        got = results(logits, labels, backend)
        want = results(logits.copy(), labels, backend)
        assert same_bits(got[0], want[0])
        assert same_bits(got[1], want[1])
        assert got[1].flags.writeable


def test_overlapping_windows_are_read_right(backend: str) -> None:
    series = random_logits((30,))
    windows = np.lib.stride_tricks.sliding_window_view(series, 8)
    labels = np.arange(23) % 8
    got = results(windows, labels, backend)
    want = results(windows.copy(), labels, backend)
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])


class OnlyArray:
    """Offers NumPy's array protocol and nothing else."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self._array


class OnlyDlpack:
    """Offers DLPack and nothing else."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("protocol", [OnlyArray, OnlyDlpack])
def test_array_protocols_are_taken_without_a_copy(backend: str, protocol: Any) -> None:
    logits = random_logits((4, 9))
    labels = np.array([0, 8, 3, 3])
    want = results(logits, labels, backend)
    got = results(protocol(logits), protocol(labels), backend)
    assert same_bits(got[0], want[0])
    assert same_bits(got[1], want[1])
    _, in_place = results(protocol(logits), protocol(labels), backend, out=logits)
    assert in_place is logits
    assert same_bits(logits, want[1])


class OnAnotherDevice:
    """A tensor that does not lie on the CPU."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_arrays_on_another_device_are_refused() -> None:
    with pytest.raises(TypeError, match=r"logits is a OnAnotherDevice .*cuda:0.*pass a NumPy"):
        fastxent.softmax(OnAnotherDevice())
    with pytest.raises(TypeError, match=r"labels is a OnAnotherDevice"):
        fastxent.cross_entropy(random_logits((2, 3)), OnAnotherDevice())


def test_lists_of_numbers_are_logits(backend: str) -> None:
    loss, gradient = fastxent.cross_entropy_with_grad([[0.0, 0.0]], [1], backend=backend)
    assert loss == np.log(2)
    assert gradient.tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 0, 3)])
def test_an_empty_batch_is_not_an_error(
    backend: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    logits = np.empty(shape, dtype)
    for labels in (np.empty(shape[:-1], int), np.empty(shape, np.float32)):
        losses, gradient = results(logits, labels, backend)
        assert losses.shape == shape[:-1]
        assert losses.dtype == loss_dtype(dtype)
        assert gradient.shape == shape
        assert gradient.dtype == dtype
        assert fastxent.cross_entropy(logits, labels, reduction="sum", backend=backend) == 0
        assert np.isnan(fastxent.cross_entropy(logits, labels, backend=backend))
        mean, gradient = fastxent.cross_entropy_with_grad(logits, labels, backend=backend)
        assert np.isnan(mean)
        assert gradient.shape == shape
    assert fastxent.softmax(logits, backend=backend).shape == shape
    assert fastxent.logsumexp(logits, backend=backend).shape == shape[:-1]


def test_an_empty_list_is_the_labels_of_an_empty_batch(backend: str) -> None:
    losses = fastxent.cross_entropy(np.empty((0, 3)), [], reduction="none", backend=backend)
    assert losses.shape == (0,)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_class_has_no_loss_and_no_gradient(backend: str, dtype: np.dtype[Any]) -> None:
    logits = random_logits((5, 1), dtype)
    for labels in (np.zeros(5, int), np.ones((5, 1), dtype)):
        losses, gradient = results(logits, labels, backend)
        assert not losses.any()
        assert not gradient.any()
