"""Gradients of convolutions against their definition in float64: every algorithm, every row of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from operands import Array
from problems import ODD, PADDING, REGULAR, STRIDE_DILATION
from scheduler import OneByOne, can_schedule, late, with_loop
from sevenloops.adjoint import WeightGradient, adjoint, beyond
from sevenloops.compile.build import TIME_LIMIT_S
from sevenloops.compile.gradient import compile_gradient, gradient_schedule
from sevenloops.compile.runtime import LoadedKernel
from sevenloops.compile.store import kernel_image
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import Epilogue
from sevenloops.errors import ArrayError, ScheduleError
from sevenloops.functional_gradients import InputGradient, WeightsGradient, input_gradient, weight_gradient
from sevenloops.gradients import GRADIENTS
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv, reference_weight_gradient
from sevenloops.schedule import Schedule

#: One to three dimensions, groups, depthwise, and a layer that oneDNN has computed wrongly or never (its issue 6035).
MORE = [
    "mb2 ic5 iw17 oc7 kw4 sw2 pl1 pr2",
    "mb2 ic4 id5 ih6 iw7 oc6 kd2 kh3 kw3 sd2 ph1 pw1",
    "mb2 g3 ic12 ih9 iw8 oc15 kh3 kw3 ph1 pw1",
    "mb3 g20 ic20 ih9 iw11 oc20 kh3 kw3 sh2 sw2 ph1 pw1",
    "mb2 g6 ic6 ih9 iw11 oc18 kh5 kw5 ph2 pw2",
    "mb32 ic4 ih32 iw32 oc8 kh1 kw1 sh2 sw2",
    "mb2 ic13 ih9 iw9 oc6 kh1 kw1 shift=3",
]
TRANSPOSED = [
    "mb2 ic6 ih7 iw5 oc9 kh4 kw4 sh2 sw2 ph1 pw1 transposed",
    "mb2 g2 ic6 ih5 iw5 oc4 kh3 kw3 sh2 sw2 ph1 pw1 oh1 ow1 transposed",
    "mb1 ic3 iw6 oc4 kw2 sw2 dw4 ow3 transposed",
]


def direct(**params: Any) -> Schedule:
    return Schedule("gradient_direct", **{"stage": True, "unroll": 1, "parallel": True, **params})


def depthwise(**params: Any) -> Schedule:
    return Schedule("gradient_depthwise", **{"unroll": 1, "parallel": True, **params})


def forward_of(text: str) -> ConvProblem:
    problem = parse_problem(text)
    assert isinstance(problem, ConvProblem)
    return replace(problem, epilogue=Epilogue(), out_pitch=0)


def operands(problem: ConvProblem, *shapes: tuple[int, ...], integers: bool = False) -> list[Array]:
    rng = np.random.default_rng(sum(map(len, shapes)) + problem.macs)
    draw = (lambda s: rng.integers(-4, 5, s)) if integers else rng.standard_normal
    return [draw(shape).astype(problem.dtype) for shape in shapes]


def close(result: Array, expected: Array, tolerance: float) -> None:
    assert result.shape == expected.shape
    error, largest = np.abs(result - expected).max(), np.abs(expected).max()
    assert error <= tolerance * largest, f"off by {error:.3e} where gradients reach {largest:.3e}"


@pytest.mark.parametrize("name", list(GRADIENTS))
@pytest.mark.parametrize("text", [*ODD, *PADDING, *STRIDE_DILATION, *REGULAR, *MORE])
def test_weight_gradient_is_the_definition(name: str, text: str) -> None:
    forward = forward_of(text)
    row, problem, machine = GRADIENTS[name], WeightGradient(forward), Machine.host()
    reason = row.supports(problem)
    if reason is not None:
        assert len(reason) > 10
        return
    for schedule in row.schedules(problem, machine)[:3]:
        kernel = compile_gradient(problem, 2, schedule)
        for integers in (True, False):
            x, dy = operands(forward, forward.x_shape, forward.y_shape, integers=integers)
            out = np.full(forward.w_shape, np.nan, np.float32)
            assert kernel.run(x.ctypes.data, dy.ctypes.data, out.ctypes.data) == 0
            expected = reference_weight_gradient(problem, x, dy)
            exact = integers and row.exact_on_integers
            close(out, expected, 0.0 if exact else row.tolerance)


@pytest.mark.parametrize("text", [*ODD, *PADDING, *STRIDE_DILATION, *MORE[:-1], *TRANSPOSED])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_gradients(text: str, dtype: str) -> None:
    problem = replace(forward_of(text), dtype=dtype)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    x, dy, w = operands(problem, problem.x_shape, problem.y_shape, problem.w_shape)
    turned = numerical(problem, x, dy, w)
    close(weight_gradient(problem, x, dy), turned[1], tolerance)
    close(input_gradient(problem, dy, w), turned[0], tolerance)


def numerical(problem: ConvProblem, x: Array, dy: Array, w: Array) -> tuple[Array, Array]:
    """Both gradients by PyTorch's autograd in float64, which shares no code with ours."""
    torch: Any = pytest.importorskip("torch", reason="the gradients are compared with PyTorch's")
    rank, first = problem.rank, (0, problem.rank + 1, *range(1, problem.rank + 1))
    tx, tw = (torch.tensor(np.asarray(v, np.float64), requires_grad=True) for v in (x.transpose(first), w))
    pads = [edge for pair in reversed(problem.padding) for edge in pair]
    if problem.transposed:
        function = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        y = function(tx, tw, None, problem.stride, 0, problem.output_padding, problem.groups, problem.dilation)
        y = torch.nn.functional.pad(y, [-edge for edge in pads])
    else:
        function = getattr(torch.nn.functional, f"conv{rank}d")
        y = function(torch.nn.functional.pad(tx, pads), tw, None, problem.stride, 0, problem.dilation, problem.groups)
    y.backward(torch.tensor(np.asarray(dy, np.float64).transpose(first)))
    return np.moveaxis(tx.grad.numpy(), 1, -1), tw.grad.numpy()


#: Schedules that the choice would not take: ragged blocks, parts and panels, both operands in vectors, tasks of every kind.
SHAPES: list[tuple[str, Schedule]] = [
    (
        "mb3 ic13 ih11 iw9 oc22 kh3 kw3 sh2 ph1 pw1",
        direct(vectors="dy", tile_x=5, tile_dy=16, block_rows=4, parts=3, splits=2, unroll=2),
    ),
    (
        "mb3 ic13 ih11 iw9 oc22 kh3 kw3 sh2 ph1 pw1",
        direct(vectors="x", tile_x=8, tile_dy=3, block_rows=12, parts=2, splits=2, unroll=1),
    ),
    (
        "mb3 ic13 ih11 iw9 oc22 kh3 kw3 sh2 ph1 pw1",
        direct(vectors="x", tile_x=8, tile_dy=6, block_rows=18, parts=1, splits=2, unroll=4),
    ),
    (
        "mb5 g2 ic20 ih7 iw6 oc36 kh2 kw3 dh2 pw1",
        direct(vectors="dy", tile_x=4, tile_dy=8, block_rows=10, parts=1, splits=3, unroll=3),
    ),
    ("mb4 ic19 ih6 iw10 oc27 kh1 kw1", direct(vectors="x", tile_x=16, tile_dy=5, block_rows=3, parts=2, splits=2, unroll=4)),
    (
        "mb4 ic19 ih6 iw10 oc27 kh1 kw1",
        direct(vectors="dy", tile_x=6, tile_dy=8, block_rows=1, parts=4, splits=4, stage=False),
    ),
    (
        "mb2 ic3 ih19 iw21 oc17 kh5 kw5 sh2 sw2 ph2 pw2",
        direct(vectors="dy", tile_x=6, tile_dy=8, block_rows=4, parts=4, splits=3, unroll=2),
    ),
    (
        "mb2 ic4 id5 ih6 iw7 oc6 kd2 kh3 kw3 sd2 ph1 pw1",
        direct(vectors="dy", tile_x=3, tile_dy=4, block_rows=12, parts=2, splits=1, unroll=7),
    ),
    ("mb3 g21 ic21 ih11 iw13 oc21 kh5 kw5 ph2 pw2", depthwise(tile_width=3, tile_height=2, block_rows=4, parts=3, unroll=3)),
    ("mb3 g21 ic21 ih11 iw13 oc21 kh5 kw5 ph2 pw2", depthwise(tile_width=5, tile_height=1, block_rows=22, parts=2)),
    ("mb4 g5 ic5 ih9 iw8 oc10 kh3 kw3 sh2 sw2 ph1 pw1", depthwise(tile_width=2, tile_height=3, block_rows=2, parts=12)),
]


@pytest.mark.parametrize(("text", "schedule"), SHAPES)
def test_schedules_and_their_tasks(text: str, schedule: Schedule) -> None:
    """Exact on integers, the same bits with 1 and 2 threads and in any order of tasks, and one task for each element."""
    problem, machine = WeightGradient(forward_of(text)), Machine.host()
    row = GRADIENTS[schedule.algorithm]
    assert row.check(problem, schedule, machine) is None
    assert row.macs_executed(problem, schedule) >= problem.macs
    assert 0 < row.workspace_bytes(problem, schedule, 1) <= row.workspace_bytes(problem, schedule, 2)
    shapes = (problem.forward.x_shape, problem.forward.y_shape)
    x, dy = operands(problem.forward, *shapes, integers=True)
    out = np.full(problem.y_shape, np.nan, np.float32)

    def run(kernel: LoadedKernel) -> bytes:
        out[...] = np.nan
        assert kernel.run(x.ctypes.data, dy.ctypes.data, out.ctypes.data) == 0
        return out.tobytes()

    run(compile_gradient(problem, 2, schedule))
    close(out, reference_weight_gradient(problem, x, dy), 0.0)
    x, dy = operands(problem.forward, *shapes)
    expected = run(compile_gradient(problem, 1, schedule))
    close(out, reference_weight_gradient(problem, x, dy), row.tolerance)
    assert run(compile_gradient(problem, 2, schedule)) == expected
    if can_schedule(machine):
        any_problem: Any = problem
        image = kernel_image(any_problem, schedule, machine, TIME_LIMIT_S)
        for backwards in (False, True):
            loop = OneByOne(out, backwards=backwards)
            assert run(with_loop(image, machine, loop)) == expected
            assert loop.most <= 1, "two tasks write one element"
        assert run(with_loop(image, machine, late(3, 5))) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tile_dy": 12}, "multiple of vectors of"),
        ({"tile_x": 14}, "more than the 13 channels"),
        ({"vectors": "w"}, "one of dy, x"),
        ({"block_rows": 7}, "rows of an image of 6"),
        ({"block_rows": 36}, "more than the 18 rows"),
        ({"parts": 7}, "does not divide blocks"),
        ({"splits": 3}, "must divide the 2 panels"),
        ({"stage": False}, "must be True"),
        ({"unroll": 10}, "more than the 9 pixels"),
        ({"parallel": 1}, "True or False"),
        ({"tile_x": 0}, "at least 1"),
    ],
)
def test_schedules_that_do_not_fit(changes: dict[str, Any], says: str) -> None:
    text, schedule = SHAPES[0]
    problem, wrong = WeightGradient(forward_of(text)), schedule.replace(**changes)
    assert says in str(GRADIENTS["gradient_direct"].check(problem, wrong, Machine.described("avx2")))
    if "parallel" not in changes:  # which equals True, so there is a kernel
        with pytest.raises(ScheduleError, match=says):
            compile_gradient(problem, 1, wrong)


def test_choice() -> None:
    """Each algorithm is chosen where it belongs; a choice measures nothing."""
    chosen = {
        "mb16 ic64 ih56 iw56 oc128 kh3 kw3 sh2 sw2 ph1 pw1": "gradient_direct",
        "mb16 g144 ic144 ih56 iw56 oc144 kh3 kw3 ph1 pw1": "gradient_depthwise",
        "mb16 ic64 ih28 iw28 oc64 kh1 kw1 shift=3": "gradient_direct",
    }
    for text, name in chosen.items():
        assert gradient_schedule(WeightGradient(forward_of(text)), Machine.described("avx2")).algorithm == name
    double = WeightGradient(replace(forward_of("mb1 ic5 ih9 iw9 oc7 kh3 kw3"), dtype="float64"))
    assert gradient_schedule(double, Machine.described("avx2")).algorithm == "gradient_naive"


def test_long_sums_keep_their_digits() -> None:
    """A sum over 200,704 pixels of one sign, where one term after the other would be off by 1e-3."""
    forward = forward_of("mb16 ic3 ih112 iw112 oc8 kh1 kw1")
    x, dy = np.random.default_rng(1).random(forward.x_shape, np.float32), np.ones(forward.y_shape, np.float32)
    close(weight_gradient(forward, x, dy), reference_weight_gradient(WeightGradient(forward), x, dy), 1e-6)


def test_the_adjoint_of_the_adjoint() -> None:
    for text in (*ODD, *PADDING, *STRIDE_DILATION):
        forward = forward_of(text)
        back = adjoint(adjoint(forward))
        seen = tuple(size - cut for size, cut in zip(forward.in_size, beyond(adjoint(forward))))
        assert (back.in_size, back.w_shape, back.out_size) == (seen, forward.w_shape, forward.out_size)
    assert reference_conv(adjoint(forward), np.ones(forward.y_shape), np.ones(forward.w_shape)).shape == forward.x_shape


def test_kernels_are_found_by_sizes_and_know_their_algorithm() -> None:
    problem = forward_of(MORE[2])
    x, dy, w = operands(problem, problem.x_shape, problem.y_shape, problem.w_shape)
    back, weights = InputGradient(problem, threads=1), WeightsGradient(problem, algorithm="gradient_naive")
    assert back.algorithm == back.kernel.algorithm and weights.algorithm == "gradient_naive"
    np.testing.assert_array_equal(back(dy, w), input_gradient(problem, dy, w, threads=2))
    np.testing.assert_array_equal(weights(x, dy), weight_gradient(problem, x, dy, threads=2, algorithm="gradient_naive"))
    with pytest.raises(ArrayError, match="dy must have shape"):
        weights(x, x)
