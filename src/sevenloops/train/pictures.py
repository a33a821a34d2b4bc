"""Labelled pictures: in memory, or in files that are decoded when they are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from .errors import DataError, need

__all__ = ["Colours", "Data", "Files", "Images", "Pictures", "colours"]

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Pictures(Protocol):
    """What a training reads: `labels` (n,), and picture `index` as uint8 (height, width, channels).

    `sample` says from how many of them statistics are computed, at most.
    """

    sample: ClassVar[int]

    @property
    def labels(self) -> Labels:
        """The class of each picture."""

    def read(self, index: int) -> Pixels:
        """One picture; its shorter side is that of `resized`, if that was called."""

    def resized(self, side: int) -> Pictures:
        """The same pictures with a shorter side of `side` pixels, scaled bilinearly, proportions kept."""

    def take(self, indices: Labels) -> Pictures:
        """Some of the pictures."""


@dataclass(frozen=True)
class Images:
    """Pictures of one size in memory: `pixels` is uint8 (n, height, width, channels), `labels` int64 (n,)."""

    pixels: Pixels
    labels: Labels
    sample: ClassVar[int] = 100_000

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8 or self.labels.shape != self.pixels.shape[:1]:
            raise DataError(
                "pictures are uint8 (n, height, width, channels) with n labels; "
                f"got {self.pixels.dtype} {self.pixels.shape} and {self.labels.shape} labels"
            )

    def read(self, index: int) -> Pixels:
        """A view of the picture."""
        found: Pixels = self.pixels[index]
        return found

    def take(self, indices: Labels) -> Images:
        """A copy of some of the pictures."""
        return Images(self.pixels[indices], self.labels[indices])

    def resized(self, side: int) -> Images:
        """All pictures scaled now."""
        if min(self.pixels.shape[1:3]) == side:
            return self
        return replace(self, pixels=np.stack([scaled(picture, side) for picture in self.pixels]))


@dataclass(frozen=True)
class Files:
    """Picture files, decoded by Pillow as red, green and blue. `side`: of the shorter side, None as they are."""

    paths: tuple[Path, ...]
    labels: Labels
    side: int | None = None
    sample: ClassVar[int] = 2_000

    def read(self, index: int) -> Pixels:
        """Decode the file. Raises `DataError` for one that cannot be read."""
        image = _image()
        path = self.paths[index]
        try:
            with image.open(path) as opened:
                if self.side is not None:
                    opened.draft("RGB", (self.side, self.side))  # JPEG: decode at a half or a quarter where that is enough
                picture = np.asarray(opened.convert("RGB"))
        except (OSError, image.DecompressionBombError) as error:
            raise DataError(f"cannot read the picture {path}: {error}") from error
        return picture if self.side is None else scaled(picture, self.side)

    def take(self, indices: Labels) -> Files:
        """Some of the files."""
        return replace(self, paths=tuple(self.paths[i] for i in indices), labels=self.labels[indices])

    def resized(self, side: int) -> Files:
        """Scaled when they are read."""
        return replace(self, side=side)


@dataclass(frozen=True)
class Data:
    """A data set: pictures to train on and to test on, and the names of the classes; `source` says where it lies."""

    name: str
    train: Pictures
    test: Pictures
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for part, pictures in (("train", self.train), ("test", self.test)):
            labels = pictures.labels
            if not len(labels):
                raise DataError(f"{self.name} has no pictures to {part} on ({self.source})")
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise DataError(f"{self.name} has {len(self.classes)} classes, but the label {labels.max()} ({self.source})")

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colours."""
        return int(self.train.read(0).shape[2])

    @property
    def side(self) -> int:
        """The shorter side of the first picture."""
        return int(min(self.train.read(0).shape[:2]))

    def resized(self, side: int) -> Data:
        """All pictures scaled."""
        return replace(self, train=self.train.resized(side), test=self.test.resized(side))

    def limited(self, count: int) -> Data:
        """At most `count` pictures of each part, spread evenly, for trials."""
        train, test = (part.take(_spread(len(part.labels), count)) for part in (self.train, self.test))
        return replace(self, train=train, test=test)


@dataclass(frozen=True)
class Colours:
    """Statistics of the training pictures' pixels, 0 to 255, each channel; `principal` has the axes of the colours.

    Column i of `principal` is the i-th eigenvector of the channels' covariance times the square root of its eigenvalue.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    principal: tuple[tuple[float, ...], ...]


def colours(pictures: Pictures) -> Colours:
    """Statistics of all pictures, or of as many of them, at random, as `pictures.sample` allows."""
    n = len(pictures.labels)
    chosen = np.arange(n) if n <= pictures.sample else np.random.default_rng(0).choice(n, pictures.sample, replace=False)
    n_pixels, total, products = 0, np.zeros(()), np.zeros(())
    for index in chosen:
        pixels = pictures.read(int(index))
        flat = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
        n_pixels, total, products = n_pixels + len(flat), total + flat.sum(0), products + flat.T @ flat
    mean = np.asarray(total / n_pixels)
    covariance = np.asarray(products / n_pixels) - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.where(vectors.sum(0) < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    principal = vectors * np.sqrt(np.maximum(values, 0))
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    return Colours(tuple(mean.tolist()), tuple(deviation.tolist()), tuple(map(tuple, principal.tolist())))


def _spread(n: int, count: int) -> Labels:
    """`count` of n indices, evenly spread; all where there are not so many."""
    return np.arange(n) if count >= n else np.arange(count) * n // count


def _image() -> Any:
    """`PIL.Image`. Raises `TrainingError` where Pillow is not installed."""
    need("PIL", "reading and scaling pictures")
    from PIL import Image

    return Image


def scaled(picture: Pixels, side: int) -> Pixels:
    """A picture whose shorter side has `side` pixels."""
    height, width = picture.shape[:2]
    if min(height, width) == side:
        return picture
    image = _image()
    size = [max(side, round(n * side / min(height, width))) for n in (width, height)]
    grey = picture.shape[2] == 1
    result = np.asarray(image.fromarray(picture[..., 0] if grey else picture).resize(size, image.Resampling.BILINEAR))
    return result[..., None] if grey else result
