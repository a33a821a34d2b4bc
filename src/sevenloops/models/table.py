"""The zoo: every network that is defined here, in one explicit table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GraphError
from ..graph.builder import GraphBuilder
from ..graph.ir import Graph
from . import classic, mobile, resnets

__all__ = ["ZOO", "Define", "Model", "Preprocessing", "build", "find", "known"]

Array = np.ndarray[Any, Any]


#: Adds a network to a builder: (builder, the image's value, classes, **options) -> the scores' value.
Define = Callable[..., str]


@dataclass(frozen=True)
class Preprocessing:
    """From a photograph to the network's input: scale its shorter side to `resize`, cut `crop` x `crop` from the middle,
    then `(value - mean) / deviation` for each channel; values are 0 to 255, `order` is "rgb", "bgr" or "gray".

    `full` scales the whole picture to `resize` x `resize`, without regard to its proportions.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    deviation: tuple[float, ...] = (58.395, 57.12, 57.375)
    order: str = "rgb"


#: Means and deviations of ImageNet, as torchvision has them.
IMAGENET = Preprocessing()
CIFAR = Preprocessing(32, 32, mean=(125.307, 122.961, 113.8575), deviation=(51.5865, 50.847, 51.255))
DIGITS = Preprocessing(28, 28, mean=(33.318,), deviation=(78.567,), order="gray")
GARMENTS = Preprocessing(32, 28, mean=(72.940,), deviation=(90.021,), order="gray")


@dataclass(frozen=True)
class Model:
    """A network of the zoo: `define` builds it for images of `channels` x `size` x `size`.

    `options` are all that `define` takes further, with their values in this row.
    """

    name: str
    define: Define
    size: int = 224
    classes: int = 1000
    channels: int = 3
    preprocessing: Preprocessing = IMAGENET
    options: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


LITE = Preprocessing(256, 224, "bicubic", (127.0,) * 3, (128.0,) * 3)
CAFFE_227 = Preprocessing(256, 227, mean=(123.68, 116.779, 103.939), deviation=(1.0,) * 3)
CAFFE_224 = Preprocessing(256, 224, mean=(123.68, 116.779, 103.939), deviation=(1.0,) * 3)


def _vgg(layers: int, depths: tuple[int, ...]) -> Model:
    return Model(f"vgg{layers}", classic.vgg, options={"depths": depths}, about=f"VGG with {layers} layers")


def _resnet(layers: int, depths: tuple[int, ...], bottleneck: bool) -> Model:
    options = {"depths": depths, "bottleneck": bottleneck}
    return Model(f"resnet{layers}", resnets.resnet, options=options, about=f"ResNet-{layers}, torchvision's form")


def _cifar(layers: int) -> Model:
    options = {"blocks": (layers - 2) // 6}
    about = f"ResNet-{layers} for CIFAR"
    return Model(f"resnet{layers}", resnets.cifar_resnet, 32, 10, preprocessing=CIFAR, options=options, about=about)


def _shiftresnet(layers: int, unit: str) -> Model:
    name = f"shiftresnet{layers}" + ("" if unit == "csc" else f"_{unit}")
    options = {"blocks": (layers - 2) // 6, "unit": unit, "expansion": 3, "convention": "modulo"}
    about = f"ShiftResNet-{layers}, blocks {unit.upper()}; option expansion (3)"
    return Model(name, resnets.shiftresnet, 32, 10, preprocessing=CIFAR, options=options, about=about)


def _shiftnet(letter: str, stem: int, groups: tuple[Any, ...]) -> Model:
    options = {"stem": stem, "groups": groups}
    return Model(f"shiftnet_{letter}", resnets.shiftnet, options=options, about=f"ShiftNet-{letter.upper()}")


_ROWS = (
    Model("lenet5", classic.lenet5, 28, 10, 1, DIGITS, about="LeNet-5 for 28x28 digits"),
    Model("alexnet", classic.alexnet, about="AlexNet, torchvision's form"),
    Model(
        "alexnet_two_towers",
        classic.alexnet_two_towers,
        227,
        preprocessing=CAFFE_227,
        about="AlexNet, the original with LRN",
    ),
    Model("alexnet_one_tower", classic.alexnet_one_tower, 227, preprocessing=CAFFE_227, about="the same without groups"),
    Model("alexnet_slim", classic.alexnet_slim, 28, 10, 1, GARMENTS, about="AlexNet for small grey pictures, with LRN"),
    _vgg(11, (1, 1, 2, 2, 2)),
    _vgg(16, (2, 2, 3, 3, 3)),
    _vgg(19, (2, 2, 4, 4, 4)),
    Model("googlenet", classic.googlenet, preprocessing=CAFFE_224, about="GoogLeNet, the paper's, with LRN"),
    _resnet(18, (2, 2, 2, 2), bottleneck=False),
    _resnet(34, (3, 4, 6, 3), bottleneck=False),
    _resnet(50, (3, 4, 6, 3), bottleneck=True),
    _cifar(20),
    _cifar(56),
    _cifar(110),
    *(_shiftresnet(layers, unit) for layers in (20, 56, 110) for unit in ("csc", "sc2")),
    _shiftnet("a", 32, resnets.SHIFTNET_A),
    _shiftnet("b", 16, resnets.SHIFTNET_B),
    _shiftnet("c", 16, resnets.SHIFTNET_C),
    Model("mobilenetv1", mobile.mobilenetv1, about="MobileNetV1"),
    Model("mobilenetv2", mobile.mobilenetv2, about="MobileNetV2, torchvision's form"),
    Model("squeezenet1_1", classic.squeezenet, about="SqueezeNet 1.1"),
    Model("efficientnet_lite0", mobile.efficientnet_lite, preprocessing=LITE, about="EfficientNet-Lite0"),
)
ZOO: dict[str, Model] = {model.name: model for model in _ROWS}


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(".", "")


#: Other names that people use.
_ALIASES = {"squeezenet": "squeezenet1_1"}


def known(name: str) -> bool:
    """Whether `find` finds a network of that name."""
    return _plain(name) in _BY_PLAIN_NAME


def find(name: str) -> Model:
    """The row of that name; capitals, hyphens, dots and underscores do not count. Raises `GraphError` for an unknown one."""
    if not known(name):
        raise GraphError(f"there is no network {name!r}, and no such file; the zoo has {', '.join(ZOO)}")
    return _BY_PLAIN_NAME[_plain(name)]


_BY_PLAIN_NAME = {_plain(name): model for name, model in ZOO.items()}
_BY_PLAIN_NAME |= {alias: ZOO[name] for alias, name in _ALIASES.items()}


def build(
    name: str, *, batch: int | str = "N", classes: int | None = None, seed: int = 0,
    weights: Mapping[str, Array] | None = None, size: int | None = None, channels: int | None = None, **options: Any,
) -> Graph:  # fmt: skip
    """A network of the zoo as a graph: input "input" `(batch, channels, size, size)`, output "output" `(batch, classes)`.

    Without `weights` they are random, by the seed. `options` are those of the network, such as `expansion` and
    `convention` of ShiftResNets. Raises `GraphError` for unknown names and options, and for weights that do not fit.
    """
    model = find(name)
    unknown = sorted(set(options) - set(model.options))
    if unknown:
        raise GraphError(f"{model.name} has no option {unknown[0]!r}; its options are: {', '.join(model.options) or 'none'}")
    net = GraphBuilder(model.name, seed=seed, weights=weights)
    side = size or model.size
    x = net.input("input", (batch, model.channels if channels is None else channels, side, side))
    y = model.define(net, x, model.classes if classes is None else classes, **{**model.options, **options})
    return net.graph(output=y)
