"""The operators `sevenloops::linear`, `linear_input_gradient` and `linear_weight_gradient`: matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..compile import compile, resolve_threads
from ..epilogue import Epilogue
from ..errors import ArrayError
from ..problem import GemmProblem
from .bilinear import Bilinear
from .calls import Call, check_shape

__all__ = ["LINEAR"]

Tensor = Any
Shape = tuple[int, ...]


def _rows(x: Shape, w: Shape) -> int:
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise ArrayError(f"linear needs x[..., in] and weight[out, in], got shapes {x} and {w}")
    return math.prod(x[:-1])


def _product(problem: GemmProblem, threads: int, shape: Shape) -> Call:
    """`(a, b, bias) -> y` of a shape; `a` and `b` as they are stored, with leading axes merged into rows."""
    kernel = compile(problem, threads=resolve_threads(threads), weights="varying")

    def call(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        y = torch.empty(shape, dtype=a.dtype)
        if bias is None:
            kernel.once_at(a.data_ptr(), b.data_ptr(), y.data_ptr())
        else:
            bias = bias.contiguous()
            kernel.once_at(a.data_ptr(), b.data_ptr(), bias.data_ptr(), y.data_ptr())
        return y

    return call


def _forward(x: Shape, w: Shape, given: Shape, dtype: str, bias: Tensor | None, threads: int) -> Call:
    m, shape = _rows(x, w), (*x[:-1], w[0])
    if bias is not None:
        check_shape("bias", bias.shape, w[:1])
    if not m:
        return lambda x, weight, bias: x.new_empty(shape)
    problem = GemmProblem(m, w[0], w[1], trans_b=True, epilogue=Epilogue(bias is not None), dtype=dtype)
    return _product(problem, threads, shape)


def _input_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int) -> Call:
    m = _rows(x, w)
    check_shape("dy", given, (*x[:-1], w[0]))
    if not m:
        return lambda dy, weight, bias: dy.new_empty(x)
    return _product(GemmProblem(m, w[1], w[0], dtype=dtype), threads, x)


def _weight_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int) -> Call:
    m = _rows(x, w)
    check_shape("dy", given, (*x[:-1], w[0]))
    if not m:
        return lambda dy, x, bias: dy.new_zeros(w)
    return _product(GemmProblem(w[0], w[1], m, trans_a=True, dtype=dtype), threads, w)


LINEAR = Bilinear.register(
    "linear", "", (_forward, _input_gradient, _weight_gradient),
    lambda x, w: (*x[:-1], w[0]), lambda like, shape: like.new_empty(shape), channel_axis=-1,
)  # fmt: skip
