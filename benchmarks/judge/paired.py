"""Two versions in alternation: is one slower than the other?

In a block three fresh processes take turns of some milliseconds: base, head, and base again, which
is the control (measure/turns.py). What base and head are to each other in the median of a block's
rounds is one value; a benchmark's interval follows from the values of several blocks, since where a
process's memory lies makes it a little faster or slower for all of its life.

A series of blocks judges every benchmark. Those that may be slower, or whose control is not quiet,
are measured again, in a longer series; slower is what two series in succession find slower.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from fastxent.benchmarks.judge.verdicts import APART
from fastxent.benchmarks.machine import facts
from fastxent.benchmarks.machine import load as machine_load
from fastxent.benchmarks.measure.case import BACKENDS
from fastxent.benchmarks.measure.processes import launched, own_files, own_settings
from fastxent.benchmarks.measure.run_selection import FILES
from fastxent.benchmarks.measure.sets import SETS
from fastxent.benchmarks.measure.turns import Block, Command, measure_in_turns

# What is done, how many blocks have ended, and how many there will be, as far as is known.
Progress = Callable[[str, int, int], None]

_NEEDED_BY_OTHERS: Final = ("pytest", "pytest_benchmark")
BASE, HEAD, CONTROL = "base", "head", "base again"
_SERIES: Final = 3
# Of a first series whose blocks nobody has set: as many as fit into 8 minutes.
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
    blocks: int | None = None  # of the first series; None for as many as fit into 8 minutes
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
    """One benchmark, as the last series that measured it has it. Ratios are head / base."""

    name: str
    group: str | None
    base_median: float  # seconds, of the medians of blocks
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
    # What ran in some versions or blocks only, by node id; none of these is judged.
    only_in_base: tuple[str, ...] = ()
    only_in_head: tuple[str, ...] = ()
    unreliable: tuple[str, ...] = ()
    # What failed in any block, as a test fails.
    failed_in_base: tuple[str, ...] = ()
    failed_in_head: tuple[str, ...] = ()

    @property
    def verdict(self) -> Overall:
        """Never "pass" where head was not measured in something that base can do, or failed."""
        found = overall(each.verdict for each in self.benchmarks)
        if found == "pass" and (self.only_in_base or self.unreliable or self.failed_in_head):
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
            **{key: list(getattr(self, key)) for key in APART},
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
    blocks = _measure(base, head, options, None, options.blocks, 1, progress)
    on_both, *apart = split(blocks)
    if not on_both:
        raise ValueError(_nothing_in_common(blocks))
    judged = {each.name: each for each in judge_blocks(blocks, on_both, options)}
    for number in range(2, _SERIES + 1):
        if not (again := [name for name, each in judged.items() if is_open(each)]):
            break
        more = 2 * len(blocks) if options.blocks else None
        repeat = _measure(base, head, options, again, more, number, progress)
        judged |= _again(repeat, again, judged, options)
    return Comparison(
        base=base,
        head=head,
        options=options,
        blocks=len(blocks),
        seconds=0.0,
        load=(None, None),
        machine=facts(),
        benchmarks=tuple(_with_short_names(map(closed, judged.values()))),
        only_in_base=apart[0],
        only_in_head=apart[1],
        unreliable=apart[2],
        failed_in_base=failed_in(blocks, BASE),
        failed_in_head=failed_in(blocks, HEAD),
    )


# ---- judging blocks -----------------------------------------------------------------------------


def split(blocks: Sequence[Block]) -> tuple[tuple[str, ...], ...]:
    """Benchmarks of every block, of base alone, of head alone, and those that run now and then."""
    ran = [(who, names) for block in blocks for who, names in block.ran.items()]
    by_head = Counter(name for who, names in ran if who == HEAD for name in names)
    by_base = Counter(name for who, names in ran if who != HEAD for name in names)
    timed = Counter(name for block in blocks for name in block.timed)
    places: dict[str, list[str]] = {"both": [], "base": [], "head": [], "neither": []}
    for name in sorted({*by_base, *by_head}, key=[*timed, *by_base, *by_head].index):
        if timed[name] == len(blocks):
            places["both"].append(name)
        elif (by_base[name], by_head[name]) == (2 * len(blocks), 0):
            places["base"].append(name)
        elif (by_base[name], by_head[name]) == (0, len(blocks)):
            places["head"].append(name)
        else:
            places["neither"].append(name)
    return tuple(map(tuple, places.values()))


def failed_in(blocks: Sequence[Block], who: str) -> tuple[str, ...]:
    """What failed in any of them, in the order of their names."""
    return tuple(sorted(set().union(*(block.failed.get(who, ()) for block in blocks))))


def judge_blocks(
    blocks: Sequence[Block],
    names: Sequence[str],
    options: Options,
    n_benchmarks: int | None = None,
) -> Iterator[Compared]:
    """Every benchmark of these names, which all blocks have; they may be some of `n_benchmarks`."""
    for name, measured, control, (base, head) in zip(
        names,
        intervals(_values(blocks, names, HEAD), options.confidence, n_benchmarks),
        intervals(_values(blocks, names, CONTROL), options.confidence, n_benchmarks),
        zip(_medians(blocks, names, BASE), _medians(blocks, names, HEAD), strict=True),
        strict=True,
    ):
        yield Compared(
            name=name,
            group=blocks[0].timed[name].group,
            base_median=base,
            head_median=head,
            measured=measured,
            control=control,
            verdict=judge(measured, control, options.threshold),
        )


def _values(blocks: Sequence[Block], names: Sequence[str], who: str) -> Array:
    """A value for each name and block: the logarithm of how many times base's it takes."""
    values = np.empty((len(names), len(blocks)))
    for j, block in enumerate(blocks):
        for i, name in enumerate(names):
            logs = block.timed[name].logs
            values[i, j] = np.median(np.subtract(logs[who], logs[BASE]))
    return values


def _medians(blocks: Sequence[Block], names: Sequence[str], who: str) -> Iterator[float]:
    """Seconds."""
    for name in names:
        yield math.exp(np.median([np.median(block.timed[name].logs[who]) for block in blocks]))


def is_open(each: Compared) -> bool:
    """Whether it has to be measured again: a slowdown of one series is a suspicion."""
    if each.verdict == "slower":
        return not each.repeated
    return each.verdict in ("unclear", "inconclusive")


def closed(each: Compared) -> Compared:
    """As it stands after the last series: a slowdown without a second one is unclear."""
    return replace(each, verdict="unclear") if each.verdict == "slower" and is_open(each) else each


def _again(
    blocks: Sequence[Block], names: Sequence[str], before: Mapping[str, Compared], options: Options
) -> dict[str, Compared]:
    """The judgements of a repeat. `repeated` of a slower one says that the series before agreed."""
    complete = set(split(blocks)[0])
    judged = {
        name: replace(before[name], verdict="inconclusive", repeated=True)
        for name in names
        if name not in complete
    }
    measured = [name for name in names if name in complete]
    for each in judge_blocks(blocks, measured, options, len(before)):
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


def _measure(
    base: Side,
    head: Side,
    options: Options,
    names: Sequence[str] | None,
    blocks: int | None,
    number: int,
    progress: Progress,
) -> list[Block]:
    """One series; without `blocks` the first block's time decides how many there are."""
    most = _MOST_BLOCKS if number == 1 else 2 * _MOST_BLOCKS
    wanted = blocks or most
    what = "measuring" if number == 1 else f"again, {len(names or ())} of the benchmarks:"
    text = f"{what} {base.name} and {head.name}"
    done: list[Block] = []
    started = time.monotonic()
    while len(done) < wanted:
        progress(text, len(done), wanted)
        done.append(_measure_block(base, head, options, names))
        if blocks is None and len(done) == 1:
            fitting = int(_SECONDS / (time.monotonic() - started))
            wanted = max(_FEWEST_BLOCKS, min(most, fitting))
    return done


def _measure_block(base: Side, head: Side, options: Options, names: Sequence[str] | None) -> Block:
    with tempfile.TemporaryDirectory(prefix="fastxent-block-") as folder:
        chosen = _selection(options)
        if names is not None:
            listed = Path(folder) / "names.txt"
            listed.write_text("\n".join(names), "utf-8")
            # In one word: pytest takes a path that stands alone for benchmarks, whose common folder
            # with the others would then be the root, and ids begin there.
            chosen.append(f"--names-from={listed}")
        quietly = ("-p", "no:cacheprovider", "-q", "-rfE", "--benchmark-quiet", "--tb=line")
        block = measure_in_turns(
            {
                who: Command(
                    launched(side.python, "pytest", *quietly, "--color=no", *chosen),
                    side.environment,
                    # Benchmarks of others have the settings of the folder one is in.
                    None if options.files else Path(folder),
                )
                for who, side in ((BASE, base), (HEAD, head), (CONTROL, base))
            }
        )
    if _NOTHING_SELECTED in block.statuses.values():
        raise ValueError("no benchmark is selected: look at --set, --backend and -k")
    for (who, status), side in zip(block.statuses.items(), (base, head, base), strict=True):
        if status not in (0, 1):
            raise ValueError(
                f"{side.name}: pytest ended with {status}:\n{_tail(block.printed[who])}"
            )
    if not block.timed and names is None:
        raise ValueError(_nothing_in_common([block]))
    return block


def _selection(options: Options) -> list[str]:
    if options.files:
        only = [*map(str, options.files), "--benchmark-only"]
        return [*only, "-k", options.keyword] if options.keyword else only
    chosen = [f"--set={options.set_name}", "--no-peers"]
    chosen += [f"--backend={name}" for name in options.backends or BACKENDS]
    if options.keyword:
        chosen += ["-k", options.keyword]
    return [*own_files(FILES), *own_settings(), *chosen]


def _nothing_in_common(blocks: Sequence[Block]) -> str:
    said = {
        who: text
        for block in blocks
        for who, text in block.printed.items()
        if who != CONTROL and block.statuses[who]
    }
    texts = [f"{who} says:\n{_tail(text)}" for who, text in said.items()]
    return "\n".join(["no benchmark runs on both sides", *texts])


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_TAIL:])
