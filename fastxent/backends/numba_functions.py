"""How the Numba twin's functions are compiled, and called by one another."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numba import cfunc, types
from numba.core import cgutils
from numba.core.compiler import (
    CompilerBase,
    CompileResult,
    DefaultPassBuilder,
    Flags,
    compile_extra,
)
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .numba_scalars import COMPILES, stack

# Numba's passes for what these functions do not have: closures, `with`, exceptions, overloads that
# are inlined, loops over tuples, and array expressions.
_UNNEEDED_PASSES: Final = frozenset({
    "WithLifting", "InlineClosureLikes", "RewriteDynamicRaises", "MakeFunctionToJitFunction",
    "InlineInlinables", "FindLiterallyCalls", "LiteralUnroll", "LiteralPropagationSubPipelinePass",
    "InlineOverloads", "NopythonRewrites", "DumpParforDiagnostics",
})  # fmt: skip


class _Pipeline(CompilerBase):
    """Numba's compiler without those: 1 of 8 s."""

    def define_pipelines(self) -> list[Any]:
        full = DefaultPassBuilder.define_nopython_pipeline(self.state)
        lean = PassManager("lean")
        for each, description in full.passes:
            if each.__name__ not in _UNNEEDED_PASSES:
                lean.add_pass(each, description)
        lean.finalize()
        return [lean]


_Key = tuple[Callable[..., Any], tuple[types.Type, ...]]

# What is called, by kernels of several compilations: the machine code stays for good.
CALLED: Final[dict[_Key, CompileResult]] = {}


class _Compilation:
    """A kernel, and all that it calls, in one library of machine code.

    A library for each function, as Numba's decorators make them, is linked into those of all
    callers, there to be optimised again, and again in the callers' callers.
    """

    def __init__(self) -> None:
        self._target = cpu_target.target_context
        self._library = self._target.codegen().create_library("fastxent")
        self._inlined: dict[_Key, CompileResult] = {}
        self._called: dict[_Key, CompileResult] = {}

    def compiled(
        self, function: Callable[..., Any], arguments: tuple[types.Type, ...], is_inlined: bool
    ) -> CompileResult:
        """A function for arguments of these types, compiled if need be."""
        key = function, arguments
        if not is_inlined and key in CALLED:
            return CALLED[key]
        functions = self._inlined if is_inlined else self._called
        if key not in functions:
            flags = Flags()
            flags.error_model = "numpy"
            # Python never calls these functions: 1.5 of 8.4 s to compile.
            flags.no_cpython_wrapper = True
            flags.no_cfunc_wrapper = True
            flags.no_compile = True  # not before all are there
            flags.forceinline = is_inlined
            functions[key] = compile_extra(
                cpu_target.typing_context, self._target, function, arguments, None, flags, {},
                library=self._library, pipeline_class=_Pipeline,
            )  # fmt: skip
        return functions[key]

    def finish(self) -> None:
        """Make machine code, to which nothing can be added."""
        for result in self._inlined.values():
            # or each had machine code of its own
            self._library.get_function(result.fndesc.llvm_func_name).linkage = "internal"
        self._library.finalize()
        CALLED.update(self._called)


_compilation: Final = ContextVar[_Compilation]("compilation")


@contextmanager
def compiling(kernel: Any, arguments: tuple[types.Type, ...]) -> Iterator[None]:
    """With a kernel compiled for arguments of these types, and all that it calls."""
    compilation = _Compilation()
    token = _compilation.set(compilation)
    try:
        with global_compiler_lock:  # as Numba's decorators do
            compilation.compiled(kernel.function, arguments, is_inlined=False)
            compilation.finish()
        yield
    finally:
        _compilation.reset(token)


def _callable(function: Any, is_inlined: bool) -> Any:
    """A function that is compiled once for all calls of a kernel.

    Numba itself compiles one anew for a constant argument, even for a variable that only starts as
    one.
    """

    def compiled_for(arguments: tuple[types.Type, ...]) -> CompileResult:
        return _compilation.get().compiled(function, arguments, is_inlined)

    @intrinsic
    def call(typingctx: Any, *arguments: Any) -> Any:
        wanted = tuple(types.unliteral(argument) for argument in arguments)
        signature = compiled_for(wanted).signature

        def codegen(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            values = cgutils.unpack_tuple(builder, arguments[0]) if wanted else []
            # (Numba remembers the signature, perhaps of another compilation, and did not ask here)
            declared = context.declare_function(builder.module, compiled_for(wanted).fndesc)
            # The status says whether it raised: none does. A loop's constants stay in registers in
            # a function of its own.
            _, result = context.call_conv.call_function(
                builder, declared, signature.return_type, signature.args, values,
                attrs=() if is_inlined else ("noinline",),
            )  # fmt: skip
            return result

        return signature.return_type(types.StarArgTuple(wanted)), codegen

    call.function = function
    return call


def inlined(function: Any) -> Any:
    """Made part of every caller."""
    return _callable(function, is_inlined=True) if COMPILES else function


def compiled(function: Any) -> Any:
    """A function of its own in the library of the kernel that needs it first; called there."""
    return _callable(function, is_inlined=False) if COMPILES else function


@intrinsic
def record_at(typingctx: Any, pointer: Any) -> Any:
    """The record that a pointer points to, where it is."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return pointer.dtype(pointer), codegen


def entry_of(kernel: Any, context_dtype: Any) -> Any:
    """A kernel of (context, start, stop) as a C function, for a pointer to a context of this type.

    `address` is that of the function, which lives as long as what is returned.
    """
    if not COMPILES:
        return _entry_in_python(kernel, context_dtype)
    context_type = numba.from_dtype(context_dtype)
    with compiling(kernel, (context_type, types.int64, types.int64)):

        @cfunc(types.void(types.CPointer(context_type), types.int64, types.int64))
        def enter(context: Any, start: int, stop: int) -> None:
            kernel(record_at(context), start, stop)

    return enter


class PythonEntry(NamedTuple):
    """A Python function that C can call: what keeps it alive, and its address."""

    callback: Any
    address: int


def _entry_in_python(kernel: Any, context_dtype: Any) -> PythonEntry:
    size = np.dtype(context_dtype).itemsize

    def enter(address: int, start: int, stop: int) -> None:
        if stack.error is not None:
            return
        (context,) = np.frombuffer(ctypes.string_at(address, size), context_dtype).view(np.recarray)
        own = len(stack.memory)
        try:
            with np.errstate(all="ignore"):
                kernel(context, start, stop)
        except BaseException as error:  # Ctrl-C and a debugger's end, too
            stack.error = error
        finally:
            del stack.memory[own:]

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(enter)
    pointer = ctypes.cast(callback, ctypes.c_void_p).value
    assert pointer is not None
    return PythonEntry(callback, pointer)
