"""The Numba twin's machine code, compiled by one process and run by another.

Under valgrind compiling would take an hour. So a process outside compiles and writes the object
code of every code library of Numba's, and the one that is counted loads them by llvmlite, without
Numba. All of what is private to Numba is in `write`.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any, Final

Key = tuple[str, int, int]  # of a kernel: its name, the bits of its arithmetic, what it needs

# What the kernels call: of the C library, by the names that Numba has for it.
_FUNCTIONS: Final = {
    "exp": "exp", "log": "log", "log1p": "log1p", "numba_frexp": "frexp", "numba_ldexp": "ldexp",
}  # fmt: skip
# What only the wrappers name that turn exceptions into Python's. The kernels raise none.
_NEVER_CALLED: Final = (
    "NRT_MemInfo_call_dtor", "NRT_Free", "numba_do_raise", "numba_gil_ensure", "numba_gil_release",
    "numba_runtime_build_excinfo_struct", "numba_unpickle",
)  # fmt: skip


def write(folder: Path) -> None:
    """Compile every kernel for the CPU that NUMBA_CPU_NAME names, and write what comes of it."""
    from numba.core.codegen import CPUCodeLibrary

    import fastxent
    from fastxent.backends import numba_compiler

    libraries: list[Any] = []
    finalize = CPUCodeLibrary.finalize

    def finalize_and_keep(library: Any) -> None:
        if not library._object_caching_enabled:
            library.enable_object_caching()
        finalize(library)
        libraries.append(library)

    CPUCodeLibrary.finalize = finalize_and_keep
    try:
        fastxent.warmup(["float32", "float64"], backend="numba")
    finally:
        CPUCodeLibrary.finalize = finalize
    for number, library in enumerate(libraries):
        (folder / f"{number:04}.o").write_bytes(library._get_compiled_object())
    names = [[*key, entry.native_name] for key, entry in numba_compiler._entries.items()]
    (folder / "kernels.json").write_text(json.dumps(names))


def load(folder: Path) -> tuple[object, dict[Key, int]]:
    """The kernels' addresses, good for as long as the first of the two lives."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    libm, libc = ctypes.CDLL("libm.so.6"), ctypes.CDLL(None)
    for name, function in _FUNCTIONS.items():
        llvm.add_symbol(name, _address_of(libm, function))
    for name in _NEVER_CALLED:
        llvm.add_symbol(name, _address_of(libc, "abort"))
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for path in sorted(folder.glob("*.o")):  # into one engine, since they call each other
        engine.add_object_file(llvm.ObjectFileRef.from_data(path.read_bytes()))
    engine.finalize_object()
    names = json.loads((folder / "kernels.json").read_text())
    return engine, {
        (name, bits, int(needs)): engine.get_function_address(symbol)
        for name, bits, needs, symbol in names
    }


def _address_of(library: ctypes.CDLL, function: str) -> int:
    address = ctypes.cast(getattr(library, function), ctypes.c_void_p).value
    assert address is not None
    return address
