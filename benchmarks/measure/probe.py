"""Prints which package a process of `launch.py` measures, and what it lacks, as JSON.

python -P launch.py fastxent.benchmarks.measure.probe [modules that are needed]
"""

from __future__ import annotations

import importlib.util
import json
import sys

import fastxent

if __name__ == "__main__":
    missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
    print(
        json.dumps(
            {
                "version": fastxent.__version__,
                "file": fastxent.__file__,
                "missing": missing,
            }
        )
    )
