"""The demonstration, piece by piece, with pictures and weights made here; the real ones where they are installed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sevenloops import demo
from sevenloops.bench.results import BenchRun, Row, Timing
from sevenloops.cli.demo import demo_command, render_ladder
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv


@pytest.fixture
def photo() -> demo.FloatArray:
    return np.random.default_rng(0).random((1, 19, 23, 3), np.float32)


def test_edges_are_where_the_brightness_changes() -> None:
    step = np.zeros((1, 12, 16, 3), np.float32)
    step[:, :, 8:] = 1
    found = demo.edges(step)
    assert found.shape == (12, 16)
    np.testing.assert_allclose(found[:, 7:9], 1, rtol=1e-6)
    np.testing.assert_allclose(np.delete(found, (7, 8), axis=1), 0, atol=1e-6)
    second = demo.laplacian(step)
    # Float32 sums: the two sides of a step are each other's negative up to rounding.
    np.testing.assert_allclose([second[5, 7], second[5, 8], second[5, 2]], [1, 0, 0.5], atol=1e-6)


def test_blur_keeps_what_is_flat_and_smooths_what_is_not(photo: demo.FloatArray) -> None:
    np.testing.assert_allclose(demo.blur(np.full_like(photo, 0.25)), 0.25, rtol=1e-5)
    blurred = demo.blur(photo)
    assert blurred.shape == photo.shape[1:] and blurred.std() < photo.std() / 3


def test_the_first_layer_is_what_the_network_computes(photo: demo.FloatArray, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hwio, bias = rng.standard_normal((3, 3, 3, 8), np.float32), rng.standard_normal(8, np.float32)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"conv1": [hwio, bias]}, 4))
    layer = demo.squeezenet_conv1(tmp_path / "w.pkl")
    maps = demo.feature_maps(photo, layer)
    problem = ConvProblem(1, 3, (19, 23), 8, (3, 3), stride=(2, 2))
    bgr = photo[..., ::-1].astype(np.float64) * 255 - [103.939, 116.779, 123.68]
    expected = np.maximum(reference_conv(problem, bgr, hwio.transpose(3, 2, 0, 1)) + bias, 0)[0]
    np.testing.assert_allclose(maps, expected, atol=2e-5 * np.abs(expected).max())
    assert demo.filter_grid(layer, scale=2).ndim == 3 and demo.map_grid(maps).ndim == 2


def test_the_stem_folds_its_normalisation(photo: demo.FloatArray, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    norm = {name: rng.random(5, np.float32) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    weight = rng.standard_normal((5, 3, 3, 3), np.float32)
    state = {"_conv_stem.weight": weight, **{f"_bn0.{name}": values for name, values in norm.items()}}
    torch.save({name: torch.from_numpy(values) for name, values in state.items()}, tmp_path / "w.pth")
    layer = demo.efficientnet_stem(tmp_path / "w.pth")
    problem = ConvProblem(1, 3, (19, 23), 5, (3, 3), stride=(2, 2), padding="same")  # type: ignore[arg-type]
    sums = reference_conv(problem, (photo * 255 - 127) / 128, weight)
    normal = (sums - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-3) * norm["weight"] + norm["bias"]
    # Folding leaves zero padding where the network pads zeros too, since the shift is subtracted before.
    np.testing.assert_allclose(demo.feature_maps(photo, layer), np.clip(normal, 0, 6)[0], atol=1e-5)


def test_photographs_and_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    demo.save_picture(tmp_path / "a.png", np.linspace(-1, 2, 2000 * 30 * 3).reshape(30, 2000, 3))
    photo = demo.load_photo(tmp_path / "a.png")
    assert photo.shape == (1, 15, 1024, 3) and photo.dtype == np.float32 and 0 <= photo.min() < photo.max() <= 1
    image.new("L", (5, 4), 255).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(demo.load_photo(tmp_path / "grey.png"), np.ones((1, 4, 5, 3)))
    (tmp_path / "bad.png").write_text("no picture")
    for name in ("bad.png", "none.png"):
        with pytest.raises(demo.DemoError, match=name):
            demo.load_photo(tmp_path / name)


def a_ladder(*ignored: object) -> BenchRun:
    layer = demo.ladder_layer()
    timings = {name: Timing(name, ((1e-3,),), error=1e-7) for name in demo.LADDER}
    timings["openvino"] = Timing("openvino", reason="openvino is not installed")
    row = Row(layer.name, layer.problem, layer.repeats, timings)
    return BenchRun((row,), demo.LADDER, 500.0, 10.0, {"cpu": "a processor", "threads": 2})


def test_the_ladder_shows_every_rung() -> None:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(render_ladder(a_ladder()))
    text = capture.get()
    for part in (
        "sevenloops naive",
        "sevenloops im2col",
        "sevenloops direct",
        "sevenloops winograd",
        "231.2",
        "46.2",
        "openvino is not inst",
    ):
        assert part in text


def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    monkeypatch.setattr(demo, "ladder", a_ladder)
    demo_command(tmp_path / "pictures", None, threads=1)
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"photo.png", "edges.png", "laplacian.png", "blur.png"} <= written
    assert ("filters.png" in written) == ("feature_maps.png" in written) == (demo.trained_layer() is not None)
    assert "edges.png" in capsys.readouterr().out
