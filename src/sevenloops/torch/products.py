"""The operators `sevenloops::linear`, `linear_input_gradient` and `linear_weight_gradient`: matrix products."""

from __future__ import annotations

import math
from typing import Any

from ..epilogue import Epilogue
from ..errors import ArrayError
from ..problem import GemmProblem
from .bilinear import Bilinear
from .calls import Call, check_shape, product

__all__ = ["LINEAR"]

Tensor = Any
Shape = tuple[int, ...]


def _rows(x: Shape, w: Shape) -> int:
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise ArrayError(f"linear needs x[..., in] and weight[out, in], got shapes {x} and {w}")
    return math.prod(x[:-1])


def _forward(
    x: Shape, w: Shape, given: Shape, dtype: str, bias: Tensor | None, threads: int, *, weights: str = "varying"
) -> Call:
    m, shape = _rows(x, w), (*x[:-1], w[0])
    if bias is not None:
        check_shape("bias", bias.shape, w[:1])
    if not m:
        return lambda x, weight, bias: x.new_empty(shape)
    problem = GemmProblem(m, w[0], w[1], trans_b=True, epilogue=Epilogue(bias is not None), dtype=dtype)
    return product(problem, threads, shape, weights)


def _input_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int) -> Call:
    m = _rows(x, w)
    check_shape("dy", given, (*x[:-1], w[0]))
    if not m:
        return lambda dy, weight, bias: dy.new_empty(x)
    return product(GemmProblem(m, w[1], w[0], dtype=dtype), threads, x)


def _weight_gradient(x: Shape, w: Shape, given: Shape, dtype: str, bias: None, threads: int) -> Call:
    m = _rows(x, w)
    check_shape("dy", given, (*x[:-1], w[0]))
    if not m:
        return lambda dy, x, bias: dy.new_zeros(w)
    return product(GemmProblem(w[0], w[1], m, trans_a=True, dtype=dtype), threads, w)


LINEAR = Bilinear.register(
    "linear", "", (_forward, _input_gradient, _weight_gradient),
    lambda x, w: (*x[:-1], w[0]), lambda like, shape: like.new_empty(shape), channel_axis=-1,
)  # fmt: skip
