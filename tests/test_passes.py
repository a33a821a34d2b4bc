"""Every pattern of the passes, every refusal, and that graphs mean the same before and after."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_cases import BN, CASES, CONV, RANDOM, graph, integers, random
from sevenloops.errors import GraphError
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.ir import Graph, Node, Value
from sevenloops.graph.passes import PASSES, optimise
from sevenloops.graph.passes.expressions import canonical, same
from sevenloops.graph.shapes import infer
from sevenloops.models import build
from sevenloops.shift import Shift, channel_offsets, channels_of_groups


def words(node: Node) -> str:
    """`Conv:relu:before:shift`: an operator and what is fused to it."""
    parts = [node.op, node.get("activation", ""), node.get("residual", ""), "shift" if node.get("shift") else ""]
    return ":".join(part for part in parts if part)


def assert_same(before: Graph, after: Graph, tolerance: float = 2e-6) -> None:
    feeds = {value.name: RANDOM.uniform(-4, 4, value.sizes).astype(np.float32) for value in before.inputs}
    expected, got = evaluate(before, feeds), evaluate(after, feeds)
    for name, array in expected.items():
        assert array.shape == got[name].shape == after.type_of(name).shape
        np.testing.assert_allclose(got[name], array, rtol=0, atol=tolerance * max(1.0, abs(array).max()))


@pytest.mark.parametrize("case", CASES)
def test_a_pattern(case: str) -> None:
    text, operators, note = CASES[case]
    before = graph(text)
    after = optimise(before)
    assert " ".join(words(node) for node in after.nodes) == operators
    assert note in "\n".join(map(str, after.notes))
    assert_same(before, after)


MISSED = ("stays", "stay apart", "all are made")


@pytest.mark.parametrize("case", CASES)
def test_notes_have_a_kind(case: str) -> None:
    """Each says which it is, by itself: labels with such words in them change nothing."""
    before = graph(CASES[case][0])
    notes = optimise(before).notes
    assert [note.kind == "missed" for note in notes] == [any(word in str(note) for word in MISSED) for note in notes]
    named = before.replace(nodes=tuple(node.replace(name=f"{node.label} stays") for node in before.nodes))
    again = optimise(named).notes
    assert [(note.rule, note.kind) for note in again] == [(note.rule, note.kind) for note in notes]
    assert all(note.node for note in notes)


def pad_slice_concat(shift: Shift, channels: int, pointwise: bool) -> tuple[Graph, list[int]]:
    """A shift as one slice a group; and the order in which the channels come."""
    groups = [members for members in channels_of_groups(shift, channels) if members]
    offsets = channel_offsets(shift, channels)
    reach = [k // 2 * d for k, d in zip(shift.kernel, shift.dilation)]
    constants = {"pads": integers(0, 0, *reach, 0, 0, *reach), "axes": integers(1, 2, 3)}
    nodes = [Node("Pad", ("x", "pads"), ("padded",))]
    for at, members in enumerate(groups):
        step = members[1] - members[0] if len(members) > 1 else 1
        first = [by + r for by, r in zip(offsets[members[0]], reach)]
        constants[f"from{at}"] = integers(members[0], *first)
        constants[f"to{at}"] = integers(members[-1] + 1, first[0] + 6, first[1] + 7)
        constants[f"step{at}"] = integers(step, 1, 1)
        nodes.append(Node("Slice", ("padded", f"from{at}", f"to{at}", "axes", f"step{at}"), (f"part{at}",)))
    nodes.append(Node("Concat", tuple(f"part{at}" for at in range(len(groups))), ("joined",), {"axis": 1}))
    if pointwise:
        constants["w"] = random(5, channels, 1, 1)
        nodes.append(Node("Conv", ("joined", "w"), ("y",), {"strides": (2, 1)}))
    output = "y" if pointwise else "joined"
    whole = Graph(tuple(nodes), (Value("x", (2, channels, 6, 7)),), (output,), constants)
    return infer(whole), [channel for members in groups for channel in members]


@pytest.mark.parametrize("convention", ["contiguous", "modulo"])
@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize(
    ("kernel", "dilation", "channels"), [((3, 3), (1, 1), 20), ((3, 5), (2, 1), 31), ((3, 3), (1, 1), 9)]
)
def test_slices_that_shift(
    convention: str, pointwise: bool, kernel: tuple[int, ...], dilation: tuple[int, ...], channels: int
) -> None:
    before, order = pad_slice_concat(Shift(kernel, dilation, convention), channels, pointwise)
    after = optimise(before)
    assert_same(before, after)
    reordered = order != sorted(order)
    if reordered and not pointwise:
        assert "reordered channels" in "\n".join(map(str, after.notes))
    else:
        assert [words(node) for node in after.nodes] == (["Conv:shift"] if pointwise else ["Shift"])


def sized(name: str) -> Graph:
    """A network of the zoo for one image."""
    network = build(name)
    return infer(network, {value.name: (1, *map(int, (value.shape or ())[1:])) for value in network.inputs})


#: Operators after all passes.
ZOO = {
    "lenet5": {"Conv": 2, "MaxPool": 2, "Flatten": 1, "Gemm": 3},
    "resnet18": {"Conv": 20, "MaxPool": 1, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "resnet50": {"Conv": 53, "MaxPool": 1, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "googlenet": {"Conv": 57, "MaxPool": 13, "LRN": 2, "Concat": 9, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "squeezenet1_1": {"Conv": 26, "MaxPool": 3, "Concat": 8, "ReduceMean": 1, "Flatten": 1},
    "mobilenetv2": {"Conv": 52, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "efficientnet_lite0": {"Conv": 49, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "shiftresnet20": {"Conv": 27, "Concat": 2, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
    "shiftnet_a": {"Conv": 55, "AveragePool": 4, "Concat": 8, "ReduceMean": 1, "Flatten": 1, "Gemm": 1},
}


@pytest.mark.parametrize("name", ZOO)
def test_networks_come_down_to_their_layers(name: str) -> None:
    after = optimise(sized(name))
    assert Counter(node.op for node in after.nodes) == ZOO[name]


@pytest.mark.parametrize("name", ["shiftresnet20", "lenet5", "resnet20"])
def test_networks_mean_the_same(name: str) -> None:
    before = sized(name)
    assert_same(before, optimise(before), 1e-6)


@pytest.mark.parametrize("row", PASSES, ids=lambda row: row.name)
def test_each_pass_alone_keeps_the_meaning(row: Any) -> None:
    """On every graph of the table; and a pass that finds nothing gives back the very same graph."""
    for text, *_ in CASES.values():
        before = graph(text)
        after, _ = row.run(before)
        assert_same(before, after)
        again, _ = row.run(after)
        assert [words(node) for node in again.nodes] == [words(node) for node in after.nodes]
        assert row.run(again)[0] is again


def test_passes_can_be_skipped() -> None:
    before = graph(CONV + BN)
    names = [row.name for row in PASSES]
    assert len(set(names)) == len(names)
    assert optimise(before, skip=names).nodes == before.nodes
    assert [node.op for node in optimise(before, skip=("fold_affine",)).nodes] == ["Conv", "BatchNormalization"]
    with pytest.raises(GraphError, match="there is no pass 'fold'"):
        optimise(before, skip=["fold"])


@pytest.mark.parametrize("outputs", ["a y", "y a d", "d"])
def test_outputs_inside_stay(outputs: str) -> None:
    before = graph("Conv x w b -> a pads=1,1,1,1; BatchNormalization a g beta mu var -> d; Relu d -> y", outputs)
    after = optimise(before)
    assert after.outputs == before.outputs
    assert_same(before, after)
    if "a" in outputs:
        assert "a is an output of the graph" in "\n".join(map(str, after.notes))


def test_both_ends_of_a_transpose_are_outputs() -> None:
    before = graph("Relu x -> a; Flatten a -> d; Reshape d back -> y", "a y")
    after = optimise(before)
    assert [node.op for node in after.nodes] == ["Elementwise", "Reshape"]
    assert "hands out both" in "\n".join(map(str, after.notes))
    assert_same(before, after)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (("mul", 0, ("div", ("clip", ("add", 0, 3.0), 0.0, 6.0), 6.0)), ("hard_swish", 0), True),
        (("mul", 0, ("div", ("clip", ("add", 0, 3.0), 0.0, 5.0), 6.0)), ("hard_swish", 0), False),
        (("sub", 1.0, ("mul", 2.0, 0)), ("neg", ("sub", ("add", 0, 0), 1.0)), False),  # like terms are not joined
        (("sub", 1.0, ("mul", 2.0, 0)), ("mul", ("sub", 0.5, 0), 2.0), True),
        (("neg", ("clip", 0, -1.0, 2.0)), ("clip", ("neg", 0), -2.0, 1.0), True),
        (("min", ("relu", 0), 6.0), ("clip", 0, 0.0, 6.0), True),
        (("mul", 0, 1), ("mul", 1, 0), True),
        (("div", 0, 1), ("div", 1, 0), False),
        (("max", 0, 1), ("max", 1, 0), True),
    ],
)
def test_canonical_forms(a: Any, b: Any, equal: bool) -> None:
    assert same(canonical(a), canonical(b)) is equal


#: Operators that keep the size (1, 4, 5, 6): how many values they read, and what else.
STEPS = (
    ("Conv {} w b", "pads=1,1,1,1"), ("Conv {} w1 b", ""), ("Conv {} dw", "group=4 pads=1,1,1,1"),
    ("BatchNormalization {} g beta mu var", ""), ("Relu {}", ""), ("Clip {} zero six", ""), ("Sigmoid {}", ""),
    ("Tanh {}", ""), ("HardSigmoid {}", ""), ("Mul {} c", ""), ("Add half {}", ""), ("Sub {} c", ""), ("Add {} {}", ""),
    ("Mul {} {}", ""),
    ("Max {} {}", ""), ("MaxPool {}", "kernel_shape=3,3 pads=1,1,1,1"), ("Conv {} still", "group=4 pads=1,1,1,1"),
    ("LeakyRelu {}", "alpha=0.3"), ("Neg {}", ""), ("Sum {} {} {}", ""),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(STEPS) - 1), *[st.integers(0, 4)] * 3), min_size=1, max_size=14),
    st.integers(0, 14),
)
def test_random_graphs_mean_the_same(steps: list[tuple[int, int, int, int]], inner: int) -> None:
    names, statements = ["x", "z"], []
    for at, (step, *back) in enumerate(steps):
        text, attributes = STEPS[step]
        read = [names[-1 - min(by, len(names) - 1)] for by in back]
        statements.append(f"{text.format(*read)} -> v{at} {attributes}")
        names.append(f"v{at}")
    outputs = dict.fromkeys([names[-1], names[2 + inner % len(steps)]])
    before = graph("; ".join(statements), " ".join(outputs))
    assert_same(before, optimise(before), 2e-5)


# ------------------------------------------------------------------------------------------------- slice assignments


def assigned(shape: tuple[int, ...], places: tuple[slice, ...], data: Any = None, updates: Any = None) -> Graph:
    """`x[places] = u` as exporters write it: the index of every element that is replaced."""
    rows = np.stack(np.meshgrid(*(np.arange(n)[s] for n, s in zip(shape, places)), indexing="ij"), -1)
    constants: dict[str, Any] = {"indices": rows}
    inputs = []
    for name, array, size in (("x", data, shape), ("u", updates, (*rows.shape[:-1], *shape[len(places) :]))):
        if array is None:
            inputs.append(Value(name, size))
        else:
            constants[name] = np.broadcast_to(np.float32(array), size)
    return infer(Graph((Node("ScatterND", ("x", "indices", "u"), ("y",)),), tuple(inputs), ("y",), constants))


EVERY = slice(None)
BLOCKS = {
    "first axis": (slice(1, 3),),
    "end of an axis": (EVERY, slice(2, None)),
    "inside": (slice(1, 3), slice(2, 4), slice(1, 5)),
    "one element": (slice(2, 3), slice(0, 1), slice(4, 5)),
    "all": (EVERY, EVERY),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("fixed", ["nothing", "data", "updates"])
def test_a_scatter_of_a_block_is_a_slice_assignment(block: str, fixed: str) -> None:
    shape, places = (4, 5, 6), BLOCKS[block]
    before = assigned(shape, places, **({fixed: 0.5} if fixed != "nothing" else {}))
    after = optimise(before)
    assert {node.op for node in after.nodes} <= {"Concat", "Slice", "Identity"}
    assert "is a slice assignment" in "".join(map(str, after.notes)) or block == "all"
    assert_same(before, after)
    feeds = {value.name: random(*value.sizes) for value in before.inputs}
    wanted = feeds["x"].copy() if "x" in feeds else np.full(shape, np.float32(0.5))
    wanted[places] = feeds.get("u", 0.5)
    np.testing.assert_array_equal(evaluate(after, feeds, np.float32)["y"], wanted)


@pytest.mark.parametrize("places", [(slice(None, None, 2),), (slice(None, None, -1),)], ids=["step", "backwards"])
def test_a_scatter_elsewhere_stays(places: tuple[slice, ...]) -> None:
    before = assigned((4, 5, 6), places)
    after = optimise(before)
    assert [node.op for node in after.nodes] == ["ScatterND"]
    assert "its indices are no constant block" in "".join(map(str, after.notes))
    assert_same(before, after)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
def test_what_a_scatter_means(reduction: str) -> None:
    """Places may be named twice where updates are combined; negative ones count from the end."""
    indices = integers(1, -1, 3) if reduction == "none" else integers(1, -1, 1, 3)
    node = Node("ScatterND", ("x", "i", "u"), ("y",), {"reduction": reduction})
    x, u = random(5, 2), random(len(indices), 2)
    inputs = (Value("x", x.shape), Value("u", u.shape))
    found = evaluate(infer(Graph((node,), inputs, ("y",), {"i": indices.reshape(-1, 1)})), {"x": x, "u": u}, np.float32)
    wanted = x.copy()
    combine: Any = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
    for at, row in zip(indices, u):
        wanted[at] = combine[reduction](wanted[at], row)
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-6)


def test_a_shift_in_time_leaves_nothing_behind() -> None:
    """What a temporal shift module becomes when it is exported: three assignments into zeros, without a ScatterND."""
    shape, fold = (2, 4, 8, 3, 3), 2
    parts = [((EVERY, slice(0, 3), slice(0, fold)), (slice(1, 4), slice(0, fold))),
             ((EVERY, slice(1, 4), slice(fold, 4)), (slice(0, 3), slice(fold, 4))),
             ((EVERY, EVERY, slice(4, 8)), (slice(0, 4), slice(4, 8)))]  # fmt: skip
    constants: dict[str, Any] = {"out0": np.zeros(shape, np.float32), "axes": integers(1, 2)}
    nodes: list[Node] = []
    for at, (places, (time, channels)) in enumerate(parts):
        grid = np.meshgrid(*(np.arange(n)[s] for n, s in zip(shape, places)), indexing="ij")
        constants |= {f"i{at}": np.stack(grid, -1), f"a{at}": integers(time.start, channels.start)}
        constants[f"b{at}"] = integers(time.stop, channels.stop)
        nodes.append(Node("Slice", ("x", f"a{at}", f"b{at}", "axes"), (f"u{at}",)))
        nodes.append(Node("ScatterND", (f"out{at}", f"i{at}", f"u{at}"), (f"out{at + 1}",)))
    before = infer(Graph(tuple(nodes), (Value("x", shape),), ("out3",), constants))
    after = optimise(before)
    assert {node.op for node in after.nodes} <= {"Concat", "Slice"}
    assert_same(before, after)
    x = random(*shape)
    wanted = np.zeros_like(x)
    wanted[:, :-1, :2], wanted[:, 1:, 2:4], wanted[:, :, 4:] = x[:, 1:, :2], x[:, :-1, 2:4], x[:, :, 4:]
    np.testing.assert_array_equal(evaluate(after, {"x": x}, np.float32)["out3"], wanted)
