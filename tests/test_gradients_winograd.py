"""gradient_winograd, schedule by schedule, and the input gradients of stride 1, which are plain convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from operands import Array
from problems import conv
from sevenloops.adjoint import WeightGradient, adjoint, turned, why_not_turned
from sevenloops.algorithms import ALGORITHMS
from sevenloops.choice import choose
from sevenloops.compile.build import build_image
from sevenloops.compile.gradient import compile_gradient, gradient_schedule
from sevenloops.errors import ProblemError, ScheduleError
from sevenloops.functional_gradients import input_gradient
from sevenloops.gradients import GRADIENTS
from sevenloops.gradients.winograd_cost import SIZES
from sevenloops.gradients.winograd_plan import Plan
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv, reference_weight_gradient
from sevenloops.schedule import Schedule

ROW, MACHINE = GRADIENTS["gradient_winograd"], Machine.host()
LAYER = "mb2 ic40 ih14 iw13 oc24 kh3 kw3 ph1 pw1"
NARROW = {"tile_in": MACHINE.lanes}


def schedule_for(problem: WeightGradient, **changes: Any) -> Schedule:
    """A plain schedule with changes: one block, one part, chunks of eight tiles."""
    g, lanes = problem.forward, MACHINE.lanes
    ic, oc = g.in_channels // g.groups, g.out_channels // g.groups
    tile_in = changes.get("tile_in", 2 * lanes)
    whole = {
        "tile_height": 4 if g.rank == 2 and g.kernel[0] > 1 else 1, "tile_width": 4 if g.kernel[-1] > 1 else 1,
        "points": "balanced", "tile_out": 4, "tile_in": tile_in, "block_out": oc, "block_panels": -(-ic // tile_in),
        "block_tiles": 8, "parts": 1, "unroll": 1, "parallel": True,
    }  # fmt: skip
    return Schedule("gradient_winograd", **{**whole, **changes})


def operands(problem: WeightGradient) -> list[Array]:
    rng = np.random.default_rng(problem.macs)
    return [rng.standard_normal(shape).astype(np.float32) for shape in problem.x_shapes]


def run(problem: WeightGradient, schedule: Schedule, x: Array, dy: Array, threads: int = 2) -> Array:
    out = np.full(problem.y_shape, np.nan, np.float32)
    kernel = compile_gradient(problem, threads, schedule)
    assert kernel.run(x.ctypes.data, dy.ctypes.data, out.ctypes.data) == 0
    return out


def error(result: Array, expected: Array) -> float:
    """The largest error relative to the largest element."""
    return float(np.abs(result - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    "text,changes",
    [
        (LAYER, {}),
        (LAYER, {"parts": 3, "block_out": 8, "block_tiles": 6}),
        (LAYER, {"block_panels": 1, "tile_in": 8, "block_out": 12} if MACHINE.lanes <= 8 else {"block_out": 12}),
        (LAYER, {"block_tiles": 64, "unroll": 4, "tile_out": 5}),  # more tiles in a chunk than there are
        (LAYER, {"tile_height": 2, "tile_width": 5, "parallel": False}),
        (LAYER, {"points": "integers", "tile_height": 3, "tile_width": 3}),
        ("mb1 ic3 ih2 iw3 oc5 kh3 kw3 ph1 pw1", {"tile_height": 6, "tile_width": 4}),  # smaller than a tile
        ("mb3 ic1 ih5 iw5 oc9 kh3 kw3 ph4 pw5", {}),  # outputs that see nothing but padding
        ("mb2 ic9 ih6 iw29 oc11 kh2 kw4 pt1 pl3 pr1", {"tile_width": 3, "parts": 2}),
        ("mb2 g3 ic12 ih9 iw8 oc15 kh3 kw3 ph1 pw1", {}),
        ("mb2 g2 ic16 ih27 iw27 oc12 kh5 kw5 ph2 pw2", {"tile_height": 3, "tile_width": 3, "block_out": 3}),
        ("mb1 ic12 ih17 iw17 oc20 kh1 kw5 pw2", {"tile_width": 2}),
        ("mb3 ic7 iw41 oc6 kw3 pl2", {"parts": 2}),
    ],
)  # fmt: skip
def test_schedules_are_the_definition(text: str, changes: dict[str, Any]) -> None:
    problem = WeightGradient(conv(text))
    schedule = schedule_for(problem, **changes)
    assert ROW.check(problem, schedule, MACHINE) is None
    x, dy = operands(problem)
    result = run(problem, schedule, x, dy)
    assert error(result, reference_weight_gradient(problem, x, dy)) < 5e-6
    assert ROW.macs_executed(problem, schedule) >= problem.macs // 6
    for threads in (1, 2):
        assert np.array_equal(run(problem, schedule, x, dy, threads), result), f"other bits with {threads} threads"


@pytest.mark.parametrize("text", ["mb16 ic8 ih28 iw28 oc8 kh3 kw3 ph1 pw1", "mb16 ic8 ih27 iw27 oc8 kh5 kw5 ph2 pw2"])
def test_errors_of_every_tile_stay_within_the_tolerance(text: str) -> None:
    problem = WeightGradient(conv(text))
    x, dy = operands(problem)
    expected = reference_weight_gradient(problem, x, dy)
    for m in SIZES[problem.forward.kernel[0]]:
        found = error(run(problem, schedule_for(problem, tile_height=m, tile_width=m), x, dy), expected)
        assert found < ROW.tolerance / 2, f"F({problem.forward.kernel}, {m}) is off by {found:.1e}"
        assert found > 1e-8  # it is not the reference that was compared


def test_points_that_were_searched_for_are_better() -> None:
    problem = WeightGradient(conv("mb16 ic8 ih28 iw28 oc8 kh3 kw3 ph1 pw1"))
    x, dy = operands(problem)
    expected = reference_weight_gradient(problem, x, dy)
    balanced, integers = (
        error(run(problem, schedule_for(problem, points=p), x, dy), expected) for p in ("balanced", "integers")
    )
    assert balanced < integers


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"tile_out": 0}, "at least 1"),
        ({"parallel": "yes"}, "True or False"),
        ({"points": "primes"}, "no 5 points named"),
        ({"tile_in": MACHINE.lanes + 1}, "multiple of"),
        ({"tile_out": 40, "tile_in": 4 * MACHINE.lanes}, "registers"),
        ({"block_panels": 2, "tile_in": 16}, "must divide the 40"),
        ({"block_panels": 99}, "beyond"),
        ({"block_out": 7}, "must divide the 24"),
        ({"unroll": 3}, "must divide block_tiles"),
        ({"parts": 32}, "parts without any"),
    ],
)
def test_schedules_that_do_not_fit_say_why(changes: dict[str, Any], reason: str) -> None:
    problem = WeightGradient(conv(LAYER))
    schedule = schedule_for(problem, **changes)
    assert reason in str(ROW.check(problem, schedule, MACHINE))
    with pytest.raises(ScheduleError, match=reason):
        compile_gradient(problem, 1, schedule)


def test_what_it_cannot_compute() -> None:
    cases = {
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3 sh2 sw2": "stride 1",
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3 dh2": "dilation 1",
        "mb1 ic4 ih9 iw9 oc4 kh1 kw1": "one pixel",
        "mb1 ic4 ih9 iw9 oc4 kh7 kw7": "5 is the largest",
        "mb1 ic4 id5 ih9 iw9 oc4 kd3 kh3 kw3": "three",
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3 float64": "float32 only",
        "mb2 ic13 ih9 iw9 oc6 kh1 kw1 shift=3": "shift",
    }
    for text, reason in cases.items():
        assert reason in str(ROW.supports(WeightGradient(conv(text)))), text


@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon"])
def test_candidates_use_the_registers_that_there_are(isa: str) -> None:
    machine = Machine.described(isa, cores=8)
    for text in ("mb16 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1", "mb16 ic512 ih7 iw7 oc512 kh3 kw3 ph1 pw1"):
        problem = WeightGradient(conv(text))
        listed = ROW.schedules(problem, machine)
        assert len(listed) > 5 and [ROW.check(problem, s, machine) for s in listed] == [None] * len(listed)
        costs = [ROW.predicted_s(problem, s, machine) for s in listed]
        assert costs == sorted(costs)
        best = listed[0]
        sums = best.tile_out * best.tile_in // machine.lanes
        assert machine.vector_registers / 2 <= sums < machine.vector_registers
        assert Plan.of(problem, best).tasks >= machine.cores


def test_it_compiles_for_avx512() -> None:
    machine, problem = Machine.described("avx512"), WeightGradient(conv(LAYER))
    image: Any = build_image(problem, ROW.schedules(problem, machine)[0], machine, "wide")  # type: ignore[arg-type]
    assert [buffer.shape for buffer in image.buffers][-1] == problem.y_shape


def test_it_is_chosen_where_multiplications_bind() -> None:
    assert (
        gradient_schedule(WeightGradient(conv("mb16 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1")), MACHINE)
        == ROW.schedules(WeightGradient(conv("mb16 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1")), MACHINE)[0]
    )


# ------------------------------------------------------------------------------------ the gradient of the input

TURNED = [
    "mb2 ic13 ih9 iw11 oc21 kh3 kw3 ph1 pw1",
    "mb2 g3 ic12 ih9 iw8 oc15 kh3 kw2 pt1 pl1",
    "mb2 g20 ic20 ih9 iw11 oc20 kh3 kw3 ph1 pw1",
    "mb1 ic40 ih9 iw11 oc21 kh1 kw1",
    "mb2 ic7 ih15 iw16 oc13 kh3 kw3 dh2 dw3 ph2 pw3",
    "mb2 ic33 ih12 iw11 oc18 kh5 kw5",
    "mb3 ic5 iw17 oc7 kw4 pl1 pr2",
    "mb1 ic64 ih7 iw7 oc96 kh3 kw3 ph1 pw1",
    "mb1 g24 ic24 ih9 iw9 oc24 kh7 kw7 ph3 pw3",
]


def with_turned_weights(weight: Array, problem: ConvProblem) -> Array:
    """`v[oc, ic, k] = w[ic, oc, K - 1 - k]` in each group, by NumPy."""
    groups = np.split(weight, problem.groups)
    taps = tuple(range(2, weight.ndim))
    return np.concatenate([np.flip(group.swapaxes(0, 1), taps) for group in groups])


@pytest.mark.parametrize("text", [*TURNED, "mb1 ic4 ih5 iw6 oc3 kh3 kw3 ph1 pw1 transposed"])
def test_a_transposed_problem_is_a_plain_one_with_turned_weights(text: str) -> None:
    problem = conv(text) if "transposed" in text else adjoint(conv(text))
    rng = np.random.default_rng(1)
    x, w = rng.integers(-4, 5, problem.x_shape), rng.integers(-4, 5, problem.w_shape)
    plain = turned(problem)
    assert not plain.transposed and plain.out_size == problem.out_size
    assert np.array_equal(reference_conv(plain, x, with_turned_weights(w, problem)), reference_conv(problem, x, w))


@pytest.mark.parametrize("text", TURNED)
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name.startswith("turned_")])
def test_input_gradients_by_turned_weights(name: str, text: str) -> None:
    forward = conv(text)
    back, row = adjoint(forward), ALGORITHMS[name]
    if row.supports(back) is not None:
        assert ALGORITHMS[name.removeprefix("turned_")].supports(turned(back)) is not None
        return
    rng = np.random.default_rng(2)
    dy = rng.standard_normal(forward.y_shape).astype(np.float32)
    w = rng.standard_normal(forward.w_shape).astype(np.float32)
    assert error(input_gradient(forward, dy, w, algorithm=name), reference_conv(back, dy, w)) < row.tolerance


STRIDED_DEPTHWISE = [
    "mb3 g20 ic20 ih9 iw11 oc20 kh3 kw3 sh2 sw2 ph1 pw1",
    "mb2 g16 ic16 ih10 iw12 oc16 kh3 kw3 sh2 sw2 ph1 pw1",  # rows at the end that no output sees
    "mb2 g13 ic13 ih10 iw12 oc13 kh5 kw4 sh3 sw2 ph2 pw1",
    "mb2 g16 ic16 ih10 iw12 oc16 kh1 kw1 sh2 sw2",  # phases without taps
    "mb2 g12 ic12 ih10 iw12 oc12 kh3 kw3 sh2 dh2 dw2 ph2",
    "mb1 g5 ic5 iw29 oc5 kw9 sw4 pw4",
]


@pytest.mark.parametrize("text", STRIDED_DEPTHWISE)
def test_strided_depthwise_layers(text: str) -> None:
    forward = conv(text)
    rng = np.random.default_rng(4)
    for draw, tolerance in ((lambda shape: rng.integers(-4, 5, shape), 0.0), (rng.standard_normal, 1e-6)):
        dy, w = (np.asarray(draw(shape), np.float32) for shape in (forward.y_shape, forward.w_shape))
        results = [input_gradient(forward, dy, w, algorithm="transposed_depthwise", threads=threads) for threads in (1, 2)]
        assert np.array_equal(results[0], results[1])
        expected = reference_conv(adjoint(forward), dy, w)
        assert error(results[0], expected) <= tolerance


def test_what_cannot_be_turned_says_why() -> None:
    cases = {
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3 sh2 sw2 transposed": "stride is",
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3 ph3 transposed": "crop",
        "mb1 ic4 ih9 iw9 oc4 kh3 kw3": "plain",
    }
    for text, reason in cases.items():
        assert reason in str(why_not_turned(conv(text)))
        with pytest.raises(ProblemError, match=reason):
            turned(conv(text))


@pytest.mark.parametrize(
    "text,name",
    [
        ("mb16 ic128 ih28 iw28 oc128 kh3 kw3 ph1 pw1", "turned_winograd"),
        ("mb16 g96 ic96 ih28 iw28 oc96 kh3 kw3 ph1 pw1", "turned_depthwise"),
        ("mb16 g96 ic96 ih112 iw112 oc96 kh3 kw3 sh2 sw2 ph1 pw1", "transposed_depthwise"),
        ("mb16 ic64 ih56 iw56 oc128 kh3 kw3 sh2 sw2 ph1 pw1", "transposed_winograd"),
    ],
)
def test_the_faster_way_is_chosen(text: str, name: str, no_records: None) -> None:
    choice = choose(adjoint(conv(text)), Machine.described("avx2"), weights="varying")
    assert choice.schedule.algorithm == name, choice.why


def test_turning_the_weights_counts_where_they_are_new() -> None:
    """The packing of a turned row takes longer than that of the plain one, by a pass over the weights."""
    back = adjoint(conv("mb1 ic512 ih7 iw7 oc512 kh3 kw3 ph1 pw1"))
    schedule = ALGORITHMS["turned_direct"].schedules(back, MACHINE)[0]
    plain = Schedule("direct", **schedule.params)
    more = ALGORITHMS["turned_direct"].pack_s(back, schedule, MACHINE) - ALGORITHMS["direct"].pack_s(
        turned(back), plain, MACHINE
    )
    assert more > 0.3 * ALGORITHMS["direct"].pack_s(turned(back), plain, MACHINE)
