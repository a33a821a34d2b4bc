"""Networks with shifts as libraries without a shift operator are given them: on the roads of `shift_roads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..graph.ir import OWN, Graph, Node
from ..graph.shapes import infer
from ..problem import ConvProblem
from ..shift import Shift
from .shift_roads import ROADS, depthwise_road, slices_road

__all__ = ["has_shifts", "without_shifts"]

Array = np.ndarray[Any, Any]


def has_shifts(graph: Graph) -> bool:
    """Whether a shift is in the graph."""
    return any(_is_shift(node) for node in graph.nodes)


def _is_shift(node: Node) -> bool:
    return node.domain == OWN and node.op == "Shift"


def without_shifts(graph: Graph, sizes: Mapping[str, tuple[int, ...]], road: str) -> Graph:
    """The same network for exact sizes, every shift and the 1x1 convolution behind it in operators of ONNX.

    `depthwise`: the depthwise convolution takes the stride of the 1x1, which so sees as few pixels as possible.
    `slices`: slices take every stride-th pixel; the weights of the 1x1 are brought into the order of the joined slices.
    Raises `Unsupported` where something else than one 1x1 convolution reads a shift.
    """
    if road not in ROADS:
        raise Unsupported(f"a shift takes one of the roads {', '.join(ROADS)}, not {road!r}")
    sized = infer(graph, sizes)
    readers, constants, nodes = sized.consumers(), dict(sized.constants), list[Node]()
    shifts: dict[str, Node] = {}
    for node in sized.nodes:
        if _is_shift(node):
            users = readers.get(node.outputs[0], [])
            if len(users) != 1 or not _is_pointwise(sized, users[0]):
                raise Unsupported(f"only 1x1 convolutions behind a shift are measured, not what reads {node.label}")
            shifts[node.outputs[0]] = node
        elif node.inputs and node.inputs[0] in shifts:
            shift = shifts[node.inputs[0]]
            problem = _problem(sized, shift, node)
            make = _depthwise if road == "depthwise" else _slices
            nodes += make(problem, shift, node, constants)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.inputs}
    kept = {name: array for name, array in constants.items() if name in used or name in sized.outputs}
    return sized.replace(nodes=tuple(nodes), constants=kept)


def _is_pointwise(graph: Graph, node: Node) -> bool:
    plain = node.op == "Conv" and node.get("group", 1) == 1 and not any(node.get("pads", ()))
    return plain and node.inputs[1] in graph.constants and set(graph.type_of(node.inputs[1]).sizes[2:]) == {1}


def _problem(graph: Graph, shift: Node, conv: Node) -> ConvProblem:
    batch, channels, *size = graph.type_of(shift.inputs[0]).sizes
    moving = Shift(tuple(shift.get("kernel")), tuple(shift.get("dilation")), shift.get("convention"))
    out = graph.type_of(conv.inputs[1]).sizes[0]
    return ConvProblem(batch, channels, tuple(size), out, (1,) * len(size), stride=tuple(conv.get("strides")), shift=moving)


def _depthwise(problem: ConvProblem, shift: Node, conv: Node, constants: dict[str, Array]) -> list[Node]:
    road, name = depthwise_road(problem), shift.label
    constants[f"{name}.one_hot"] = road.weight
    window = {"kernel_shape": road.weight.shape[2:], "strides": problem.stride, "dilations": tuple(road.dilation)}
    attributes = {**window, "pads": tuple(road.padding * 2), "group": problem.in_channels}
    moved = Node("Conv", (shift.inputs[0], f"{name}.one_hot"), shift.outputs, attributes, name)
    return [moved, conv.with_attributes(strides=(1,) * problem.rank)]


def _slices(problem: ConvProblem, shift: Node, conv: Node, constants: dict[str, Array]) -> list[Node]:
    road, name, rank = slices_road(problem), shift.label, problem.rank

    def integers(what: str, values: list[int]) -> str:
        constants[f"{name}.{what}"] = np.array(values, np.int64)
        return f"{name}.{what}"

    pads = integers("pads", [0, 0, *(b for b, _ in road.padding), 0, 0, *(a for _, a in road.padding)])
    nodes = [Node("Pad", (shift.inputs[0], pads), (f"{name}.padded",), name=f"{name}.pad")]
    axes = integers("axes", list(range(1, rank + 2)))
    for index, ((first, end, step), start) in enumerate(road.slices):
        starts = integers(f"starts{index}", [first, *start])
        ends = integers(f"ends{index}", [end, *(a + size for a, size in zip(start, problem.in_size))])
        steps = integers(f"steps{index}", [step, *problem.stride])
        part = f"{name}.part{index}"
        nodes.append(Node("Slice", (f"{name}.padded", starts, ends, axes, steps), (part,), name=part))
    parts = tuple(f"{name}.part{index}" for index in range(len(road.slices)))
    weight = f"{conv.label}.ordered"
    constants[weight] = np.ascontiguousarray(constants[conv.inputs[1]][:, road.order])
    plain = conv.replace(inputs=(shift.outputs[0], weight, *conv.inputs[2:]))
    return [*nodes, Node("Concat", parts, shift.outputs, {"axis": 1}, name), plain.with_attributes(strides=(1,) * rank)]
