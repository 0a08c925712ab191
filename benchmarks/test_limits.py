"""The limits touch every byte: one that left some out would be a limit nobody can reach."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import Case
from .contenders import plain_copy, plain_read

LABELS = np.zeros(3000, np.int64)


def case(operation: str, threads: int) -> Case:
    return Case(operation, "float32", "3000x700", threads)


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


def test_a_fresh_copy_is_fresh_and_the_other_is_used_again() -> None:
    logits = np.zeros((3000, 700), np.float32)
    fresh = plain_copy(case("loss_and_grad_fresh", 1), logits, LABELS)
    assert fresh() is not fresh()
    reused = plain_copy(case("loss_and_grad", 1), logits, LABELS)
    assert reused() is reused()
