"""The other layers of a training step as operators: batch normalisation, pools, local response normalisation.

All take tensors `(n, c, *spatial)` that lie in memory in any way, float32 on the CPU, and return channels last. The
functions here are those of `torch.nn.functional`, with what our kernels can do besides. Formulas: `sevenloops.layers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..compile import resolve_threads
from ..compile.layer import compile_layer
from ..compile.runtime import LoadedKernel
from ..errors import ArrayError, DtypeError, KernelError, ProblemError
from ..layers.batch_norm import BatchNorm, BatchNormGradient
from ..layers.lrn import LRN
from ..layers.lrn_gradient import LRNGradient
from ..layers.pool import Pool
from ..layers.pool_gradient import PoolGradient, PoolIndices
from ..layers.reduce import Reduce
from ..recent import Recent
from ..sizes import as_tuple
from .layer_operator import LayerOperator
from .layout import channels_last, empty

__all__ = ["adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "local_response_norm", "max_pool2d", "pool_size"]

Tensor = Any
_kernels: Recent[Any, LoadedKernel] = Recent()


def _run(make: Callable[..., Any], key: tuple[Any, ...], *tensors: Tensor) -> None:
    """Run the kernel of the problem `make(*key)` on dense tensors; those that are None are left out."""
    found = (make, *key, torch.get_num_threads())
    kernel = _kernels.find(found)
    if kernel is None:
        kernel = _kernels.keep(found, compile_layer(make(*key), resolve_threads(found[-1])))
    if kernel.run(*[tensor.data_ptr() for tensor in tensors if tensor is not None]):
        raise KernelError(f"{make(*key)} failed (out of memory?)")


def _dense(name: str, x: Tensor) -> Tensor:
    """`x` channels last; raises for what our kernels do not take."""
    if x.dtype != torch.float32:
        raise DtypeError(f"{name} must be float32, got {x.dtype}; convert it, or leave this layer to PyTorch")
    if not 2 <= x.dim() <= 5 or not x.numel():
        raise ArrayError(f"{name} must be (n, c, *spatial) with 2 to 5 axes and not empty, got shape {tuple(x.shape)}")
    return x.contiguous() if x.dim() == 2 else channels_last(x, resolve_threads(torch.get_num_threads()))


def _like(x: Tensor) -> Tensor:
    return empty(x, x.shape)


# ------------------------------------------------------------------------------------------------ batch normalisation


def _norm(*key: Any) -> BatchNorm:
    return BatchNorm(*key)


def _norm_gradient(*key: Any) -> BatchNormGradient:
    return BatchNormGradient(BatchNorm(*key))


def _norm_forward(
    x: Tensor, scale: Tensor, bias: Tensor, residual: Any, mean: Any, variance: Any, epsilon: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    x, channels = _dense("x", x), x.shape[1]
    residual = None if residual is None else _dense("residual", residual)
    _check_norm(x, channels, residual, scale=scale, bias=bias, mean=mean, variance=variance)
    given = mean is not None
    y, stats = _like(x), [x.new_empty(0 if given else channels) for _ in range(2)]
    key = (x.numel() // channels, channels, epsilon, activation, residual is not None, given)
    small = [t.contiguous() for t in (scale, bias, mean, variance) if t is not None]
    _run(_norm, key, x, *small, residual, y, *([] if given else stats))
    return y, stats[0], stats[1]


def _check_norm(x: Tensor, channels: int, residual: Any, **small: Any) -> None:
    for name, tensor in small.items():
        if tensor is not None and (tensor.shape != (channels,) or tensor.dtype != torch.float32):
            raise ArrayError(f"{name} must be float32 of shape ({channels},), got {tensor.dtype} {tuple(tensor.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ArrayError(f"residual must have the shape of x, {tuple(x.shape)}, got {tuple(residual.shape)}")


def _norm_fake(
    x: Tensor, scale: Tensor, bias: Tensor, residual: Any, mean: Any, *tail: Any
) -> tuple[Tensor, Tensor, Tensor]:
    channels = 0 if mean is not None else x.shape[1]
    return _like(x), x.new_empty(channels), x.new_empty(channels)


def _norm_save(ctx: Any, args: Any, output: Any) -> None:
    x, scale, bias, residual, mean, variance, epsilon, activation = args
    y, *stats = output
    ctx.mark_non_differentiable(*stats)
    ctx.tail, ctx.residual = (epsilon, activation, mean is not None), residual is not None
    masked = residual is not None and activation != "none"  # else the mask is computed again from x
    ctx.save_for_backward(x, scale, bias, *(stats if mean is None else (mean, variance)), y if masked else None)


def _norm_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, scale, bias, mean, variance, y = ctx.saved_tensors
    dx, dresidual, dscale, dbias = NORM_GRADIENT(dy, x, scale, bias, mean, variance, y, *ctx.tail)
    return dx, dscale, dbias, (dresidual if y is not None else dy) if ctx.residual else None


def _norm_back(
    dy: Tensor, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, y: Any, epsilon: float,
    activation: str, given: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x, dy, channels = _dense("x", x), _dense("dy", dy), x.shape[1]
    masked = y is not None
    _check_norm(x, channels, dy, scale=scale, bias=bias, mean=mean, variance=variance)
    dx, dresidual, dscale, dbias = (
        _like(x),
        _like(x) if masked else x.new_empty(0),
        torch.empty(channels),
        torch.empty(channels),
    )
    key = (x.numel() // channels, channels, epsilon, activation, masked, given)
    small = [t.contiguous() for t in (scale, bias, mean, variance)]
    y = _dense("y", y) if masked else None
    _run(_norm_gradient, key, dy, x, *small, y, dx, dresidual if masked else None, dscale, dbias)
    return dx, dresidual, dscale, dbias


NORM = LayerOperator(
    "batch_norm(Tensor x, Tensor scale, Tensor bias, Tensor? residual, Tensor? mean, Tensor? variance, float epsilon, "
    "str activation) -> (Tensor, Tensor, Tensor)",
    _norm_forward, _norm_fake, _norm_save, _norm_backward,
)  # fmt: skip
NORM_GRADIENT = LayerOperator(
    "batch_norm_gradient(Tensor dy, Tensor x, Tensor scale, Tensor bias, Tensor mean, Tensor variance, Tensor? y, "
    "float epsilon, str activation, bool given) -> (Tensor, Tensor, Tensor, Tensor)",
    _norm_back,
    lambda dy, x, scale, bias, mean, variance, y, *tail: (
        _like(x), x.new_empty(0) if y is None else _like(x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1]),
    ),
)  # fmt: skip


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *,
    activation: str = "none", residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`activation(batch_norm(x) + residual)`, otherwise as `torch.nn.functional.batch_norm`.

    `activation` is `"none"`, `"relu"` or `"relu6"`. The sum and the activation cost no further pass over memory, forward or
    backward. In training the running statistics are updated in place, the variance unbiased. Raises `ProblemError`,
    `ArrayError`, `DtypeError`.
    """
    channels = x.shape[1]
    scale = x.new_ones(channels) if weight is None else weight
    shift = x.new_zeros(channels) if bias is None else bias
    if not training:
        if running_mean is None or running_var is None:
            raise ArrayError("running_mean and running_var must be given where training is False")
        y: Tensor = NORM(x, scale, shift, residual, running_mean, running_var, eps, activation)[0]
        return y
    n = x.numel() // channels
    if n == 1:
        raise ProblemError(f"training needs more than 1 value per channel, got shape {tuple(x.shape)}")
    y, mean, variance = NORM(x, scale, shift, residual, None, None, eps, activation)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean, momentum)
        if running_var is not None:
            running_var.lerp_(variance * (n / (n - 1)), momentum)
    return y


# ---------------------------------------------------------------------------------------------------------- pools

POOL_TAIL = "str kind, int[] kernel, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad"


def pool_size(size: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> tuple[Any, ...]:
    """The windows along each axis: in ceil mode one more that hangs over, if it begins before the padding's end."""
    found = []
    for i, k, s, p in zip(size, kernel, stride, padding):
        out = (i + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        found.append(out - 1 if ceil_mode and (out - 1) * s >= i + p else out)
    return tuple(found)


def _pool(shape: Any, kind: str, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool) -> Pool:
    n, channels, *size = shape
    out = pool_size(size, kernel, stride, padding, ceil_mode)
    pads, ones = tuple((p, p) for p in padding), (1,) * len(size)
    return Pool(kind, n, channels, tuple(size), kernel, stride, pads, ones, out, count_include_pad)


def _means(shape: Any, *tail: Any) -> Pool | Reduce:
    """The problem of a forward pass: the mean of a whole image is a reduction."""
    kind, kernel, _, padding, *_ = tail
    if kind == "average" and kernel == shape[2:] and not any(padding):
        return Reduce("mean", (shape[0], math.prod(kernel), shape[1]), (1,))
    return _pool(shape, *tail)


def _indices(*key: Any) -> PoolIndices:
    return PoolIndices(_pool(*key))


def _pool_gradient(*key: Any) -> PoolGradient:
    return PoolGradient(_pool(*key))


def _pooled(x: Tensor, kind: str, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, *_: Any) -> Tensor:
    return empty(x, (*x.shape[:2], *pool_size(x.shape[2:], kernel, stride, padding, ceil_mode)))


def _pool_forward(x: Tensor, *tail: Any) -> Tensor:
    x, y = _dense("x", x), _pooled(x, *tail)
    _run(_means, (tuple(x.shape), *tail), x, y)
    return y


def _max_forward(x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    x, y = _dense("x", x), _pooled(x, *tail)
    index = torch.empty_like(y, dtype=torch.uint8)
    _run(_indices, (tuple(x.shape), *tail), x, y, index)
    return y, index


def _pool_back(dy: Tensor, index: Any, size: Any, *tail: Any) -> Tensor:
    dy, dx = _dense("dy", dy), empty(dy, size)
    _run(_pool_gradient, (tuple(size), *tail), dy, index, dx)
    return dx


def _pool_save(ctx: Any, args: Any, output: Any) -> None:
    x, *ctx.tail = args
    ctx.size = tuple(x.shape)
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])


def _pool_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return (POOL_GRADIENT(dy, next(iter(ctx.saved_tensors), None), ctx.size, *ctx.tail),)


def _max_fake(x: Tensor, *tail: Any) -> tuple[Tensor, Tensor]:
    y = _pooled(x, *tail)
    return y, torch.empty_like(y, dtype=torch.uint8)


POOL = LayerOperator(f"pool(Tensor x, {POOL_TAIL}) -> Tensor", _pool_forward, _pooled, _pool_save, _pool_backward)
MAXIMUM = LayerOperator(
    f"pool_indices(Tensor x, {POOL_TAIL}) -> (Tensor, Tensor)", _max_forward, _max_fake, _pool_save, _pool_backward
)
POOL_GRADIENT = LayerOperator(
    f"pool_gradient(Tensor dy, Tensor? index, SymInt[] size, {POOL_TAIL}) -> Tensor",
    _pool_back,
    lambda dy, index, size, *tail: empty(dy, size),
)


def _tail(kind: str, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, counts: bool) -> tuple[Any, ...]:
    rank = x.dim() - 2
    kernel = as_tuple("kernel_size", kernel, rank, 1)
    stride = kernel if stride is None or stride == [] else as_tuple("stride", stride, rank, 1)
    pads = as_tuple("padding", padding, rank, 0)
    if any(2 * p > k for p, k in zip(pads, kernel)):
        raise ProblemError(f"padding must be at most half of the kernel, got {pads} for {kernel}")
    return (kind, kernel, stride, pads, bool(ceil_mode), bool(counts))


def max_pool2d(x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False) -> Tensor:
    """As `torch.nn.functional.max_pool2d` without dilation: of equal values the first gets the gradient, NaN wins.

    Backward needs one byte an output. Raises `ProblemError`, `ArrayError`, `DtypeError`.
    """
    tail = _tail("max", x, kernel_size, stride, padding, ceil_mode, False)
    if torch.is_grad_enabled() and x.requires_grad:
        return MAXIMUM(x, *tail)[0]
    return POOL(x, *tail)


def avg_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """As `torch.nn.functional.avg_pool2d` without `divisor_override`. Raises `ProblemError`, `ArrayError`, `DtypeError`."""
    return POOL(x, *_tail("average", x, kernel_size, stride, padding, ceil_mode, count_include_pad))


def adaptive_avg_pool2d(x: Tensor) -> Tensor:
    """The mean of each image's channels, `(n, c, 1, 1)`: `torch.nn.functional.adaptive_avg_pool2d(x, 1)`."""
    return avg_pool2d(x, tuple(x.shape[2:]))


# ------------------------------------------------------------------------------------- local response normalisation


def _lrn(pixels: int, channels: int, *key: Any) -> LRN:
    return LRN((pixels, channels), *key)


def _lrn_gradient(*key: Any) -> LRNGradient:
    return LRNGradient(_lrn(*key))


def _lrn_forward(x: Tensor, *tail: Any) -> Tensor:
    x = _dense("x", x)
    y = _like(x)
    _run(_lrn, (x.numel() // x.shape[1], x.shape[1], *tail), x, y)
    return y


def _lrn_back(dy: Tensor, x: Tensor, *tail: Any) -> Tensor:
    dy, x = _dense("dy", dy), _dense("x", x)
    dx = _like(x)
    _run(_lrn_gradient, (x.numel() // x.shape[1], x.shape[1], *tail), dy, x, dx)
    return dx


def _lrn_save(ctx: Any, args: Any, output: Any) -> None:
    x, *ctx.tail = args
    ctx.save_for_backward(x)


LOCAL_RESPONSE_NORM: LayerOperator = LayerOperator(
    "local_response_norm(Tensor x, int size, float alpha, float beta, float k) -> Tensor",
    _lrn_forward,
    lambda x, *tail: _like(x),
    _lrn_save,
    lambda ctx, dy: (LRN_GRADIENT(dy, *ctx.saved_tensors, *ctx.tail),),
)
LRN_GRADIENT: LayerOperator = LayerOperator(
    "local_response_norm_gradient(Tensor dy, Tensor x, int size, float alpha, float beta, float k) -> Tensor",
    _lrn_back,
    lambda dy, x, *tail: _like(x),
)


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """As `torch.nn.functional.local_response_norm`, for an odd `size`: alpha is divided by it.

    Nothing but `x` is kept for the backward pass. Raises `ProblemError`, `ArrayError`, `DtypeError`.
    """
    if size % 2 == 0:
        raise ProblemError(f"size must be odd, got {size}; PyTorch's windows of even size are not ONNX's")
    y: Tensor = LOCAL_RESPONSE_NORM(x, size, float(alpha), float(beta), float(k))
    return y
