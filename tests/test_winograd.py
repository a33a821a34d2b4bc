"""Winograd: its matrices, what it executes, its errors, and parts of its schedules that the table may not reach."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest

import sevenloops
from kernels import check, run
from operands import Operands
from problems import conv
from sevenloops.algorithms import ALGORITHMS
from sevenloops.algorithms.winograd_matrices import POINTS, matrices, points_of
from sevenloops.compile.build import lowered_text
from sevenloops.compile.explain import loop_nest
from sevenloops.compile.workers import run_job
from sevenloops.errors import ScheduleError
from sevenloops.machine import Machine
from sevenloops.schedule import Schedule

SIZES = [(2, 3), (4, 3), (6, 3), (2, 5), (4, 5), (2, 7), (3, 4), (1, 3), (4, 1)]


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize(("m", "r"), SIZES)
def test_matrices_are_exact(name: str, m: int, r: int) -> None:
    """AT [(G g) * (BT d)] is the sliding sum of products, with fractions: for all d and g, as it is bilinear."""
    if m + r - 2 not in POINTS[name] and m + r > 2:
        pytest.skip(f"{name} has no {m + r - 2} points")
    w = matrices(m, r, points_of(name, m + r - 2))
    assert (w.m, w.alpha) == (m, m + r - 1)
    for i in range(m):
        for k in range(w.alpha):
            for j in range(r):
                total = sum(w.at[i][p] * w.g[p][j] * w.bt[p][k] for p in range(w.alpha))
                assert total == Fraction(int(k == i + j))


def test_textbook_matrices() -> None:
    """F(2, 3) of the points 0, 1, -1 is the one of Lavin and Gray's section 4.1, but for signs and places of the scale."""
    w = matrices(2, 3, points_of("integers", 3))
    assert [[int(v) for v in row] for row in w.at] == [[1, 1, 1, 0], [0, 1, -1, 1]]
    half = Fraction(1, 2)
    assert [list(row) for row in w.g[1:3]] == [[half, half, half], [half, -half, half]]


def test_points_that_are_not_there() -> None:
    with pytest.raises(ScheduleError, match="no 4 points named 'nonsense'"):
        points_of("nonsense", 4)
    with pytest.raises(ScheduleError, match="distinct"):
        matrices(2, 3, (Fraction(0), Fraction(1), Fraction(1)))


#: A schedule that every test below changes in one place or two.
BASE: dict[str, int | str | bool] = {
    "tile_height": 4, "tile_width": 4, "points": "balanced", "block_rows": 2, "block_columns": 2, "block_images": 1,
    "tile_tiles": 3, "tile_channels": 32, "weight_streams": 1, "channel_parts": 1, "k_blocks": 1, "weights": "transformed",
    "shared_input": False, "unroll": 4, "parallel": True,
}  # fmt: skip


def schedule(**changes: int | str | bool) -> Schedule:
    return Schedule("winograd", **{**BASE, **changes})


PROBLEM = "mb2 ic24 ih13 iw11 oc64 kh3 kw3 ph1 pw1 bias act=relu"
VARIANTS = {
    "streams": schedule(weight_streams=2),
    "raw": schedule(weights="raw"),
    "raw in blocks": schedule(weights="raw", k_blocks=3, weight_streams=2),
    "blocks of channels": schedule(k_blocks=2, tile_tiles=3),
    "shared input": schedule(shared_input=True, channel_parts=2),
    "shared raw": schedule(shared_input=True, channel_parts=2, weights="raw", k_blocks=3),
    "both images": schedule(block_rows=4, block_columns=3, block_images=2, tile_tiles=8),
    "both images shared": schedule(block_rows=4, block_columns=3, block_images=2, shared_input=True, k_blocks=2, unroll=3),
    "uneven tiles": schedule(tile_height=2, tile_width=3, block_rows=3, block_columns=4, tile_tiles=5),
    "F(6, 3)": schedule(tile_height=6, tile_width=6, block_rows=3, tile_tiles=4),
    "one thread": schedule(parallel=False, unroll=1),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_of_the_schedule(what: str) -> None:
    problem = conv(PROBLEM)
    kernel = sevenloops.compile(problem, schedule=VARIANTS[what])
    operands = Operands(problem, integers=False, seed=3)
    expected = operands.expected()
    assert np.abs(run(kernel, operands) - expected).max() <= 1e-5 * np.abs(expected).max()


STRIDED = [
    "mb1 ic5 ih17 iw19 oc24 kh3 kw3 sh2 sw2 ph1 pw1 bias act=relu",
    "mb2 g2 ic32 ih23 iw24 oc32 kh4 kw5 sh2 sw3 ph1 pw2 res=before act=relu",
    "mb1 ic3 ih35 iw37 oc17 kh11 kw11 sh4 sw4 ph2 pw2",
]


@pytest.mark.parametrize("text", STRIDED)
def test_strides_by_phases(text: str) -> None:
    """What the table has of strides, and vectors of channels that lie in one phase, in several, and end in the middle."""
    problem = conv(text)
    for chosen in ALGORITHMS["winograd"].schedules(problem, Machine.host())[:2]:
        check(problem, chosen, Machine.host())


def test_macs_executed_by_hand() -> None:
    """13 x 11 outputs are 4 x 3 tiles of 4 x 4, in blocks of 2 x 2: 2 x 2 blocks of 4, computed as 6 by threes."""
    problem = conv(PROBLEM)
    row = ALGORITHMS["winograd"]
    assert row.macs_executed(problem, schedule()) == 2 * (2 * 2) * 6 * 36 * 24 * 64
    whole = schedule(block_rows=4, block_columns=3, tile_tiles=4)
    assert row.macs_executed(problem, whole) == 2 * 12 * 36 * 24 * 64
    # On VGG's 256 channels at 56 x 56 nothing is left over, and exactly a quarter of the definition is executed.
    vgg = conv("mb1 ic256 ih56 iw56 oc256 kh3 kw3 ph1 pw1")
    even = schedule(block_rows=2, block_columns=14, tile_tiles=4, tile_channels=64)
    assert 4 * row.macs_executed(vgg, even) == vgg.macs


def test_macs_executed_are_the_turns_of_the_loops() -> None:
    """Counted in the code that Halide made: every turn of the loop over input channels has a tile of sums, unrolled."""
    problem, machine = conv("mb1 ic32 ih30 iw26 oc128 kh3 kw3 ph1 pw1"), Machine.described("avx512")
    chosen = ALGORITHMS["winograd"].schedules(problem, machine)[0]
    nest = loop_nest(run_job(lowered_text, problem, chosen, machine)["loops"])
    turns, around = 0, list[tuple[int, int]]()
    for line in nest:
        found = re.match(r"( *)(?:for|parallel) \(([\w.$]+), \d+, (\d+)\)", line)
        indent = len(line) - len(line.lstrip())
        around = [(level, extent) for level, extent in around if level < indent]
        if found:
            around.append((indent, int(found[3])))
            if found[2].startswith("sums.s1.ic"):
                turns += math.prod(extent for _, extent in around)
    tile = int(chosen.params["tile_tiles"]) * int(chosen.params["tile_channels"]) * int(chosen.params["unroll"])
    assert turns and turns * tile == ALGORITHMS["winograd"].macs_executed(problem, chosen) < problem.macs / 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "cooked"}, "weights must be one of"),
        ({"points": "nonsense"}, "there are no 5 points"),
        ({"tile_channels": 20}, "multiple of the"),
        ({"weight_streams": 8}, "weight_streams=8 must divide"),
        ({"tile_tiles": 5}, "more than the 4 tiles"),
        ({"block_rows": 5}, "outside the image"),
        ({"block_images": 2}, "needs blocks of whole images"),
        ({"k_blocks": 5}, "must divide the 24 input channels"),
        ({"channel_parts": 3}, "must divide the 2 panels"),
        ({"shared_input": 1}, "must be True or False"),
        ({"unroll": 0}, "at least 1"),
        ({"tile_height": 12}, "there are no 13 points"),
    ],
)
def test_schedules_that_do_not_fit(changes: dict[str, int | str | bool], reason: str) -> None:
    with pytest.raises(ScheduleError, match=reason):
        sevenloops.compile(conv(PROBLEM), schedule=schedule(**changes), machine=Machine.described("avx2"))


def test_balanced_points_round_less() -> None:
    """The reason for `balanced`: on the same numbers, the largest error is less than half of that of the integers."""
    problem = conv("mb1 ic128 ih16 iw16 oc64 kh3 kw3 ph1 pw1")
    operands = Operands(problem, integers=False, seed=4)
    expected, errors = operands.expected(), {}
    for name in ("balanced", "integers"):
        kernel = sevenloops.compile(problem, schedule=schedule(points=name, block_rows=4, block_columns=4))
        errors[name] = np.abs(run(kernel, operands) - expected).max() / np.abs(expected).max()
    assert errors["balanced"] < 0.5 * errors["integers"] < 1e-5


def test_a_task_computes_one_block() -> None:
    """Where blocks do not divide the image, V and M are still those of one block: no loop over blocks inside a task."""
    from sevenloops.compile.build import lowered_text
    from sevenloops.compile.workers import run_job

    problem = conv("mb1 ic16 ih11 iw11 oc32 kh3 kw3 ph1 pw1")
    schedule = Schedule("winograd", **{**BASE, "block_rows": 2, "block_columns": 2})
    loops = run_job(lowered_text, problem, schedule, Machine.described("avx512"))["loops"]
    tasks = [line for line in loops.splitlines() if "parallel" in line]
    assert len(tasks) == 1 and ", 0, 4)" in tasks[0], tasks
    assert "for (M.s0.b" not in loops and "for (V.s0.b" not in loops
