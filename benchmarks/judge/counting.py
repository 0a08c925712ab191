"""Counting the instructions of the kernels of one side, by callgrind.

Of what is run only the inside of `driver_work` is collected, through which the driver enters every
kernel. A dump follows each time, so every kernel of every case has a count of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastxent.benchmarks.judge.sides import Side
from fastxent.benchmarks.machine import count_cpus
from fastxent.benchmarks.measure.processes import kill_group, launched

# Those that valgrind runs, by Cython's name, and what Numba compiles for.
INSTRUCTION_SETS: Final[Mapping[str, Mapping[str, str]]] = {
    "x86-64-v2": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""},
    "x86-64-v3": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c"},
}
BACKENDS: Final = ("numba", "cython")  # the first takes longest
Counts = dict[str, int]  # by "case: kernel"
Job = tuple[Side, str, str]  # a side, a backend, an instruction set

_WORKER: Final = "fastxent.benchmarks.judge.counting_worker"
_CALLGRIND: Final = (
    "--tool=callgrind", "--vgdb=no", "--collect-atstart=no", "--toggle-collect=driver_work",
    "--dump-after=driver_work", "--dump-line=no", "--callgrind-out-file=dump",
)  # fmt: skip
_LAST_LINES: Final = 8


def check_valgrind() -> None:
    """ValueError, with the way out, where nothing can be counted."""
    if platform.machine().lower() not in ("x86_64", "amd64") or os.name != "posix":
        raise ValueError(
            "instructions are counted on x86-64 only; `fastxent bench compare` measures time"
        )
    if shutil.which("valgrind") is None:
        raise ValueError(
            "valgrind is not installed, which counts the instructions: apt-get install valgrind "
            "(or the like); `fastxent bench compare` measures time, and does not need it"
        )


def toolchain_of(side: Side) -> dict[str, Any]:
    """What its machine code comes from, by backend; `counted` are its instruction sets."""
    command = launched(side.python, _WORKER, "toolchain")
    done = subprocess.run(
        command, env=side.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{side.name} cannot be counted: {_end_of(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    # exponentials and logarithms are the C library's, which has others for other CPUs
    libc = " ".join(platform.libc_ver())
    cpu = "with" if "x86-64-v3" in found["counted"] else "without"
    shared = {"valgrind": valgrind.stdout.strip(), "libc": f"{libc} {cpu} AVX2"}
    return {
        "counted": [each for each in found["counted"] if each in INSTRUCTION_SETS],
        "cython": {"compiler": found["compiler"], **shared},
        "numba": {"numba": found["numba"], "llvmlite": found["llvmlite"], **shared},
    }


def count_all(
    jobs: Sequence[Job],
    only: Sequence[str] = (),
    lenient: Sequence[Side] = (),
    done: Callable[[], None] = lambda: None,
) -> list[Counts]:
    """The counts of each job, in order, as many at once as there are CPUs; `done` is told of each.

    `only` are texts: cases with none of them in their names are left out. A call that fails is
    left out of the counts of the sides in `lenient`.

    Raises ValueError where a process or a call fails. Interrupted, it leaves no process behind.
    """
    return asyncio.run(_count_all(jobs, only, lenient, done))


async def _count_all(
    jobs: Sequence[Job],
    only: Sequence[str],
    lenient: Sequence[Side],
    done: Callable[[], None],
) -> list[Counts]:
    free = asyncio.Semaphore(count_cpus())

    async def count(job: Job) -> Counts:
        async with free:
            with tempfile.TemporaryDirectory(prefix="fastxent-counts-") as folder:
                counts, failed = await _count(*job, only, Path(folder))
        if failed and job[0] not in lenient:
            raise ValueError(f"{job[0].name}: {len(failed)} calls fail, the first {failed[0]}")
        done()
        return counts

    tasks = [asyncio.ensure_future(count(job)) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _count(
    side: Side, backend: str, instruction_set: str, only: Sequence[str], folder: Path
) -> tuple[Counts, list[str]]:
    environment = {
        **side.environment,
        **INSTRUCTION_SETS[instruction_set],
        "FASTXENT_ISA": instruction_set,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    environment.pop("FASTXENT_BACKEND", None)
    names, arguments = folder / "names.json", [backend, str(folder / "names.json")]
    if backend == "numba":
        objects = folder / "objects"
        objects.mkdir()
        arguments.append(str(objects))
        compiling = launched(side.python, _WORKER, "compile", str(objects))
        await _run(compiling, environment, folder, f"{side.name}: Numba")
    arguments += [word for text in only for word in ("--case", text)]
    command = ["valgrind", *_CALLGRIND, *launched(side.python, _WORKER, "count", *arguments)]
    await _run(command, environment, folder, f"{side.name}: {backend} {instruction_set}")
    written = json.loads(names.read_text())
    counts = add_up(written["steps"], [read_total(path) for path in dumps_in(folder)])
    failed = written["failed"]
    kept = {name: n for name, n in counts.items() if name.rpartition(": ")[0] not in failed}
    return kept, [f"{case!r}: {error}" for case, error in failed.items()]


async def _run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, what: str
) -> None:
    # In a group of its own, which Ctrl-C does not reach: it is killed where this is cancelled.
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = await process.communicate()
    except BaseException:
        kill_group(process.pid)
        await process.wait()
        raise
    if process.returncode:
        text = _end_of(printed.decode(errors="replace"))
        raise ValueError(f"{what} ended with status {process.returncode}:\n{text}")


def _end_of(printed: str) -> str:
    return "\n".join(printed.strip().splitlines()[-_LAST_LINES:]) or "it says nothing"


def dumps_in(folder: Path) -> list[Path]:
    """The dumps that callgrind wrote at the ends of functions, in order; the one at its end is
    `dump` without a number, and has nothing."""
    return sorted(folder.glob("dump.*"), key=lambda path: int(path.suffix[1:]))


def read_total(path: Path) -> int:
    """The instructions in a dump; ValueError where it has no total."""
    found = re.search(r"^totals: (\d+)$", path.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{path} has no line with the totals, which callgrind writes")
    return int(found[1])


def add_up(steps: Sequence[Sequence[str]], totals: Sequence[int]) -> Counts:
    """Counts by case and kernel; the parts of a call that runs a kernel several times together."""
    if len(steps) != len(totals):
        raise ValueError(f"{len(steps)} kernels were run, but callgrind wrote {len(totals)} dumps")
    counts: Counts = {}
    for (case, kernel), total in zip(steps, totals, strict=True):
        name = f"{case}: {kernel}"
        counts[name] = counts.get(name, 0) + total
    return counts
