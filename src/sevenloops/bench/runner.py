"""Timing engines side by side: each in its own process, small slices in turn, everyone else idle meanwhile.

In one process, or at the same moment, the engines' spinning thread pools disturb each other by up to a factor of two.
So before each slice the parent sleeps until the pools of the engine before have gone to rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import SevenLoopsError
from ..inputs import largest_error, make_inputs, reference_output
from ..machine import ISAS, Machine, allowed_cores
from ..machine_measure import measure, peak_sampler
from .engines import ENGINES
from .networks import Layer
from .process import EngineProcess, WorkerError
from .results import OTHER_RESULTS, OWN, BenchRun, Row, Timing

__all__ = ["BenchError", "Options", "as_layers", "run_bench", "run_rows"]

Progress = Callable[[str], None]
Item = TypeVar("Item")
#: how long the peak is sampled before and after each of our own slices; the better of the two counts
PEAK_S = 0.006


class BenchError(SevenLoopsError, ValueError):
    """A benchmark that cannot be run as asked."""


@dataclass(frozen=True)
class Options:
    """How to measure. `threads=None` is every core this process may use, and more are not used; times are in seconds.

    `against` names engines, or `sevenloops:ALGORITHM` for another algorithm of ours.
    A slice runs for `slice_s` and at least `min_iterations`; `pause_s` is the rest before it.
    """

    against: tuple[str, ...] = ("onnxruntime", "openvino", "torch")
    threads: int | None = None
    algorithm: str | None = None
    isa: str | None = None
    rounds: int = 7
    slice_s: float = 0.02
    min_iterations: int = 3
    pause_s: float = 0.05
    seed: int = 0
    check: bool = True
    accuracy: str = "fast"

    def __post_init__(self) -> None:
        unknown = [name for name in self.against if name.split(":")[0] not in ENGINES or name == OWN]
        if unknown:
            peers = ", ".join(name for name in ENGINES if name != OWN)
            raise BenchError(f"cannot compare with {', '.join(unknown)}; the peers are {peers}, {OWN}:ALGORITHM")
        for name, least in (("rounds", 1), ("min_iterations", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BenchError(f"{name} must be at least {least}, got {value}")


def run_bench(layers: Sequence[Layer], options: Options, progress: Progress = lambda text: None) -> BenchRun:
    """Measure every layer with sevenloops and the peers; `progress` is told what is being done.

    An engine that is not installed, or does not support a problem, has the reason in its timing; it never ends the run.
    Raises `BenchError` if there is nothing to measure.
    """
    if not layers:
        raise BenchError("no problem was given")

    def prepare(layer: Layer, engines: dict[str, EngineProcess], threads: int, folder: Path) -> Row:
        timings = {name: _prepare(layer, engine, threads, options, folder / name) for name, engine in engines.items()}
        if options.check:
            timings = _with_errors(layer, timings, options.seed, folder)
        return Row(layer.name, layer.problem, layer.repeats, timings)

    return run_rows(layers, [layer.name for layer in layers], prepare, options, progress)


def run_rows(
    items: Sequence[Item],
    labels: Sequence[str],
    prepare: Callable[[Item, dict[str, EngineProcess], int, Path], Row],
    options: Options,
    progress: Progress,
) -> BenchRun:
    """Time whatever `prepare(item, engines, threads, folder)` gets ready in the engines; its rows have no times yet."""
    threads = min(options.threads or allowed_cores(), allowed_cores())
    progress("measuring the machine's limits")
    limits = _limits(options.isa, threads)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sevenloops-bench-")))
        names = dict.fromkeys((OWN, *options.against))
        engines = {name: stack.enter_context(EngineProcess(name, threads)) for name in names}
        versions = _versions(engines)
        rows, peak_gflops = [], peak_sampler(limits, threads)
        for index, (item, label) in enumerate(zip(items, labels), 1):
            progress(f"{index}/{len(items)} {label}")
            rows.append(_timed(prepare(item, engines, threads, folder), engines, options, peak_gflops))
        progress("measuring the machine's limits again")
    again = measure(limits)  # other work can only hide a limit, never raise it: the better sample of the two counts
    peak = max(limits.peak_gflops or 0, again.peak_gflops or 0)
    bandwidth = max(limits.bandwidth_gbs or 0, again.bandwidth_gbs or 0)
    environment = _environment(limits, versions, threads, options)
    environment["peak_gflops_samples"] = [limits.peak_gflops, again.peak_gflops]
    return BenchRun(tuple(rows), tuple(name for name in names if name != OWN), peak, bandwidth, environment)


def _limits(isa: str | None, threads: int) -> Machine:
    """The peak and bandwidth of `threads` cores: those known of the whole machine, or measured now for fewer cores."""
    host = Machine.host()
    machine = Machine.described(isa or host.isa, cores=threads)
    if machine.arch != host.arch or not ISAS[machine.isa].flags <= ISAS[host.isa].flags:
        raise BenchError(f"cannot measure {machine.isa}: this machine ({host.name}) runs {host.isa}")
    return Machine.measured(machine.isa) if threads == host.cores else measure(machine)


def _versions(engines: dict[str, EngineProcess]) -> dict[str, str]:
    versions = {}
    for name, engine in engines.items():
        try:
            versions[name] = engine.ask("hello")["version"]
        except WorkerError as error:
            versions[name] = str(error)
    return versions


def _timed(row: Row, engines: dict[str, EngineProcess], options: Options, peak_gflops: Callable[[float], float]) -> Row:
    """The row with the times of all rounds."""
    timings = dict(row.timings)
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in engines}
    parts: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    peaks: list[float] = []
    for _ in range(options.rounds):
        for name in [name for name, timing in timings.items() if timing.reason is None]:
            time.sleep(options.pause_s)
            before = peak_gflops(PEAK_S) if name == OWN else 0.0
            try:
                answer = engines[name].ask("time", min_time_s=options.slice_s, min_iterations=options.min_iterations)
            except WorkerError as error:
                timings[name] = Timing(name, reason=str(error))
            else:
                rounds[name].append(tuple(answer["times_s"]))
                for part, seconds in answer["parts_s"].items():
                    parts[name].setdefault(part, []).extend(seconds)
                if name == OWN:
                    peaks.append(max(before, peak_gflops(PEAK_S)))
    timed = dict(timings)
    for name in [name for name, timing in timings.items() if timing.reason is None]:
        of_parts = {part: tuple(seconds) for part, seconds in parts[name].items()}
        timed[name] = dataclasses.replace(timings[name], rounds_s=tuple(rounds[name]), parts_s=of_parts)
    timed[OWN] = dataclasses.replace(timed[OWN], peaks_gflops=tuple(peaks))
    return dataclasses.replace(row, timings=timed)


def _prepare(layer: Layer, engine: EngineProcess, threads: int, options: Options, output: Path) -> Timing:
    algorithm = engine.name.partition(":")[2] or options.algorithm
    values: dict[str, Any] = {"algorithm": algorithm, "isa": options.isa, "threads": threads}
    values["accuracy"] = options.accuracy
    try:
        answer = engine.ask(
            "prepare", problem=str(layer.problem), seed=options.seed, output=str(output.with_suffix(".npy")), **values
        )
    except WorkerError as error:
        return Timing(engine.name, reason=str(error))
    return Timing(engine.name, note=answer["note"], details=answer["details"])


def _with_errors(layer: Layer, timings: dict[str, Timing], seed: int, folder: Path) -> dict[str, Timing]:
    """Compare what each engine computed with float64."""
    reference: npt.NDArray[np.float64] = reference_output(layer.problem, make_inputs(layer.problem, seed))
    checked = dict(timings)
    for name, timing in timings.items():
        if timing.reason is None and name not in OTHER_RESULTS:
            error = largest_error(np.load(folder / f"{name}.npy"), reference)
            checked[name] = dataclasses.replace(timing, error=error)
    return checked


def _environment(machine: Machine, versions: dict[str, str], threads: int, options: Options) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu": machine.name,
        "isa": machine.isa,
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "engines": versions,
        "options": dataclasses.asdict(options),
    }


def as_layers(problems: Iterable[Any]) -> list[Layer]:
    """Problems without a network: each is named by its descriptor."""
    return [Layer(str(problem), problem) for problem in problems]
