"""Packed weights: a permutation of the weights by NumPy, bit by bit, or a transform in float64 that is rounded once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sevenloops.algorithms import ALGORITHMS
from sevenloops.algorithms.base import Geometry
from sevenloops.algorithms.packing import channels_of_block
from sevenloops.algorithms.tiles import weight_streams
from sevenloops.algorithms.winograd_plan import Plan
from sevenloops.compile import Kernel, compile
from sevenloops.descriptor import parse_problem
from sevenloops.inputs import make_inputs
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem, GemmProblem

Array = np.ndarray[Any, Any]
CONVS = [
    "mb1 ic16 ih9 iw9 oc16 kh3 kw3",
    "mb1 ic13 ih9 iw9 oc19 kh3 kw3",  # partial panels, and squares that overlap
    "mb1 ic70 ih9 iw9 oc37 kh3 kw3",  # several blocks of input channels
    "mb1 g3 ic21 ih9 iw9 oc33 kh3 kw3",
    "mb1 ic1 ih9 iw9 oc5 kh2 kw2",  # too few weights for a square
    "mb1 ic9 id6 ih6 iw6 oc17 kd3 kh3 kw2",
]


def packed(kernel: Kernel) -> tuple[Array, Array]:
    """Weights, and what the kernel makes of them."""
    w = make_inputs(kernel.problem, 3).w
    return w, kernel.pack(w).array.ravel()


def panels(rows: Array, width: int) -> Array:
    """`rows[oc, ...]` of each group as `(panels, width, ...)`, zero past the last channel."""
    count = -(-rows.shape[1] // width)
    padded = np.zeros((rows.shape[0], count * width, *rows.shape[2:]), rows.dtype)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(-1, width, *rows.shape[2:])


def by_group(w: Array, g: Geometry) -> Array:
    """`(groups, oc, ic, taps)`."""
    return w.reshape(g.groups, g.oc, g.ic, -1)


@pytest.mark.parametrize("descriptor", CONVS)
@pytest.mark.parametrize("algorithm", ["direct", "im2col"])
def test_direct_and_im2col_permute(algorithm: str, descriptor: str) -> None:
    kernel = compile(parse_problem(descriptor), algorithm=algorithm)
    w, result = packed(kernel)
    assert isinstance(kernel.problem, ConvProblem)
    nr = kernel.schedule.tile_channels
    streams = weight_streams(nr, kernel.machine) if algorithm == "direct" else 1
    panel = panels(by_group(w, Geometry.of(kernel.problem)), nr)  # panel, lane, ic, tap
    split = panel.reshape(panel.shape[0], streams, nr // streams, *panel.shape[2:])
    np.testing.assert_array_equal(result, split.transpose(0, 1, 4, 3, 2).ravel())


@pytest.mark.parametrize("descriptor", [row for row in CONVS if "id6" not in row])
@pytest.mark.parametrize("algorithm", ["kn2row", "mec"])
def test_stored_lowerings_permute(algorithm: str, descriptor: str) -> None:
    problem = parse_problem(descriptor)
    assert isinstance(problem, ConvProblem)
    rows = ALGORITHMS[algorithm].schedules(problem, Machine.host())
    kernel = compile(problem, schedule=next(s for s in rows if s.products == "stored"))
    w, result = packed(kernel)
    g = Geometry.of(problem)
    positions = math.prod(g.kernel) if algorithm == "kn2row" else g.kernel[1]
    apart = by_group(w, g).reshape(g.groups, g.oc, g.ic, positions, -1).transpose(0, 3, 1, 4, 2)
    columns = apart.reshape(g.groups, positions * g.oc, -1, g.ic)  # group, column, kx, ic
    np.testing.assert_array_equal(result, panels(columns, kernel.schedule.tile_channels).transpose(0, 2, 3, 1).ravel())


@pytest.mark.parametrize("descriptor", ["gemm m4 n19 k37", "gemm m9 n64 k300 tb", "gemm m9 n65 k301 tb", "gemm m3 n3 k3 tb"])
def test_gemm_permutes(descriptor: str) -> None:
    problem = parse_problem(descriptor)
    assert isinstance(problem, GemmProblem)
    kernel = compile(problem, algorithm="gemm")
    w, result = packed(kernel)
    nr = kernel.schedule.tile_channels
    panel = panels((w if problem.trans_b else w.T)[None], nr)  # panel, lane, k
    split = panel.reshape(panel.shape[0], weight_streams(nr, kernel.machine), -1, problem.k)
    np.testing.assert_array_equal(result, split.transpose(0, 1, 3, 2).ravel())


@pytest.mark.parametrize("descriptor", ["mb1 g19 ic19 ih20 iw20 oc19 kh11 kw11", "mb1 g64 ic64 ih9 iw9 oc64 kh5 kw5"])
def test_depthwise_permutes(descriptor: str) -> None:
    kernel = compile(parse_problem(descriptor), algorithm="depthwise")
    w, result = packed(kernel)
    panel = panels(w.reshape(1, w.shape[0], -1), kernel.schedule.tile_channels)
    np.testing.assert_array_equal(result, panel.transpose(0, 2, 1).ravel())


@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize(("ic", "oc"), [(16, 16), (11, 13)])
def test_transposed_permutes(ic: int, oc: int, kernel_size: int) -> None:
    k = kernel_size
    kernel = compile(parse_problem(f"mb1 ic{ic} ih8 iw8 oc{oc} kh{k} kw{k} sh2 sw2 transposed"), algorithm="transposed")
    w, result = packed(kernel)
    phases = w.reshape(ic, oc, k // 2, 2, k // 2, 2).transpose(1, 3, 2, 5, 4, 0)  # oc, taps by phase, ic
    if k == 2:  # the phases of a row are channels
        phases = w.transpose(3, 1, 2, 0)
    rows = phases.reshape(1, 2 * oc if k == 2 else oc, -1, ic)
    np.testing.assert_array_equal(result, panels(rows, kernel.schedule.tile_channels).transpose(0, 2, 3, 1).ravel())


@pytest.mark.parametrize("weights", ["transformed", "raw"])
@pytest.mark.parametrize(
    "descriptor",
    [
        "mb1 ic16 ih14 iw14 oc16 kh3 kw3",
        "mb1 ic21 ih14 iw14 oc37 kh3 kw3",
        "mb1 g3 ic21 ih14 iw14 oc33 kh3 kw3",
        "mb1 ic20 ih30 iw30 oc40 kh5 kw5 sh2 sw2",  # four phases, some of whose taps do not exist
    ],
)
def test_winograd_transforms_in_float64(descriptor: str, weights: str) -> None:
    problem = parse_problem(descriptor)
    assert isinstance(problem, ConvProblem)
    schedule = ALGORITHMS["winograd"].schedules(problem, Machine.host())[0].replace(weights=weights, k_blocks=1)
    kernel = compile(problem, schedule=schedule)
    w, result = packed(kernel)
    plan = Plan.of(problem, schedule)
    g, (sy, sx) = plan.source, plan.source.stride[1:]
    grown = np.zeros((g.groups, g.oc, g.ic, plan.kh * sy, plan.kw * sx))
    grown[..., : g.kernel[1], : g.kernel[2]] = w.reshape(g.groups, g.oc, g.ic, *g.kernel[1:])
    phases = grown.reshape(g.groups, g.oc, g.ic, plan.kh, sy, plan.kw, sx).transpose(0, 1, 4, 6, 2, 3, 5)
    taps = phases.reshape(g.groups, g.oc, sy * sx * g.ic, plan.kh, plan.kw)
    if weights == "transformed":
        vertical, horizontal = (np.array(matrix.g, np.float64) for matrix in plan.matrices())
        taps = vertical @ taps @ horizontal.T
    panel = panels(taps.reshape(*taps.shape[:3], -1).astype(np.float32), schedule.tile_channels)
    split = panel.reshape(panel.shape[0], schedule.weight_streams, -1, *panel.shape[2:])
    expected = split.transpose(0, 4, 1, 3, 2).ravel()
    # Sums of float64 in another order: a value halfway between two of float32 may be rounded the other way.
    np.testing.assert_array_max_ulp(result, expected, 1 if weights == "transformed" else 0)
    assert np.mean(result != expected) < 1e-4


def test_threads_and_dirty_memory_make_no_difference() -> None:
    problem = parse_problem("mb1 ic96 ih14 iw14 oc100 kh3 kw3")
    for algorithm in ("direct", "winograd"):
        alone, both = (compile(problem, algorithm=algorithm, threads=threads) for threads in (1, None))
        np.testing.assert_array_equal(packed(alone)[1], packed(both)[1])


def test_blocks_are_equal_and_fit() -> None:
    assert channels_of_block(64, 9, 16) == 8 and channels_of_block(512, 1, 8) == 256
    assert channels_of_block(5, 1, 8) == 5 and channels_of_block(100, 49, 32) == 1
    assert channels_of_block(260, 1, 8) == 136  # two blocks, not one of 256 and one of 4
