"""Slowdowns of what is around the kernels: memory, threads, and the Python layer."""

from __future__ import annotations

from typing import Final

from fastxent.benchmarks.judge.planted.plant import (
    CALL,
    DRIVER_C,
    DRIVER_PYX,
    NUMBA_SCALARS,
    VECTOR_H,
    Edit,
    Plant,
    after,
    before,
)

# Recursive: a handler of a signal may call in the middle of a call. A forked child has its own.
_MUTEX: Final = (
    before(DRIVER_C, '#include "driver.h"\n', "#define _GNU_SOURCE\n"),
    before(
        DRIVER_C,
        "static Job *jobs; ",
        "static pthread_mutex_t one_at_a_time = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;\n",
    ),
    after(
        DRIVER_C,
        "  work_finished = (pthread_cond_t)PTHREAD_COND_INITIALIZER;\n  jobs = NULL;\n",
        "  one_at_a_time = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;\n",
    ),
)

PLANTS: Final = (
    Plant(
        name="cython_lost_prefetch",
        twin="cython",
        stands_for="memory is not asked for logits ahead of time",
        seen_by=("B",),
        edits=(Edit(VECTOR_H, "{ __builtin_prefetch(address, 0, 2); }", "{ (void)address; }"),),
        timed="16384x1000-float32-1thread",
    ),
    Plant(
        name="numba_lost_prefetch",
        twin="numba",
        stands_for="memory is not asked for logits ahead of time",
        seen_by=("B",),
        edits=(
            Edit(
                NUMBA_SCALARS,
                "prefetch = _prefetching(writes=0, locality=2)\n",
                "prefetch = intrinsic(\n"
                "    lambda typingctx, address: (\n"
                "        types.void(address), lambda context, *_: context.get_dummy_value()\n"
                "    )\n"
                ")\n",
            ),
        ),
        timed="16384x1000-float32-1thread",
    ),
    Plant(
        name="lost_streams",
        twin="driver",
        stands_for="large outputs are no longer written past the caches",
        seen_by=("B",),
        edits=(
            Edit(
                DRIVER_PYX,
                "nbytes > STREAM_BYTES and context.output != context.logits",
                "nbytes > MOST_ITEMS and context.output != context.logits",
            ),
        ),
        timed="16384x1000 and loss_and_grad",
    ),
    Plant(
        name="lock_around_chunks",
        twin="driver",
        stands_for="a lock around the driver's chunks: threads work one after another",
        seen_by=("B",),
        edits=(
            *_MUTEX,
            after(
                DRIVER_C,
                "  const int64_t n = left < job->chunk ? left : job->chunk;\n",
                "  pthread_mutex_lock(&one_at_a_time);\n",
            ),
            before(
                DRIVER_C,
                "  if (atomic_fetch_add(&job->completed, n) + n == job->n_items &&",
                "  pthread_mutex_unlock(&one_at_a_time);\n",
            ),
        ),
        timed="1024x1000-float32 and not 1thread",
    ),
    Plant(
        name="lock_around_calls",
        twin="driver",
        stands_for="a lock around the driver: Python's threads call one after another",
        seen_by=("B",),
        edits=(
            *_MUTEX,
            Edit(
                DRIVER_C,
                "  if (!job) return take_part(&mine, check);\n"
                "  const int answer = take_part(job, check);\n"
                "  wait_for_helpers(job);\n",
                "  pthread_mutex_lock(&one_at_a_time);\n"
                "  const int answer = take_part(job ? job : &mine, check);\n"
                "  pthread_mutex_unlock(&one_at_a_time);\n"
                "  if (!job) return answer;\n"
                "  wait_for_helpers(job);\n",
            ),
        ),
        timed="loss_in_python_threads",
    ),
    Plant(
        name="worker_never_wakes",
        twin="driver",
        stands_for="a worker that has gone to sleep is never woken",
        seen_by=("B",),
        edits=(
            Edit(
                DRIVER_C,
                "    for (int k = 0; k < job->helpers_wanted && k < n_sleeping; k++)\n"
                "      pthread_cond_signal(&work_posted);\n",
                "",
            ),
        ),
        timed="x1000-float32 and not 1thread",
    ),
    Plant(
        name="no_spinning",
        twin="driver",
        stands_for="workers sleep at once, and each call has to wake them",
        seen_by=("B",),
        edits=(
            Edit(DRIVER_C, "#define SPIN_NANOSECONDS 100000\n", "#define SPIN_NANOSECONDS 0\n"),
        ),
        timed="1024x1000-float32 and not 1thread",
    ),
    Plant(
        name="slower_python",
        twin="driver",
        stands_for="the Python layer takes 2 us more a call",
        seen_by=("B",),
        edits=(
            Edit(
                CALL,
                "import copy\nfrom collections.abc",
                "import copy\nimport time\nfrom collections.abc",
            ),
            before(
                CALL,
                "    # Most arrays are such as the kernels take.",
                "    until = time.perf_counter_ns() + 2000\n"
                "    while time.perf_counter_ns() < until:\n"
                "        pass\n",
            ),
        ),
        timed="8x10-float32",
    ),
)
