"""Where candidates are built and measured: compiled by worker processes, run by one process of their own.

A kernel that does not compile in time is stopped, and one that crashes takes its process with it and not the search.
Timing is by alternation: between any two candidates stands a slice of the schedule that they are compared with, and what
counts is the median of the ratios to the slices next to it. So a machine that is slower for a while slows both.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..arrays import aligned_empty
from ..compile import BoundCall, compile
from ..compile.store import kernel_image
from ..compile.workers import Worker, compile_all
from ..errors import CompileError, SevenLoopsError
from ..inputs import Inputs, largest_error, make_inputs, reference_output
from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule

__all__ = ["Bench", "Lab", "Sample"]

#: a slice; of a kernel that takes longer than `LONG_S`, the better of two runs
SLICE_S, MIN_RUNS, MAX_RUNS, LONG_S = 0.003, 3, 2000, 0.01
#: a candidate that is so many times slower than the other, twice, is not measured again
HOPELESS = 3.0
COMPILE_LIMIT_S, MEASURE_LIMIT_S = 20.0, 120.0


@dataclass(frozen=True)
class Sample:
    """What was measured of one schedule: its median, and its time over that of the schedule compared with."""

    median_s: float
    ratio: float


class Bench(Protocol):
    """What the search needs; tests put a table of times in its place."""

    def build(self, schedules: Sequence[Schedule]) -> dict[Schedule, str]:
        """Compile all; returns the reasons of those that cannot be used."""

    def compare(
        self, schedules: Sequence[Schedule], against: Schedule, rounds: int, limit_s: float
    ) -> dict[Schedule, Sample]:
        """Measure in alternation, about `limit_s` at most. Schedules that fail, or that there was no time for, are left out.

        Raises `CompileError` if `against` itself fails.
        """

    def error(self, schedule: Schedule) -> float:
        """The largest difference from float64, relative to the largest output."""


class Lab:
    """The real `Bench`, for one problem; ended with the `with` block."""

    def __init__(self, problem: Problem, machine: Machine) -> None:
        self.problem, self.machine = problem, machine
        self._worker: Worker | None = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def build(self, schedules: Sequence[Schedule]) -> dict[Schedule, str]:
        """Compile all side by side, into the kernel cache."""
        image = functools.partial(kernel_image, self.problem, machine=self.machine, time_limit_s=COMPILE_LIMIT_S)
        tasks = [functools.partial(image, schedule) for schedule in schedules]
        done = dict(compile_all(tasks, Machine.host().cores))
        for failure in done.values():
            if isinstance(failure, Exception) and not isinstance(failure, SevenLoopsError):
                raise failure
        return {s: str(done[i]) for i, s in enumerate(schedules) if isinstance(done[i], Exception)}

    def compare(
        self, schedules: Sequence[Schedule], against: Schedule, rounds: int, limit_s: float
    ) -> dict[Schedule, Sample]:
        """All in one job; if that crashes or hangs, one by one, to find out which of them it was."""
        try:
            return self._run(_compare, list(schedules), against, rounds, limit_s)  # type: ignore[no-any-return]
        except CompileError:
            pass
        self._run(_compare, [], against, 1, limit_s)
        found: dict[Schedule, Sample] = {}
        for schedule in schedules:
            try:
                found.update(self._run(_compare, [schedule], against, rounds, limit_s))
            except CompileError:
                continue
        return found

    def error(self, schedule: Schedule) -> float:
        """Computed in the measuring process; infinite if it crashes."""
        try:
            return float(self._run(_error, schedule))
        except CompileError:
            return math.inf

    def _run(self, function: Any, *args: Any) -> Any:
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(limited=False)  # what it measures may be large
        try:
            return self._worker.run((function, (self.problem, self.machine, *args)), MEASURE_LIMIT_S)
        except CompileError:
            raise
        except SevenLoopsError as error:  # out of memory, or a schedule that does not fit after all
            raise CompileError(str(error)) from None
        except KeyboardInterrupt:
            self._stop()
            raise

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._worker = None


# ------------------------------------------------------------------------------- inside the measuring process


class _Room:
    """One problem's inputs, reference and loaded kernels; all kernels write to the same output."""

    def __init__(self, problem: Problem, machine: Machine) -> None:
        self.problem, self.machine = problem, machine
        self.inputs: Inputs = make_inputs(problem, 0)
        channels = problem.y_shape[-1]
        pitch = getattr(problem, "out_pitch", 0) or channels
        self.out = aligned_empty((*problem.y_shape[:-1], pitch), problem.dtype)[..., :channels]
        self.reference = functools.lru_cache(maxsize=1)(lambda: reference_output(problem, self.inputs))
        self.calls: dict[Schedule, BoundCall] = {}
        self.packed: dict[Any, Any] = {}

    def call(self, schedule: Schedule) -> BoundCall:
        """The kernel with its arrays; kernels that read the weights in the same order share them."""
        if schedule not in self.calls:
            kernel = compile(self.problem, schedule=schedule, machine=self.machine)
            layout = (kernel.algorithm, kernel.image.pack_buffers[-1].shape)
            if layout not in self.packed:
                self.packed[layout] = kernel.pack(self.inputs.w)
            i = self.inputs
            extra = {"bias": i.bias, "residual": i.residual, "c": i.c}
            self.calls[schedule] = kernel.bind(i.x, self.packed[layout], out=self.out, **extra)
        return self.calls[schedule]


@functools.lru_cache(maxsize=1)
def _room(problem: Problem, machine: Machine) -> _Room:
    return _Room(problem, machine)


def _slice_s(call: BoundCall, hopeless_s: float = math.inf) -> float:
    """The median of some milliseconds of runs, warm; the better of two, if they take longer than `hopeless_s`."""
    once = min(_run_s(call), _run_s(call))
    if once > min(LONG_S, hopeless_s):
        return once
    times: list[float] = []
    end = time.perf_counter() + SLICE_S
    while len(times) < MIN_RUNS or (time.perf_counter() < end and len(times) < MAX_RUNS):
        times.append(_run_s(call))
    return statistics.median(times)


def _run_s(call: BoundCall) -> float:
    start = time.perf_counter()
    call.run()
    return time.perf_counter() - start


def _compare(
    problem: Problem, machine: Machine, schedules: list[Schedule], against: Schedule, rounds: int, limit_s: float
) -> dict[Schedule, Sample]:
    room = _room(problem, machine)
    room.calls = {s: c for s, c in room.calls.items() if s in schedules or s == against}
    times: dict[Schedule, list[float]] = {schedule: [] for schedule in (against, *schedules)}
    ratios: dict[Schedule, list[float]] = {schedule: [] for schedule in (against, *schedules)}
    other, until = room.call(against), time.perf_counter() + limit_s
    before = _slice_s(other)
    for turn in range(rounds):
        for schedule in schedules[:: 1 - 2 * (turn % 2)]:
            if time.perf_counter() > until or (turn > 1 and min(ratios[schedule], default=0) > HOPELESS):
                continue
            took = _slice_s(room.call(schedule), HOPELESS * before)
            after = _slice_s(other)
            times[schedule].append(took)
            times[against].append(after)
            ratios[schedule].append(took / math.sqrt(before * after))
            before = after
    times[against].append(before)
    ratios[against].append(1.0)
    return {s: Sample(statistics.median(times[s]), statistics.median(ratios[s])) for s in times if ratios[s]}


def _error(problem: Problem, machine: Machine, schedule: Schedule) -> float:
    room = _room(problem, machine)
    call = room.call(schedule)
    room.out.fill(math.nan)
    return largest_error(call.run(), room.reference())
