"""The test of the harness itself: are planted faults found, and is what is right let through?

- Every fault of `faults.py` must be caught, in both profiles or in strict alone as it says.
- The control, the correct implementation that the faults are planted in, must pass every case.
- Planted cases whose data cannot tell right from wrong must come out as MISTRUSTED.
- The references must agree with mpmath.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..case import DTYPES, QUICK, Case, DType, Level, Problem, Random, dtype_named
from ..cases import CASES, cases_named
from ..jobs import Run
from ..profile import PROFILES, STRICT, ProfileName
from ..reference import check_against_mpmath
from ..result import Breach, Result
from ..steps import Settings, check_case, steps
from . import Fault, faults_named
from .correct import CORRECT, CORRECT_DTYPES

CONTROL: Final = "fastxent.verify.faults.correct:CORRECT"
# Longdouble's rounding unit is 2^-64, and double-double is rounded to it.
LARGEST_REFERENCE_ERROR: Final = 2.0**-60
_TIMEOUT: Final = 120.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Catch:
    """A case that found a fault, and the first thing that it found."""

    case: str
    breach: Breach


@dataclass(slots=True)
class Finding:
    """What became of a fault in one profile and dtype: the cases that caught it, in their order.

    raised : an error that the fault ended with, which is no catch: any harness sees that
    """

    fault: Fault
    profile: ProfileName
    dtype: str
    catches: list[Catch] = field(default_factory=list)
    raised: str = ""

    @property
    def survived(self) -> bool:
        """Whether nothing was found."""
        return not self.catches


@dataclass(slots=True)
class SelfTest:
    """What came out.

    findings : every fault in every profile and dtype
    cases : all that were run, by name
    control : what the correct implementation failed in: false alarms
    vacuous : the verdict on each planted case that cannot tell right from wrong
    reference_error : the largest relative error of the references, beside mpmath
    every : whether every case was put to every fault, not only as many as it took to catch it
    """

    seed: int
    thread_counts: tuple[int, ...]
    every: bool
    findings: list[Finding] = field(default_factory=list)
    cases: set[str] = field(default_factory=set)
    control: list[Result] = field(default_factory=list)
    n_control: int = 0
    vacuous: dict[str, str] = field(default_factory=dict)
    reference_error: float = 0.0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def survivors(self) -> list[Finding]:
        """What was not caught."""
        return [finding for finding in self.findings if finding.survived]

    @property
    def faults(self) -> list[Fault]:
        """The faults that were planted."""
        return list({finding.fault.name: finding.fault for finding in self.findings}.values())

    @property
    def trusted_too_much(self) -> list[str]:
        """The planted cases that should have come out as MISTRUSTED and did not."""
        return [name for name, verdict in self.vacuous.items() if verdict != "MISTRUSTED"]

    @property
    def is_reference_exact(self) -> bool:
        """Whether the references agree with mpmath."""
        return self.reference_error <= LARGEST_REFERENCE_ERROR

    @property
    def ok(self) -> bool:
        """Whether every fault was caught, and nothing that is right was called wrong."""
        passed = not self.survivors and not self.control and self.n_control > 0
        return passed and not self.trusted_too_much and self.is_reference_exact

    def caught_by(self) -> Counter[str]:
        """How many faults each case caught, in any profile and dtype."""
        return Counter(
            name
            for fault in self.faults
            for name in {
                catch.case
                for finding in self.findings
                if finding.fault is fault
                for catch in finding.catches
            }
        )

    def needed(self) -> dict[str, list[str]]:
        """The cases without which a fault would survive, and these faults; for `every` only."""
        found: dict[str, list[str]] = {}
        for finding in self.findings:
            if len(finding.catches) == 1:
                names = found.setdefault(finding.catches[0].case, [])
                if finding.fault.name not in names:
                    names.append(finding.fault.name)
        return found

    def command(self, argument: str, profile: str, dtype: str, cases: Sequence[str]) -> str:
        """The command that verifies a fault, or the control, by itself."""
        names = "".join(f" --case {name}" for name in cases)
        threads = "".join(f" --threads {n}" for n in self.thread_counts)
        return (
            f"fastxent verify --impl {argument} --profile {profile} --dtype {dtype}{names}"
            f" --seed {self.seed}{threads}"
        )


def run_self_test(
    *,
    level: Level = QUICK,
    cases: Sequence[str] = (),
    seed: int = 0,
    thread_counts: Sequence[int] = (1, 2),
    faults: Sequence[str | Fault] | None = None,
    every: bool = False,
    progress: Progress | None = None,
) -> SelfTest:
    """Plant faults, all or some, and see what catches them.

    Every fault is put to the cases of the level, or to those named, until one catches it; with
    `every` to all of them. The control is put to the same cases, in every dtype of a fault.
    ValueError for an unknown fault or case.
    """
    started = time.perf_counter()
    self_test = SelfTest(seed, tuple(thread_counts), every)
    known = _known_dtypes(self_test.notes)
    self_test.findings = [
        Finding(fault, profile, dtype)
        for profile in PROFILES
        for fault in _chosen(faults)
        if fault.in_standard or profile == STRICT
        for dtype in fault.dtypes
        if dtype in known
    ]
    plans = list(_plans(self_test.findings, level, cases, every))
    total, done = sum(plan.n_steps for plan in plans), 0
    for plan in plans:
        settings = Settings(
            profile=plan.profile,
            seed=seed,
            thread_counts=tuple(thread_counts),
            until_breach=not every,
            is_apart=True,
        )
        run = Run(plan.cases, settings, _TIMEOUT, _told(progress, plan.profile, done, total))
        run.apart(plan.groups)
        done += plan.n_steps
        self_test.cases.update(case.name for case in plan.cases)
        _take(self_test, run.results, plan.profile)
    self_test.vacuous = {
        f"{case.name} ({profile})": verdict(case, profile, seed)
        for profile in PROFILES
        for case in VACUOUS
    }
    self_test.reference_error = check_against_mpmath()
    self_test.seconds = time.perf_counter() - started
    return self_test


def _chosen(faults: Sequence[str | Fault] | None) -> list[Fault]:
    if faults is None:
        return faults_named([])
    return [each if isinstance(each, Fault) else faults_named([each])[0] for each in faults]


def _known_dtypes(notes: list[str]) -> list[str]:
    known: list[str] = []
    for name in DTYPES:
        if name not in CORRECT_DTYPES:
            notes.append(f"{name}: no longdouble of more digits here to be correct in")
            continue
        try:
            dtype_named(name)
            known.append(name)
        except ModuleNotFoundError:
            notes.append(f"{name}: ml_dtypes is not installed")
    return known


# ---- what is run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """Groups of arguments that share the work of the references, each with its dtype."""

    profile: ProfileName
    cases: list[Case]
    groups: list[tuple[list[str], list[str]]]

    @property
    def n_steps(self) -> int:
        return sum(
            len(steps(self.cases, [dtype_named(name) for name in dtypes], self.profile))
            for _, dtypes in self.groups
        )


def _plans(
    findings: list[Finding], level: Level, cases: Sequence[str], every: bool
) -> Iterator[_Plan]:
    dtypes: list[str] = [name for name in DTYPES if name in {finding.dtype for finding in findings}]
    of_level = cases_named(cases, level)
    for profile in PROFILES:
        # The control is run in every dtype that a fault is looked for in, and first.
        groups = {_names(of_level): {dtype: [CONTROL] for dtype in dtypes}}
        for finding in findings:
            if finding.profile == profile:
                chosen = of_level if cases else _cases_of(finding.fault, of_level, every)
                names = _names(chosen)
                by_dtype = groups.setdefault(names, {})
                by_dtype.setdefault(finding.dtype, []).append(finding.fault.argument)
        for names, by_dtype in groups.items():
            halves = [half for dtype, each in by_dtype.items() for half in _halves(each, dtype)]
            yield _Plan(profile, cases_named(names, level), halves)


def _cases_of(fault: Fault, of_level: list[Case], every: bool) -> list[Case]:
    """The cases that a fault is put to: those where it can show, even if no other run has them."""
    if not fault.cases:
        return of_level
    shown = [case for case in fault.cases if case in of_level]
    if every:
        return of_level if shown else [case for case in CASES if case in {*of_level, *fault.cases}]
    return shown or list(fault.cases)


def _names(cases: list[Case]) -> tuple[str, ...]:
    return tuple(case.name for case in cases)


def _halves(arguments: list[str], dtype: str) -> list[tuple[list[str], list[str]]]:
    """Two groups for two cores, unless each would do the work of the references for few."""
    if len(arguments) < 4:
        return [(arguments, [dtype])]
    return [(arguments[0::2], [dtype]), (arguments[1::2], [dtype])]


def _told(progress: Progress | None, profile: str, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    # What a process that ends leaves of a case is a step more.
    return lambda name, done, _: progress(f"{profile} {name}", min(before + done, total), total)


def _take(self_test: SelfTest, results: list[Result], profile: ProfileName) -> None:
    findings = {
        (finding.fault.argument, finding.dtype): finding
        for finding in self_test.findings
        if finding.profile == profile
    }
    places = {case.name: k for k, case in enumerate(CASES)}
    for result in sorted(results, key=lambda result: places[result.case]):
        if result.implementation == CONTROL:
            self_test.n_control += bool(result.checks)
            if result.is_wrong:
                self_test.control.append(result)
        elif result.breaches:
            finding = findings[result.implementation, result.dtype]
            breach = next(iter(result.breaches.values()))
            if breach.kind.startswith("raised "):
                finding.raised = f"{breach.kind} in {result.case}"
            elif self_test.every or not finding.catches:
                finding.catches.append(Catch(result.case, breach))


# ---- cases that cannot tell right from wrong -----------------------------------------------------


def _one_class(random: Random, dtype: DType) -> Iterator[Problem]:
    logits = random.standard_normal((5, 1)).astype(dtype)
    yield Problem(logits, np.zeros(5, np.int64))


def _nothing_but_nan(random: Random, dtype: DType) -> Iterator[Problem]:
    logits = random.standard_normal((5, 20)).astype(dtype)
    logits[:, 3] = np.nan
    yield Problem(logits, random.integers(0, 20, 5))


def _equal_logits(random: Random, dtype: DType) -> Iterator[Problem]:
    yield Problem(np.full((5, 20), 2.0, dtype), random.integers(0, 20, 5))


def _all_ignored(random: Random, dtype: DType) -> Iterator[Problem]:
    logits = random.standard_normal((5, 20)).astype(dtype)
    yield Problem(logits, np.full(5, -100), ignore_index=-100)


VACUOUS: Final = (
    Case("one class", "All losses and gradients are 0.", _one_class),
    Case("NaN in every row", "All losses and gradients are NaN.", _nothing_but_nan),
    Case("equal logits", "All losses are the same number.", _equal_logits),
    Case("all rows ignored", "Nothing is asked of any row.", _all_ignored),
)


def verdict(case: Case, profile: ProfileName, seed: int) -> str:
    """What the harness says of the correct implementation in this case."""
    settings = Settings(profile=profile, seed=seed)
    events = check_case(case, [CORRECT], np.dtype(np.float32), settings)
    (result,) = next(event for event in events if isinstance(event, list))
    return result.verdict
