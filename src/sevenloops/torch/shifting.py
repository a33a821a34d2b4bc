"""The operators of the shift (arXiv 1711.08141): `sevenloops::shift`, `shift_back`, and fused `shift_convolution`.

`shift_back` is the adjoint of `shift`, each the gradient of the other. `shift_convolution` is a shift and the 1x1
convolution after it, with a stride, in one kernel; its two gradients are operators as those of `sevenloops::convolution`.
What lies between the two is not stored for the backward pass, but made again there, and dropped.
"""

from __future__ import annotations

from typing import Any

import torch

from ..compile import resolve_threads
from ..compile.layer import compile_layer
from ..epilogue import Epilogue
from ..errors import ArrayError, KernelError
from ..layers.shift import ShiftLayer
from ..problem import ConvProblem
from ..recent import Recent
from ..shift import Shift
from .bilinear import Bilinear, check_dtype
from .calls import Call, check_shape, convolution, input_gradient, nchw, weight_gradient
from .layout import channels_last, empty
from .operator import Operator, Saved, Tensors

__all__ = ["SHIFT", "SHIFT_BACK", "SHIFT_CONVOLUTION"]

Tensor = Any
Shape = tuple[int, ...]
TAIL = "int[] kernel_size, int[] dilation, str convention, int[] stride"


def _strided(shape: Any, stride: Any) -> tuple[Any, ...]:
    """The shape of what a stride reads: of each axis the first pixel, and every so many after it."""
    return (*shape[:2], *((size - 1) // step + 1 for size, step in zip(shape[2:], stride)))


def _moved(
    shape: Shape, back: bool, dtype: str, threads: int, kernel: Any, dilation: Any, convention: str, stride: Any
) -> Call:
    """A shift of images of `shape`, or the way back, as a function of one tensor."""
    if len(shape) != 4:
        raise ArrayError(f"a shift moves the channels of images x[n, c, h, w], got shape {shape}")
    n, c, h, w = shape
    given, made = (_strided(shape, stride), shape) if back else (shape, _strided(shape, stride))
    if not n:
        return lambda x: empty(x, made)
    shift, n_threads = Shift(kernel, dilation, convention).of_rank(2), resolve_threads(threads)
    problem = ShiftLayer(n, h, w, c, shift, True, dtype, tuple(stride), back)
    layer = compile_layer(problem, n_threads)

    def call(x: Tensor) -> Tensor:
        check_shape("dy" if back else "x", x.shape, given)
        x = channels_last(x, n_threads)
        y = empty(x, made)
        if layer.run(x.data_ptr(), y.data_ptr()):
            raise KernelError(f"{problem} failed (out of memory?)")
        return y

    return call


_shifts: Recent[Any, Call] = Recent()


def _shift(x: Tensor, size: Any, back: bool, *tail: Any) -> Tensor:
    key = (tuple(size), x.dtype, torch.get_num_threads(), back, tail)
    call = _shifts.find(key) or _shifts.keep(key, _moved(key[0], back, check_dtype(x), key[2], *tail))
    return call(x)


def _gradient_of_shift(g: Tensor, s: Saved) -> Tensors:
    return (SHIFT_BACK(g, s.shapes[0], *s.tail) if s.needs[0] else None,)


def _gradient_of_shift_back(g: Tensor, s: Saved) -> Tensors:
    return (SHIFT(g, *s.tail[1:]) if s.needs[0] else None,)


SHIFT = Operator(
    f"shift(Tensor x, {TAIL}) -> Tensor",
    lambda x, *tail: _shift(x, x.shape, False, *tail),
    lambda x, kernel_size, dilation, convention, stride: empty(x, _strided(x.shape, stride)),
    _gradient_of_shift, operands=1,
)  # fmt: skip
SHIFT_BACK = Operator(
    f"shift_back(Tensor dy, SymInt[] size, {TAIL}) -> Tensor",
    lambda dy, size, *tail: _shift(dy, size, True, *tail),
    lambda dy, size, *tail: empty(dy, size),
    _gradient_of_shift_back, operands=1,
)  # fmt: skip


def _problem(x: Shape, w: Shape, dtype: str, bias: bool, shift: Shift | None, stride: Any) -> ConvProblem:
    if len(x) != 4 or w[1:] != (x[1], 1, 1):
        raise ArrayError(f"shift_conv2d needs x[n, c, h, w] and weight[oc, c, 1, 1], got shapes {x} and {w}")
    return ConvProblem(
        batch=max(x[0], 1), in_channels=x[1], in_size=x[2:], out_channels=w[0], kernel=(1, 1), stride=stride,
        epilogue=Epilogue(bias), dtype=dtype, shift=shift,
    )  # fmt: skip


def _forward(
    x: Shape, w: Shape, given: Shape, dtype: str, bias: Tensor | None, threads: int, *tail: Any, weights: str = "varying"
) -> Call:
    kernel, dilation, convention, stride = tail
    problem = _problem(x, w, dtype, bias is not None, Shift(kernel, dilation, convention).of_rank(2), stride)
    if bias is not None:
        check_shape("bias", bias.shape, w[:1])
    if not x[0]:
        return lambda x, weight, bias: empty(x, (0, *nchw(problem.y_shape)[1:]))
    return convolution(problem, threads, weights)


def _input_gradient(x: Shape, w: Shape, dy: Shape, dtype: str, bias: None, threads: int, *tail: Any) -> Call:
    """The adjoint of the 1x1 convolution on the pixels that its stride has read, then the shift back."""
    check_shape("dy", dy, (x[0], w[0], *_strided(x, tail[3])[2:]))
    if not x[0]:
        return lambda dy, weight, bias: empty(dy, x)
    pointwise = input_gradient(_problem(_strided(x, tail[3]), w, dtype, False, None, 1), threads)
    back = _moved(x, True, dtype, threads, *tail)
    return lambda dy, weight, bias: back(pointwise(dy, weight, None))


def _weight_gradient(x: Shape, w: Shape, dy: Shape, dtype: str, bias: None, threads: int, *tail: Any) -> Call:
    """The shift again, then the gradient of the 1x1 convolution's weights."""
    check_shape("dy", dy, (x[0], w[0], *_strided(x, tail[3])[2:]))
    if not x[0]:
        return lambda dy, x, bias: dy.new_zeros(w)
    pointwise = weight_gradient(_problem(_strided(x, tail[3]), w, dtype, False, None, 1), threads)
    moved = _moved(x, False, dtype, threads, *tail)
    return lambda dy, x, bias: pointwise(dy, moved(x), None)


SHIFT_CONVOLUTION = Bilinear.register(
    "shift_convolution", TAIL, (_forward, _input_gradient, _weight_gradient),
    lambda x, w, kernel_size, dilation, convention, stride: (x[0], w[0], *_strided(x, stride)[2:]), empty, channel_axis=1,
)  # fmt: skip
