"""A training step in each engine: PyTorch's modules as they are, compiled, or with ours in their place."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import importlib
import os
import pickle
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..graph.ir import Graph
from .engines import Prepared, Settings, fastest
from .shift_graphs import has_shifts, without_shifts
from .shift_roads import ROADS
from .training import PARTS

__all__ = ["TrainingTask", "prepare_training"]

#: Steps before the loss that is compared.
STEPS = 3
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


@dataclass(frozen=True)
class TrainingTask:
    """A network, as a graph or as a name of torchvision's, the shape of its input, and its number of classes.

    `folder` is where compilers may write; None is where they always do.
    """

    graph: Graph | None
    torchvision: str | None
    shape: tuple[int, ...]
    classes: int
    seed: int
    folder: str | None = None

    @classmethod
    def from_values(cls, graph: str | None, shape: list[int], **values: Any) -> TrainingTask:
        """From a request; the pickle is our parent's."""
        read = pickle.loads(Path(graph).read_bytes()) if graph else None
        return cls(graph=read, shape=tuple(shape), **values)

    def module(self, road: str = "") -> Any:
        """The network as a module that trains, always with the same weights; `road` is how shifts go, "" as our own."""
        import torch

        if self.torchvision is not None:
            torch.manual_seed(self.seed)
            models = importlib.import_module("torchvision.models")
            return models.get_model(self.torchvision, weights=None, num_classes=self.classes).train()
        assert self.graph is not None
        from ..torch.graphs import from_graph

        sizes = {self.graph.inputs[0].name: self.shape}
        graph = without_shifts(self.graph, sizes, road) if road else self.graph
        module = from_graph(graph, sizes).train()
        return _frozen_one_hots(module) if road else module

    @property
    def roads(self) -> tuple[str, ...]:
        """How shifts can go without an operator for them; one way, "", for a network without."""
        return ROADS if self.graph is not None and has_shifts(self.graph) else ("",)

    def macs(self) -> int:
        """The multiply-adds of one forward pass by PyTorch's count, without computing anything."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.module().to("meta")(torch.empty(self.shape, device="meta"))
        return int(counter.get_total_flops()) // 2


def _frozen_one_hots(module: Any) -> Any:
    """Depthwise weights that stand for a shift are no parameters: nobody would train them."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if getattr(part, "groups", 1) > 1 and weight is not None:
            rows = weight.detach().reshape(len(weight), -1)
            weight.requires_grad_(not bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all()))
    return module


def prepare_training(engine: str, task: TrainingTask, settings: Settings) -> Prepared:
    """One step, after the first ones; raises `Unsupported` for engines that do not train."""
    if engine not in MODELS:
        raise Unsupported(f"{engine} does not train; {', '.join(MODELS)} do")
    if engine == "sevenloops":
        importlib.import_module("sevenloops.torch")  # before PyTorch, as its docs say, which the peers' users do not
    import torch

    torch.set_num_threads(settings.threads)
    importlib.import_module("sevenloops.torch")  # of all engines, as graphs become modules there
    before = resident_bytes()
    ways = MODELS[engine](task)
    built = {name: _building(task, name, way) for name, way in ways.items()}
    best = fastest(built) if len(built) > 1 else next(iter(built.values()))()
    details = {**best.details, "resident_before_bytes": before, "peak_bytes": _peak_of(best.run)}
    if task.graph is None:
        details["macs"] = task.macs()
    return dataclasses.replace(best, details=details)


@dataclass(frozen=True)
class Way:
    """`make` takes the images, in the memory format that is asked for, and gives a module and a word on it."""

    make: Callable[[Any], tuple[Any, str]]
    channels_last: bool = True


def _building(task: TrainingTask, name: str, way: Way) -> Callable[[], Prepared]:
    def build() -> Prepared:
        start = time.perf_counter()
        trainer = Trainer(task, way)
        losses = [trainer.step()]
        start_s = time.perf_counter() - start
        losses += [trainer.step() for _ in range(STEPS)]
        trainer.rest()
        details = {"losses": losses, "start_s": start_s}
        return Prepared(trainer.step, lambda: [np.float32(losses[-1])], trainer.note or name, details, trainer.parts)

    return build


class Trainer:
    """A model, its optimizer and one batch of random images and labels."""

    def __init__(self, task: TrainingTask, way: Way) -> None:
        import torch

        generator = torch.Generator().manual_seed(task.seed)
        images = torch.randn(task.shape, generator=generator)
        layout: Any = torch.channels_last if way.channels_last and images.dim() == 4 else torch.contiguous_format
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.randint(task.classes, task.shape[:1], generator=generator)
        self.model, self.note = way.make(self.images)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, LEARNING_RATE, MOMENTUM, fused=True)
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        torch.manual_seed(task.seed)  # of dropout

    def step(self) -> float:
        """One training step; returns the loss that it began with."""
        from torch.nn.functional import cross_entropy

        clock = time.perf_counter
        times = [clock()]
        loss: Any = cross_entropy(self.model(self.images), self.labels)
        times.append(clock())
        loss.backward()
        times.append(clock())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        times.append(clock())
        for part, begin, end in zip(PARTS, times, times[1:]):
            self.parts[part].append(end - begin)
        return float(loss.detach())

    def rest(self) -> None:
        """From here on steps change no weight, and do the same work."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0


# ----------------------------------------------------------------------------------------------------- the engines


def _eager(task: TrainingTask, road: str, channels_last: bool) -> Any:
    import torch

    model = task.module(road)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def _titled(*words: str) -> str:
    return ", ".join(filter(None, words))


def _torch(task: TrainingTask) -> dict[str, Way]:
    """Eager, in both memory formats."""

    def way(road: str, last: bool) -> Way:
        return Way(lambda images: (_eager(task, road, last), ""), last)

    layouts = {"channels last": True, "NCHW": False}
    return {_titled(road, name): way(road, last) for road in task.roads for name, last in layouts.items()}


def _torch_compile(task: TrainingTask) -> dict[str, Way]:
    """Inductor, with no cache from before, and with eager's random numbers, so that dropout drops the same."""
    import torch

    if task.folder is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=task.folder)

    def way(road: str) -> Way:
        return Way(lambda images: (torch.compile(_eager(task, road, True), options={"fallback_random": True}), ""))

    return {_titled(road, "inductor"): way(road) for road in task.roads}


def _sevenloops(task: TrainingTask) -> dict[str, Way]:
    """`accelerate` on the same module, with the images as its example; the note says what stayed PyTorch's."""

    def make(images: Any) -> tuple[Any, str]:
        from ..torch.accelerate import accelerate

        model = _eager(task, "", True)
        report = accelerate(model, images, remeasure=True)  # what is kept may be of a busy machine
        left: dict[str, list[str]] = {}
        for name, reason in report.left.items():
            left.setdefault(reason, []).append(name)
        kept = [f"PyTorch's: {', '.join(names)}: {reason}" for reason, names in left.items()]
        return model, "\n".join([str(report).splitlines()[-1], *kept])

    return {"accelerate": Way(make)}


MODELS: dict[str, Callable[[TrainingTask], dict[str, Way]]] = {
    "sevenloops": _sevenloops,
    "torch": _torch,
    "torch-compile": _torch_compile,
}


# ----------------------------------------------------------------------------------------------------- memory


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Memory of this process that is in RAM, where Linux says it; `VmHWM` is the most since it was last reset."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None


def _peak_of(run: Callable[[], object]) -> int | None:
    """The most resident memory in one run; None where it cannot be reset (not on Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what other ways of building left behind
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (AttributeError, OSError):
        return None
    run()
    return resident_bytes("VmHWM")
