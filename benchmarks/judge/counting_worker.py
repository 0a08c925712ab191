"""The process whose instructions are counted, and the one that compiles for it.

    ... counting_worker toolchain
    ... counting_worker compile FOLDER
    valgrind ... counting_worker count BACKEND NAMES [FOLDER] [--case TEXT]..

It is run by launch.py, beside a fastxent that may be another version than the one these benchmarks
belong to. The last one writes to NAMES which kernel of which case each entry into `driver_work`
was, in order; callgrind writes as many dumps.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from fastxent import backends
from fastxent.backends import cython_kernels, python_driver
from fastxent.backends.context import STREAM_BYTES

_CHECKS: Final = ("rows_check_labels", "rows_check_probs", "rows_sum")
_COMPILER: Final = re.compile(rb"GCC: \([^)\0]*\) [\w.]+|clang version [\w.]+")


def toolchain() -> dict[str, Any]:
    """What made the machine code of the two twins, and what of it can be counted."""
    module = cython_kernels.driver
    counted: list[str] = []
    compilers: set[bytes] = set()
    if module is not None and hasattr(ctypes.CDLL(module.__file__), "driver_work"):
        counted = [each for each in cython_kernels.INSTRUCTION_SETS if module.cpu_supports(each)]
        for path in Path(module.__file__).parent.glob("cython_float*.so"):
            compilers.update(_COMPILER.findall(path.read_bytes()))
    versions = {name: _version_of(name) for name in ("numba", "llvmlite")}
    compiler = ", ".join(sorted(name.decode() for name in compilers)) or "unknown"
    return {"counted": counted, "compiler": compiler, **versions}


def _version_of(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow under callgrind

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


class Recorder:
    """Takes the place of the driver's way into a kernel: all items at once, in this thread."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, str]] = []
        self.case: Any = None
        self._names: dict[int, str] = {}
        self._uncounted = python_driver.run
        # (driver_work itself, called by libffi, would not look like a function to callgrind)
        self._run = ctypes.CDLL(cython_kernels.driver.__file__).driver_run
        self._run.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int,
            ctypes.c_void_p,
        ]  # fmt: skip

    def naming(self, kernel_address: Callable[..., int]) -> Callable[..., int]:
        """The function, which tells the name of every address that it gives."""

        def told(*kernel: Any, **needs: Any) -> int:  # a version before says `has_options`
            address = kernel_address(*kernel, **needs)
            name: str = kernel[0]
            self._names[address] = name
            return address

        return told

    def run(
        self, kernel: int, context: Any, n_items: int, chunk: int, n_threads: int,
        arrays: tuple[object, ...] = (),
    ) -> None:  # fmt: skip
        name = self._names[kernel]
        if name in _CHECKS and not self.case.has_checks:
            self._uncounted(kernel, context, n_items, n_items, 1)  # a dump takes some 20 ms
            return
        self.entered.append((self.case.name, name))
        # (earlier versions hand over bytes)
        packed = context if isinstance(context, bytes) else context.pack()
        self._run(kernel, packed, n_items, n_items, 1, None)


@contextlib.contextmanager
def _with(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _refuse(*kernel: Any) -> None:
    raise KeyError(kernel)  # compiling it would take an hour here


def count(backend: str, names: Path, objects: Path | None, only: list[str]) -> None:
    from fastxent.benchmarks.judge.counting_cases import aligned, all_cases
    from fastxent.benchmarks.judge.numba_objects import load

    recorder = Recorder()
    twin: Any = backends._TWINS[backend]
    if objects is not None:
        _code, addresses = load(objects)
        twin.obstacle = lambda: None
        twin._entries = {key: SimpleNamespace(address=each) for key, each in addresses.items()}
        twin._compile = _refuse
    twin.kernel_address = recorder.naming(twin.kernel_address)
    failed: dict[str, str] = {}
    with (
        _with(python_driver, "run", recorder.run),
        _with(backends, "driver", python_driver),
        # How memory lies decides how many lines a loop goes through before it is aligned.
        _with(np, "empty", aligned),
    ):
        for case in all_cases():
            if only and not any(text in case.name for text in only):
                continue
            recorder.case = case
            limit = 0 if case.streams else STREAM_BYTES
            try:
                with (
                    _with(python_driver, "STREAM_BYTES", limit),
                    warnings.catch_warnings(action="ignore"),
                ):
                    case.call(backend)
            except Exception as error:  # a version that does not know what is asked for
                failed[case.name] = f"{type(error).__name__}: {error}"
    names.write_text(json.dumps({"steps": recorder.entered, "failed": failed}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("toolchain", "compile", "count"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--case", action="append", default=[])
    given = parser.parse_args()
    if given.task == "toolchain":
        print(json.dumps(toolchain()))
    elif given.task == "compile":
        from fastxent.benchmarks.judge.numba_objects import write

        write(Path(given.rest[0]))
    else:
        backend, names, *folder = given.rest
        count(backend, Path(names), Path(folder[0]) if folder else None, given.case)


if __name__ == "__main__":
    main()
