"""Climb a ladder: compile every rung, compare it with float64, and time the rungs in turn.

In each round every rung gets a slice, and beside it the machine's peak is sampled, since on shared machines the clock
moves from second to second. Other libraries run in processes of their own, after a rest (see `sevenloops.bench.runner`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bench.process import EngineProcess, WorkerError
from ..compile import resolve_threads
from ..compile.workers import compile_all
from ..errors import SevenLoopsError
from ..inputs import Inputs, largest_error, make_inputs, reference_output
from ..machine import Machine
from ..machine_measure import measure, peak_sampler
from ..problem import ConvProblem, GemmProblem
from .kernels import Ready, python_seconds, tiny, warm_cache
from .results import Case, LadderRun, Point
from .table import LadderError, Rung

__all__ = ["CONV_CASES", "GEMM_SIZES", "Options", "climb", "gemm_cases"]

GEMM_SIZES = (128, 256, 512, 1024)
#: The layer of a well-known walk-through of fast convolutions (85,162,752 MACs), and one of VGG-16.
CONV_CASES = {
    "walkthrough": ConvProblem(1, 3, (224, 224), 64, (3, 3)),
    "vgg": ConvProblem(1, 256, (56, 56), 256, (3, 3), padding=((1, 1),)),
}
#: how long the peak is sampled beside each slice
PEAK_S = 0.006
#: a call of this length is timed once and not in every round
SLOW_S = 0.5
#: an output that is this far off, relative to the largest, is wrong: no rung of ours rounds as badly (FFT: 1e-5)
WRONG = 1e-3


@dataclass(frozen=True)
class Options:
    """How to climb. `limit_s` is the longest call that is still made; what would take longer is left out, and says so."""

    threads: int | None = None
    rounds: int = 5
    slice_s: float = 0.02
    pause_s: float = 0.05
    limit_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.limit_s > 0:
            raise LadderError(f"rounds must be at least 1 and limit_s above 0, got {self.rounds} and {self.limit_s}")


def gemm_cases(sizes: Sequence[int] = GEMM_SIZES) -> list[Case]:
    """Square products by their sizes; raises `LadderError` below 64, where a tile does not fit."""
    if not sizes or min(sizes) < 64:
        raise LadderError(f"sizes of the ladder are at least 64, so that every tile fits; got {list(sizes)}")
    return [Case(str(size), GemmProblem(size, size, size)) for size in sorted(set(sizes))]


def climb(
    kind: str,
    rungs: Sequence[Rung],
    cases: Sequence[Case],
    options: Options | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> LadderRun:
    """Measure rungs on cases. A rung that cannot compute a case has the reason in its point.

    Raises `CompileError` where a reader's own file cannot be compiled, and `LadderError` where a result is wrong.
    """
    options = options or Options()
    threads = resolve_threads(options.threads)
    host = Machine.host()
    progress("measuring the machine's peak")
    machine = Machine.measured() if threads == host.cores else measure(dataclasses.replace(host, cores=threads))
    _compile(rungs, cases, threads, progress)
    sampler = peak_sampler(machine, threads)
    points: dict[tuple[str, str], Point] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sevenloops-ladder-")))
        engines = {r.name: stack.enter_context(EngineProcess(r.name, threads)) for r in rungs if r.kind == "engine"}
        for index, case in enumerate(cases):
            climber = _Climber(case, options, threads, folder, engines, sampler, progress)
            for rung in rungs:
                before = points.get((rung.name, cases[index - 1].name)) if index and kind == "gemm" else None
                climber.prepare(rung, before)
            points.update({(name, case.name): point for name, point in climber.timed().items()})
    ordered = tuple(points[rung.name, case.name] for rung in rungs for case in cases)
    peak = max([machine.peak_gflops or 0.0, *(gflops for point in ordered for gflops in point.peaks_gflops)])
    return LadderRun(kind, tuple(rungs), tuple(cases), ordered, peak, _environment(machine, threads, options))


def _compile(rungs: Sequence[Rung], cases: Sequence[Case], threads: int, progress: Callable[[str], None]) -> None:
    """Fill the cache, a worker for each core. Errors of our own rungs wait for `prepare`, where they become reasons."""
    work = [(rung, case) for rung in rungs for case in cases if rung.compiled]
    tasks = [functools.partial(warm_cache, rung, case.problem, threads) for rung, case in work]
    for done, (index, result) in enumerate(compile_all(tasks, Machine.host().cores), 1):
        progress(f"compiling {done}/{len(tasks)}")
        if isinstance(result, Exception) and (work[index][0].kind == "file" or not isinstance(result, SevenLoopsError)):
            raise result


class _Climber:
    """All rungs on one case: made ready and checked one by one, then timed in turn."""

    def __init__(
        self,
        case: Case,
        options: Options,
        threads: int,
        folder: Path,
        engines: dict[str, EngineProcess],
        peak_gflops: Callable[[float], float],
        progress: Callable[[str], None],
    ) -> None:
        self.case, self.options, self.threads, self.folder = case, options, threads, folder
        self.engines, self.peak_gflops, self.progress = engines, peak_gflops, progress
        self.inputs: Inputs = make_inputs(case.problem, options.seed)
        self.reference = reference_output(case.problem, self.inputs)
        self.points: dict[str, Point] = {}
        self.ready: dict[str, Callable[[], object]] = {}

    def prepare(self, rung: Rung, before: Point | None) -> None:
        """Run a rung once and compare; `before` is its point on a smaller case, from which its time is foreseen."""
        self.progress(f"{self.case.name}: {rung.name}")
        point = Point(rung, self.case)
        try:
            self.points[rung.name] = self._too_slow(point, before) or self._first(point)
        except (WorkerError, SevenLoopsError) as error:
            if rung.kind == "file":
                raise
            self.points[rung.name] = dataclasses.replace(point, reason=str(error))

    def _too_slow(self, point: Point, before: Point | None) -> Point | None:
        if before is None or (before.median_s is None and before.reason is None):
            return None
        if before.median_s is None:
            return dataclasses.replace(point, reason=before.reason)
        likely = before.median_s * self.case.problem.macs / before.case.problem.macs
        if likely <= self.options.limit_s:
            return None
        return dataclasses.replace(point, reason=f"would take about {likely:.0f} s or more; --limit-s {likely:.0f} runs it")

    def _first(self, point: Point) -> Point:
        if point.rung.kind == "python":
            return self._python(point)
        if point.rung.kind == "engine":
            return self._engine(point)
        ready = Ready.of(point.rung, self.case.problem, self.inputs, self.threads)
        start = time.perf_counter()
        ready.run()
        took = time.perf_counter() - start
        point = dataclasses.replace(point, note=ready.note, error=self._error(point.rung, ready.out))
        point = dataclasses.replace(point, macs_executed=ready.macs_executed)
        if took > SLOW_S:
            return dataclasses.replace(point, rounds_s=((took,),), peaks_gflops=(self.peak_gflops(PEAK_S),))
        self.ready[point.rung.name] = ready.run
        return point

    def _error(self, rung: Rung, out: np.ndarray[Any, Any]) -> float:
        error = largest_error(out, self.reference)
        if not error < WRONG:
            raise LadderError(f"{rung.name} is wrong on {self.case.problem}: its largest error is {error:.2g} of the output")
        return error

    def _python(self, point: Point) -> Point:
        assert isinstance(self.case.problem, ConvProblem)
        small = tiny(self.case.problem)
        inputs = make_inputs(small, self.options.seed)
        runs = [python_seconds(small, inputs) for _ in range(self.options.rounds)]
        factor = self.case.problem.macs / small.macs
        error = largest_error(runs[0][1], reference_output(small, inputs))
        peaks = tuple(self.peak_gflops(PEAK_S) for _ in runs)
        rounds = tuple((factor * seconds,) for seconds, _ in runs)
        said = f"measured on {small} ({small.macs:,} MACs), times {factor:,.0f}"
        return dataclasses.replace(point, rounds_s=rounds, error=error, extrapolated=said, peaks_gflops=peaks)

    def _engine(self, point: Point) -> Point:
        engine, file = self.engines[point.rung.name], self.folder / f"{point.rung.name}.npy"
        values: dict[str, Any] = {"algorithm": None, "isa": None, "threads": self.threads}
        problem, seed = str(self.case.problem), self.options.seed
        answer = engine.ask("prepare", problem=problem, seed=seed, output=str(file), **values)
        self.ready[point.rung.name] = lambda: None
        return dataclasses.replace(point, note=answer["note"], error=largest_error(np.load(file), self.reference))

    def timed(self) -> dict[str, Point]:
        """The points with the times of all rounds."""
        self.progress(f"{self.case.name}: timing")
        times: dict[str, list[tuple[float, ...]]] = {name: [] for name in self.ready}
        peaks: dict[str, list[float]] = {name: [] for name in self.ready}
        for _ in range(self.options.rounds):
            for name in self.ready:
                if name in self.engines:
                    time.sleep(self.options.pause_s)
                peaks[name].append(self.peak_gflops(PEAK_S))
                times[name].append(self._slice(name))
            if self.engines:
                time.sleep(self.options.pause_s)
        for name, rounds in times.items():
            self.points[name] = dataclasses.replace(
                self.points[name], rounds_s=tuple(rounds), peaks_gflops=tuple(peaks[name])
            )
        return self.points

    def _slice(self, name: str) -> tuple[float, ...]:
        if name in self.engines:
            return tuple(self.engines[name].ask("time", min_time_s=self.options.slice_s, min_iterations=1)["times_s"])
        run, clock = self.ready[name], time.perf_counter
        found: list[float] = []
        run()
        end = clock() + self.options.slice_s
        while not found or clock() < end:
            start = clock()
            run()
            found.append(clock() - start)
        return tuple(found)


def _environment(machine: Machine, threads: int, options: Options) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu": machine.name,
        "isa": machine.isa,
        "threads": threads,
        "caches": {"L1": machine.l1_bytes, "L2": machine.l2_bytes, "L3": machine.l3_bytes},
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "options": dataclasses.asdict(options),
    }
