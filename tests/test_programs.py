"""Both drivers go through a program alike, and touch nothing that is not as the kernels take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import BFLOAT16, FLOATS, Array, random_logits, random_probs, same_bits

import fastxent
from fastxent import backends
from fastxent.backends import context, driver, python_driver

DRIVERS = {"compiled": driver, "python": python_driver}
NOTHING, GRADIENT = context.OUTPUT_NOTHING, context.OUTPUT_GRADIENT


@pytest.fixture(params=list(DRIVERS))
def evaluate(request: pytest.FixtureRequest) -> Callable[..., Any]:
    function: Callable[..., Any] = DRIVERS[request.param].evaluate
    return function


def program_of(
    logits: Array,
    target: Array | None,
    *,
    splits: bool = False,
    writes: bool = True,
    layout: int = context.LAYOUT_ROWS,
) -> context.Program:
    program = backends._make_program(
        "numba",
        layout,
        logits.dtype,
        None if target is None else target.dtype,
        splits,
        target is not None,
        "loss",
        GRADIENT if writes else NOTHING,
        False,
        False,
        False,
    )
    assert program is not None
    return program


LOGITS = random_logits((6, 5))
LABELS = np.array([0, 4, 2, 2, 1, 0])
PROBS = random_probs((6, 5))
LONG = random_logits((2, 40_000))

# logits, target, ignore_index, whether threads share rows, mean
CALLS: dict[str, tuple[Array, Array | None, int | None, bool, bool]] = {
    "labels": (LOGITS, LABELS, None, False, False),
    "mean": (LOGITS, LABELS, None, False, True),
    "ignored rows": (LOGITS, LABELS, 2, False, True),
    "all rows ignored": (LOGITS, np.zeros(6, np.int64), 0, False, True),
    "probabilities": (LOGITS, PROBS, None, False, True),
    "probabilities of another precision": (LOGITS, PROBS.astype(np.float64), None, False, True),
    "float64": (LOGITS.astype(np.float64), PROBS, None, False, False),
    "float16": (LOGITS.astype(np.float16), LABELS, None, False, False),
    "bfloat16": (LOGITS.astype(BFLOAT16), LABELS, None, False, False),
    "more axes": (LOGITS.reshape(2, 3, 5), LABELS.reshape(2, 3), 4, False, True),
    "one row": (LOGITS[0], np.array(3), None, False, False),
    "padded rows": (random_logits((6, 9))[:, 2:7], LABELS, None, False, False),
    "rows upside down": (LOGITS[::-1], LABELS, None, False, False),
    "no rows": (LOGITS[:0], LABELS[:0], None, False, True),
    "no target": (LOGITS, None, None, False, False),
    "a loss too large for float32": (
        np.array([[-3e38, 3e38]], np.float32), np.array([0]), None, False, False
    ),
    "rows shared by threads": (LONG, np.array([7, 39_999]), None, True, True),
    "rows shared by threads, one ignored": (LONG, np.array([7, 39_999]), 7, True, True),
    "rows shared by threads, probabilities": (LONG, random_probs(LONG.shape), None, True, False),
}  # fmt: skip


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("losses_dtype", [None, np.float32, np.float64])
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_both_drivers_do_the_same(
    case: str, writes: bool, losses_dtype: Any, n_threads: int
) -> None:
    logits, target, ignore_index, splits, mean = CALLS[case]
    program = program_of(logits, target, splits=splits, writes=writes)
    results = []
    for which in DRIVERS.values():
        losses = None if losses_dtype is None else np.full(logits.shape[:-1], 7, losses_dtype)
        output = np.full(logits.shape, 7, logits.dtype) if writes else None
        kind = GRADIENT if writes else NOTHING
        answer = which.evaluate(
            program, logits, target, ignore_index, losses, output, kind, mean, 2, n_threads
        )
        assert answer is not None
        results.append((answer, losses, output))
    (answer, losses, output), (other_answer, other_losses, other_output) = results
    assert answer == other_answer
    assert answer[0] == -1
    assert losses is None or same_bits(losses, other_losses)
    assert output is None or same_bits(output, other_output)


@pytest.mark.parametrize(
    ("target", "row"),
    [
        (np.array([0, 1, 5, 2, -1, 2]), 2),
        (np.array([0, 1, 2, 2, 2, -(2**63)]), 5),
        (np.where(np.arange(30).reshape(6, 5) == 21, np.float32(-1), PROBS), 4),
        (np.where(np.arange(30).reshape(6, 5) == 3, np.nan, PROBS), 0),
    ],
)
def test_where_a_row_is_wrong_nothing_is_written(
    evaluate: Callable[..., Any], target: Array, row: int
) -> None:
    program = program_of(LOGITS, target)
    losses, output = np.full(6, 7, np.float32), np.full_like(LOGITS, 7)
    answer = evaluate(program, LOGITS, target, None, losses, output, GRADIENT, True, 2, 1)
    assert answer == (row, 0, 0.0)
    assert (losses == 7).all()
    assert (output == 7).all()


def misaligned(array: Array) -> Array:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


class Subclass(np.ndarray[Any, Any]):
    pass


def swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


WIDE = np.zeros((6, 10), np.float32)

# What is wrong with one argument.
UNFIT: dict[str, dict[str, Any]] = {
    "logits of another dtype": {"logits": LOGITS.astype(np.float64)},
    "logits as wide integers": {"logits": LOGITS.view(np.int32)},
    "swapped logits": {"logits": swapped(LOGITS)},
    "misaligned logits": {"logits": misaligned(LOGITS)},
    "logits apart": {"logits": WIDE[:, ::2]},
    "logits with the classes first": {"logits": np.asfortranarray(LOGITS)},
    "a number": {"logits": LOGITS[0, 0].reshape(())},
    "no classes": {"logits": LOGITS[:, :0]},
    "too few logits": {"logits": LOGITS[:5]},
    "more axes": {"logits": LOGITS[None]},
    "no target": {"target": None},
    "narrow labels": {"target": LABELS.astype(np.int32)},
    "unsigned labels": {"target": LABELS.astype(np.uint64)},
    "swapped labels": {"target": swapped(LABELS)},
    "misaligned labels": {"target": misaligned(LABELS)},
    "labels apart": {"target": np.repeat(LABELS, 2)[::2]},
    "too few labels": {"target": LABELS[:5]},
    "a column of labels": {"target": LABELS[:, None]},
    "probabilities for labels": {"target": PROBS},
    "ignore_index too large": {"ignore_index": 2**63},
    "ignore_index too small": {"ignore_index": -(2**63) - 1},
    "ignore_index of floats": {"ignore_index": 1.0},
    "ignore_index a truth": {"ignore_index": True},
    "output of another dtype": {"output": np.zeros((6, 5))},
    "output of another shape": {"output": np.zeros((5, 6), np.float32)},
    "output apart": {"output": WIDE[:, ::2]},
    "swapped output": {"output": swapped(LOGITS)},
    "misaligned output": {"output": misaligned(LOGITS)},
    "read-only output": {"output": read_only(LOGITS)},
    "an output of no kind": {"output_kind": NOTHING},
    "no output": {"output": None},
    "too few losses": {"losses": np.zeros(5)},
    "losses as integers": {"losses": np.zeros(6, np.int64)},
    "losses apart": {"losses": np.zeros(12)[::2]},
    "read-only losses": {"losses": read_only(np.zeros(6))},
    "rows of one segment to be split": {"program": program_of(LOGITS, LABELS, splits=True)},
}


def arguments(**changed: Any) -> dict[str, Any]:
    plain = {
        "program": program_of(LOGITS, LABELS),
        "logits": LOGITS,
        "target": LABELS,
        "ignore_index": None,
        "losses": None,
        "output": np.zeros_like(LOGITS),
        "output_kind": GRADIENT,
        "mean": False,
        "chunk": 2,
        "n_threads": 1,
    }
    return plain | changed


@pytest.mark.parametrize("case", UNFIT)
def test_arrays_that_the_kernels_do_not_take_are_left_alone(
    evaluate: Callable[..., Any], case: str
) -> None:
    assert evaluate(*arguments().values()) is not None
    assert evaluate(*arguments(**UNFIT[case]).values()) is None


@pytest.mark.parametrize(
    "probs",
    [PROBS[:5], PROBS[:, :4], PROBS.astype(np.float16), LABELS, swapped(PROBS), None],
    ids=["rows", "classes", "dtype", "labels", "swapped", "none"],
)
def test_probabilities_that_do_not_fit_are_left_alone(
    evaluate: Callable[..., Any], probs: Any
) -> None:
    program = program_of(LOGITS, PROBS)
    assert evaluate(*arguments(program=program, target=PROBS).values()) is not None
    assert evaluate(*arguments(program=program, target=probs).values()) is None
    assert evaluate(*arguments(program=program, target=PROBS, ignore_index=1).values()) is None


@pytest.mark.parametrize("place", ["logits", "target", "output", "losses"])
@pytest.mark.parametrize(
    "garbage", [1, "text", [1.0], b"bytes", object()], ids=lambda each: type(each).__name__
)
def test_the_compiled_driver_takes_nothing_but_arrays(place: str, garbage: Any) -> None:
    assert driver.evaluate(*arguments(**{place: garbage}).values()) is None
    if place != "losses":
        assert driver.evaluate(*arguments(**{place: LOGITS.view(Subclass)}).values()) is None


def test_a_program_that_does_not_fit_is_refused(evaluate: Callable[..., Any]) -> None:
    for changed in ({"chunk": 0}, {"n_threads": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            evaluate(*arguments(**changed).values())
    for absent in ({"check": 0}, {"steps": ((0, context.ROWS),)}):
        program = program_of(LOGITS, LABELS)._replace(**absent)
        with pytest.raises(ValueError, match="does not fit this build"):
            evaluate(*arguments(program=program).values())


@pytest.mark.parametrize("program", [None, 1, (), (1, 2, 3), [1, 2, 3, 4, 5, 6], ("a",) * 6])
def test_the_compiled_driver_takes_nothing_for_a_program_that_is_none(program: Any) -> None:
    with pytest.raises(TypeError):
        driver.evaluate(*arguments(program=program).values())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_short_way_and_the_long_way_give_the_same_bits(
    backend: str, dtype: Any, reduction: Any, soft: bool
) -> None:
    logits = random_logits((7, 5), dtype)
    labels = random_probs((7, 5), dtype) if soft else np.array([0, 4, 2, 2, 1, 0, 3])
    short = fastxent.cross_entropy_with_grad(logits, labels, reduction=reduction, backend=backend)
    for other_logits, other_labels, axis in (
        (logits, labels, 1),
        (logits.view(Subclass), labels, -1),
        (swapped(logits) if dtype != BFLOAT16 else misaligned(logits), labels, -1),
        (logits, labels.tolist() if not soft else np.asfortranarray(labels), -1),
        (np.ascontiguousarray(logits.T), labels.T, 0),
    ):
        long = fastxent.cross_entropy_with_grad(
            other_logits, other_labels, axis=axis, reduction=reduction, backend=backend
        )
        assert same_bits(short[0], long[0])
        assert type(short[0]) is type(long[0])
        gradient = long[1].T if axis == 0 else long[1]
        assert same_bits(short[1], gradient.astype(dtype))
        loss = fastxent.cross_entropy(
            other_logits, other_labels, axis=axis, reduction=reduction, backend=backend
        )
        assert same_bits(short[0], loss)


def test_an_output_is_plainly_apart_where_its_memory_is() -> None:
    memory = random_logits((9, 5))
    logits, labels = memory[:3], np.zeros(3, np.int64)
    assert driver.is_apart(memory[3:6], logits, labels)
    assert driver.is_apart(memory[3:6], logits, memory[6:])
    assert driver.is_apart(logits, logits, None)
    assert driver.is_apart(memory[:3], logits, labels)
    assert driver.is_apart(memory[3:6], memory[6:], memory[:3])


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: (memory[2:5], memory[:3], None),
        lambda memory: (memory[:3], memory[2:5], None),
        lambda memory: (memory[3:6], memory[:3], memory[4:7]),
        lambda memory: (memory[3:6], memory[:3], memory[3:6]),
        lambda memory: (memory[:3], memory[:3], memory.view(np.int64).reshape(-1)[:3]),
        lambda memory: (memory[3:6][::-1], memory[:3], None),
        lambda memory: (memory[3:5], memory[:3], None),
        lambda memory: (memory[3:6].view(np.int32), memory[:3], None),
        lambda memory: (swapped(memory[:3]), memory[:3], None),
        lambda memory: (read_only(memory[:3]), memory[:3], None),
        lambda memory: (memory[3:6].view(Subclass), memory[:3], None),
        lambda memory: (memory[3:6], memory[:3], [0, 0, 0]),
        lambda memory: (None, memory[:3], None),
    ],
)
def test_an_output_that_may_not_be_apart_is_looked_at_closely(change: Any) -> None:
    assert not driver.is_apart(*change(random_logits((10, 6))))
    assert not python_driver.is_apart(*change(random_logits((10, 6))))


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32], ids=str)
@pytest.mark.parametrize("layout", [context.LAYOUT_LANES, context.LAYOUT_PLANES])
def test_both_drivers_read_the_layouts_of_tiles_alike(
    layout: int, dtype: Any, writes: bool
) -> None:
    shape, rows = ((20, 5), (20,)) if layout == context.LAYOUT_LANES else ((3, 5, 7), (3, 7))
    logits = random_logits(shape, dtype)
    labels = np.random.default_rng(1).integers(0, 5, rows)
    program = program_of(logits, labels, writes=writes, layout=layout)
    assert program.layout == layout
    results = []
    for which in DRIVERS.values():
        losses = np.full(rows, 7, np.float32)
        output = np.full(shape, 7, dtype) if writes else None
        kind = GRADIENT if writes else NOTHING
        answer = which.evaluate(program, logits, labels, 2, losses, output, kind, True, 3, 2)
        results.append((answer, losses, output))
        for unfit in (logits[..., ::2], np.moveaxis(logits, 0, -1), logits[None]):
            assert (
                which.evaluate(program, unfit, labels, 2, losses, None, NOTHING, True, 3, 1) is None
            )
    (answer, losses, output), (other_answer, other_losses, other_output) = results
    assert answer == other_answer
    assert answer is not None
    assert same_bits(losses, other_losses)
    assert output is None or same_bits(output, other_output)
