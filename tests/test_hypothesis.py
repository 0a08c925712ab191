"""Drawn shapes, layouts, dtypes, values and options against extended precision.

FASTXENT_HYPOTHESIS_PROFILE=thorough tries many more examples, new ones each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from drawing import REDUCTIONS, drawn_logits, laid_out
from hypothesis import given
from hypothesis import strategies as st
from support import (
    BACKENDS,
    FLOATS,
    Array,
    as_rows,
    exact_cross_entropy,
    loss_dtype,
    same_bits,
    ulps,
)

import fastxent

LOSS_BOUND = {2: 2.0, 4: 2.0, 8: 4.0}
GRADIENT_BOUND = {2: 1.0, 4: 4.0, 8: 4.0}


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(FLOATS))
    batch = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    n_classes = draw(st.one_of(st.integers(1, 70), st.sampled_from([128, 1024, 1025, 2100])))
    rows = int(np.prod(batch, dtype=int))
    logits = drawn_logits(draw, rows, n_classes, dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ignore_index = None
    if draw(st.booleans()):
        target = rng.integers(0, n_classes, rows)
        if draw(st.booleans()):
            ignore_index = draw(st.sampled_from([-100, 0, n_classes - 1]))
            target[rng.random(rows) < 0.3] = ignore_index
    else:
        weights = rng.random((rows, n_classes)) * (rng.random((rows, n_classes)) < 0.5)
        target = weights.astype(draw(st.sampled_from([np.float32, dtype])))
    return {
        "logits": logits,
        "target": target,
        "ignore_index": ignore_index,
        "batch": batch,
        "axis": draw(st.integers(0, len(batch))),
        "reduction": draw(REDUCTIONS),
        "backend": draw(st.sampled_from(BACKENDS)),
        "n_threads": draw(st.integers(1, 3)),
        "arrange": lambda array: laid_out(draw, array),
        "in_place": draw(st.booleans()),
    }


@given(cases())
def test_any_case_is_exact_to_the_last_places(case: dict[str, Any]) -> None:
    logits, target, batch, axis = (case[k] for k in ("logits", "target", "batch", "axis"))
    dtype, n_classes = logits.dtype, logits.shape[1]
    shape = (*batch[:axis], n_classes, *batch[axis:])

    def shaped(rows: Array) -> Array:
        arranged: Array = case["arrange"](
            np.moveaxis(rows.reshape(*batch, n_classes), -1, axis).copy()
        )
        return arranged

    hard = target.dtype.kind in "iu"
    given_logits = shaped(logits)
    options = {key: case[key] for key in ("axis", "ignore_index", "backend", "n_threads")}
    labels = target.reshape(batch) if hard else shaped(target)
    losses = as_rows(
        fastxent.cross_entropy(given_logits, labels, reduction="none", **options),
        loss_dtype(dtype),
    )
    loss = fastxent.cross_entropy(given_logits, labels, reduction=case["reduction"], **options)
    out = given_logits if case["in_place"] else None
    with_gradient, gradient = fastxent.cross_entropy_with_grad(
        given_logits, labels, reduction=case["reduction"], out=out, **options
    )
    assert same_bits(with_gradient, loss)
    assert losses.shape == batch
    assert gradient.shape == shape
    assert gradient.dtype == dtype

    ignored = target == case["ignore_index"] if hard else np.zeros(len(logits), bool)
    kept = ~ignored
    n_kept = int(kept.sum())
    row_losses = losses.reshape(-1)
    row_gradients = np.moveaxis(gradient, axis, -1).reshape(-1, n_classes)
    assert not row_losses[ignored].any()
    assert not row_gradients[ignored].any()
    if case["reduction"] == "mean" and n_kept == 0:
        assert np.isnan(loss)
    if n_kept == 0:
        return

    # of a label on a masked class the reference has no gradient: the others check it
    with np.errstate(invalid="ignore"):
        exact, exact_gradient = exact_cross_entropy(logits[kept], target[kept])
    finite = np.isfinite(exact)
    assert np.array_equal(np.isinf(row_losses[kept]), ~finite)
    got = row_losses[kept][finite]
    assert ulps(got, exact[finite], losses.dtype) <= LOSS_BOUND[dtype.itemsize]
    scale = 1 / np.longdouble(n_kept) if case["reduction"] == "mean" else 1
    terms = np.abs(exact_gradient)
    if not hard:
        terms = terms + 2 * target[kept].astype(np.longdouble)
    bound = GRADIENT_BOUND[dtype.itemsize]
    assert np.isfinite(row_gradients[kept].astype(np.float64)).all()
    assert ulps(row_gradients[kept], exact_gradient * scale, dtype, terms * scale) <= bound
