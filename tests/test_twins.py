"""The twins mirror each other: the same functions, in the same order, with the same parameters."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from fastxent.backends import context, cython_kernels, numba_twin
from fastxent.backends.needs import Needs

ROOT = Path(__file__).parent.parent
NUMBA_KERNELS = ROOT / "fastxent" / "backends" / "numba_twin" / "kernels.py"
PARAMETER = re.compile(r"(\w+)$")


def cython_functions() -> list[tuple[str, tuple[str, ...]]]:
    source = (ROOT / "csrc_pyx" / "kernels.pyx").read_text()
    found = []
    for name, parameters in re.findall(
        r"^cdef [^=:\n(]*?(\w+)\(([^)]*)\) noexcept nogil:", source, re.M
    ):
        names = [PARAMETER.search(text.strip()) for text in parameters.split(",") if text.strip()]
        found.append((name, tuple(match[1] for match in names if match)))
    return found


def numba_functions() -> list[tuple[str, tuple[str, ...]]]:
    tree = ast.parse(NUMBA_KERNELS.read_text())
    found = [
        (node.name, tuple(argument.arg for argument in node.args.args))
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    ]
    # what makes states, before them, is an assignment in C; after them is Numba's entry
    names = [name for name, _ in found]
    return found[names.index("empty_state") : names.index("compile_entry")]


def test_the_twins_have_the_same_functions_in_the_same_order() -> None:
    names = [name for name, _ in cython_functions()]
    assert len(names) >= 40
    assert names == [name for name, _ in numba_functions()]


def test_the_twins_functions_have_the_same_parameters() -> None:
    assert cython_functions() == numba_functions()


def test_every_module_of_the_numba_twin_is_executed_for_each_use() -> None:
    modules = {path.stem for path in NUMBA_KERNELS.parent.glob("*.py")}
    assert modules == {"__init__", "settings", *numba_twin._MODULES}


def test_each_use_of_the_numba_twin_has_its_own_settings() -> None:
    wide, plain = numba_twin.load_twin(64, ~Needs(0)), numba_twin.load_twin(32, Needs.WRITES)
    bits = [sys.modules[f"{twin.__package__}.settings"].REAL_BITS for twin in (wide, plain)]
    assert (bits[0], wide.TRANSFORMS, wide.WRITES) == (64, True, True)
    assert (bits[1], plain.TRANSFORMS, plain.WRITES) == (32, False, True)
    assert wide.zero.dtype == "float64"
    assert plain.zero.dtype == "float32"


def comments(path: Path, start: str) -> list[str]:
    source = path.read_text()
    body = source[source.index(start) :]
    lines = re.findall(r"^ *# (.*)$", body, re.M)
    return " ".join(line for line in lines if not line.startswith("fmt:")).split()


def test_the_twins_have_the_same_comments() -> None:
    assert comments(ROOT / "csrc_pyx" / "kernels.pyx", "State empty_state()") == comments(
        NUMBA_KERNELS, "def empty_state()"
    )


def context_fields() -> list[tuple[str, str]]:
    source = (ROOT / "csrc_pyx" / "context.h").read_text()
    body = source[source.index("typedef struct {") : source.index("} Context;")]
    fields = re.findall(r"^  ([\w ]+?[ *]+)(\w+);", body, re.M)
    return [(name, "d" if kind.strip() == "double" else "q") for kind, name in fields]


def test_the_context_has_the_same_fields_in_c_and_in_python() -> None:
    assert context_fields() == list(context.FIELDS)


def test_the_context_has_the_same_fields_in_the_cython_declaration() -> None:
    source = (ROOT / "csrc_pyx" / "context.pxd").read_text()
    body = source[source.index("struct Context:") :]
    names = re.findall(r"^        [\w ]+?[ *]+(\w+)$", body, re.M)
    assert names == [name for name, _ in context.FIELDS]


def test_the_context_has_the_same_size_everywhere() -> None:
    assert cython_kernels.driver is not None
    assert cython_kernels.driver.CONTEXT_SIZE == context.CONTEXT_SIZE
    assert context.CONTEXT_DTYPE.itemsize == context.CONTEXT_SIZE
    assert len(context.Context(n_classes=1).pack()) == context.CONTEXT_SIZE
    assert 8 * len(context.FIELDS) == context.CONTEXT_SIZE


def test_named_numbers_are_the_same_everywhere() -> None:
    parts = ("primitives.h", "lanes.h", "context.h", "kernels.pyx", "driver.pyx")
    sources = {part: (ROOT / "csrc_pyx" / part).read_text() for part in parts}
    names = [
        name
        for name, value in vars(context).items()
        if name.isupper() and isinstance(value, int) and name != "CONTEXT_SIZE"
    ]
    assert len(names) == 27
    for name in names:
        found = {
            part: set(re.findall(rf"\b{name} = (-?\d+)\b", source))
            for part, source in sources.items()
        }
        assert set().union(*found.values()) == {str(getattr(context, name))}, (name, found)
