"""Transposed convolutions: work counted by hand, the phases of an axis, and the public functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sevenloops
from problems import TRANSPOSED, conv
from sevenloops import conv2d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from sevenloops.algorithms.phases import Axis, Phased
from sevenloops.errors import ArrayError, DtypeError, ProblemError
from sevenloops.machine import Machine
from sevenloops.reference import reference_conv
from sevenloops.schedule import Schedule

RNG = np.random.default_rng(12)


def array(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.integers(-4, 5, shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------- phases


@pytest.mark.parametrize("text", TRANSPOSED)
def test_every_tap_of_every_output_belongs_to_one_phase(text: str) -> None:
    """Each axis by its phases is the definition: output o sees input i through tap k where i*s + k*d - before = o."""
    problem = conv(text)
    axes = zip(problem.in_size, problem.out_size, problem.kernel, problem.stride, problem.dilation, problem.padding)
    for size, out, kernel, stride, dilation, (before, _) in axes:
        axis = Axis(size, out, kernel, stride, dilation, before)
        places = {r: axis.place(r) for r in axis.phases if axis.taps(r)}
        order = sorted(range(kernel), key=lambda k: (k % axis.residues, k))
        for o in range(out):
            u, r = divmod(o, stride)
            assert u <= axis.last(r) < axis.cells
            found = [(order[places[r] + j], u + axis.first(r) - j * axis.step) for j in range(axis.taps(r))]
            expected = {(k, (o + before - k * dilation) // stride) for k in range(kernel)
                        if (o + before - k * dilation) % stride == 0}  # fmt: skip
            assert len(found) == len(expected) and set(found) == expected


def test_kernel_as_wide_as_the_stride_makes_channels_of_phases() -> None:
    merged = Phased.of(conv("mb3 ic8 ih5 iw7 oc21 kh2 kw2 sh2 sw2 transposed"))
    assert (merged.oc, merged.merged, merged.phases, merged.batch, merged.pixels) == (42, 2, 2, 1, 3 * 5 * 7)
    assert not merged.pads
    grouped = Phased.of(conv("mb3 g2 ic8 ih5 iw7 oc42 kh2 kw2 sh2 sw2 transposed"))
    assert (grouped.oc, grouped.merged, grouped.phases) == (21, 1, 4)


# --------------------------------------------------------------------------------------------------- work


def work(text: str, **params: Any) -> int:
    """MACs executed by a schedule with AVX-512's lanes."""
    defaults: dict[str, Any] = {"channel_parts": 1, "k_blocks": 1, "unroll": 1, "parallel": False}
    schedule = Schedule("transposed", **defaults, **params)
    assert sevenloops.algorithms.check_schedule(conv(text), schedule, Machine.described("avx512")) is None
    return sevenloops.algorithms.ALGORITHMS["transposed"].macs_executed(conv(text), schedule)


def test_macs_executed_by_hand() -> None:
    # 2x2/2: each of 6 x 8 inputs meets all 4 taps, 16 x 32 channels each: not one multiplication by a stuffed zero.
    two = "mb1 ic16 ih6 iw8 oc32 kh2 kw2 sh2 sw2 transposed"
    assert work(two, tile_pixels=8, tile_channels=32, task_pixels=48) == 6 * 8 * 4 * 16 * 32 == conv(two).macs
    # 4x4/2 with padding 1: 12 x 16 outputs see 2 x 2 taps each; the definition counts 6 x 8 inputs and 16 taps: the same.
    four = "mb1 ic16 ih6 iw8 oc32 kh4 kw4 sh2 sw2 ph1 pw1 transposed"
    assert work(four, tile_pixels=8, tile_channels=32, task_pixels=48) == 12 * 16 * 4 * 16 * 32 == conv(four).macs
    # 3x3/2 with padding and output padding 1: 12 x 16 outputs, a quarter each with 1, 2, 2 and 4 taps.
    three = "mb1 ic16 ih6 iw8 oc32 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1"
    assert work(three, tile_pixels=8, tile_channels=32, task_pixels=48) == 6 * 8 * (1 + 2 + 2 + 4) * 16 * 32
    # Partial tiles and panels are computed whole: 48 pixels in tiles of 7 are 49; 33 channels in panels of 16 are 48.
    assert work(four.replace("oc32", "oc33"), tile_pixels=7, tile_channels=16, task_pixels=48) == 49 * 4 * 4 * 16 * 48
    # Without output padding the last column and row of two phases are missing; they are computed again, and not counted off.
    short = "mb1 ic16 ih6 iw8 oc32 kh3 kw3 sh2 sw2 ph1 pw1 transposed"
    assert work(short, tile_pixels=8, tile_channels=32, task_pixels=48) == 48 * 9 * 16 * 32


def test_macs_executed_by_minimal_filtering() -> None:
    def minimal(text: str, m: int, tiles: int) -> int:
        params: dict[str, Any] = {"block_rows": 6 // m, "block_columns": 8 // m, "shared_input": False, "unroll": 1}
        params |= {"tile_height": m, "tile_width": m, "tile_tiles": tiles, "tile_channels": 32, "channel_parts": 1}
        schedule = Schedule("transposed_winograd", **params, parallel=False)
        assert sevenloops.algorithms.check_schedule(conv(text), schedule, Machine.described("avx512")) is None
        return sevenloops.algorithms.ALGORITHMS["transposed_winograd"].macs_executed(conv(text), schedule)

    # 4x4/2: four phases of 3 x 4 tiles, each with 3 x 3 products for the 2 x 2 outputs that took 4 MACs each.
    assert minimal("mb1 ic16 ih6 iw8 oc32 kh4 kw4 sh2 sw2 ph1 pw1 transposed", 2, 6) == 4 * 12 * 9 * 16 * 32
    # 3x3/2: phases with one tap have no product at infinity: 2 instead of 3 on that axis.
    three = "mb1 ic16 ih6 iw8 oc32 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1"
    assert minimal(three, 2, 6) == 12 * (2 * 2 + 2 * 3 + 3 * 2 + 3 * 3) * 16 * 32
    # Tiles beyond the last whole register tile are computed whole: 12 in tiles of 5 are 15.
    assert minimal(three, 2, 5) == 15 * 25 * 16 * 32


@pytest.mark.parametrize("m", [2, 3])
def test_minimal_filtering_with_small_points_is_exact_on_integers(m: int) -> None:
    problem = conv("mb1 ic8 ih7 iw9 oc16 kh4 kw4 sh2 sw2 ph1 pw1 transposed bias")
    schedules = sevenloops.algorithms.ALGORITHMS["transposed_winograd"].schedules(problem, Machine.host())
    schedule = schedules[0].replace(tile_height=m, tile_width=m, block_rows=2, block_columns=3, tile_tiles=3)
    kernel = sevenloops.compile(problem, schedule=schedule)
    x, w, b = array(*problem.x_shape), array(*problem.w_shape), array(16)
    np.testing.assert_array_equal(kernel(x, kernel.pack(w), bias=b), reference_conv(problem, x, w, b))


def test_who_computes_what() -> None:
    kernel = sevenloops.compile(conv("mb1 ic4 ih3 iw3 oc5 kh2 kw2 sh2 sw2 transposed"))
    assert kernel.algorithm == "transposed"
    kernel = sevenloops.compile(conv("mb1 ic4 ih3 iw3 oc5 kh2 kw2 sh2 sw2 transposed float64"))
    assert kernel.algorithm == "naive"


# ------------------------------------------------------------------------------------------ public functions

CASES: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": (3, 2), "padding": (1, 0), "dilation": (2, 1), "output_padding": (2, 0)},
    {"stride": 2, "groups": 3},
]


@pytest.mark.parametrize("options", CASES)
def test_as_torch_does(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w, b = array(2, 6, 5, 7), array(6, 4, 3, 3), array(4 * options.get("groups", 1))
    expected = torch.nn.functional.conv_transpose2d(*map(torch.from_numpy, (x, w, b)), **options).numpy()
    np.testing.assert_array_equal(conv_transpose2d(x, w, b, algorithm="transposed", **options), expected)
    last = conv_transpose2d(np.moveaxis(x, 1, -1).copy(), w, b, layout="NHWC", **options)  # by whatever is fastest
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), expected, atol=1e-5 * np.abs(expected).max())


def test_positional_arguments_are_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w = array(1, 6, 5), array(6, 2, 4)
    arguments = (None, 3, 1, 2, 2, 1)  # bias, stride, padding, output_padding, groups, dilation
    expected = torch.nn.functional.conv_transpose1d(torch.from_numpy(x), torch.from_numpy(w), *arguments).numpy()
    np.testing.assert_array_equal(conv_transpose1d(x, w, *arguments, algorithm="transposed"), expected)


def test_three_axes_with_an_epilogue() -> None:
    x, w = array(1, 3, 2, 3, 4), array(3, 5, 2, 2, 2)
    problem = conv("mb1 ic3 id2 ih3 iw4 oc5 kd2 kh2 kw2 sd2 sh2 sw2 transposed")
    expected = np.moveaxis(reference_conv(problem, np.moveaxis(x, 1, -1), w), -1, 1)
    residual = array(*expected.shape)
    y = conv_transpose3d(x, w, stride=2, residual=residual, activation="relu")  # one tap a phase: exact
    np.testing.assert_array_equal(y, np.maximum(expected + residual, 0))


def test_it_is_the_adjoint_of_conv2d() -> None:
    """<conv(x), y> = <x, conv_transpose(y)> with the same weight, for whole numbers exactly."""
    x, w = array(2, 5, 9, 11), array(7, 5, 3, 3)
    y = array(*conv2d(x, w, stride=2, padding=1).shape)
    back = conv_transpose2d(y, w, stride=2, padding=1, algorithm="transposed")
    assert back.shape == x.shape
    assert (conv2d(x, w, stride=2, padding=1).astype(float) * y).sum() == (x.astype(float) * back).sum()


def test_bad_input_is_refused() -> None:
    x, w = array(1, 6, 5, 7), array(6, 4, 3, 3)
    with pytest.raises(ProblemError, match="output_padding"):
        conv_transpose2d(x, w, output_padding=1)
    with pytest.raises(ProblemError, match="same"):
        conv_transpose2d(x, w, padding="same")
    with pytest.raises(ProblemError, match="groups"):
        conv_transpose2d(x, w, groups=4)
    for groups in (0, "2", None):
        with pytest.raises(ProblemError, match="groups"):
            conv_transpose2d(x, w, groups=groups)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="cuts everything away"):
        conv_transpose2d(x, w, padding=9)
    with pytest.raises(ArrayError, match=r"\(6, 4, 3, 3\)"):
        conv_transpose2d(x, array(5, 4, 3, 3))
    with pytest.raises(ArrayError, match="ic, oc / groups"):
        conv_transpose2d(x, array(6, 4, 3))
    with pytest.raises(ArrayError, match="4 axes"):
        conv_transpose2d(x[0], w)
    with pytest.raises(DtypeError):
        conv_transpose2d(x, w.astype(float))
