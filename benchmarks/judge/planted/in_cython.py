"""Slowdowns planted in the Cython twin.

What is done again is a share of what the primitive has just been given, from its start, and kept
alive by an empty `asm`, so that no compiler leaves it out. The shares are set so that the kernel as
a whole takes the plant's per cent more instructions (callgrind, x86-64-v3).
"""

from __future__ import annotations

from typing import Final

from fastxent.benchmarks.judge.planted.plant import (
    KERNELS_PYX,
    LANES_H,
    PRIMITIVES_H,
    Edit,
    Plant,
    after,
    before,
)


def _share(n: str, share: int, unit: str = "LANES") -> str:
    """So many per cent of n, up to 50, to the nearest whole number of units: never beyond n."""
    return f"({n} * {share} + 50 * {unit}) / (100 * {unit}) * {unit}"


def _sum_again(share: int, condition: str = "1") -> Edit:
    return before(
        PRIMITIVES_H,
        "  int64_t j = n_groups * GROUP;\n  /* What is left goes",
        f"""\
  if ({condition}) {{
    vec again = broadcast(0);
    for (int64_t k = 0; k < {_share("n", share)}; k += LANES)
      again = maximum(block_term(load(block->logits + k), &reference, &table), again);
    __asm__ volatile("" : : "m"(again));
  }}
""",
    )


def _written_again(values: str, share: int) -> str:
    return f"""\
  real scratch[BLOCK];
  write_values(scratch, {_share("n", share)}, 0, {values}, &with);
  __asm__ volatile("" : : "r"(scratch) : "memory");
"""


def _entry_again(kernel: str, share: int) -> tuple[Edit, ...]:
    """The entry of a kernel that may be run twice on the same items: a share of them twice."""
    entry = f'    "{kernel}": <uintptr_t>&{kernel},\n'
    return (
        before(
            KERNELS_PYX,
            "KERNELS = {\n",
            f"""\
cdef void {kernel}_again(const Context* context, int64_t start, int64_t stop) noexcept nogil:
    {kernel}(context, start, start + (stop - start) * {share} // 100)
    {kernel}(context, start, stop)


""",
        ),
        Edit(KERNELS_PYX, entry, entry.replace(f"&{kernel}", f"&{kernel}_again")),
    )


PLANTS: Final = (
    Plant(
        name="cython_pass_over_row",
        twin="cython",
        stands_for="a pass over the row is added, as by a check for infinity",
        seen_by=("A", "B"),
        edits=(
            before(
                KERNELS_PYX,
                "        state = classes_state(\n"
                "            context, i, 0, context.n_classes, "
                "following if following < stop else -1, &reading, kept\n",
                "        if find_class(context, i, INFINITY) >= 0:\n"
                "            context.losses[i] = NAN\n",
            ),
        ),
        timed="1024x1000-float32",
    ),
    *(
        Plant(
            name=f"cython_block_sum_{percent}",
            twin="cython",
            stands_for=f"{percent} % more work in the sum of exponentials",
            seen_by=("A",),
            edits=(_sum_again(share),),
            timed="x1000-float32-1thread-loss-",
            percent=percent,
        )
        for percent, share in ((5, 7), (10, 14), (20, 29))
    ),
    Plant(
        name="cython_float64_10",
        twin="cython",
        stands_for="10 % more work in the sum of exponentials in float64",
        seen_by=("A",),
        edits=(_sum_again(13, "FASTXENT_REAL_BITS == 64"),),
        timed="float64",
        percent=10,
    ),
    Plant(
        name="cython_softmax_10",
        twin="cython",
        stands_for="10 % more work where rows with a gradient write it",
        seen_by=("A",),
        edits=(
            before(
                PRIMITIVES_H,
                "  if (terms && spread != 0)\n    write_values(",
                _written_again("softmax_values", 16),
            ),
        ),
        timed="x1000-float32-1thread-loss_and_grad-",
        percent=10,
    ),
    Plant(
        name="cython_log_softmax_20",
        twin="cython",
        stands_for="20 % more work in log-softmax",
        seen_by=("A",),
        edits=(
            before(
                PRIMITIVES_H,
                "  write_values(output, n, streams, log_softmax_values, &with);\n",
                _written_again("log_softmax_values", 30),
            ),
        ),
        timed="log_softmax",
        percent=20,
    ),
    Plant(
        name="cython_sum_tile_5",
        twin="cython",
        stands_for="5 % more work in the sums of tiles, which few classes are done in",
        seen_by=("A",),
        edits=(
            before(
                LANES_H,
                "  line_sum_add(&unit, 0, one.power);\n",
                """\
  vec again = broadcast(0);
  for (int64_t j = 0; j < (n_classes * 15 + 50) / 100; j++)
    again = maximum(put_together(lane_reduce(load(values + j * LANES), reference, &table)), again);
  __asm__ volatile("" : : "m"(again));
""",
            ),
        ),
        timed="20000x10-",
        percent=5,
    ),
    Plant(
        name="cython_softmax_tile_10",
        twin="cython",
        stands_for="10 % more work where tiles become gradients",
        seen_by=("A",),
        edits=(
            after(
                LANES_H,
                """\
static inline void softmax_tile(Tile *tile, int64_t n_classes, const LaneReference *reference,
                                const double *scales) {
  const Table table = make_table();
  const vec scale = vector_from(scales);
""",
                """\
  vec again = broadcast(0);
  for (int64_t j = 0; j < (n_classes * 56 + 50) / 100; j++)
    again = maximum(scaled(lane_reduce(load(tile->values + j * LANES), reference, &table), scale),
                    again);
  __asm__ volatile("" : : "m"(again));
""",
            ),
        ),
        timed="20000x10-",
        percent=10,
    ),
    Plant(
        name="cython_16_bits_20",
        twin="cython",
        stands_for="20 % more work because 16-bit logits are converted again",
        seen_by=("A",),
        edits=(
            before(
                PRIMITIVES_H,
                "  } else if (element == FLOAT32) {\n"
                "    for (int64_t j = 0; j < n; j++) buffer[j] = "
                "(real)((const float *)source)[j];\n",
                """\
    for (int k = 0; k < 2; k++) {
      __asm__ volatile("" : : "r"(buffer) : "memory");
      for (int64_t j = 0; j < n * 72 / 100; j++)
        buffer[j] = (real)float_of_bits((uint32_t)halves[j] << 16);
    }
""",
            ),
        ),
        timed="bfloat16",
        percent=20,
    ),
    Plant(
        name="cython_soft_labels_10",
        twin="cython",
        stands_for="10 % more work in the sums over probabilities as labels",
        seen_by=("A",),
        edits=(
            before(
                PRIMITIVES_H,
                "  const WideSum dot = fold_wide(dots), mass = fold_wide(masses);\n"
                "  return (BlockTarget){",
                """\
  vec again = broadcast(0);
  for (int64_t j = 0; j < n / LANES * LANES; j += LANES)
    again += load(targets + j) * load(logits + j);
  __asm__ volatile("" : : "m"(again));
""",
            ),
        ),
        timed="soft_loss",
        percent=10,
    ),
    Plant(
        name="cython_transforms_10",
        twin="cython",
        stands_for="10 % more work in the soft cap of logits",
        seen_by=("A",),
        edits=(
            # (not where the block is replaced by what comes of it)
            Edit(
                PRIMITIVES_H,
                "  for (int64_t j = 0; j < block->n; j += LANES) {\n"
                "    const int64_t n = block->n - j < LANES ? block->n - j : LANES;\n",
                f"""\
  const int64_t again = block->logits == block->buffer ? 0 : {_share("block->n", 10)};
  for (int64_t i = 0; i < again + block->n; i += LANES) {{
    const int64_t j = i < again ? i : i - again;
    const int64_t n = block->n - j < LANES ? block->n - j : LANES;
""",
            ),
        ),
        timed="softcap",
        percent=10,
    ),
    Plant(
        name="cython_describe_10",
        twin="cython",
        stands_for="10 % more work in the entropy of row_stats",
        seen_by=("A",),
        edits=(
            before(
                PRIMITIVES_H,
                "  const LineTotal sum = line_sum_total(&sums);\n"
                "  const double total = sum.total - sum.total == 0",
                f"""\
  vec again = broadcast(0);
  for (int64_t j = 0; j < {_share("n", 42)}; j += LANES)
    again = maximum(put_together(reduce(load(logits + j), &reference, &table)), again);
  __asm__ volatile("" : : "m"(again));
""",
            ),
        ),
        timed="row_stats",
        percent=10,
    ),
    Plant(
        name="cython_divergence_20",
        twin="cython",
        stands_for="20 % more work in the divergence of two rows",
        seen_by=("A",),
        edits=(
            after(
                PRIMITIVES_H,
                "  const vec partner_scale = broadcast((real)(partner.scale * reference.factor));\n"
                "  line_sum sums;\n"
                "  memset(&sums, 0, sizeof sums);\n",
                f"""\
  vec again = broadcast(0);
  for (int turn = 0; turn < 2; turn++)
    for (int64_t j = 0; j < {_share("n", 37)}; j += LANES)
      again += pair_term(transformed_difference(load(logits + j), &top, NULL), &reference, &table) +
               pair_term(transformed_difference(load(partners + j), &partner_top, NULL),
                         &reference, &table);
  __asm__ volatile("" : : "m"(again));
""",
            ),
        ),
        timed="",
        percent=20,
    ),
    Plant(
        name="cython_segments_write_10",
        twin="cython",
        stands_for="10 % more work where threads share a row and write its gradient",
        seen_by=("A",),
        edits=(
            before(
                KERNELS_PYX,
                "            write_output(context, i, first, last, state, NULL)\n",
                "            if context.output != context.logits:\n"
                "                write_output(\n"
                "                    context, i, first, first + (last - first) // 12, state, "
                "NULL)\n",
            ),
        ),
        timed="",
        percent=10,
    ),
    Plant(
        name="cython_check_labels_10",
        twin="cython",
        stands_for="10 % more work in the check of labels",
        seen_by=("A",),
        edits=_entry_again("rows_check_labels", 6),
        timed="x10-float32",
        percent=10,
    ),
    Plant(
        name="cython_rows_sum_20",
        twin="cython",
        stands_for="20 % more work in the sum of losses",
        seen_by=("A",),
        edits=_entry_again("rows_sum", 12),
        timed="x10-float32",
        percent=20,
    ),
)
