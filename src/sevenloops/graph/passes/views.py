"""Operators that only rename axes or move elements, merged.

    Reshape, Flatten, Squeeze, Unsqueeze in a row   -> one Reshape, Flatten, or nothing
    Transpose of Transpose                          -> one Transpose, or nothing
    Transpose that only moves axes of size one      -> Reshape
    Concat of Concat along the same axis            -> one Concat

What makes a matrix of one row an image is always called Flatten: the lowering of Gemm reads such images as they lie.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir import Graph, Node, Note
from .rewrite import Rewriter

__all__ = ["run"]

RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
#: Inputs of one concatenation at most.
MAX_PARTS = 64


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with fewer of them, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.domain or len(node.outputs) != 1:
            continue
        if node.op == "Transpose":
            _transpose(rewriter, node)
        elif node.op in RESHAPES:
            _reshape(rewriter, node)
        elif node.op == "Concat":
            _concat(rewriter, node)
    return rewriter.finish()


def _away(rewriter: Rewriter, node: Node, why: str) -> None:
    if rewriter.bypass(node):
        rewriter.made(node, f"{node.label} is gone: {why}")
    else:
        rewriter.missed(node, f"{node.label} stays, as the graph hands out both its ends: {why}")


def _transpose(rewriter: Rewriter, node: Node) -> None:
    shape = rewriter.shape(node.inputs[0])
    if shape is None:
        return
    perm = tuple(int(axis) for axis in node.get("perm") or reversed(range(len(shape))))
    source, first = node.inputs[0], rewriter.producer(node.inputs[0])
    if first is not None and (first.op, first.domain) == ("Transpose", ""):
        inner = tuple(int(axis) for axis in first.get("perm") or reversed(range(len(shape))))
        source, perm = first.inputs[0], tuple(inner[axis] for axis in perm)
        new = node.replace(inputs=(source,)).with_attributes(perm=perm)
        rewriter.replace(node, new)
        rewriter.made(node, f"{node.label} and {first.label} before it are one transpose")
        node, shape = new, rewriter.shape(source)
    if perm == tuple(range(len(perm))):
        _away(rewriter, node, "it moves no axis")
    elif shape is not None and [axis for axis in perm if shape[axis] != 1] == [
        a for a, size in enumerate(shape) if size != 1
    ]:
        rewriter.made(node, f"{node.label} is a reshape: the axes that it moves have size one")
        _reshape(rewriter, node)


def _reshape(rewriter: Rewriter, node: Node) -> None:
    """One node for all reshapes up to here. Those before that others read stay for them."""
    shape = rewriter.shape(node.outputs[0])
    source, merged = node.inputs[0], list[str]()
    first = rewriter.producer(source)
    if first is not None and not first.domain and first.op in RESHAPES:
        source = first.inputs[0]
        merged.append(first.label)
    before = rewriter.shape(source)
    if shape is None or before is None:
        return
    if merged:
        rewriter.made(node, f"{merged[0]} and {node.label} are one reshape")
    new = _canonical(rewriter, node, source, before, shape, keep=not merged and node.op != "Transpose")
    if new is not node:
        rewriter.replace(node, new)
    if before == shape:
        _away(rewriter, new, "it changes no size")


def _canonical(
    rewriter: Rewriter, node: Node, source: str, before: tuple[int, ...], shape: tuple[int, ...], *, keep: bool
) -> Node:
    """`Flatten` where that is what happens, the node itself where it may stay, else `Reshape`."""
    if len(before) > 2 and 0 not in before and shape == (before[0], math.prod(before[1:])):
        if keep and node.op == "Flatten":
            return node
        return Node("Flatten", (source,), node.outputs, {"axis": 1}, node.name)
    if keep:
        return node
    sizes = rewriter.add_constant(f"{node.outputs[0]}_shape", np.array(shape, np.int64))
    return Node("Reshape", (source, sizes), node.outputs, {"allowzero": 1} if 0 in shape else {}, node.name)


def _concat(rewriter: Rewriter, node: Node) -> None:
    shape = rewriter.shape(node.outputs[0])
    if shape is None:
        return
    axis, parts, merged = int(node.get("axis", 0)) % len(shape), list[str](), list[Node]()
    for name in node.inputs:
        first = rewriter.producer(name)
        inner = first is not None and (first.op, first.domain) == ("Concat", "")
        if first is None or not inner or int(first.get("axis", 0)) % len(shape) != axis:
            parts.append(name)
        elif (reason := rewriter.others(name, node)) is not None or node.inputs.count(name) > 1:
            rewriter.missed(first, f"{first.label} stays apart from {node.label}: {reason or 'it is read twice'}")
            parts.append(name)
        else:
            parts += first.inputs
            merged.append(first)
    if merged and len(parts) <= MAX_PARTS:
        rewriter.replace(node, node.replace(inputs=tuple(parts)), drop=merged)
        rewriter.made(node, f"{', '.join(first.label for first in merged)} into {node.label}")
