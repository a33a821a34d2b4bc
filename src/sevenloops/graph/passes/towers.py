"""A grouped convolution written as one convolution for each group of channels.

    Concat(conv1(x[:, :c]), conv2(x[:, c:]))              -> one Conv with group = 2
    Concat(relu(conv1(x[:, :c])), relu(conv2(x[:, c:])))  -> the same, then one relu

The slices are outputs of one Split or Slices that together are all of x in order (AlexNet's towers in some exports).
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Note
from .expressions import expression_of
from .rewrite import Rewriter
from .slices import Cut, cuts

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with towers as groups, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.op == "Concat" and not node.domain and len(node.inputs) > 1:
            _join(rewriter, node)
    return rewriter.finish()


def _join(rewriter: Rewriter, node: Node) -> None:
    shape = rewriter.shape(node.outputs[0])
    if shape is None or int(node.get("axis", 0)) % len(shape) != 1:
        return
    towers = [_tower(rewriter, name) for name in node.inputs]
    convs = [tower[-1] for tower in towers if tower]
    if len(convs) < len(towers):
        return
    candidates = list(cuts(rewriter, tuple(conv.inputs[0] for conv in convs)))
    if not candidates:
        return
    labels = ", ".join(conv.label for conv in convs)
    reasons = [_differ(rewriter, node, towers) or _not_all(rewriter, found) for found in candidates]
    if None not in reasons:
        rewriter.missed(node, f"{labels} stay apart before {node.label}: {reasons[0]}")
        return
    _write(rewriter, node, towers, candidates[reasons.index(None)][0].source)
    rewriter.made(node, f"{labels} are one convolution in groups")


def _tower(rewriter: Rewriter, name: str) -> list[Node]:
    """The activations before a value, last first, then their Conv; empty where something else is there."""
    found: list[Node] = []
    while True:
        node = rewriter.producer(name)
        if node is None or rewriter.only_reader(name) is None or node.domain:
            return []
        found.append(node)
        if node.op == "Conv":
            return found
        read = expression_of(rewriter, node)
        if read is None or read[1] != [node.inputs[0]]:
            return []
        name = node.inputs[0]


def _differ(rewriter: Rewriter, concat: Node, towers: list[list[Node]]) -> str | None:
    if len(set(concat.inputs)) < len(concat.inputs):
        return "one of them is read twice"
    first = towers[0]
    for tower in towers:
        same = [node.op for node in tower] == [node.op for node in first] and all(
            node.attributes == other.attributes and _expression(rewriter, node) == _expression(rewriter, other)
            for node, other in zip(tower, first)
        )
        weight, other = rewriter.constant(tower[-1].inputs[1]), rewriter.constant(first[-1].inputs[1])
        if weight is None or other is None or (tower[-1].input(2) and rewriter.constant(tower[-1].input(2)) is None):
            return "their weights are not constants"
        if not same or weight.shape != other.shape or len(tower[-1].inputs) > 3:
            return "they are not alike"
    return None


def _expression(rewriter: Rewriter, node: Node) -> object:
    read = expression_of(rewriter, node)
    return None if read is None else repr(read[0])  # as which 0, the value, is not 0.0


def _not_all(rewriter: Rewriter, found: list[Cut]) -> str | None:
    source = found[0].source
    whole = rewriter.shape(source) or ()
    if not np.array_equal(np.concatenate([cut.axes[1] for cut in found]), np.arange(whole[1])):
        return f"their inputs are not all channels of {source} in order"
    for at in (axis for axis in range(len(whole)) if axis != 1):
        if any(not np.array_equal(cut.axes[at], np.arange(whole[at])) for cut in found):
            return f"their inputs are not whole images of {source}"
    return None


def _write(rewriter: Rewriter, concat: Node, towers: list[list[Node]], source: str) -> None:
    """One Conv and the activations behind it, in place of the concatenation."""
    convs = [tower[-1] for tower in towers]
    weights = [rewriter.constants[conv.inputs[1]] for conv in convs]
    inputs = [source, rewriter.add_constant(f"{concat.label}_weight", np.concatenate(weights))]
    biases = [rewriter.constant(conv.input(2)) if conv.input(2) else None for conv in convs]
    if any(bias is not None for bias in biases):
        full = [np.zeros(len(w), w.dtype) if bias is None else bias for w, bias in zip(weights, biases)]
        inputs.append(rewriter.add_constant(f"{concat.label}_bias", np.concatenate(full)))
    shape = rewriter.shape(concat.outputs[0])
    *activations, conv = towers[0]
    new = [conv.replace(inputs=tuple(inputs)).with_attributes(group=len(convs) * int(conv.get("group", 1)))]
    new += [activation.replace(inputs=activation.inputs) for activation in reversed(activations)]
    for at, node in enumerate(new):
        name = concat.outputs[0] if node is new[-1] else rewriter.declare(f"{concat.label}_{at}", shape)
        new[at] = node.replace(outputs=(name,), inputs=node.inputs if not at else (new[at - 1].outputs[0], *node.inputs[1:]))
    rewriter.replace(concat, *new, drop=[node for tower in towers for node in tower])
