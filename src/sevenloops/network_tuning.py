"""Tuning inside a network: which of a layer's best schedules is fastest where it will run.

A layer measured alone finds its weights in the caches. In a network they come from memory, since the other layers' weights
have passed through in between, and the input comes from wherever the layer before left it. So a schedule with fewer bytes
of weights, or other tasks, can win there.

Every layer gets a few candidates: what is fastest alone, what came close, and the model's best of these algorithms. Plan k
of the network takes the k-th candidate of every layer at once, and runs in turn with the plan of the fastest alone; a
layer's time over its time in that plan is what counts. At the end the winners challenge once more together, and only
those that win again are kept (`records.Trial`), so a lucky measurement does not.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import records
from .algorithms import ALGORITHMS
from .choice import chosen_as, usable_results
from .errors import GraphError
from .graph.ir import Graph
from .machine import Machine
from .problem import ConvProblem, GemmProblem, Problem
from .records import Record, Trial
from .schedule import Schedule
from .session import InferenceSession

__all__ = ["CANDIDATES", "Step", "candidates", "tune_network"]

Array = np.ndarray[Any, Any]
#: schedules of a layer that are tried, and of one kind of tile
CANDIDATES, OF_A_KIND = 10, 2
#: measured alone, up to so many times the fastest, an algorithm gets a try
CLOSE = 1.3
#: a challenger's time over that of what is fastest alone
BETTER = 0.985
#: turns of two plans, and runs of a turn; the first finds the other plan's data in the caches and does not count
TURNS, RUNS = 6, 4
#: outputs of two plans differ by at most this much of the largest one
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Step:
    """Where a trial stands: `done` of `total` plans."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class _Layer:
    """Problems of one record (they differ in their epilogue), and the schedules to try, the fastest alone first."""

    record: Record
    problems: tuple[Problem, ...]
    schedules: list[Schedule]


def tune_network(
    graph: Graph,
    feeds: Mapping[str, Array],
    name: str,
    *,
    limit: int = CANDIDATES,
    again: bool = False,
    on_progress: Callable[[Step], None] = lambda step: None,
) -> list[Record]:
    """Try the best schedules of every layer inside the network, and keep what wins for later loads of any network.

    `feeds` are inputs by name, of the sizes to tune for; `name` is said in the records; `limit` is how many schedules of a
    layer are tried. Left as they are: layers that were not tuned alone before (`sevenloops.tune`), and those that were in
    a trial on this processor, unless `again`.

    Returns the records that have a trial now, in the order of the layers. Raises `GraphError` for inputs that do not fit
    the graph and for a schedule that changes the network's outputs. Ctrl-C loses the trial, but not what was compiled.
    """
    trial = _Trial(graph, feeds, again, limit)
    rounds = max((len(layer.schedules) for layer in trial.layers), default=1) - 1
    ratios = {layer.record.key: {0: 1.0} for layer in trial.layers}
    for at in range(1, rounds + 1):
        able = [layer for layer in trial.layers if at < len(layer.schedules)]
        on_progress(Step(at - 1, rounds + 1, f"candidate {at + 1} of {len(able)} layers"))
        for layer, times in zip(able, trial.times(able, [layer.schedules[at] for layer in able])):
            ratios[layer.record.key][at] = _ratio(times)
    if rounds > 0:
        on_progress(Step(rounds, rounds + 1, "the winners together"))
    best = [min(ratios[layer.record.key], key=ratios[layer.record.key].__getitem__) for layer in trial.layers]
    final = trial.times(trial.layers, [layer.schedules[at] for layer, at in zip(trial.layers, best)])
    found = []
    for layer, at, times in zip(trial.layers, best, final):
        keeps, alone_s = at > 0 and _ratio(times) < BETTER, statistics.median(alone for alone, _ in times)
        result = Trial(layer.schedules[at if keeps else 0], alone_s * (_ratio(times) if keeps else 1.0), alone_s, name)
        found.append(dataclasses.replace(layer.record, trial=result))
    records.add(found)
    on_progress(Step(rounds + 1, rounds + 1, "done"))
    return found


def candidates(problem: Problem, record: Record, machine: Machine, limit: int = CANDIDATES) -> list[Schedule]:
    """What is tried of a layer, the fastest alone first; of one kind of tile and weights only the model's first two."""
    able = usable_results(record, problem, machine)
    close = [r.schedule for r in able if r.median_s <= CLOSE * able[0].median_s]
    found = list(close)
    for rank, first in enumerate(close):
        seen: Counter[object] = Counter()
        for schedule in ALGORITHMS[first.algorithm].schedules(problem, machine):
            kind = _kind(schedule)
            seen[kind] += 1
            if kind is None or seen[kind] <= OF_A_KIND:
                found.append(schedule)
            if rank and sum(seen.values()) == OF_A_KIND:  # a runner-up gets fewer
                break
    return list(dict.fromkeys(found))[:limit]


def _kind(schedule: Schedule) -> object:
    """What decides how many bytes of weights a call reads; None where no parameter does."""
    p = schedule.params
    return (p["tile_height"] * p["tile_width"], p["weights"]) if "tile_height" in p else None  # type: ignore[operator]


def _ratio(times: list[tuple[float, float]]) -> float:
    """The median of a layer's time over that of the fastest alone, turn by turn."""
    return statistics.median(there / alone for alone, there in times)


class _Trial:
    """The network with what is fastest alone, and others in turn with it."""

    def __init__(self, graph: Graph, feeds: Mapping[str, Array], again: bool, limit: int) -> None:
        self.graph, self.feeds = graph, feeds
        self.shapes = {key: array.shape for key, array in feeds.items()}
        machine = Machine.host()
        self.base = InferenceSession(graph, shapes=self.shapes)
        by_key: dict[tuple[str, str, str], _Layer] = {}
        for problem in dict.fromkeys(step.problem for step in self.base.plan(self.shapes).steps):
            if not isinstance(problem, (ConvProblem, GemmProblem)):
                continue
            plain = chosen_as(problem)
            record = records.find(plain, machine)
            if record is None or (record.trial and not again and record.cpu == machine.name):
                continue
            layer = by_key.get(record.key) or _Layer(record, (), candidates(plain, record, machine, limit))
            by_key[record.key] = dataclasses.replace(layer, problems=(*layer.problems, problem))
        self.layers = [layer for layer in by_key.values() if layer.schedules]
        if any(layer.record.trial for layer in self.layers):  # chosen by it; what is fastest alone is compared with
            self.base = self._session(self.layers, [layer.schedules[0] for layer in self.layers])
        self.expected = self.base.run(None, feeds)

    def _session(self, layers: list[_Layer], schedules: list[Schedule]) -> InferenceSession:
        given: dict[Problem | str, Schedule] = {
            problem: s for layer, s in zip(layers, schedules) for problem in layer.problems
        }
        return InferenceSession(self.graph, shapes=self.shapes, schedules=given)

    def times(self, layers: list[_Layer], schedules: list[Schedule]) -> list[list[tuple[float, float]]]:
        """For each layer, turn by turn: its seconds with what is fastest alone, and with the schedule given."""
        other = self._session(layers, schedules)
        self._check(other)
        turns = [(self._turn(self.base, layers), self._turn(other, layers)) for _ in range(TURNS)]
        return [[(alone[at], there[at]) for alone, there in turns] for at in range(len(layers))]

    def _turn(self, session: InferenceSession, layers: list[_Layer]) -> list[float]:
        runs = [session.profile(self.feeds) for _ in range(RUNS)][1:]
        medians = [statistics.median(run[at].seconds for run in runs) for at in range(len(runs[0]))]
        problems = [entry.step.problem for entry in runs[0]]
        return [sum(s for s, problem in zip(medians, problems) if problem in layer.problems) for layer in layers]

    def _check(self, other: InferenceSession) -> None:
        for got, expected in zip(other.run(None, self.feeds), self.expected):
            if got.dtype.kind == "f" and not np.allclose(got, expected, rtol=0, atol=TOLERANCE * abs(expected).max()):
                raise GraphError("the network's outputs change with the schedules of this trial: none of it is kept")
