"""fft: the codelets and the division into tiles without compiling; work and scratch by hand; blocks of tiles."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import check
from problems import conv
from sevenloops.algorithms import ALGORITHMS, check_schedule
from sevenloops.algorithms.dft import Complex, codelet, operations
from sevenloops.algorithms.fft_plan import SIZES, Axis, axis
from sevenloops.machine import Machine
from sevenloops.schedule import Schedule

FFT, MACHINE = ALGORITHMS["fft"], Machine.host()
LANES = MACHINE.lanes


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", sorted({radix for pair in SIZES.values() for radix in pair} | {3, 15, 16}))
def test_codelets_are_transforms(size: int, sign: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    x[size // 2 + 1 :] = 0
    dead: Complex = (None, None)
    given = [(v.real, v.imag) if v else dead for v in x]
    got = [re + 1j * im for re, im in codelet(given, sign, float)]
    expected = np.fft.fft(x) if sign < 0 else np.fft.ifft(x) * size
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_operations_of_codelets() -> None:
    """Additions and multiplications that textbooks give for radices 2, 4 and 8 (8: two roots of a half, twice each)."""
    assert [operations(size) for size in (2, 4, 8)] == [(4, 0), (16, 0), (52, 4)]
    assert operations(4, live=1) == (0, 0)


def test_sizes_factor() -> None:
    for size, (first, rest) in SIZES.items():
        assert first * rest == size
        assert first % 2 == 0


def convolve_by_tiles(a: Axis, x: np.ndarray, w: np.ndarray, out: int) -> np.ndarray:
    """What the kernel does, along one axis and in float64."""
    y = np.zeros(out)
    kernel = np.zeros(a.size)
    for k in range(a.taps[0], a.taps[0] + a.taps[1]):
        kernel[(k * a.dilation - a.shift) % a.size] += w[k]
    for tile in range(a.tiles):
        window = np.zeros(a.size)
        for j in range(a.live_in):
            i = tile * a.outputs * a.stride + a.origin + j
            window[j] = x[i] if 0 <= i < len(x) else 0
        result = np.fft.ifft(np.fft.fft(window) * np.conj(np.fft.fft(kernel))).real
        for o in range(min(a.outputs, out - tile * a.outputs)):
            y[tile * a.outputs + o] = result[o * a.stride]
    return y


def test_axes_are_convolutions() -> None:
    """Every size that is offered, for sizes, kernels, strides, dilations and paddings of all kinds."""
    rng, tried = np.random.default_rng(0), 0
    for _ in range(400):
        image, kernel, stride, dilation = (int(rng.integers(1, most)) for most in (40, 32, 4, 3))
        before, after = (int(rng.integers(0, kernel * dilation + 2)) for _ in range(2))
        out = (image + before + after - (kernel - 1) * dilation - 1) // stride + 1
        if out < 1:
            continue
        x, w = rng.standard_normal(image), rng.standard_normal(kernel)
        padded = np.concatenate([np.zeros(before), x, np.zeros(after)])
        expected = [sum(w[k] * padded[o * stride + k * dilation] for k in range(kernel)) for o in range(out)]
        for size in SIZES:
            a = axis(size, out, image, kernel, stride, dilation, before)
            if a is not None:
                assert (a.tiles - 1) * a.outputs < out <= a.tiles * a.outputs
                np.testing.assert_allclose(convolve_by_tiles(a, x, w, out), expected, atol=1e-10)
                tried += 1
    assert tried > 1000


def test_a_single_tile_needs_no_padding() -> None:
    """31 taps over 28 pixels, 15 of padding on each side: 43 points hold what 58 would; of 14 pixels 27 taps are met."""
    assert axis(40, 28, 28, 31, 1, 1, 15).tiles > 1  # type: ignore[union-attr]
    wide = axis(48, 28, 28, 31, 1, 1, 15)
    assert wide is not None
    assert (wide.tiles, wide.live_in, wide.origin) == (1, 28, 0)
    narrow = axis(28, 14, 14, 31, 1, 1, 15)
    assert narrow is not None
    assert (narrow.tiles, narrow.taps) == (1, (2, 27))


#: 2 x 2 tiles of 16 x 16 points, of 10 x 11 outputs: a radix-4 butterfly has no multiplications, and a transform of 16 has
#: twiddle factors on 12 of 16 values, four multiplications each.
PROBLEM = conv("mb1 ic16 ih20 iw22 oc16 kh5 kw5 ph2 pw2")
SIXTEEN = {"fft_x": 16, "fft_y": 16, "transform_channels": LANES, "parallel": True}
PRODUCT = {"tile_tiles": 3, "tile_channels": LANES, "blocks": 1, "task_frequencies": 8}
#: There: 8 pairs of the 14 rows that a tile needs (two groups of 4), 9 columns. Back: 9 columns, 5 pairs of rows.
TRANSFORMS = 4 * 16 * (8 + 9 + 9 + 5) * 12 * 4


def test_counts_of_products() -> None:
    s = Schedule("fft", **SIXTEEN, **PRODUCT)
    assert check_schedule(PROBLEM, s, MACHINE) is None
    frequencies = 9 * 16
    assert FFT.macs_executed(PROBLEM, s) == TRANSFORMS + 4 * frequencies * 6 * 16 * 16  # 4 tiles as two threes
    spectra = 2 * 8 * frequencies * 4 * 16
    there = 33 * 8 + 32 + 32 + 32  # rows, one staged pair of rows, one line, one column
    back = 25 * 9 + 12 * 10 + 32 + 32  # columns of 12 rows, 12 x 10 results, one line, one column
    assert FFT.workspace_bytes(PROBLEM, s, 2) == spectra + 2 * 4 * LANES * max(there, back)


def test_counts_of_depthwise() -> None:
    problem = conv("mb1 g16 ic16 ih20 iw22 oc16 kh5 kw5 ph2 pw2")
    s = Schedule("fft", **SIXTEEN)
    assert check_schedule(problem, s, MACHINE) is None
    assert FFT.macs_executed(problem, s) == TRANSFORMS + 4 * 9 * 16 * 4 * 16
    scratch = 34 * 9 + 33 * 8 + 3 * 32 + 25 * 9 + 12 * 10 + 2 * 32
    assert FFT.workspace_bytes(problem, s, 2) == 2 * 4 * LANES * scratch


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_blocks_of_tiles(blocks: int) -> None:
    """Two images at a time, one, and one row of tiles: groups, strides and partial tiles in each."""
    problem = conv("mb4 g2 ic10 ih23 iw29 oc36 kh5 kw4 sh2 ph2 pw2 bias act=relu")
    params = {**PRODUCT, "tile_tiles": 2, "blocks": blocks, "fft_x": 20, "fft_y": 16}
    check(problem, Schedule("fft", **{**SIXTEEN, **params}), MACHINE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fft_x": 17}, "must be among 8, 12, 16"),
        ({"fft_x": True}, "integer of at least 1"),
        ({"blocks": 3}, "blocks=3 must be among 1, 2"),
        ({"tile_tiles": 5}, "more than the 4 tiles"),
        ({"transform_channels": 3}, "must be the"),
        ({"tile_channels": LANES + 1}, "1 to 4 times"),
        ({"task_frequencies": 145}, "more than there are"),
        ({"parallel": 1}, "parallel must be"),
        ({"unroll": 2}, "exactly the parameters"),
    ],
)
def test_schedules_that_do_not_fit(change: dict[str, int], words: str) -> None:
    reason = check_schedule(PROBLEM, Schedule("fft", **{**SIXTEEN, **PRODUCT, **change}), MACHINE)
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mb1 ic3 iw50 oc4 kw9", "images of two axes"),
        ("mb1 ic3 ih5 iw5 oc4 kh1 kw1", "no neighbours"),
        ("mb1 ic3 ih4 iw2 oc4 kh1 kw2 dw3 pw1", "meets no pixel"),
        ("mb1 ic3 ih300 iw300 oc4 kh3 kw101", "3 x 101 inputs"),
        ("mb1 ic2000 ih28 iw28 oc2000 kh11 kw11", "2 GiB"),
    ],
)
def test_problems_that_it_refuses(text: str, words: str) -> None:
    reason = FFT.supports(conv(text))
    assert reason is not None
    assert words in reason
