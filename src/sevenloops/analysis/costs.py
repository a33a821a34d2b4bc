"""Parameters, multiply-adds and bytes of every node of a graph, by the rules of the definition.

- A multiply-add (MAC) is one product that is added up. FLOP are another column: two for each MAC.
- A convolution has `outputs * channels in a group * kernel` of them; products with padding count as any other.
- A transposed convolution counts with the size of its *input*: `inputs * output channels in a group * kernel`.
- A matrix product `(m, k) x (k, n)` has `m * n * k`. Biases, activations, pools and normalisations have none.
- What an algorithm really executes (Winograd: fewer) is a property of the algorithm, not counted here.
- Parameters are the trained constants: weights and biases, scale and bias of normalisations. Running means and variances
  are none, nor are constants that only set something. A constant that two nodes share counts at the first.
- Bytes are unique: every operand and result once, as if caches were perfect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Graph, Node

__all__ = ["Cost", "count", "macs_of", "total"]

#: Which inputs of an operator are trained, where they are floating-point constants.
TRAINED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
}
#: A constant of several elements in one of these is a bias or a scale that an exporter wrote as a node of its own.
ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Cost:
    """What one node costs; `shape` is that of its first output. A sum over nodes has no shape."""

    name: str
    op: str
    shape: tuple[int, ...]
    params: int
    macs: int
    unique_bytes: int

    @property
    def flops(self) -> int:
        """Two for each multiply-add."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """FLOP for each unique byte."""
        return self.flops / self.unique_bytes if self.unique_bytes else 0.0


def count(graph: Graph) -> list[Cost]:
    """The costs of every node. All sizes must be known: raises `GraphError` with the name of a value that has none."""
    seen: set[str] = set()
    return [_cost(graph, node, seen) for node in graph.nodes]


def total(costs: Iterable[Cost], name: str = "total") -> Cost:
    """Sums over nodes."""
    rows = list(costs)
    return Cost(name, "", (), sum(r.params for r in rows), sum(r.macs for r in rows), sum(r.unique_bytes for r in rows))


def _cost(graph: Graph, node: Node, seen: set[str]) -> Cost:
    params = sum(graph.constants[name].size for name in trained(graph, node) if name not in seen)
    seen.update(node.inputs)
    touched = dict.fromkeys(name for name in (*node.inputs, *node.outputs) if name)
    moved = sum(math.prod(graph.type_of(name).sizes) * _itemsize(graph, name) for name in touched)
    shape = graph.type_of(node.outputs[0]).sizes
    return Cost(node.label, node.op, shape, params, macs_of(graph, node), moved)


def _itemsize(graph: Graph, name: str) -> int:
    return np.dtype(graph.type_of(name).dtype).itemsize


def trained(graph: Graph, node: Node) -> list[str]:
    names = [node.input(at) for at in TRAINED.get(node.op, ())]
    if node.op in ELEMENTWISE:
        names = [name for name in node.inputs if name in graph.constants and graph.constants[name].size > 1]
    return [name for name in dict.fromkeys(names) if name in graph.constants and graph.constants[name].dtype.kind == "f"]


def macs_of(graph: Graph, node: Node) -> int:
    """The multiply-adds of one node; 0 for operators that have none by the rules above."""
    rule = _MACS.get(node.op)
    return rule(graph, node) if rule else 0


def _conv(graph: Graph, node: Node) -> int:
    return math.prod(graph.type_of(node.outputs[0]).sizes) * math.prod(graph.type_of(node.inputs[1]).sizes[1:])


def _conv_transpose(graph: Graph, node: Node) -> int:
    return math.prod(graph.type_of(node.inputs[0]).sizes) * math.prod(graph.type_of(node.inputs[1]).sizes[1:])


def _product(graph: Graph, node: Node) -> int:
    a = graph.type_of(node.inputs[0]).sizes
    depth = a[0] if node.get("transA", 0) else a[-1]
    return math.prod(graph.type_of(node.outputs[0]).sizes) * depth


_MACS: dict[str, Callable[[Graph, Node], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _product,
    "MatMul": _product,
}
