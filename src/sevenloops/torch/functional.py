"""PyTorch's convolutions, `linear` and the shift as functions of tensors, computed and differentiated by our kernels.

All work under autograd (twice, where wanted), `torch.compile`, `torch.export` and `torch.func.grad`. Tensors are float32,
or float64, which a slow kernel computes, for `torch.autograd.gradcheck`. Results of convolutions and shifts are channels
last in memory (`torch.channels_last`); inputs that are not are converted, so give the first layer what you have and
let the layout flow. Kernels take `torch.get_num_threads()` threads, at most the cores that the process may use, and
results do not depend on how many. A shape that is new is compiled first, once for each machine.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..errors import ArrayError, ProblemError
from ..sizes import as_tuple
from .convolution import CONVOLUTION
from .products import LINEAR
from .shifting import SHIFT, SHIFT_CONVOLUTION

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_tail", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "named_padding", "shift2d", "shift_conv2d",
]  # fmt: skip

Tensor = Any


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolve `x[n, ic, w]` with `weight[oc, ic / groups, kw]`; otherwise as `conv2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, False, 0, groups)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolve `x[n, ic, h, w]` with `weight[oc, ic / groups, kh, kw]`, as `torch.nn.functional.conv2d` does.

    `x` may lack the batch axis. `padding` is a number, one an axis, `"valid"`, `"same"` (stride 1), or, which PyTorch does
    not have, one `(before, after)` pair an axis. Returns `y[n, oc, oh, ow]`, channels last in memory.
    Raises `ProblemError`, `ArrayError` (both are `ValueError`), `DtypeError` (a `TypeError`) and `CompileError`.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, False, 0, groups)


def conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolve `x[n, ic, d, h, w]` with `weight[oc, ic / groups, kd, kh, kw]`; otherwise as `conv2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, False, 0, groups)


def conv_transpose1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv1d`, with `weight[ic, oc / groups, kw]`; otherwise as `conv_transpose2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv2d`, with `weight[ic, oc / groups, kh, kw]`, as `torch.nn.functional.conv_transpose2d`.

    `padding` cuts rows and columns off the result; it is given as for `conv2d`, in numbers. Errors are those of `conv2d`.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def conv_transpose3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv3d`, with `weight[ic, oc / groups, kd, kh, kw]`; otherwise as `conv_transpose2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x[..., in] @ weight[out, in].T + bias[out]`, as `torch.nn.functional.linear`; the result is contiguous."""
    return LINEAR.forward(x, weight, bias)


def shift2d(x: Tensor, kernel_size: Any = 3, dilation: Any = 1, convention: str = "contiguous", stride: Any = 1) -> Tensor:
    """Move the channels of images: `y[n, c, o] = x[n, c, o*stride + offset(c)]`, zero outside (arXiv 1711.08141).

    `kernel_size` and `dilation` are a number or one an axis; `convention` is `"contiguous"` or `"modulo"`; see
    `sevenloops.shift`. Returns `y[n, c, oh, ow]`, channels last. Raises `ProblemError`, `ArrayError`, `DtypeError`.
    """
    return SHIFT(x, *shift_tail(kernel_size, dilation, convention, stride))


def shift_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kernel_size: Any = 3, dilation: Any = 1,
    convention: str = "contiguous", stride: Any = 1,
) -> Tensor:  # fmt: skip
    """`conv2d(shift2d(x, kernel_size, dilation, convention), weight, bias, stride)` in one step.

    `weight` is `(oc, c, 1, 1)`. The shifted tensor is not stored, neither here nor for the backward pass, which
    needs only `x` and `weight`. Errors as `shift2d`.
    """
    return SHIFT_CONVOLUTION.forward(x, weight, bias, *shift_tail(kernel_size, dilation, convention, stride))


def _conv(
    rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Tensor:  # fmt: skip
    if x.dim() != rank + 2:
        if x.dim() != rank + 1:
            raise ArrayError(f"x must have {rank + 2} axes, or {rank + 1} without the batch, got shape {tuple(x.shape)}")
        return _conv(rank, x[None], weight, bias, stride, padding, dilation, transposed, output_padding, groups)[0]
    if isinstance(padding, str):
        if transposed:
            raise ProblemError(f"padding of a transposed convolution must be numbers, got {padding!r}")
        padding = named_padding(padding, weight.shape[2:], stride, dilation)
    tail = conv_tail(rank, stride, padding, dilation, transposed, output_padding, groups)
    return CONVOLUTION.forward(x, weight, bias, *tail)


def named_padding(name: str, kernel: Any, stride: Any, dilation: Any) -> Any:
    """`"same"` and `"valid"` as pairs, the odd element of padding at the end; raises `ProblemError`."""
    if name not in ("same", "valid"):
        raise ProblemError(f'padding must be "same", "valid" or numbers, got {name!r}')
    if name == "valid":
        return 0
    if set(as_tuple("stride", stride, len(kernel), 1)) != {1}:
        raise ProblemError(f'padding="same" needs stride 1, as in PyTorch, got {stride}')
    reach = [(k - 1) * d for k, d in zip(kernel, as_tuple("dilation", dilation, len(kernel), 1))]
    return tuple((total // 2, total - total // 2) for total in reach)


def conv_tail(
    rank: int, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> tuple[Any, ...]:
    """The arguments of `sevenloops::convolution` behind the tensors: full tuples, padding as two numbers an axis."""
    return _cached(_conv_tail, rank, stride, padding, dilation, transposed, output_padding, groups)


def shift_tail(kernel_size: Any, dilation: Any, convention: str, stride: Any) -> tuple[Any, ...]:
    """The arguments of `sevenloops::shift` behind the tensor: full tuples."""
    return _cached(_shift_tail, kernel_size, dilation, convention, stride)


def _cached(function: Any, *args: Any) -> tuple[Any, ...]:
    """A small call has no time to normalise its arguments; lists among them do not fit a cache."""
    if torch.compiler.is_compiling():
        return function(*args)  # type: ignore[no-any-return]
    try:
        return _remembered(function, *args)
    except TypeError:
        return function(*args)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1000)
def _remembered(function: Any, *args: Any) -> tuple[Any, ...]:
    return function(*args)  # type: ignore[no-any-return]


def _conv_tail(
    rank: int, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> tuple[Any, ...]:
    steps, spread = as_tuple("stride", stride, rank, 1), as_tuple("dilation", dilation, rank, 1)
    items = [padding] * rank if not hasattr(padding, "__iter__") else list(padding)
    items = items * rank if len(items) == 1 else items
    if len(items) != rank:
        raise ProblemError(f"padding needs one entry for each of {rank} axes, got {padding!r}")
    pads = [edge for item in items for edge in as_tuple("padding", item, 2, 0)]
    return (steps, tuple(pads), spread, transposed, as_tuple("output_padding", output_padding, rank, 0), groups)


def _shift_tail(kernel_size: Any, dilation: Any, convention: str, stride: Any) -> tuple[Any, ...]:
    kernel, spread = as_tuple("kernel_size", kernel_size, 2, 1), as_tuple("dilation", dilation, 2, 1)
    return (kernel, spread, convention, as_tuple("stride", stride, 2, 1))
