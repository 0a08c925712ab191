"""The README's Python blocks print what they say, whatever the instruction set."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import run_python

from fastxent.backends import cython_kernels

README = Path(__file__).parent.parent / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def promised(code: str) -> list[str]:
    """The comments that follow a print."""
    found = []
    follows_print = False
    for line in code.splitlines():
        is_comment = line.startswith("# ")
        if follows_print and is_comment:
            found.append(line[2:])
        follows_print = line.lstrip().startswith("print(") or (follows_print and is_comment)
    return found


@pytest.mark.parametrize("instruction_set", cython_kernels.INSTRUCTION_SETS)
def test_the_blocks_print_what_they_say(instruction_set: str) -> None:
    driver = cython_kernels.driver
    if driver is None or not driver.cpu_supports(instruction_set):
        pytest.skip(f"this CPU does not run {instruction_set}")
    # the harness and the Numba twin have tests of their own, and take longer than all the rest
    slow = ("fastxent.verify", "backend=backend")
    code = "\n".join(block for block in blocks() if not any(name in block for name in slow))
    wanted = promised(code)
    assert len(wanted) >= 5
    done = run_python(code, env={**os.environ, "FASTXENT_ISA": instruction_set})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines() == wanted
