"""A graph of ATen operators cut into parts: those that sevenloops computes, and what is left to PyTorch between them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import SevenLoopsError
from ..graph.ir import Graph
from ..graph.lower import lower
from ..graph.lowering import PythonStep
from ..graph.passes import optimise
from ..graph.shapes import infer
from .backend_aten import MOVES, reason_against, translate
from .backend_run import Part, order_of
from .backend_translation import Translation, shape_of

__all__ = ["Leftover", "cut"]

Array = np.ndarray[Any, Any]
#: What is no operator in an FX graph.
EDGES = ("placeholder", "output", "get_attr")


@dataclass(frozen=True)
class Leftover:
    """An operator that is left to PyTorch: ATen's name for it, the FX node's name, and why."""

    op: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} ({self.name}): {self.reason}"


def cut(module: Any, static: Sequence[int], options: Mapping[str, Any]) -> tuple[Any, list[Part], list[Leftover]]:
    """The graph module as calls of parts, its parts that are computed here, and what is left to PyTorch between them.

    `static` are the indices of the placeholders that are parameters and buffers. `options` go to `InferenceSession`.
    """
    nodes = [node for node in module.graph.nodes if node.op not in EDGES]
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    weights = {placeholders[at] for at in static} | set(module.graph.find_nodes(op="get_attr"))
    left = {node: reason for node in nodes if (reason := _reason(node))}
    while found := _not_lowered(_by_level(nodes, left, weights), weights):
        left.update(found)
    leftovers = [Leftover(_op(node), node.name, reason) for node, reason in left.items() if _counts(node)]
    return *_assembled(module, _by_level(nodes, left, weights), weights, options), leftovers


def _reason(node: Any) -> str:
    return reason_against(node) if node.op == "call_function" else f"it is a {node.op}"


def _op(node: Any) -> str:
    return str(node.target).removesuffix(".default")


def _counts(node: Any) -> bool:
    """Whether a node is an operator on tensors, and not one element of the tuple that another one made."""
    return node.target is not operator.getitem and isinstance(node.meta.get("val"), (torch.Tensor, tuple, list))


def _by_level(nodes: Sequence[Any], left: Mapping[Any, str], weights: set[Any]) -> dict[int, list[Any]]:
    """Nodes that run one after the other, in parts with the number of their turn: odd ones are computed here.

    A node has the number of the last of its inputs, or the next one where that is of the other kind. What depends on weights
    alone belongs to every part that reads it, so that it is computed once, as the weights are packed.
    """
    fixed: set[Any] = set()
    levels: dict[Any, int] = {}
    for node in nodes:
        if node not in left and all(value in weights or value in fixed for value in node.all_input_nodes):
            fixed.add(node)
            continue
        kind = 0 if node in left else 1
        before = max((levels[value] for value in node.all_input_nodes if value in levels), default=kind)
        levels[node] = before + (before + kind) % 2
    found: dict[int, list[Any]] = {0: []}
    for node, level in levels.items():
        found.setdefault(level, []).append(node)
    outside = [node for node in fixed if any(user.op == "output" for user in node.users)]
    found[0] = [*outside, *found[0]]
    eager = [node for level, part in found.items() if level % 2 == 0 for node in part]
    found[0] = [node for node in _with_fixed(eager, fixed, nodes) if node in fixed or levels[node] == 0]
    return {level: part if not level % 2 else _with_fixed(part, fixed, nodes) for level, part in sorted(found.items())}


def _with_fixed(part: Sequence[Any], fixed: set[Any], nodes: Sequence[Any]) -> list[Any]:
    """Nodes, and those of `fixed` that they depend on, in their order."""
    wanted, waiting = set(part), list(part)
    while waiting:
        new = [value for value in waiting.pop().all_input_nodes if value in fixed and value not in wanted]
        wanted.update(new)
        waiting += new
    return [node for node in nodes if node in wanted]


def _inputs(nodes: Sequence[Any]) -> list[Any]:
    inside = set(nodes)
    return [v for v in dict.fromkeys(value for node in nodes for value in node.all_input_nodes) if v not in inside]


def _outputs(nodes: Sequence[Any], weights: set[Any]) -> list[Any]:
    """What is read outside of a part; of tuples that is their elements, which are nodes of the same part.

    What depends on weights alone is in every part that reads it.
    """
    inside, fixed, found = set(nodes), set(weights), list[Any]()
    for node in nodes:
        if all(value in fixed for value in node.all_input_nodes):
            fixed.add(node)
        elif any(user not in inside for user in node.users):
            found.append(node)
    return found


def _graph(nodes: Sequence[Any], outputs: Sequence[Any], constants: Mapping[Any, Array]) -> Graph:
    """The graph of a part: inputs `in{i}` and outputs `out{i}` have their axes in the order of PyTorch's memory."""
    translation = Translation("part")
    for at, value in enumerate(_inputs(nodes)):
        if value in constants:
            translation.constant(value, constants[value])
        else:
            translation.input(value, f"in{at}", order_of(value.meta["val"]))
    for node in nodes:
        translate(translation, node)
    return translation.graph([(node, order_of(node.meta["val"])) for node in outputs])


def _not_lowered(by_level: Mapping[int, Sequence[Any]], weights: set[Any]) -> dict[Any, str]:
    """Nodes of our parts that turn out not to be compiled, with the reasons."""
    found: dict[Any, str] = {}
    for level, nodes in by_level.items():
        if level % 2:
            if all(node.target in MOVES or node.target is operator.getitem for node in nodes):
                found.update(dict.fromkeys(nodes, "nothing beside it is computed by sevenloops"))
            else:
                found.update(_refused(nodes, weights))
    items = {user: reason for node, reason in found.items() for user in node.users if user.target is operator.getitem}
    sources = {node.args[0]: reason for node, reason in found.items() if node.target is operator.getitem}
    return {**found, **items, **sources}


def _refused(nodes: Sequence[Any], weights: set[Any]) -> dict[Any, str]:
    """What of a part would run in Python, or has another size than PyTorch says. Nothing is compiled to find that out."""
    unknown = {v: np.broadcast_to(np.float32(np.nan), shape_of(v)) for v in _inputs(nodes) if v in weights}
    try:
        sized = infer(_graph(nodes, _outputs(nodes, weights), unknown))
        steps = lower(sized, optimise).steps
    except SevenLoopsError as error:
        return dict.fromkeys(nodes, f"the part that it is in is not compiled: {error}")
    by_name = {node.name: node for node in nodes}
    found: dict[Any, str] = {}
    for step in steps:
        if isinstance(step, PythonStep) and step.reason:
            node = by_name.get(step.label.split(" ")[0])
            found.update({node: step.reason} if node else dict.fromkeys(nodes, f"{step.label}: {step.reason}"))
    for name in by_name.keys() & sized.values.keys():
        value, wanted = sized.values[name], by_name[name].meta["val"]
        if isinstance(wanted, torch.Tensor) and value.sizes != tuple(wanted.shape):
            found[by_name[name]] = f"its result would be {value.sizes}, and PyTorch's is {tuple(wanted.shape)}"
    return found


def _assembled(
    module: Any, by_level: Mapping[int, Sequence[Any]], weights: set[Any], options: Mapping[str, Any]
) -> tuple[Any, list[Part]]:
    """A module that runs the parts in their order: ours as one call each, the others node by node."""
    graph, new = torch.fx.Graph(), dict[Any, Any]()
    attributes: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            new[node] = graph.node_copy(node)
        if node.op == "get_attr":
            attributes[node.target] = operator.attrgetter(node.target)(module)
    parts = []
    for level, nodes in by_level.items():
        if level % 2 == 0:
            for node in nodes:
                new[node] = graph.node_copy(node, new.__getitem__)
            continue
        inputs, outputs = _inputs(nodes), _outputs(nodes, weights)
        part = Part(
            _maker(nodes, outputs, [value for value in inputs if value in weights]),
            [None if value in weights else value.meta["val"] for value in inputs],
            [node.meta["val"] for node in outputs],
            options,
        )
        parts.append(part)
        attributes[f"part{level}"] = part
        call = graph.call_module(f"part{level}", tuple(new[value] for value in inputs))
        new.update((node, graph.call_function(operator.getitem, (call, at))) for at, node in enumerate(outputs))
    graph.node_copy(module.graph.output_node(), new.__getitem__)
    return torch.fx.GraphModule(attributes, graph), parts


def _maker(nodes: Sequence[Any], outputs: Sequence[Any], weights: Sequence[Any]) -> Callable[[Sequence[Array]], Graph]:
    return lambda arrays: _graph(nodes, outputs, dict(zip(weights, arrays)))
