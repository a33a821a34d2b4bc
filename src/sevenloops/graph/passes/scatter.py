"""ScatterND into a block: what a slice assignment becomes in ONNX, as Concat of what it leaves and what it puts in.

    x[:, 1:, :8] = u      ScatterND(x, indices, u) -> Concat(x[:, :1], Concat(u, x[:, 1:, 8:], axis 2), axis 1)

The indices are constants once sizes are known. Networks that shift channels in time are written so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ir import Graph, Node, Note
from .rewrite import Array, Rewriter

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with slices in place of ScatterND, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if (node.op, node.domain) == ("ScatterND", "") and node.proto is None:
            _assign(rewriter, node)
    return rewriter.finish()


def _assign(rewriter: Rewriter, node: Node) -> None:
    data, indices, updates = node.inputs
    shape, places = rewriter.shape(data), rewriter.constant(indices)
    if shape is None or 0 in shape or rewriter.dtype(data) != "float32":
        return
    block = None if places is None or node.get("reduction", "none") != "none" else _block(places, shape)
    if block is None:
        rewriter.missed(node, f"{node.label} stays: its indices are no constant block")
        return
    low, high = block
    inner = tuple(b - a for a, b in zip(low, high)) + shape[len(low) :]
    new: list[Node] = []
    value = _reshaped(rewriter, node, updates, inner, new)
    for axis in reversed(range(len(low))):
        if low[axis] == 0 and high[axis] == shape[axis]:
            continue
        around = [(0, low[axis]), (high[axis], shape[axis])]
        sides = [
            _region(rewriter, node, data, (*zip(low[:axis], high[:axis]), side), new) if side[0] < side[1] else ""
            for side in around
        ]
        inner = (*inner[:axis], shape[axis], *inner[axis + 1 :])
        parts = tuple(name for name in (sides[0], value, sides[1]) if name)
        value = rewriter.declare(f"{node.label}.axis{axis}", inner)
        new.append(Node("Concat", parts, (value,), {"axis": axis}, f"{node.label}.axis{axis}"))
    if not new or new[-1].outputs != (value,):
        new.append(Node("Identity", (value,), node.outputs, {}, node.label))
    new[-1] = new[-1].replace(outputs=node.outputs, name=node.label)
    rewriter.replace(node, *new)
    rewriter.made(node, f"{node.label} is a slice assignment")


def _block(places: Array, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The first index, and the one behind the last, of each axis that the indices name; None where they are no block."""
    depth = places.shape[-1]
    flat = places.reshape(-1, depth)
    if not flat.size:
        return None
    flat = np.where(flat < 0, flat + np.array(shape[:depth]), flat)
    low, high = flat.min(0), flat.max(0) + 1
    counts = high - low
    if (low < 0).any() or (high > shape[:depth]).any() or math.prod(counts.tolist()) != len(flat):
        return None
    if not np.array_equal(flat, np.indices(counts).reshape(depth, -1).T + low):
        return None
    return tuple(low.tolist()), tuple(high.tolist())


def _reshaped(rewriter: Rewriter, node: Node, name: str, shape: tuple[int, ...], new: list[Node]) -> str:
    constant = rewriter.constant(name)
    if constant is not None:
        return rewriter.add_constant(f"{node.label}.block", constant.reshape(shape))
    if rewriter.shape(name) == shape:
        return name
    sizes = rewriter.add_constant(f"{node.label}.sizes", np.array(shape, np.int64))
    output = rewriter.declare(f"{node.label}.block", shape)
    new.append(Node("Reshape", (name, sizes), (output,), {}, f"{node.label}.block"))
    return output


def _region(rewriter: Rewriter, node: Node, name: str, ranges: Sequence[tuple[int, int]], new: list[Node]) -> str:
    """A block of a value: a range of each of its first axes, and all of the others."""
    shape, constant = rewriter.shape(name), rewriter.constant(name)
    assert shape is not None
    if constant is not None:
        cut = constant[tuple(slice(*each) for each in ranges)]
        return rewriter.add_constant(f"{node.label}.rest", np.ascontiguousarray(cut))
    starts, ends = (rewriter.add_constant(f"{node.label}.from", np.array(side, np.int64)) for side in zip(*ranges))
    sizes = tuple(b - a for a, b in ranges) + shape[len(ranges) :]
    output = rewriter.declare(f"{node.label}.rest", sizes)
    new.append(Node("Slice", (name, starts, ends), (output,), {}, f"{node.label}.rest"))
    return output
