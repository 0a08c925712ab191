"""Slowdowns planted in a copy of the sources, to prove the gates."""

from __future__ import annotations

from typing import Final

from fastxent.benchmarks.judge.planted import in_cython, in_driver, in_numba
from fastxent.benchmarks.judge.planted.plant import Edit, Gate, Plant, Twin, apply_to

__all__ = ["PLANTS", "Edit", "Gate", "Plant", "Twin", "apply_to"]

PLANTS: Final = (*in_cython.PLANTS, *in_numba.PLANTS, *in_driver.PLANTS)
