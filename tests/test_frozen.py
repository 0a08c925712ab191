"""Applications frozen by PyInstaller, which follows imports by reading them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import run_python

import fastxent
from fastxent import _pyinstaller, backends
from fastxent.backends import numba_twin

HELLO = """
import numpy as np
import fastxent
for dtype in ("float32", "float64"):
    loss = fastxent.cross_entropy(np.zeros((2, 4), dtype), [0, 1], n_threads=2)
    print(f"{loss:.6f}")
print(fastxent.__version__, fastxent.available_backends())
config = fastxent.show_config(mode="dicts")
print(config["versions"]["fastxent"], config["backends"]["thread driver"])
try:
    fastxent.warmup(backend="numba")
except ValueError as error:
    print(error)
"""


def is_editable() -> bool:
    source = importlib.metadata.distribution("fastxent").read_text("direct_url.json") or "{}"
    return bool(json.loads(source).get("dir_info", {}).get("editable"))


@pytest.mark.skipif(
    is_editable(), reason="PyInstaller finds no editable installation; CI freezes the wheel"
)
@pytest.mark.timeout(240)
def test_a_frozen_application_finds_the_kernels_and_the_version(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    # Numba works too, but to read it and to copy 200 MB takes three times as long.
    excluded = ("numba", "llvmlite", "scipy", "PIL", "tkinter", "unittest")
    freezing = subprocess.run(
        [
            sys.executable, "-m", "PyInstaller", "hello.py", "--onedir", "--log-level=WARN",
            *(f"--exclude-module={name}" for name in excluded),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYINSTALLER_CONFIG_DIR": str(tmp_path / "config")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert freezing.returncode == 0, freezing.stderr
    hello = subprocess.run(
        [tmp_path / "dist" / "hello" / "hello"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    version = fastxent.__version__
    assert hello.stdout.splitlines() == [
        "1.386294",
        "1.386294",
        f"{version} ('cython',)",
        f"{version} compiled",
        "backend 'numba' is not available: numba is not installed",
    ], hello.stderr


def test_the_hook_names_every_module_that_is_loaded_by_a_computed_name() -> None:
    (folder,) = _pyinstaller.get_hook_dirs()
    hook = Path(folder) / "hook-fastxent.py"
    result = run_python(
        f"import runpy; print(*sorted(runpy.run_path({str(hook)!r})['hiddenimports']))"
    )
    compiled = [
        f"fastxent.backends.{module.name}"
        for module in pkgutil.iter_modules(backends.__path__)
        if module.name == "driver" or module.name.startswith("cython_float")
    ]
    assert len(compiled) >= 3
    twin = numba_twin.__name__
    executed = [
        twin,
        *(f"{twin}.{each.name}" for each in pkgutil.iter_modules(numba_twin.__path__)),
    ]
    assert result.stdout.split() == sorted(compiled + executed), result.stderr


def test_pyinstaller_is_told_where_the_hook_is() -> None:
    (entry,) = importlib.metadata.entry_points(
        group="pyinstaller40", module="fastxent._pyinstaller"
    )
    assert entry.name == "hook-dirs"
    (folder,) = entry.load()()
    assert (Path(folder) / "hook-fastxent.py").is_file()
