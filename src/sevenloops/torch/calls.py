"""Kernels prepared for tensors of fixed shapes: what is left to do in a call is to hand over addresses.

`convolution`, `input_gradient` and `weight_gradient` take a problem and return a function of tensors `(n, c, *spatial)`. Its
arguments may lie in memory in any way; its results are channels last, gradients of weights contiguous.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from ..adjoint import WeightGradient, adjoint, beyond
from ..compile import Kernel, Packed, compile, resolve_threads
from ..compile.gradient import compile_gradient
from ..errors import ArrayError, KernelError
from ..problem import ConvProblem, GemmProblem, Problem
from .layout import channels_last, strides_of

__all__ = ["Call", "Prepared", "check_shape", "convolution", "input_gradient", "nchw", "product", "weight_gradient"]

Tensor = Any
Call = Callable[..., Tensor]


def nchw(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`(n, *spatial, c)` as `(n, c, *spatial)`."""
    return (shape[0], shape[-1], *shape[1:-1])


def check_shape(name: str, given: Any, wanted: tuple[int, ...]) -> None:
    """Raise `ArrayError` unless a tensor has the shape that it must have."""
    if tuple(given) != wanted:
        raise ArrayError(f"{name} must have shape {wanted}, got {tuple(given)}")


class Prepared:
    """A kernel with weights for given shapes: `(x, weight, bias) -> y`, packing the weights in each call.

    `layout` brings `x` into the kernel's order in memory; the result has the shape and strides given.
    """

    def __init__(
        self, problem: Problem, threads: int, weights: str, layout: Call, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.kernel: Kernel = compile(problem, threads=threads, weights=weights)
        self.layout, self.shape, self.strides = layout, shape, strides

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute; raises `KernelError`."""
        weight = weight.contiguous()
        return self._run(self.kernel.once_at, x, weight.data_ptr(), bias)

    def packed(self, x: Tensor, packed: Packed, bias: Tensor | None) -> Tensor:
        """The same with weights that the kernel has packed before."""
        return self._run(self.kernel.call_at, x, packed, bias)

    def _run(self, run: Callable[..., None], x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        x = self.layout(x)
        y = torch.empty_strided(self.shape, self.strides, dtype=x.dtype)
        if bias is None:
            run(x.data_ptr(), weight, y.data_ptr())
        else:
            bias = bias.contiguous()
            run(x.data_ptr(), weight, bias.data_ptr(), y.data_ptr())
        return y


def convolution(problem: ConvProblem, threads: int, weights: str = "varying") -> Prepared:
    """A convolution of given shapes: `(x, weight, bias) -> y`; `weights` as in `sevenloops.compile`."""
    n_threads, shape = resolve_threads(threads), nchw(problem.y_shape)
    layout = functools.partial(channels_last, threads=n_threads)
    return Prepared(problem, n_threads, weights, layout, shape, strides_of(shape))


def product(problem: GemmProblem, threads: int, shape: tuple[int, ...], weights: str = "varying") -> Prepared:
    """A matrix product `(a, b, bias) -> y` of a shape; operands as they are stored, leading axes merged into rows."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Prepared(problem, resolve_threads(threads), weights, lambda a: a.contiguous(), shape, strides)


def input_gradient(problem: ConvProblem, threads: int) -> Call:
    """The gradient of the input: `(dy, weight, None) -> dx`."""
    back = convolution(adjoint(problem), threads)
    cut = beyond(problem)
    if not any(cut):
        return back
    kept = tuple(slice(0, size - by) for size, by in zip(problem.out_size, cut))
    return lambda dy, weight, bias: back(dy[(slice(None), slice(None), *kept)], weight, None)


def weight_gradient(problem: ConvProblem, threads: int) -> Call:
    """The gradient of the weights: `(dy, x, None) -> dw`."""
    n_threads, transposed, w_shape = resolve_threads(threads), problem.transposed, problem.w_shape
    gradient = WeightGradient(adjoint(problem) if transposed else problem)
    kernel = compile_gradient(gradient, n_threads)
    kept = tuple(slice(0, size - by) for size, by in zip(problem.out_size, beyond(problem)))

    def call(dy: Tensor, x: Tensor, bias: None) -> Tensor:
        if transposed:
            dy, x = x, dy[(slice(None), slice(None), *kept)]
        dy, x = channels_last(dy, n_threads), channels_last(x, n_threads)
        dw = torch.empty(w_shape, dtype=x.dtype)
        if kernel.run(x.data_ptr(), dy.data_ptr(), dw.data_ptr()):
            raise KernelError(f"{gradient} failed (out of memory?)")
        return dw

    return call
