"""The history: a line of JSON for each run and benchmark, in a file that only grows."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from fastxent.benchmarks.judge.change_points import ChangePoint, find_change_points, find_steps
from fastxent.benchmarks.judge.machines import machine_of
from fastxent.benchmarks.judge.verdicts import read_object

UNITS: Final = ("seconds", "instructions")


@dataclass(frozen=True)
class Entry:
    """A line: one benchmark in one run."""

    fingerprint: str  # of the machine; of the toolchain, where instructions were counted
    machine: dict[str, Any]
    revision: str
    time: str  # ISO 8601
    name: str
    group: str | None
    unit: str  # of UNITS
    median: float  # or the count
    spread: float  # between the quartiles
    rounds: int
    extra_info: dict[str, Any]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """No two lines of a history have the same."""
        return self.revision, self.fingerprint, self.name, self.time

    @property
    def moment(self) -> datetime:
        found = datetime.fromisoformat(self.time)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True)
class History:
    """What a file holds, and what is wrong with lines that were left out."""

    entries: list[Entry]
    problems: list[str]


@dataclass(frozen=True)
class Series:
    """One benchmark on machines of one fingerprint, in the order of time."""

    entries: list[Entry]
    change_points: list[ChangePoint]

    @property
    def newest(self) -> Entry:
        return self.entries[-1]


# ---- from results to lines ---------------------------------------------------------------------


def entries_from(path: Path, revision: str | None) -> list[Entry]:
    """Of a file that pytest-benchmark, `fastxent bench run` or `fastxent bench gate` wrote.

    ValueError where it is none of these, or names no revision and none is given.
    """
    found = read_object(path)
    if found.get("kind") == "gate":
        return _entries_of_gate(found, path, revision)
    if isinstance(found.get("benchmarks"), list) and found.get("kind") is None:
        return _entries_of_results(found, path, revision)
    raise ValueError(
        f"{path} has no results: a history takes the JSON of pytest-benchmark, of "
        "`fastxent bench run` and of `fastxent bench gate`"
    )


def _entries_of_results(results: dict[str, Any], path: Path, revision: str | None) -> list[Entry]:
    machine = machine_of(results)
    times = Counter(
        str(each.get("name")) for each in results["benchmarks"] if isinstance(each, dict)
    )
    known = {
        "fingerprint": machine["fingerprint"],
        "machine": machine,
        "revision": revision or _revision_of(results, path),
        "time": results.get("datetime"),
        "unit": "seconds",
    }
    entries = []
    for number, benchmark in enumerate(results["benchmarks"]):
        try:
            stats = benchmark["stats"]
            fields_of_one = {
                **known,
                # Two files of a project may have a test of the same name.
                "name": benchmark["name" if times[str(benchmark["name"])] == 1 else "fullname"],
                "group": benchmark.get("group"),
                "median": stats["median"],
                "spread": stats.get("iqr", 0.0),
                "rounds": stats.get("rounds", 1),
                "extra_info": benchmark.get("extra_info") or {},
            }
            entries.append(_entry(fields_of_one))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: benchmark {number} has no usable result: {error}") from error
    return entries


def _entries_of_gate(gate: dict[str, Any], path: Path, revision: str | None) -> list[Entry]:
    toolchain = gate.get("toolchain") or {}
    # Counts do not depend on the machine; other compilers make other instructions of the sources.
    digest = hashlib.sha256(json.dumps(toolchain, sort_keys=True).encode()).hexdigest()[:8]
    # Older ones have no date within. That of the file itself stays when it is added again.
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    known = {
        "fingerprint": f"instructions-{digest}",
        "machine": {"toolchain": toolchain},
        "revision": revision or _revision_of(gate, path),
        "time": gate.get("datetime") or written,
        "group": "instructions",
        "unit": "instructions",
        "spread": 0,
        "rounds": 1,
        "extra_info": {},
    }
    counts = gate.get("counts")
    if not isinstance(counts, list):
        raise ValueError(f"{path} has no counts, which `fastxent bench gate` writes")
    entries = []
    for number, count in enumerate(counts):
        try:
            if count["head"] is not None:  # else the kernel is gone
                entries.append(_entry({**known, "name": count["name"], "median": count["head"]}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: count {number} is not usable: {error}") from error
    return entries


def _revision_of(found: dict[str, Any], path: Path) -> str:
    """That of the checkout in which results were made, as pytest-benchmark writes it."""
    commit = found.get("commit_info") or {}
    if commit.get("id") in (None, "unknown", "unversioned"):
        raise ValueError(f"{path} does not say which revision was measured: name it by --revision")
    return f"{commit['id']}{'-dirty' if commit.get('dirty') else ''}"


def _entry(found: dict[str, Any]) -> Entry:
    """An Entry of these fields; KeyError, TypeError or ValueError where they make none."""
    entry = Entry(**{field.name: found[field.name] for field in fields(Entry)})
    for name in ("fingerprint", "revision", "time", "name"):
        if not isinstance(getattr(entry, name), str):
            raise TypeError(f"{name} must be text, not {getattr(entry, name)!r}")
    for name in ("machine", "extra_info"):
        if not isinstance(getattr(entry, name), dict):
            raise TypeError(f"{name} must be an object, not {getattr(entry, name)!r}")
    for name in ("median", "spread", "rounds"):
        value = getattr(entry, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < entry.median < math.inf or not 0 <= entry.spread < math.inf:
        raise ValueError(f"the median {entry.median!r} with spread {entry.spread!r} is none")
    if entry.unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, not {entry.unit!r}")
    if entry.group is not None and not isinstance(entry.group, str):
        raise TypeError(f"group must be text, not {entry.group!r}")
    entry.moment  # noqa: B018, which raises where `time` is no time
    return entry


# ---- the file ----------------------------------------------------------------------------------


def read_history(path: Path) -> History:
    """OSError where the file cannot be read, ValueError where it is no history at all."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> History:
    history = History([], [])
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            history.entries.append(_entry(json.loads(line)))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            is_cut = number == len(lines)  # what is whole ends with a newline
            reason = "it is cut off" if is_cut else f"{type(error).__name__}: {error}"
            history.problems.append(
                f"{path}, line {number}: left out, no line of a history: {reason}"
            )
    if history.problems and not history.entries:
        raise ValueError(f"{path} is no history: {history.problems[0].partition(': ')[2]}")
    return history


def append(path: Path, entries: Iterable[Entry]) -> tuple[int, list[str]]:
    """Add lines for those that the file does not have: how many, and what is wrong with the file.

    All of them are added or none. Other processes that append meanwhile wait.
    """
    with _errors_naming(path), _locked(path) as file:
        data = file.read()
        history = _parse(path, data)
        known = {entry.identity for entry in history.entries}
        lines = []
        for entry in entries:
            if entry.identity not in known:
                known.add(entry.identity)
                lines.append(json.dumps(asdict(entry), separators=(",", ":"), allow_nan=False))
        # A line that was cut off ends here, or the first of ours would be lost with it.
        start = "\n" if data and not data.endswith(b"\n") else ""
        _write_all(file, (start + "".join(f"{line}\n" for line in lines)).encode(), len(data))
    return len(lines), history.problems


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} cannot be written: it is no file")
    with path.open("ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _write_all(file: BinaryIO, data: bytes, size_before: int) -> None:
    """Everything at the end of the file, or nothing (a disk may be full)."""
    try:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(size_before)
        raise


@contextlib.contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        reason = error.strerror
        if isinstance(error, FileNotFoundError):
            reason = f"there is no folder {path.parent}"
        raise type(error)(f"{path} cannot be written: {reason}") from error


# ---- what it shows -----------------------------------------------------------------------------


def series_of(entries: Iterable[Entry], threshold: float) -> list[Series]:
    """The benchmarks' series, with changes of more than `threshold`, a share.

    Runs of different fingerprints, or instruction sets of a backend, are never in one series.
    """
    found: dict[tuple[str, str, str, str], list[Entry]] = {}
    for entry in entries:
        instruction_set = str(entry.extra_info.get("instruction_set"))
        key = (entry.fingerprint, instruction_set, entry.unit, entry.name)
        found.setdefault(key, []).append(entry)
    return [_series(group, threshold) for group in found.values()]


def _series(entries: list[Entry], threshold: float) -> Series:
    in_order = sorted(entries, key=lambda entry: entry.moment)
    find = find_steps if in_order[0].unit == "instructions" else find_change_points
    return Series(in_order, find([entry.median for entry in in_order], threshold))


def selects(expression: str, text: str) -> bool:
    """Whether pytest's -k would select: words in the text, with "and", "or", "not", parentheses."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    operators = ("and", "or", "not", "(", ")")
    # Nothing but these and True and False is evaluated.
    program = " ".join(
        token if token in operators else str(token.lower() in text.lower()) for token in tokens
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)
            return bool(eval(compile(program, "-k", "eval"), {"__builtins__": {}}))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        message = f"-k: {expression!r} is no expression such as 'cython and not 1thread'"
        raise ValueError(message) from error
