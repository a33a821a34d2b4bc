"""Batches of a training: their order, what is done to each picture, and the loader that does it in workers.

All that is random is a function of (seed, epoch, picture): the order of an epoch, the crop, the flip and the colours of each
picture. So it does not matter which worker or which process of a team makes a picture, nor where a training was interrupted.
The numbers come from Philox, a generator by counter (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from .pictures import Colours, Pictures
from .recipes import Recipe

__all__ = ["TestBatches", "TrainBatches", "evaluation", "generator", "order", "training"]

Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
#: What of an epoch is random.
ORDER, PICTURE = 0, 1


def generator(seed: int, epoch: int, stream: int, number: int = 0) -> np.random.Generator:
    """The random numbers of one stream of an epoch, such as those of picture `number`."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, number, stream, 0]))


def order(n: int, seed: int, epoch: int) -> Integers:
    """The order of n pictures in an epoch."""
    return generator(seed, epoch, ORDER).permutation(n)


class TrainBatches(Dataset[Any]):
    """Pictures cut, flipped and coloured as a recipe says. An item is a batch, its index is (epoch, indices).

    A batch is float32 (n, crop, crop, channels) and int64 labels (n,).
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, statistics: Colours, crop: int, seed: int) -> None:
        self.pictures, self.recipe, self.crop, self.seed = pictures, recipe, crop, seed
        self.normalise = Normalise(statistics, recipe.scale)
        self.principal = np.asarray(statistics.principal, np.float32)

    def __getitem__(self, index: tuple[int, Integers]) -> tuple[npt.NDArray[np.float32], Integers]:
        epoch, indices = index
        recipe, crop = self.recipe, self.crop
        cut = np.zeros((len(indices), crop, crop, len(self.principal)), np.uint8)  # padding is black
        light = np.zeros((len(indices), 1, 1, len(self.principal)), np.float32)
        for at, number in enumerate(indices):
            picture = self.pictures.read(int(number))
            if not recipe.random:
                _cut(picture, cut[at], *_middle(picture, crop))
                continue
            rng = generator(self.seed, epoch, PICTURE, int(number))
            down, right, flip = rng.random(3)
            if recipe.flip and flip < 0.5:
                picture = picture[:, ::-1]
            room = [side + 2 * recipe.pad - crop + 1 for side in picture.shape[:2]]
            _cut(picture, cut[at], int(down * room[0]) - recipe.pad, int(right * room[1]) - recipe.pad)
            if recipe.colour:
                light[at] = self.principal @ rng.normal(0, recipe.colour, len(self.principal))
        return self.normalise(cut, light), self.pictures.labels[indices]


class TestBatches(Dataset[Any]):
    """Pictures as they are tested: cut from the middle, or ten times. An item is a batch, its index an array of indices.

    The ten are the four corners and the middle, and the same mirrored, next to each other: (10 n, crop, crop, channels).
    """

    __test__ = False  # no test, whatever pytest makes of the name

    def __init__(self, pictures: Pictures, recipe: Recipe, statistics: Colours, crop: int) -> None:
        self.pictures, self.crop, self.ten = pictures, crop, recipe.ten_crops
        self.normalise = Normalise(statistics, recipe.scale)

    def __getitem__(self, indices: Integers) -> tuple[npt.NDArray[np.float32], Integers]:
        views = 10 if self.ten else 1
        cut = np.zeros((len(indices) * views, self.crop, self.crop, self.normalise.channels), np.uint8)
        for at, number in enumerate(indices):
            picture = self.pictures.read(int(number))
            if not self.ten:
                _cut(picture, cut[at], *_middle(picture, self.crop))
                continue
            ends = [side - self.crop for side in picture.shape[:2]]
            places = [*itertools.product((0, ends[0]), (0, ends[1])), _middle(picture, self.crop)]
            for view, (place, mirrored) in enumerate(itertools.product(places, (False, True))):
                _cut(picture[:, ::-1] if mirrored else picture, cut[views * at + view], *place)
        return self.normalise(cut), self.pictures.labels[indices]


class Normalise:
    """Pixels less their mean, over their deviation ("deviation") or as they are ("pixels"); float32."""

    def __init__(self, statistics: Colours, scale: str) -> None:
        self.mean = np.asarray(statistics.mean, np.float32)
        deviation = statistics.deviation if scale == "deviation" else (1.0,) * len(statistics.mean)
        self.factor = (1 / np.asarray(deviation)).astype(np.float32)
        self.channels = len(self.mean)

    def __call__(self, pixels: Pixels, light: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        values = pixels - self.mean
        if light is not None:
            values += light
        values *= self.factor
        return values


def _middle(picture: Pixels, crop: int) -> tuple[int, int]:
    height, width = picture.shape[:2]
    return (height - crop) // 2, (width - crop) // 2


def _cut(picture: Pixels, into: Pixels, top: int, left: int) -> None:
    """Copy what lies at (top, left); outside of the picture nothing is written."""
    height, width = picture.shape[:2]
    crop = len(into)
    y, x = max(top, 0), max(left, 0)
    bottom, right = min(top + crop, height), min(left + crop, width)
    into[y - top : bottom - top, x - left : right - left] = picture[y:bottom, x:right]


# ---- loaders ------------------------------------------------------------------------------------------------------------


class _Order:
    """The batches of an epoch that are left, those of one process of a team."""

    def __init__(self, n: int, batch: int, seed: int, rank: int, world: int) -> None:
        self.n, self.batch, self.seed, self.rank, self.world = n, batch, seed, rank, world
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return self.n // (self.batch * self.world) - self.skip

    def __iter__(self) -> Iterator[tuple[int, Integers]]:
        found, whole = order(self.n, self.seed, self.epoch), self.batch * self.world
        for step in range(self.skip, self.n // whole):
            yield self.epoch, found[step * whole + self.rank : (step + 1) * whole : self.world]


class Epochs:
    """The batches of each epoch, from any step on: `batches(epoch, skip)` gives tensors (n, channels, h, w) and labels.

    The last pictures of an epoch, too few for a whole batch, are left out; they are others in each epoch.
    """

    def __init__(self, data: TrainBatches, batch: int, workers: int, rank: int, world: int) -> None:
        self.order = _Order(len(data.pictures.labels), batch, data.seed, rank, world)
        self.loader = _loader(data, self.order, workers)

    @property
    def steps(self) -> int:
        """Batches in a whole epoch."""
        return self.order.n // (self.order.batch * self.order.world)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of an epoch, without the first `skip`."""
        self.order.epoch, self.order.skip = epoch, skip
        yield from self.loader


def training(
    pictures: Pictures, recipe: Recipe, statistics: Colours, crop: int, *, seed: int, workers: int, rank: int = 0,
    world: int = 1,
) -> Epochs:  # fmt: skip
    """The batches of a training: `recipe.batch` pictures in each of the `world` processes."""
    return Epochs(TrainBatches(pictures, recipe, statistics, crop, seed), recipe.batch, workers, rank, world)


def evaluation(
    pictures: Pictures, recipe: Recipe, statistics: Colours, crop: int, *, workers: int, rank: int = 0, world: int = 1
) -> Any:  # fmt: skip
    """A loader of all pictures for testing, in order; every `world`-th belongs to a process. The last batch is shorter."""
    mine = np.arange(rank, len(pictures.labels), world)
    size = max(1, recipe.batch // (10 if recipe.ten_crops else 1))
    parts = [mine[at : at + size] for at in range(0, len(mine), size)]
    return _loader(TestBatches(pictures, recipe, statistics, crop), parts, workers)


def _loader(data: Dataset[Any], sampler: Any, workers: int) -> Any:
    # No item is put together by the loader: one is a batch already. Workers stay from epoch to epoch.
    return DataLoader(
        data, batch_size=None, sampler=sampler, collate_fn=_tensors, num_workers=workers, persistent_workers=workers > 0,
        worker_init_fn=_ignore_ctrl_c,
    )  # fmt: skip


def _ignore_ctrl_c(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the training ends its workers when it has finished its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tensors(batch: Any) -> tuple[Any, Any]:
    """Channels last in memory, as the arrays are."""
    return torch.from_numpy(batch[0]).permute(0, 3, 1, 2), torch.from_numpy(batch[1])
