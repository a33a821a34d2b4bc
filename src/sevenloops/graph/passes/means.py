"""Averages of whole images, as one operator.

GlobalAveragePool, AveragePool over the whole image, ReduceMean over the spatial axes -> ReduceMean, axes (2, 3, ...)
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Note
from .rewrite import Rewriter

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with these as ReduceMean of opset 18 and later, whose axes are an input, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        shape = None if node.domain else rewriter.shape(node.input(0))
        if shape is None:
            continue
        if node.op == "GlobalAveragePool" or (node.op == "AveragePool" and _is_whole(rewriter, node, shape)):
            _write(rewriter, node, tuple(range(2, len(shape))), keep=True)
        elif node.op == "ReduceMean":
            _sorted(rewriter, node, len(shape))
    return rewriter.finish()


def _write(rewriter: Rewriter, node: Node, axes: tuple[int, ...], *, keep: bool) -> None:
    name = rewriter.add_constant(f"{node.label}_axes", np.array(axes, np.int64))
    rewriter.replace(node, Node("ReduceMean", (node.inputs[0], name), node.outputs, {"keepdims": int(keep)}, node.name))
    rewriter.made(node, f"{node.label} is the mean of axes {axes}")


def _is_whole(rewriter: Rewriter, node: Node, shape: tuple[int, ...]) -> bool:
    """One window that is the image."""
    out = rewriter.shape(node.outputs[0])
    if out is None or any(size != 1 for size in out[2:]) or any(node.get("pads", ())):
        return False
    dense = all(d == 1 or size == 1 for d, size in zip(node.get("dilations") or (1,) * len(shape), shape[2:]))
    if tuple(node.get("kernel_shape")) != shape[2:] or not dense:
        rewriter.missed(node, f"{node.label} stays: its one window is not the whole image")
        return False
    return True


def _sorted(rewriter: Rewriter, node: Node, rank: int) -> None:
    """Spatial axes counted from the front, in order."""
    array = rewriter.constant(node.input(1))
    if array is None:
        return
    found = tuple(int(axis) for axis in array.reshape(-1))
    axes = tuple(sorted(axis % rank for axis in found))
    if axes == tuple(range(2, rank)) and axes != found and axes:
        _write(rewriter, node, axes, keep=bool(node.get("keepdims", 1)))
