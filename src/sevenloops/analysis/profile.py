"""Where the time of a network goes, step by step: measured times beside counted work, memory and the machine's ceilings.

- MACs are those of the definition, FLOP are two for each; "executed" are those that the code really does (Winograd: fewer;
  partial tiles and idle lanes: more).
- Bytes are unique: every operand and result of a step once, as if caches were perfect.
- The ceilings are measured on this machine, at the session's number of threads (`Machine.measured`).
- A time is the median over the runs, its spread the distance between the quartiles.

Only what was measured or counted is stored; what follows from it is computed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError
from ..graph.ir import Note
from ..graph.memory import MemoryPlan
from ..graph.plan import Plan, PlannedStep
from ..graph.shapes import infer
from ..machine import Machine
from ..session import InferenceSession
from .costs import count, total
from .layers import limits
from .shares import above_possible

__all__ = ["Block", "Kind", "LayerProfile", "Profile", "profile"]

Array = np.ndarray[Any, Any]
CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class LayerProfile:
    """One step of a plan: what it is, what it costs, and its time in each run.

    `params` are the numbers it keeps from run to run after the passes (normalisations are folded into weights);
    `schedule` is empty for steps in Python. `live_bytes` are those of all values in the arena while it runs.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    problem: str
    algorithm: str
    schedule: str
    params: int
    macs: int
    macs_executed: int
    bytes: int
    live_bytes: int
    times_s: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median time."""
        return statistics.median(self.times_s)

    @property
    def spread_s(self) -> float:
        """The distance between the quartiles of the times."""
        low, high = np.percentile(self.times_s, [25, 75])
        return float(high - low)

    @property
    def flops(self) -> int:
        """Two for each multiply-add of the definition."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """FLOP for each unique byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def gflops(self) -> float:
        """1e9 FLOP/s, of the definition's."""
        return 1e-9 * self.flops / self.seconds if self.seconds else 0.0

    @property
    def gbs(self) -> float:
        """1e9 unique bytes a second."""
        return 1e-9 * self.bytes / self.seconds if self.seconds else 0.0

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a fully connected layer."""
        return self.op in CONVOLUTIONS or (self.op in PRODUCTS and self.params > 0)


@dataclass(frozen=True)
class Kind:
    """All steps of one operator together."""

    op: str
    steps: int
    params: int
    macs: int
    macs_executed: int
    bytes: int
    seconds: float

    @property
    def gflops(self) -> float:
        """1e9 FLOP/s, of the definition's."""
        return 2e-9 * self.macs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Block:
    """A value's place in the arena, and the first and last step that need it."""

    name: str
    offset: int
    n_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Profile:
    """A network measured: its steps in order, times of whole runs in turn with profiled ones, memory, notes.

    `params` and `macs` are the network's own, before the passes (None where sizes depend on values). `peak_gflops` and
    `bandwidth_gbs` are the ceilings, None where the machine has not been measured.
    """

    model: str
    sizes: Mapping[str, tuple[int, ...]]
    threads: int
    machine: str
    peak_gflops: float | None
    bandwidth_gbs: float | None
    layers: tuple[LayerProfile, ...]
    runs_s: tuple[float, ...]
    profiled_s: tuple[float, ...]
    params: int | None
    macs: int | None
    arena_bytes: int
    constant_bytes: int
    blocks: tuple[Block, ...]
    notes: tuple[Note, ...]

    @property
    def latency_s(self) -> float:
        """The median time of a whole run, with everything around the steps."""
        return statistics.median(self.runs_s)

    @property
    def steps_s(self) -> float:
        """The sum of the layers' median times."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def coverage(self) -> float:
        """The sum of all step times over the time of the whole run beside it, the median over the rounds."""
        return statistics.median([steps / run for steps, run in zip(self._sums, self.runs_s)])

    @property
    def around_s(self) -> float:
        """What a profiled run takes beside its steps: Python, which checks inputs and makes the arrays of the results."""
        return statistics.median([run - steps for run, steps in zip(self.profiled_s, self._sums)])

    @property
    def _sums(self) -> list[float]:
        """All steps together, in each profiled run."""
        return [sum(times) for times in zip(*(layer.times_s for layer in self.layers))]

    @property
    def overhead(self) -> float:
        """What profiling adds to a run, as a share of it; the median over the rounds."""
        return float(np.median(self._overheads))

    @property
    def overhead_quartiles(self) -> tuple[float, float]:
        """The quartiles of what profiling adds: where they lie on both sides of 0, it is less than runs differ."""
        low, high = np.percentile(self._overheads, [25, 75])
        return float(low), float(high)

    @property
    def _overheads(self) -> list[float]:
        return [profiled / run - 1 for profiled, run in zip(self.profiled_s, self.runs_s)]

    @property
    def product_share(self) -> float:
        """The share of the time that convolutions and fully connected layers take."""
        return sum(layer.seconds for layer in self.layers if layer.is_product) / self.steps_s

    @property
    def peak_bytes(self) -> int:
        """The most bytes of values that are needed at one step."""
        return max((layer.live_bytes for layer in self.layers), default=0)

    @property
    def fused(self) -> tuple[Note, ...]:
        """What the passes did."""
        return tuple(note for note in self.notes if note.kind == "made")

    @property
    def missed(self) -> tuple[Note, ...]:
        """What the passes left as it is, with the reasons."""
        return tuple(note for note in self.notes if note.kind == "missed")

    def share(self, layer: LayerProfile) -> float:
        """A layer's share of the time of all."""
        return layer.seconds / self.steps_s

    def compute_share(self, layer: LayerProfile) -> float | None:
        """Its FLOP/s over the measured peak. Above 1 where an algorithm executes fewer than the definition has."""
        return layer.gflops / self.peak_gflops if self.peak_gflops else None

    def above_possible(self, layer: LayerProfile) -> bool:
        """Whether that share is above 1 for what is executed, so that the peak or the time is noise."""
        return above_possible(self.compute_share(layer), layer.macs, layer.macs_executed)

    def bandwidth_share(self, layer: LayerProfile) -> float | None:
        """Its unique bytes a second over the measured bandwidth of memory. Above 1 where they lie in a cache already."""
        return layer.gbs / self.bandwidth_gbs if self.bandwidth_gbs else None

    def bound(self, layer: LayerProfile) -> str:
        """`"compute"` or `"memory"`: which ceiling is the lower one for its arithmetic intensity; empty if not measured."""
        if not self.peak_gflops or not self.bandwidth_gbs:
            return ""
        return "compute" if layer.intensity * self.bandwidth_gbs >= self.peak_gflops else "memory"

    def kinds(self) -> list[Kind]:
        """The operators, the one that takes the most time first."""
        groups: dict[str, list[LayerProfile]] = {}
        for layer in self.layers:
            groups.setdefault(layer.op, []).append(layer)
        return sorted((_kind(op, rows) for op, rows in groups.items()), key=lambda kind: -kind.seconds)


def _kind(op: str, rows: Iterable[LayerProfile]) -> Kind:
    found = list(rows)
    sums = {name: sum(getattr(row, name) for row in found) for name in ("params", "macs", "macs_executed", "bytes")}
    return Kind(op, len(found), **sums, seconds=sum(row.seconds for row in found))


def profile(
    session: InferenceSession,
    feeds: Mapping[str, Any],
    runs: int = 15,
    *,
    machine: Machine | None = None,
    model: str | None = None,
) -> Profile:
    """Measure every step of a session over `runs` profiled runs, each in turn with a whole run, after one to warm up.

    `feeds` as for `session.run`. `machine` is this one with its measured speeds (measured now if they are not known yet,
    3 s); `model` is a name to print. Where sizes depend on values, only what lies before is profiled.
    Raises `GraphError` for less than one run, and what `session.run` raises.
    """
    if runs < 1:
        raise GraphError(f"runs must be at least 1, got {runs}")
    machine = machine or Machine.measured()
    whole, profiled, times = _timed(session, feeds, runs)
    sizes = {name: tuple(np.shape(value)) for name, value in feeds.items()}
    plan = session.plan(sizes)
    peak, bandwidth = limits(machine, session.threads)
    by_step = zip(*times) if plan.steps else iter(())
    layers = tuple(_layer(planned, plan.memory, at, t) for at, (planned, t) in enumerate(zip(plan.steps, by_step)))
    params, macs = _counted(session, plan, sizes)
    return Profile(
        model=model or session.graph.name,
        sizes=sizes,
        threads=session.threads,
        machine=machine.name,
        peak_gflops=peak,
        bandwidth_gbs=bandwidth,
        layers=layers,
        runs_s=tuple(whole),
        profiled_s=tuple(profiled),
        params=params,
        macs=macs,
        arena_bytes=plan.memory.total_bytes,
        constant_bytes=plan.constant_bytes,
        blocks=_blocks(plan),
        notes=plan.notes,
    )


def _timed(
    session: InferenceSession, feeds: Mapping[str, Any], runs: int
) -> tuple[list[float], list[float], list[list[float]]]:
    """Seconds of whole runs, of profiled ones, and of each step in these."""
    whole: list[float] = []
    profiled: list[float] = []
    times: list[list[float]] = []
    session.run(None, feeds)
    for at in range(runs):
        for steps in (False, True) if at % 2 else (True, False):  # in turn, as the second of two is often the faster one
            start = time.perf_counter()
            if steps:
                found = session.profile(feeds)
                profiled.append(time.perf_counter() - start)
                times.append([row.seconds for row in found])
            else:
                session.run(None, feeds)
                whole.append(time.perf_counter() - start)
    return whole, profiled, times


def _counted(session: InferenceSession, plan: Plan, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int | None, int | None]:
    if plan.dynamic is not None:
        return None, None
    whole = total(count(infer(session.graph, sizes)))
    return whole.params, whole.macs


def _layer(planned: PlannedStep, memory: MemoryPlan, at: int, times: tuple[float, ...]) -> LayerProfile:
    written = planned.step.writes
    return LayerProfile(
        name=planned.label,
        op=planned.op,
        shape=written[0].shape if written else (),
        problem=str(planned.problem or ""),
        algorithm=planned.algorithm,
        schedule=repr(planned.schedule) if planned.schedule is not None else "",
        params=planned.params,
        macs=planned.macs,
        macs_executed=planned.macs_executed,
        bytes=planned.bytes,
        live_bytes=memory.live_at(at),
        times_s=times,
    )


def _blocks(plan: Plan) -> tuple[Block, ...]:
    names: dict[int, str] = {}
    for planned in plan.steps:
        for tensor in planned.step.writes:
            names.setdefault(tensor.storage.id, tensor.storage.name or planned.label)
    found = plan.memory.spans
    return tuple(
        Block(names.get(span.key, ""), plan.memory.offsets[span.key], span.n_bytes, span.first, span.last) for span in found
    )
