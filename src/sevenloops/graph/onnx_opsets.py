"""Older and newer nodes as nodes of opset `OPSET`: the table `NORMALISERS`, operator -> function.

A function gets the `Builder` of the graph, the node as it was read, and the version of its operator (the opset that
last changed it, e.g. 1, 11 or 13 for Softmax). It adds nodes that mean the same in opset `OPSET`, and returns False
where there are none: then the node is kept as it is, for the evaluator of the `onnx` package.
Operators that are not in the table mean the same in all opsets from 7 on, but for attributes that came later.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .ir import Node, Value
from .operands import complain

__all__ = ["NORMALISERS", "Builder", "Normaliser"]

Array = np.ndarray[Any, Any]


class Builder:
    """Nodes and constants of a graph under construction; `types` are those that the file declares."""

    def __init__(self, names: set[str]) -> None:
        self.names, self.nodes, self.constants = names, list[Node](), dict[str, Array]()
        self.types: dict[str, Value] = {}

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        name = next(n for n in itertools.chain([hint], (f"{hint}_{i}" for i in itertools.count(1))) if n not in self.names)
        self.names.add(name)
        return name

    def constant(self, hint: str, value: Any, dtype: Any = None) -> str:
        """A new constant; returns its name."""
        name = self.fresh(hint)
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, op: str, inputs: tuple[str, ...], hint: str, **attributes: Any) -> str:
        """A new node with one output; returns the output's name."""
        name = self.fresh(hint)
        self.nodes.append(Node(op, inputs, (name,), attributes, name))
        return name

    def rank(self, name: str) -> int | None:
        """The number of dimensions of a value, where the file says it."""
        if name in self.constants:
            return self.constants[name].ndim
        shape = self.types[name].shape if name in self.types else None
        return None if shape is None else len(shape)


Normaliser = Callable[[Builder, Node, int], bool]


def _moved(attributes: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in names}


def attributes_to_inputs(newest: int, *names: str, dtype: Any = np.int64) -> Normaliser:
    """Attributes that are inputs, in this order behind the first, from version `newest` on."""

    def normalise(build: Builder, node: Node, version: int) -> bool:
        if version < newest:
            given = [node.get(name) for name in names]
            inputs = [build.constant(f"{node.label}.{n}", v, dtype) if v is not None else "" for n, v in zip(names, given)]
            while inputs and not inputs[-1]:
                inputs.pop()
            node = node.replace(inputs=(node.inputs[0], *inputs), attributes=_moved(node.attributes, *names))
        build.nodes.append(node)
        return True

    return normalise


def reduce_sum(build: Builder, node: Node, version: int) -> bool:
    """ReduceSum got its axes as input five opsets before the others."""
    return attributes_to_inputs(13, "axes")(build, node, version)


def clip(build: Builder, node: Node, version: int) -> bool:
    """Bounds were attributes."""
    if version < 11:
        bounds = [node.get(name) for name in ("min", "max")]
        inputs = ["" if b is None else build.constant(f"{node.label}.{n}", b, np.float32) for n, b in zip("lh", bounds)]
        node = node.replace(inputs=(node.inputs[0], *inputs), attributes={})
    build.nodes.append(node)
    return True


def pad(build: Builder, node: Node, version: int) -> bool:
    """Pads and the value were attributes."""
    if version < 11:
        pads = build.constant(f"{node.label}.pads", node.get("pads", ()), np.int64)
        value = build.constant(f"{node.label}.value", node.get("value", 0.0), np.float32)
        node = node.replace(inputs=(node.inputs[0], pads, value), attributes=_moved(node.attributes, "pads", "value"))
    build.nodes.append(node)
    return True


def split(build: Builder, node: Node, version: int) -> bool:
    """Sizes were an attribute; before opset 18 equal parts went without saying."""
    if version < 13 and node.get("split") is not None:
        sizes = build.constant(f"{node.label}.split", node.get("split"), np.int64)
        node = node.replace(inputs=(node.inputs[0], sizes))
    node = node.replace(attributes=_moved(node.attributes, "split"))
    if not node.input(1) and "num_outputs" not in node.attributes:
        node = node.with_attributes(num_outputs=len(node.outputs))
    build.nodes.append(node)
    return True


def softmax(build: Builder, node: Node, version: int) -> bool:
    """Softmax, LogSoftmax and Hardmax flattened their input to a matrix before opset 13."""
    if version >= 13:
        build.nodes.append(node)
        return True
    axis, (x,), label = node.get("axis", 1), node.inputs, node.label
    rank = build.rank(x)
    if axis == -1 or (rank is not None and axis % max(rank, 1) == rank - 1):
        build.nodes.append(node.with_attributes(axis=-1))
        return True
    shape = build.add("Shape", (x,), f"{label}.shape")
    flat = build.add("Flatten", (x,), f"{label}.flat", axis=axis)
    soft = build.add(node.op, (flat,), f"{label}.{node.op.lower()}", axis=-1)
    build.nodes.append(Node("Reshape", (soft, shape), node.outputs, {"allowzero": 1}, node.name))
    return True


def batch_norm(build: Builder, node: Node, version: int) -> bool:
    """In inference there is one output; training, and statistics of every element (`spatial=0`), are not brought over."""
    training = node.get("training_mode", 0) if version >= 14 else sum(1 for name in node.outputs if name) > 1
    if training or not node.get("spatial", 1):
        return False
    attributes = _moved(node.attributes, "spatial", "training_mode", "momentum", "is_test", "consumed_inputs")
    build.nodes.append(node.replace(attributes=attributes, outputs=node.outputs[:1]))
    return True


def dropout(build: Builder, node: Node, version: int) -> bool:
    """Before opset 12 it was always meant for inference here; the ratio does not matter then."""
    if version < 12:
        node = node.replace(inputs=node.inputs[:1], attributes={})
    build.nodes.append(node)
    return True


def group_norm(build: Builder, node: Node, version: int) -> bool:
    """Before opset 21 there was one scale and bias a group: each is repeated for the channels of its group."""
    if version >= 21:
        build.nodes.append(node)
        return True
    x, label, groups = node.inputs[0], node.label, node.get("num_groups", 1)
    channels = build.add("Shape", (x,), f"{label}.channels", start=1, end=2)
    each = build.add("Div", (channels, build.constant(f"{label}.groups", [groups], np.int64)), f"{label}.each")
    sizes = build.add("Concat", (build.constant(f"{label}.one", [1], np.int64), each), f"{label}.sizes", axis=0)
    last, flat = build.constant(f"{label}.last", [1], np.int64), build.constant(f"{label}.all", [-1], np.int64)
    repeated = []
    for name in node.inputs[1:3]:
        column = build.add("Unsqueeze", (name, last), f"{label}.column")
        matrix = build.add("Expand", (column, sizes), f"{label}.matrix")
        repeated.append(build.add("Reshape", (matrix, flat), f"{label}.repeated"))
    build.nodes.append(node.replace(inputs=(x, *repeated)))
    return True


def resize(build: Builder, node: Node, version: int) -> bool:
    """Resize of opset 10 and Upsample read pixel `floor(i / scale)`; ONNX Runtime rounds up where scales shrink."""
    if version >= 11:
        build.nodes.append(node)
        return True
    mode, label = node.get("mode", "nearest"), node.label
    scales = node.input(1) or build.constant(f"{label}.scales", node.get("scales", ()), np.float32)
    known = build.constants.get(scales)
    shrinks = node.op == "Resize" and known is not None and bool((known < 1).any())
    if mode not in ("nearest", "linear", "bilinear") or (shrinks and known is not None and bool((known > 1).any())):
        return False
    attributes = {"mode": "nearest" if mode == "nearest" else "linear", "coordinate_transformation_mode": "asymmetric"}
    attributes |= {"nearest_mode": "ceil" if shrinks else "floor"} if mode == "nearest" else {}
    build.nodes.append(Node("Resize", (node.inputs[0], "", scales), node.outputs, attributes, node.name))
    return True


def swish(build: Builder, node: Node, version: int) -> bool:
    """x * sigmoid(alpha * x), which opset 24 gave a name."""
    (x,), label, alpha = node.inputs, node.label, node.get("alpha", 1.0)
    scaled = x
    if alpha != 1.0:
        scaled = build.add("Mul", (x, build.constant(f"{label}.alpha", alpha, np.float32)), f"{label}.scaled")
    gate = build.add("Sigmoid", (scaled,), f"{label}.gate")
    build.nodes.append(Node("Mul", (x, gate), node.outputs, {}, node.name))
    return True


def old_broadcast(build: Builder, node: Node, version: int) -> bool:
    """Before opset 7 the second operand was broadcast only when asked, its first axis laid on `axis` of the first one."""
    axis, broadcast = node.get("axis"), node.get("broadcast", 0)
    if version < 7:
        node = node.replace(attributes=_moved(node.attributes, "axis", "broadcast", "consumed_inputs"))
        if broadcast and axis is not None:
            ranks = [build.rank(name) for name in node.inputs]
            if ranks[0] is None or ranks[1] is None:
                complain(node, "is of an opset before 7, and the file does not say how many dimensions its inputs have")
            node = _trailing(build, node, ranks[0] - axis % ranks[0] - ranks[1])
    build.nodes.append(node)
    return True


def prelu(build: Builder, node: Node, version: int) -> bool:
    """Before opset 7 the slopes were one a channel, as a vector."""
    ranks = [build.rank(name) for name in node.inputs]
    if version < 7 and ranks[1] == 1:
        if ranks[0] is None:
            complain(node, "is of an opset before 7, and the file does not say how many dimensions its input has")
        slope = build.constants.get(node.inputs[1])
        node = _trailing(build, node, ranks[0] - 2) if slope is None or slope.size > 1 else node
    build.nodes.append(node.replace(attributes={}))
    return True


def _trailing(build: Builder, node: Node, count: int) -> Node:
    """The node with axes of size one behind those of its second input."""
    if count <= 0:
        return node
    axes = build.constant(f"{node.label}.axes", range(-count, 0), np.int64)
    return node.replace(inputs=(node.inputs[0], build.add("Unsqueeze", (node.inputs[1], axes), f"{node.label}.second")))


def gemm(build: Builder, node: Node, version: int) -> bool:
    """Before opset 7 C was broadcast only when asked."""
    build.nodes.append(node.replace(attributes=_moved(node.attributes, "broadcast")))
    return True


def scatter(build: Builder, node: Node, version: int) -> bool:
    """Scatter has another name since opset 11."""
    build.nodes.append(node.replace(op="ScatterElements"))
    return True


AXES = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

OLD_BROADCAST = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")

NORMALISERS: dict[str, Normaliser] = {
    **dict.fromkeys(OLD_BROADCAST, old_broadcast),
    **{f"Reduce{name}": attributes_to_inputs(18, "axes") for name in AXES},
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Dropout": dropout,
    "Gemm": gemm,
    "GroupNormalization": group_norm,
    "Hardmax": softmax,
    "LogSoftmax": softmax,
    "PRelu": prelu,
    "Pad": pad,
    "ReduceSum": reduce_sum,
    "Resize": resize,
    "Scatter": scatter,
    "Slice": attributes_to_inputs(10, "starts", "ends", "axes"),
    "Softmax": softmax,
    "Split": split,
    "Squeeze": attributes_to_inputs(13, "axes"),
    "Swish": swish,
    "Unsqueeze": attributes_to_inputs(13, "axes"),
    "Upsample": resize,
}
