"""The machine that is measured on: its CPUs, caches and memory, and what else it does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cpuinfo

_SYSTEM_CPU: Final = Path("/sys/devices/system/cpu/cpu0")
# Of the dozens of flags of a CPU, those that decide which instructions numbers are computed with.
_VECTOR_FLAGS: Final = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "asimd", "asimdhp", "neon", "sve", "sve2"),
)
_BUSY: Final = 0.5


def count_cpus() -> int:
    """How many this process may use: its affinity, where the operating system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def on_cpus(count: int) -> Iterator[int]:
    """Processes started in here may use so many CPUs, or all where there are fewer; how many."""
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[-count:]
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)


def facts() -> dict[str, Any]:
    """What results depend on; None for what cannot be found out here.

    Ask outside of `on_cpus`: the CPUs are those that this process may use.
    """
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cpus": count_cpus(),
        "instruction_sets": [name for name in _VECTOR_FLAGS if name in _cpu().get("flags", ())],
        "caches": _caches(),
        "memory": _memory("MemTotal", "SC_PHYS_PAGES"),
        "load": load(),
        "governor": _read(_SYSTEM_CPU / "cpufreq" / "scaling_governor"),
    }


def fingerprint(facts: dict[str, Any]) -> str:
    """A short text, the same where CPU, number of CPUs, instruction sets and caches are the same.

    >>> fingerprint({"cpu": "Some CPU @ 2 GHz", "cpus": 2, "instruction_sets": [], "caches": {}})
    'some-cpu-2-ghz-2-cpus-538a48'
    """
    alike = [facts.get(name) for name in ("cpu", "cpus", "instruction_sets", "caches")]
    digest = hashlib.sha256(repr(alike).encode()).hexdigest()[:6]
    words = "".join(c if c.isalnum() else " " for c in str(facts.get("cpu")).lower()).split()
    return "-".join([*words[:6], str(facts.get("cpus")), "cpus", digest])


@lru_cache
def cpu_name() -> str:
    """The model, as the vendor writes it."""
    found = _cpu().get("brand_raw") or platform.processor() or platform.machine()
    return " ".join(str(found).split())


def load() -> float | None:
    """How many processes have been running or waiting, on average over the last minute."""
    if not hasattr(os, "getloadavg"):
        return None
    return round(os.getloadavg()[0], 2)


def busy_warning(
    what_follows: str = "times are too long and vary. Libraries whose threads wait for each other "
    "suffer most: what is measured against them is worth little.",
) -> str | None:
    """What to say before measuring on a machine that is busy with something else."""
    found = load()
    if found is None or found <= _BUSY:
        return None
    return f"The machine is busy (load {found:.1f}): {what_follows}"


def available_memory() -> int | None:
    """Bytes that can be taken without swapping."""
    return _memory("MemAvailable", "SC_AVPHYS_PAGES")


@lru_cache
def _cpu() -> dict[str, Any]:
    found: dict[str, Any] = cpuinfo.get_cpu_info()
    return found


def _caches() -> dict[str, int]:
    """Bytes of each cache that the first CPU reaches: {"L1d": 49152, "L2": ..., "L3": ...}."""
    caches = {}
    for folder in sorted(_SYSTEM_CPU.glob("cache/index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        if level and kind and size and size[-1] in "KM" and kind != "Instruction":
            suffix = "d" if kind == "Data" else ""
            caches[f"L{level}{suffix}"] = int(size[:-1]) << (10 if size[-1] == "K" else 20)
    if caches:
        return caches
    names = {"L1d": "l1_data_cache_size", "L2": "l2_cache_size", "L3": "l3_cache_size"}
    return {name: size for name, key in names.items() if isinstance(size := _cpu().get(key), int)}


def _memory(linux_name: str, posix_name: str) -> int | None:
    """From /proc, which counts what can be freed; else from POSIX, where it has that name."""
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        name, _, amount = line.partition(":")
        if name == linux_name:
            return int(amount.split()[0]) * 1024
    if posix_name in getattr(os, "sysconf_names", {}):
        return os.sysconf(posix_name) * os.sysconf("SC_PAGE_SIZE")
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
