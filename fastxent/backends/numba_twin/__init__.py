"""The Numba twin: softmax cross-entropy, in modules that are executed once for each use.

Numba takes a module's constants for constants, and leaves out what a condition on them rules out.
So every module but `settings` says what its functions do in terms of its constants, and `load_twin`
executes all of them for other values of these, as a package of its own. Each imports from those
before it:

    settings     those values
    precision    the type that is computed with
    exponential  of a logit, relative to the largest
    elements     in and out of memory, converted
    transforms   soft-capping and temperature
    sums         passes over a block of a row that read it
    outputs      passes that write
    divergence   of two rows
    tiles        many rows side by side
    kernels      what a driver calls, row by row and tile by tile
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import InspectLoader
from types import ModuleType
from typing import Final, cast

from ..needs import Needs

_MODULES: Final = (
    "precision", "exponential", "elements", "transforms", "sums", "outputs", "divergence", "tiles",
    "kernels",
)  # fmt: skip


def load_twin(real_bits: int, needs: Needs) -> ModuleType:
    """The module of the kernels that compute in floats of `real_bits` bits, for what is needed.

    They are compiled when they are first called.
    """
    package = f"{__name__}_float{real_bits}_{needs:d}"
    sys.modules[package] = ModuleType(package)
    settings = _module_in(package, "settings")
    vars(settings).update(REAL_BITS=real_bits, **{str(need.name): need in needs for need in Needs})
    for name in _MODULES:
        module = _module_in(package, name)
        source = f"{__name__}.{name}"
        spec = importlib.util.find_spec(source)
        assert spec is not None
        code = cast(InspectLoader, spec.loader).get_code(source)
        assert code is not None
        module.__file__ = spec.origin
        exec(code, vars(module))
    return module


def _module_in(package: str, name: str) -> ModuleType:
    """A new module, where the imports of the others find it."""
    module = sys.modules[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
    module.__package__ = package
    return module
