"""ONNX files in and out: what a model means survives, and what cannot be read says so."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph import OWN, Graph, Node, Value
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.fallback import evaluate as evaluate_node
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shapes import infer

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT = TensorProto.FLOAT


def model(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    opset: int = 21,
    **options: Any,
) -> Any:
    """A model with float inputs of the given shapes."""
    infos = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    made = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", infos, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def randoms(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_onnxruntime(data: bytes, feeds: dict[str, Any]) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def computed(graph: Graph, feeds: dict[str, Any]) -> list[Any]:
    sized = infer(graph, {name: array.shape for name, array in feeds.items()})
    return list(evaluate(sized, feeds).values())


# ---- old opsets ----------------------------------------------------------------------------------------------------------

X4, V3 = [2, 6, 5, 7], randoms(1, 3)
OLD: list[tuple[int, str, list[str], dict[str, Any], dict[str, Any], list[int]]] = [
    (7, "Softmax", ["x"], {}, {}, X4),
    (11, "LogSoftmax", ["x"], {"axis": 2}, {}, X4),
    (9, "Hardmax", ["x"], {"axis": 3}, {}, X4),
    (9, "Slice", ["x"], {"starts": [1, -3], "ends": [9, -1], "axes": [1, 3]}, {}, X4),
    (9, "Slice", ["x"], {"starts": [0, 1], "ends": [1, 9]}, {}, X4),
    (10, "Pad", ["x"], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, {}, X4),
    (10, "Pad", ["x"], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, {}, X4),
    (10, "Clip", ["x"], {"min": -0.5}, {}, X4),
    (10, "Clip", ["x"], {"max": 0.5}, {}, X4),
    (10, "Clip", ["x"], {}, {}, X4),
    (12, "Squeeze", ["x"], {"axes": [1]}, {}, [2, 1, 3]),
    (12, "Squeeze", ["x"], {}, {}, [2, 1, 3]),
    (11, "Unsqueeze", ["x"], {"axes": [0, -1]}, {}, [2, 3]),
    (12, "ReduceSum", ["x"], {"axes": [1], "keepdims": 0}, {}, X4),
    (17, "ReduceMean", ["x"], {"axes": [2, 3]}, {}, X4),
    (13, "ReduceMax", ["x"], {}, {}, X4),
    (9, "Upsample", ["x", "s"], {"mode": "nearest"}, {"s": np.array([1, 1, 2, 3], np.float32)}, X4),
    (7, "Upsample", ["x"], {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 1.5]}, {}, X4),
    (10, "Resize", ["x", "s"], {"mode": "nearest"}, {"s": np.array([1, 1, 0.4, 0.6], np.float32)}, X4),
    (10, "Resize", ["x", "s"], {"mode": "linear"}, {"s": np.array([1, 1, 2, 2.5], np.float32)}, X4),
    (9, "Dropout", ["x"], {"ratio": 0.9}, {}, X4),
    (8, "BatchNormalization", ["x", "a", "b", "a", "v"], {}, {"a": V3, "b": V3, "v": V3**2}, [2, 3, 5, 4]),
    (18, "GroupNormalization", ["x", "a", "b"], {"num_groups": 3}, {"a": V3, "b": V3[::-1].copy()}, X4),
    (8, "Gemm", ["x", "w", "c"], {"transB": 1, "beta": 0.5}, {"w": randoms(2, 4, 5), "c": randoms(3, 4)}, [3, 5]),
    (8, "LRN", ["x"], {"size": 5, "alpha": 0.5, "beta": 0.6, "bias": 2.0}, {}, X4),
    (12, "Celu", ["x"], {"alpha": 2.0}, {}, X4),
    (12, "Split", ["x"], {"axis": 1, "split": [4, 2]}, {}, X4),
    (11, "Split", ["x"], {"axis": 1}, {}, X4),
    (14, "HardSwish", ["x"], {}, {}, X4),
    (21, "DepthToSpace", ["x"], {"blocksize": 2, "mode": "CRD"}, {}, [1, 8, 3, 2]),
    (21, "LayerNormalization", ["x", "a"], {"axis": 1}, {"a": randoms(4, 6, 5, 7)}, X4),
    (21, "InstanceNormalization", ["x", "a", "b"], {}, {"a": V3, "b": V3}, [2, 3, 4, 5]),
    (21, "Gelu", ["x"], {"approximate": "tanh"}, {}, X4),
    (21, "LpPool", ["x"], {"kernel_shape": [2, 3], "p": 3, "pads": [1, 0, 0, 1]}, {}, X4),
    (21, "AveragePool", ["x"], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "count_include_pad": 1}, {}, X4),
]


@pytest.mark.parametrize(
    "opset,op,names,attributes,constants,shape", OLD, ids=[f"{at}-{c[1]}-{c[0]}" for at, c in enumerate(OLD)]
)
def test_operators_of_all_opsets_as_onnxruntime_has_them(
    opset: int, op: str, names: list[str], attributes: dict[str, Any], constants: dict[str, Any], shape: list[int]
) -> None:
    outputs = ["y", "z"] if op == "Split" else ["y"]
    proto = model([helper.make_node(op, names, outputs, **attributes)], {"x": shape}, outputs, constants, opset)
    x = randoms(7, *shape)
    expected = by_onnxruntime(proto.SerializeToString(), {"x": x})
    graph = load_onnx(proto)
    assert all(node.proto is None and node.opset == 21 for node in graph.nodes)
    for got, wanted in zip(computed(graph, {"x": x}), expected):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)
    # A second time through the file that we write.
    again = by_onnxruntime(graph.save_onnx(), {"x": x})
    for got, wanted in zip(again, expected):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_swish_of_opset_24_is_two_older_operators() -> None:
    proto = model([helper.make_node("Swish", ["x"], ["y"], alpha=1.5)], {"x": [2, 3]}, ["y"], opset=24)
    graph, x = load_onnx(proto), randoms(1, 2, 3)
    assert [node.op for node in graph.nodes] == ["Mul", "Sigmoid", "Mul"]
    np.testing.assert_allclose(computed(graph, {"x": x})[0], x / (1 + np.exp(-1.5 * x.astype(np.float64))), rtol=1e-6)


# ---- what is constant ----------------------------------------------------------------------------------------------------


def test_constants_of_every_kind(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5, 7], np.float32), "s"), numpy_helper.from_array(np.array([1, 3]), "i"), [2, 2]
    )
    nodes = [
        helper.make_node("Constant", [], ["f"], value_float=1.5),
        helper.make_node("Constant", [], ["n"], value_ints=[2, 3]),
        helper.make_node("Constant", [], ["d"], sparse_value=sparse),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    proto = model(nodes, {"x": [2], "w": [3]}, ["y", "n", "d", "w"], {"w": V3})
    graph = load_onnx(proto)
    assert [value.name for value in graph.inputs] == ["x"]  # w is an input with a default: a constant
    assert graph.constants["d"].tolist() == [[0, 5], [0, 7]]
    assert graph.constants["n"].tolist() == [2, 3]
    assert graph.constants["f"].dtype == np.float32
    assert load_onnx(proto.SerializeToString()).constants.keys() == graph.constants.keys()


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    weights = randoms(2, 40, 50)
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [3, 40]}, ["y"], {"w": weights})
    path = tmp_path / "model.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (load_onnx(path).constants["w"] == weights).all()
    with pytest.raises(GraphError, match="the data of 'w' lie in another file: pass the path"):
        load_onnx(path.read_bytes())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(GraphError, match=r"weights\.bin"):
        load_onnx(str(path))


# ---- what has no rule ----------------------------------------------------------------------------------------------------


def branch(op: str) -> Any:
    made = helper.make_tensor_value_info("inside", FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["x", "k"], ["inside"])], op, [], [made])


def test_control_flow_reads_from_outside() -> None:
    """The values that the branches read are inputs, so that passes see them; under whatever name they have then."""
    nodes = [
        helper.make_node("Identity", ["a"], ["x"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul")),
    ]
    graph = load_onnx(model(nodes, {"a": [2, 3]}, ["y"], {"k": np.float32(3), "zero": np.float32(0)}))
    assert graph.nodes[-1].inputs == ("condition", "k", "x")
    sized = infer(graph, {"a": (2, 3)})
    assert sized.nodes[-1].inputs == ("condition", "k", "a")
    for sign, expected in ((1, 4), (-1, -3)):
        found = evaluate(sized, {"a": np.full((2, 3), sign, np.float32)})["y"]
        assert (found == expected).all()
        assert found.shape == (2, 3)


def test_operators_without_a_rule_keep_their_node() -> None:
    nodes = [helper.make_node("Cos", ["x"], ["c"]), helper.make_node("TopK", ["c", "k"], ["y", "at"], axis=1)]
    graph = load_onnx(model(nodes, {"x": [2, 5]}, ["y"], {"k": np.array([2])}, opset=11))
    assert [node.proto is None for node in graph.nodes] == [True, False]
    assert graph.nodes[1].opset == 11
    sized, x = infer(graph), randoms(3, 2, 5)
    assert sized.values["at"] == Value("at", (2, 2), "int64")
    expected = -np.sort(-np.cos(x), axis=1)[:, :2]
    np.testing.assert_allclose(evaluate(sized, {"x": x})["y"], expected, rtol=1e-6)
    values, places = evaluate_node(sized.nodes[1], [np.cos(x), np.array([2])])
    assert (np.take_along_axis(np.cos(x), places, 1) == values).all()


def test_functions_of_the_model_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["m"]), helper.make_node("LeakyRelu", ["m"], ["b"])]
    body[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    function = helper.make_function("own", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 21)], ["slope"])
    proto = model(
        [helper.make_node("Square", ["x"], ["y"], domain="own", slope=0.5)], {"x": [3]}, ["y"], functions=[function]
    )
    proto.opset_import.append(helper.make_opsetid("own", 1))
    graph = load_onnx(proto)
    assert [node.op for node in graph.nodes] == ["Mul", "LeakyRelu"]
    assert graph.nodes[1].get("alpha") == 0.5


def test_operators_of_others_say_so_when_they_run() -> None:
    proto = model([helper.make_node("Magic", ["x"], ["y"], domain="com.example")], {"x": [3]}, ["y"])
    graph = infer(load_onnx(proto))
    assert graph.values["y"].shape is None
    with pytest.raises(GraphError, match="Magic 'y': the reference evaluator of onnx failed"):
        evaluate(graph, {"x": V3})


def test_nodes_in_any_order() -> None:
    nodes = [helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    assert [node.op for node in load_onnx(model(nodes, {"x": [3]}, ["y"])).nodes] == ["Abs", "Neg"]
    nodes[1].input[0] = "y"
    with pytest.raises(GraphError, match="reads, through other nodes, what it writes"):
        load_onnx(model(nodes, {"x": [3]}, ["y"]))


# ---- damaged files -------------------------------------------------------------------------------------------------------

GOOD = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"], {"w": V3})


def damaged(change: Any) -> Any:
    proto = onnx.ModelProto()
    proto.CopyFrom(GOOD)
    change(proto)
    return proto


def renamed(op: str, opset: int) -> Any:
    def change(proto: Any) -> None:
        proto.graph.node[0].op_type, proto.opset_import[0].version = op, opset

    return damaged(change)


BROKEN: list[tuple[Any, str]] = [
    (b"", "no ONNX model"),
    (b"\x00nonsense, and not short", "cannot be read as an ONNX model"),
    (GOOD.SerializeToString()[:-7], "cannot be read as an ONNX model"),
    (7, "a path, bytes or an onnx.ModelProto is needed, got int"),
    ("/nowhere/model.onnx", "there is no file /nowhere/model.onnx"),
    (os.path.dirname(__file__), "is a folder"),
    (__file__, "cannot be read as an ONNX model"),
    (damaged(lambda p: p.opset_import.pop()), "does not say which opset"),
    (damaged(lambda p: setattr(p.opset_import[0], "version", 99)), r"has opset 99; opsets 7 to \d+ can be read"),
    (renamed("Gelu", 9), "there is no such operator in opset 9"),
    (renamed("Reshape", 3), "is of opset 3, and has changed since; opsets from 7 on"),
    (damaged(lambda p: p.graph.node[0].input.__setitem__(0, "nobody")), "reads 'nobody' before anything writes it"),
    (damaged(lambda p: p.graph.node[0].output.__setitem__(0, "x")), "is written already"),
    (damaged(lambda p: p.graph.initializer[0].dims.__setitem__(0, 5)), "constant 'w' is damaged"),
    (damaged(lambda p: setattr(p.graph.initializer[0], "data_type", 77)), "element type 77"),
    (damaged(lambda p: p.graph.node.add(op_type="Constant", output=["c"])), "needs one value"),
]


@pytest.mark.parametrize("source,words", BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_says_why(source: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        load_onnx(source)


def test_random_damage_is_an_error_of_ours_or_none() -> None:
    data, rng = bytearray(GOOD.SerializeToString()), np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(len(broken))] = rng.integers(256)
        try:
            infer(load_onnx(bytes(broken)))
        except GraphError:
            continue


# ---- out -----------------------------------------------------------------------------------------------------------------


def shifting(kernel: tuple[int, int], dilation: tuple[int, int], convention: str, channels: int) -> Graph:
    node = Node("Shift", ("x",), ("y",), {"kernel": kernel, "dilation": dilation, "convention": convention}, domain=OWN)
    return Graph((node,), (Value("x", ("N", channels, "H", "W")),), ("y",))


@pytest.mark.parametrize("shift_as", ["depthwise", "slice"])
@pytest.mark.parametrize(
    ("kernel", "dilation", "convention", "channels"),
    [
        ((3, 3), (1, 1), "contiguous", 20),
        ((3, 3), (1, 1), "modulo", 20),
        ((5, 2), (1, 2), "modulo", 23),
        ((3, 3), (1, 1), "modulo", 5),
    ],
)
def test_a_shift_is_written_for_others(
    kernel: tuple[int, int], dilation: tuple[int, int], convention: str, channels: int, shift_as: str
) -> None:
    graph, x = shifting(kernel, dilation, convention, channels), randoms(5, 2, channels, 7, 6)
    data = graph.save_onnx(shift_as=shift_as)
    expected = evaluate(graph, {"x": x})["y"]
    assert (by_onnxruntime(data, {"x": x})[0] == expected).all()
    assert (computed(load_onnx(data), {"x": x})[0] == expected).all()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    graph = load_onnx(GOOD)
    assert graph.save_onnx(path) == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["graph.onnx"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    again = load_onnx(path)
    assert (again.nodes, again.inputs, again.outputs) == (graph.nodes, graph.inputs, graph.outputs)
    assert (again.constants["w"] == V3).all()
    with pytest.raises(GraphError, match="cannot be written"):
        graph.save_onnx(tmp_path / "no" / "folder.onnx")


@pytest.mark.parametrize(
    "node",
    [
        Node("Elementwise", ("x",), ("y",), {"expression": ("relu", 0)}, domain=OWN),
        Node("MatMul", ("x", "x"), ("y",), {"activation": "relu"}),
    ],
)
def test_graphs_that_passes_changed_are_refused(node: Node) -> None:
    graph = Graph((node,), (Value("x", (3, 3)),), ("y",))
    with pytest.raises(GraphError, match="was made by a pass"):
        graph.save_onnx()


def test_what_cannot_be_written_says_why() -> None:
    graph = Graph((Node("Relu", ("x",), ("y",), {"slope": 1}),), (Value("x", (3,)),), ("y",))
    with pytest.raises(GraphError, match="Relu 'y': ONNX knows no attribute 'slope'"):
        graph.save_onnx()
    unknown = shifting((3, 3), (1, 1), "modulo", 9).replace(inputs=(Value("x", None),))
    with pytest.raises(GraphError, match="the number of channels of 'x' is not known"):
        unknown.save_onnx()
    with pytest.raises(GraphError, match="shift_as must be one of depthwise, slice"):
        graph.save_onnx(shift_as="magic")


@pytest.mark.parametrize("name", [b"x@", b"cond@", b"node@", b"Exp"])
def test_names_that_are_not_utf8_are_refused(name: bytes) -> None:
    info = helper.make_tensor_value_info
    branch = helper.make_graph([helper.make_node("Identity", ["x@"], ["b"])], "b", [], [info("b", FLOAT, [2])])
    nodes = [
        helper.make_node("If", ["cond@"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Exp", ["z"], ["y"], name="node@"),
    ]
    inputs = [info("x@", FLOAT, [2]), info("cond@", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", FLOAT, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(GraphError, match="a name that is not UTF-8"):
        load_onnx(model.replace(name, name[:-1] + b"\xe9"))
