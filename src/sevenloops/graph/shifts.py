"""How a node of a graph says that channels move: our operator Shift, and a Conv with one inside.

Shift has the attributes `kernel`, `dilation`, `convention` and `moves` of `sevenloops.shift.Shift`; a Conv has the tuple
`shift` of them, in that class's order. With `frames`, the images of the batch are frames of clips, one clip after the
other, and a clip is shifted as one image of `frames` rows, each with all pixels of a frame: a shift of one row is one in
time (TSM, arXiv 1811.08383).
"""

from __future__ import annotations

from typing import Any

from ..shift import Shift
from .ir import Node

__all__ = ["attributes_of", "fused_shift", "shift_of"]


def shift_of(node: Node) -> Shift:
    """The shift of a Shift."""
    kernel, dilation = node.get("kernel") or (3,), node.get("dilation") or (1,)
    return Shift(kernel, dilation, node.get("convention", "contiguous"), node.get("phases") or (1,), node.get("moves") or ())


def fused_shift(node: Node) -> tuple[Any, ...]:
    """A Shift as the attribute `shift` of a Conv."""
    shift = shift_of(node)
    return (shift.kernel, shift.dilation, shift.convention, shift.phases, shift.moves)


def attributes_of(shift: Shift) -> dict[str, Any]:
    """What makes a node a Shift of this kind."""
    if shift.moves:
        return {"moves": shift.moves}
    return {"kernel": shift.kernel, "dilation": shift.dilation, "convention": shift.convention}
