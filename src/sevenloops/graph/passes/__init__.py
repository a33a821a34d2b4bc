"""Graph passes: each turns a graph into an equal one with fewer nodes, and says what it did and why not more.

They work on graphs whose sizes are known and whose shape arithmetic is folded (`graph.shapes.infer`). The order matters:
written-out activations are recognised before constants are folded, and what is left after the epilogues becomes
element-wise expressions. No pass changes what is computed beyond the rounding of floats.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from ...errors import GraphError, SevenLoopsError
from ..ir import Graph, Note
from . import (
    activations,
    float32,
    fold_affine,
    fuse_elementwise,
    fuse_epilogue,
    fuse_shift,
    means,
    pad_into,
    products,
    scatter,
    shift,
    strided_shift,
    temporal,
    towers,
    views,
)

__all__ = ["PASSES", "Pass", "optimise"]


@dataclass(frozen=True)
class Pass:
    """A rewriting of graphs: `run` returns the new graph and notes for users."""

    name: str
    run: Callable[[Graph], tuple[Graph, list[Note]]]
    what: str


#: All passes in their order.
PASSES: tuple[Pass, ...] = (
    Pass("float32", float32.run, "float16 and quantised values are held as float32"),
    Pass("scatter", scatter.run, "slice assignments written as ScatterND become slices and concatenations"),
    Pass("views", views.run, "reshapes, transposes and concatenations in a row become one, or none"),
    Pass("means", means.run, "global average pools and their like become one operator"),
    Pass("products", products.run, "products of matrices with constant weights become Gemm in one form"),
    Pass("activations", activations.run, "SiLU, HardSwish, GELU, ... written out in small operators become one operator"),
    Pass("shift", shift.run, "depthwise convolutions and slices that only move channels become Shift"),
    Pass("temporal", temporal.run, "reshapes, slices and concatenations that move channels in time become Shift"),
    Pass("towers", towers.run, "a convolution written as one for each group of channels becomes a grouped one"),
    Pass("fold_affine", fold_affine.run, "batch norm, scales and shifts of channels go into the weights beside them"),
    Pass("pad_into", pad_into.run, "padding goes into the convolution or pool behind it"),
    Pass("fuse_shift", fuse_shift.run, "a Shift goes into the 1x1 convolution behind it"),
    Pass("fuse_epilogue", fuse_epilogue.run, "activations and residual adds go into the layer before them"),
    Pass("strided_shift", strided_shift.run, "a 1x1 convolution makes only the pixels that a strided shift behind it reads"),
    Pass("fuse_elementwise", fuse_elementwise.run, "other element-wise operators become expressions, neighbours one"),
)


def optimise(graph: Graph, skip: Collection[str] = ()) -> Graph:
    """Run all passes but those named in `skip`. The graph's notes get one for each thing done or left.

    Raises `GraphError` for a name that is no pass, and for a graph that a pass fails on.
    """
    unknown = set(skip) - {row.name for row in PASSES}
    if unknown:
        raise GraphError(f"there is no pass {sorted(unknown)[0]!r}; the passes are {', '.join(row.name for row in PASSES)}")
    notes: list[Note] = []
    for row in PASSES:
        if row.name not in skip:
            try:
                with np.errstate(all="ignore"):  # weights may be anything
                    graph, said = row.run(graph)
            except SevenLoopsError:
                raise
            except Exception as error:  # a node that no rule foresaw
                message = f"the pass {row.name!r} ({row.what}) failed: {type(error).__name__}: {error}"
                raise GraphError(f"{message}; a session with passes=False leaves layers as the model has them") from error
            notes += [replace(note, rule=row.name) for note in said]
    return graph.noting(notes)
