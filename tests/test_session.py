"""Sessions: networks by compiled plans against the oracle in float64, and everything around a run."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sevenloops import InferenceSession
from sevenloops.errors import DtypeError, FallbackWarning, GraphError, ProblemError
from sevenloops.graph import Graph, Node, Value, lower
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.lowering import Lowering, NotLowered
from sevenloops.graph.shapes import infer

Array = npt.NDArray[np.float32]
RNG = np.random.default_rng(5)


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def agree(graph: Graph, feeds: dict[str, Array], tolerance: float = 2e-5, **options: object) -> InferenceSession:
    """Run twice into a poisoned arena, compare with the oracle; both runs must be bit-identical."""
    session = InferenceSession(graph, shapes={name: a.shape for name, a in feeds.items()}, **options)  # type: ignore[arg-type]
    session.plan({name: a.shape for name, a in feeds.items()}).poison()
    first = session.run(None, feeds)
    second = session.run(None, feeds)
    expected = evaluate(infer(graph, {name: a.shape for name, a in feeds.items()}), feeds)
    for name, got, again in zip(graph.outputs, first, second):
        want = expected[name]
        assert got.shape == want.shape
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, again)
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max(), name
    return session


# ------------------------------------------------------------------------------------------------ networks


def residual_block(build: GraphBuilder) -> str:
    x = build.input("x", ("N", 3, "H", "W"))
    stem = build.relu(build.batch_norm(build.conv(x, 16, 3, stride=2, padding=1)))
    inner = build.relu(build.batch_norm(build.conv(stem, 24, 1)))
    inner = build.relu(build.batch_norm(build.conv(inner, 24, 3, padding=1)))
    # sizes by name cannot be compared, so the sum is written as a plain node
    return build.relu(build.node("Add", (build.batch_norm(build.conv(inner, 16, 1)), stem), build.shape(stem)))


def fire_modules(build: GraphBuilder) -> str:
    """Concatenations: of convolutions alone, with a pool among them, nested, and with an input that others read too."""
    x = build.input("x", (1, 8, 13, 11))
    squeeze = build.relu(build.conv(x, 16, 1))
    fire = build.concat([build.relu(build.conv(squeeze, 20, 1)), build.relu(build.conv(squeeze, 12, 3, padding=1))])
    pooled = build.max_pool(fire, 3, stride=1, padding=1)
    shared = build.conv(fire, 7, 1)
    both = build.concat([pooled, shared, build.conv(fire, 5, 3, padding=1)])
    return build.add(build.conv(both, 7, 1), shared)


def classifier(build: GraphBuilder) -> str:
    """A flattened image of several pixels in front of a fully connected layer, dropout, softmax."""
    x = build.input("x", ("N", 3, 21, 19))
    y = build.relu(build.conv(x, 10, 5, stride=2))
    y = build.lrn(build.max_pool(y, 3, stride=2), 5, 1e-4, 0.75, 2.0)
    y = build.relu(build.linear(build.dropout(build.flatten(y)), 33))
    return build.softmax(build.linear(y, 12))


def depthwise(build: GraphBuilder) -> str:
    x = build.input("x", ("N", 6, 15, 16))
    y = build.clip(build.batch_norm(build.conv(x, 24, 1)), 0, 6)
    y = build.clip(build.batch_norm(build.conv(y, 24, 3, padding=1, groups=24)), 0, 6)
    y = build.add(build.batch_norm(build.conv(y, 6, 1)), x)
    gate = build.activation("Sigmoid", build.conv(build.relu(build.conv(build.global_average_pool(y), 4, 1)), 6, 1))
    y = build.node("Mul", (y, gate), build.shape(y))
    return build.linear(build.flatten(build.global_average_pool(build.shift(y, 3))), 5)


def upsampling(build: GraphBuilder) -> str:
    x = build.input("x", (2, 12, 7, 6))
    y = build.relu(build.conv_transpose(x, 8, 2, stride=2))
    y = build.node("DepthToSpace", (y,), (2, 2, 28, 24), blocksize=2)
    return build.concat([y, build.average_pool(y, 3, stride=1, padding=1)])


NETWORKS: dict[str, tuple[Callable[[GraphBuilder], str], list[tuple[int, ...]]]] = {
    "residual block": (residual_block, [(1, 3, 17, 23), (2, 3, 9, 8)]),
    "fire modules": (fire_modules, [(1, 8, 13, 11)]),
    "classifier": (classifier, [(1, 3, 21, 19), (3, 3, 21, 19)]),
    "depthwise": (depthwise, [(1, 6, 15, 16), (2, 6, 15, 16)]),
    "upsampling": (upsampling, [(2, 12, 7, 6)]),
}


def network(name: str) -> Graph:
    build = GraphBuilder(name, seed=3)
    return build.graph(y=NETWORKS[name][0](build))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_the_oracle(name: str) -> None:
    graph = network(name)
    for shape in NETWORKS[name][1]:
        feeds = {"x": random(*shape)}
        session = agree(graph, feeds)
        assert not [step for step in session.plan({"x": shape}).steps if step.algorithm == "python"]
        agree(graph, feeds, passes=False)
        agree(graph, feeds, 5e-6, accuracy="strict")
        one = InferenceSession(graph, threads=1).run(None, feeds)[0]
        np.testing.assert_array_equal(one, session.run(None, feeds)[0])


def test_concatenations_of_convolutions_are_not_copied() -> None:
    plan = InferenceSession(network("fire modules")).plan()
    copies = [step for step in plan.steps if step.algorithm in ("copy_slice", "concat")]
    assert [step.op for step in copies] == ["Concat"] * 2, "the pool's result, and what another node reads too"
    pitched = [step for step in plan.steps if step.op == "Conv" and step.problem.out_pitch]
    assert len(pitched) == 3


def test_nchw_only_at_the_edges() -> None:
    """One copy brings the image to channels-last memory, one brings the result back; a classifier needs no second."""
    for name, count in (("residual block", 2), ("classifier", 1)):
        steps = InferenceSession(network(name)).plan({"x": NETWORKS[name][1][0]}).steps
        assert len([step for step in steps if step.op == "layout"]) == count


def test_arena_is_shared_by_what_does_not_live_together() -> None:
    build = GraphBuilder("chain")
    x = build.input("x", (1, 16, 20, 20))
    for _ in range(8):
        x = build.relu(build.conv(x, 16, 3, padding=1))
    plan = InferenceSession(build.graph(y=x)).plan()
    assert plan.memory.total_bytes < 3.2 * 16 * 20 * 20 * 4


# ---------------------------------------------------------------------------------------- single operators


def one_node(
    op: str, inputs: dict[str, Array], shape: tuple[int, ...], constants: dict[str, Array], **attributes: object
) -> Graph:
    names = (*inputs, *constants)
    values = tuple(Value(name, array.shape) for name, array in inputs.items())
    return Graph((Node(op, names, ("y",), attributes),), values, ("y",), constants, {"y": Value("y", shape)})


def test_weights_that_are_computed() -> None:
    feeds = {"x": random(1, 5, 9, 8), "w": random(7, 5, 3, 3)}
    agree(one_node("Conv", feeds, (1, 7, 7, 6), {}), feeds)
    feeds = {"a": random(4, 6), "b": random(6, 9)}
    agree(one_node("Gemm", feeds, (4, 9), {"c": random(4, 1)}, alpha=0.5, beta=2.0), feeds)


def test_batched_products() -> None:
    feeds = {"a": random(2, 3, 4, 6), "b": random(3, 6, 5)}
    agree(one_node("MatMul", feeds, (2, 3, 4, 5), {}), feeds)
    feeds = {"a": random(2, 3, 4, 6)}
    agree(one_node("MatMul", feeds, (2, 3, 4, 5), {"b": random(6, 5)}), feeds)
    agree(one_node("MatMul", feeds, (2, 3, 4, 5), {"b": random(2, 1, 6, 5)}), feeds)


def test_an_input_may_be_an_output() -> None:
    x = Value("x", (2, 3))
    relu = Node("Relu", ("x",), ("y",))
    graph = Graph((relu,), (x,), ("y", "x", "c"), {"c": np.ones(2, np.float32)}, {"y": x})
    session = InferenceSession(graph)
    feeds = {"x": random(2, 3)}
    y, same, constant = session.run(None, feeds)
    np.testing.assert_array_equal(y, np.maximum(feeds["x"], 0))
    np.testing.assert_array_equal(same, feeds["x"])
    assert not np.shares_memory(same, feeds["x"])
    constant[:] = 7
    assert (session.run(["c"], feeds)[0] == 1).all(), "what is returned is the caller's own"


# ------------------------------------------------------------------------------------------------ fallback


def test_what_is_not_compiled_is_named_and_computed() -> None:
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    build = GraphBuilder("odd")
    x = build.input("x", (1, 4, 6, 6))
    y = build.node("Det", (build.conv(x, 4, 3, padding=1),), (1, 4))
    graph = build.graph(y=build.relu(y))
    with pytest.warns(FallbackWarning, match="Det"):
        session = agree(graph, {"x": random(1, 4, 6, 6)}, 1e-4)
    assert [step.op for step in session.plan().steps if step.algorithm == "python"] == ["Det"]
    times = session.profile({"x": random(1, 4, 6, 6)})
    assert len(times) == len(session.plan().steps)
    assert all(time.seconds > 0 for time in times)


def test_a_fallback_writes_into_its_slice_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution that turns out not to be compiled, after its input was copied, still fills its part of the whole."""
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    compiled = lower.LOWERINGS["Conv"]

    def sometimes(lo: Lowering, node: Node) -> None:
        lo.channels_last(node.inputs[0])
        if node.name == "conv1":
            raise NotLowered("it is the first")
        compiled(lo, node)

    monkeypatch.setitem(lower.LOWERINGS, "Conv", sometimes)
    build = GraphBuilder("odd")
    x = build.input("x", (1, 4, 6, 7))
    whole = build.concat([build.conv(x, 3, 3, padding=1), build.conv(x, 5, 1)])
    with pytest.warns(FallbackWarning, match="it is the first"):
        agree(build.graph(y=build.conv(whole, 2, 1)), {"x": random(1, 4, 6, 7)})


def test_sizes_that_depend_on_values() -> None:
    """NonZero decides the size of what follows; a new plan is made for each, behind the first part."""
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    nodes = (
        Node("Relu", ("x",), ("r",)),
        Node("NonZero", ("r",), ("where",)),
        Node("Cast", ("where",), ("f",), {"to": 1}),
        Node("Add", ("f", "one"), ("y",)),
    )
    graph = Graph(nodes, (Value("x", (3, 4)),), ("y", "r"), {"one": np.ones(1, np.float32)})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        session = InferenceSession(graph)
        x = random(3, 4)
        y, r = session.run(None, {"x": x})
    assert any("NonZero" in str(warning.message) for warning in caught)
    np.testing.assert_array_equal(r, np.maximum(x, 0))
    np.testing.assert_array_equal(y, np.stack(np.nonzero(np.maximum(x, 0))) + 1)


def test_sizes_that_are_inputs() -> None:
    """A Reshape and a Resize to sizes that are fed: compiled for each, nothing falls back."""
    nodes = (
        Node("Relu", ("x",), ("r",)),
        Node("Reshape", ("r", "shape"), ("s",)),
        Node("Softmax", ("s",), ("y",), {"axis": -1}),
    )
    graph = Graph(nodes, (Value("x", (2, 6)), Value("shape", ("n",), "int64")), ("y",))
    session = InferenceSession(graph)
    x = random(2, 6)
    for shape in ((3, 4), (4, 3), (12,), (3, 4)):
        (y,) = session.run(None, {"x": x, "shape": np.array(shape)})
        e = np.exp(np.maximum(x, 0).reshape(shape))
        np.testing.assert_allclose(y, e / e.sum(-1, keepdims=True), rtol=1e-5)


# -------------------------------------------------------------------------------------- edges of the calls


def test_feeds_are_checked() -> None:
    session = InferenceSession(network("residual block"))
    x = random(1, 3, 8, 8)
    with pytest.raises(GraphError, match="'image'"):
        session.run(None, {"image": x})
    with pytest.raises(GraphError, match="missing"):
        session.run(None, {})
    with pytest.raises(DtypeError, match="float32"):
        session.run(None, {"x": x.astype(np.float64)})
    with pytest.raises(GraphError, match="dimensions"):
        session.run(None, {"x": x[0]})
    with pytest.raises(GraphError, match="no output 'z'"):
        session.run(["z"], {"x": x})
    with pytest.raises(ProblemError, match="accuracy"):
        InferenceSession(network("residual block"), accuracy="exact")
    with pytest.raises(GraphError):
        InferenceSession(b"no model")


def test_arrays_of_any_strides() -> None:
    session = InferenceSession(network("residual block"))
    x = random(1, 3, 9, 10)
    expected = session.run(None, {"x": x})[0]
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(session.run(None, {"x": turned})[0], expected)
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    np.testing.assert_array_equal(session.run(None, {"x": shifted})[0], expected)


def test_inputs_and_outputs_are_described() -> None:
    session = InferenceSession(network("residual block"))
    (x,) = session.get_inputs()
    assert (x.name, x.shape, x.dtype) == ("x", ("N", 3, "H", "W"), "float32")
    assert [output.name for output in session.get_outputs()] == ["y"]


def test_an_onnx_file_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
    graph = network("depthwise")
    path = tmp_path / "net.onnx"
    data = graph.save_onnx(path)
    x = random(2, 6, 15, 16)
    expected = InferenceSession(graph).run(None, {"x": x})[0]
    for model in (path, str(path), data):
        got = InferenceSession(model).run(None, {"x": x})[0]
        assert np.abs(got - expected).max() <= 2e-5 * np.abs(expected).max()


# ------------------------------------------------------------------------------------------------- threads


def resident_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_eight_threads_two_sessions_no_growth() -> None:
    """Right answers for every caller, and 10,000 runs leave memory as it was."""
    sessions = [InferenceSession(network("residual block"), threads=n) for n in (1, 2)]
    inputs = [random(1, 3, 9, 8) for _ in range(8)]
    expected = [sessions[0].run(None, {"x": x})[0] for x in inputs]
    wrong: list[int] = []

    def work(at: int, runs: int) -> None:
        for turn in range(runs):
            got = sessions[turn % 2].run(None, {"x": inputs[at]})[0]
            if not np.array_equal(got, expected[at]):
                wrong.append(at)

    def all_threads(runs: int) -> None:
        threads = [threading.Thread(target=work, args=(at, runs)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_threads(100)
    before = resident_bytes()
    all_threads(1250)
    assert not wrong
    assert resident_bytes() - before < 8 * 2**20


def test_old_plans_go() -> None:
    """A session keeps a bounded number of plans, and still answers for a size whose plan is gone."""
    session = InferenceSession(network("residual block"))
    x = random(1, 3, 8, 8)
    expected = session.run(None, {"x": x})[0]
    first = session.plan({"x": x.shape})
    assert session.plan({"x": x.shape}) is first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sevenloops.graph.planner.MAX_PLANS", 1)
        session.run(None, {"x": random(1, 3, 9, 8)})
    assert session.plan({"x": x.shape}) is not first
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_packed_weights_go_with_the_last_plan_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sevenloops.graph.planner.MAX_PLANS", 1)
    session = InferenceSession(network("residual block"))
    packed = []
    for size in (8, 90):  # whose layers have other tiles, and with them other packed weights
        session.run(None, {"x": random(1, 3, size, size)})
        arrays = [a for found in session.plan({"x": (1, 3, size, size)}).packed.values() for a in found.values()]
        packed.append([weakref.ref(array) for array in arrays])
        del arrays
    kept = {id(array()) for array in packed[1]}
    assert packed[0] and any(array() is None for array in packed[0])
    assert all(array() is None or id(array()) in kept for array in packed[0])


def test_no_warning_where_all_is_compiled() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InferenceSession(network("classifier"), shapes={"x": (1, 3, 21, 19)})
