"""A Shift into the 1x1 convolution that alone reads it, which then reads each channel where it comes from.

    conv1x1(shift(x)) -> Conv with the attribute shift = (kernel, dilation, convention)

The fused layer moves no memory (`algorithms/shift.py`).
"""

from __future__ import annotations

import math

from ..ir import OWN, Graph, Node, Note
from .rewrite import Rewriter
from .shift import is_pointwise

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with fewer Shift, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if (node.op, node.domain) != ("Shift", OWN):
            continue
        reader = rewriter.only_reader(node.outputs[0])
        reason = _refuses(rewriter, node, reader)
        if reader is None or reason is not None:
            rewriter.missed(node, f"{node.label} stays: {reason}")
            continue
        shift = (
            tuple(node.get("kernel", (3, 3))),
            tuple(node.get("dilation", (1, 1))),
            node.get("convention", "contiguous"),
        )
        new = reader.replace(inputs=(node.inputs[0], *reader.inputs[1:])).with_attributes(shift=shift)
        if node.get("frames"):
            new = new.with_attributes(frames=node.get("frames"))
        rewriter.replace(reader, new, drop=(node,))
        rewriter.made(node, f"{node.label} into {reader.label}")
    return rewriter.finish()


def _refuses(rewriter: Rewriter, node: Node, reader: Node | None) -> str | None:
    output = node.outputs[0]
    if reader is None:
        readers = [other.label for other in rewriter.readers(output)]
        return f"it is read by {', '.join(readers[:3])}" if readers else "it is an output of the graph"
    if reader.inputs[0] != output or output in reader.inputs[1:] or not is_pointwise(rewriter, reader):
        return f"{reader.label} behind it is not a 1x1 convolution without padding and groups"
    if node.get("frames") and math.prod(reader.get("strides") or ()) > 1:
        return f"{reader.label} behind it has a stride, and it moves whole frames"
    return None
