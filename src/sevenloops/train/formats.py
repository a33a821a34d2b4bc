"""The layouts in which data sets are published: MNIST's idx and CSV files, CIFAR's batches, a folder for each class."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ..weights import WeightsError, load_weights
from .errors import DataError
from .pictures import Data, Files, Images

__all__ = ["SUFFIXES", "cifar", "class_folder", "idx_folder", "is_cifar", "is_idx", "mnist_csv"]

#: Of picture files.
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IDX_PARTS = (("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"))
#: Picture rows of CIFAR: 3 planes of 32 x 32.
CIFAR_PLANES = (3, 32, 32)
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: Of the pictures of a folder without `train` and `test`, every so manieth is for testing.
HELD_OUT = 10

# ---- idx, the format of MNIST -------------------------------------------------------------------------------------------


def _idx_path(folder: Path, name: str) -> Path | None:
    """The file as it is or compressed; some mirrors write a dot before `idx`."""
    names = (name, name.replace("-idx", ".idx"))
    found = (folder / f"{n}{end}" for n in names for end in ("", ".gz"))
    return next((path for path in found if path.is_file()), None)


def is_idx(folder: Path) -> bool:
    """Whether a folder has the training pictures of an MNIST-like data set."""
    return _idx_path(folder, IDX_PARTS[0][0]) is not None


def idx_folder(folder: Path, name: str, classes: Sequence[str] | None = None) -> Data:
    """The four files of an MNIST-like data set, `.gz` or not. Raises `DataError`, `OSError`."""
    parts = []
    for images, labels in IDX_PARTS:
        pixels, numbers = _read_idx(folder, images), _read_idx(folder, labels)
        if pixels.ndim != 3 or numbers.shape != pixels.shape[:1]:
            raise DataError(f"{folder}: {images} is {pixels.shape}, {labels} is {numbers.shape}; they do not fit")
        parts.append(Images(pixels[..., None], numbers.astype(np.int64)))
    count = 1 + max(int(part.labels.max(initial=0)) for part in parts)
    return Data(name, parts[0], parts[1], tuple(classes or map(str, range(count))), str(folder))


def _read_idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    path = _idx_path(folder, name)
    if path is None:
        raise DataError(f"{folder} has no {name} or {name}.gz")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    # Two zero bytes, the type (8: unsigned bytes), the number of dimensions; then each as 32 bits, highest byte first.
    rank = data[3] if len(data) > 3 else 0
    if data[:3] != b"\0\0\x08" or not 1 <= rank <= 4 or len(data) < 4 + 4 * rank:
        raise DataError(f"{path} is no idx file of unsigned bytes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", rank, 4))
    if len(data) != 4 + 4 * rank + math.prod(shape):
        raise DataError(f"{path} should hold {shape} bytes after its head of {4 + 4 * rank}, but has {len(data)} in all")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def mnist_csv(file: IO[bytes], name: str) -> Images:
    """A CSV file with a heading, then a row for each picture: label, 28 x 28 pixels, row by row. Raises `DataError`."""
    file.readline()
    text = file.read()
    values = np.array(text.replace(b"\n", b",").replace(b"\r", b"").rstrip(b",").split(b","))
    try:
        numbers = values.astype(np.uint8).reshape(-1, 1 + 28 * 28)
    except ValueError:
        raise DataError(f"{name} should have rows of a label and 784 pixels from 0 to 255") from None
    return Images(numbers[:, 1:].reshape(-1, 28, 28, 1).copy(), numbers[:, 0].astype(np.int64))


# ---- CIFAR --------------------------------------------------------------------------------------------------------------


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10 or CIFAR-100 in one of their official layouts."""
    return any((folder / name).is_file() for name in ("data_batch_1", "data_batch_1.bin", "train.bin")) or (
        (folder / "train").is_file() and (folder / "meta").is_file()
    )


def cifar(folder: Path) -> Data:
    """CIFAR-10 or CIFAR-100 (with its 100 fine labels), pickled or binary. Raises `DataError`, `OSError`.

    Of CIFAR-10, as many `data_batch_N` as are there are read. Pickles are read by `load_weights`: nothing in them runs.
    """
    ten = (folder / "data_batch_1").is_file() or (folder / "data_batch_1.bin").is_file()
    binary = (folder / "data_batch_1.bin").is_file() or (folder / "train.bin").is_file()
    end = ".bin" if binary else ""
    if ten:
        numbered = [folder / f"data_batch_{n}{end}" for n in range(1, 6)]
        paths = ([path for path in numbered if path.is_file()], [folder / f"test_batch{end}"])
    else:
        paths = ([folder / f"train{end}"], [folder / f"test{end}"])
    read = _cifar_binary if binary else _cifar_pickle
    train, test = (_joined([read(path, ten) for path in part]) for part in paths)
    names = _cifar_names(folder, ten, binary)
    return Data("cifar-10" if ten else "cifar-100", train, test, names, str(folder))


def _joined(parts: Sequence[Images]) -> Images:
    return Images(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))


def _planes(rows: npt.NDArray[np.uint8], labels: npt.ArrayLike, path: Path) -> Images:
    if rows.ndim != 2 or rows.shape[1] != math.prod(CIFAR_PLANES) or len(rows) != np.size(labels):
        raise DataError(f"{path} has pictures of {rows.shape} and {np.size(labels)} labels; CIFAR has rows of 3072 bytes")
    pixels = np.ascontiguousarray(rows.reshape(-1, *CIFAR_PLANES).transpose(0, 2, 3, 1))
    return Images(pixels, np.asarray(labels, np.int64))


def _cifar_pickle(path: Path, ten: bool) -> Images:
    try:
        batch = load_weights(path)
        return _planes(batch["data"], batch["labels" if ten else "fine_labels"], path)
    except (WeightsError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no batch of CIFAR: {error}") from None


def _cifar_binary(path: Path, ten: bool) -> Images:
    """Rows of the label (of CIFAR-100 the coarse label, then the fine one) and the planes."""
    head = 1 if ten else 2
    data = np.frombuffer(path.read_bytes(), np.uint8)
    width = head + math.prod(CIFAR_PLANES)
    if not data.size or data.size % width:
        raise DataError(f"{path} has {data.size} bytes, which is no multiple of a row of {width}")
    rows = data.reshape(-1, width)
    return _planes(rows[:, head:], rows[:, head - 1], path)


def _cifar_names(folder: Path, ten: bool, binary: bool) -> tuple[str, ...]:
    """Those of the folder's own list, where it has one."""
    meta = folder / (
        ("batches.meta" if ten else "meta") if not binary else f"{'batches.meta' if ten else 'fine_label_names'}.txt"
    )
    if not meta.is_file():
        return CIFAR_10 if ten else tuple(map(str, range(100)))
    if binary:
        return tuple(line.strip() for line in meta.read_text(encoding="utf-8").splitlines() if line.strip())
    try:
        return tuple(map(str, load_weights(meta)["label_names" if ten else "fine_label_names"]))
    except (WeightsError, KeyError, TypeError) as error:
        raise DataError(f"{meta} has no names of classes: {error}") from None


# ---- a folder for each class --------------------------------------------------------------------------------------------


def class_folder(folder: Path) -> Data:
    """`train/CLASS/picture` and `test/CLASS/picture` (or `val`), else `CLASS/picture` with every tenth held out.

    Classes are sorted by name. Raises `DataError` for a folder without pictures.
    """
    test = next((folder / name for name in ("test", "val", "validation") if (folder / name).is_dir()), None)
    if (folder / "train").is_dir() and test is not None:
        classes = _classes(folder / "train")
        parts = [_files(part, classes) for part in (folder / "train", test)]
    else:
        classes = _classes(folder)
        everything = _files(folder, classes)
        held = np.arange(len(everything.paths)) % HELD_OUT == HELD_OUT - 1
        parts = [everything.take(np.flatnonzero(~held)), everything.take(np.flatnonzero(held))]
    return Data(folder.name, parts[0], parts[1], classes, str(folder))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(f"{folder} has no folders of pictures, one for each class")
    return names


def _files(folder: Path, classes: Sequence[str]) -> Files:
    others = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(classes))
    if others:
        raise DataError(f"{folder} has the class {others[0]!r}, which there is nothing to train on for")
    found = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*") if (folder / name).is_dir() else ())
        if path.suffix.lower() in SUFFIXES
    ]
    return Files(tuple(path for path, _ in found), np.array([number for _, number in found], np.int64))
