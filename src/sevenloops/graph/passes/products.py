"""Products of a matrix with constant weights, in one form.

    MatMul(x, W), x a matrix                       -> Gemm
    Gemm(alpha, x, W, beta, c), W and c constant   -> Gemm, W stored (N, K) (transB = 1), alpha = beta = 1

The transposed weights are a view; what packs them makes the copy. A bias that is added behind the product becomes `c` when
constants are folded.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Note
from .rewrite import Rewriter
from .weights import per_channel

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with products as Gemm, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.domain or "residual" in node.attributes:
            continue
        if node.op == "MatMul" and len(node.inputs) == 2:
            _matmul(rewriter, node)
        elif node.op == "Gemm":
            _gemm(rewriter, node)
    return rewriter.finish()


def _matmul(rewriter: Rewriter, node: Node) -> None:
    weight, shape = rewriter.constant(node.inputs[1]), rewriter.shape(node.inputs[0])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or shape is None:
        return
    if len(shape) != 2:
        rewriter.missed(node, f"{node.label} stays MatMul: its input has shape {shape}, and Gemm takes matrices")
        return
    gemm = Node("Gemm", node.inputs, node.outputs, {}, node.name)
    rewriter.replace(node, gemm)
    rewriter.made(node, f"{node.label} is a Gemm")
    _gemm(rewriter, gemm)


def _gemm(rewriter: Rewriter, node: Node) -> None:
    weight, name, attributes = rewriter.constant(node.inputs[1]), node.label, dict(node.attributes)
    inputs = list(node.inputs)
    if weight is None or weight.dtype != np.float32:
        return
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    transposed = bool(node.get("transB", 0))
    if not transposed or alpha != 1:
        view = weight if transposed else weight.T
        scaled = view if alpha == 1 else (view * np.float64(alpha)).astype(np.float32)
        inputs[1] = rewriter.add_constant(f"{name}_weight", scaled)
        attributes |= {"transB": 1, "alpha": 1.0}
        rewriter.made(node, f"{name} has its weights as (N, K)" + (f", times {alpha}" if alpha != 1 else ""))
    n = weight.shape[0 if transposed else 1]
    c = rewriter.constant(node.input(2))
    bias = per_channel(c, -1, max(c.ndim, 1), n) if c is not None else None
    if c is not None and bias is not None and (c.shape != (n,) or beta != 1):
        inputs[2] = rewriter.add_constant(f"{name}_bias", (bias * np.float64(beta)).astype(np.float32))
        attributes |= {"beta": 1.0}
    if tuple(inputs) != node.inputs:
        rewriter.replace(node, node.replace(inputs=tuple(inputs), attributes=attributes))
