"""The shift operator (arXiv 1711.08141), which ONNX does not have, in the forms in which files write it.

    depthwise Conv whose kernels have a single one each    -> Shift
    Pad, one Slice a group of channels, Concat             -> Shift; by runs of channels where it is of neither convention
    either with a stride or channels in another order      -> the 1x1 Conv behind it, with `shift`, stride and its weights'
                                                              columns in that order; without such a Conv nothing is done

Comes before constants are folded, which would make the ones other numbers. `fuse_shift` joins a Shift with the 1x1 Conv
that reads it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ...shift import CONVENTIONS, Shift, channel_offsets
from ..ir import OWN, Graph, Node, Note
from .rewrite import Array, Rewriter
from .slices import ZERO, Cut, cuts

__all__ = ["as_moves", "is_pointwise", "run"]

MAX_STRIDE = 8
#: Runs of channels that a shift may list.
MAX_MOVES = 8


@dataclass(frozen=True)
class Moves:
    """`out[j, y, x] = source[channels[j], y * stride + dy, x * stride + dx]` with `(dy, dx) = offsets[j]`, zero outside."""

    source: str
    channels: tuple[int, ...]
    offsets: tuple[tuple[int, ...], ...]
    stride: tuple[int, ...]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with shifts as Shift, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        found: Moves | str | None = None
        if node.op == "Conv" and not node.domain:
            found = _of_depthwise(rewriter, node)
        elif node.op == "Concat" and not node.domain:
            found = _of_slices(rewriter, node)
        if isinstance(found, Moves):
            found = _write(rewriter, node, found)
        if found is not None:
            rewriter.missed(node, f"{node.label} stays: {found}")
    return rewriter.finish()


# ------------------------------------------------------------------------------------------------------ two forms


def _of_depthwise(rewriter: Rewriter, node: Node) -> Moves | str | None:
    """None for other convolutions; a reason for a near match."""
    weight, x, y = rewriter.constant(node.inputs[1]), rewriter.shape(node.inputs[0]), rewriter.shape(node.outputs[0])
    if (
        weight is None
        or weight.ndim != 4
        or x is None
        or y is None
        or node.get("group", 1) != x[1]
        or x[1] != weight.shape[0]
    ):
        return None
    flat = weight.reshape(len(weight), -1)
    if flat.size == 0 or not np.isin(flat[0], (0, 1)).all() or not np.isin(flat, (0, 1)).all() or not flat.any():
        return None
    if set(node.attributes) & {"activation", "residual"} or str(node.get("auto_pad", "NOTSET")) != "NOTSET":
        return None
    ones = np.count_nonzero(flat, axis=1)
    if ones.max() > 1 or ones.min() < 1:
        at = int(np.argmax(ones != 1))
        return f"it would be a shift, but the kernel of channel {at} has {ones[at]} ones"
    bias = rewriter.constant(node.input(2)) if node.input(2) else np.zeros(1)
    if bias is None or bias.any():
        return "it would be a shift, but it has a bias"
    stride = tuple(node.get("strides") or (1, 1))
    if any(out != (size - 1) // s + 1 for out, size, s in zip(y[2:], x[2:], stride)):
        return "it would be a shift, but it changes the size of the image"
    pads, dilation = node.get("pads") or (0,) * 4, node.get("dilations") or (1, 1)
    rows, columns = np.divmod(flat.argmax(axis=1), weight.shape[3])
    offsets = zip((rows * dilation[0] - pads[0]).tolist(), (columns * dilation[1] - pads[1]).tolist())
    return Moves(node.inputs[0], tuple(range(x[1])), tuple(offsets), stride)


def _of_slices(rewriter: Rewriter, node: Node) -> Moves | str | None:
    """None for other concatenations; a reason where slices move but are no shift."""
    shape = rewriter.shape(node.outputs[0])
    if shape is None or len(shape) != 4 or int(node.get("axis", 0)) % 4 != 1:
        return None
    found: Moves | str | None = None
    for candidate in cuts(rewriter, node.inputs):
        found = _of_cuts(candidate, rewriter.shape(candidate[0].source) or ()) or found
        if isinstance(found, Moves):
            break
    return found


def _of_cuts(found: list[Cut], whole: tuple[int, ...]) -> Moves | str | None:
    if any(not np.array_equal(cut.axes[0], np.arange(whole[0])) for cut in found):
        return None
    channels: list[int] = []
    offsets: list[tuple[int, ...]] = []
    strides: set[tuple[int, ...]] = set()
    for cut in found:
        lines = [_line(positions, size) for positions, size in zip(cut.axes[2:], whole[2:])]
        if any(line is None for line in lines):
            return "its slices do not move whole images"
        strides.add(tuple(line[1] for line in lines if line))
        channels += cut.axes[1].tolist()
        offsets += [tuple(line[0] for line in lines if line)] * len(cut.axes[1])
    if sorted(channels) != list(range(whole[1])):
        return "its slices do not have every channel once"
    if len(strides) != 1:
        return "its slices have different strides"
    return Moves(found[0].source, tuple(channels), tuple(offsets), strides.pop())


def _line(positions: Array, size: int) -> tuple[int, int] | None:
    """Offset and stride of an axis: place `i` is `i * stride + offset` inside the image, padding outside of it."""
    inside = np.flatnonzero(positions != ZERO)
    if not len(inside):
        return None
    for stride in range(1, MAX_STRIDE + 1):
        if (size - 1) // stride + 1 != len(positions):
            continue
        offset = int(positions[inside[0]]) - int(inside[0]) * stride
        expected = np.arange(len(positions)) * stride + offset
        expected[(expected < 0) | (expected >= size)] = ZERO
        if np.array_equal(expected, positions):
            return offset, stride
    return None


# ------------------------------------------------------------------------------------------------------ as a shift


def _write(rewriter: Rewriter, node: Node, moves: Moves) -> str | None:
    """Put a Shift in place of the node; else the reason why not."""
    by_channel = dict(zip(moves.channels, moves.offsets))
    offsets = [by_channel[channel] for channel in range(len(by_channel))]
    moved = any(any(offset) for offset in offsets)
    shift = _as_shift(offsets) if moved else None
    if moved and shift is None:
        return f"channels move, but by neither convention of the shift operator, and in more than {MAX_MOVES} runs"
    attributes = {"kernel": shift.kernel, "dilation": shift.dilation, "convention": shift.convention} if shift else {}
    if moves.channels == tuple(range(len(offsets))) and set(moves.stride) == {1}:
        new = Node(
            "Shift" if shift else "Identity", (moves.source,), node.outputs, attributes, node.name, OWN if shift else ""
        )
        rewriter.replace(node, new)
        if shift is None:
            rewriter.bypass(new)
        rewriter.made(node, f"{node.label} is {shift.word() if shift else 'nothing: no channel moves'}")
        return None
    return _into_pointwise(rewriter, node, moves, shift)


def _into_pointwise(rewriter: Rewriter, node: Node, moves: Moves, shift: Shift | None) -> str | None:
    """A shift that skips pixels or reorders channels, into the 1x1 convolution that reads it."""
    reader = rewriter.only_reader(node.outputs[0])
    weight = rewriter.constant(reader.inputs[1]) if reader is not None and is_pointwise(rewriter, reader) else None
    if reader is None or weight is None or reader.inputs[0] != node.outputs[0]:
        return "it is a shift with a stride or reordered channels, and no 1x1 convolution alone reads it"
    name = reader.inputs[1]
    if moves.channels != tuple(range(len(moves.channels))):
        permuted = np.empty_like(weight)
        permuted[:, list(moves.channels)] = weight
        name = rewriter.add_constant(f"{reader.label}_weight", permuted)
    strides = tuple(a * b for a, b in zip(moves.stride, reader.get("strides") or (1, 1)))
    new = reader.replace(inputs=(moves.source, name, *reader.inputs[2:])).with_attributes(strides=strides)
    if shift is not None:
        new = new.with_attributes(shift=(shift.kernel, shift.dilation, shift.convention))
    rewriter.replace(reader, new, drop=(node,))
    rewriter.made(
        node, f"{node.label} is {shift.word() if shift else 'a reordering'} with stride {moves.stride}, in {reader.label}"
    )
    return None


def is_pointwise(rewriter: Rewriter, node: Node) -> bool:
    """Whether a node is a 1x1 Conv over images, without groups, padding or a shift of its own."""
    if node.op != "Conv" or node.domain or node.get("shift") or node.get("group", 1) != 1 or any(node.get("pads") or ()):
        return False
    shape = rewriter.shape(node.inputs[1])
    return shape is not None and shape[2:] == (1, 1) and not str(node.get("auto_pad", "")).startswith("SAME")


def _as_shift(offsets: list[tuple[int, ...]]) -> Shift | None:
    """The shift that moves every channel so; None where there is none."""
    kernel, dilation = [], []
    for values in zip(*offsets):
        step = reduce(math.gcd, map(abs, values)) or 1
        kernel.append((max(values) - min(values)) // step + 1)
        dilation.append(step)
    for convention in CONVENTIONS:
        shift = Shift(tuple(kernel), tuple(dilation), convention)
        if channel_offsets(shift, len(offsets)) == offsets:
            return shift
    return as_moves(offsets)


def as_moves(offsets: list[tuple[int, ...]]) -> Shift | None:
    """The shift that moves runs of channels so; None where none moves, or there are many runs."""
    runs = [(len(list(members)), offset) for offset, members in itertools.groupby(offsets)]
    runs = runs if any(runs[-1][1]) else runs[:-1]  # those at the end stay anyway
    return Shift.of_moves(runs) if 0 < len(runs) <= MAX_MOVES else None
