"""Whole networks against other engines: shifts without a shift operator, the PyTorch converter, one small run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sevenloops.bench.network_bench import case, random_feeds, run_networks
from sevenloops.bench.report import render_starts, to_json
from sevenloops.bench.runner import BenchError, Options
from sevenloops.bench.shift_graphs import has_shifts, without_shifts
from sevenloops.bench.shift_roads import ROADS
from sevenloops.cli.main import app
from sevenloops.cli.problems import tunable_problems
from sevenloops.errors import GraphError, ProblemError, Unsupported
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.ir import Graph
from sevenloops.problem import ConvProblem, GemmProblem
from sevenloops.shift import CONVENTIONS, Shift, channel_offsets


def shifting(kernel: tuple[int, int], convention: str, stride: int) -> Graph:
    net = GraphBuilder("shifting")
    x = net.input("x", ("N", 20, 7, 9))
    y = net.shift(net.relu(x), Shift(kernel, (1, 1), convention))
    return net.graph(y=net.relu(net.conv(y, 5, 1, stride=stride, name="c")))


def by_definition(graph: Graph, x: Any) -> Any:
    """NumPy in float64."""
    (node,) = [node for node in graph.nodes if node.op == "Shift"]
    conv = next(node for node in graph.nodes if node.op == "Conv")
    x = np.maximum(x.astype(np.float64), 0)
    moved = np.zeros_like(x)
    height, width = x.shape[2:]
    for c, (dy, dx) in enumerate(channel_offsets(Shift(node.get("kernel"), (1, 1), node.get("convention")), x.shape[1])):
        rows, columns = range(max(0, -dy), min(height, height - dy)), range(max(0, -dx), min(width, width - dx))
        for row in rows:
            for column in columns:
                moved[:, c, row, column] = x[:, c, row + dy, column + dx]
    s = conv.get("strides")[0]
    weight, bias = (graph.constants[name] for name in conv.inputs[1:])
    y = np.einsum("nchw,oc->nohw", moved[:, :, ::s, ::s], weight[:, :, 0, 0]) + bias[:, None, None]
    return np.maximum(y, 0)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 1), 2)])
def test_shifts_in_operators_of_onnx(road: str, convention: str, kernel: tuple[int, int], stride: int) -> None:
    pytest.importorskip("torch")
    from sevenloops.bench.torch_model import compute

    graph = shifting(kernel, convention, stride)
    plain = without_shifts(graph, {"x": (2, 20, 7, 9)}, road)
    assert has_shifts(graph) and not has_shifts(plain)
    feeds = random_feeds(graph, {"x": (2, 20, 7, 9)}, 0)
    (found,) = compute(plain, feeds)
    assert np.allclose(found, by_definition(graph, feeds["x"]), atol=1e-12)


def test_shifts_that_something_else_reads_are_refused() -> None:
    net = GraphBuilder("other")
    y = net.shift(net.input("x", (1, 9, 4, 4)))
    with pytest.raises(Unsupported, match="only 1x1 convolutions behind a shift"):
        without_shifts(net.graph(y=net.relu(y)), {}, "slices")
    with pytest.raises(Unsupported, match="one of the roads"):
        without_shifts(shifting((3, 3), "modulo", 1), {"x": (1, 20, 7, 9)}, "detour")


def everything() -> Graph:
    """A network of (almost) every operator that is converted to PyTorch."""
    net = GraphBuilder("everything")
    x = net.input("x", ("N", 4, 17, 19))
    y = net.clip(net.batch_norm(net.conv(x, 8, 3, stride=2, padding="same", bias=False)), 0, 6)
    y = net.relu(net.conv(y, 8, 3, padding=((1, 2), (0, 3)), dilation=2, groups=4))
    a = net.max_pool(y, 3, stride=2, padding=((0, 1), (1, 1)))
    b = net.average_pool(y, 3, stride=2, padding=1, ceil=True)
    c = net.average_pool(y, 3, stride=2, padding=((1, 1), (1, 1)), count_include_pad=True)
    y = net.concat([net.lrn(net.max_pool(y, 3, stride=2, padding=1), 5, 1e-2, 0.75, 1.0), net.activation("Sigmoid", c)])
    y = net.add(net.activation("Tanh", y), net.activation("LeakyRelu", y, alpha=0.2))
    y = net.relu(net.conv_transpose(y, 6, 3, stride=2, padding=1, output_padding=1))
    y = net.activation("HardSigmoid", y, alpha=0.3, beta=0.4)
    y = net.dropout(net.flatten(net.global_average_pool(y)))
    pooled = net.concat([net.flatten(net.global_average_pool(value)) for value in (a, b)])
    return net.graph(y=net.softmax(net.linear(net.concat([y, pooled]), 7)))


def test_the_converter_to_pytorch_agrees_with_onnx_runtime() -> None:
    pytest.importorskip("torch")
    ort = pytest.importorskip("onnxruntime")
    from sevenloops.bench.torch_model import compute, peer

    graph = everything()
    feeds = random_feeds(graph, {"x": (2, 4, 17, 19)}, 1)
    session = ort.InferenceSession(graph.save_onnx(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    (found,) = compute(graph, feeds)
    assert found.dtype == np.float64 and np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    with pytest.raises(Unsupported, match="Shift is not among the operators"):
        peer(shifting((3, 3), "modulo", 1), {"x": (1, 20, 7, 9)})


def test_sizes_of_a_case() -> None:
    net = GraphBuilder("open")
    graph = net.graph(y=net.relu(net.input("x", ("N", 3, "H", 8))))
    assert case("a", graph, 4, {"x": (1, 3, 5, 8)}).sizes == {"x": (1, 3, 5, 8)}
    with pytest.raises(GraphError, match="needs a size: --shape x="):
        case("a", graph, 4)
    with pytest.raises(GraphError, match="has no input 'z'; its inputs are x"):
        case("a", graph, 4, {"x": (1, 3, 5, 8), "z": (1,)})
    with pytest.raises(BenchError, match="no network"):
        run_networks([], Options(()))


def test_a_small_run() -> None:
    """Every engine that is installed runs the same file and gives the same answer; who cannot has a reason."""
    pytest.importorskip("onnxruntime")
    net = GraphBuilder("small")
    x = net.input("x", ("N", 9, 8, 8))
    y = net.relu(net.conv(net.shift(x, 3), 6, 1))
    graph = net.graph(y=net.linear(net.flatten(net.global_average_pool(y)), 4))
    options = Options(("onnxruntime", "numpy"), threads=1, rounds=1, slice_s=0.001, min_iterations=1, pause_s=0)
    run = run_networks([case("small", graph, 2)], options)
    (row,) = run.rows
    assert str(row.problem) == "x=2x9x8x8" and row.problem.macs == 2 * (64 * 9 * 6 + 6 * 4)
    assert row.timings["numpy"].reason == "numpy is compared on single layers only"
    for name in ("sevenloops", "onnxruntime"):
        timing = row.timings[name]
        assert timing.reason is None and timing.rounds_s and timing.details["start_s"] > 0
    peer = row.timings["onnxruntime"]
    assert peer.error is not None and peer.error < 1e-5
    assert peer.note.partition(",")[0] in ROADS
    engines = json.loads(to_json(run))["rows"][0]["engines"]
    assert engines["sevenloops"]["details"]["not_compiled"] == []
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render_starts(run))
    text = console.export_text()
    assert f"{peer.error:.1e}" in text and f"{peer.details['start_s']:.2f}" in text and "errors are against" in text


# ---- commands -------------------------------------------------------------------------------------------------------


def test_the_layers_of_a_network_are_tuned() -> None:
    problems = tunable_problems(["LeNet-5"], 3, [])
    assert [type(problem) for problem in problems] == [ConvProblem] * 2 + [GemmProblem] * 3
    assert problems[0].macs == 3 * 28 * 28 * 25 * 6
    assert tunable_problems(["gemm", "m3", "n4", "k5"], 1, []) == [GemmProblem(3, 4, 5)]
    with pytest.raises(ProblemError, match="cannot read 'input'"):
        tunable_problems(["lenet5"], 1, ["input"])


def test_bench_takes_a_network_where_no_command_is_named() -> None:
    result = CliRunner().invoke(app, ["bench", "nothing-like-this"])
    assert result.exit_code == 2 and "no network 'nothing-like-this'" in result.output
    assert "Time whole networks" in CliRunner().invoke(app, ["bench", "--help"]).output


def test_run_classifies_and_measures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    for index, path in enumerate(paths):
        image.fromarray(np.full((30, 40), 50 * index, np.uint8)).save(path)
    words = ["run", "lenet5", *paths, "--batch", "2", "--against", "none", "--threads", "1"]
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["inputs"] == {"input": [2, 1, 28, 28]} and not document["trained"]
    assert [Path(photo["file"]).name for photo in document["photographs"]] == ["0.png", "1.png", "2.png"]
    assert all(len(photo["classes"]) == 5 for photo in document["photographs"])
    assert sum(layer["macs"] for layer in document["layers"]) == 2 * 416_520
    assert document["latency_s"] > 0 and all(layer["seconds"] >= 0 for layer in document["layers"])
    text = CliRunner().invoke(app, [*words, "--no-layers"]).output
    assert "random weights" in text and "latency of a batch of 2" in text and "conv1" not in text
