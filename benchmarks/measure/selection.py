"""What is asked for on the command line, of pytest or `fastxent bench run`: a set, or sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from fastxent.benchmarks.machine import available_memory
from fastxent.benchmarks.measure.case import ALL_OPERATIONS, BACKENDS, DTYPES, Case
from fastxent.benchmarks.measure.sets import DEFAULT, SETS, Set, Timed

import fastxent

# Options that may be repeated, or hold several values with commas between: pytest and
# `fastxent bench run` both have them.
LISTS: Final = {
    "batch": "rows of one's own sizes, with --classes",
    "classes": "classes of one's own sizes, with --batch",
    "dtype": f"these alone: {', '.join(DTYPES)} (of one's own sizes: float32)",
    "operation": f"these alone: {', '.join(ALL_OPERATIONS)} (of one's own sizes: loss, "
    "loss_and_grad)",
    "backend": f"these alone: {', '.join(BACKENDS)}",
    "threads": "numbers of threads (default: 1, and all)",
}
SET_HELP: Final = (
    "; ".join(f"{name}: {each.text}" for name, each in SETS.items()) + f" (default: {DEFAULT})"
)


@dataclass(frozen=True)
class Selection:
    """A set, or sizes of one's own as one, and what of it is wanted."""

    name: str | None  # None: sizes of one's own
    set: Set
    threads: tuple[int, ...]
    dtypes: tuple[str, ...] = ()  # none: all
    operations: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    peers: bool = True
    given: tuple[str, ...] = ()  # the options that say all this, threads aside

    def throughput(self) -> list[Case]:
        """In an order in which neighbours share their arrays."""
        return self._cases(self.set.throughput)

    def with_options(self) -> list[Case]:
        return self._cases(self.set.with_options)

    def _cases(self, timed: Iterable[Timed]) -> list[Case]:
        cases = {
            Case(operation, dtype, shape, threads)
            for each in timed
            for operation, dtype, shape in each.combinations()
            if not self.operations or operation in self.operations
            if not self.dtypes or dtype in self.dtypes
            for threads in self._numbers_of_threads(each)
        }
        return sorted(cases, key=_in_order)

    def _numbers_of_threads(self, timed: Timed) -> tuple[int, ...]:
        if timed.threads == "each":
            return self.threads
        return (min(self.threads),) if timed.threads == "one" else (max(self.threads),)

    def starts(self) -> bool:
        """Whether fresh processes are timed, which have neither dtype nor operation."""
        return self.set.cold_start and not (self.dtypes or self.operations)

    def takes(self, name: str, kind: str) -> bool:
        """Whether an implementation takes part."""
        if kind == "backend":
            return not self.backends or name in self.backends
        if kind == "peer":
            return self.peers and (self.set.peers is None or name in self.set.peers)
        return self.set.roofs

    def processes(self) -> Iterator[tuple[int, ...]]:
        """The numbers of threads of each process that a run needs."""
        if self.set.one_process:
            yield self.threads
        else:
            yield from ((count,) for count in self.threads)

    def check_memory(self) -> None:
        """ValueError where a case takes more memory than is free."""
        free = available_memory()
        if free is None:
            return
        with_peers = self.peers and self.set.peers != ()
        for case in (*self.throughput(), *self.with_options()):
            if (needed := case.memory(with_peers)) > free:
                raise ValueError(
                    f"{case.group} takes about {needed / 1e9:.1f} GB of memory"
                    f"{', with other libraries' if with_peers else ''}, and {free / 1e9:.1f} GB "
                    "are free: choose smaller sizes or another set"
                    f"{', or --no-peers' if with_peers else ''}"
                )


def select(name: str | None, lists: Mapping[str, Sequence[str] | None], peers: bool) -> Selection:
    """What the options ask for; ValueError, naming the option, what was found and the way out."""
    values = {option: _split(option, lists.get(option) or ()) for option in LISTS}
    own_sizes = bool(values["batch"] or values["classes"])
    if own_sizes and name is not None:
        raise ValueError(f"--set {name} has its own sizes: leave out --batch and --classes, or it")
    if own_sizes:
        for option, other in (("batch", "classes"), ("classes", "batch")):
            if not values[option]:
                raise ValueError(f"--{other} alone is no size: --{option} must be given, too")
    elif (name := name or DEFAULT) not in SETS:
        raise ValueError(f"--set: there is no set {name!r}; there are {', '.join(SETS)}")
    backends = _chosen("backend", values["backend"], BACKENDS)
    for backend in backends:
        if backend not in (available := fastxent.available_backends()):
            raise ValueError(
                f"--backend: {backend!r} is not available in this installation, which has "
                f"{', '.join(available) or 'none'}"
            )
    dtypes = _chosen("dtype", values["dtype"], DTYPES)
    operations = _chosen("operation", values["operation"], ALL_OPERATIONS)
    threads = _counts("threads", values["threads"]) or (1, fastxent.get_num_threads())
    selection = Selection(
        name=None if own_sizes else name,
        set=_own_sizes(values, dtypes, operations) if own_sizes else SETS[str(name)],
        threads=tuple(sorted(set(threads))),
        dtypes=dtypes,
        operations=operations,
        backends=backends,
        peers=peers,
        given=(
            *(() if own_sizes else ("--set", str(name))),
            *(f"--{key}={','.join(found)}" for key, found in values.items() if found
              if key != "threads"),
            *(() if peers else ("--no-peers",)),
        ),
    )  # fmt: skip
    if not (selection.throughput() or selection.with_options() or selection.starts()):
        raise ValueError(
            f"nothing of the set {name!r} is selected by {' '.join(selection.given[2:])}: "
            "it has no such dtype or operation"
        )
    return selection


def _own_sizes(
    values: dict[str, tuple[str, ...]], dtypes: tuple[str, ...], operations: tuple[str, ...]
) -> Set:
    shapes = tuple(
        f"{batch}x{classes}"
        for batch in _counts("batch", values["batch"])
        for classes in _counts("classes", values["classes"])
    )
    timed = Timed(operations or ("loss", "loss_and_grad"), shapes, dtypes or ("float32",))
    return replace(SETS[DEFAULT], text="sizes of one's own", throughput=(timed,))


def _split(option: str, texts: Iterable[str]) -> tuple[str, ...]:
    """The values between commas, each once."""
    values = [value.strip() for text in texts for value in text.split(",")]
    if "" in values:
        raise ValueError(f"--{option} has an empty value: give one, or several with commas between")
    return tuple(dict.fromkeys(values))


def _chosen(option: str, values: Iterable[str], possible: Iterable[str]) -> tuple[str, ...]:
    for value in values:
        if value not in possible:
            raise ValueError(f"--{option} must be one of {', '.join(possible)}, not {value!r}")
    return tuple(values)


def _counts(option: str, values: Iterable[str]) -> tuple[int, ...]:
    for value in values:
        digits = value.isascii() and value.isdecimal() and len(value) < 11
        if not (digits and 1 <= int(value) < 2**31):
            raise ValueError(f"--{option} must be integers of at least 1, not {value!r}")
    return tuple(map(int, values))


def _in_order(case: Case) -> tuple[Any, ...]:
    dtype, operation = list(DTYPES).index(case.dtype), ALL_OPERATIONS.index(case.operation)
    return dtype, case.shape, operation, case.threads


# ---- in pytest -----------------------------------------------------------------------------------

SELECTION: Final = pytest.StashKey[Selection]()


def parametrize(
    metafunc: pytest.Metafunc, names: str, parameters: Callable[[Selection], Iterable[Any]]
) -> None:
    """The parameters that a selection has for a test; conftest.py leaves out a test of none."""
    metafunc.parametrize(names, list(parameters(metafunc.config.stash[SELECTION])))


def time_limits(
    config: pytest.Config, seconds: float, rounds: int
) -> tuple[pytest.MarkDecorator, ...]:
    """pytest-benchmark's options for one benchmark, where its command line does not say them."""
    given = " ".join(map(str, config.invocation_params.args))
    limits: dict[str, Any] = {}
    if "--benchmark-max-time" not in given:
        limits["max_time"] = seconds
    if "--benchmark-min-rounds" not in given:
        limits["min_rounds"] = rounds
    return (pytest.mark.benchmark(**limits),) if limits else ()
