"""The shift operator: which channel moves where, alone and fused, against a direct definition written out here."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sevenloops
from kernels import MACHINES, check
from problems import SHIFTED, conv
from sevenloops import ConvProblem, Shift, conv2d, shift2d, shift_conv2d
from sevenloops.algorithms import ALGORITHMS
from sevenloops.algorithms.shift_plan import bands, plan, view
from sevenloops.compile.layer import layer_kernel
from sevenloops.descriptor import parse_problem
from sevenloops.errors import ArrayError, DtypeError, ProblemError, ScheduleError
from sevenloops.layers import shift as layer
from sevenloops.reference import reference_conv
from sevenloops.shift import channel_offsets, channels_of_groups, channels_of_phases

Array = npt.NDArray[Any]
RNG = np.random.default_rng(7)
CONVENTIONS = ("contiguous", "modulo")


def array(*shape: int) -> Array:
    return RNG.integers(-4, 5, shape).astype(np.float32)


def directly(x: Array, kernel: tuple[int, int], dilation: tuple[int, int], convention: str) -> Array:
    """The definition of arXiv 1711.08141, equation 2, element by element, for `x[n, c, h, w]`."""
    out = np.zeros_like(x)
    _, channels, height, width = x.shape
    kh, kw = kernel
    each = channels // (kh * kw)
    for c in range(channels):
        if c >= each * kh * kw:
            i, j = kh // 2, kw // 2
        elif convention == "contiguous":
            i, j = c // each // kw, c // each % kw
        else:  # w_shift = c % K - K/2, h_shift = (c / K) % K - K/2
            i, j = c // kw % kh, c % kw
        for k, m in itertools.product(range(height), range(width)):
            row, column = k + (i - kh // 2) * dilation[0], m + (j - kw // 2) * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                out[:, c, k, m] = x[:, c, row, column]
    return out


CASES = [
    ((1, 20, 7, 6), 3, 1),
    ((2, 37, 5, 9), 3, 2),
    ((1, 64, 3, 4), 5, 1),
    ((2, 9, 1, 1), 3, 1),
    ((1, 7, 4, 4), 1, 3),
    ((1, 8, 4, 5), 3, 1),  # fewer channels than positions: nothing moves
    ((1, 33, 8, 5), (3, 5), (1, 2)),
    ((1, 18, 6, 7), (2, 4), 1),
    ((1, 29, 5, 5), 3, 10**6),  # out of sight
]


def pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("shape", "kernel", "dilation"), CASES)
def test_alone_and_fused(shape: tuple[int, ...], kernel: Any, dilation: Any, convention: str) -> None:
    x, w, b = array(*shape), array(5, shape[1], 1, 1), array(5)
    moved = directly(x, pair(kernel), pair(dilation), convention)
    np.testing.assert_array_equal(shift2d(x, kernel, dilation, convention), moved)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    nhwc = shift2d(last, kernel, dilation, convention, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(nhwc, -1, 1), moved)
    fused = shift_conv2d(x, w, b, kernel, dilation, convention, activation="relu")
    expected = np.einsum("nchw,oc->nohw", moved, w[:, :, 0, 0]) + b[:, None, None]
    np.testing.assert_array_equal(fused, np.maximum(expected, 0))


def test_offsets_of_known_networks() -> None:
    """The paper's raster order; shiftnet_cuda_v2's `w_shift = c % 3 - 1, h_shift = (c / 3) % 3 - 1`."""
    contiguous = channel_offsets(Shift((3, 3), (1, 1)), 20)
    assert contiguous[:5] == [(-1, -1), (-1, -1), (-1, 0), (-1, 0), (-1, 1)]
    assert contiguous[16:] == [(1, 1), (1, 1), (0, 0), (0, 0)]
    modulo = channel_offsets(Shift((3, 3), (1, 1), "modulo"), 20)
    assert modulo[:18] == [(c // 3 % 3 - 1, c % 3 - 1) for c in range(18)]
    assert modulo[18:] == [(0, 0)] * 2
    assert channel_offsets(Shift((3, 3), (1, 1)), 8) == [(0, 0)] * 8
    assert channel_offsets(Shift((10**6, 2), (1, 1)), 3) == [(0, 0)] * 3


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("stride", "kernel", "dilation"), [((2, 2), 3, 1), ((2, 3), (5, 4), (1, 2)), ((1, 2), 3, 2)])
def test_a_stride_reads_phases(stride: tuple[int, int], kernel: Any, dilation: Any, convention: str) -> None:
    """What a strided shift reads of an image is all in the images of its phases, which a shift with `phases` reads."""
    x, w = array(2, 41, 6, 12), array(19, 41, 1, 1)
    shift = Shift(pair(kernel), pair(dilation), convention, stride)
    phases = channels_of_phases(shift, 41)
    sorted_channels = list(itertools.chain(*phases.values()))
    images = np.concatenate([x[:, members, i :: stride[0], j :: stride[1]] for (i, j), members in phases.items()], axis=1)
    n, c, h, width = images.shape
    problem = ConvProblem(n, c, (h, width), 19, (1, 1), shift=shift)
    assert parse_problem(str(problem)) == problem
    last, weight = np.moveaxis(images, 1, -1), w[:, sorted_channels]
    expected = np.moveaxis(shift_conv2d(x, w, None, kernel, dilation, convention, stride=stride), 1, -1)
    np.testing.assert_array_equal(reference_conv(problem, last, weight), expected)
    for machine in MACHINES.values():
        check(problem, ALGORITHMS["shift"].schedules(problem, machine)[0], machine)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 80), st.sampled_from(CONVENTIONS))
def test_groups_share_the_channels(kh: int, kw: int, channels: int, convention: str) -> None:
    *moved, left = channels_of_groups(Shift((kh, kw), (1, 1), convention), channels)
    assert sorted([*itertools.chain(*moved), *left]) == list(range(channels))
    assert {len(group) for group in moved} <= {channels // (kh * kw)}
    assert len(left) < kh * kw


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_permutation_before_is_undone_by_the_weights(convention: str) -> None:
    """Section 3.2.1: which channel moves where does not matter, as the convolutions around the shift permute them."""
    x, w = array(1, 23, 6, 7), array(9, 23, 1, 1)
    order = RNG.permutation(23)
    moved = np.empty_like(x)
    moved[:, order] = shift2d(x[:, order], 3, 1, convention)  # channel order[i] moves as channel i would
    expected = conv2d(moved, w)
    np.testing.assert_array_equal(shift_conv2d(x[:, order], w[:, order], None, 3, 1, convention), expected)


def test_a_permutation_turns_one_convention_into_the_other() -> None:
    x, w = array(2, 39, 5, 6), array(11, 39, 1, 1)
    contiguous, modulo = (
        list(itertools.chain(*channels_of_groups(Shift((2, 3), (1, 1), convention), 39))) for convention in CONVENTIONS
    )
    order = np.empty(39, int)
    order[contiguous] = modulo  # channel i of the one moves as channel order[i] of the other
    expected = shift_conv2d(x, w, None, (2, 3), 1, "modulo")
    np.testing.assert_array_equal(shift_conv2d(x[:, order], w[:, order], None, (2, 3)), expected)


@st.composite
def shifted_problems(draw: st.DrawFn) -> ConvProblem:
    """Small images, kernels up to 5, any stride and dilation up to 3, channels that leave some over."""
    axes = st.integers(1, 5)
    shift = Shift(
        (draw(axes), draw(axes)),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        draw(st.sampled_from(CONVENTIONS)),
        (draw(st.integers(1, 2)), draw(st.integers(1, 3))),
    )
    return ConvProblem(
        batch=draw(st.integers(1, 2)),
        in_channels=draw(st.integers(1, 60)),
        in_size=(draw(st.integers(1, 12)), draw(st.integers(1, 12))),
        out_channels=draw(st.sampled_from([1, 5, 16, 17, 32, 33, 64, 67])),
        kernel=(1, 1),
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        shift=shift,
    )


@given(st.data(), shifted_problems(), st.sampled_from(sorted(MACHINES)))
def test_random_problems(data: st.DataObject, problem: ConvProblem, isa: str) -> None:
    schedules = ALGORITHMS["shift"].schedules(problem, MACHINES[isa])
    check(problem, data.draw(st.sampled_from(schedules), "schedule"), MACHINES[isa], may_cancel=True)


@given(shifted_problems(), st.integers(1, 8), st.integers(1, 4))
def test_the_plan_computes_every_pixel_from_what_it_sees(problem: ConvProblem, tile: int, lines: int) -> None:
    """Each pixel is in a tile, every tap of the tile stays inside its image, and no channel that is inside is missing."""
    g = view(problem).g
    p = plan(problem, tile, min(lines, g.out[1]) * g.out[2])
    moves = channel_offsets(problem.shift, g.ic)  # type: ignore[arg-type]
    done = set()
    for band, pattern in enumerate(p.pattern):
        for t in range(p.tiles[band]):
            first, count = (values[band * p.slots + t] for values in (p.first, p.count))
            taps = range(first, first + count)
            for q in range(tile):
                slot = (pattern * p.slots + t) * tile + q
                y, x = divmod(p.band_out[band] + p.pixel_out[slot], g.out[2])
                done.add((y, x))
                read = {p.tap_channel[k]: p.band_in[band] + p.pixel_in[slot] + p.tap_in[k] for k in taps}
                places = {c: (y * g.stride[1] + dy, x * g.stride[2] + dx) for c, (dy, dx) in enumerate(moves)}
                assert read == {
                    c: (row * g.size[2] + column) * g.ic + c
                    for c, (row, column) in places.items()
                    if 0 <= row < g.size[1] and 0 <= column < g.size[2]
                }
    assert done == set(itertools.product(range(g.out[1]), range(g.out[2])))


def test_work_by_hand() -> None:
    """9 channels of 3 x 3 positions on 4 x 4 pixels: a corner sees 4 channels, an edge 6, the inside all 9."""
    problem = conv("mb1 ic9 ih4 iw4 oc16 kh1 kw1 shift=3")
    numbers = {"tile_channels": 16, "channel_parts": 1, "k_blocks": 1, "unroll": 1, "parallel": False}
    one = sevenloops.Schedule("shift", tile_pixels=1, task_pixels=16, **numbers)
    assert ALGORITHMS["shift"].macs_executed(problem, one) == 16 * (4 * 4 + 8 * 6 + 4 * 9)
    # Two pixels a tile: each corner is computed twice, edges and inside come out even.
    two = sevenloops.Schedule("shift", tile_pixels=2, task_pixels=16, **numbers)
    assert ALGORITHMS["shift"].macs_executed(problem, two) == 16 * (8 * 4 + 8 * 6 + 4 * 9)
    assert ALGORITHMS["shift"].workspace_bytes(problem, two, 2) == 0


def test_bands_cover_all_lines() -> None:
    problem = conv("mb1 ic9 ih7 iw4 oc16 kh1 kw1 shift=3")
    assert bands(problem, 12) == [range(3), range(3, 6), range(6, 7)]


@pytest.mark.parametrize("isa", MACHINES)
@pytest.mark.parametrize("text", [SHIFTED[0], SHIFTED[3], SHIFTED[8]])
def test_schedules_of_ones_own(text: str, isa: str) -> None:
    """Several panels, parts and bands, with and without a remainder of taps."""
    problem, lanes = conv(text), MACHINES[isa].lanes
    row = problem.out_size[1]
    for numbers in ((3, 1, 2 * row, 1, 1), (2, 1, 3 * row, 1, 3), (5, 2, row * problem.out_size[0], 1, 4)):
        names = ("tile_pixels", "tile_channels", "task_pixels", "k_blocks", "unroll")
        params = dict(zip(names, numbers)) | {"tile_channels": numbers[1] * lanes, "parallel": True}
        panels = -(-problem.out_channels // (numbers[1] * lanes))
        check(problem, sevenloops.Schedule("shift", channel_parts=panels, **params), MACHINES[isa])


def test_a_schedule_that_does_not_fit() -> None:
    problem = conv("mb1 ic64 ih8 iw8 oc16 kh1 kw1 shift=3")
    good = ALGORITHMS["shift"].schedules(problem, MACHINES[next(iter(MACHINES))])[0]
    blocks = sevenloops.Schedule("shift", **{**good.params, "tile_pixels": 8, "task_pixels": 64, "k_blocks": 2})
    with pytest.raises(ScheduleError, match="k_blocks must be 1"):
        sevenloops.compile(problem, schedule=blocks)


def test_nan_outside_of_the_image_is_not_seen() -> None:
    """A border pixel multiplies nothing that it does not see; infinities and NaN stay where they are read."""
    x, w = np.zeros((1, 9, 3, 3), np.float32), np.ones((16, 9, 1, 1), np.float32)
    x[0, 0, 2, 2] = np.nan  # moves down and to the right, out of the image
    assert np.isfinite(shift_conv2d(x, w)).all()
    x[0, 4, 1, 1] = np.inf  # the middle one does not move
    y = shift_conv2d(x, w)
    assert np.isinf(y[0, :, 1, 1]).all()
    assert np.isfinite(np.delete(y.reshape(16, 9), 4, axis=1)).all()


def test_layouts_outputs_and_float64() -> None:
    x = array(2, 20, 6, 5)
    expected = shift2d(x)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    y = shift2d(last)
    np.testing.assert_array_equal(y, expected)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(shift2d(x[::-1, :, ::-1])[::-1], shift2d(np.ascontiguousarray(x[:, :, ::-1])))
    for kind in (np.float32, np.float64):
        out = np.full(x.shape, np.nan, kind)
        assert shift2d(x.astype(kind), out=out, threads=1) is out
        np.testing.assert_array_equal(out, expected)
    w = array(3, 20, 1, 1)
    double = shift_conv2d(x.astype(float), w.astype(float), stride=(2, 1))
    assert double.dtype == np.float64
    np.testing.assert_array_equal(double, shift_conv2d(x, w)[:, :, ::2])
    residual = array(2, 3, 6, 5)
    np.testing.assert_array_equal(shift_conv2d(x, w, residual=residual), conv2d(expected, w) + residual)


def test_many_groups_are_gathered() -> None:
    x = array(1, 300, 5, 5)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for convention in CONVENTIONS:
        distinct = set(layer.ShiftLayer(1, 5, 5, 300, Shift((13, 13), (1, 1), convention)).offsets)
        assert len(distinct) * 300 // 16 > layer.MAX_SELECTS
        moved = np.moveaxis(directly(x, (13, 13), (1, 1), convention), 1, -1)
        np.testing.assert_array_equal(shift2d(last, 13, 1, convention, layout="NHWC"), moved)


@pytest.mark.parametrize(("last", "channels", "size"), [(True, 20, 3), (True, 300, 13), (False, 20, 3)])
def test_strides_and_the_way_back(last: bool, channels: int, size: int) -> None:
    """In all three forms: a strided shift is the shift subsampled, and the way back its adjoint."""
    x, shift = array(2, channels, 7, 6), Shift((size, size), (2, 1), "modulo")
    strided = layer.ShiftLayer(2, 7, 6, channels, shift, last, "float32", (2, 3))
    assert (len(set(strided.offsets)) * channels // 16 > layer.MAX_SELECTS) == (size == 13)
    back = replace(strided, back=True)
    assert (strided.x_shape, strided.y_shape) == (back.y_shape, back.x_shape)

    def run(problem: layer.ShiftLayer, given: Array) -> Array:
        dense = np.ascontiguousarray(np.moveaxis(given, 1, -1) if last else given)
        out = np.full(problem.y_shape, np.nan, np.float32)
        kernel = layer_kernel(layer.SHIFT_LAYER, problem, 2)
        assert kernel.run(dense.ctypes.data, out.ctypes.data) == 0
        return np.moveaxis(out, -1, 1) if last else out

    y = run(strided, x)
    np.testing.assert_array_equal(y, directly(x, (size, size), (2, 1), "modulo")[:, :, ::2, ::3])
    dy = array(*y.shape)
    dx = run(back, dy)
    assert (dx * x).sum() == (dy * y).sum() and np.count_nonzero(dx) > 0
    other = array(*x.shape)
    assert (dx * other).sum() == (dy * run(strided, other)).sum()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_large_images_run_in_parallel(convention: str) -> None:
    x = array(2, 48, 40, 33)
    np.testing.assert_array_equal(shift2d(x, 3, 1, convention), directly(x, (3, 3), (1, 1), convention))
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    one, two = (shift2d(last, 5, 1, convention, layout="NHWC", threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


BAD = [
    ({"kernel_size": 0}, ProblemError, "kernel of a shift must be at least 1, got 0"),
    ({"kernel_size": (3, 3, 3)}, ProblemError, "kernel of a shift needs 1 or 2 integers"),
    ({"kernel_size": "3"}, ProblemError, "kernel of a shift must be an integer, got '3'"),
    ({"dilation": 1.5}, ProblemError, "dilation of a shift must be an integer, got 1.5"),
    ({"dilation": 2**40}, ProblemError, "may move channels by at most"),
    ({"convention": "paper"}, ProblemError, "convention must be one of contiguous, modulo, got 'paper'"),
    ({"layout": "CHWN"}, ProblemError, "layout must be one of NCHW, NHWC"),
    ({"x": np.zeros((2, 3, 4), np.float32)}, ArrayError, "must have 4 axes"),
    ({"x": np.zeros((2, 10, 4, 4), np.int32)}, DtypeError, "float32"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_calls(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shift2d(**{"x": array(1, 10, 4, 4), **change})
    with pytest.raises(error, match=message):
        shift_conv2d(**{"x": array(1, 10, 4, 4), "weight": array(3, 10, 1, 1), **change})


def test_more_bad_calls() -> None:
    x = array(1, 10, 4, 4)
    with pytest.raises(ArrayError, match="out overlaps x"):
        shift2d(x, out=x)
    with pytest.raises(ArrayError, match="out must have shape"):
        shift2d(x, out=np.empty((1, 10, 4, 5), np.float32))
    with pytest.raises(ProblemError, match="a shift is followed by a 1x1 kernel"):
        shift_conv2d(x, array(3, 10, 3, 3))
    with pytest.raises(ArrayError, match="weight must have shape"):
        shift_conv2d(x, array(3, 9, 1, 1))


def test_refusals_carry_reasons() -> None:
    shift = ALGORITHMS["shift"]
    plain = conv("mb1 ic9 ih4 iw4 oc16 kh1 kw1")
    assert shift.supports(plain) == "it computes convolutions with shifted channels only"
    shifted = replace(plain, shift=Shift())
    assert "naive computes float64" in str(shift.supports(replace(shifted, dtype="float64")))
    for name in ("direct", "pointwise", "im2col", "depthwise"):
        assert "shift" in str(ALGORITHMS[name].supports(shifted))
    wide = ConvProblem(1, 9, (1, 2**19), 1, (1, 1), shift=Shift())
    assert "does not fit its tables" in str(shift.supports(wide))
    many = ConvProblem(1, 2000, (60, 60), 1, (1, 1), shift=Shift((31, 31)))
    assert "borders need tables of" in str(shift.supports(many))
