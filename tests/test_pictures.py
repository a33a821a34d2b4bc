"""Filters and feature maps: the right pixels in the right places, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops.analysis.pictures import feature_maps, filter_tiles, first_layer, grid, scaled, up_to
from sevenloops.cli.main import app
from sevenloops.errors import GraphError
from sevenloops.graph import Graph
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.evaluate import evaluate
from sevenloops.models import build
from sevenloops.report.charts import ReportError
from sevenloops.report.pictures import save

RNG = np.random.default_rng(8)


def network() -> Graph:
    net = GraphBuilder("small")
    y = net.relu(net.conv(net.input("pixels", ("N", 3, 20, 20)), 6, 3, name="first"))
    z = net.max_pool(net.conv(y, 4, 3, stride=2, name="second"), 2, stride=2)
    return net.graph(y=net.linear(net.flatten(z), 5))


def test_tiles_are_the_weights() -> None:
    weight = RNG.standard_normal((5, 3, 2, 4)).astype(np.float32)
    tiles = filter_tiles(weight, scale=3)
    assert len(tiles) == 5 and all(tile.shape == (6, 12, 3) for tile in tiles)
    assert all((tile.min(), tile.max()) == (0, 1) for tile in tiles)
    expected = (weight[2] - weight[2].min()) / (weight[2].max() - weight[2].min())
    np.testing.assert_allclose(tiles[2][::3, ::3], expected.transpose(1, 2, 0), rtol=1e-6)
    (grey,) = filter_tiles(weight[:1, :2], scale=1)
    np.testing.assert_allclose(grey, scaled(weight[0, :2].mean(axis=0)))
    assert not scaled(np.full((2, 2), 7, np.float32)).any()


def test_a_grid_is_nearly_square() -> None:
    tiles = [np.full((3, 5), 0.1 * at, np.float32) for at in range(7)]
    canvas = grid(tiles, gap=1)
    assert canvas.shape == (3 * 4 + 1, 3 * 6 + 1)
    for at, tile in enumerate(tiles):
        row, column = 1 + at // 3 * 4, 1 + at % 3 * 6
        np.testing.assert_array_equal(canvas[row : row + 3, column : column + 5], tile)
    assert (canvas[0] == 1).all() and (canvas[:, 0] == 1).all() and (canvas[9:12, 7:] == 1).all()


def test_alexnet_has_its_96_filters() -> None:
    found = first_layer(build("alexnet_two_towers", batch=1))
    assert found.weight.shape == (96, 3, 11, 11)
    assert grid(filter_tiles(found.weight, 2)).shape == (10 * (22 + 4) + 4, 10 * (22 + 4) + 4, 3)


def test_maps_of_any_layer_are_what_it_computes() -> None:
    graph, x = network(), RNG.standard_normal((2, 3, 20, 20)).astype(np.float32)
    part = up_to(graph, "second")
    assert [node.label for node in part.nodes] == ["first", "relu1", "second"] and len(part.outputs) == 1
    expected = evaluate(part, {"pixels": x.astype(np.float64)})[part.outputs[0]]
    maps = feature_maps(graph, "second", {"pixels": x})
    assert maps.shape == (4, 8, 8)
    np.testing.assert_allclose(maps, expected[0], atol=2e-5 * np.abs(expected).max())
    with pytest.raises(GraphError, match="small has no layer 'third'; its layers are first, relu1, second"):
        feature_maps(graph, "third", {"pixels": x})
    with pytest.raises(GraphError, match="has no maps"):
        feature_maps(graph, graph.nodes[-1].label, {"pixels": x})


def test_pictures_keep_every_pixel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    colours = RNG.random((7, 5, 3)).astype(np.float32)
    save(tmp_path / "a.png", colours)
    with image.open(tmp_path / "a.png") as picture:
        np.testing.assert_allclose(np.asarray(picture.convert("RGB")) / 255, colours, atol=1 / 255)
    save(tmp_path / "grey.png", np.array([[0.0, 0.5], [1.0, 2.0]]))
    with image.open(tmp_path / "grey.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), [[0, 128], [255, 255]])
    save(tmp_path / "a.svg", colours)
    assert "<svg" in (tmp_path / "a.svg").read_text()
    with pytest.raises(ReportError, match=r"a.jpg must end with one of .png, .svg"):
        save(tmp_path / "a.jpg", colours)


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    model, photo = tmp_path / "small.onnx", tmp_path / "photo.png"
    network().save_onnx(model)
    image.fromarray(RNG.integers(0, 255, (24, 30, 3), np.uint8)).save(photo)

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["filters", str(model), *options])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert "first, 6 filters of 3 x 3, colour" in run("-o", str(tmp_path / "a.svg"))
    assert "6 maps of 18 x 18" in run("-o", str(tmp_path / "b.png"), "--image", str(photo))
    assert "second, 4 maps of 8 x 8" in run("-o", str(tmp_path / "c.png"), "--image", str(photo), "--layer", "second")
    with image.open(tmp_path / "c.png") as picture:
        assert picture.size == (2 * 12 + 4, 2 * 12 + 4)
    result = CliRunner().invoke(app, ["filters", str(model), "--layer", "second"])
    assert result.exit_code == 2 and "--layer needs --image" in result.stderr
