"""Activations and residual adds into the layer whose sum they are applied to.

    relu(conv(x))           -> Conv activation=relu
    relu(conv(x) + y)       -> Conv activation=relu residual="before", y is input 3
    relu(conv(x)) + y       -> Conv activation=relu residual="after"
    hard_sigmoid(conv(x))   -> Conv with scaled weights, activation=clip 0 1

Conv, ConvTranspose, Gemm and MatMul have such an epilogue (`sevenloops.epilogue`). The layer moves to where the fused node
stood, so the other operand of an add is there before it. An add of two layers goes into the one without an activation,
else into the later one, and never into both. A sum that somebody else reads must be stored, so it takes nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir import Graph, Node, Note
from .expressions import expression_of
from .rewrite import Rewriter
from .weights import Layer

__all__ = ["run"]

Activation = tuple[str, tuple[float, ...]]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with epilogues, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.op == "Gemm" and not node.domain:
            _matrix_as_residual(rewriter, node)
        elif node.op in ("Add", "Sum") and not node.domain and len(node.inputs) == 2:
            _residual(rewriter, node)
        else:
            _activation(rewriter, node)
    return rewriter.finish()


def _is_layer(node: Node | None) -> bool:
    return node is not None and node.op in Layer.OPS and not node.domain


# ---------------------------------------------------------------------------------------------------- activations


def _activation(rewriter: Rewriter, node: Node) -> None:
    layer = rewriter.producer(node.input(0))
    if layer is None or not _is_layer(layer):
        return
    read = expression_of(rewriter, node)
    if read is None or len(read[1]) != 1:
        return
    found = _as_epilogue(read[0])
    if found is None:
        rewriter.missed(node, f"{node.label} stays: {read[0][0]} is not an activation that {layer.label} can end with")
        return
    reason = rewriter.others(node.inputs[0], node)
    if reason is None and layer.get("residual") == "after":
        reason = f"{layer.label} adds {layer.inputs[3]} behind its activation already"
    if reason is None and found[0] == "hard_sigmoid":
        reason = _hard_sigmoid(rewriter, layer, node, *found[1])
        if reason is None:
            return
    before = (layer.get("activation", "none"), layer.get("activation_params", ()))
    whole = _both(before, found)
    if reason is None and whole is None:
        reason = f"{layer.label} has the activation {before[0]} already"
    if reason is not None or whole is None:
        rewriter.missed(node, f"{node.label} stays: {reason}")
        return
    fused = layer.with_attributes(activation=whole[0], activation_params=whole[1])
    fused = fused.replace(outputs=node.outputs, name=layer.label)
    rewriter.replace(node, fused, drop=(layer,))
    rewriter.made(node, f"{node.label} into {layer.label} as {whole[0]}")


def _as_epilogue(expression: Any) -> Activation | None:
    """An expression of one input as a name of `ACTIVATIONS` (or hard_sigmoid) and its numbers."""
    op, *rest = expression
    if rest[0] != 0 or any(isinstance(operand, (int, tuple)) for operand in rest[1:]):
        rest = [rest[1], rest[0]] if op in ("min", "max") and len(rest) == 2 and rest[1] == 0 else []
        if not rest or not isinstance(rest[1], float):
            return None
    parameters = tuple(rest[1:])
    if op in ("relu", "hard_swish", "sigmoid", "silu"):
        return op, ()
    if op in ("leaky_relu", "prelu"):
        return "leaky_relu", parameters
    if op in ("clip", "min", "max"):
        low, high = {"clip": parameters, "min": (-math.inf, *parameters), "max": (*parameters, math.inf)}[op]
        return _interval(low, high)
    return (op, parameters) if op == "hard_sigmoid" and parameters[0] else None


def _interval(low: float, high: float) -> Activation | None:
    if (low, high) == (0, math.inf):
        return "relu", ()
    return ("clip", (low, high)) if low <= high else None


def _both(first: Activation, second: Activation) -> Activation | None:
    """Two activations as one, where they are one."""
    if first[0] == "none":
        return second
    pair = [(0.0, math.inf) if name == "relu" else numbers for name, numbers in (first, second)]
    if not all(name in ("relu", "clip") for name, _ in (first, second)):
        return None
    inner, (low, high) = pair
    return _interval(*(min(max(bound, low), high) for bound in inner))


def _hard_sigmoid(rewriter: Rewriter, node: Node, last: Node, alpha: float, beta: float) -> str | None:
    """`clip(alpha * (Wx + b) + beta, 0, 1)`: the line goes into the weights. None when done, else why not."""
    if not Layer.is_one(node):
        return f"{node.label} has an epilogue already"
    layer = Layer(rewriter, node)
    factor, addend = np.array(alpha), np.array(beta)
    reason = layer.refuses_after(factor, addend)
    if reason is not None:
        return f"of {node.label}, {reason}"
    layer.take_after(factor, addend)
    layer.node = node.with_attributes(activation="clip", activation_params=(0.0, 1.0))
    layer.node = layer.node.replace(outputs=last.outputs, name=node.label)
    rewriter.replace(last, layer.node, drop=(node,))
    layer.write()
    rewriter.made(last, f"{last.label} into {node.label} as a line and a clip")
    return None


# ------------------------------------------------------------------------------------------------------- residuals


def _residual(rewriter: Rewriter, node: Node) -> None:
    names, output = node.inputs, node.outputs[0]
    found = [(name, layer) for name in names if (layer := rewriter.producer(name)) is not None and _is_layer(layer)]
    if not found:
        return
    reason: str | None = None
    if names[0] == names[1]:
        reason = "it doubles one value"
    elif any(name in rewriter.constants for name in names):
        reason = "the constant is not one a channel"
    elif any(rewriter.shape(name) != rewriter.shape(output) or rewriter.shape(name) is None for name in names):
        reason = "it broadcasts"
    elif rewriter.dtype(output) != "float32":
        reason = f"it adds {rewriter.dtype(output)}"
    if reason is not None:
        rewriter.missed(node, f"{node.label} stays: {reason}")
        return
    reasons = {name: rewriter.others(name, node) or _full(layer) for name, layer in found}
    free = [(name, layer) for name, layer in found if reasons[name] is None]
    if not free:
        rewriter.missed(node, f"{node.label} stays: {'; '.join(reason for reason in reasons.values() if reason)}")
        return
    name, layer = max(free, key=lambda pair: ("activation" not in pair[1].attributes, rewriter.place(pair[1])))
    other = names[1] if name == names[0] else names[0]
    where = "after" if "activation" in layer.attributes else "before"
    inputs = (*layer.inputs, *[""] * (3 - len(layer.inputs)), other)
    fused = layer.with_attributes(residual=where).replace(inputs=inputs, outputs=node.outputs, name=layer.label)
    rewriter.replace(node, fused, drop=(layer,))
    rewriter.made(node, f"{node.label} into {layer.label}, which adds {other} {where} the activation")


def _full(layer: Node) -> str | None:
    return f"{layer.label} adds {layer.inputs[3]} already" if layer.get("residual") else None


def _matrix_as_residual(rewriter: Rewriter, node: Node) -> None:
    """`Gemm(a, b, c)` with a matrix `c` that is computed, not a bias."""
    c, shape = node.input(2), rewriter.shape(node.outputs[0])
    if not c or c in rewriter.constants or rewriter.shape(c) != shape or node.get("residual") or node.get("beta", 1.0) != 1:
        return
    fused = node.with_attributes(residual="before").replace(inputs=(*node.inputs[:2], "", c))
    rewriter.replace(node, fused)
    rewriter.made(node, f"{node.label} adds {c} as a residual")
