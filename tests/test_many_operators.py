"""Networks of very many small operators: correct, and loaded in a time that grows with their number and no faster."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from sevenloops import InferenceSession
from sevenloops.errors import FallbackWarning
from sevenloops.graph import Graph, Node, Value
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.memory import Span, plan_memory
from sevenloops.graph.passes import optimise
from sevenloops.graph.passes.expressions import READ, VARIADIC
from sevenloops.graph.plan import compile_plan
from sevenloops.graph.shapes import _Inference, infer

SHAPE = (2, 3, 5, 7)
CONSTANTS = {
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.9, np.float32),
    "number": np.array(0.75, np.float32),
    "zero": np.array(0, np.float32),
}
TWO = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", *VARIADIC)


@contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
    """Assert that this process computes for less: ten times what it takes, and a tenth of what a quadratic step takes."""
    start = time.process_time()
    yield
    assert time.process_time() - start < limit


def graph_of(nodes: list[Node], outputs: list[str], inputs: tuple[str, ...] = ("x", "z")) -> Graph:
    values = tuple(Value(name, SHAPE) for name in inputs)
    used = {name for node in nodes for name in node.inputs}
    return Graph(tuple(nodes), values, tuple(outputs), {name: a for name, a in CONSTANTS.items() if name in used})


def apply(op: str, x: str, y: str) -> Node:
    inputs = {"Clip": (x, "low", "high")}.get(op, (x, "z") if op in TWO else (x,))
    return Node(op, inputs, (y,))


def chain(ops: list[str], name: str) -> list[Node]:
    values = ["x", *(f"{name}_{at}" for at in range(1, len(ops))), name]
    return [apply(op, x, y) for op, x, y in zip(ops, values, values[1:])]


def agree(graph: Graph, tolerance: float = 2e-5) -> InferenceSession:
    """Against the oracle in float64; inputs between 0.1 and 1, so that every operator has a value."""
    rng = np.random.default_rng(3)
    feeds = {value.name: rng.uniform(0.1, 1, SHAPE).astype(np.float32) for value in graph.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        session = InferenceSession(graph)
    expected = evaluate(infer(graph), feeds)
    for name, found in zip(graph.outputs, session.run(None, feeds)):
        with np.errstate(over="ignore"):
            wanted = expected[name].astype(np.float32)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted), name)
        finite = np.isfinite(wanted) & np.isfinite(found)
        largest = np.abs(wanted[finite]).max(initial=1e-30)
        np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=tolerance * largest, err_msg=name)
    return session


@pytest.mark.parametrize("length", [3, 8])
def test_chains_of_every_operator(length: int) -> None:
    """Three Tanh in a row, put into each other as trees, filled 24 GB."""
    between = {"Log": "Exp", "Reciprocal": "Sigmoid", "Exp": "Tanh"}  # what keeps the values away from poles and infinity
    nodes: list[Node] = []
    for op in sorted(READ):
        nodes += chain([op, between.get(op, op)] * (length // 2) + [op] * (length % 2), f"y{op}")
    agree(graph_of(nodes, [f"y{op}" for op in sorted(READ)]))


def test_mixed_chains() -> None:
    """Every operator in one chain, which is split where kernels would take long to compile."""
    ops = [op for each in sorted(READ) for op in (each, "Add", "Sigmoid")]
    session = agree(graph_of(chain(ops, "y"), ["y"]))
    assert 1 < len(session.plan().steps) <= 4


@pytest.mark.parametrize("pair", [("Relu", "Sigmoid"), ("Tanh", "Exp"), ("Neg", "Sqrt"), ("Softplus", "Erf")])
def test_diamonds(pair: tuple[str, str]) -> None:
    """`y = f(x) + g(x)`, ten in a row: as trees they would be a thousand operators."""
    nodes, x = list[Node](), "x"
    for at in range(10):
        nodes += [apply(pair[0], x, f"a{at}"), apply(pair[1], x, f"b{at}"), Node("Mean", (f"a{at}", f"b{at}"), (f"v{at}",))]
        nodes.append(Node("Sigmoid", (f"v{at}",), (f"s{at}",)))
        x = f"s{at}"
    agree(graph_of(nodes, [x]))


@pytest.mark.parametrize("op", sorted(VARIADIC))
def test_wide_operators(op: str) -> None:
    """2,000 inputs, as expressions 2,000 deep; nothing reads more than a kernel's worth at once, and the sums round well."""
    inputs = tuple(f"x{at}" for at in range(2000))
    session = agree(graph_of([Node(op, inputs, ("y",))], ["y"], inputs), 5e-7)
    problems = {step.problem for step in session.plan().steps}
    assert max(len(problem.shapes) for problem in problems) <= 8
    assert len(problems) <= 4


def test_wide_operators_of_one_value_and_of_different_shapes() -> None:
    nodes = [Node("Sum", ("x",) * 300, ("twice",)), Node("Max", (*("x", "row") * 10, "z"), ("y",))]
    graph = Graph(
        tuple(nodes), (Value("x", SHAPE), Value("z", SHAPE)), ("twice", "y"), {"row": np.ones((1, 7), np.float32) * 0.5}
    )
    agree(graph)


def test_concatenations_of_many_values() -> None:
    inputs = tuple(f"x{at}" for at in range(150))
    for axis in (0, 3):
        session = agree(graph_of([Node("Concat", inputs, ("y",), {"axis": axis})], ["y"], inputs), 0)
        assert max(len(step.problem.shapes) for step in session.plan().steps) <= 64


def test_a_number_is_not_an_input() -> None:
    """`max(x z, 0)` and `max(z x, z)`, where z is input 0: to Python the number 0.0 and the input 0 are equal."""
    nodes = [Node("Mul", ("x", "z"), ("a",)), Node("Max", ("a", "zero"), ("y",))]
    nodes += [Node("Mul", ("z", "x"), ("b",)), Node("Max", ("b", "z"), ("w",))]
    agree(graph_of(nodes, ["y", "w"]))


def test_time_grows_with_the_number_of_operators() -> None:
    """Thousands in every form of graph through all passes, in Python alone."""
    kinds: dict[str, list[Node]] = {
        "chain": chain(["Relu", "Mul", "Tanh", "Sigmoid"] * 1000, "y"),
        "fan": [
            *(apply("Tanh", "x", f"b{at}") for at in range(4000)),
            Node("Sum", tuple(f"b{at}" for at in range(4000)), ("y",)),
        ],
        "squares": [Node("Mul", (f"v{at}" if at else "x",) * 2, (f"v{at + 1}",)) for at in range(2000)],
    }
    for kind, nodes in kinds.items():
        graph = infer(graph_of(nodes, [nodes[-1].outputs[0]]))
        with processor_seconds(20):
            after = optimise(graph)
        assert 0 < len(after.nodes) < len(nodes) / 4, kind


def test_different_expressions_are_bounded() -> None:
    """Operators in an order that never repeats are not fused for ever: the kernels would take minutes to compile."""
    rng = np.random.default_rng(1)
    ops = ["Relu", "Neg", "Abs", "Floor", "Sigmoid", "Tanh", "Sqrt", "Exp"]
    graph = graph_of(chain(rng.choice(ops, 4000).tolist(), "y"), ["y"])
    after = optimise(infer(graph))
    different = {repr(node.get("expression")) for node in after.nodes}
    assert len(different) < 60
    assert any("different expressions have more than 1000 operators" in str(note) for note in after.notes)


def test_memory_is_planned_for_many_values() -> None:
    chain = [Span(key, 4096, key, key + 1) for key in range(10_000)]
    together = [Span(key, 4096, key, 4000) for key in range(4000)]
    with processor_seconds(30):
        assert len(set(plan_memory(chain).offsets.values())) == 2
        assert len(set(plan_memory(together).offsets.values())) == 4000


def test_nodes_in_any_order_are_imported() -> None:
    onnx = pytest.importorskip("onnx")
    helper: Any = onnx.helper
    from sevenloops.graph.onnx_import import load_onnx

    nodes = [helper.make_node("Relu", [f"v{at}" if at else "x"], [f"v{at + 1}"]) for at in range(6000)]
    info = [helper.make_tensor_value_info(name, 1, SHAPE) for name in ("x", "v6000")]
    model = helper.make_model(helper.make_graph(nodes[::-1], "reverse", info[:1], info[1:]))
    with processor_seconds(8):
        assert [node.outputs[0] for node in load_onnx(model).nodes] == [f"v{at + 1}" for at in range(6000)]


def compressing(times: int) -> Graph:
    """A vector that loses what is too small, again and again: each time its size depends on values."""
    nodes, x = list[Node](), "x"
    for at in range(times):
        nodes += [Node("Greater", (x, "low"), (f"g{at}",)), Node("Compress", (x, f"g{at}"), (f"v{at}",), {"axis": 0})]
        nodes.append(Node("Relu", (f"v{at}",), (f"r{at}",)))
        x = f"r{at}"
    return Graph(tuple(nodes), (Value("x", (9,)),), (x,), {"low": CONSTANTS["low"]})


def test_many_sizes_that_depend_on_values_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    graph = compressing(20)
    planned = list[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        planned.append(1)
        return compile_plan(*arguments, **options)

    monkeypatch.setattr("sevenloops.graph.planner.compile_plan", counted)
    monkeypatch.setattr("sevenloops.graph.planner.MAX_PLANS", 2)
    with pytest.warns(FallbackWarning):
        session = InferenceSession(graph)
        feeds = {"x": np.linspace(-1, 1, 9, dtype=np.float32)}
        first = session.run(None, feeds)[0]
    assert len(planned) == 21
    np.testing.assert_array_equal(session.run(None, feeds)[0], first)
    assert len(planned) == 21
    np.testing.assert_array_equal(first, np.maximum(feeds["x"][feeds["x"] > -0.5], 0))


def test_plans_cost_what_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what stands after them: 300 such operators took half a minute, for each plan read the whole rest."""
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    graph = compressing(20)
    visited, optimised = list[Node](), list[Node]()
    visit = _Inference.visit

    def visiting(self: _Inference, node: Node) -> None:
        visited.append(node)
        visit(self, node)

    def optimising(part: Graph, *arguments: Any) -> Graph:
        optimised.extend(part.nodes)
        return optimise(part, *arguments)

    monkeypatch.setattr(_Inference, "visit", visiting)
    monkeypatch.setattr("sevenloops.graph.planner.optimise", optimising)
    with pytest.warns(FallbackWarning):
        InferenceSession(graph).run(None, {"x": np.linspace(-1, 1, 9, dtype=np.float32)})
    assert len(visited) <= 2 * len(graph.nodes)  # all of them once to find what is wrong, and each in its plan
    assert len(optimised) <= len(graph.nodes)
