"""The pages' Python blocks run, and print what the pages say; every link leads somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance.peers import missing

from fastxent.backends import cython_kernels

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
)
# What other libraries warn of while they are imported is not ours to mend.
_LAUNCH = """
import runpy, sys, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in sys.argv[2:]:
        __import__(name)
runpy.run_path(sys.argv[1], run_name="__main__")
"""
_FENCE = re.compile(r"^```(.*)$", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str) -> list[str]:
    """The Python blocks, each with as many empty lines before it as the page has lines there.

    A traceback then names the line of the page.
    """
    text = text_of(page)
    return [
        "\n" * text.count("\n", 0, found.start(1)) + found[1]
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def together(parts: list[str]) -> str:
    """Blocks as one program, every line where it is on the page."""
    lines = [""] * max(part.count("\n") for part in parts)
    for part in parts:
        for i, line in enumerate(part.splitlines()):
            lines[i] = lines[i] or line
    return "\n".join(lines) + "\n"


def imported(block: str) -> set[str]:
    """The packages that a block imports, but for fastxent and what comes with Python."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    packages = {name.partition(".")[0] for name in found}
    return packages - {"fastxent"} - sys.stdlib_module_names


def absent(block: str) -> set[str]:
    return {name for name in imported(block) if importlib.util.find_spec(name) is None}


def promised(block: str) -> list[str]:
    """What a block says that it prints: comments behind a print, or in the lines after it."""
    found: list[str] = []
    follows_print = False
    for line in block.splitlines():
        code = line.strip()
        if code.startswith("print("):
            follows_print = True
            found += code.partition("  # ")[2:] if "  # " in code else []
        elif follows_print and code.startswith("# "):
            found.append(code[2:])
        else:
            follows_print = False
    return found


def run(page: str, parts: list[str], folder: Path, **environment: str) -> None:
    """The blocks in order, in one process, with warnings as errors, in an empty folder."""
    packages = set().union(*map(imported, parts))
    program = folder / f"{Path(page).name}.py"
    program.write_text(together(parts), "utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-W", "error", "-c", _LAUNCH, str(program)),
            *sorted(packages),
        ],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or "tensorflow" in packages  # which logs whatever it is told
    assert done.stdout.splitlines() == [line for part in parts for line in promised(part)]


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


@pytest.mark.timeout(600)  # the Numba twin compiles for each page anew
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_the_blocks_of_a_page_run_and_print_what_it_says(
    page: str, backend: str, tmp_path: Path
) -> None:
    here = [block for block in blocks(page) if not absent(block)]
    if backend == "numba":
        # More than a minute of compilation; the harness has tests of its own with this backend.
        harness = ("from fastxent.verify import", "fastxent.cross_entropy")
        here = [block for block in here if not all(name in block for name in harness)]
    run(page, here, tmp_path, FASTXENT_BACKEND=backend)
    if lacking := set().union(*map(absent, blocks(page))):
        missing(f"not installed: {', '.join(sorted(lacking))}")


@pytest.mark.parametrize("instruction_set", cython_kernels.INSTRUCTION_SETS[:-1])
@pytest.mark.parametrize("page", [page for page in WITH_BLOCKS if "print(" in text_of(page)])
def test_a_page_prints_the_same_with_every_build(
    page: str, instruction_set: str, tmp_path: Path
) -> None:
    driver = cython_kernels.driver
    if driver is None or not driver.cpu_supports(instruction_set):
        pytest.skip(f"this CPU does not run {instruction_set}")
    # The harness and the Numba twin have no builds, and take longer than all the rest.
    others = ("fastxent.verify", "backend=backend")
    parts = [block for block in blocks(page) if not any(name in block for name in others)]
    run(page, parts, tmp_path, FASTXENT_ISA=instruction_set)


def test_every_page_with_python_is_found() -> None:
    """A block in another way of writing would not run, and nobody would notice."""
    assert {"README.md", "docs/functions.md", "docs/options.md"} <= set(WITH_BLOCKS)
    for page in PAGES:
        opening = _FENCE.findall(text_of(page))[::2]
        assert set(opening) <= {"python", "sh", "yaml"}, page
        assert opening.count("python") == len(blocks(page)), page


# ---- links ---------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), target


def test_the_readme_leads_to_every_page() -> None:
    for page in PAGES:
        if page.startswith("docs/"):
            assert f"]({page})" in text_of("README.md"), page


# ---- commands ------------------------------------------------------------------------------------

WORKFLOWS = [".github/workflows/benchmarks.yml", "examples/track_speed/speed.yml"]


def bench_commands(page: str) -> list[tuple[str, set[str]]]:
    """Every `fastxent bench COMMAND` of a page, with the options it is given there."""
    text = re.sub(r"\\\n", " ", text_of(page))
    return [
        (found[1], set(re.findall(r"(?<=\s)--[a-z-]+", found[2])))
        for found in re.finditer(r"fastxent bench (\w+)([^\n`]*)", text)
    ]


def test_the_commands_of_the_benchmarks_are_those_that_exist() -> None:
    pytest.importorskip("pytest_benchmark", reason="the extra 'bench' brings it")
    typer_main = pytest.importorskip("typer.main")
    app = importlib.import_module("fastxent.benchmarks.commands").app

    def options_of(command: Any) -> set[str]:
        """Of a command and the commands in it: `history` has `add` and `show`."""
        own = {option for each in command.params for option in each.opts}
        return own.union(*map(options_of, getattr(command, "commands", {}).values()))

    program = typer_main.get_command(app)
    known = {name: options_of(command) for name, command in program.commands.items()}
    shown = [each for page in (*PAGES, *WORKFLOWS) for each in bench_commands(page)]
    assert {name for name, _ in shown} == set(known)
    for name, options in shown:
        assert options <= known[name] | {"--help"}, name
