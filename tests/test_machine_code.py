"""The loops of the Numba twin are vectors in machine code: packed instructions, and no calls."""

from __future__ import annotations

import functools
import platform
import re
import sys
from types import ModuleType
from typing import Any

import pytest
from numba import types

from fastxent.backends import numba_twin
from fastxent.backends.needs import EVERYTHING
from fastxent.backends.numba_functions import CALLED, compiled, compiling
from fastxent.backends.numba_scalars import IS_X86, has_feature, pointer_at

pytestmark = [
    pytest.mark.skipif(
        not IS_X86, reason=f"reads machine code of x86-64, not {platform.machine()}"
    ),
    pytest.mark.skipif(not has_feature("fma"), reason="without FMA it is a call of the C library"),
]

# A loop is between a label and a jump back to it.
LABEL = re.compile(r"^(\.\w+):")
JUMP = re.compile(r"^\tj\w+\t(\.\w+)$")
CALL = re.compile(r"^\tcall")
PACKED = re.compile(
    r"^\t(v\w+(ps|pd|ph2ps|ps2ph|d|q|dqu|dqa|wd|usdw)\t.*%[yz]mm|vcvtpd2ps[yz]?\t.*%[xyz]mm)"
)
MASKED_STORE = re.compile(r"^\tvp?maskmov\w+\t.*\)$")  # microcode on AMD
ONE_BY_ONE = re.compile(r"^\tv?(f?n?m?add|f?n?m?sub|mul|div|max|min|cvt)\w*s[sd]\t")

# What is done to every class, by module, and in how many loops.
LOOPS = {
    "elements": {"convert_block": 3, "convert_results": 2, "copy_values": 1},
    "transforms": {
        "write_cap_exponentials": 1, "write_capped_differences": 1, "turn_into_slopes": 1,
        "write_differences": 1, "divide_all": 1,
    },
    "sums": {
        "largest_of": 1, "shift_block": 2, "sum_reals_in": 2,
        "sum_doubles_in": 2, "sum_dots_in": 2, "sum_below_in": 3, "write_terms": 1,
        "write_terms_with_tails": 1, "multiply_terms": 1, "write_multiples": 1,
        "write_multiples_with_tails": 1, "multiply_masses": 1,
        "block_is_within": 1, "first_equal": 1, "write_products": 1,
    },
    "outputs": {
        "block_softmax": 1, "block_softmax_minus_target": 6, "block_hessian": 1,
        "block_hessian_product": 1, "block_label_gradient": 2, "block_log_softmax": 1,
    },
    "divergence": {
        "write_distances": 1, "write_curves": 1, "write_divergences": 1,
        "write_divergence_gradient": 1,
    },
    "tiles": {
        "transpose": 1, "write_largest": 3, "refer_lanes_to": 1,
        "write_lane_terms": 1, "write_units": 1, "add_lanes_below": 4, "write_above": 1,
        "write_log1p": 1, "write_shares": 1, "scale_lanes": 1,
        "shift_lanes": 1, "spread_tile": 1, "subtract_spread_from_tile": 1, "hessian_tile": 1,
        "log_softmax_tile": 1,
    },
}  # fmt: skip


def loops_in(code: str) -> list[list[str]]:
    """The instructions of the innermost loops."""
    lines = code.splitlines()
    found = []
    start: dict[str, int] = {}
    for i, line in enumerate(lines):
        if label := LABEL.match(line):
            start[label[1]] = i
        elif (jump := JUMP.match(line)) and jump[1] in start:
            found.append((start[jump[1]], i))
    innermost = [
        (a, b)
        for a, b in found
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)
    ]
    return [lines[a:b] for a, b in innermost]


def vector_loops(code: str) -> int:
    """How many loops have packed instructions, no others of floats, no call and no masked store."""
    return sum(
        any(PACKED.match(line) for line in loop)
        and not any(
            ONE_BY_ONE.match(line) or CALL.match(line) or MASKED_STORE.match(line) for line in loop
        )
        for loop in loops_in(code)
    )


def code_of(function: Any) -> list[str]:
    """The machine code of a function, for all types that it has been compiled for."""
    return [
        code_in(assembly_of(result.library), result.fndesc.llvm_func_name)
        for (compiled_one, _), result in CALLED.items()
        if compiled_one is function.function
    ]


@functools.cache
def assembly_of(library: Any) -> str:
    return str(library.get_asm_str())


def code_in(assembly: str, symbol: str) -> str:
    """The part of a library's machine code that is one function's."""
    (code,) = re.findall(rf"^{symbol}:\n(.*?)^\.Lfunc_end", assembly, re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.fixture(scope="module", params=[32, 64], ids=["float32", "float64"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    kernels = numba_twin.load_twin(request.param, EVERYTHING)
    tiles = ["lanes_evaluate"] if request.param == 32 else []
    for name in ("rows_evaluate", "rows_diverge", "rows_check_probs", "rows_describe", *tiles):
        kernels.compile_entry(getattr(kernels, name))
    return kernels


@pytest.mark.parametrize(
    ("module", "name", "loops"),
    [(module, name, loops) for module, names in LOOPS.items() for name, loops in names.items()],
)
def test_loops_over_classes_are_done_in_vectors(
    twin: ModuleType, module: str, name: str, loops: int
) -> None:
    if name == "convert_results" and "float64" in str(twin.__package__):
        loops = 0  # 16 bits are results of float32 arithmetic alone
    function = getattr(sys.modules[f"{twin.__package__}.{module}"], name)
    if "float64" in str(twin.__package__) and (name == "multiply_terms" or module == "tiles"):
        assert not code_of(function)  # float64 keeps no exponentials, and has no tiles
        return
    codes = code_of(function)
    assert codes, "not compiled"
    for code in codes:
        assert vector_loops(code) >= loops, code


def test_a_loop_that_is_not_is_seen() -> None:
    zero = 0.0

    @compiled
    def total(address, n):
        values = pointer_at(address, zero)
        result = 0.0
        for j in range(n):
            result += values[j]
        return result

    @compiled
    def doubled(address, n):
        values = pointer_at(address, zero)
        for j in range(n):
            values[j] *= 2.0

    copied = ".LBB0_1:\n\t{}\t%ymm0, (%rdi,%rax)\n\tjne\t.LBB0_1\n"
    assert vector_loops(copied.format("vmovups")) == 1
    assert vector_loops(copied.format("vmaskmovps")) == 0
    for function, expected in ((total, 0), (doubled, 1)):
        with compiling(function, (types.int64, types.int64)):
            (code,) = code_of(function)
        assert (vector_loops(code) > 0) == bool(expected), code
