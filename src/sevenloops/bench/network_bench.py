"""Whole networks against other engines: each gets the very same ONNX file, in a process of its own, in turn.

Networks with shifts go to the others on both roads of `shift_roads`, and the faster one counts. Errors are against float64,
computed by PyTorch from the same file; without PyTorch, against our own outputs.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.costs import macs_of
from ..errors import GraphError
from ..graph.ir import Graph
from ..graph.shapes import infer
from ..inputs import largest_error
from .network_peers import NetworkTask, load_outputs
from .process import EngineProcess, WorkerError
from .results import OWN, BenchRun, Row, Timing
from .runner import BenchError, Options, Progress, run_rows
from .shift_graphs import has_shifts, without_shifts
from .shift_roads import ROADS

__all__ = ["NETWORKS", "NetworkCase", "NetworkWork", "case", "network_work", "random_feeds", "run_networks"]

Array = np.ndarray[Any, Any]
#: The networks of `sevenloops bench networks`.
NETWORKS = (
    "vgg16",
    "resnet18",
    "resnet50",
    "googlenet",
    "squeezenet1_1",
    "alexnet",
    "mobilenetv2",
    "efficientnet_lite0",
    "shiftresnet20",
    "shiftnet_a",
)
REFERENCE_LIMIT_S = 600.0


@dataclass(frozen=True)
class NetworkWork:
    """A network for exact sizes, as what is measured; bytes are those of its weights, inputs and outputs."""

    sizes: tuple[tuple[str, tuple[int, ...]], ...]
    macs: int
    unique_bytes: int

    def __str__(self) -> str:
        return " ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in self.sizes)


@dataclass(frozen=True)
class NetworkCase:
    """A network, and the sizes of its inputs."""

    name: str
    graph: Graph
    sizes: Mapping[str, tuple[int, ...]]


def case(name: str, graph: Graph, batch: int = 1, shapes: Mapping[str, tuple[int, ...]] | None = None) -> NetworkCase:
    """A network for a batch: a first dimension that is open becomes `batch`; `shapes` says others by the input's name.

    Raises `GraphError` for sizes that stay open.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for value in graph.inputs:
        shape = (shapes or {}).get(value.name) or value.shape or ()
        if shape and isinstance(shape[0], str):
            shape = (batch, *shape[1:])
        if not shape or any(isinstance(size, str) for size in shape):
            raise GraphError(
                f"the input {value.name} {value.shape} of {name} needs a size: --shape {value.name}=1x3x224x224"
            )
        sizes[value.name] = tuple(int(size) for size in shape)
    unknown = set(shapes or {}) - set(sizes)
    if unknown:
        raise GraphError(f"{name} has no input {sorted(unknown)[0]!r}; its inputs are {', '.join(sizes)}")
    return NetworkCase(name, graph, sizes)


def random_feeds(graph: Graph, sizes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """Seeded inputs: normally distributed floats, integers from 0 to 1."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        dtype, shape = np.dtype(value.dtype), sizes[value.name]
        floats = dtype.kind == "f"
        feeds[value.name] = (rng.standard_normal(shape) if floats else rng.integers(0, 2, shape)).astype(dtype)
    return feeds


def run_networks(cases: Sequence[NetworkCase], options: Options, progress: Progress = lambda text: None) -> BenchRun:
    """Measure every network; engines that cannot run one have the reason in their timing. Raises `BenchError` for none."""
    if not cases:
        raise BenchError("no network was given")

    def prepare(item: NetworkCase, engines: dict[str, EngineProcess], threads: int, folder: Path) -> Row:
        task = _task(item, options.seed, folder)
        values = task.to_values(folder / "feeds.npz")
        timings = {}
        for name, engine in engines.items():
            progress(f"{item.name}: loading in {name}")
            timings[name] = _prepared(engine, values, threads, options, folder / f"{name}.npz")
        if options.check:
            progress(f"{item.name}: computing in float64")
            timings = _with_errors(timings, values, threads, folder)
        return Row(item.name, network_work(item), 1, timings)

    return run_rows(cases, [item.name for item in cases], prepare, options, progress)


def network_work(item: NetworkCase) -> NetworkWork:
    """What one inference computes. Nodes whose sizes depend on values are not counted."""
    sized = infer(item.graph, item.sizes)
    counted = [n for n in sized.nodes if all(sized.type_of(name).known for name in (*n.inputs, *n.outputs) if name)]
    edges = [sized.type_of(name) for name in (*(value.name for value in sized.inputs), *sized.outputs)]
    unique = sum(array.nbytes for array in sized.constants.values())
    unique += sum(np.dtype(edge.dtype).itemsize * math.prod(edge.sizes) for edge in edges if edge.known)
    return NetworkWork(tuple(item.sizes.items()), sum(macs_of(sized, node) for node in counted), unique)


def _task(item: NetworkCase, seed: int, folder: Path) -> NetworkTask:
    """The files of a network in a folder, for exact sizes."""
    feeds = random_feeds(item.graph, item.sizes, seed)
    if not has_shifts(item.graph):
        path = folder / "model.onnx"
        exact = [dataclasses.replace(value, shape=item.sizes[value.name]) for value in item.graph.inputs]
        item.graph.replace(inputs=tuple(exact)).save_onnx(path)
        return NetworkTask({"": path}, None, feeds)
    files = {road: folder / f"model-{road}.onnx" for road in ROADS}
    for road, path in files.items():
        without_shifts(item.graph, item.sizes, road).save_onnx(path)
    pickled = folder / "model.pickle"
    pickled.write_bytes(pickle.dumps(item.graph))
    return NetworkTask(files, pickled, feeds)


def _prepared(engine: EngineProcess, values: dict[str, Any], threads: int, options: Options, output: Path) -> Timing:
    try:
        answer = engine.ask("prepare_network", threads=threads, accuracy=options.accuracy, output=str(output), **values)
    except WorkerError as error:
        return Timing(engine.name, reason=str(error))
    return Timing(engine.name, note=answer["note"], details=answer["details"])


def _with_errors(timings: dict[str, Timing], values: dict[str, Any], threads: int, folder: Path) -> dict[str, Timing]:
    """The largest error over the largest output, of all outputs; what it is against stands in the details."""
    reference = folder / "reference.npz"
    reference.unlink(missing_ok=True)
    with EngineProcess("torch", threads) as engine:
        try:
            engine.ask("reference", time_limit_s=REFERENCE_LIMIT_S, output=str(reference), **values)
            against = "float64"
        except WorkerError as error:
            against = f"{OWN}, as there is no float64 run: {error}"
    if not reference.exists():
        if timings[OWN].reason is not None:
            return timings
        reference = folder / f"{OWN}.npz"
    expected, checked = load_outputs(reference), dict(timings)
    for name, timing in timings.items():
        if timing.reason is None and reference.stem != name:
            errors = [
                largest_error(y, np.asarray(e, np.float64)) for y, e in zip(load_outputs(folder / f"{name}.npz"), expected)
            ]
            details = {**timing.details, "error_against": against}
            checked[name] = dataclasses.replace(timing, error=max(errors, default=0.0), details=details)
    return checked
