"""The memory of a training step, counted without running it: what plain automatic differentiation keeps.

For float32 networks as PyTorch trains them, operators not fused, nothing done in place, one batch:

- parameters, and a gradient of the same size for each;
- the optimizer's state: none for plain SGD, one value a parameter with momentum, two for Adam;
- activations: what the backward pass reads again (`SAVED`), each value once, and the outputs of the network;
- the loss: cross entropy keeps its log-probabilities, as large as the scores.

The inputs are the caller's and are counted apart. Not counted: workspaces of libraries, the allocator's rounding, and
gradients of activations, of which two or so live at a time in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from ..graph.ir import Graph, Node
from ..graph.shapes import infer
from .costs import count, total

__all__ = ["OPTIMIZERS", "SAVED", "TrainingMemory", "infer_training", "training_memory"]

#: Values that an optimizer keeps for each parameter.
OPTIMIZERS = {"sgd": 0, "momentum": 1, "adam": 2}
FLOAT_BYTES, INDEX_BYTES = 4, 8

#: What the backward pass of an operator reads again: "input", "output", both, or neither. PyTorch's autograd formulas.
SAVED: dict[str, tuple[str, ...]] = {
    "Conv": ("input",),
    "ConvTranspose": ("input",),
    "Gemm": ("input",),
    "MatMul": ("inputs",),
    "Mul": ("inputs",),
    "Div": ("inputs",),
    "Relu": ("output",),
    "Sigmoid": ("output",),
    "Tanh": ("output",),
    "Exp": ("output",),
    "Sqrt": ("output",),
    "Softmax": ("output",),
    "LogSoftmax": ("output",),
    "Clip": ("input",),
    "LeakyRelu": ("input",),
    "HardSwish": ("input",),
    "HardSigmoid": ("input",),
    "Gelu": ("input",),
    "Elu": ("input",),
    "PRelu": ("input",),
    "MaxPool": ("input", "indices"),
    "AveragePool": ("input",),
    "BatchNormalization": ("input", "statistics"),
    "LRN": ("input", "squares", "scale", "power"),
    "Dropout": ("mask",),
}
#: Operators whose output is a view of their input's memory.
VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Transpose")


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that are held at the end of the forward pass and the step; `activations` by the node that makes them."""

    batch: int
    optimizer: str
    input_bytes: int
    parameter_bytes: int
    activations: tuple[tuple[str, int], ...]
    loss_bytes: int

    @property
    def gradient_bytes(self) -> int:
        """As many as parameters."""
        return self.parameter_bytes

    @property
    def optimizer_bytes(self) -> int:
        """The optimizer's state."""
        return OPTIMIZERS[self.optimizer] * self.parameter_bytes

    @property
    def activation_bytes(self) -> int:
        """All that the backward pass reads again, and the outputs."""
        return sum(n_bytes for _, n_bytes in self.activations)

    @property
    def total_bytes(self) -> int:
        """Everything, the inputs too."""
        kept = self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes
        return self.input_bytes + kept + self.activation_bytes + self.loss_bytes


def infer_training(graph: Graph, sizes: Mapping[str, tuple[int, ...]]) -> Graph:
    """`infer` of the network as it is trained: dropouts, which do nothing at inference and would be left out, stay."""
    constants = {**graph.constants, "sevenloops.half": np.array(0.5, np.float32), "sevenloops.on": np.array(True)}
    nodes = tuple(
        node.replace(inputs=(node.inputs[0], node.input(1) or "sevenloops.half", "sevenloops.on"))
        if node.op == "Dropout" and not node.domain
        else node
        for node in graph.nodes
    )
    return infer(graph.replace(nodes=nodes, constants=constants), sizes)


def training_memory(graph: Graph, optimizer: str = "sgd") -> TrainingMemory:
    """The memory of one training step of a graph whose sizes are known (`infer_training`), before any pass.

    Raises `GraphError` for an unknown optimizer, and for sizes that are not known. Operators that are not in `SAVED` keep
    nothing; additions, concatenations and views are such.
    """
    if optimizer not in OPTIMIZERS:
        raise GraphError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    owner = {value.name: value.name for value in graph.inputs}
    producers = graph.producers()
    for node in graph.nodes:
        view = node.op in VIEWS
        owner.update({name: owner.get(node.inputs[0], node.inputs[0]) if view else name for name in node.outputs})
    inputs, kept = {value.name for value in graph.inputs}, dict[str, int]()
    for node in graph.nodes:
        kept.update(_kept(graph, node, owner))
    kept.update({owner[name]: _bytes(graph, owner[name]) for name in graph.outputs if name in owner})
    rows: dict[str, int] = {}
    for name, n_bytes in kept.items():
        if name not in inputs:
            label = producers[name].label if name in producers else name
            rows[label] = rows.get(label, 0) + n_bytes
    first = graph.type_of(graph.inputs[0].name).sizes
    return TrainingMemory(
        batch=first[0] if first else 1,
        optimizer=optimizer,
        input_bytes=sum(_bytes(graph, name) for name in inputs),
        parameter_bytes=FLOAT_BYTES * total(count(graph)).params,
        activations=tuple(rows.items()),
        loss_bytes=sum(_bytes(graph, name) for name in graph.outputs[:1]),
    )


def _bytes(graph: Graph, name: str) -> int:
    value = graph.type_of(name)
    return math.prod(value.sizes) * np.dtype(value.dtype).itemsize


def _kept(graph: Graph, node: Node, owner: dict[str, str]) -> dict[str, int]:
    """The memory that a node's backward pass needs: by the value it belongs to, or a name of its own below the node's."""
    found: dict[str, int] = {}
    for what in SAVED.get(node.op, ()):
        if what in ("input", "inputs", "output"):
            names = {"input": node.inputs[:1], "inputs": node.inputs, "output": node.outputs[:1]}[what]
            found.update({owner[name]: _bytes(graph, owner[name]) for name in names if name in owner})
        else:
            found[f"{node.label}: {what}"] = EXTRA[what](graph, node)
    return found


def _elements(graph: Graph, node: Node) -> int:
    return math.prod(graph.type_of(node.outputs[0]).sizes)


def _channels(graph: Graph, node: Node) -> int:
    return graph.type_of(node.outputs[0]).sizes[1]


#: Memory beside the values of the graph: window positions, mean and deviation of each channel, masks.
EXTRA: dict[str, Callable[[Graph, Node], int]] = {
    "indices": lambda graph, node: INDEX_BYTES * _elements(graph, node),
    "statistics": lambda graph, node: 2 * FLOAT_BYTES * _channels(graph, node),
    "mask": lambda graph, node: FLOAT_BYTES * _elements(graph, node),
    # PyTorch averages the squares over neighbouring channels, padded by half the window on both sides
    "squares": lambda graph, node: (
        FLOAT_BYTES * _elements(graph, node) // _channels(graph, node) * (_channels(graph, node) + node.get("size") - 1)
    ),
    "scale": lambda graph, node: FLOAT_BYTES * _elements(graph, node),
    "power": lambda graph, node: FLOAT_BYTES * _elements(graph, node),
}
