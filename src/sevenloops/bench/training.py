"""Whole training steps against PyTorch: forward, backward, SGD with momentum, each engine in its own process, in turn.

All engines begin with the same weights and train on one batch. After the first steps, whose losses are compared, the
learning rate is zero: a step does the same work, and the numbers stay as they are for as long as it takes to time them.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..graph.ir import Graph
from ..graph.shapes import infer
from .network_bench import NetworkCase, NetworkWork, network_work
from .process import EngineProcess, WorkerError
from .results import BenchRun, Row, Timing
from .runner import BenchError, Options, Progress, run_rows

__all__ = ["BATCHES", "PARTS", "SIDE", "TORCHVISION", "TrainingCase", "run_training"]

#: What is trained when no network is named, and how many images a step of it has.
BATCHES = {"vgg11": 8, "resnet18": 16, "alexnet": 64, "mobilenetv2": 16, "shiftresnet20": 128}
#: The parts of a step. The optimizer's has the release of the gradients.
PARTS = ("forward", "backward", "optimizer")
#: In front of the name of a network that torchvision builds.
TORCHVISION = "torchvision:"
#: Height and width of their images, and their classes.
SIDE, CLASSES = 224, 1000
#: The engine whose losses the others' are compared with.
MEASURE = "torch"
#: A step has the forward multiply-adds and, for each of the two gradients, as many again.
DIRECTIONS = 3
#: Compilers take minutes for a network.
PREPARE_LIMIT_S = 3600.0


@dataclass(frozen=True)
class TrainingCase:
    """A network and the size of the batch that it is trained on: a graph, or None for one that torchvision builds."""

    name: str
    graph: Graph | None
    sizes: Mapping[str, tuple[int, ...]]

    @property
    def work(self) -> NetworkWork | None:
        """What a step computes; None for a network that only the workers have."""
        if self.graph is None:
            return None
        forward = network_work(NetworkCase(self.name, self.graph, self.sizes))
        return dataclasses.replace(forward, macs=DIRECTIONS * forward.macs)

    def request(self, folder: Path) -> dict[str, Any]:
        """Plain values for a worker; the graph goes into a file of the folder."""
        (shape,) = self.sizes.values()
        values: dict[str, Any] = {"shape": shape, "folder": str(folder)}
        if self.graph is None:
            return {**values, "graph": None, "torchvision": self.name.removeprefix(TORCHVISION), "classes": CLASSES}
        path = folder / "graph.pickle"
        path.write_bytes(pickle.dumps(self.graph))
        classes = infer(self.graph, self.sizes).type_of(self.graph.outputs[0]).sizes[-1]
        return {**values, "graph": str(path), "torchvision": None, "classes": classes}


def run_training(cases: Sequence[TrainingCase], options: Options, progress: Progress = lambda text: None) -> BenchRun:
    """Measure a step of every network; engines that cannot train one have the reason in their timing.

    A timing has the medians of `PARTS`, and as details the losses of the first steps and the memory. Raises `BenchError`.
    """
    if not cases:
        raise BenchError("no network was given")
    for case in cases:
        if len(case.sizes) != 1:
            raise BenchError(
                f"{case.name} has {len(case.sizes)} inputs; networks of one input, a batch of images, are trained"
            )

    def prepare(item: TrainingCase, engines: dict[str, EngineProcess], threads: int, folder: Path) -> Row:
        values, timings = item.request(folder), {}
        for name, engine in engines.items():
            progress(f"{item.name}: the first steps in {name}")
            engine.restart()  # its memory is measured, so nothing of the network before may be in it
            timings[name] = _prepared(engine, values, threads, options.seed)
        counted = [timing.details["macs"] for timing in timings.values() if "macs" in timing.details]
        work = item.work or NetworkWork(tuple(item.sizes.items()), DIRECTIONS * max(counted, default=0), 0)
        return Row(item.name, work, 1, _with_differences(timings))

    return run_rows(cases, [item.name for item in cases], prepare, options, progress)


def _prepared(engine: EngineProcess, values: dict[str, Any], threads: int, seed: int) -> Timing:
    try:
        answer = engine.ask("prepare_training", time_limit_s=PREPARE_LIMIT_S, threads=threads, seed=seed, **values)
    except WorkerError as error:
        return Timing(engine.name, reason=str(error))
    return Timing(engine.name, note=answer["note"], details=answer["details"])


def _with_differences(timings: dict[str, Timing]) -> dict[str, Timing]:
    """The relative difference of the last loss to that of `MEASURE`, where that was trained."""
    measure = timings.get(MEASURE)
    if measure is None or measure.reason is not None:
        return timings
    expected = measure.details["losses"][-1]
    checked = dict(timings)
    for name, timing in timings.items():
        if timing.reason is None and name != MEASURE:
            error = abs(timing.details["losses"][-1] - expected) / abs(expected)
            checked[name] = dataclasses.replace(timing, error=error)
    return checked
