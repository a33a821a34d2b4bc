"""Photographs to classes: preparing pictures, batches, and the right answers with trained weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.classify import (
    PREPROCESSING,
    Network,
    PhotoError,
    batches,
    feeds_of,
    load_network,
    read_photo,
    sample_photos,
    top,
)
from sevenloops.errors import GraphError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.models import PRETRAINED, Preprocessing, packaged
from sevenloops.session import InferenceSession

PIL = pytest.importorskip("PIL.Image")


def picture(path: Path, height: int, width: int) -> Any:
    """A picture whose red grows to the right and whose green grows downwards, blue is 7."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(width), np.arange(height)[:, None], 7
    PIL.fromarray(pixels).save(path)
    return pixels


def test_a_photograph_is_scaled_cut_and_normalised(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 40, 60)
    exact = Preprocessing(resize=40, crop=30, mean=(1.0, 2.0, 3.0), deviation=(2.0, 4.0, 8.0))  # no scaling, so exact
    values = read_photo(tmp_path / "a.png", exact)
    assert values.shape == (3, 30, 30) and values.dtype == np.float32 and values.flags.c_contiguous
    cut = pixels[5:35, 15:45].astype(np.float32)
    assert np.array_equal(values, ((cut - [1, 2, 3]) / [2, 4, 8]).transpose(2, 0, 1).astype(np.float32))


def test_orders_of_channels_and_scaling(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 40, 60)
    plain = {"mean": (0.0,) * 3, "deviation": (1.0,) * 3}
    blue_first = read_photo(tmp_path / "a.png", Preprocessing(40, 40, order="bgr", **plain))  # type: ignore[arg-type]
    assert (blue_first[0] == 7).all() and np.array_equal(blue_first[2], pixels[:, 10:50, 0])
    gray = read_photo(tmp_path / "a.png", Preprocessing(20, 20, mean=(0.0,), deviation=(1.0,), order="gray"))
    assert gray.shape == (1, 20, 20)
    for interpolation in ("bilinear", "bicubic"):
        half = read_photo(tmp_path / "a.png", Preprocessing(20, 20, interpolation, **plain))  # type: ignore[arg-type]
        assert np.abs(half[0] - pixels[::2, 10:50:2, 0] - 0.5).max() <= 1


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="cannot read the photograph"):
        read_photo(tmp_path / "none.png", Preprocessing())
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PhotoError, match=r"cannot read the photograph .*text.png"):
        read_photo(tmp_path / "text.png", Preprocessing())


def test_the_best_classes() -> None:
    guesses = top([0.0, 3.0, 1.0, 2.0], ["a", "b", "c", "d"], 3)
    assert [(g.index, g.name) for g in guesses] == [(1, "b"), (3, "d"), (2, "c")]
    assert guesses[0].probability == pytest.approx(np.exp(3) / np.exp([0, 3, 1, 2]).sum())
    assert [g.probability for g in top([0.25, 0.75], None)] == [0.75, 0.25]  # probabilities stay
    assert top([1000.0, -1000.0], None)[0].probability == 1
    assert top([0.25, 0.75], ["only one"])[0].name == ""


class Counting:
    """A session whose scores are the first pixels of each picture."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def run(self, names: Any, feeds: dict[str, Any]) -> list[Any]:
        self.runs.append(feeds["image"])
        return [feeds["image"][:, :1, 0, :2].reshape(len(feeds["image"]), 2)]


def tiny(last: bool = False) -> Network:
    net = GraphBuilder("tiny")
    net.input("image", ("N", 4, 4, 3) if last else ("N", 3, 4, 4))
    graph = net.graph(y=net.relu("image"))
    plain = Preprocessing(4, 4, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    return Network("tiny", graph, plain, "none", True, None, last)


def test_photographs_run_in_batches_of_one_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for index, path in enumerate(paths):
        PIL.fromarray(np.full((4, 4, 3), index, np.uint8)).save(path)
    session, done = Counting(), list[int]()
    found = list(batches(tiny(), session, paths, 2, done.append))  # type: ignore[arg-type]
    assert [path for path, _ in found] == paths and [scores[0] for _, scores in found] == [0, 1, 2, 3, 4]
    assert [run.shape for run in session.runs] == [(2, 3, 4, 4)] * 3
    assert done == [2, 4, 5]


def test_channels_last_inputs_are_fed_channels_last() -> None:
    photo = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    feeds = feeds_of(tiny(last=True), [photo])
    assert np.array_equal(feeds["image"][0], photo.transpose(1, 2, 0)) and feeds["image"].flags.c_contiguous


def test_networks_from_files(tmp_path: Path) -> None:
    net = GraphBuilder("filed")
    x = net.input("pixels", ("N", 3, 20, 20))
    net.graph(y=net.linear(net.flatten(net.global_average_pool(x)), 1000)).save_onnx(tmp_path / "a.onnx")
    network = load_network(str(tmp_path / "a.onnx"), preprocessing="caffe")
    assert (network.preprocessing.crop, network.preprocessing.order) == (20, "bgr") and not network.channels_last
    last = GraphBuilder("last")
    x = last.input("pixels", (1, 20, 20, 3))
    last.graph(y=last.relu(x)).save_onnx(tmp_path / "b.onnx")
    assert load_network(str(tmp_path / "b.onnx")).channels_last
    flat = GraphBuilder("flat")
    flat.graph(y=flat.relu(flat.input("pixels", (1, 7)))).save_onnx(tmp_path / "c.onnx")
    with pytest.raises(PhotoError, match=r"must have one input .* it has pixels \(1, 7\)"):
        load_network(str(tmp_path / "c.onnx"))
    with pytest.raises(PhotoError, match=f"one of {', '.join(PREPROCESSING)}"):
        load_network(str(tmp_path / "a.onnx"), preprocessing="nothing")
    with pytest.raises(GraphError, match="weights is for networks of the zoo"):
        load_network(str(tmp_path / "a.onnx"), weights=tmp_path / "w.pth")


def test_networks_of_the_zoo_say_where_their_weights_come_from() -> None:
    random = load_network("ResNet-20")
    assert not random.trained and random.weights == "random" and random.names is None
    with pytest.raises(GraphError, match="no network 'nothing', and no such file"):
        load_network("nothing")


# ---- the right answers ----------------------------------------------------------------------------------------------


def trained(name: str) -> Network:
    row = PRETRAINED[name]
    if packaged(row.package, *row.file) is None:
        pytest.skip(f"{row.distribution} is not installed")
    return load_network(name)


def labelled_photos() -> list[tuple[Path, int]]:
    """Photographs of ImageNet that come with foolbox, which `make test` installs; the label is in the name."""
    folder = packaged("foolbox", "data", "imagenet_00_243.jpg")
    if folder is None:
        pytest.skip("foolbox, which has labelled photographs, is not installed: pip install --no-deps foolbox")
    found = sorted(folder.parent.glob("imagenet_*.jpg"))
    return [(path, int(re.findall(r"\d+", path.stem)[1])) for path in found]


@pytest.mark.parametrize(("name", "first", "five"), [("efficientnet_lite0", 18, 19), ("squeezenet1_1", 14, 17)])
def test_trained_networks_know_the_labelled_photographs(name: str, first: int, five: int) -> None:
    network, photos = trained(name), labelled_photos()
    assert len(photos) == 20
    session = InferenceSession(network.graph)
    scores = dict(batches(network, session, [path for path, _ in photos], 1))
    guesses = [([guess.index for guess in top(scores[path], None)], label) for path, label in photos]
    assert sum(best[0] == label for best, label in guesses) >= first
    assert sum(label in best for best, label in guesses) >= five
    samples = dict(batches(network, session, [path for path in sample_photos() if path.name in ANSWERS], 1))
    for path, values in samples.items():
        assert top(values, None)[0].index in ANSWERS[path.name]
    agree_with_onnx_runtime(network, {**scores, **samples})


def agree_with_onnx_runtime(network: Network, scores: dict[Path, Any]) -> None:
    """The same five classes in the same order, and scores within 1e-4 of the largest."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(network.graph.save_onnx(), providers=["CPUExecutionProvider"])
    for path, values in scores.items():
        (expected,) = session.run(None, feeds_of(network, [read_photo(path, network.preprocessing)]))
        assert np.abs(values - expected[0]).max() < 1e-4 * np.abs(expected).max()
        assert [guess.index for guess in top(values, None)] == [guess.index for guess in top(expected[0], None)]


#: classes of cats (tabby, tiger cat, Persian, Siamese, Egyptian), and of coffee (cup, espresso)
ANSWERS = {"chelsea.png": range(281, 286), "coffee.png": (967, 968)}
