"""What is left of element-wise operators becomes expressions, and neighbours one expression.

    sigmoid(a) * b + c    three nodes -> Elementwise ("add", ("mul", ("sigmoid", 0), 1), 2)

A Sum, Mean, Min or Max of many values becomes a tree first.
A node goes into its reader where nobody else reads it and both have the same size: the value between them is then never
stored. A smaller one stays apart, as the gate of a squeeze-and-excite block would be computed again for every pixel; only
up to two operators that cost no more than a load are repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir import OWN, Graph, Node, Note
from .expressions import CHEAP, MAX_INPUTS, VARIADIC, expression_of, size_of, substitute
from .rewrite import Rewriter

__all__ = ["MAX_INPUTS", "MAX_OPERATORS", "run"]

#: A kernel of more operators than this gains nothing and compiles slowly.
MAX_OPERATORS, MAX_REPEATED = 48, 2
#: Operators in all the different expressions of a graph; each takes some milliseconds to compile. A graph with more of them
#: is fused no further: single operators share their kernels.
MAX_DIFFERENT = 1000


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with element-wise operators as expressions, and notes."""
    rewriter = Rewriter(graph)
    kernels = _Kernels(rewriter)
    for node in rewriter:
        for part in _parts(rewriter, node):
            read = expression_of(rewriter, part)
            if read is None or read[0] is None:
                continue
            new = part
            if part.domain != OWN:
                new = Node("Elementwise", tuple(read[1]), part.outputs, {"expression": read[0]}, part.name, OWN)
                rewriter.replace(part, new)
            kernels.count(new, 1)
            _absorb(rewriter, kernels, new)
    return rewriter.finish()


class _Kernels:
    """What there is to compile: the different expressions, how many nodes have each, and their operators in all."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.operators = 0
        self._shape = rewriter.shape
        self._nodes: Counter[str] = Counter()

    def count(self, node: Node, change: int) -> None:
        """Add a node, or take it away by -1."""
        key = self._key(node)
        before = self._nodes[key] > 0
        self._nodes[key] += change
        self.operators += size_of(node.get("expression")) * ((self._nodes[key] > 0) - before)

    def has(self, node: Node) -> bool:
        """Whether another node is alike."""
        return self._nodes[self._key(node)] > 0

    def _key(self, node: Node) -> str:
        return f"{node.get('expression')!r} {self._shape(node.outputs[0])}"


def _parts(rewriter: Rewriter, node: Node) -> list[Node]:
    """The node, or in its place nodes of at most `MAX_INPUTS` inputs that come to the same."""
    output, count = node.outputs[0], len(node.inputs)
    wide = node.op in VARIADIC and not node.domain and count > MAX_INPUTS
    if not wide or rewriter.dtype(output) != "float32" or any(rewriter.shape(name) is None for name in node.inputs):
        return [node]
    if node.op == "Mean":
        total = rewriter.declare(f"{output}_sum", rewriter.shape(output))
        share = rewriter.add_constant(f"{output}_share", np.array(1 / count, np.float32))
        parts = [*_tree(rewriter, "Sum", node.inputs, total), Node("Mul", (total, share), (output,), {}, node.name)]
    else:
        parts = _tree(rewriter, node.op, node.inputs, output)
    rewriter.replace(node, *parts)
    rewriter.made(node, f"{node.label} of {count} values is a tree of {len(parts)} operators")
    return parts


def _tree(rewriter: Rewriter, op: str, inputs: Sequence[str], output: str) -> list[Node]:
    """A Sum (Min, Max) as a tree. Branch by branch, so that few partial results are needed at a time."""
    size, parts, roots = 1, list[Node](), list[str]()
    while size * MAX_INPUTS < len(inputs):
        size *= MAX_INPUTS
    for at in range(0, len(inputs), size):
        branch = inputs[at : at + size]
        if len(branch) > 1:
            shape = np.broadcast_shapes(*(rewriter.shape(name) or () for name in branch))
            root = rewriter.declare(f"{output}_{at // size}", shape)
            parts += _tree(rewriter, op, branch, root)
            branch = (root,)
        roots += branch
    return [*parts, Node(op, tuple(roots), (output,), {}, output)]


def _absorb(rewriter: Rewriter, kernels: _Kernels, node: Node) -> None:
    """Put the expressions that a node alone reads into it, for as long as there are any."""
    refused: dict[str, tuple[Node, str]] = {}
    taken: list[str] = []
    waiting = list(node.inputs)
    while waiting:
        name = waiting.pop()
        first = rewriter.producer(name)
        if first is None or name in refused or (first.op, first.domain) != ("Elementwise", OWN):
            continue
        merged, reason = None, rewriter.others(name, node)
        if reason is None:
            merged = _merged(node, first)
            reason = _refusal(rewriter, kernels, node, first, merged)
        if reason is not None or merged is None:
            refused[name] = first, f"{first.label} stays apart from {node.label}: {reason}"
            continue
        for each, change in ((first, -1), (node, -1), (merged, 1)):
            kernels.count(each, change)
        rewriter.replace(node, merged, drop=(first,))
        node = merged
        taken.append(first.label)
        waiting = list(node.inputs)
        refused = {}  # a value that two operators of the expression read has one reader now
    for left in refused.values():
        rewriter.missed(*left)
    if taken:
        rewriter.made(node, f"{', '.join(reversed(taken))} and {node.label} are one expression of {len(node.inputs)} inputs")


def _merged(node: Node, first: Node) -> Node:
    """The node with the expression of `first` in place of its value; every input once."""
    names = [name for name in node.inputs if name != first.outputs[0]]
    names = list(dict.fromkeys([*names, *first.inputs]))
    place: dict[str, Any] = {name: at for at, name in enumerate(names)}
    inner = substitute(first.get("expression"), {at: place[name] for at, name in enumerate(first.inputs)})
    place[first.outputs[0]] = inner
    expression = substitute(node.get("expression"), {at: place[name] for at, name in enumerate(node.inputs)})
    return node.replace(inputs=tuple(names), attributes={"expression": expression})


def _refusal(rewriter: Rewriter, kernels: _Kernels, node: Node, first: Node, merged: Node) -> str | None:
    if len(merged.inputs) > MAX_INPUTS:
        return f"together they have {len(merged.inputs)} inputs, and {MAX_INPUTS} is the limit"
    operators = size_of(merged.get("expression"))
    if operators > MAX_OPERATORS:
        return f"together they have {operators} operators, and {MAX_OPERATORS} is the limit"
    if kernels.operators > MAX_DIFFERENT and not kernels.has(merged):
        return f"the graph's different expressions have more than {MAX_DIFFERENT} operators, and each takes time to compile"
    small, large = rewriter.shape(first.outputs[0]), rewriter.shape(node.outputs[0])
    if small is None or large is None:
        return "their sizes are not known"
    if small != large and not _repeatable(first.get("expression")):
        return f"it has size {small} and would be computed again for every element of {large}"
    return None


def _repeatable(expression: Any) -> bool:
    return size_of(expression) <= MAX_REPEATED and _operators(expression) <= CHEAP


def _operators(expression: Any) -> set[str]:
    if not isinstance(expression, tuple):
        return set()
    return {expression[0]}.union(*map(_operators, expression[1:]))
