"""Tuning: search the algorithms and schedules of problems on this machine, and keep what was found as records.

    >>> import sevenloops.tune
    >>> sevenloops.tune.tune([sevenloops.parse_problem("mb1 ic64 ih56 iw56 oc64 kh3 kw3")])  # doctest: +SKIP

Every finished problem is a record (`sevenloops.records`) at once, so a run that is stopped goes on where it was.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .. import records
from ..algorithms import ALGORITHMS, check_schedule
from ..choice import forced
from ..compile.store import build_digest, build_versions
from ..errors import ProblemError, ScheduleError, SevenLoopsError
from ..machine import Machine, MachineError
from ..problem import Problem
from ..records import Record, machine_kind
from ..schedule import Schedule
from .lab import Bench, Lab
from .search import Search

__all__ = ["BUDGET_S", "Progress", "tune"]

#: seconds that the search for one problem may take, about
BUDGET_S = 30.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `done` of `total` problems, what is being done, and about how many seconds are left.

    `record` is what has just been finished, or found to be there already (`kept`); `error` is why a problem has none.
    """

    problem: Problem
    done: int
    total: int
    text: str
    left_s: float | None = None
    record: Record | None = None
    kept: bool = False
    error: SevenLoopsError | None = None


def tune(
    problems: Sequence[Problem],
    *,
    algorithms: Sequence[str] | None = None,
    machine: Machine | None = None,
    budget_s: float = BUDGET_S,
    extra_schedules: Sequence[Schedule] = (),
    again: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    open_bench: Callable[[Problem, Machine], AbstractContextManager[Bench]] = Lab,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Record]:
    """Find the fastest schedule for each problem, and keep it for later calls of this and other processes.

    A problem that was tuned before, with the same sources on this processor, is not measured again unless `again` is
    set. `algorithms` restricts the search (results of others, if there are any, are kept); `budget_s` is about how long
    one problem takes at most; `extra_schedules` are tried beside the algorithms' own candidates for each problem that they
    fit; `machine` is this machine, or a lesser instruction set of it. `open_bench` and `clock` are for tests.

    Returns the records in the order of the problems (each once). Raises `Unsupported` and `ScheduleError` before anything
    is measured, and the first problem's error after all have ended. Ctrl-C loses the problem under way only.
    """
    machine = Machine.host() if machine is None else machine
    if not budget_s > 0:
        raise ProblemError(f"budget_s must be above 0, got {budget_s}")
    if machine.name != Machine.host().name or machine.arch != Machine.host().arch:
        raise MachineError(f"only this machine can be tuned for: {Machine.host().name}, not {machine.name}")
    distinct = list(dict.fromkeys(problems))
    plans = {p: _names(p, algorithms) for p in distinct}
    extra = {p: [s for s in extra_schedules if check_extra(p, s, machine) is None] for p in distinct}
    _check_used(distinct, extra_schedules, extra, machine)
    run = _Run(machine, budget_s, clock, on_progress, open_bench, len(distinct), least=2 if algorithms else 0)
    found, errors = [], []
    for at, problem in enumerate(distinct):
        old = _kept(problem, machine)
        if old and not again and not extra[problem] and set(plans[problem]) <= set(old.considered):
            run.skip(problem, at, old)
            found.append(old)
            continue
        try:
            found.append(run.one(problem, at, plans[problem], extra[problem], old))
        except SevenLoopsError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return found


def _names(problem: Problem, algorithms: Sequence[str] | None) -> list[str]:
    """The algorithms to search; raises `Unsupported` for one that was named and cannot compute the problem."""
    if algorithms is not None:
        return [forced(problem, name).name for name in dict.fromkeys(algorithms)]
    return [row.name for row in ALGORITHMS.values() if isinstance(problem, row.kinds) and row.supports(problem) is None]


def check_extra(problem: Problem, schedule: Schedule, machine: Machine) -> str | None:
    """The reason why a user's schedule cannot enter the search for a problem, or None."""
    if schedule.algorithm not in ALGORITHMS:
        return f"there is no algorithm {schedule.algorithm!r}"
    return ALGORITHMS[schedule.algorithm].supports(problem) or check_schedule(problem, schedule, machine)


def _check_used(
    problems: Sequence[Problem], schedules: Sequence[Schedule], used: dict[Problem, list[Schedule]], machine: Machine
) -> None:
    for schedule in schedules:
        if problems and not any(schedule in fitting for fitting in used.values()):
            reason = check_extra(problems[0], schedule, machine)
            raise ScheduleError(f"{schedule} fits none of the problems; for {problems[0]}: {reason}")


def _kept(problem: Problem, machine: Machine) -> Record | None:
    """The record of this very problem and processor that was made with these sources."""
    record = records.find(problem, machine)
    same = record and (record.problem, record.cpu, record.digest) == (str(problem), machine.name, build_digest())
    return record if same else None


@dataclass
class _Run:
    """What the problems of one run share."""

    machine: Machine
    budget_s: float
    clock: Callable[[], float]
    on_progress: Callable[[Progress], None]
    open_bench: Callable[[Problem, Machine], AbstractContextManager[Bench]]
    total: int
    least: int
    spent_s: float = 0.0
    searched: int = 0

    def left_s(self, done: int) -> float | None:
        """The mean of the problems searched so far, for each that is left."""
        return (self.total - done) * self.spent_s / self.searched if self.searched else None

    def skip(self, problem: Problem, at: int, record: Record) -> None:
        """Tell that there is a record already."""
        self.on_progress(Progress(problem, at + 1, self.total, "tuned before", self.left_s(at + 1), record, kept=True))

    def one(self, problem: Problem, at: int, names: list[str], extra: list[Schedule], old: Record | None) -> Record:
        """Search one problem and keep its record."""
        begin = self.clock()

        def say(text: str) -> None:
            self.on_progress(Progress(problem, at, self.total, text, self.left_s(at)))

        try:
            with self.open_bench(problem, self.machine) as bench:
                search = Search(problem, self.machine, bench, names, self.budget_s, self.clock, say, extra, self.least)
                record = self._record(problem, search, old)
            records.add([record])
        except SevenLoopsError as error:
            self.on_progress(Progress(problem, at + 1, self.total, str(error), self.left_s(at + 1), error=error))
            raise
        self.spent_s += self.clock() - begin
        self.searched += 1
        self.on_progress(Progress(problem, at + 1, self.total, "tuned", self.left_s(at + 1), record))
        return record

    def _record(self, problem: Problem, search: Search, old: Record | None) -> Record:
        """What was found, and what an older record knows of algorithms that were not searched now."""
        results, considered = search.run(), list(search.names)
        untuned_s = search.untuned_s
        if old and not set(old.considered) <= set(considered):
            untuned_s = old.untuned_s
            results += [r for r in old.results if r.schedule.algorithm not in search.names]
            considered += [name for name in old.considered if name not in search.names]
        ranked = tuple(sorted(results, key=lambda result: result.median_s))
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return Record(
            problem=str(problem),
            kind=machine_kind(self.machine),
            cpu=self.machine.name,
            results=ranked,
            considered=tuple(considered),
            date=date,
            digest=build_digest(),
            untuned_s=untuned_s,
            versions=build_versions(),
            trial=old.trial if old else None,
        )
