"""The oracle itself: against cases worked out by hand, against identities, and against PyTorch in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from operands import Operands
from problems import ALL, CONV, GEMM, conv, exact_on_integers, gemm
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import Epilogue
from sevenloops.errors import ArrayError
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv, reference_gemm
from sevenloops.shift import channel_offsets


def image(*rows: list[float]) -> Any:
    """One image of one channel, `(1, h, w, 1)`."""
    return np.array(rows, dtype=np.float64)[None, :, :, None]


def kernel(*rows: list[float]) -> Any:
    """One kernel of one channel, `(1, 1, h, w)`."""
    return np.array(rows, dtype=np.float64)[None, None]


# Worked out by hand.


def test_a_line() -> None:
    """1-D: it is a correlation (the kernel is not mirrored), and zeros stand outside."""
    x, w = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1), np.array([10.0, 1, 0.1]).reshape(1, 1, 3)
    assert reference_conv(conv("ic1 iw4 oc1 kw3"), x, w).ravel().tolist() == pytest.approx([12.3, 23.4])
    assert reference_conv(conv("ic1 iw4 oc1 kw3 pl1"), x, w).ravel().tolist() == pytest.approx([1.2, 12.3, 23.4])
    assert reference_conv(conv("ic1 iw4 oc1 kw3 pr2 sw2"), x, w).ravel().tolist() == pytest.approx([12.3, 34])
    assert reference_conv(conv("ic1 iw4 oc1 kw2 dw3"), x, w[..., :2]).ravel().tolist() == pytest.approx([14])


def test_an_image() -> None:
    x = image([1, 2, 3], [4, 5, 6], [7, 8, 9])
    w = kernel([1, 0], [0, -1])
    assert reference_conv(conv("ic1 ih3 iw3 oc1 kh2 kw2"), x, w)[0, :, :, 0].tolist() == [[-4, -4], [-4, -4]]
    padded = reference_conv(conv("ic1 ih3 iw3 oc1 kh2 kw2 sh2 sw2 pt1 pl1"), x, w)[0, :, :, 0]
    assert padded.tolist() == [[-1, -3], [-7, -4]]


def test_channels_and_groups() -> None:
    """A 1x1 on one pixel (1, 2, 3, 4): dense it is a matrix times it, in two groups each half sees two channels."""
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
    dense = np.array([[1.0, 10, 100, 1000], [1, 0, 0, -1]]).reshape(2, 4, 1, 1)
    assert reference_conv(conv("ic4 ih1 iw1 oc2 kh1 kw1"), x, dense).ravel().tolist() == [4321, -3]
    grouped = np.array([[1.0, 10], [1, -1]]).reshape(2, 2, 1, 1)
    assert reference_conv(conv("g2 ic4 ih1 iw1 oc2 kh1 kw1"), x, grouped).ravel().tolist() == [21, -1]


def test_depthwise_with_a_multiplier() -> None:
    """Output channels 2c and 2c + 1 see input channel c."""
    x, w = np.array([1.0, 10]).reshape(1, 1, 2), np.array([1.0, 2, 3, 4]).reshape(4, 1, 1)
    assert reference_conv(conv("g2 ic2 iw1 oc4 kw1"), x, w).ravel().tolist() == [1, 2, 30, 40]


def test_transposed_line() -> None:
    """Each input element lays down the whole kernel; what overlaps is added; padding cuts away."""
    x, w = np.array([1.0, 2]).reshape(1, 2, 1), np.array([1.0, 10, 100]).reshape(1, 1, 3)
    run = lambda words: reference_conv(conv(f"ic1 iw2 oc1 kw3 transposed {words}"), x, w).ravel().tolist()  # noqa: E731
    assert run("") == [1, 12, 120, 200]
    assert run("sw2") == [1, 10, 102, 20, 200]
    assert run("sw2 ow1") == [1, 10, 102, 20, 200, 0]
    assert run("sw2 pl1") == [10, 102, 20, 200]
    assert run("sw2 pr2 ow1") == [1, 10, 102, 20]
    assert run("dw2") == [1, 2, 10, 20, 100, 200]


def test_products() -> None:
    a, b, c = np.array([[1.0, 2]]), np.array([[3.0, 5], [4, 6]]), np.array([[100.0, 200]])
    assert reference_gemm(gemm("gemm m1 n2 k2"), a, b).tolist() == [[11, 17]]
    assert reference_gemm(gemm("gemm m1 n2 k2 tb"), a, b).tolist() == [[13, 16]]
    assert reference_gemm(gemm("gemm m1 n2 k2 ta"), a.T, b).tolist() == [[11, 17]]
    assert reference_gemm(gemm("gemm m1 n2 k2 alpha=2.0 beta=0.5"), a, b, c=c).tolist() == [[72, 134]]
    clipped = reference_gemm(gemm("gemm m1 n2 k2 bias act=clip:0.0:15.0 res=after"), a, b, bias=[1, -20], residual=c)
    assert clipped.tolist() == [[112, 200]]


def test_nan_and_infinity_stay_where_they_are_seen() -> None:
    x = image([1, 2, 3], [4, np.nan, 6], [7, 8, np.inf])
    y = reference_conv(conv("ic1 ih3 iw3 oc1 kh1 kw1 act=relu"), x, kernel([-1]))[0, :, :, 0]
    np.testing.assert_array_equal(y, [[0, 0, 0], [0, np.nan, 0], [0, 0, 0]])
    zero = reference_conv(conv("ic1 ih3 iw3 oc1 kh1 kw1"), x, kernel([0]))[0, :, :, 0]
    np.testing.assert_array_equal(zero, [[0, 0, 0], [0, np.nan, 0], [0, 0, np.nan]])


def test_wrong_operands() -> None:
    problem = conv("ic3 iw8 oc4 kw3 bias")
    x, w, bias = np.zeros((1, 8, 3)), np.zeros((4, 3, 3)), np.zeros(4)
    with pytest.raises(ArrayError, match=r"x must have shape \(1, 8, 3\), got \(1, 3, 8\)"):
        reference_conv(problem, x.transpose(0, 2, 1), w, bias)
    with pytest.raises(ArrayError, match=r"w must have shape \(4, 3, 3\), got \(4, 3\)"):
        reference_conv(problem, x, w[..., 0], bias)
    with pytest.raises(ArrayError, match=r"the problem has bias of shape \(4,\), got None"):
        reference_conv(problem, x, w)
    with pytest.raises(ArrayError, match="the problem has no residual, but one was given"):
        reference_conv(problem, x, w, bias, np.zeros((1, 6, 4)))
    with pytest.raises(ArrayError, match="the problem has no c, but one was given"):
        reference_gemm(gemm("gemm m1 n1 k1"), [[1]], [[1]], c=[[1]])


# Identities.


def small_operands(problem: ConvProblem) -> tuple[Any, Any]:
    """Whole numbers, so that the identities hold exactly."""
    rng = np.random.default_rng(1)
    return rng.integers(-9, 10, problem.x_shape), rng.integers(-9, 10, problem.w_shape)


@pytest.mark.parametrize("stride", [(1, 2), (2, 3), (4, 4)])
def test_a_stride_is_stride_one_subsampled(stride: tuple[int, int]) -> None:
    dense = conv("mb2 ic3 ih11 iw14 oc5 kh3 kw4 dw2 pt1 pl2 pr3")
    x, w = small_operands(dense)
    strided = reference_conv(replace(dense, stride=stride), x, w)
    np.testing.assert_array_equal(strided, reference_conv(dense, x, w)[:, :: stride[0], :: stride[1]])


@pytest.mark.parametrize("words", ["ic6 ih7 iw5 oc9 kh3 kw2 ph1", "ic6 ih4 iw5 oc9 kh3 kw2 sh2 ph1 transposed"])
def test_groups_are_convolutions_side_by_side(words: str) -> None:
    grouped = conv(f"g3 {words}")
    x, w = small_operands(grouped)
    parts = np.split(w, 3)
    single = replace(grouped, groups=1, in_channels=2, out_channels=3)
    expected = [reference_conv(single, part, weights) for part, weights in zip(np.split(x, 3, axis=-1), parts)]
    np.testing.assert_array_equal(reference_conv(grouped, x, w), np.concatenate(expected, axis=-1))


def test_one_by_one_is_a_matrix_product() -> None:
    problem = conv("mb2 ic5 ih4 iw3 oc7 kh1 kw1")
    x, w = small_operands(problem)
    product = reference_gemm(gemm("gemm m24 n7 k5 tb"), x.reshape(24, 5), w[:, :, 0, 0])
    np.testing.assert_array_equal(reference_conv(problem, x, w).reshape(24, 7), product)


def test_dilation_is_a_kernel_with_holes() -> None:
    problem = conv("ic2 ih9 iw11 oc3 kh3 kw2 dh2 dw4 ph2 pw1")
    x, w = small_operands(problem)
    holes = np.zeros((3, 2, 5, 5))
    holes[:, :, ::2, ::4] = w
    dense = replace(problem, kernel=(5, 5), dilation=(1, 1))
    np.testing.assert_array_equal(reference_conv(problem, x, w), reference_conv(dense, x, holes))


def test_linear_in_the_weights() -> None:
    problem = conv("mb2 g2 ic4 id3 ih5 iw4 oc6 kd2 kh3 kw1 sd2 ph1")
    x, w = small_operands(problem)
    parts = reference_conv(problem, x, w[:, :, ::-1]) + 3 * reference_conv(problem, x, w)
    np.testing.assert_array_equal(reference_conv(problem, x, w[:, :, ::-1] + 3 * w), parts)


@pytest.mark.parametrize("words", ["sh2 dw2 ph1 pl3", "g2 sw3 pt2", "dh3 pw2 sh4"])
def test_the_transposed_convolution_is_the_adjoint(words: str) -> None:
    """<conv(x), y> = <x, convT(y)> with the same weights, for every x and y: whole numbers, so exactly."""
    forward = conv(f"mb2 ic4 ih9 iw10 oc6 kh3 kw3 {words}")
    x, w = small_operands(forward)
    y = np.random.default_rng(2).integers(-9, 10, forward.y_shape)
    backward = ConvProblem(
        batch=2,
        in_channels=6,
        in_size=forward.out_size,
        out_channels=4,
        kernel=forward.kernel,
        stride=forward.stride,
        padding=forward.padding,
        dilation=forward.dilation,
        groups=forward.groups,
        transposed=True,
    )
    back = np.zeros(forward.x_shape)
    # Rows that the stride never reaches get nothing.
    reached = reference_conv(backward, y, w)
    back[:, : backward.out_size[0], : backward.out_size[1]] = reached
    assert np.sum(reference_conv(forward, x, w) * y) == np.sum(x * back)


@pytest.mark.parametrize("text", [text for text in ALL if exact_on_integers(parse_problem(text))])
def test_whole_numbers_give_results_that_float32_holds(text: str) -> None:
    """The premise of the exact comparisons with compiled kernels."""
    expected = Operands(parse_problem(text), integers=True).expected()
    assert np.array_equal(expected.astype(np.float32), expected)
    assert np.abs(expected).max() < 2**20


# PyTorch, in float64.


def torch_activation(torch: Any, epilogue: Epilogue, v: Any) -> Any:
    """The activation as PyTorch computes it."""
    functional = torch.nn.functional
    table = {
        "none": lambda: v,
        "relu": lambda: functional.relu(v),
        "clip": lambda: functional.hardtanh(v, *epilogue.params),
        "leaky_relu": lambda: functional.leaky_relu(v, *epilogue.params),
        "hard_swish": lambda: functional.hardswish(v),
        "sigmoid": lambda: torch.sigmoid(v),
        "silu": lambda: functional.silu(v),
    }
    return table[epilogue.activation]()


def torch_epilogue(torch: Any, epilogue: Epilogue, v: Any, operands: Operands) -> Any:
    """Bias, activation and residual on sums with the channels last."""
    extra = {name: torch.from_numpy(value) for name, value in operands.extra.items()}
    v = v + extra["bias"] if epilogue.bias else v
    v = v + extra["residual"] if epilogue.residual == "before" else v
    v = torch_activation(torch, epilogue, v)
    return v + extra["residual"] if epilogue.residual == "after" else v


def moved(torch: Any, plane: Any, sides: list[int]) -> Any:
    """`torch.nn.functional.pad`, which refuses to cut more than there is: then nothing is left but zeros."""
    sizes = [size for size in reversed(plane.shape[1:]) for _ in range(2)]
    if any(abs(by) >= size for by, size in zip(sides, sizes)):
        return torch.zeros_like(plane)
    return torch.nn.functional.pad(plane, sides)


def torch_conv(torch: Any, problem: ConvProblem, x: Any, w: Any) -> Any:
    """The sums in PyTorch: one-sided padding is laid on before, or cut off a transposed convolution after."""
    functional = torch.nn.functional
    shared = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.groups}
    x = torch.from_numpy(x).movedim(-1, 1)
    w = torch.from_numpy(w)
    if problem.shift:  # each channel is padded on one side and cut off on the other
        offsets = channel_offsets(problem.shift, problem.in_channels)
        sides = [[side for by in reversed(offset) for side in (-by, by)] for offset in offsets]
        x = torch.stack([moved(torch, x[:, c], by) for c, by in enumerate(sides)], 1)
    if not problem.transposed:
        # `pad` wants the last axis first.
        padded = functional.pad(x, [side for pair in reversed(problem.padding) for side in pair])
        run = getattr(functional, f"conv{problem.rank}d")
        return run(padded, w, **shared).movedim(1, -1)
    run = getattr(functional, f"conv_transpose{problem.rank}d")
    if all(before == after for before, after in problem.padding):
        padding = tuple(before for before, _ in problem.padding)
        return run(x, w, padding=padding, output_padding=problem.output_padding, **shared).movedim(1, -1)
    y = run(x, w, output_padding=problem.output_padding, **shared).movedim(1, -1)
    for axis, ((before, _), size) in enumerate(zip(problem.padding, problem.out_size), start=1):
        y = y.narrow(axis, before, size)
    return y


@pytest.mark.parametrize("text", CONV)
def test_convolution_agrees_with_torch(text: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    problem = replace(conv(text), dtype="float64")
    operands = Operands(problem, integers=False)
    sums = torch_conv(torch, problem, operands.x, operands.w)
    theirs = torch_epilogue(torch, problem.epilogue, sums, operands).numpy()
    np.testing.assert_allclose(operands.expected(), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", GEMM)
def test_product_agrees_with_torch(text: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    problem = replace(gemm(text), dtype="float64")
    operands = Operands(problem, integers=False)
    a, b = torch.from_numpy(operands.x), torch.from_numpy(operands.w)
    sums = problem.alpha * torch.matmul(a.T if problem.trans_a else a, b.T if problem.trans_b else b)
    if problem.beta:
        sums = sums + problem.beta * torch.from_numpy(operands.extra["c"])
    theirs = torch_epilogue(torch, problem.epilogue, sums, operands).numpy()
    np.testing.assert_allclose(operands.expected(), theirs, rtol=1e-12, atol=1e-12)


# An even kernel pads one more at the end, by a copy: PyTorch says so once in a process.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("taps", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_agrees_with_torch(size: int, taps: int, dilation: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    sizes: dict[str, Any] = {"in_size": size, "kernel": taps, "dilation": dilation, "padding": "same"}
    problem = ConvProblem(batch=1, in_channels=2, out_channels=3, dtype="float64", **sizes)
    operands = Operands(problem, integers=False)
    x, w = torch.from_numpy(operands.x).movedim(-1, 1), torch.from_numpy(operands.w)
    theirs = torch.nn.functional.conv1d(x, w, padding="same", dilation=dilation).movedim(1, -1).numpy()
    np.testing.assert_allclose(operands.expected(), theirs, rtol=1e-12, atol=1e-12)
