"""How the Numba twin's functions are compiled, and called by one another."""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager
from numba.extending import intrinsic

from .numba_scalars import COMPILES, stack


def called(dispatcher: Any, separately: bool) -> Any:
    """A compiled function as one that is compiled once, whether its arguments are constants or not.

    Numba compiles a function anew for a constant argument, even for a variable that only starts as
    one. It also links the code of a function into every caller, there to be optimised again, and
    again in the callers' callers: half of the time that `rows_evaluate` took to compile. With
    `separately` callers call the function without taking its code over.
    """

    @intrinsic
    def call(typingctx: Any, *arguments: Any) -> Any:
        wanted = tuple(types.unliteral(argument) for argument in arguments)
        template, _, _, _ = dispatcher.get_call_template(wanted, {})
        signature = template(typingctx).apply(wanted, {})
        compiled = dispatcher.overloads[signature.args]

        def codegen(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            values = cgutils.unpack_tuple(builder, arguments[0]) if signature.args else []
            if not separately:
                context.active_code_library.add_linking_library(compiled.library)
            return context.call_internal(builder, compiled.fndesc, signature, values)

        return signature.return_type(types.StarArgTuple(signature.args)), codegen

    call.dispatcher = dispatcher  # with its machine code
    return call


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


# Python never calls these functions, so they need no entry for it: 1.5 of 8.4 s to compile.
OPTIONS: Final[dict[str, Any]] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _Pipeline,
}


def inlined(function: Any) -> Any:
    """Made part of every caller."""
    if not COMPILES:
        return function
    return called(njit(forceinline=True, **OPTIONS)(function), separately=False)


def compiled(function: Any) -> Any:
    """Compiled by itself, and called."""
    if not COMPILES:
        return function
    return called(njit(**OPTIONS)(function), separately=True)


def entry_of(kernel: Any, context_dtype: Any) -> Any:
    """A kernel of (context, start, stop) as a C function, for a pointer to a context of this type.

    It lives as long as what is returned.
    """
    if not COMPILES:
        return _entry_in_python(kernel, context_dtype)
    context_type = types.CPointer(numba.from_dtype(context_dtype))

    @cfunc(types.void(context_type, types.int64, types.int64))
    def enter(context: Any, start: int, stop: int) -> None:
        kernel(carray(context, 1)[0], start, stop)

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
