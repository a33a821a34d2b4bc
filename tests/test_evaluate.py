"""The oracle of networks: expressions and fused layers are what their separate operators are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph import OWN, Graph, Node, Value
from sevenloops.graph.evaluate import OPERATORS, compute, evaluate, expression_value
from sevenloops.graph.fallback import by_onnx
from sevenloops.graph.fallback import evaluate as evaluate_node
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv
from sevenloops.shift import Shift

RNG = np.random.default_rng(11)
A = RNG.standard_normal((2, 6, 5, 7))
B = RNG.standard_normal((6, 1, 7))

#: Expression of one operator, the ONNX operator that it is, attributes.
SAME: list[tuple[Any, str, dict[str, Any]]] = [
    (("add", 0, 1), "Add", {}),
    (("sub", 0, 1), "Sub", {}),
    (("mul", 0, 1), "Mul", {}),
    (("div", 0, 1), "Div", {}),
    (("pow", ("abs", 0), 1), "Pow", {}),
    (("min", 0, 1), "Min", {}),
    (("max", 0, 1), "Max", {}),
    (("prelu", 0, 1), "PRelu", {}),
    (("neg", 0), "Neg", {}),
    (("abs", 0), "Abs", {}),
    (("reciprocal", 0), "Reciprocal", {}),
    (("sqrt", ("abs", 0)), "Sqrt", {}),
    (("exp", 0), "Exp", {}),
    (("log", ("abs", 0)), "Log", {}),
    (("relu", 0), "Relu", {}),
    (("sigmoid", 0), "Sigmoid", {}),
    (("tanh", 0), "Tanh", {}),
    (("erf", 0), "Erf", {}),
    (("floor", 0), "Floor", {}),
    (("ceil", 0), "Ceil", {}),
    (("round", 0), "Round", {}),
    (("sign", 0), "Sign", {}),
    (("sin", 0), "Sin", {}),
    (("cos", 0), "Cos", {}),
    (("softplus", 0), "Softplus", {}),
    (("softsign", 0), "Softsign", {}),
    (("mish", 0), "Mish", {}),
    (("gelu", 0), "Gelu", {}),
    (("gelu_tanh", 0), "Gelu", {"approximate": "tanh"}),
    (("hard_swish", 0), "HardSwish", {}),
    (("silu", 0), "Swish", {}),
    (("leaky_relu", 0, 0.1), "LeakyRelu", {"alpha": 0.1}),
    (("elu", 0, 0.7), "Elu", {"alpha": 0.7}),
    (("celu", 0, 0.7), "Celu", {"alpha": 0.7}),
    (("selu", 0, 1.5, 1.1), "Selu", {"alpha": 1.5, "gamma": 1.1}),
    (("hard_sigmoid", 0, 0.3, 0.4), "HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    (("clip", 0, -0.5, 0.8), "Clip", {}),
    (("thresholded_relu", 0, 0.4), "ThresholdedRelu", {"alpha": 0.4}),
]


def test_every_operator_of_expressions_is_tested() -> None:
    assert {row[0][0] for row in SAME} == set(OPERATORS)


@pytest.mark.parametrize(("expression", "op", "attributes"), SAME, ids=[row[0][0] for row in SAME])
def test_operators_of_expressions_are_those_of_onnx(expression: Any, op: str, attributes: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    first = np.abs(A) if isinstance(expression[1], tuple) else A
    arrays = [first, B] if OPERATORS[expression[0]][1] == 2 else [first]
    if op == "Clip":
        arrays += [np.array(-0.5), np.array(0.8)]
    inputs = tuple(str(at) for at in range(len(arrays)))
    node = Node(op, inputs, ("y",), attributes, opset=24 if op == "Swish" else 21)
    (expected,) = by_onnx(node, [array.astype(np.float32) for array in arrays])
    found = expression_value(expression, [A, B])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=3e-5, atol=3e-6)


def test_expressions_nest_and_have_literals() -> None:
    expression = ("add", ("mul", 0, 2.0), ("clip", 1, -math.inf, 0.25))
    np.testing.assert_allclose(expression_value(expression, [A, B]), A * 2 + np.minimum(B, 0.25))
    with pytest.raises(GraphError, match="there is no 'magic'"):
        expression_value(("magic", 0), [A])


def layer(op: str, inputs: tuple[str, ...], attributes: dict[str, Any]) -> Node:
    return Node(op, inputs, ("y",), attributes)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("activation", [("relu", ()), ("clip", (-0.5, 1.0)), ("leaky_relu", (0.1,)), ("silu", ())])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_fused_layers_are_their_parts(op: str, activation: tuple[str, tuple[float, ...]], where: str) -> None:
    x = A if op == "Conv" else A[0, 0]
    w = RNG.standard_normal((4, 6, 3, 3) if op == "Conv" else (7, 4))
    bias = RNG.standard_normal(4)
    arrays = [x, w, bias]
    plain = np.asarray(compute(layer(op, ("x", "w", "b"), {}), arrays)[0])
    residual = RNG.standard_normal(plain.shape)
    name, numbers = activation
    parts = {"relu": ("relu",), "clip": ("clip", *numbers), "leaky_relu": ("leaky_relu", *numbers), "silu": ("silu",)}[name]
    act = lambda v: expression_value((parts[0], 0, *parts[1:]), [v])  # noqa: E731
    expected = act(plain + residual) if where == "before" else act(plain) + residual
    fused = layer(op, ("x", "w", "b", "r"), {"activation": name, "activation_params": numbers, "residual": where})
    np.testing.assert_allclose(compute(fused, [*arrays, residual])[0], expected)
    # What a session computes when nothing is compiled is the same.
    np.testing.assert_allclose(evaluate_node(fused, [*arrays, residual])[0], expected)


def test_a_fused_shift_is_a_shift_before() -> None:
    w = RNG.standard_normal((4, 6, 1, 1))
    moved = Node("Shift", ("x",), ("s",), {"kernel": (3, 3), "dilation": (1, 2), "convention": "modulo"}, domain=OWN)
    expected = compute(layer("Conv", ("s", "w"), {}), [compute(moved, [A])[0], w])[0]
    fused = layer("Conv", ("x", "w"), {"shift": ((3, 3), (1, 2), "modulo")})
    np.testing.assert_array_equal(compute(fused, [A, w])[0], expected)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_are_those_of_the_definition(groups: int, transposed: bool) -> None:
    """Against `sevenloops.reference`, which shares no code with it."""
    problem = ConvProblem(
        batch=2,
        in_channels=6,
        out_channels=12,
        in_size=(5, 7),
        kernel=(3, 2),
        stride=(2, 1),
        padding=((1, 2), (0, 1)),
        dilation=(1, 2),
        groups=groups,
        transposed=transposed,
    )
    w = RNG.standard_normal(problem.w_shape)
    attributes = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "group": groups}
    (found,) = compute(layer("ConvTranspose" if transposed else "Conv", ("x", "w"), attributes), [A, w])
    expected = reference_conv(problem, A.transpose(0, 2, 3, 1), w)
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-12, atol=1e-12)


def test_a_shift_is_that_of_the_definition() -> None:
    shift = Shift((3, 2), (2, 1), "modulo")
    problem = ConvProblem(batch=2, in_channels=6, out_channels=6, in_size=(5, 7), kernel=(1,), shift=shift)
    expected = reference_conv(problem, A.transpose(0, 2, 3, 1), np.eye(6).reshape(6, 6, 1, 1)).transpose(0, 3, 1, 2)
    node = Node("Shift", ("x",), ("y",), {"kernel": (3, 2), "dilation": (2, 1), "convention": "modulo"}, domain=OWN)
    np.testing.assert_array_equal(compute(node, [A])[0], expected)


def test_values_are_computed_in_the_dtype_asked_for() -> None:
    nodes = (Node("Cast", ("k",), ("f",), {"to": 1}), Node("Mul", ("x", "f"), ("y",)), Node("Relu", ("y",), ("z",)))
    graph = Graph(nodes, (Value("x", (3,)),), ("z",), {"k": np.array([1, 2, 3])})
    x = np.array([0.1, -0.2, 0.3], np.float32)
    for dtype in (np.float32, np.float64):
        assert evaluate(graph, {"x": x}, dtype)["z"].dtype == dtype
    assert evaluate(graph, {"x": x}, every=True).keys() == {"x", "k", "f", "y", "z"}
    with pytest.raises(GraphError, match="the inputs are x; got none"):
        evaluate(graph, {})


def test_operators_that_do_not_exist() -> None:
    with pytest.raises(GraphError, match="there is no such operator"):
        compute(Node("Magic", ("x",), ("y",), domain=OWN), [A])


@pytest.mark.parametrize("condition", ["", "go"])
@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (1, 2, 2)])
def test_loops(shape: tuple[int, ...], turns: int, condition: str) -> None:
    """The condition may be left out, and what is collected has a new first axis, whatever the rank of its elements."""
    onnx = pytest.importorskip("onnx")
    typed = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go_in"], ["go_out"]),
            onnx.helper.make_node("Add", ["v", "one"], ["sum"]),
            onnx.helper.make_node("Neg", ["sum"], ["collected"]),
        ],
        "body",
        [typed("turn", 7, []), typed("go_in", 9, []), typed("v", 1, shape)],
        [typed("go_out", 9, []), typed("sum", 1, shape), typed("collected", 1, shape)],
        [onnx.numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    proto = onnx.helper.make_node("Loop", ["turns", condition, "x"], ["last", "all"], body=body)
    node = Node("Loop", ("turns", condition, "x"), ("last", "all"), proto=proto.SerializeToString())
    x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    last, found = by_onnx(node, [np.array(turns), np.array(True) if condition else None, x])
    np.testing.assert_array_equal(last, x + turns)
    expected = [-(x + turn) for turn in range(1, turns + 1)]
    np.testing.assert_array_equal(found, np.stack(expected) if expected else np.zeros((0, *shape), np.float32), strict=True)
