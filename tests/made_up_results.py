"""Results that nobody measured, as `fastxent bench` and pytest-benchmark write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastxent.cli import main

MACHINE = {
    "cpu": "Some CPU @ 2 GHz",
    "architecture": "x86_64",
    "system": "Linux",
    "cpus": 2,
    "instruction_sets": ["avx", "avx2"],
    "caches": {"L1d": 49152, "L2": 2097152},
    "memory": 8 << 30,
    "load": 0.12,
    "governor": None,
    "fingerprint": "some-cpu-2-ghz-2-cpus-538a48",
}
# Nanoseconds of a call, and picoseconds of a logit with one thread.
SPEEDS: dict[str, tuple[str, float, float]] = {
    "roof_read": ("roof", 400, 130),
    "roof_copy": ("roof", 500, 260),
    "roof_exp_sum": ("roof", 900, 190),
    "roof_exp_write": ("roof", 900, 290),
    "cython": ("backend", 2000, 220),
    "numba": ("backend", 2500, 240),
    "scipy": ("peer", 15000, 4000),
    "sklearn": ("peer", 2500, 5000),
    "jax": ("peer", 40000, 800),
    "tensorflow": ("peer", 120000, 700),
    "torch": ("peer", 7000, 1500),
    "torch_compile": ("peer", 25000, 550),
}


def bench(*arguments: str | Path) -> int:
    """The exit status of `fastxent bench`."""
    try:
        main(["bench", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def written(folder: Path, content: dict[str, Any], name: str = "results.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(content))
    return file


def bare_entry(
    group: str, implementation: str, kind: str, median: float, arrays: int = 1
) -> dict[str, Any]:
    """One benchmark of a group, by its name, with no more than is judged."""
    operation, dtype, shape, threads = group.split()
    info = {"operation": operation, "dtype": dtype, "shape": shape, "threads": int(threads[0])}
    info |= {"implementation": implementation, "kind": kind, "bytes": arrays * 1000}
    return {"group": group, "extra_info": info, "stats": {"median": median}}


def throughput(
    shapes: Iterable[str] = ("32x100",),
    operations: Iterable[str] = ("loss_and_grad",),
    dtypes: Iterable[str] = ("float32",),
    threads: Iterable[int] = (1,),
    implementations: Iterable[str] = tuple(SPEEDS),
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A run; `more` takes the place of what is told of machine, revision and time."""
    rng = np.random.default_rng(seed)
    entries = [
        _entry(operation, dtype, shape, count, name, float(rng.normal(1, 0.02)))
        for dtype in dtypes
        for shape in shapes
        for operation in operations
        for count in threads
        for name in implementations
    ]
    return whole(entries, **more)


def _entry(
    operation: str, dtype: str, shape: str, threads: int, name: str, noise: float
) -> dict[str, Any]:
    kind, start, each = SPEEDS[name]
    n_logits = int(np.prod([int(n) for n in shape.partition("-axis")[0].split("x")]))
    arrays = 1 if name in ("roof_read", "roof_exp_sum") or operation == "loss" else 2
    beyond_cache = 1.5 if n_logits > 1 << 20 else 1.0
    used = min(threads, max(1, n_logits // 30000))
    seconds = noise * (start * 1e-9 + beyond_cache * arrays * each * 1e-12 * n_logits / used)
    suffix = "1thread" if threads == 1 else f"{threads}threads"
    return {
        "group": f"{operation} {dtype} {shape} {suffix}",
        "name": f"test_a_right_answer_in_time[{shape}-{dtype}-{suffix}-{operation}-{name}]",
        "extra_info": {
            "operation": operation,
            "dtype": dtype,
            "shape": shape,
            "threads": threads,
            "implementation": name,
            "kind": kind,
            "bytes": 4 * arrays * n_logits,
            "logits": n_logits,
            "instruction_set": "x86-64-v3" if name == "cython" else None,
            "cpu": "Some CPU @ 2 GHz",
            "load": 0.12,
        },
        "stats": {"median": seconds, "iqr": 0.03 * seconds, "rounds": 50, "iterations": 1},
    }


def of_others(names: Sequence[str] = ("test_words", "test_batch")) -> dict[str, Any]:
    """What pytest-benchmark writes of a project that knows nothing of this one."""
    return {
        "machine_info": {
            "machine": "x86_64",
            "system": "Linux",
            "python_version": "3.12.1",
            "cpu": {"brand_raw": "Some CPU @ 2 GHz", "count": 2, "flags": ["avx"]},
        },
        "commit_info": {"id": "4d2f0c81aa", "dirty": False},
        "benchmarks": [
            {
                "group": None,
                "name": name,
                "extra_info": {},
                "stats": {"median": 1.5e-3, "iqr": 2e-5, "rounds": 9},
            }
            for name in names
        ],
        "datetime": "2026-03-01T10:00:00+00:00",
        "version": "5.1.0",
    }


def whole(entries: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Results around these benchmarks."""
    return {
        "benchmarks": entries,
        "machine": MACHINE,
        "machine_info": {"python_version": "3.11.7"},
        "commit_info": {
            "id": "unversioned",
            "fastxent": {
                "versions": {"fastxent": "0.1.0", "numpy": "2.4.6", "numba": None},
                "backends": {"cython instruction set": "x86-64-v3"},
            },
        },
        "datetime": "2026-03-01T10:00:00+00:00",
        **more,
    }


def compare(verdict: str, *benchmarks: tuple[str, float, str]) -> dict[str, Any]:
    """What `fastxent bench compare` writes: names, ratios and verdicts."""
    return {
        "kind": "compare",
        "verdict": verdict,
        "base": {"name": "main", "version": "0.1.0"},
        "head": {"name": "what is installed", "version": "0.2.0"},
        "machine": MACHINE,
        "load": [0.1, 0.3],
        "threshold": 0.05,
        "confidence": 0.95,
        "blocks": 6,
        "benchmarks": [
            {
                "name": name,
                "group": "g",
                "ratio": ratio,
                "low": ratio - 0.02,
                "high": None if found == "inconclusive" else ratio + 0.02,
                "control": 1.0,
                "control_low": 0.99,
                "control_high": 1.01,
                "verdict": found,
                "base_median": 1e-3,
                "head_median": ratio * 1e-3,
                "repeated": found == "slower",
            }
            for name, ratio, found in benchmarks
        ],
    }


def gate(verdict: str, *counts: tuple[str, int | None, int | None, str]) -> dict[str, Any]:
    """What `fastxent bench gate` writes: names, counts before and now, verdicts."""
    return {
        "kind": "gate",
        "commit_info": {"id": "4d2f0c81aa", "dirty": False},
        "verdict": verdict,
        "threshold": 0.01,
        "toolchain": {"cython": {"compiler": "gcc 12"}, "numba": {"numba": "0.68.1"}},
        "base": "recorded",
        "head": {"name": "what is installed", "version": "0.2.0"},
        "reasons": [],
        "counts": [
            {
                "name": name,
                "base": base,
                "head": head,
                "ratio": head / base if base and head else None,
                "verdict": found,
            }
            for name, base, head, found in counts
        ],
        "blind_to": "Counts do not see what is waited for.",
    }
