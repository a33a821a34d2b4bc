"""Activations that an exporter wrote out in small operators, as the one operator that they are.

    x * sigmoid(x)                                  -> silu
    x * clip(x + 3, 0, 6) / 6, x * hard_sigmoid(x)  -> hard_swish       clip(x + 3, 0, 6) / 6 -> hard_sigmoid
    x * (1 + erf(x / sqrt(2))) / 2                  -> gelu             x * tanh(softplus(x)) -> mish

Formulas are compared in a form without order or brackets (`expressions.canonical`), so it does not matter in which order
the factors stand or where the division is. Comes before constants are folded: those are part of the formulas.
"""

from __future__ import annotations

import math
from typing import Any

from ..ir import OWN, Graph, Node, Note
from .expressions import canonical, expression_of, same, size_of, substitute
from .rewrite import Rewriter

__all__ = ["run"]

#: The operators that a written-out activation can end with.
LAST = {"Mul", "Div", "Clip", "Reciprocal", "Min", "Max"}
#: What makes an activation of a line: every formula has one of them.
BENT = {"Sigmoid", "HardSigmoid", "Exp", "Erf", "Tanh", "Softplus", "Clip", "Relu", "Min", "Max", "Elementwise"}
#: The longest formula is that of gelu_tanh, with eight nodes; written out without sharing, it is not much longer.
MOST_NODES, MOST_OPERATORS = 10, 24
GATE = ("tanh", ("mul", math.sqrt(2 / math.pi), ("add", 0, ("mul", 0.044715, ("mul", 0, ("mul", 0, 0))))))
SIGMOID = ("reciprocal", ("add", 1.0, ("exp", ("neg", 0))))
#: formula, what it is
FORMULAS: tuple[tuple[Any, Any], ...] = (
    (("mul", 0, ("sigmoid", 0)), ("silu", 0)),
    (("mul", 0, SIGMOID), ("silu", 0)),
    (SIGMOID, ("sigmoid", 0)),
    (("mul", 0, ("hard_sigmoid", 0, 1 / 6, 0.5)), ("hard_swish", 0)),
    (("hard_sigmoid", 0, 1 / 6, 0.5), ("hard_sigmoid", 0, 1 / 6, 0.5)),
    (("hard_sigmoid", 0, 0.2, 0.5), ("hard_sigmoid", 0, 0.2, 0.5)),
    (("mul", ("mul", 0.5, 0), ("add", 1.0, ("erf", ("mul", 0, math.sqrt(0.5))))), ("gelu", 0)),
    (("mul", ("mul", 0.5, 0), ("add", 1.0, GATE)), ("gelu_tanh", 0)),
    (("mul", 0, ("tanh", ("softplus", 0))), ("mish", 0)),
    (("mul", 0, ("tanh", ("log", ("add", 1.0, ("exp", 0))))), ("mish", 0)),
)
FORMS = tuple((canonical(formula), activation) for formula, activation in FORMULAS)


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with activations as single nodes, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.op in LAST and not node.domain:
            found = _activation(rewriter, node)
            if found is not None:
                source, expression = found
                new = Node("Elementwise", (source,), node.outputs, {"expression": expression}, node.name, OWN)
                rewriter.replace(node, new)
                rewriter.made(node, f"{node.label} ends a written-out {expression[0]} of {source}")
    return rewriter.finish()


def _activation(rewriter: Rewriter, last: Node) -> tuple[str, Any] | None:
    """The value that the node's formula is an activation of, and which one."""
    cone = _cone(rewriter, last)
    if len(cone) < 2 or not any(node.op in BENT for node, *_ in cone.values()):
        return None
    inner = {node.outputs[0] for node, *_ in cone.values()}
    values = dict.fromkeys(name for _, _, names in cone.values() for name in names)
    # The value itself is read in the formula, so what is not written inside of it comes first.
    for source in sorted(values, key=lambda name: name in inner):
        if rewriter.shape(source) != rewriter.shape(last.outputs[0]):
            continue
        formula = _formula(cone, last.outputs[0], {source: 0})
        if formula is not None:
            form = canonical(formula)
            found = next((activation for pattern, activation in FORMS if same(form, pattern)), None)
            if found is not None:
                return source, found
    return None


def _cone(rewriter: Rewriter, last: Node) -> dict[str, tuple[Node, Any, list[str]]]:
    """The element-wise nodes that a node depends on, nearest first, by what they write."""
    cone: dict[str, tuple[Node, Any, list[str]]] = {}
    waiting = [last]
    for node in waiting:
        read = expression_of(rewriter, node) if node.outputs[0] not in cone else None
        if read is not None and len(cone) < MOST_NODES:
            cone[node.outputs[0]] = (node, *read)
            waiting += [found for name in read[1] if (found := rewriter.producer(name)) is not None]
    return cone


def _formula(cone: dict[str, tuple[Node, Any, list[str]]], name: str, known: dict[str, Any]) -> Any:
    """What a value is as a function of those that are `known`; None where something else is in it, or where it is long."""
    if name not in known:
        known[name] = None
        _, expression, names = cone[name] if name in cone else (None, None, list[str]())
        inner = {at: _formula(cone, leaf, known) for at, leaf in enumerate(names)}
        if inner and None not in inner.values():
            whole = substitute(expression, inner)
            known[name] = whole if size_of(whole) <= MOST_OPERATORS else None
    return known[name]
