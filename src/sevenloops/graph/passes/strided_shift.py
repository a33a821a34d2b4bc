"""What a strided shift never reads is never made.

    conv1x1(stride s, shift(conv1x1(x)))  ->  Concat of one conv1x1 of x a phase, each with stride s; then a Conv whose shift
                                              has `phases`, without stride

A shift with stride s reads of each channel one pixel in s^2, all of the same phase (`sevenloops.shift`). So the layer before
it need not make the others: its channels are sorted by phase, and those of a phase become a convolution of stride s that
begins at the phase's first pixel (the attribute `phase`). At stride 2 that is a quarter of its multiplications and of its
stores; the sums are the same sums.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ...shift import Shift, channels_of_phases
from ..ir import Graph, Node, Note
from .rewrite import Rewriter
from .shift import is_pointwise

__all__ = ["run"]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with such layers taken apart, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        if node.op == "Conv" and not node.domain and node.get("shift") and math.prod(node.get("strides") or ()) > 1:
            maker = rewriter.producer(node.inputs[0])
            reason = _refuses(rewriter, node, maker)
            if maker is None or reason is not None:
                rewriter.missed(
                    node, f"{node.label} reads one pixel in {math.prod(node.get('strides'))}, all are made: {reason}"
                )
            else:
                _take_apart(rewriter, maker, node)
    return rewriter.finish()


def _refuses(rewriter: Rewriter, reader: Node, maker: Node | None) -> str | None:
    if maker is None or not is_pointwise(rewriter, maker) or math.prod(maker.get("strides") or ()) != 1:
        return "no 1x1 convolution of stride 1 makes them"
    if maker.get("residual"):
        return f"{maker.label} adds a residual"
    if rewriter.others(maker.outputs[0], reader) or maker.outputs[0] in reader.inputs[1:]:
        return rewriter.others(maker.outputs[0], reader) or f"{reader.label} reads them twice"
    if any(name and rewriter.constant(name) is None for name in (*maker.inputs[1:], reader.inputs[1])):
        return "the weights are no constants"
    shape, strides = rewriter.shape(maker.outputs[0]), reader.get("strides")
    if shape is None or any(size % step for size, step in zip(shape[2:], strides)):
        return f"an image of {shape and shape[2:]} has phases of different sizes"
    return None


def _take_apart(rewriter: Rewriter, maker: Node, reader: Node) -> None:
    kernel, dilation, convention = reader.get("shift")
    strides = reader.get("strides")
    batch, channels, *size = rewriter.shape(maker.outputs[0]) or ()
    phases = channels_of_phases(Shift(kernel, dilation, convention, strides).of_rank(len(size)), channels)
    small = tuple(extent // step for extent, step in zip(size, strides))
    parts = []
    for phase, members in phases.items():
        y = rewriter.declare(f"{maker.outputs[0]}_{'_'.join(map(str, phase))}", (batch, len(members), *small))
        inputs = [maker.inputs[0]]
        for name in maker.inputs[1:]:
            array = rewriter.constant(name)
            inputs.append("" if array is None else rewriter.add_constant(f"{y}_{name}", array[members]))
        attributes = {"strides": strides, "phase": phase}
        new = maker.replace(inputs=tuple(inputs), outputs=(y,), name=f"{maker.label}.{''.join(map(str, phase))}")
        parts.append(new.with_attributes(**attributes))
    whole = parts[0].outputs[0]
    if len(parts) > 1:
        whole = rewriter.declare(f"{maker.outputs[0]}_phases", (batch, channels, *small))
        joined = tuple(part.outputs[0] for part in parts)
        parts.append(Node("Concat", joined, (whole,), {"axis": 1}, f"{maker.label}.phases"))
    weight = rewriter.constant(reader.inputs[1])
    assert weight is not None
    order = list(itertools.chain(*phases.values()))
    name = rewriter.add_constant(f"{reader.label}_weight", np.ascontiguousarray(weight[:, order]))
    moved = reader.replace(inputs=(whole, name, *reader.inputs[2:])).with_attributes(
        shift=(kernel, dilation, convention, strides), strides=(1,) * len(size)
    )
    rewriter.replace(reader, *parts, moved, drop=(maker,))
    share = f"one in {math.prod(strides)}, phases: {len(phases)}"
    rewriter.made(maker, f"{maker.label} makes the pixels that {reader.label} reads, {share}")
