"""Slowdowns planted in the Numba twin: the same as in the Cython twin.

Functions that are compiled separately are simply called again. The shares are set so that the
kernel as a whole takes the plant's per cent more instructions (callgrind, x86-64-v3).
"""

from __future__ import annotations

from typing import Final

from fastxent.benchmarks.judge.planted.plant import (
    NUMBA_ELEMENTS,
    NUMBA_KERNELS,
    NUMBA_SUMS,
    NUMBA_TILES,
    Edit,
    Plant,
    before,
)


def _share(n: str, share: int, line: str = "line") -> str:
    """So many per cent of n, up to 50, to the nearest whole number of lines: never beyond n."""
    return f"({n} * {share} + 50 * {line}) // (100 * {line}) * {line}"


def _terms_again(anchor: str, share: int, condition: str = "True") -> tuple[Edit, ...]:
    """The exponentials of a share of a block once more, before a text in its sum."""
    return (
        before(
            NUMBA_SUMS,
            anchor,
            f"""\
    if {condition}:
        write_terms(block.logits, {_share("block.n", share)}, reference, block_buffer(zero))
""",
        ),
    )


_SUM: Final = (
    "    return sum_but_maxima(terms, block.n, reference, not is_below), block_maximum(next)\n\n\n"
    "@compiled\ndef block_sum_with_tails("
)


def _entry_again(kernel: str, share: int) -> tuple[Edit, ...]:
    """A kernel that may be run twice on the same items: a share of them twice."""
    return (
        before(
            NUMBA_KERNELS,
            "def compile_entry(kernel: Callable[..., None]) -> Any:\n",
            f"""\
{kernel}_once = {kernel}


@compiled
def {kernel}(context, start, stop):
    {kernel}_once(context, start, start + (stop - start) * {share} // 100)
    {kernel}_once(context, start, stop)


""",
        ),
    )


PLANTS: Final = (
    Plant(
        name="numba_pass_over_row",
        twin="numba",
        stands_for="a pass over the row is added, as by a check for infinity",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_KERNELS,
                "        state, reading = classes_state(\n"
                "            context, i, 0, context.n_classes, "
                "following if following < stop else -1, reading, kept\n",
                "        if find_class(context, i, INFINITY) >= 0:\n            losses[i] = NAN\n",
            ),
        ),
        timed="",
    ),
    *(
        Plant(
            name=f"numba_block_sum_{percent}",
            twin="numba",
            stands_for=f"{percent} % more work in the sum of exponentials",
            seen_by=("A",),
            edits=_terms_again(_SUM, share),
            timed="",
            percent=percent,
        )
        for percent, share in ((5, 7), (10, 14), (20, 31))
    ),
    Plant(
        name="numba_float64_10",
        twin="numba",
        stands_for="10 % more work in the sum of exponentials in float64",
        seen_by=("A",),
        edits=_terms_again(_SUM, 11, "REAL_BITS == 64"),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_softmax_10",
        twin="numba",
        stands_for="10 % more work where rows with a gradient write it",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_KERNELS,
                "                block_softmax(\n"
                "                    block.logits, terms.address, n,",
                f"""\
                block_softmax(
                    block.logits, 0, {_share("n", 16, "16")}, reference, scale, 0.0,
                    -1, 0.0, partners_buffer, False,
                )
""",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_log_softmax_20",
        twin="numba",
        stands_for="20 % more work in log-softmax",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_KERNELS,
                "            block_log_softmax(",
                f"""\
            block_log_softmax(
                block.logits, {_share("n", 26, "16")}, maximum, log_sum, partners_buffer,
                False,
            )
""",
            ),
        ),
        timed="",
        percent=20,
    ),
    Plant(
        name="numba_sum_tile_5",
        twin="numba",
        stands_for="5 % more work in the sums of tiles, which few classes are done in",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_TILES,
                "    write_lane_terms(tile, n_classes, reference, coming)\n",
                "    write_lane_terms(tile, (n_classes * 25 + 50) // 100, reference, coming)\n",
            ),
        ),
        timed="",
        percent=5,
    ),
    Plant(
        name="numba_softmax_tile_10",
        twin="numba",
        stands_for="10 % more work where tiles become gradients",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_TILES,
                "    scale_lanes(tile.terms, n_classes, tile.lanes, narrow)\n",
                """\
    for j in range(n_classes):
        copy_values(lanes_of(tile.terms, j, tile.lanes), tile.lanes, four_buffer(zero))
""",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_16_bits_20",
        twin="numba",
        stands_for="20 % more work because 16-bit logits are converted again",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_ELEMENTS,
                "    convert_block(source, element, n, buffer)\n    return buffer\n",
                "    for _ in range(2):\n        convert_block(source, element, n, buffer)\n",
            ),
        ),
        timed="",
        percent=20,
    ),
    Plant(
        name="numba_soft_labels_10",
        twin="numba",
        stands_for="10 % more work in the sums over probabilities as labels",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_SUMS,
                "    mass = sum_of_float64(masses, n)\n"
                "    dot = sum_of_dots(logits, masses, n, maximum)\n"
                "    return BlockTarget(",
                "    sum_of_float64(masses, n)\n",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_transforms_10",
        twin="numba",
        stands_for="10 % more work in the soft cap of logits",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_SUMS,
                "        write_cap_exponentials(",
                f"""\
        write_cap_exponentials(
            block.logits, {_share("block.n", 22)}, reference.transform, values, tails
        )
""",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_describe_10",
        twin="numba",
        stands_for="10 % more work in the entropy of row_stats",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_SUMS,
                "    if TRANSFORMS and tails != 0:\n        write_terms_with_tails(logits,",
                f"""\
    write_terms(logits, {_share("n", 29)}, reference, terms)
""",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_divergence_20",
        twin="numba",
        stands_for="20 % more work in the divergence of two rows",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_KERNELS,
                "            if output != 0:\n"
                "                place = pointer_at(output, zero)\n"
                "                if output_scale.exponent != 0:\n",
                """\
            block_divergence(
                own, partner, n * 40 // 100, own_softness, partner_softness,
                context.temperature, output_scale.value, 0,
            )
""",
            ),
        ),
        timed="",
        percent=20,
    ),
    Plant(
        name="numba_segments_write_10",
        twin="numba",
        stands_for="10 % more work where threads share a row and write its gradient",
        seen_by=("A",),
        edits=(
            before(
                NUMBA_KERNELS,
                "            write_output(context, i, first, last, state, nothing_kept())\n",
                "            if context.output != context.logits:\n"
                "                write_output(\n"
                "                    context, i, first, first + (last - first) // 12, state,\n"
                "                    nothing_kept(),\n"
                "                )\n",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_check_labels_10",
        twin="numba",
        stands_for="10 % more work in the check of labels",
        seen_by=("A",),
        edits=_entry_again("rows_check_labels", 6),
        timed="",
        percent=10,
    ),
    Plant(
        name="numba_rows_sum_20",
        twin="numba",
        stands_for="20 % more work in the sum of losses",
        seen_by=("A",),
        edits=_entry_again("rows_sum", 12),
        timed="",
        percent=20,
    ),
)
