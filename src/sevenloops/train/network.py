"""The network of a training: a graph of the zoo with the weights that a recipe begins with, as a module."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..graph.ir import Graph
from ..models import build
from ..torch import accelerate, restore
from ..torch.graphs import from_graph
from .errors import TrainingError
from .recipes import Recipe

__all__ = ["ENGINES", "Engine", "begin", "module_of", "network", "use_layers"]

#: Who computes: our kernels where they are faster and PyTorch elsewhere, or PyTorch alone.
ENGINES = ("sevenloops", "torch")
#: Convolutions of AlexNet, from 1, whose biases are 1 at the start, as are those of the hidden fully connected layers.
POSITIVE = (2, 4, 5)


@dataclass(frozen=True)
class Engine:
    """What computes a network, in words, and for each layer what does, and why; `replaced` have our kernels."""

    summary: str
    layers: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def network(
    model: str, recipe: Recipe, *, channels: int, side: int, classes: int, seed: int, options: Mapping[str, Any]
) -> Graph:  # fmt: skip
    """A network of the zoo for pictures of a data set, with the weights that the recipe begins with, by the seed."""
    return begin(build(model, channels=channels, size=side, classes=classes, **options), recipe.init, seed)


def begin(graph: Graph, init: str, seed: int) -> Graph:
    """The graph with the weights at the start of a training.

    "he": N(0, 2 / fan in), of the last layer N(0, 1 / fan in). "alexnet": N(0, 0.01). Biases are 0, with "alexnet" 1 in the
    second, fourth and fifth convolution and in hidden fully connected layers. Batch norm begins as the identity.
    """
    constants = dict(graph.constants)
    layers = [node for node in graph.nodes if node.op in ("Conv", "Gemm")]
    convolutions = [node for node in layers if node.op == "Conv"]
    positive = [node for at, node in enumerate(convolutions, 1) if at in POSITIVE]
    positive += [node for node in layers[:-1] if node.op == "Gemm"]
    for node in layers:
        name, shape = node.inputs[1], constants[node.inputs[1]].shape
        gain = 1 if node is layers[-1] else 2
        deviation = 0.01 if init == "alexnet" else math.sqrt(gain / math.prod(shape[1:]))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        constants[name] = np.asarray(rng.standard_normal(shape, np.float32) * np.float32(deviation))
        if len(node.inputs) > 2:
            bias = node.inputs[2]
            constants[bias] = np.full(constants[bias].shape, init == "alexnet" and node in positive, np.float32)
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            for name, value in zip(node.inputs[1:], (1, 0, 0, 1)):
                constants[name] = np.full(constants[name].shape, value, np.float32)
    return graph.replace(constants=constants)


def module_of(graph: Graph, engine: str, shape: tuple[int, ...]) -> tuple[Any, Engine]:
    """The graph as a module that trains, channels last, and what computes it.

    With "sevenloops", each layer is timed both ways on a batch of that shape; those where PyTorch is faster stay PyTorch's.
    """
    if engine not in ENGINES:
        raise TrainingError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    module: Any = from_graph(graph)
    module.to(memory_format=torch.channels_last)
    own = f"PyTorch {torch.__version__}"
    if engine == "torch":
        return module, Engine(own)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    report = accelerate(module, example)
    summary = f"sevenloops in {len(report.replaced)} of {len(report.rows)} layers, {own} in the others"
    return module, Engine(summary, tuple(map(str, report.rows)), tuple(report.replaced))


def use_layers(module: Any, names: Iterable[str]) -> None:
    """Give exactly these layers our kernels: those of an earlier run, or of another process, whatever is faster now."""
    restore(module)
    for name in names:
        accelerate(module.get_submodule(name))
