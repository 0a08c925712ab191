"""The machine that results come from, as they tell it."""

from __future__ import annotations

from typing import Any

from fastxent.benchmarks.machine import fingerprint


def machine_of(results: dict[str, Any]) -> dict[str, Any]:
    """Its facts, and its "fingerprint", of any results of pytest-benchmark.

    Ours name them; of others', pytest-benchmark itself says enough.
    """
    machine = results.get("machine") or _as_pytest_benchmark_says(results.get("machine_info") or {})
    return {**machine, "fingerprint": machine.get("fingerprint") or fingerprint(machine)}


def _as_pytest_benchmark_says(info: dict[str, Any]) -> dict[str, Any]:
    cpu = info.get("cpu") or {}
    sizes = {"L1d": "l1_data_cache_size", "L2": "l2_cache_size", "L3": "l3_cache_size"}
    return {
        "cpu": cpu.get("brand_raw") or info.get("processor") or info.get("machine"),
        "architecture": info.get("machine"),
        "system": info.get("system"),
        "cpus": cpu.get("count"),
        "instruction_sets": cpu.get("flags") or [],
        "caches": {name: cpu[key] for name, key in sizes.items() if key in cpu},
    }
