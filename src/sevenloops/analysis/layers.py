"""What each step of a network takes, and how near that is to what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..choice import chosen_as
from ..graph.ir import Graph
from ..graph.lower import lower
from ..graph.lowering import Step
from ..graph.passes import optimise
from ..graph.shapes import infer
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..session import InferenceSession
from .shares import above_possible

__all__ = ["LayerTime", "latency_s", "layer_times", "limits", "problems"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerTime:
    """One step of a plan, measured. `macs` are those of the definition: an algorithm that executes fewer can exceed 1.

    `floor_s` is the larger of the time that the machine's peak needs for the MACs and its bandwidth for the bytes (each
    operand once); None where the machine has not been measured, as `peak_gflops` is.
    """

    label: str
    op: str
    shape: tuple[int, ...]
    problem: str
    algorithm: str
    macs: int
    bytes: int
    seconds: float
    floor_s: float | None
    macs_executed: int = 0
    peak_gflops: float | None = None

    @property
    def gflops(self) -> float:
        """1e9 FLOP/s, two for each MAC."""
        return 2e-9 * self.macs / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float | None:
        """The share of the roofline: the floor over the time."""
        return None if self.floor_s is None or not self.seconds else self.floor_s / self.seconds

    @property
    def above_possible(self) -> bool:
        """Whether it is faster than the peak allows for what is executed, so that the peak or the time is noise."""
        share = self.gflops / self.peak_gflops if self.peak_gflops else None
        return above_possible(share, self.macs, self.macs_executed)


def latency_s(session: InferenceSession, feeds: Mapping[str, Array], min_time_s: float = 0.3, least: int = 5) -> float:
    """The median time of a run, of as many as fit into `min_time_s`, after one that is not counted."""
    session.run(None, feeds)
    times: list[float] = []
    end = time.perf_counter() + min_time_s
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def layer_times(
    session: InferenceSession, feeds: Mapping[str, Array], machine: Machine, repeats: int = 15
) -> list[LayerTime]:
    """The median time of every step over `repeats` runs, warm; `machine` has measured speeds, or there are no floors."""
    session.run(None, feeds)
    runs = [session.profile(feeds) for _ in range(repeats)]
    peak, bandwidth = limits(machine, session.threads)
    found = []
    for times in zip(*runs):
        step = times[0].step
        floor = None
        if peak and bandwidth:
            floor = max(2e-9 * step.macs / peak, 1e-9 * step.bytes / bandwidth)
        written = step.step.writes
        shape = written[0].shape if written else ()
        problem = "" if step.problem is None else str(step.problem)
        seconds = statistics.median(entry.seconds for entry in times)
        row = LayerTime(
            step.label, step.op, shape, problem, step.algorithm, step.macs, step.bytes, seconds, floor,
            step.macs_executed, peak,
        )  # fmt: skip
        found.append(row)
    return found


def limits(machine: Machine, threads: int) -> tuple[float | None, float | None]:
    """Peak and bandwidth of so many threads; memory is shared, so its bandwidth is the machine's."""
    if threads >= machine.cores or machine.peak_gflops_core is None:
        return machine.peak_gflops, machine.bandwidth_gbs
    return machine.peak_gflops_core * threads, machine.bandwidth_gbs


def problems(graph: Graph, sizes: Mapping[str, tuple[int, ...]] | None = None) -> list[Problem]:
    """The distinct convolutions and products that a session chooses schedules for, in order; nothing is compiled.

    Raises `GraphError` for sizes that do not fit or are missing.
    """
    lowered = lower(optimise(infer(graph, sizes or {})))
    steps = [step.problem for step in lowered.steps if isinstance(step, Step)]
    found = [problem for problem in steps if isinstance(problem, (ConvProblem, GemmProblem))]
    return list(dict.fromkeys(chosen_as(problem) for problem in found))
