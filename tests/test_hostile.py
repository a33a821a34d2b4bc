"""Models that are hostile, or merely unlucky: all end in an error of ours or in results, in bounds of time and memory."""

from __future__ import annotations

import signal
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
from onnx import helper

from hostile_models import floats, ints, loop, make_model, one, sample_feeds
from hostile_mutants import SEEDS, mutated
from hostile_table import COMPUTED, REFUSED
from sevenloops.errors import FallbackWarning, GraphError, KernelError, SevenLoopsError
from sevenloops.graph import Graph, Node, Value
from sevenloops.graph.limits import limited, machine_bytes
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shapes import infer
from sevenloops.session import InferenceSession

MAX_BYTES, MAX_STEPS, SECONDS = 2**26, 1000, 60
#: What Python, protocol buffers and kernels may take beside.
BESIDE = 2**26


class TooLong(BaseException):
    """No `Exception`: nothing that turns these into errors of ours may catch it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(model: Any) -> list[Any]:
    """Load and run a model under limits of time and memory."""
    data, feeds = model.SerializeToString(), sample_feeds(model)
    with within(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        session = InferenceSession(data, threads=1, max_bytes=MAX_BYTES, max_steps=MAX_STEPS)
        assert len(session.get_inputs()) == len(feeds)
        return session.run(None, feeds)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_name(name: str) -> None:
    model = REFUSED[name]()
    tracemalloc.start()
    try:
        with pytest.raises(SevenLoopsError) as caught:
            run(model)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_BYTES + BESIDE
    finally:
        tracemalloc.stop()
    named = {word for node in model.graph.node for word in (node.op_type, node.name) if word}
    named |= {"Resize"} if "Upsample" in named else {"Elementwise"} if "Add" in named else set()
    assert any(
        word in str(caught.value) for word in (*named, "ONNX model", "the constant", "the input", "SparseTensor", "x ")
    )


@pytest.mark.parametrize("name", COMPUTED)
def test_what_only_looks_odd_is_computed(name: str) -> None:
    model = COMPUTED[name]()
    assert len(run(model)) == len(model.graph.output)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutants_are_refused_or_computed(seed: str) -> None:
    refused, many = 0, 150
    for at in range(many):
        model = mutated(seed, at)
        if model is None:
            continue
        try:
            run(model)
        except SevenLoopsError:
            refused += 1
    assert 0 < refused < many


# ---- limits ------------------------------------------------------------------------------------------------------------


def test_a_limit_is_a_limit_and_not_a_habit() -> None:
    """What is refused under a small limit is computed under a larger one."""
    model = one("Expand", to=ints(2**20, 1, 1, 1), inputs={"x": (1, 1, 1, 4)}).SerializeToString()
    feeds = {"x": floats(1, 1, 1, 4)}
    with pytest.raises(
        GraphError, match=r"^Expand 'y': \(1048576, 1, 1, 4\) of float32 take 16,777,216 bytes, and max_bytes is"
    ):
        InferenceSession(model, max_bytes=2**24 - 1)
    with pytest.warns(FallbackWarning):
        (found,) = InferenceSession(model, max_bytes=2**26).run(None, feeds)
    assert (found == feeds["x"]).all()


def test_a_plan_whose_values_are_too_much_together_is_refused() -> None:
    nodes = [helper.make_node("Concat", ["x"] * n, [f"y{n}"], axis=0) for n in (2, 3)]
    model = make_model(nodes, ["y2", "y3"], {"x": (2**18,)}).SerializeToString()
    with pytest.raises(
        GraphError, match=r"a run needs [\d,]+ bytes beside weights, and max_bytes is 4,000,000; .*Concat 'y3'"
    ):
        InferenceSession(model, max_bytes=4_000_000)
    InferenceSession(model, max_bytes=6_000_000)


def test_a_long_loop_is_not_folded_but_runs() -> None:
    model = loop(3_000, [helper.make_node("Add", ["a", "one"], ["b"])], floats(1), one=np.ones(1, np.float32))
    graph = load_onnx(model)
    with limited(max_steps=500):
        assert [node.op for node in infer(graph).nodes] == ["Loop"]
    with pytest.raises(GraphError, match=r"Loop 'y': .* more than 500 steps; fewer, or a session with a larger max_steps"):
        InferenceSession(model.SerializeToString(), max_steps=500).run(None, {})
    (found,) = InferenceSession(model.SerializeToString(), max_steps=10_000).run(None, {})
    assert found.tolist() == [2_999]


def test_constants_do_not_double_for_ever() -> None:
    """Each is only twice as large as what it is made of; together they are not folded."""
    nodes = tuple(Node("Concat", (f"v{i}", f"v{i}"), (f"v{i + 1}",), {"axis": 0}) for i in range(24))
    graph = Graph(nodes, (), ("v24",), {"v0": floats(64)})
    before = time.perf_counter()
    assert 0 < len(infer(graph).nodes) < 24
    assert time.perf_counter() - before < 10


def test_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**28 < machine_bytes() < 2**50
    monkeypatch.setattr("sevenloops.graph.limits.memory_bytes", lambda: 12345678)
    assert machine_bytes.__wrapped__() == 12345678


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_bytes": 1.5}, {"max_steps": 0}])
def test_limits_are_positive_integers(limits: Any) -> None:
    with pytest.raises(SevenLoopsError, match="must be"):
        InferenceSession(one("Relu").SerializeToString(), **limits)


def test_running_out_of_memory_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise MemoryError("Unable to allocate")

    monkeypatch.setitem(__import__("sevenloops.graph.folding", fromlist=["FOLDS"]).FOLDS, "Add", exhausted)
    graph = Graph((Node("Add", ("a", "a"), ("y",)),), (), ("y",), {"a": floats(2)})
    with pytest.raises(KernelError, match="Add 'y': there is not enough memory"):
        infer(graph)


def test_an_interrupt_is_no_error_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(__import__("sevenloops.graph.folding", fromlist=["FOLDS"]).FOLDS, "Add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer(Graph((Node("Add", ("a", "a"), ("y",)),), (), ("y",), {"a": floats(2)}))


# ---- what has no place in memory ---------------------------------------------------------------------------------------


def test_strings_and_sequences_go_through_a_session() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["text"], to=8),
        helper.make_node("Cast", ["text"], ["back"], to=1),
        helper.make_node("SequenceConstruct", ["back", "x"], ["both"]),
        helper.make_node("ConcatFromSequence", ["both"], ["whole"], axis=0),
        helper.make_node("Relu", ["whole"], ["y"]),
    ]
    session = InferenceSession(make_model(nodes, ["y", "text", "both"], {"x": (2,)}).SerializeToString())
    x = np.array([-1, 2], np.float32)
    with pytest.warns(FallbackWarning):
        y, text, both = session.run(None, {"x": x})
    assert y.tolist() == [0, 2, 0, 2]
    assert [float(word) for word in text] == x.tolist()
    assert [part.tolist() for part in both] == [x.tolist()] * 2


def test_the_dtype_of_a_body_is_the_one_that_came_out() -> None:
    """Nobody knows before what an If makes; float32 was read as what its condition is."""
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["v"])], "g", [], [helper.make_empty_tensor_value_info("v")])
    nodes = [
        helper.make_node("Not", ["c"], ["other"]),
        helper.make_node("If", ["other"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    inputs = {"x": (4,), "c": helper.make_tensor_value_info("c", 9, ())}
    with pytest.warns(FallbackWarning):
        session = InferenceSession(make_model(nodes, inputs=inputs).SerializeToString())
        (y,) = session.run(None, {"x": np.array([1, -2, 3, -4], np.float32), "c": np.array(True)})
    assert y.tolist() == [0, 2, 0, 4]


def test_strings_must_be_strings() -> None:
    session = InferenceSession(COMPUTED["string_identity"]().SerializeToString())
    with pytest.raises(TypeError, match="x must be strings, got float32"):
        session.run(None, {"x": floats(2, 2)})


def test_values_of_unknown_size_still_need_sizes() -> None:
    graph = Graph((Node("Relu", ("x",), ("y",)),), (Value("x", ("N",)),), ("y",))
    with pytest.raises(GraphError, match="the size of x is not known"):
        InferenceSession(graph).plan()
