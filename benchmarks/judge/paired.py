"""Two versions in alternation: is one slower than the other?

Processes run in the order A B B A, A B B A, ... Each times all benchmarks. Neighbours make pairs:
A B and B A are what is asked; B B and A A, in between and as far apart in time, are the control.
The control's signs alternate as the pairs' do, so that what a steady drift does to the one it does
to the other: it cancels out.

A round of runs judges every benchmark. Those that may be slower, or whose control is not quiet, are
measured again, in a longer round of fresh processes; slower is what two rounds in succession find
slower.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from fastxent.benchmarks.judge.sides import NEEDED, Side, open_side
from fastxent.benchmarks.judge.statistics import (
    Array,
    Interval,
    Overall,
    Verdict,
    intervals,
    judge,
    overall,
)
from fastxent.benchmarks.judge.targets import BACKENDS
from fastxent.benchmarks.machine import facts
from fastxent.benchmarks.machine import load as machine_load
from fastxent.benchmarks.measure.processes import (
    launched,
    own_files,
    own_settings,
    read_written,
    run_program,
)
from fastxent.benchmarks.measure.run_selection import FILES
from fastxent.benchmarks.measure.sets import SETS

# What is done, how many processes have ended, and how many there will be, as far as is known.
Progress = Callable[[str, int, int], None]

_PLUGIN: Final = "fastxent.benchmarks.measure.paired_plugin"
_NEEDED_BY_OTHERS: Final = ("pytest", "pytest_benchmark")
_ORDER: Final = "ABBA"
_ROUNDS: Final = 3
# Of a first round whose blocks nobody has set: 8 to 20 pairs, in 8 minutes where that suffices.
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 10
_SECONDS: Final = 480.0
_TAIL: Final = 15
_NOTHING_SELECTED: Final = 5  # pytest's status


@dataclass(frozen=True)
class Options:
    """What is run, and how it is judged."""

    files: tuple[Path, ...] = ()  # somebody's benchmarks, instead of those of this package
    set_name: str = "compare"
    backends: tuple[str, ...] = ()
    keyword: str | None = None
    blocks: int | None = None  # of the first round; None for as many as fit into 8 minutes
    threshold: float = 0.05
    confidence: float = 0.95
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.blocks is not None and self.blocks < 1:
            raise ValueError(f"blocks must be at least 1, not {self.blocks}")
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be above 0, not {self.threshold:g}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, not {self.confidence:g}")
        for file in self.files:
            if not file.exists():
                raise ValueError(f"there are no benchmarks at {file}")
        if self.set_name not in SETS:
            raise ValueError(f"set must be one of {', '.join(SETS)}, not {self.set_name!r}")
        for name in self.backends:
            if name not in BACKENDS:
                raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {name!r}")


@dataclass(frozen=True)
class Compared:
    """One benchmark, as the last round that measured it has it. Ratios are head / base."""

    name: str
    group: str | None
    base_median: float  # seconds, of the medians of processes
    head_median: float
    measured: Interval
    control: Interval
    verdict: Verdict
    repeated: bool = False


@dataclass(frozen=True)
class Comparison:
    """All that was found out."""

    base: Side
    head: Side
    options: Options
    blocks: int
    seconds: float
    load: tuple[float | None, float | None]  # before, after; None where nobody counts it
    machine: dict[str, Any]
    benchmarks: tuple[Compared, ...]
    # What ran in some processes only, by node id; none of these is judged.
    only_in_base: tuple[str, ...] = ()
    only_in_head: tuple[str, ...] = ()
    unreliable: tuple[str, ...] = ()

    @property
    def verdict(self) -> Overall:
        """Never "pass" where something that base can do was not measured in head."""
        found = overall(each.verdict for each in self.benchmarks)
        if found == "pass" and (self.only_in_base or self.unreliable):
            return "inconclusive"
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "compare",
            "verdict": self.verdict,
            "base": {"name": self.base.name, "version": self.base.version},
            "head": {"name": self.head.name, "version": self.head.version},
            "machine": self.machine,
            "load": list(self.load),
            "threshold": self.options.threshold,
            "confidence": self.options.confidence,
            "blocks": self.blocks,
            "seconds": round(self.seconds, 1),
            "benchmarks": [_entry(each) for each in self.benchmarks],
            "only_in_base": list(self.only_in_base),
            "only_in_head": list(self.only_in_head),
            "unreliable": list(self.unreliable),
        }


def _entry(each: Compared) -> dict[str, Any]:
    return {
        "name": each.name,
        "group": each.group,
        **_numbers("ratio", "low", "high", each.measured),
        **_numbers("control", "control_low", "control_high", each.control),
        "verdict": each.verdict,
        "base_median": each.base_median,
        "head_median": each.head_median,
        "repeated": each.repeated,
    }


def _numbers(ratio: str, low: str, high: str, interval: Interval) -> dict[str, float | None]:
    """JSON has no infinity."""
    numbers = {ratio: interval.ratio, low: interval.low, high: interval.high}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def compare(
    base: str | None,
    head: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure two sides (see `open_side`) against each other and judge.

    ValueError where a side cannot be had, nothing is selected, or nothing runs on both sides.
    """
    options = options or Options()
    progress = progress or _no_progress
    needs = _NEEDED_BY_OTHERS if options.files else NEEDED
    load = machine_load()
    started = time.monotonic()
    with ExitStack() as stack:
        sides = []
        for which, text in (("base", base), ("head", head)):
            progress(f"{which}: {'what is installed' if text is None else text}", 0, 0)
            sides.append(stack.enter_context(open_side(text, cache=options.cache, needs=needs)))
        return replace(
            _compare(sides[0], sides[1], options, progress),
            load=(load, machine_load()),
            seconds=time.monotonic() - started,
        )


def _no_progress(text: str, done: int, total: int) -> None:
    pass


def _compare(base: Side, head: Side, options: Options, progress: Progress) -> Comparison:
    first = _measure(base, head, options, None, options.blocks, 1, progress)
    on_both, *apart = split(first.runs)
    if not on_both:
        raise ValueError(_nothing_in_common(first))
    judged = {each.name: each for each in judge_runs(first.runs, on_both, options)}
    for number in range(2, _ROUNDS + 1):
        if not (again := [name for name, each in judged.items() if is_open(each)]):
            break
        blocks = 2 * first.blocks if options.blocks else None
        repeat = _measure(base, head, options, again, blocks, number, progress)
        for name, each in _again(repeat.runs, again, judged, options).items():
            judged[name] = each
    return Comparison(
        base=base,
        head=head,
        options=options,
        blocks=first.blocks,
        seconds=0.0,
        load=(None, None),
        machine=facts(),
        benchmarks=tuple(_with_short_names(map(closed, judged.values()))),
        only_in_base=apart[0],
        only_in_head=apart[1],
        unreliable=apart[2],
    )


# ---- judging runs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """One benchmark in one process."""

    median: float  # seconds
    group: str | None = None


Run = tuple[str, Mapping[str, Timed]]  # "A" for base or "B" for head, and what it timed


def split(runs: Sequence[Run]) -> tuple[tuple[str, ...], ...]:
    """Benchmarks of every run, of base alone, of head alone, and those that run now and then."""
    n_runs = Counter(side for side, _ in runs)
    found = {side: Counter(name for at, run in runs if at == side for name in run) for side in "AB"}
    names = dict.fromkeys(name for _, run in runs for name in run)
    places: dict[str, list[str]] = {"both": [], "base": [], "head": [], "neither": []}
    for name in names:
        count = (found["A"][name], found["B"][name])
        if count == (n_runs["A"], n_runs["B"]):
            places["both"].append(name)
        elif count == (n_runs["A"], 0):
            places["base"].append(name)
        elif count == (0, n_runs["B"]):
            places["head"].append(name)
        else:
            places["neither"].append(name)
    return tuple(map(tuple, places.values()))


def judge_runs(
    runs: Sequence[Run], names: Sequence[str], options: Options, n_benchmarks: int | None = None
) -> Iterator[Compared]:
    """Every benchmark of these names, which all runs have; they may be some of `n_benchmarks`."""
    logs = np.log([[run[name].median for name in names] for _, run in runs]).T
    order = "".join(side for side, _ in runs)
    pairs, control = pair_up(logs, order)
    for i, (name, measured, quiet) in enumerate(
        zip(
            names,
            intervals(pairs, options.confidence, n_benchmarks),
            intervals(control, options.confidence, n_benchmarks),
            strict=True,
        )
    ):
        in_base = [log for log, side in zip(logs[i], order, strict=True) if side == "A"]
        in_head = [log for log, side in zip(logs[i], order, strict=True) if side == "B"]
        yield Compared(
            name=name,
            group=runs[0][1][name].group,
            base_median=float(np.exp(np.median(in_base))),
            head_median=float(np.exp(np.median(in_head))),
            measured=measured,
            control=quiet,
            verdict=judge(measured, quiet, options.threshold),
        )


def pair_up(logs: Array, order: str) -> tuple[Array, Array]:
    """Differences of neighbours: head - base of unlike ones; of like ones, signs alternating."""
    steps = np.diff(logs, axis=1)
    unlike = [i for i in range(len(order) - 1) if order[i] != order[i + 1]]
    alike = [i for i in range(len(order) - 1) if order[i] == order[i + 1]]
    pairs = steps[:, unlike] * [1 if order[i] == "A" else -1 for i in unlike]
    control = steps[:, alike] * [1 if order[i] == "B" else -1 for i in alike]
    return pairs, control


def is_open(each: Compared) -> bool:
    """Whether it has to be measured again: a slowdown of one round is a suspicion."""
    if each.verdict == "slower":
        return not each.repeated
    return each.verdict in ("unclear", "inconclusive")


def closed(each: Compared) -> Compared:
    """As it stands after the last round: a slowdown without a second one is unclear."""
    return replace(each, verdict="unclear") if each.verdict == "slower" and is_open(each) else each


def _again(
    runs: Sequence[Run], names: Sequence[str], before: Mapping[str, Compared], options: Options
) -> dict[str, Compared]:
    """The judgements of a repeat. `repeated` of a slower one says that the round before agreed."""
    complete = set(split(runs)[0])
    judged = {
        name: replace(before[name], verdict="inconclusive", repeated=True)
        for name in names
        if name not in complete
    }
    measured = [name for name in names if name in complete]
    for each in judge_runs(runs, measured, options, len(before)):
        agreed = each.verdict != "slower" or before[each.name].verdict == "slower"
        judged[each.name] = replace(each, repeated=agreed)
    return judged


def _with_short_names(judged: Iterable[Compared]) -> list[Compared]:
    """The test's id without the path where that says which one it is."""
    found = list(judged)
    times = Counter(_short(each.name) for each in found)
    return [
        replace(each, name=_short(each.name)) if times[_short(each.name)] == 1 else each
        for each in found
    ]


def _short(name: str) -> str:
    path, _, test = name.partition("::")
    return test or path


# ---- measuring ----------------------------------------------------------------------------------


@dataclass
class _Round:
    """Runs in their order."""

    blocks: int
    runs: list[Run] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)  # by side, where tests failed


def _measure(
    base: Side,
    head: Side,
    options: Options,
    names: Sequence[str] | None,
    blocks: int | None,
    number: int,
    progress: Progress,
) -> _Round:
    """One round; without `blocks` the first block's time decides how many there are."""
    most = _MOST_BLOCKS if number == 1 else 2 * _MOST_BLOCKS
    done = _Round(blocks or most)
    what = "measuring" if number == 1 else f"again: {len(names or ())}"
    started = time.monotonic()
    while len(done.runs) < len(_ORDER) * done.blocks:
        at = _ORDER[len(done.runs) % len(_ORDER)]
        side = base if at == "A" else head
        progress(
            f"{what} {'base' if at == 'A' else 'head'} {side.name}",
            len(done.runs),
            len(_ORDER) * done.blocks,
        )
        _run(side, at, options, names, done)
        if blocks is None and len(done.runs) == len(_ORDER):
            fitting = int(_SECONDS / (time.monotonic() - started))
            done.blocks = max(_FEWEST_BLOCKS, min(most, fitting))
    return done


def _run(side: Side, at: str, options: Options, names: Sequence[str] | None, done: _Round) -> None:
    """One process, whose results are added to the round."""
    with tempfile.TemporaryDirectory(prefix="fastxent-run-") as folder:
        written = Path(folder) / "results.json"
        chosen = []
        if names is not None:
            listed = Path(folder) / "names.txt"
            listed.write_text("\n".join(names), "utf-8")
            # In one word: pytest takes a path that stands alone for benchmarks, whose common folder
            # with the others would then be the root, and ids begin there.
            chosen = [f"--names-from={listed}"]
        command = launched(
            side.python,
            "pytest",
            *("-p", _PLUGIN, "-p", "no:cacheprovider", "-q", "--benchmark-quiet", "-rfE"),
            *(f"--benchmark-json={written}", "--tb=line", "--color=no"),
            *_selection(options),
            *chosen,
        )
        # Benchmarks of others have the settings of the folder one is in.
        ran = run_program(
            command,
            folder=None if options.files else folder,
            environment=side.environment,
            quiet=True,
        )
        results = read_written(written)
    if ran.returncode == _NOTHING_SELECTED:
        raise ValueError("no benchmark is selected: look at --set, --backend and -k")
    if ran.returncode not in (0, 1):
        raise ValueError(f"{side.name}: pytest ended with {ran.returncode}:\n{_tail(ran.stdout)}")
    if ran.returncode:
        done.said[at] = _tail(ran.stdout)
    timed = {
        entry["fullname"]: Timed(entry["stats"]["median"], entry["group"])
        for entry in results.get("benchmarks", ())
    }
    done.runs.append((at, timed))
    if at == "B" and not any(run for _, run in done.runs):
        raise ValueError(_nothing_in_common(done))


def _selection(options: Options) -> list[str]:
    if options.files:
        only = [*map(str, options.files), "--benchmark-only"]
        return [*only, "-k", options.keyword] if options.keyword else only
    chosen = [f"--set={options.set_name}", "--no-peers"]
    chosen += [f"--backend={name}" for name in options.backends or BACKENDS]
    if options.keyword:
        chosen += ["-k", options.keyword]
    return [*own_files(FILES), *own_settings(), *chosen]


def _nothing_in_common(done: _Round) -> str:
    texts = [
        f"{'base' if side == 'A' else 'head'} says:\n{text}" for side, text in done.said.items()
    ]
    return "\n".join(["no benchmark runs on both sides", *texts])


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_TAIL:])
