"""A Pad that writes zeros, into the padding of the layer behind it.

    Conv(Pad(x))                      any constant padding of zeros
    AveragePool(Pad(x))               as padding that counts: the zeros of a Pad are part of the mean
    MaxPool(Pad(x))                   where it pads with -inf, or with zeros something that is never negative

Each reader takes the padding for itself; the Pad is gone when all have. Pools take less than a kernel of padding, as each
of their windows must see the image.
"""

from __future__ import annotations

import math

from ..ir import Graph, Node, Note
from .expressions import expression_of
from .rewrite import Rewriter

__all__ = ["run"]

READERS = {"Conv", "AveragePool", "MaxPool"}


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with fewer Pad, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        pad = rewriter.producer(node.input(0)) if node.op in READERS and not node.domain else None
        if pad is None or pad.op != "Pad" or pad.domain:
            continue
        found = _padding(rewriter, pad)
        reason = found if isinstance(found, str) else _refuses(rewriter, pad, node, found)
        if isinstance(found, str) or reason is not None:
            rewriter.missed(pad, f"{pad.label} stays before {node.label}: {reason}")
            continue
        pads = tuple(a + b for a, b in zip(node.get("pads") or (0,) * len(found), found))
        new = node.replace(inputs=(pad.inputs[0], *node.inputs[1:])).with_attributes(pads=pads)
        new = new.with_attributes(count_include_pad=1) if node.op == "AveragePool" else new
        rewriter.replace(node, new)
        rewriter.made(pad, f"{pad.label} into {node.label}")
    return rewriter.finish()


def _padding(rewriter: Rewriter, pad: Node) -> tuple[int, ...] | str:
    """The padding of the spatial axes, all begins and then all ends; or why there is none."""
    shape, amounts = rewriter.shape(pad.inputs[0]), rewriter.constant(pad.input(1))
    if pad.get("mode", "constant") != "constant":
        return f"it pads by {pad.get('mode')}"
    if shape is None or amounts is None:
        return "its size is not known"
    rank, axes = len(shape), list(range(len(shape)))
    if pad.input(3):
        given = rewriter.constant(pad.input(3))
        if given is None:
            return "its axes are not known"
        axes = [int(axis) % rank for axis in given]
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(axes):
        before[axis], after[axis] = int(amounts[at]), int(amounts[at + len(axes)])
    if any(before[:2]) or any(after[:2]):
        return "it pads images or channels"
    if min(before + after) < 0:
        return "it cuts away"
    return (*before[2:], *after[2:])


def _refuses(rewriter: Rewriter, pad: Node, node: Node, found: tuple[int, ...]) -> str | None:
    value = rewriter.scalar(pad.inputs[2]) if pad.input(2) else 0.0
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the layer's own padding is not explicit"
    if node.op == "Conv":
        if node.get("shift"):
            return "a shift reads beyond the image"
        return None if value == 0 else f"it pads with {value}"
    pads = node.get("pads") or (0,) * len(found)
    if node.get("ceil_mode", 0):
        return "sizes are rounded up, and the last window depends on whose padding it is"
    if any(a + b >= k for a, b, k in zip(found, pads, tuple(node.get("kernel_shape")) * 2)):
        return "a window would see padding alone"
    if node.op == "MaxPool":
        if len(node.outputs) > 1 and node.outputs[1]:
            return "the places of the maxima are wanted"
        if value == -math.inf or (value == 0 and not any(pads) and _never_negative(rewriter, pad.inputs[0])):
            return None
        return f"it pads with {value}, and a maximum has -inf there"
    if value != 0:
        return f"it pads with {value}"
    return "the pool's own padding does not count" if any(pads) and not node.get("count_include_pad", 0) else None


def _never_negative(rewriter: Rewriter, name: str) -> bool:
    """Whether a value comes out of an activation that gives no negative number."""
    producer = rewriter.producer(name)
    read = expression_of(rewriter, producer) if producer is not None else None
    if read is None or not isinstance(read[0], tuple):
        return False
    op, *operands = read[0]
    return op in ("relu", "sigmoid", "hard_sigmoid", "abs", "exp") or (op == "clip" and operands[1] >= 0)
