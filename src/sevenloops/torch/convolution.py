"""The operators `sevenloops::convolution`, `convolution_input_gradient` and `convolution_weight_gradient`.

One to three spatial axes, plain or transposed. Further arguments, as `aten::convolution` has them but for the padding:

    stride, dilation      one number an axis
    padding               two numbers an axis: before and after the first axis, then the second, and so on
    transposed            whether it is the adjoint
    output_padding        one number an axis; zeros for a plain one
    groups
"""

from __future__ import annotations

from typing import Any

import torch

from ..epilogue import Epilogue
from ..errors import ArrayError
from ..problem import ConvProblem
from .bilinear import Bilinear
from .calls import Call, check_shape, convolution, input_gradient, nchw, weight_gradient
from .layout import empty

__all__ = ["CONVOLUTION", "conv_out_shape", "conv_problem"]

Tensor = Any
Shape = tuple[int, ...]
TAIL = "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups"


def conv_out_shape(
    x: Any, w: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> tuple[Any, ...]:
    """The shape of the result, also for sizes that are symbols."""
    sizes = []
    pads = zip(padding[::2], padding[1::2])
    for size, k, s, d, (before, after), extra in zip(x[2:], w[2:], stride, dilation, pads, output_padding):
        if transposed:
            sizes.append((size - 1) * s - before - after + (k - 1) * d + 1 + extra)
        else:
            sizes.append((size + before + after - (k - 1) * d - 1) // s + 1)
    return (x[0], w[1] * groups if transposed else w[0], *sizes)


def conv_problem(
    x: Shape, w: Shape, bias: bool, dtype: str, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> ConvProblem:  # fmt: skip
    """The problem for tensors of these shapes; raises `ArrayError` and `ProblemError`."""
    if not 3 <= len(x) <= 5 or len(w) != len(x):
        raise ArrayError(f"x and weight must have 3 to 5 axes, both as many, got shapes {x} and {w}")
    if len(padding) != 2 * len(stride):
        raise ArrayError(f"padding needs two numbers an axis, got {tuple(padding)} for {len(stride)} axes")
    problem = ConvProblem(
        batch=x[0], in_channels=x[1], in_size=x[2:], out_channels=w[1] * groups if transposed else w[0], kernel=w[2:],
        stride=stride, padding=tuple(zip(padding[::2], padding[1::2])), dilation=dilation, groups=groups,
        transposed=transposed, output_padding=output_padding, epilogue=Epilogue(bias), dtype=dtype,
    )  # fmt: skip
    if w != problem.w_shape:
        raise ArrayError(f"weight must have shape {problem.w_shape} for {x[1]} input channels in {groups} groups, got {w}")
    return problem


def _forward(
    x: Shape, w: Shape, given: Shape, dtype: str, bias: Tensor | None, threads: int, *tail: Any, weights: str = "varying"
) -> Call:
    problem = conv_problem(max(x[:1], (1,)) + x[1:], w, bias is not None, dtype, *tail)
    if bias is not None:
        check_shape("bias", bias.shape, problem.y_shape[-1:])
    if not x[0]:
        return lambda x, weight, bias: empty(x, (0, *nchw(problem.y_shape)[1:]))
    return convolution(problem, threads, weights)


def _input_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int, *tail: Any) -> Call:
    problem = _of_gradient(x, w, given, dtype, *tail)
    return input_gradient(problem, threads) if x[0] else lambda dy, weight, bias: empty(dy, x)


def _weight_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int, *tail: Any) -> Call:
    problem = _of_gradient(x, w, given, dtype, *tail)
    return weight_gradient(problem, threads) if x[0] else lambda dy, x, bias: torch.zeros(w, dtype=dy.dtype)


def _of_gradient(x: Shape, w: Shape, dy: Shape, dtype: str, *tail: Any) -> ConvProblem:
    problem = conv_problem(max(x[:1], (1,)) + x[1:], w, False, dtype, *tail)
    check_shape("dy", dy, (x[0], *nchw(problem.y_shape)[1:]))
    return problem


CONVOLUTION = Bilinear.register(
    "convolution", TAIL, (_forward, _input_gradient, _weight_gradient), conv_out_shape, empty, channel_axis=1
)
