"""What importing fastxent costs, and where it is imported from."""

from __future__ import annotations

import doctest
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import run_python

import fastxent

ROOT = Path(__file__).parent.parent


def test_importing_loads_neither_numba_nor_scipy_nor_a_kernel() -> None:
    result = run_python(
        "import sys, fastxent\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'numba', 'llvmlite', 'scipy', 'rich', 'typer', 'mpmath',\n"
        "                      'ml_dtypes', 'concurrent', 'ctypes'}\n"
        "             - before_us))\n".replace("before_us", "set(sys.argv[1:])")
        + "print([name for name in sys.modules if 'cython_float' in name])\n",
        *numpys_own_modules(),
    )
    assert result.stdout.split("\n")[:2] == ["[]", "[]"], result.stderr


def numpys_own_modules() -> list[str]:
    result = run_python(
        "import sys, numpy; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    return result.stdout.split()


def test_the_cython_backend_never_loads_numba() -> None:
    result = run_python(
        "import sys, numpy as np, fastxent\n"
        "x = np.zeros((4000, 100), np.float32)\n"
        "loss, _ = fastxent.cross_entropy_with_grad(x, np.zeros(4000, int), n_threads=2)\n"
        "print(f'{loss:.5f}', 'numba' in sys.modules)\n"
    )
    assert result.stdout == "4.60517 False\n", result.stderr


def test_importing_starts_no_thread() -> None:
    result = run_python(
        "import os\n"
        "os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "import numpy\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import fastxent\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    assert result.stdout == "0\n", result.stderr


def test_public_names_are_what_all_says() -> None:
    assert fastxent.__all__ == sorted(fastxent.__all__)
    for name in fastxent.__all__:
        assert getattr(fastxent, name).__doc__
    assert fastxent.__version__.count(".") >= 1
    with pytest.raises(AttributeError, match="no attribute 'cross_entropie'"):
        fastxent.cross_entropie  # noqa: B018


def test_a_checkout_that_is_not_installed_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fastxent", tmp_path / "fastxent")
    (tmp_path / "csrc_pyx").mkdir()
    (tmp_path / "csrc_pyx" / "meson.build").touch()
    # -S leaves out the installed packages, so that NumPy's folder has to be named
    numpy_folder = Path(importlib.import_module("numpy").__file__ or "").parents[1]
    path = tmp_path / "only_numpy"
    path.mkdir()
    for entry in numpy_folder.glob("numpy*"):
        (path / entry.name).symlink_to(entry)
    result = subprocess.run(
        [sys.executable, "-S", "-c", "import fastxent"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "is the source folder of fastxent, not an installation" in last
    assert "CONTRIBUTING.md" in last


@pytest.mark.parametrize(
    "module", ["fastxent", "fastxent.losses", "fastxent.softmax", "fastxent.config"]
)
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    assert_examples_run(module)


@pytest.mark.parametrize("module", ["fastxent._threads", "fastxent.backends"])
def test_the_examples_of_the_settings_run(module: str) -> None:
    assert_examples_run(module)


def assert_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_function_has_an_example() -> None:
    for name in fastxent.__all__:
        assert ">>> " in (getattr(fastxent, name).__doc__ or ""), name


def test_show_config_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    config = fastxent.show_config(mode="dicts")
    assert config is not None
    assert fastxent.show_config() is None
    printed = capsys.readouterr().out
    assert f"fastxent: {config['versions']['fastxent']}" in printed
    assert config["backends"]["available"] == list(fastxent.available_backends())
    with pytest.raises(ValueError, match="mode must be"):
        fastxent.show_config(mode="json")  # type: ignore[arg-type]


def test_the_environment_may_choose_the_backend() -> None:
    result = run_python(
        "import fastxent; print(fastxent.get_backend())",
        env={**os.environ, "FASTXENT_BACKEND": "numba"},
    )
    assert result.stdout.strip() == "numba"


def test_a_backend_of_the_environment_that_does_not_exist_is_an_error() -> None:
    result = run_python(
        "import fastxent\ntry:\n    fastxent.get_backend()\nexcept ValueError as e:\n    print(e)",
        env={**os.environ, "FASTXENT_BACKEND": "nump"},
    )
    assert "FASTXENT_BACKEND='nump'" in result.stdout
    assert "'cython', 'numba'" in result.stdout
