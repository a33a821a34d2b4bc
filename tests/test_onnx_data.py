"""Where the data of an ONNX model's tensors come from: the model itself, or files of its folder and no others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shapes import infer

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from test_onnx import FLOAT, V3, model, randoms  # noqa: E402


def outside(array: Any, name: str, location: str) -> Any:
    """A tensor whose data lie in a file."""
    tensor = numpy_helper.from_array(array, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def with_outside(place: str, location: str) -> Any:
    """A model that adds a constant of a file beside it, which stands in some place of the model."""
    tensor = outside(V3, "k", location)
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    add = helper.make_node("Add", ["x", "k"], ["y"])
    if place == "initializer":
        proto = model([add], {"x": [3]}, ["y"])
        proto.graph.initializer.append(tensor)
    elif place == "sparse":
        proto = model([add], {"x": [3]}, ["y"])
        proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[3]))
        proto.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(np.arange(3)))
    elif place == "Constant":
        proto = model([constant, add], {"x": [3]}, ["y"])
    elif place == "body":
        made = helper.make_tensor_value_info("y", FLOAT, None)
        bodies = {f"{name}_branch": helper.make_graph([constant, add], name, [], [made]) for name in ("then", "else")}
        proto = model([helper.make_node("If", ["c"], ["y"], **bodies)], {"x": [3]}, ["y"], {"c": np.array(True)})
    else:
        function = helper.make_function("own", "F", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 21)])
        proto = model([helper.make_node("F", ["x"], ["y"], domain="own")], {"x": [3]}, ["y"], functions=[function])
        proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


PLACES = ("initializer", "sparse", "Constant", "body", "function")


@pytest.mark.parametrize("place", PLACES)
def test_data_beside_the_model_wherever_a_tensor_stands(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's folder counts, not the current one; bytes and messages have none."""
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k.bin").write_bytes(np.full(3, 9, np.float32).tobytes())
    (tmp_path / "model" / "k.bin").write_bytes(V3.tobytes())
    path, proto = tmp_path / "model" / "model.onnx", with_outside(place, "k.bin")
    path.write_bytes(proto.SerializeToString())
    graph = infer(load_onnx(path), {"x": (3,)})
    (tmp_path / "model" / "k.bin").unlink()
    np.testing.assert_allclose(evaluate(graph, {"x": V3})["y"], 2 * V3, rtol=1e-6)
    with pytest.raises(GraphError, match=r"'k' cannot be read from 'k\.bin'"):
        load_onnx(path)
    for source in (proto, proto.SerializeToString()):
        with pytest.raises(GraphError, match="the data of 'k' lie in another file: pass the path"):
            load_onnx(source)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["above", "absolute", "link", "hard link", "folder", "pipe"])
def test_no_file_outside_of_the_folder_is_read(way: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    secret, inside = tmp_path / "secret.bin", tmp_path / "model" / "k.bin"
    secret.write_bytes(V3.tobytes())
    if way == "link":
        inside.symlink_to(secret)
    elif way == "hard link":
        inside.hardlink_to(secret)
    elif way == "folder":
        inside.mkdir()
    elif way == "pipe":
        os.mkfifo(inside)
    location = {"above": "../secret.bin", "absolute": str(secret)}.get(way, "k.bin")
    path = tmp_path / "model" / "model.onnx"
    path.write_bytes(with_outside(place, location).SerializeToString())
    with pytest.raises(GraphError, match="the data of 'k' cannot be read from"):
        load_onnx(path)


def test_large_weights_of_every_source_are_the_same(tmp_path: Path) -> None:
    """Files are read into memory of their own, bytes are looked at where they lie; empty ones and float64 too."""
    weights = {"a": randoms(1, 40, 50), "b": randoms(2, 3000).astype(np.float64), "none": np.zeros((0, 7), np.float32)}
    proto = model([helper.make_node("MatMul", ["x", "a"], ["y"])], {"x": [3, 40]}, ["y", *weights], weights)
    proto.graph.initializer[2].doc_string = "x" * 5000
    proto.graph.initializer[2].raw_data = b""
    path = tmp_path / "model.onnx"
    data = proto.SerializeToString()
    path.write_bytes(data)
    for source in (path, data, bytearray(data), memoryview(data), proto):
        graph = load_onnx(source)
        for name, array in weights.items():
            np.testing.assert_array_equal(graph.constants[name], array)
            assert graph.constants[name].dtype == array.dtype
