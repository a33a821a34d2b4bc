"""Shifts in time (TSM, arXiv 1811.08383), in the forms of exporters, become one compiled step with equal results."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from sevenloops import InferenceSession, Shift, parse_problem
from sevenloops.errors import FallbackWarning, ProblemError
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.ir import OWN, Graph, Node, Value
from sevenloops.graph.passes import optimise
from sevenloops.graph.shapes import infer
from sevenloops.shift import channel_offsets

CLIPS, FRAMES, C, FOLD, H, W = 2, 4, 24, 3, 5, 7
SHAPE = (CLIPS * FRAMES, C, H, W)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


class Writer:
    """Nodes with their integer operands as constants."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}

    def add(self, op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        at, names = len(self.nodes), []
        for slot, given in enumerate(inputs):
            if isinstance(given, str):
                names.append(given)
            else:
                names.append(f"k{at}_{slot}")
                self.constants[names[-1]] = np.asarray(given)
        made = tuple(f"v{at}_{i}" for i in range(outputs))
        self.nodes.append(Node(op, tuple(names), made, attributes, f"n{at}"))
        return made[0] if outputs == 1 else made

    def cut(self, x: str, axes: tuple[int, ...], starts: tuple[int, ...], ends: tuple[int, ...]) -> str:
        return str(self.add("Slice", x, integers(*starts), integers(*ends), integers(*axes)))


def paddle(w: Writer, x: str) -> str:
    """Time padded on both sides, three slices, one concatenation; the directions are the other way round."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    x = w.add("Pad", x, integers(0, 1, 0, 0, 0, 0, 1, 0, 0, 0), np.float32(0))
    parts = [
        w.cut(x, (1, 2), (0, 0), (FRAMES, FOLD)),
        w.cut(x, (1, 2), (2, FOLD), (FRAMES + 2, 2 * FOLD)),
        w.cut(x, (1, 2), (1, 2 * FOLD), (FRAMES + 1, C)),
    ]
    return str(w.add("Reshape", w.add("Concat", *parts, axis=2), integers(-1, C, H, W)))


def mmaction(w: Writer, x: str) -> str:
    """Pixels in one axis; zeros are a slice minus itself."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H * W))
    left, mid, right = (w.cut(x, (2,), (a,), (b,)) for a, b in ((0, FOLD), (FOLD, 2 * FOLD), (2 * FOLD, 2**62)))
    blank = w.cut(w.add("Sub", left, left), (1,), (0,), (1,))
    left = w.add("Concat", w.cut(left, (1,), (1,), (2**62,)), blank, axis=1)
    blank = w.cut(w.add("Sub", mid, mid), (1,), (0,), (1,))
    mid = w.add("Concat", blank, w.cut(mid, (1,), (0,), (-1,)), axis=1)
    return str(w.add("Reshape", w.add("Concat", left, mid, right, axis=2), integers(*SHAPE)))


def mit(w: Writer, x: str) -> str:
    """Assignments to slices of zeros, which an exporter writes as ScatterND with all indices."""
    x = w.add("Reshape", x, integers(CLIPS, FRAMES, C, H, W))
    out: Any = np.zeros((CLIPS, FRAMES, C, H, W), np.float32)
    every, stay = slice(None), slice(0, FRAMES)
    early, late = slice(0, FRAMES - 1), slice(1, FRAMES)
    for to, come, channels in (
        (early, late, slice(0, FOLD)),
        (late, early, slice(FOLD, 2 * FOLD)),
        (stay, stay, slice(2 * FOLD, C)),
    ):
        part = w.cut(x, (1, 2), (come.start, channels.start), (come.stop, channels.stop))
        places = (every, to, channels)
        grid = np.meshgrid(*(np.arange(n)[s] for n, s in zip((CLIPS, FRAMES, C), places)), indexing="ij")
        out = w.add("ScatterND", out, np.stack(grid, -1), part)
    return str(w.add("Reshape", out, integers(*SHAPE)))


def split(w: Writer, x: str) -> str:
    """By Split and Pad."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    left, mid, right = w.add("Split", x, integers(FOLD, FOLD, C - 2 * FOLD), outputs=3, axis=2)
    left = w.cut(w.add("Pad", left, integers(0, 0, 0, 0, 0, 0, 1, 0, 0, 0)), (1,), (1,), (FRAMES + 1,))
    mid = w.cut(w.add("Pad", mid, integers(0, 1, 0, 0, 0, 0, 0, 0, 0, 0)), (1,), (0,), (FRAMES,))
    return str(w.add("Reshape", w.add("Concat", left, mid, right, axis=2), integers(*SHAPE)))


FORMS = {"paddle": (paddle, -1), "mmaction": (mmaction, 1), "mit": (mit, 1), "split": (split, 1)}


def network(form: str, pointwise: bool, stride: int = 1) -> Graph:
    """Relu, the shift, and a 1x1 convolution; the shortcut reads the same value."""
    w = Writer()
    x = w.add("Relu", "x")
    y = FORMS[form][0](w, x)
    if pointwise:
        weight = np.random.default_rng(0).standard_normal((C, C, 1, 1)).astype(np.float32)
        y = w.add("Conv", y, weight, strides=(stride, stride))
        y = w.add("Add", y, x) if stride == 1 else y
    return Graph(tuple(w.nodes), (Value("x", SHAPE),), (y,), w.constants)


def moved(x: np.ndarray[Any, Any], direction: int) -> np.ndarray[Any, Any]:
    """By definition: `direction` 1 reads the first channels from the next frame."""
    clips = x.reshape(CLIPS, FRAMES, C, H, W)
    out = np.zeros_like(clips)
    first, second = (slice(0, FOLD), slice(FOLD, 2 * FOLD))[:: 1 if direction == 1 else -1]
    out[:, :-1, first] = clips[:, 1:, first]
    out[:, 1:, second] = clips[:, :-1, second]
    out[:, :, 2 * FOLD :] = clips[:, :, 2 * FOLD :]
    return out.reshape(x.shape)


@pytest.mark.parametrize("pointwise", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_exporters_become_one_step(form: str, pointwise: bool) -> None:
    graph = infer(network(form, pointwise))
    after = optimise(graph)
    assert [node.op for node in after.nodes] == ["Elementwise", "Conv" if pointwise else "Shift"]
    assert after.nodes[-1].get("frames") == FRAMES and bool(after.nodes[-1].get("residual")) == pointwise
    direction = FORMS[form][1]
    moves = after.nodes[-1].get("shift")[2] if pointwise else after.nodes[-1].get("convention")
    assert moves == f"{FOLD}@{direction}x0+{FOLD}@{-direction}x0"
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    feeds = {"x": x}
    (wanted,) = evaluate(graph, feeds).values()
    (as_nodes,) = evaluate(after, feeds).values()
    np.testing.assert_allclose(as_nodes, wanted, atol=1e-12)
    if not pointwise:
        np.testing.assert_array_equal(wanted, moved(np.maximum(x, 0), direction))
    session = InferenceSession(network(form, pointwise))
    problems = [str(step.problem) for step in session.plan().steps]
    assert f"shift={FOLD}@{direction * H}x0+{FOLD}@{-direction * H}x0" in problems[-1] + problems[-2], problems
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_modules_that_pytorch_exports(tmp_path: Any) -> None:
    """The codes of temporal-shift-module and of mmaction2, in the way of each, through PyTorch's own exporter."""
    torch = pytest.importorskip("torch", reason="its exporter writes the files")

    class Assigned(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            clips = x.view(-1, FRAMES, C, H, W)
            out = torch.zeros_like(clips)
            out[:, :-1, :FOLD] = clips[:, 1:, :FOLD]
            out[:, 1:, FOLD : 2 * FOLD] = clips[:, :-1, FOLD : 2 * FOLD]
            out[:, :, 2 * FOLD :] = clips[:, :, 2 * FOLD :]
            return out.view(-1, C, H, W)

    class Joined(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            n, c, h, w = x.size()
            left, mid, right = x.view(-1, FRAMES, c, h * w).split([FOLD, FOLD, C - 2 * FOLD], 2)
            blanks = [(part - part)[:, :1] for part in (left, mid)]
            left, mid = torch.cat((left[:, 1:], blanks[0]), 1), torch.cat((blanks[1], mid[:, :-1]), 1)
            return torch.cat((left, mid, right), 2).view(n, c, h, w)

    x = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    for number, module in enumerate((Assigned(), Joined())):
        model = torch.nn.Sequential(module, torch.nn.Conv2d(C, C, 1, bias=False)).eval()
        with torch.no_grad():
            model[1].weight.copy_(torch.eye(C)[:, :, None, None])
        path = tmp_path / f"{number}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its end, and of sizes taken as constants
            torch.onnx.export(model, (torch.from_numpy(x),), path, dynamo=False, input_names=["x"])
        session = InferenceSession(str(path))
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], moved(x, 1))
        assert sum(str(step.problem).count("shift=") for step in session.plan().steps) == 1
        assert len(session.plan().steps) <= 3, "the layout, the shift with the convolution, and the layout"


def reordered(w: Writer, x: str) -> str:
    """Moves in time, but the parts change places."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    parts = [w.cut(x, (2,), (FOLD,), (C,)), w.cut(x, (2,), (0,), (FOLD,))]
    return str(w.add("Reshape", w.add("Concat", *parts, axis=2), integers(*SHAPE)))


def across(w: Writer, x: str) -> str:
    """Rows of images move with the frames."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    x = w.add("Pad", x, integers(0, 1, 0, 1, 0, 0, 0, 0, 0, 0))
    x = w.cut(x, (1, 3), (0, 0), (FRAMES, H))
    return str(w.add("Reshape", w.add("Concat", x, axis=2), integers(*SHAPE)))


def around(w: Writer, x: str) -> str:
    """The last frame comes round to the first: no zeros."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    left = w.cut(x, (2,), (0,), (FOLD,))
    parts = [w.cut(left, (1,), (1,), (FRAMES,)), w.cut(left, (1,), (0,), (1,))]
    x = w.add("Concat", w.add("Concat", *parts, axis=1), w.cut(x, (2,), (FOLD,), (C,)), axis=2)
    return str(w.add("Reshape", x, integers(*SHAPE)))


def ones(w: Writer, x: str) -> str:
    """What moves in is one, not zero."""
    x = w.add("Reshape", x, integers(-1, FRAMES, C, H, W))
    left = w.add("Pad", w.cut(x, (2,), (0,), (FOLD,)), integers(0, 1, 0, 0, 0, 0, 0, 0, 0, 0), np.float32(1))
    left = w.cut(left, (1,), (0,), (FRAMES,))
    x = w.add("Concat", left, w.cut(x, (2,), (FOLD,), (C,)), axis=2)
    return str(w.add("Reshape", x, integers(*SHAPE)))


@pytest.mark.parametrize("form", [reordered, across, around, ones])
def test_near_matches_stay(form: Any) -> None:
    w = Writer()
    y = form(w, w.add("Relu", "x"))
    graph = infer(Graph(tuple(w.nodes), (Value("x", SHAPE),), (y,), w.constants))
    after = optimise(graph)
    assert not [node for node in after.nodes if (node.op, node.domain) == ("Shift", OWN)]
    feeds = {"x": np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)}
    for one, other in zip(evaluate(graph, feeds).values(), evaluate(after, feeds).values()):
        np.testing.assert_array_equal(one, other)


def test_integers_are_shifted_too() -> None:
    w = Writer()
    y = mmaction(w, "x")
    graph = Graph(tuple(w.nodes), (Value("x", SHAPE, "int64"),), (y,), w.constants)
    x = np.random.default_rng(6).integers(-9, 9, SHAPE)
    with pytest.warns(FallbackWarning, match="Shift"):
        np.testing.assert_array_equal(InferenceSession(graph).run(None, {"x": x})[0], moved(x, 1))


def test_a_strided_convolution_leaves_the_shift_alone() -> None:
    graph = network("paddle", True, stride=2)
    after = optimise(infer(graph))
    assert [node.op for node in after.nodes] == ["Elementwise", "Shift", "Conv"]
    feeds = {"x": np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)}
    (wanted,) = evaluate(infer(graph), feeds).values()
    np.testing.assert_allclose(InferenceSession(graph).run(None, feeds)[0], wanted, atol=1e-5)


def test_four_shifts_of_a_twelfth_are_one_shift() -> None:
    """ShiftViT (arXiv 2201.10801): a twelfth of the channels in each of four directions, by Pad, Slices and Concat."""
    w, part = Writer(), C // 12
    x = w.add("Pad", "x", integers(0, 0, 1, 1, 0, 0, 1, 1))
    steps = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    parts = [
        w.cut(x, (1, 2, 3), (at * part, 1 + dy, 1 + dx), ((at + 1) * part, 1 + dy + H, 1 + dx + W))
        for at, (dy, dx) in enumerate(steps)
    ]
    parts.append(w.cut(x, (1, 2, 3), (4 * part, 1, 1), (C, 1 + H, 1 + W)))
    y = w.add("Concat", *parts, axis=1)
    graph = infer(Graph(tuple(w.nodes), (Value("x", SHAPE),), (y,), w.constants))
    (node,) = optimise(graph).nodes
    assert (node.op, node.get("convention")) == ("Shift", "+".join(f"{part}@{dy}x{dx}" for dy, dx in steps))
    feeds = {"x": np.random.default_rng(4).standard_normal(SHAPE).astype(np.float32)}
    (wanted,) = evaluate(graph, feeds).values()
    np.testing.assert_array_equal(InferenceSession(graph).run(None, feeds)[0], wanted.astype(np.float32))


def test_moves_as_a_value() -> None:
    shift = Shift.of_moves([(8, (1, 0)), (8, (-1, 0))])
    assert shift.moves == ((8, (1, 0)), (8, (-1, 0))) and shift == Shift(convention="8@1x0+8@-1x0")
    assert shift.word() == "shift=8@1x0+8@-1x0" and Shift.from_word(shift.word()) == shift
    assert channel_offsets(shift, 18) == [(1, 0)] * 8 + [(-1, 0)] * 8 + [(0, 0)] * 2
    problem = parse_problem("mb2 ic24 ih6 iw5 oc8 kh1 kw1 shift=8@1x0+8@-1x0")
    assert parse_problem(str(problem)) == problem
    for word, message in (
        ("shift=20@1x0+8@-1x0", "moves more channels than 24"),
        ("shift=8@1", "each move of a shift needs 2 offsets"),
        ("shift=8@1x99999999", "at most 16777216 pixels"),
        ("shift=0@1x0", "at least one channel each"),
        ("shift=8@1x0+8@1", "as many offsets"),
        ("shift=8@1x0+", "moves are written out as 8@1x0"),
    ):
        with pytest.raises(ProblemError, match=message):
            parse_problem(f"mb2 ic24 ih6 iw5 oc8 kh1 kw1 {word}")
