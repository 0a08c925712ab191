"""What importing fastxent costs, and where it is imported from."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import run_python

import fastxent
from fastxent.backends import cython_kernels

ROOT = Path(__file__).parent.parent


def test_importing_loads_neither_numba_nor_scipy_but_the_kernels_of_the_default_backend() -> None:
    result = run_python(
        "import sys, fastxent\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'numba', 'llvmlite', 'scipy', 'rich', 'typer', 'mpmath',\n"
        "                      'ml_dtypes', 'concurrent', 'ctypes'}\n"
        "             - set(sys.argv[1:])), 'numpy.ma' in sys.modules)\n" + COMPILED_KERNELS,
        *numpys_own_modules(),
    )
    isa = (cython_kernels.INSTRUCTION_SET or "").replace("-", "_")
    kernels = [f"fastxent.backends.cython_float{bits}_{isa}" for bits in (32, 64)]
    assert result.stdout == f"[] False\n{kernels}\n", result.stderr


COMPILED_KERNELS = "print(sorted(name for name in sys.modules if '.cython_float' in name))\n"


def test_importing_loads_no_kernel_where_numba_is_the_default_backend() -> None:
    result = run_python(
        "import sys, fastxent\n" + COMPILED_KERNELS, env={**os.environ, "FASTXENT_BACKEND": "numba"}
    )
    assert result.stdout == "[]\n", result.stderr


EVERYTHING = """
import os, sys
import numpy as np
import fastxent as f

class Nothing:
    def find_spec(self, name, path=None, target=None):
        return None

if sys.argv[1] == 'blocked':
    sys.meta_path[:] = [Nothing()]
else:
    os.makedirs('empty')
    try:
        os.chroot('empty')
    except PermissionError:
        sys.exit(75)
    os.chdir('/')

state = None
def functions(x, y):
    global state
    q = np.full(x.shape, 1 / x.shape[-1])
    state = f.partial(x, y)
    return {
        'cross_entropy': lambda: [
            f.cross_entropy(x, y), f.cross_entropy(x, q), f.cross_entropy(x.T, y, axis=0),
            f.cross_entropy(x.tolist(), y.tolist(), reduction='none', label_smoothing=0.1),
            f.cross_entropy(x[:, ::2], y * 0, ignore_index=-1, temperature=2.0, softcap=5.0),
        ],
        'cross_entropy_grad_hess': lambda: f.cross_entropy_grad_hess(x, y),
        'cross_entropy_hvp': lambda: f.cross_entropy_hvp(x, y, x),
        'cross_entropy_with_grad': lambda: [
            f.cross_entropy_with_grad(x, y, n_threads=2),
            f.cross_entropy_with_grad(x, y, out=np.empty_like(x)),
            f.cross_entropy_with_grad(x, q, grad_labels=True),
        ],
        'finish': lambda: f.finish(state),
        'finish_grad': lambda: f.finish_grad(state, x, y),
        'kl_divergence_with_logits': lambda: f.kl_divergence_with_logits(x, x),
        'kl_divergence_with_logits_and_grad': lambda: f.kl_divergence_with_logits_and_grad(x, x),
        'log_softmax': lambda: f.log_softmax(x),
        'logsumexp': lambda: f.logsumexp(x),
        'merge': lambda: f.merge(state, f.partial(x, y, class_offset=x.shape[1])),
        'partial': lambda: f.partial(x, y),
        'row_stats': lambda: f.row_stats(x, y),
        'softmax': lambda: f.softmax(x),
        'softmax_cross_entropy_with_logits': lambda: f.softmax_cross_entropy_with_logits(q, x),
        'sparse_softmax_cross_entropy_with_logits':
            lambda: f.sparse_softmax_cross_entropy_with_logits(y, x),
    }

SETTINGS = {
    'available_backends': lambda: f.available_backends(),
    'get_backend': lambda: f.get_backend(),
    'get_num_threads': lambda: f.get_num_threads(),
    'set_backend': lambda: f.set_backend('cython'),
    'set_num_threads': lambda: f.set_num_threads(2),
    'show_config': lambda: f.show_config(),
    'threads': lambda: f.threads(1).__enter__(),
    'warmup': lambda: f.warmup(['float32', 'float64'], backend='cython'),
    'PartialState': None, 'RowStats': None,
}
rows, labels = np.arange(80.0).reshape(8, 10), np.arange(8)
for dtype in (np.float32, np.float64, np.float16):
    for name, function in (functions(rows.astype(dtype), labels) | SETTINGS).items():
        if function is not None:
            function()
assert sorted(functions(rows, labels) | SETTINGS) == f.__all__

for wrong in (
    lambda: f.cross_entropy(rows, labels + 5), lambda: f.cross_entropy(rows, None),
    lambda: f.cross_entropy(rows.astype(complex), labels), lambda: f.cross_entropy(3, labels),
    lambda: f.cross_entropy([['a']], [0]), lambda: f.softmax(rows, out=rows[::-1]),
    lambda: f.cross_entropy(rows, labels, backend='no'), lambda: f.warmup('no'),
    lambda: f.cross_entropy(rows, rows, reduction='no'), lambda: f.softmax(object()),
    lambda: f.cross_entropy(rows, labels, class_weight=labels),
):
    try:
        wrong()
        print('no error')
    except (TypeError, ValueError):
        pass
print('all is said and done')
"""


@pytest.mark.parametrize("way", ["blocked", "chroot"])
def test_after_importing_no_call_imports_anything_more(way: str) -> None:
    result = run_python(EVERYTHING, way)
    if result.returncode == 75:
        pytest.skip("chroot is not allowed here; the other way is the same without it")
    assert result.stdout.splitlines()[-1:] == ["all is said and done"], result.stderr
    assert "no error" not in result.stdout


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


@pytest.mark.parametrize(
    ("name", "value", "section", "entry", "message"),
    [
        ("FASTXENT_ISA", "avx9", "backends", "default", "='avx9' is not an instruction set"),
        ("FASTXENT_BACKEND", "nump", "backends", "default", "='nump' cannot be used"),
        ("FASTXENT_NUM_THREADS", "0", "threads", "used by default", "='0' is not a number of"),
        ("FASTXENT_NUM_THREADS", "all", "threads", "used by default", "='all' is not a number of"),
    ],
)
def test_show_config_says_what_is_wrong_with_the_environment(
    name: str, value: str, section: str, entry: str, message: str
) -> None:
    result = run_python(
        "import json, fastxent\n"
        "print(json.dumps(fastxent.show_config(mode='dicts')))\n"
        "fastxent.show_config()\n",
        env={**os.environ, name: value},
    )
    assert result.returncode == 0, result.stderr
    first, _, printed = result.stdout.partition("\n")
    config = json.loads(first)
    assert config[section][entry] is None
    assert config["environment"][name] == value
    (error,) = config["errors"]
    assert error.startswith(name + message)
    assert f"  {entry}: none, see errors\n" in printed
    assert printed.endswith(f"errors:\n  {error}\n")


def test_show_config_prints_what_the_terminal_cannot_write() -> None:
    result = run_python(
        "import fastxent; fastxent.show_config()",
        env={**os.environ, "PYTHONIOENCODING": "ascii", "FASTXENT_BACKEND": "\xe9\udcff"},
    )
    assert r"FASTXENT_BACKEND: \xe9\udcff" in result.stdout, result.stderr


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
