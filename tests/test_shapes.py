"""Sizes of every value, constants folded, nodes that do nothing gone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph import OWN, Graph, Node, Value
from sevenloops.graph.shapes import infer

Shape = tuple[int, ...]


def weights(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def one(op: str, operands: tuple[Any, ...], outputs: int, attributes: Mapping[str, Any]) -> tuple[Graph, dict[str, Shape]]:
    """A graph of one node and the sizes of its inputs: operands are shapes, constants as lists or arrays, or None."""
    names = tuple("" if operand is None else f"x{at}" for at, operand in enumerate(operands))
    shapes = {name: operand for name, operand in zip(names, operands) if isinstance(operand, tuple)}
    arrays = {n: np.asarray(o) for n, o in zip(names, operands) if isinstance(o, (list, np.ndarray))}
    written = tuple(f"y{at}" for at in range(outputs))
    inputs = tuple(Value(name, tuple(f"{name}_{at}" for at in range(len(shape)))) for name, shape in shapes.items())
    node = Node(op, names, written, attributes, domain=OWN if op in ("Shift", "Elementwise") else "")
    return Graph((node,), inputs, written, arrays), shapes


X = (2, 6, 11, 13)
CASES: list[tuple[str, tuple[Any, ...], dict[str, Any], Shape | list[Shape]]] = [
    ("Conv", (X, weights(4, 6, 3, 3)), {}, (2, 4, 9, 11)),
    ("Conv", (X, weights(4, 6, 3, 3)), {"pads": (1, 2, 3, 4), "strides": (2, 3), "dilations": (2, 1)}, (2, 4, 6, 6)),
    ("Conv", (X, weights(4, 3, 3, 3)), {"group": 2, "auto_pad": "SAME_UPPER", "strides": (2, 2)}, (2, 4, 6, 7)),
    ("Conv", (X, weights(4, 6, 3, 3), weights(4)), {"auto_pad": "VALID"}, (2, 4, 9, 11)),
    ("Conv", (X, weights(4, 6, 1, 1), None, (2, 4, 11, 13)), {"residual": "before"}, (2, 4, 11, 13)),
    ("Conv", ((1, 2, 7), weights(5, 2, 4)), {}, (1, 5, 4)),
    ("Conv", ((1, 2, 7, 6, 5), weights(4, 1, 2, 2, 2)), {"group": 2}, (1, 4, 6, 5, 4)),
    ("ConvTranspose", (X, weights(6, 5, 3, 2)), {"strides": (2, 3), "output_padding": (1, 0)}, (2, 5, 24, 38)),
    ("ConvTranspose", (X, weights(6, 5, 3, 2)), {"strides": (2, 3), "output_shape": (22, 39)}, (2, 5, 22, 39)),
    ("ConvTranspose", (X, weights(6, 2, 3, 3)), {"group": 3, "auto_pad": "SAME_LOWER", "strides": (2, 2)}, (2, 6, 22, 26)),
    ("MaxPool", (X,), {"kernel_shape": (3, 2), "strides": (2, 2)}, (2, 6, 5, 6)),
    ("MaxPool", (X,), {"kernel_shape": (2, 2), "strides": (2, 3), "ceil_mode": 1}, (2, 6, 6, 5)),
    ("AveragePool", ((1, 1, 3, 3),), {"kernel_shape": (1, 1), "strides": (3, 3), "ceil_mode": 1}, (1, 1, 1, 1)),
    ("AveragePool", (X,), {"kernel_shape": (3, 3), "auto_pad": "SAME_LOWER", "strides": (2, 2)}, (2, 6, 6, 7)),
    ("GlobalAveragePool", (X,), {}, (2, 6, 1, 1)),
    ("Gemm", ((3, 5), weights(7, 5), weights(7)), {"transB": 1}, (3, 7)),
    ("Gemm", ((5, 3), weights(5, 7), weights(3, 1)), {"transA": 1}, (3, 7)),
    ("MatMul", ((4, 1, 3, 5), (2, 5, 7)), {}, (4, 2, 3, 7)),
    ("MatMul", ((5,), (2, 5, 7)), {}, (2, 7)),
    ("MatMul", ((3, 5), (5,)), {}, (3,)),
    ("Add", (X, weights(6, 1, 1)), {}, X),
    ("Where", (X, (13,), (11, 1)), {}, X),
    ("Concat", (X, (2, 1, 11, 13)), {"axis": -3}, (2, 7, 11, 13)),
    ("Split", (X, [1, 5]), {"axis": 1}, [(2, 1, 11, 13), (2, 5, 11, 13)]),
    ("Split", (X,), {"axis": 3, "num_outputs": 2}, [(2, 6, 11, 7), (2, 6, 11, 6)]),
    ("Slice", (X, [1, -9], [100, 2], [1, 2], [2, 1]), {}, (2, 3, 0, 13)),
    ("Slice", (X, [-1, 8], [-100, 2], [3, 2], [-2, -3]), {}, (2, 6, 2, 7)),
    ("Pad", (X, [0, 0, 1, 2, 0, 0, -3, 4]), {}, (2, 6, 9, 19)),
    ("Pad", (X, [1, 2], None, [-1]), {"mode": "reflect"}, (2, 6, 11, 16)),
    ("Resize", (X, None, np.array([1, 1, 2.6, 0.5], np.float32)), {}, (2, 6, 28, 6)),
    ("Resize", (X, None, None, [5, 7]), {"axes": (3, 2)}, (2, 6, 7, 5)),
    ("Resize", (X, None, None, [22, 22]), {"axes": (2, 3), "keep_aspect_ratio_policy": "not_larger"}, (2, 6, 19, 22)),
    ("DepthToSpace", ((1, 8, 3, 5),), {"blocksize": 2}, (1, 2, 6, 10)),
    ("SpaceToDepth", ((1, 2, 6, 10),), {"blocksize": 2}, (1, 8, 3, 5)),
    ("Transpose", (X,), {"perm": (0, 2, 3, 1)}, (2, 11, 13, 6)),
    ("Reshape", (X, [0, -1, 13]), {}, (2, 66, 13)),
    ("Flatten", (X,), {"axis": -1}, (132, 13)),
    ("Squeeze", ((1, 5, 1), [-1]), {}, (1, 5)),
    ("Unsqueeze", ((5, 7), [0, -1]), {}, (1, 5, 7, 1)),
    ("Expand", ((5, 1), [2, 1, 7]), {}, (2, 5, 7)),
    ("Gather", (X, [[0, 1]]), {"axis": 2}, (2, 6, 1, 2, 13)),
    ("ReduceMean", (X, [2, -1]), {}, (2, 6, 1, 1)),
    ("ReduceSum", (X,), {"keepdims": 0}, ()),
    ("ArgMax", (X,), {"axis": 1, "keepdims": 0}, (2, 11, 13)),
    ("LayerNormalization", (X, weights(11, 13)), {"axis": 2}, X),
    ("Softmax", (X,), {"axis": 1}, X),
    ("Shift", (X,), {"kernel": (3, 3)}, X),
    ("Elementwise", (X, (13,)), {"expression": ("add", 0, ("relu", 1))}, X),
    ("GridSample", (X, (2, 4, 5, 2)), {}, (2, 6, 4, 5)),  # by the shape inference of onnx
]


@pytest.mark.parametrize("op,operands,attributes,expected", CASES, ids=[f"{at}-{case[0]}" for at, case in enumerate(CASES)])
def test_sizes(op: str, operands: tuple[Any, ...], attributes: dict[str, Any], expected: Any) -> None:
    wanted = expected if isinstance(expected, list) else [expected]
    found = infer(*one(op, operands, len(wanted), attributes))
    assert [found.values[name].sizes for name in found.outputs] == wanted


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("Conv", (X, weights(4, 5, 3, 3)), {}, r"weights \(4, 5, 3, 3\) in 1 groups do not fit 6 channels"),
    ("Conv", (X, weights(4, 6, 3)), {}, "needs 4 dimensions"),
    ("Conv", (X, weights(4, 6, 3, 3)), {"kernel_shape": (5, 5)}, "does not fit weights"),
    ("Conv", (X, weights(4, 6, 12, 3)), {}, "no output is left"),
    ("Conv", (X, weights(4, 6, 3, 3), weights(5)), {}, "bias must have 4"),
    ("Conv", (X, weights(4, 6, 3, 3)), {"strides": (0, 1)}, "at least 1"),
    ("Conv", (X, weights(4, 6, 3, 3)), {"auto_pad": "SOME"}, "auto_pad must be"),
    ("Conv", (X,), {}, "input 1 is missing"),
    ("MaxPool", (X,), {}, "kernel_shape is missing"),
    ("MaxPool", ((5, 7),), {"kernel_shape": (1,)}, "at least 3 dimensions"),
    ("Gemm", ((3, 5), (4, 7)), {}, "cannot multiply"),
    ("MatMul", ((3, 5), (4, 7)), {}, "cannot multiply"),
    ("Add", ((3, 5), (4, 5)), {}, "cannot be broadcast"),
    ("Add", ((3, 5), np.ones(5)), {}, "float32 and float64"),
    ("Concat", ((3, 5), (4, 6)), {"axis": 0}, "differ elsewhere"),
    ("Split", ((3, 5), [1, 1]), {"axis": 1}, "do not make up"),
    ("Reshape", ((3, 5), [4, -1]), {}, "cannot be reshaped"),
    ("Transpose", ((3, 5),), {"perm": (0, 0)}, "no order of the axes"),
    ("ReduceMean", ((3, 5), [2]), {}, "axis 2 does not exist"),
    ("PRelu", ((3, 5), weights(2, 3, 5)), {}, "slope"),
]


@pytest.mark.parametrize("op,operands,attributes,words", WRONG, ids=[f"{at}-{case[0]}" for at, case in enumerate(WRONG)])
def test_operands_that_do_not_fit_name_the_node(op: str, operands: Any, attributes: Any, words: str) -> None:
    graph, shapes = one(op, operands, 1, attributes)
    with pytest.raises(GraphError, match=f"{op} 'y0': .*{words}"):
        infer(graph, shapes)


def test_windows_are_explicit_afterwards() -> None:
    operands = ((1, 6, 11, 13), weights(4, 6, 3, 2))
    (node,) = infer(*one("Conv", operands, 1, {"auto_pad": "SAME_UPPER", "strides": (1, 2)})).nodes
    expected = {"kernel_shape": (3, 2), "strides": (1, 2), "dilations": (1, 1), "pads": (1, 0, 1, 1)}
    assert node.attributes == expected


def flattening() -> Graph:
    """x (N, 2, H, W) -> (N, 2 H W), the sizes computed the way exporters write it."""
    nodes = (
        Node("Shape", ("x",), ("shape",)),
        Node("Gather", ("shape", "zero"), ("n",)),
        Node("Unsqueeze", ("n", "axis"), ("n1",)),
        Node("Concat", ("n1", "rest"), ("target",), {"axis": 0}),
        Node("Relu", ("x",), ("nobody",)),
        Node("Dropout", ("x",), ("dropped",)),
        Node("Reshape", ("dropped", "target"), ("flat",)),
        Node("Identity", ("flat",), ("y",)),
    )
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    return Graph(nodes, (Value("x", ("N", 2, "H", "W")),), ("y",), constants)


def test_arithmetic_on_sizes_folds_and_what_does_nothing_goes() -> None:
    graph = infer(flattening(), {"x": (3, 2, 5, 7)})
    (node,) = graph.nodes
    assert (node.op, node.inputs, node.outputs) == ("Reshape", ("x", "target"), ("y",))
    assert graph.constants.keys() == {"target"}
    assert graph.constants["target"].tolist() == [3, -1]
    assert graph.values == {"y": Value("y", (3, 70))}
    assert graph.inputs == (Value("x", (3, 2, 5, 7)),)
    assert infer(graph) == graph


def test_nothing_is_known_without_sizes_and_that_is_no_error() -> None:
    graph = infer(flattening())
    assert [node.op for node in graph.nodes] == ["Shape", "Gather", "Unsqueeze", "Concat", "Reshape"]
    assert graph.values["target"] == Value("target", None, "int64")
    assert graph.values["y"].shape is None


def test_sizes_that_depend_on_data_stay_unknown() -> None:
    nodes = (
        Node("NonZero", ("x",), ("where",)),
        Node("Cast", ("where",), ("floats",), {"to": 1}),
        Node("Relu", ("x",), ("y",)),
    )
    graph = infer(Graph(nodes, (Value("x", (3, 4)),), ("floats", "y")))
    assert graph.values["where"] == Value("where", None, "int64")
    assert graph.values["floats"] == Value("floats", None)
    assert graph.values["y"] == Value("y", (3, 4))


def test_outputs_that_are_copies() -> None:
    """An output that is an input, a constant or another output keeps its name."""
    nodes = (
        Node("Identity", ("x",), ("same",)),
        Node("Identity", ("k",), ("constant",)),
        Node("Relu", ("x",), ("inner",)),
        Node("Identity", ("inner",), ("first",)),
        Node("Dropout", ("inner",), ("second", "mask")),
        Node("Neg", ("second",), ("z",)),
    )
    outputs = ("same", "constant", "first", "second", "mask", "z", "x")
    graph = infer(Graph(nodes, (Value("x", (2, 3)),), outputs, {"k": weights(5)}))
    assert [(node.op, node.inputs, node.outputs) for node in graph.nodes] == [
        ("Relu", ("x",), ("first",)),
        ("Neg", ("first",), ("z",)),
        ("Identity", ("x",), ("same",)),
        ("Identity", ("first",), ("second",)),
    ]
    assert graph.constants.keys() == {"constant", "mask"}
    assert graph.constants["mask"].shape == (2, 3)
    assert graph.values["second"].shape == (2, 3)


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Reshape", (X, [0, -1, 11, 13]), {}),
        ("Flatten", ((3, 4),), {}),
        ("Transpose", ((1, 5, 1, 7),), {"perm": (1, 0, 2, 3)}),
        ("Transpose", ((5, 7),), {"perm": (0, 1)}),
        ("Slice", (X, [0], [99], [1]), {}),
        ("Pad", (X, [0] * 8), {}),
        ("Concat", (X,), {"axis": 1}),
        ("Cast", (X,), {"to": 1}),
        ("Expand", (X, [13]), {}),
    ],
)
def test_what_does_nothing_for_these_sizes_goes(op: str, operands: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    """Except where it does something: the transpose here changes the size."""
    graph, shapes = one(op, operands, 1, attributes)
    (node,) = graph.nodes
    graph = graph.replace(nodes=(node, Node("Relu", node.outputs, ("z",))), outputs=("z",))
    left = [node.op for node in infer(graph, shapes).nodes]
    assert left == (["Transpose", "Relu"] if operands[0] == (1, 5, 1, 7) else ["Relu"])


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Transpose", ((5, 5),), {}),
        ("Slice", (X, [-1], [-99], [2], [-1]), {}),
        ("Pad", (X, [0, 0, 1, 0, 0, 0, -1, 0]), {}),
        ("Concat", ((2, 0), (2, 3)), {"axis": 1}),
    ],
)
def test_what_moves_elements_stays(op: str, operands: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    assert len(infer(*one(op, operands, 1, attributes)).nodes) == 1


def test_dropout_in_training_stays() -> None:
    node = Node("Dropout", ("x", "ratio", "on"), ("y",))
    constants = {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
    assert [n.op for n in infer(Graph((node,), (Value("x", (2, 3)),), ("y",), constants)).nodes] == ["Dropout"]


def test_constants_do_not_swell() -> None:
    """A small constant that is spread over megabytes is spread when the network runs."""
    node = Node("Expand", ("k", "to"), ("y",))
    graph = Graph((node,), (), ("y",), {"k": weights(1), "to": np.array([2048, 2048])})
    assert infer(graph).values["y"].shape == (2048, 2048)
    assert infer(graph.replace(constants={"k": weights(1), "to": np.array([20, 20])})).nodes == ()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"x": (2, 3)}, "x has 3 dimensions"),
        ({"x": (2, 4, 7)}, r"x must be \('N', 3, 'W'\), got \(2, 4, 7\)"),
        ({"x": (2, 3, 7), "y": (3, 7)}, "'N' is 2 in x and 3 in y"),
        ({"x": (5, 3, 5), "y": (5, 6)}, "'W' is 5 in x and 6 in y"),
        ({"z": (1,)}, "no input 'z'; its inputs are x, y"),
        ({"x": (2, 3, -1)}, "integers of at least 0"),
        ({"x": (2, 3, 1.5)}, "integers of at least 0"),
    ],
)
def test_sizes_that_do_not_fit_the_inputs(sizes: Any, words: str) -> None:
    node = Node("Relu", ("x",), ("z",))
    graph = Graph((node,), (Value("x", ("N", 3, "W")), Value("y", ("N", "W"))), ("z",))
    with pytest.raises(GraphError, match=words):
        infer(graph, sizes)


def test_a_symbol_gives_other_inputs_their_size() -> None:
    node = Node("Add", ("x", "y"), ("z",))
    graph = Graph((node,), (Value("x", ("N", 3)), Value("y", ("N", 1))), ("z",))
    assert infer(graph, {"x": (7, 3)}).inputs[1].shape == (7, 1)


def test_it_is_quick() -> None:
    """Two hundred nodes in well under 30 ms: the size of ResNet-50."""
    nodes = [Node("Conv", (f"v{at}", "w"), (f"v{at + 1}",), {"pads": (1, 1, 1, 1)}) for at in range(200)]
    graph = Graph(tuple(nodes), (Value("v0", (1, 8, "H", "W")),), ("v200",), {"w": weights(8, 8, 3, 3)})

    def once() -> float:
        start = time.perf_counter()
        infer(graph, {"v0": (1, 8, 56, 56)})
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 0.03
