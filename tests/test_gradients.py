"""Gradients of convolutions against their definition in float64: every algorithm, every row of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from operands import Array
from problems import ODD, PADDING, REGULAR, STRIDE_DILATION
from sevenloops.adjoint import WeightGradient, adjoint, beyond
from sevenloops.compile.gradient import compile_gradient
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import Epilogue
from sevenloops.errors import ArrayError
from sevenloops.functional_gradients import InputGradient, WeightsGradient, input_gradient, weight_gradient
from sevenloops.gradients import GRADIENTS
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv, reference_weight_gradient

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
