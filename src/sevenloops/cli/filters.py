"""`sevenloops filters`: the first layer's kernels as pictures, and what any layer sees in a photograph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..analysis.pictures import FirstLayer, feature_maps, filter_tiles, first_layer, grid, scaled
from ..classify import Network, feeds_of, is_file, load_graph, load_network, read_photo
from ..errors import GraphError, printable
from ..report.pictures import save
from .analysis import random_weights

__all__ = ["filters_command"]


def filters_command(
    model: str, output: Path, image: Path | None, layer: str | None, weights: Path | None, scale: int
) -> None:
    """Write the picture and say what is on it."""
    if image is None and layer is not None:
        raise GraphError("--layer needs --image: what a layer computes depends on the picture")
    if image is None:
        found = _filters(model, weights)
        save(output, grid(filter_tiles(found.weight, scale)))
        count, channels, height, width = found.weight.shape
        kind = "colour" if channels == 3 else f"grey, the mean of {channels} channels"
        remark = "; the weights are random" if weights is None and random_weights(model) else ""
        print(f"{output}: {printable(found.name)}, {count} filters of {height} x {width}, {kind}{remark}")
        return
    network = load_network(model, weights=weights)
    name = layer or first_layer(network.graph).name
    maps = feature_maps(network.graph, name, feeds_of(network, [read_photo(image, network.preprocessing)]))
    save(output, grid([scaled(one) for one in maps]))
    print(f"{output}: {printable(name)}, {maps.shape[0]} maps of {maps.shape[1]} x {maps.shape[2]}, from {image}")
    if layer is None:
        print("--layer draws another: a name that `sevenloops count` lists")


def _filters(model: str, weights: Path | None) -> FirstLayer:
    """The filters, their channels in the order red, green, blue."""
    if is_file(model):
        return first_layer(load_graph(model))
    network: Network = load_network(model, weights=weights)
    found = first_layer(network.graph)
    if network.preprocessing.order == "bgr" and found.weight.shape[1] == 3:
        return replace(found, weight=found.weight[:, ::-1])
    return found
