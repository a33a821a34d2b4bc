"""Channels shifted in time (TSM, arXiv 1811.08383), as exporters write it, as one Shift with `frames`.

    Reshape (clips, frames, c, ...); Slices, Pads or zeros, Concats; Reshape back      -> Shift

The batch holds the frames of clips, one clip after the other. With `frames`, a clip is shifted as one image of `frames`
rows, each with all pixels of a frame: a row is a step in time.

Whatever moves elements between the two reshapes is followed with the numbers of the elements, so the form does not matter:
Paddle's pads time and takes three slices, mmaction2's joins slices with `x - x`, and assignments to slices have become
concatenations before. Pixels of a frame stay together and are followed as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..ir import OWN, Graph, Node, Note
from .rewrite import Array, Rewriter
from .shift import as_moves
from .slices import ZERO, step

__all__ = ["run"]

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Identity")
CUTS = ("Slice", "Split", "Pad")
#: Values between the two reshapes.
MAX_VALUES = 64


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with shifts in time as Shift, and notes."""
    rewriter = Rewriter(graph)
    for node in rewriter:
        joined = rewriter.producer(node.inputs[0]) if node.op == "Reshape" and not node.domain else None
        if joined is not None and (joined.op, joined.domain) == ("Concat", ""):
            _replace(rewriter, node, joined)
    return rewriter.finish()


def _replace(rewriter: Rewriter, node: Node, joined: Node) -> None:
    shape, clips = rewriter.shape(node.outputs[0]), rewriter.shape(joined.outputs[0])
    if shape is None or clips is None or len(shape) != 4 or len(clips) < 4 or 0 in shape:
        return
    frames = clips[1]
    if clips[0] * frames != shape[0] or frames < 2:
        return
    walk = _Walk(rewriter, shape)
    found = walk.places(joined.outputs[0])
    if found is None or walk.source is None:
        return
    offsets = _in_time(found.reshape(-1, frames, shape[1]))
    shift = None if offsets is None else as_moves([(by, 0) for by in offsets])
    if shift is None:
        rewriter.missed(node, f"{joined.label} stays: it moves frames of {walk.source}, but is no shift of channels in time")
        return
    attributes = {"kernel": shift.kernel, "dilation": shift.dilation, "convention": shift.convention, "frames": frames}
    new = Node("Shift", (walk.source,), node.outputs, attributes, node.name, OWN)
    rewriter.replace(node, new)
    rewriter.made(node, f"{joined.label} is a shift in time, {shift.word()}, over {frames} frames")


def _in_time(places: Array) -> list[int] | None:
    """By how many frames each channel of `places[clip, frame, channel]` moves; None where that is not all they do."""
    _, frames, channels = places.shape
    here = np.arange(places.size).reshape(places.shape)
    inside = places != ZERO
    if not inside.any((0, 1)).all():
        return None
    first = inside[0].argmax(0)  # the first frame of each channel that is not zero
    offsets = (np.take_along_axis(places[0], first[None], 0)[0] - np.arange(channels)) // channels - first
    frame = np.arange(frames)[:, None] + offsets
    expected = np.where((frame >= 0) & (frame < frames), here + offsets * channels, ZERO)
    return [int(by) for by in offsets] if np.array_equal(places, expected) else None


@dataclass
class _Walk:
    """From values back to the one `source` of the shape `shape` (images, channels, height, width), as numbers."""

    rewriter: Rewriter
    shape: tuple[int, ...]
    source: str | None = None
    seen: dict[str, Array | None] = field(default_factory=dict)

    def places(self, name: str) -> Array | None:
        """Which element of the source each element is, pixels not counted; `ZERO` for a zero; None where unknown."""
        if name not in self.seen:
            if len(self.seen) >= MAX_VALUES:
                return None
            self.seen[name] = self._places(name)
        return self.seen[name]

    def _lead(self, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """The sizes before the pixels, which are the last one or two axes; None where these are not all pixels."""
        pixels = math.prod(self.shape[2:])
        return next((shape[:-n] for n in (1, 2) if shape and math.prod(shape[-n:]) == pixels), None)

    def _places(self, name: str) -> Array | None:
        shape, constant = self.rewriter.shape(name), self.rewriter.constant(name)
        lead = self._lead(shape)
        if shape is None or lead is None:
            return None
        if constant is not None:
            return None if constant.any() else np.full(lead, ZERO)
        if shape == self.shape:
            if self.source not in (None, name):
                return None
            self.source = name
            return np.arange(math.prod(lead)).reshape(lead)
        node = self.rewriter.producer(name)
        return None if node is None or node.domain else self._of_node(node, name, lead)

    def _of_node(self, node: Node, name: str, lead: tuple[int, ...]) -> Array | None:
        if node.op == "Sub" and node.inputs[0] == node.inputs[1]:
            return np.full(lead, ZERO)
        if node.op == "Concat":
            parts = [self.places(part) for part in node.inputs]
            axis = int(node.get("axis", 0)) % len(self.rewriter.shape(name) or (1,))
            known = [part for part in parts if part is not None]
            return np.concatenate(known, axis) if len(known) == len(parts) and axis < len(lead) else None
        if node.op not in (*RESHAPES, *CUTS):
            return None
        places, whole = self.places(node.inputs[0]), self.rewriter.shape(node.inputs[0])
        if places is None or whole is None:
            return None
        if node.op in RESHAPES:
            return places.reshape(lead)
        axes = step(self.rewriter, node, name, [np.arange(size) for size in whole])
        n = places.ndim
        if axes is None or any(not np.array_equal(axis, np.arange(size)) for axis, size in zip(axes[n:], whole[n:])):
            return None
        # The place of a zero is -1: the last of one more element on each axis.
        return np.asarray(np.pad(places, (0, 1), constant_values=ZERO)[np.ix_(*axes[:n])])
