"""ONNX models read without the `onnx` package: the same graphs as with it, and no guesses."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph import onnx_import, onnx_messages, onnx_schemas
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.dtypes import ELEMENTS
from sevenloops.graph.ir import Graph
from sevenloops.graph.onnx_import import NATIVE, load_onnx

onnx = pytest.importorskip("onnx")
helper: Any = onnx.helper if onnx else None
LISTED = ("float32", "float64", "int64", "int32", "int16", "int8", "uint16", "uint8", "bool")


def plain_model() -> Any:
    """A constant of every dtype, raw and listed, attributes of every plain kind, sizes with and without names."""
    rng = np.random.default_rng(0)
    tensors = []
    for name in LISTED:
        values = rng.integers(-3 if name[0] != "u" else 0, 4, (2, 3)).astype(name)
        number = next(number for number, known in ELEMENTS.items() if known == name)
        tensors.append(helper.make_tensor(f"{name}_listed", number, values.shape, values.ravel().tolist()))
        tensors.append(onnx.numpy_helper.from_array(values, f"{name}_raw"))
    tensors.append(onnx.numpy_helper.from_array(np.float16(1.5).reshape(()), "half"))
    tensors.append(onnx.numpy_helper.from_array(rng.standard_normal((40, 3, 3, 3)).astype(np.float32), "w"))  # a large one
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[2, 2], auto_pad="NOTSET"),
        helper.make_node("LeakyRelu", ["c"], ["r"], alpha=0.3),
        helper.make_node("Constant", [], ["floats"], value_floats=[0.5, -1.5]),
        helper.make_node("Constant", [], ["tensor"], value=onnx.numpy_helper.from_array(np.arange(4))),
        helper.make_node("Constant", [], ["words"], value_strings=["a", "\u00e4"]),
        helper.make_node("Mod", ["r", "r"], ["y"], fmod=1),
    ]
    x = helper.make_tensor_value_info("x", 1, ["N", 3, None, 8])
    body = helper.make_graph(nodes, "net", [x], [helper.make_tensor_value_info("y", 1, None)], tensors, "described")
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], producer_name="test", doc_string="\u00fc")


def alike(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same, notes aside; compared as text where there may be NaN or arrays in them."""
    parts = lambda g: (repr(g.nodes), g.inputs, g.outputs, g.values, g.name, list(g.constants))  # noqa: E731
    pairs = zip(a.constants.values(), b.constants.values())
    return parts(a) == parts(b) and all(x.dtype == y.dtype and repr(x.tolist()) == repr(y.tolist()) for x, y in pairs)


def as_read(schema: onnx_schemas.Schema) -> onnx_schemas.Schema:
    """With lists for tuples, as JSON has them."""
    return schema._replace(inputs=[list(pair) for pair in schema.inputs])  # type: ignore[misc]


def test_the_schemas_are_those_of_onnx() -> None:
    known = onnx_schemas.table_of(NATIVE)
    if known["newest"] >= onnx_schemas.newest():
        assert onnx_schemas.newest() >= 28
    for name, schemas in known["operators"].items():
        for schema in schemas:
            if schema.since <= onnx_schemas.newest():
                assert repr(onnx_schemas.schema_of(name, schema.since)) == repr(as_read(schema)), name
    assert onnx_schemas.schema_of("Mish", 17) is None and onnx_schemas.schema_of("NoSuchOperator", 17) is None


def test_plain_models_are_read_as_onnx_reads_them() -> None:
    model = plain_model()
    data = model.SerializeToString()
    found = load_onnx(data)
    assert found.notes == () and alike(found, load_onnx(model))
    message = onnx_messages.parse(data)
    assert not message.HasField("functions") and message.graph.node[0].attribute[1].name == "pads"


def test_a_plain_file_needs_no_onnx(tmp_path: Path) -> None:
    net = GraphBuilder("net")
    net.graph(y=net.relu(net.conv(net.input("x", (1, 8, 8, 8)), 8, 3))).save_onnx(tmp_path / "net.onnx")
    code = "import sys; sys.modules['onnx'] = None; import numpy as np, sevenloops; session = sevenloops.InferenceSession"
    code += "('net.onnx'); print(session.run(None, {'x': np.ones((1, 8, 8, 8), np.float32)})[0].shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["(1,", "8,", "6,", "6)"], done.stderr


def with_function(model: Any) -> None:
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Same", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Same", ["r"], ["z"], domain="own"))


def with_body(model: Any) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["i"])], "inner", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner))


def with_sparse(model: Any) -> None:
    values = onnx.numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    places = onnx.numpy_helper.from_array(np.array([1, 4]), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))


def with_unknown_operator(model: Any) -> None:
    model.graph.node.append(helper.make_node("Det", ["x"], ["z"]))


def with_bfloat16(model: Any) -> None:
    model.graph.initializer.append(helper.make_tensor("b", 16, [2], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_function, "Model has a field 25"), (with_body, "Attribute has a field 6"),
        (with_sparse, "Graph has a field 15"), (with_unknown_operator, "Det has no kernel"),
        (with_bfloat16, "a constant has element type bfloat16"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_is_not_plain_is_read_by_onnx_and_said(change: Any, reason: str) -> None:
    model = plain_model()
    change(model)
    data = model.SerializeToString()
    found = load_onnx(data)
    assert alike(found, load_onnx(model))
    (note,) = found.notes
    assert str(note) == f"import: the onnx package read the model, which takes longer to import: {reason}"


def outcome(data: bytes) -> Graph | None:
    try:
        return load_onnx(data)
    except GraphError:
        return None


def test_damaged_models_are_read_as_onnx_reads_them() -> None:
    """Cut off anywhere, or with bytes changed: the graph that `onnx` finds in it, or an error."""
    whole, rng, plain = plain_model().SerializeToString(), random.Random(0), 0
    first = whole.index(b"auto_pad")  # nodes come first, and then constants
    samples = [whole[: rng.randrange(len(whole))] for _ in range(60)]
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(first - 60, first + 500)] = rng.randrange(256)
        samples.append(bytes(data))

    def by_onnx(data: bytes) -> Any:
        raise onnx_messages.NotPlain("by onnx")

    for data in samples:
        found = outcome(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_import, "parse", by_onnx)
            expected = outcome(data)
        assert (found is None) == (expected is None), data
        if found is not None and expected is not None:
            assert alike(found, expected), data
            plain += not found.notes
    assert plain > 30  # many are still plain, with another number or name


def test_newer_opsets_than_the_file_has_are_asked_of_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model()
    expected = load_onnx(model)
    monkeypatch.setattr(onnx_schemas, "newest", lambda: 10)
    assert alike(load_onnx(model.SerializeToString()), expected)
