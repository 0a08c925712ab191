"""Roofs do all that they are said to: one that left something out could be reached by nobody."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest
from fastxent.benchmarks.draw.reach import as_table as reach_table
from fastxent.benchmarks.draw.summary import as_table, summarise
from fastxent.benchmarks.judge import reach
from fastxent.benchmarks.measure.case import OPERATIONS, Case
from fastxent.benchmarks.measure.implementations import IMPLEMENTATIONS
from fastxent.benchmarks.measure.roofs import ROOFS, exp_write, plain_copy, plain_read
from fastxent.benchmarks.measure.targets import Requirement
from fastxent.benchmarks.results import Timing, of_memory, share_of_roof
from support import BFLOAT16, FLOATS, Array, run_python

from fastxent.backends import cython_kernels, driver, roofs

LABELS = np.zeros(3000, np.int64)
RUNNABLE = [name for name in cython_kernels.INSTRUCTION_SETS if driver.cpu_supports(name)]


def case(operation: str, threads: int) -> Case:
    return Case(operation, "float32", "3000x700", threads)


# ---- a read and a copy ---------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("operation", ["loss_and_grad", "loss_and_grad_fresh"])
def test_the_copy_holds_every_logit(threads: int, operation: str) -> None:
    logits = np.random.default_rng(0).standard_normal((3000, 700), dtype=np.float32)
    copied = plain_copy(case(operation, threads), logits, LABELS)()
    assert copied is not logits
    np.testing.assert_array_equal(copied, logits)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("position", [0, 1_050_000, 2_099_999])
def test_the_read_sees_a_bit_wherever_it_is(threads: int, position: int) -> None:
    logits = np.zeros((3000, 700), np.float32)
    logits.flat[position] = 1
    assert np.any(plain_read(case("loss", threads), logits, LABELS)())


@pytest.mark.parametrize("factory", [plain_copy, exp_write])
def test_what_goes_to_fresh_memory_does_and_the_other_is_used_again(factory: Any) -> None:
    logits = np.zeros((3000, 700), np.float32)
    fresh = factory(case("loss_and_grad_fresh", 1), logits, LABELS)
    assert fresh() is not fresh()
    reused = factory(case("loss_and_grad", 1), logits, LABELS)
    assert reused() is reused()


# ---- the bare exponentials -----------------------------------------------------------------------

# Sizes with and without whole vectors, groups and segments; every place that an array can have in
# 64 bytes; outputs that go past the caches; -inf; what lies before and behind an array.
EXPONENTIALS = """
import os
import sys
import sys
import ml_dtypes
import numpy as np
from fastxent.backends import cython_kernels, roofs
from fastxent.verify.case import Layout
from fastxent.verify.memory import Placed

assert cython_kernels.INSTRUCTION_SET == os.environ["FASTXENT_ISA"]
assert roofs.obstacle() is None
factor = cython_kernels.import_build("roofs", 32).FACTOR
assert cython_kernels.import_build("roofs", 64).FACTOR == factor
# units in the last place of 1, and the smallest number
PRECISIONS = {
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 0),
    "float32": (2.0**-22, 0),
    "float64": (2.0**-51, 0),
}

def at_offset(values, offset):
    room = np.full(values.size + 64, 1000, values.dtype)
    start = offset + -room.ctypes.data % 64 // values.itemsize
    room[start : start + values.size] = values
    return room, room[start : start + values.size]

def check(dtype, size, offset, threads, shape=(-1,)):
    relative, absolute = PRECISIONS[dtype]
    values = np.random.default_rng(size).uniform(-10, 24, size).astype(np.dtype(dtype))
    values[3::101] = -np.inf
    room, logits = at_offset(values, offset)
    logits = logits.reshape(shape)
    wanted = factor * np.exp(values.astype(np.float64))

    total = roofs.exp_sum(logits, threads)().sum()
    np.testing.assert_allclose(total, wanted.sum(), 1e-13 if dtype == "float64" else 2e-6)

    write = roofs.exp_write(logits, threads)
    output_room, output = at_offset(np.full(size, 7, values.dtype), (offset * 3 + 1) % 8)
    assert write(output.reshape(shape)).shape == logits.shape
    np.testing.assert_allclose(output.astype(np.float64), wanted, relative, absolute)
    assert np.sum(output_room == 1000) == 64
    np.testing.assert_array_equal(logits.reshape(-1), values)

    write(logits)  # in place
    np.testing.assert_array_equal(logits.reshape(-1), output)
    assert np.sum(room == 1000) == 64

for dtype in PRECISIONS:
    for threads in (1, 2, 3):
        for size in (0, 1, 7, 1000, 100_003, 400_000):
            check(dtype, size, size % 5, threads)
    for offset in range(64 // np.dtype(dtype).itemsize):
        check(dtype, 33, offset, 1)
        check(dtype, 17_000, offset, 1)
        check(dtype, 16_384 + offset, offset, 1)
    check(dtype, 24_000, 1, 1, (2, 3, 4000))
    check(dtype, 2**25 // np.dtype(dtype).itemsize + 9, 5, 2)
    # between pages that may not be touched
    for size in (*range(1, 140), 16_385, 40_000):
        for guard in ("before", "after"):
            logits, output = (
                Placed((1, size), np.dtype(dtype), Layout(guard=guard)).array for _ in range(2)
            )
            logits[...] = np.linspace(-5, 5, size)
            roofs.exp_sum(logits, 1)()
            roofs.exp_write(logits, 1)(output)
            wanted = factor * np.exp(logits.astype(np.float64))
            np.testing.assert_allclose(output.astype(np.float64), wanted, *PRECISIONS[dtype])
print("all right")
"""


@pytest.mark.parametrize("instruction_set", RUNNABLE)
def test_the_exponentials_are_those_of_every_element(instruction_set: str) -> None:
    env = {**os.environ, "FASTXENT_ISA": instruction_set}
    result = run_python(EXPONENTIALS, env=env)
    assert (result.returncode, result.stdout) == (0, "all right\n"), result.stderr


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_exponentials_that_overwrite_themselves_stay_in_range(dtype: np.dtype[Any]) -> None:
    logits = np.linspace(-17, 17, 4096, dtype=np.float32).astype(dtype).reshape(4, 1024)
    in_place = exp_write(Case("loss_and_grad_in_place", dtype.name, "4x1024", 1), logits, LABELS)
    for _ in range(5):
        result = in_place()
    assert result is not logits
    # 2^-23 * e^x = x near 2^-23
    np.testing.assert_allclose(result.astype(np.float64), 2.0**-23, rtol=1e-2)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((4, 5), np.int64), "one of float16, bfloat16, float32, float64; they are int64"),
        (np.zeros((4, 5), np.float32).T, "C-contiguous.*strides"),
        (np.zeros((4, 10))[:, ::2], "C-contiguous.*strides"),
        (np.zeros((4, 5), ">f4"), "native byte order"),
        (np.zeros(21, np.int8)[1:].view(np.float32), "aligned"),
    ],
)
def test_logits_that_the_compiled_roofs_do_not_take_are_refused(
    logits: Array, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        roofs.exp_sum(logits, 1)()
    with pytest.raises(ValueError, match=message):
        roofs.exp_write(logits, 1)(np.zeros_like(logits, order="C"))


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((4, 6), np.float32), r"shape \(4, 5\) of the logits; it has the shape \(4, 6\)"),
        (np.zeros(19, np.float32), "shape"),
        (np.zeros((5, 4), np.float32).T, "C-contiguous"),
        (np.zeros((4, 5)), "same dtype"),
        (np.zeros((4, 5), np.float16), "same dtype"),
        (np.zeros((4, 5), ">f4"), "native byte order"),
        (read_only(np.zeros((4, 5), np.float32)), "writeable"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(output: Array, message: str) -> None:
    write = roofs.exp_write(np.zeros((4, 5), np.float32), 1)
    before = output.copy()
    with pytest.raises(ValueError, match=message):
        write(output)
    np.testing.assert_array_equal(output, before)


def test_bfloat16_does_not_pass_for_float16() -> None:
    with pytest.raises(ValueError, match="same dtype"):
        roofs.exp_write(np.zeros(4, np.float16), 1)(np.zeros(4, BFLOAT16))


@pytest.mark.parametrize("roof", ["roof_exp_sum", "roof_exp_write"])
def test_compiled_roofs_are_skipped_where_there_are_none(
    roof: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    IMPLEMENTATIONS[roof].skip_or_fail_if_missing()
    # a package built without a compiler, then one from before there were roofs
    monkeypatch.setattr(cython_kernels, "INSTRUCTION_SET", None)
    with pytest.raises(pytest.skip.Exception, match="this installation has no compiled kernels"):
        IMPLEMENTATIONS[roof].skip_or_fail_if_missing()
    monkeypatch.setitem(sys.modules, "fastxent.backends.roofs", None)
    with pytest.raises(pytest.skip.Exception, match="this version of fastxent has no compiled"):
        IMPLEMENTATIONS[roof].skip_or_fail_if_missing()


def test_modules_that_are_missing_or_of_another_version_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suffix = (cython_kernels.INSTRUCTION_SET or "").replace("-", "_")
    name = f"fastxent.backends.roofs_float64_{suffix}"
    monkeypatch.setattr(cython_kernels.context, "CONTEXT_SIZE", 8)
    assert "belong to another version of fastxent" in str(roofs.obstacle())
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, name, None)
    assert "no compiled roofs" in str(roofs.obstacle())


# ---- what is held against them -------------------------------------------------------------------


def test_every_operation_has_a_roof_that_is_timed_with_it() -> None:
    for operation in OPERATIONS:
        assert ROOFS[operation]
        for roof in ROOFS[operation]:
            assert IMPLEMENTATIONS[roof].can_do(case(operation, 1))


def timings(**medians: float) -> dict[str, Timing]:
    kinds = {"cython": "backend", "torch": "peer"}
    arrays = {"roof_read": 1, "roof_exp_sum": 1}
    return {
        name: Timing(kinds.get(name, "roof"), median, 1000 * arrays.get(name, 2))
        for name, median in medians.items()
    }


def test_the_share_of_a_roof_is_its_time_over_the_time() -> None:
    group = timings(roof_exp_sum=0.5, roof_exp_write=2, roof_copy=1, cython=4, torch=8)
    assert share_of_roof(case("loss_and_grad", 1), group, "cython") == 0.5
    assert share_of_roof(case("softmax", 1), group, "torch") == 0.25
    assert share_of_roof(case("loss", 1), group, "cython") == 0.125


def test_the_times_of_two_roofs_add_up() -> None:
    soft = case("soft_loss_and_grad", 1)
    assert share_of_roof(soft, timings(roof_exp_write=2, roof_read=1, cython=4), "cython") == 0.75
    assert share_of_roof(soft, timings(roof_exp_write=2, cython=4), "cython") is None


def test_a_group_without_its_roof_has_no_share() -> None:
    group = timings(roof_read=1, roof_copy=1, cython=4)
    assert share_of_roof(case("loss", 1), group, "cython") is None
    assert share_of_roof(case("an_operation_of_another_version", 1), group, "cython") is None


def test_the_share_of_the_memory_is_of_a_read_or_a_copy() -> None:
    group = timings(roof_read=1, roof_copy=2, roof_exp_write=3, cython=4)
    assert of_memory(case("loss", 1), group, "cython") == 0.5
    assert of_memory(case("loss_and_grad", 1), group, "cython") == 0.5
    assert of_memory(case("loss_and_grad", 1), timings(cython=4), "cython") is None


def test_the_summary_shows_the_roof_and_the_memory() -> None:
    group = timings(roof_copy=1, roof_exp_write=2, cython=4, torch=8)
    (row,) = summarise({case("loss_and_grad", 1): group})
    assert (row.of_roof, row.of_memory, row.times_peer) == (0.5, 0.25, 2)
    headings = [column.header for column in as_table([row]).columns]
    assert headings == ["group", "backend", "median", "of roof", "of memory", "best peer", "times"]


@pytest.mark.parametrize(("bound", "met"), [(0.24, True), (0.26, False)])
def test_reach_judges_by_the_memory_and_shows_the_roof(bound: float, met: bool) -> None:
    asked = Requirement("row", ("loss_and_grad",), ("3000x700",), "of_memory", bound, threads=(1,))
    group = timings(roof_copy=1, roof_exp_write=2, cython=4)
    (verdict,) = reach.judge_timings([asked], {case("loss_and_grad", 1): group}, ["cython"])
    assert (verdict.measured, verdict.met, verdict.of_roof) == (0.25, met, 0.5)
    assert verdict.asked == f">= {bound} of memory"
    table = reach_table([verdict])
    shown = {column.header: next(column.cells) for column in table.columns}
    assert (shown["measured"], shown["of roof"]) == ("0.25", "0.50")
