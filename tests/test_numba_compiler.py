"""The first call of the Numba backend: interrupted, in the middle of itself, or not possible."""

from __future__ import annotations

import os

from support import run_python

PRELUDE = """
import gc, os, signal, sys, threading, time
import numpy as np, fastxent

def call(**options):
    losses = fastxent.cross_entropy(np.zeros((2, 4), 'f4'), [0, 1], **options)
    assert abs(losses - np.log(4)) < 1e-6, losses

def error_of(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ValueError as error:
        return str(error)
"""

INTERRUPTED = """
calling = False
def interrupt(*_):
    global calling
    if calling:
        calling = False
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.15)
interruptions = 0
while True:
    try:
        calling = True
        call(backend='numba')
        calling = False
        break
    except KeyboardInterrupt:
        interruptions += 1
print(interruptions > 3)
"""


def test_a_first_call_may_be_interrupted_at_any_moment() -> None:
    result = run_python(PRELUDE + INTERRUPTED)
    assert result.stdout == "True\n", result.stderr


INTERRUPTED_AT_LAST = """
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
interruptions = 0
for _ in range(8):
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        call(backend='numba')
    except KeyboardInterrupt:
        interruptions += 1
print(interruptions)
"""


def test_a_process_ends_though_each_of_its_first_calls_was_interrupted() -> None:
    result = run_python(PRELUDE + INTERRUPTED_AT_LAST)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "8\n"


CALLED_IN_THE_MIDDLE = """
nested = []
def handler(*_):
    nested.append('handler')
    call(backend='numba')
    nested.append('handler is done')
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.3, 1)

inside = threading.local()
def collected(phase, _):
    if phase == 'stop' and not hasattr(inside, 'it'):
        inside.it = True
        nested.append('collection')
        call(backend='numba')
        nested.append('collection is done')
        del inside.it
gc.callbacks.append(collected)

threading.stack_size(1 << 16)  # Python's smallest, for the program's own threads
call(backend='numba')
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
gc.callbacks.clear()
for name in ('handler', 'collection'):
    print(nested.count(name) > 0, nested.count(name) == nested.count(name + ' is done'))
"""


def test_handlers_and_finalizers_may_call_in_the_middle_of_the_first_call() -> None:
    result = run_python(PRELUDE + CALLED_IN_THE_MIDDLE)
    assert result.stdout == "True True\nTrue True\n", result.stderr
    assert result.stderr == ""


CALLED_BY_LLVM = """
import llvmlite.binding as llvm

def notified(*_):
    try:
        call(backend='numba')
    except RuntimeError as error:
        print(error)

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_default_triple().create_target_machine()
module = llvm.parse_assembly('define i32 @one() {\\n  ret i32 1\\n}')
engine = llvm.create_mcjit_compiler(module, machine)
engine.set_object_cache(notified)
engine.finalize_object()
call(backend='numba')
print('done')
"""


def test_a_call_in_the_middle_of_llvm_does_not_end_the_process() -> None:
    result = run_python(PRELUDE + CALLED_BY_LLVM)
    assert result.returncode == 0, result.stderr
    message, done = result.stdout.splitlines()
    assert message.startswith("this call, perhaps of a signal handler or a finalizer, comes from")
    assert "warmup(backend='numba') beforehand" in message
    assert done == "done"


CALLED_WHILE_NUMBA_IS_IMPORTED = """
import importlib.abc

class Caller(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'numba.core.config':
            sys.meta_path.remove(self)
            try:
                call(backend='numba')
            except ImportError as error:
                print(error)

sys.meta_path.insert(0, Caller())
import numba
"""


def test_a_call_in_the_middle_of_the_users_import_of_numba_says_so() -> None:
    result = run_python(PRELUDE + CALLED_WHILE_NUMBA_IS_IMPORTED)
    assert result.stdout.startswith("this call, perhaps of a signal handler"), result.stderr
    assert "import of numba; import fastxent and call fastxent.warmup" in result.stdout


FAILED = """
from fastxent.backends.context import CONTEXT_DTYPE
from fastxent.backends.needs import PLAIN
from fastxent.backends.numba_twin import load_twin
from fastxent.backends import numba_functions
from numba.core.codegen import CPUCodeLibrary

twin = load_twin(32, PLAIN)
finalize = CPUCodeLibrary.finalize

def fail(library):
    if library.name == 'fastxent':
        raise MemoryError('no room for machine code')
    finalize(library)

for compiles in (
    lambda: numba_functions.entry_of(twin.rows_sum, CONTEXT_DTYPE),
    lambda: call(backend='numba'),
):
    CPUCodeLibrary.finalize = fail
    try:
        compiles()
    except MemoryError as error:
        print(error)
    CPUCodeLibrary.finalize = finalize
    print(len(numba_functions.CALLED))
    compiles()
    print(len(numba_functions.CALLED) > 0)
    numba_functions.CALLED.clear()
"""


def test_what_a_failed_compilation_has_left_is_not_used() -> None:
    result = run_python(PRELUDE + FAILED)
    assert result.stdout == "no room for machine code\n0\nTrue\n" * 2, result.stderr


SWITCHED_OFF = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('ignore')
    warnings.simplefilter('always', RuntimeWarning)
    print(fastxent.available_backends())
    call(backend='numba')
    call(backend='numba')
print(*(each.message for each in caught), sep='\\n')
"""


def test_where_numba_compiles_nothing_its_backend_is_python_and_says_so_once() -> None:
    result = run_python(PRELUDE + SWITCHED_OFF, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    backends, *warned = result.stdout.splitlines()
    assert backends == "('cython', 'numba')"
    (message,) = warned
    assert message.startswith("Numba's compiler is switched off, by NUMBA_DISABLE_JIT"), message
    assert "backend 'numba' runs as Python" in message
    assert result.returncode == 0, result.stderr


def test_the_default_backend_is_not_the_one_in_python() -> None:
    result = run_python(
        PRELUDE + "call()\nprint(fastxent.get_backend(), 'numba' in sys.modules)",
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert result.stdout == "cython False\n", result.stderr


def test_without_compiled_modules_either_a_call_is_python_alone() -> None:
    code = "import sys\nsys.modules['fastxent.backends.driver'] = None\n"
    result = run_python(
        code + PRELUDE + "call()\nprint(fastxent.available_backends())",
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert result.stdout == "('numba',)\n", result.stderr
    assert "RuntimeWarning: Numba's compiler is switched off" in result.stderr


def test_with_neither_backend_a_call_says_why_of_both() -> None:
    code = """
import importlib.util, sys
sys.modules['fastxent.backends.driver'] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == 'numba' else find(name, *rest)
"""
    result = run_python(
        code + PRELUDE + "print(fastxent.available_backends(), error_of(call))",
    )
    assert result.stdout.startswith("() no backend is available: 'cython': "), result.stderr
    assert "no compiled kernels" in result.stdout
    assert "'numba': numba is not installed" in result.stdout


SWITCHED_SINCE = """
fastxent.set_backend('numba')
call()
import numba
numba.config.DISABLE_JIT = 1
print(fastxent.available_backends(), error_of(fastxent.warmup, 'float64'))
numba.config.DISABLE_JIT = 0
print(fastxent.available_backends())
call()
"""


def test_numba_switched_off_after_it_has_compiled_compiles_no_more() -> None:
    result = run_python(PRELUDE + SWITCHED_SINCE)
    first, *rest = result.stdout.splitlines()
    assert first.startswith("('cython',) backend 'numba' is not available: since"), result.stderr
    assert "switched off" in first
    assert "or start another process" in first
    assert rest == ["('cython', 'numba')"]
    assert result.returncode == 0, result.stderr


def test_numba_switched_on_after_it_has_run_as_python_compiles_nothing() -> None:
    code = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    call(backend='numba')
del os.environ['NUMBA_DISABLE_JIT']
print(fastxent.available_backends(), error_of(fastxent.warmup, 'float64', backend='numba'))
"""
    result = run_python(PRELUDE + code, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert result.stdout.startswith("('cython',) backend 'numba' is not available: since")
    assert "switched on" in result.stdout
