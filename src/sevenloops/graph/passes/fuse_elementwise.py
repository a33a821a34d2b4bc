"""What is left of element-wise operators becomes expressions, and neighbours one expression.

    sigmoid(a) * b + c    three nodes -> Elementwise ("add", ("mul", ("sigmoid", 0), 1), 2)

A node goes into its reader where nobody else reads it and both have the same size: the value between them is then never
stored. A smaller one stays apart, as the gate of a squeeze-and-excite block would be computed again for every pixel; only
up to two operators that cost no more than a load are repeated.
"""

from __future__ import annotations

from typing import Any

from ..ir import OWN, Graph, Node, Note
from .expressions import CHEAP, expression_of, size_of, substitute
from .rewrite import Rewriter

__all__ = ["MAX_INPUTS", "MAX_OPERATORS", "run"]

#: A kernel of more streams than this gains nothing, and one of more operators compiles slowly.
MAX_INPUTS, MAX_OPERATORS, MAX_REPEATED = 8, 48, 2


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with element-wise operators as expressions, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        read = expression_of(rewriter, node)
        if read is None or read[0] is None:
            continue
        new = node
        if node.domain != OWN:
            new = Node("Elementwise", tuple(read[1]), node.outputs, {"expression": read[0]}, node.name, OWN)
            rewriter.replace(node, new)
        _absorb(rewriter, new)
    return rewriter.finish()


def _absorb(rewriter: Rewriter, node: Node) -> None:
    """Put the expressions that a node alone reads into it, for as long as there are any."""
    refused: dict[str, tuple[Node, str]] = {}
    taken: list[str] = []
    waiting = list(node.inputs)
    while waiting:
        name = waiting.pop()
        first = rewriter.producer(name)
        if first is None or name in refused or (first.op, first.domain) != ("Elementwise", OWN):
            continue
        merged = _merged(node, first)
        reason = rewriter.others(name, node) or _refusal(rewriter, node, first, merged)
        if reason is not None:
            refused[name] = first, f"{first.label} stays apart from {node.label}: {reason}"
            continue
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


def _refusal(rewriter: Rewriter, node: Node, first: Node, merged: Node) -> str | None:
    if len(merged.inputs) > MAX_INPUTS:
        return f"together they have {len(merged.inputs)} inputs, and {MAX_INPUTS} is the limit"
    operators = size_of(merged.get("expression"))
    if operators > MAX_OPERATORS:
        return f"together they have {operators} operators, and {MAX_OPERATORS} is the limit"
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
