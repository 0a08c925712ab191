"""Runs a module, as `python -m` does, beside one version of the package and these benchmarks.

    python -P launch.py pytest [arguments of pytest]

To compare two versions of the package one set of benchmarks must measure both. So it is loaded from
here, under the name it always has, though the package may come from elsewhere and have other
benchmarks, or none. What is in this folder uses nothing of the package but its public names.

FASTXENT_BENCH_PACKAGE names the folder that the package is in. Nothing of it then comes from
anywhere else: neither from what is installed, nor from a checkout by way of an editable
installation, whose finder Python asks before its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

_FOLDER: Final = Path(__file__).resolve().parent.parent
_PACKAGE: Final = "fastxent"
_BENCHMARKS: Final = "fastxent.benchmarks"


class _Finder:
    """Asked before all others. It finds the benchmarks here, and the package in its folder.

    What is not there is nowhere, even where another finder knows a module of that name.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != _PACKAGE:
            return None
        if self.folder is None and not name.startswith(f"{_BENCHMARKS}."):
            return None
        spec = PathFinder.find_spec(name, [str(self.folder)] if path is None else path)
        if spec is None:
            raise ModuleNotFoundError(f"{path or self.folder} has no module {name!r}", name=name)
        return spec


def _load_package() -> ModuleType:
    folder = os.environ.get("FASTXENT_BENCH_PACKAGE")
    sys.meta_path.insert(0, _Finder(folder))
    package = importlib.import_module(_PACKAGE)
    if folder and not Path(str(package.__file__)).is_relative_to(folder):
        sys.exit(f"{package.__file__} was imported, and not what is in {folder}")
    return package


def _load_benchmarks(package: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location(
        _BENCHMARKS, _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As an import would leave it; no type says that a module has this attribute.
    sys.modules[_BENCHMARKS] = package.benchmarks = module  # type: ignore[attr-defined]
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _load_benchmarks(_load_package())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
