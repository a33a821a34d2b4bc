"""Filters and feature maps as arrays of pixels from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError
from ..graph.ir import Graph, Node
from ..session import InferenceSession

__all__ = ["FirstLayer", "feature_maps", "filter_tiles", "first_layer", "grid", "layer_names", "scaled", "up_to"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FirstLayer:
    """The convolution that sees the picture: `weight` is `(filters, channels, height, width)`; `remark` is to be shown."""

    name: str
    weight: FloatArray
    remark: str = ""


def first_layer(graph: Graph) -> FirstLayer:
    """The first convolution over two axes whose weights are constants. Raises `GraphError` where there is none."""
    for node in graph.nodes:
        weight = graph.constants.get(node.input(1)) if node.op == "Conv" else None
        if weight is not None and weight.ndim == 4:
            return FirstLayer(node.label, np.asarray(weight, np.float32))
    raise GraphError(f"{graph.name} has no convolution over two axes with constant weights, so no filters to draw")


def filter_tiles(weight: FloatArray, scale: int = 16) -> list[FloatArray]:
    """Each filter of `(filters, channels, kh, kw)` as a picture with its own contrast, every weight a square of pixels.

    Three channels are red, green, blue, `(height, width, 3)`; of any other number, their mean is drawn in grey.
    """
    as_colours = weight.shape[1] == 3
    pictures = [w.transpose(1, 2, 0) if as_colours else w.mean(axis=0) for w in weight]
    return [scaled(picture).repeat(scale, 0).repeat(scale, 1) for picture in pictures]


def scaled(values: FloatArray) -> FloatArray:
    """Values spread over 0 to 1; black where all are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-6)


def grid(tiles: Sequence[FloatArray], gap: int = 4) -> FloatArray:
    """Tiles of one shape in rows that make a near square, white between them."""
    columns = math.ceil(math.sqrt(len(tiles)))
    height, width = tiles[0].shape[0] + gap, tiles[0].shape[1] + gap
    rows = math.ceil(len(tiles) / columns)
    canvas = np.ones((rows * height + gap, columns * width + gap, *tiles[0].shape[2:]), np.float32)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height + gap, index % columns * width + gap
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def layer_names(graph: Graph) -> list[str]:
    """The names that `feature_maps` knows: of all nodes."""
    return [node.label for node in graph.nodes]


def up_to(graph: Graph, layer: str) -> Graph:
    """The part of a network that computes one layer's output. Raises `GraphError` for a name that no layer has."""
    node = next((node for node in graph.nodes if node.label == layer), None)
    if node is None:
        raise GraphError(f"{graph.name} has no layer {layer!r}; its layers are {', '.join(layer_names(graph))}")
    output, producers = node.outputs[0], graph.producers()
    needed: set[int] = set()
    stack: list[Node] = [node]
    while stack:
        found = stack.pop()
        if id(found) not in needed:
            needed.add(id(found))
            stack += [producers[name] for name in found.inputs if name in producers]
    return graph.replace(nodes=tuple(node for node in graph.nodes if id(node) in needed), outputs=(output,))


def feature_maps(graph: Graph, layer: str, feeds: Mapping[str, Any], threads: int | None = None) -> FloatArray:
    """What a layer computes for the first picture of `feeds`: `(channels, height, width)`.

    Raises `GraphError` for an unknown layer, and for one that has no maps.
    """
    part = up_to(graph, layer)
    shapes = {name: np.shape(value) for name, value in feeds.items()}
    session = InferenceSession(part, threads=threads, shapes=shapes)
    (maps,) = session.run(None, feeds)
    if maps.ndim != 4:
        raise GraphError(f"{layer} has no maps: its output has the shape {maps.shape}")
    return np.asarray(maps[0], np.float32)
