"""Weights of a session's plans: whose they are, which plans share them, and what may happen to the model's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sevenloops import InferenceSession
from sevenloops.analysis.profile import profile
from sevenloops.graph import Graph, Node, Value
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.shapes import infer
from sevenloops.machine import Machine
from test_session import agree, network, random


def computed_weight(kind: str) -> Graph:
    """A product whose weights are computed from the height of an image."""
    nodes = [Node("Shape", ("x",), ("height",), {"start": 2, "end": 3})]
    constants: dict[str, npt.NDArray[np.generic]] = {"shape": np.array((64, 48))}
    if kind == "one element":
        constants |= {"before": random(301), "behind": random(64 * 48 - 302)}
        nodes.append(Node("Cast", ("height",), ("number",), {"to": 1}))
        nodes.append(Node("Concat", ("before", "number", "behind"), ("flat",), {"axis": 0}))
        nodes.append(Node("Reshape", ("flat", "shape"), ("w",)))
    else:  # a view of a constant, from a place that depends on the height
        constants |= {"whole": random(128, 48), "rows": np.array([64]), "sum": np.array([64])}
        nodes.append(Node("Sub", ("sum", "height"), ("rest",)))
        nodes.append(Node("Concat", ("height", "rows", "rest"), ("parts",), {"axis": 0}))
        nodes.append(Node("Split", ("whole", "parts"), ("", "w", ""), {"axis": 0}))
    nodes += [Node("GlobalAveragePool", ("x",), ("mean",)), Node("Flatten", ("mean",), ("row",), {"axis": 1})]
    nodes.append(Node("MatMul", ("row", "w"), ("y",)))
    return Graph(tuple(nodes), (Value("x", (1, 64, "H", 12)),), ("y",), constants)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("kind", ["one element", "a view"])
def test_weights_that_depend_on_sizes(kind: str, as_file: bool, tmp_path: Path) -> None:
    """No plan gets the weights of another, whatever they have in common; first and again."""
    graph = computed_weight(kind)
    if as_file:
        pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
        graph.save_onnx(tmp_path / "net.onnx")
    session = InferenceSession(tmp_path / "net.onnx" if as_file else graph)
    for height in (12, 13, 12, 14):
        x = random(1, 64, height, 12)
        expected = evaluate(infer(graph, {"x": x.shape}), {"x": x})["y"]
        got = session.run(None, {"x": x})[0]
        assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()


def test_one_matrix_read_both_ways() -> None:
    """A square matrix that one product reads as it is and another transposed, as with tied embeddings."""
    nodes = (
        Node("MatMul", ("x", "w"), ("y",)),
        Node("Reshape", ("y", "shape"), ("flat",)),
        Node("Gemm", ("flat", "w"), ("z",), {"transB": 1}),
    )
    constants = {"w": random(64, 64), "shape": np.array([48, 64])}
    x = random(1, 48, 64)
    for passes in (True, False):
        agree(Graph(nodes, (Value("x", x.shape),), ("z",), constants), {"x": x}, passes=passes)


def test_one_kernel_at_two_strides() -> None:
    """Transposed convolutions of one shape of weights, whose taps are packed in an order that depends on the stride."""
    nodes = (
        Node("ConvTranspose", ("x", "w"), ("y",), {"strides": (1, 1), "pads": (1, 1, 1, 1)}),
        Node("ConvTranspose", ("y", "w"), ("z",), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    )
    x = random(1, 16, 9, 8)
    agree(Graph(nodes, (Value("x", x.shape),), ("z",), {"w": random(16, 16, 4, 4)}), {"x": x})


def test_plans_share_weights() -> None:
    """Weights that do not depend on sizes are packed once, and go with the last plan that needs them."""
    session = InferenceSession(network("residual block"))
    first, second = (session.plan({"x": (1, 3, size, size)}) for size in (8, 9))
    kept = [{id(array) for packed in plan.packed.values() for array in packed.values()} for plan in (first, second)]
    assert len(kept[0]) == 4
    assert kept[0] & kept[1]


@pytest.mark.parametrize("fixed", [True, False])
def test_a_model_that_was_loaded_is_loaded(fixed: bool, tmp_path: Path) -> None:
    """What happens to its file, or to the caller's memory, is nothing to a session."""
    pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
    build = GraphBuilder("net", seed=3)
    x = build.input("x", (1, 64, 9, 9) if fixed else ("N", 64, "H", "W"))
    graph = build.graph(y=build.linear(build.flatten(build.global_average_pool(build.conv(x, 64, 3))), 600))
    image = random(1, 64, 9, 9)
    expected = InferenceSession(graph).run(None, {"x": image})[0]
    for change in (lambda data: b"", lambda data: b"\xff" * len(data)):
        path = tmp_path / "net.onnx"
        data = graph.save_onnx(path)
        memory = bytearray(data)
        sessions = [InferenceSession(path), InferenceSession(memory)]  # type: ignore[arg-type]
        with path.open("r+b") as file:
            file.truncate(len(change(data)))
            file.write(change(data))
        memory[:] = b"\xff" * len(memory)
        for session in sessions:
            np.testing.assert_array_equal(session.run(None, {"x": image})[0], expected)


def test_weights_are_let_go_of_where_no_plan_can_need_them(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
    build = GraphBuilder("net", seed=3)
    graph = build.graph(y=build.conv(build.input("x", (1, 64, 9, 9)), 64, 3))
    (name,) = (name for name, array in graph.constants.items() if array.ndim == 4)
    graph.save_onnx(tmp_path / "net.onnx")
    session = InferenceSession(tmp_path / "net.onnx")
    left = session.graph.constants[name]
    assert left.shape == (64, 64, 3, 3) and not any(left.strides) and np.isnan(left).all()
    assert session.graph.params == graph.params
    x, machine = random(1, 64, 9, 9), Machine.described("avx2")
    counted = [profile(one, {"x": x}, 1, machine=machine).params for one in (session, InferenceSession(graph))]
    assert counted[0] == counted[1] == graph.params
    expected = session.run(None, {"x": x})[0]
    with pytest.MonkeyPatch.context() as patch:  # new records of tuning make no new plan of it
        patch.setattr("sevenloops.records.generation", -1)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)
    assert not np.isnan(InferenceSession(graph).graph.constants[name]).any()


@pytest.mark.parametrize("readers", [1, 2])
def test_columns_in_another_order(readers: int, tmp_path: Path) -> None:
    """Weights of a file are put into the order of a flattened image where they lie, unless somebody else reads them."""
    pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
    nodes, sums = [], []
    for at in range(readers):  # the second is read as it is
        nodes.append(Node("Conv", ("x", f"k{at}"), (f"c{at}",), {}) if not at else Node("Relu", ("m",), (f"c{at}",)))
        nodes.append(Node("Flatten", (f"c{at}",), (f"f{at}",), {"axis": 1}))
        nodes.append(Node("Gemm", (f"f{at}", "w"), (f"y{at}",), {"transB": 1}))
        sums.append(f"y{at}")
    x, m = random(1, 8, 7, 6), random(1, 16, 5, 4)
    feeds = {"x": x, "m": m}
    inputs = tuple(Value(name, array.shape) for name, array in feeds.items())
    graph = Graph(tuple(nodes), inputs, tuple(sums), {"k0": random(16, 8, 3, 3), "w": random(40, 320)})
    graph.save_onnx(tmp_path / "net.onnx")
    got = InferenceSession(tmp_path / "net.onnx").run(None, feeds)
    for name, y in zip(sums, got):
        expected = evaluate(graph, feeds)[name]
        assert np.abs(y - expected).max() <= 2e-5 * np.abs(expected).max()
