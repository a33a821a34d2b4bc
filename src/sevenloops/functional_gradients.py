"""The gradients of convolutions as functions of arrays, channels last: what a training step calls backward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .adjoint import WeightGradient, adjoint, beyond
from .arrays import address, aligned_empty, check_array
from .compile import compile, resolve_threads
from .compile.gradient import compile_gradient, gradient_schedule
from .errors import KernelError
from .machine import Machine
from .problem import ConvProblem

__all__ = ["input_gradient", "weight_gradient"]

Array = np.ndarray[Any, Any]


def input_gradient(
    problem: ConvProblem, dy: Array, weight: Array, *, threads: int | None = None, algorithm: str | None = None
) -> Array:
    """The gradient of the input of a convolution, plain or transposed, without its epilogue.

    `dy` is dense, `problem.y_shape` (channels last), `weight` is `problem.w_shape`; returns `problem.x_shape`. `algorithm`
    forces one that computes the `adjoint`. Raises `ArrayError`, `DtypeError`, `Unsupported`, `CompileError`.
    """
    check_array("dy", dy, problem.y_shape, np.dtype(problem.dtype))
    kernel = compile(adjoint(problem), algorithm=algorithm, threads=threads, weights="varying")
    return kernel.once(_reached(problem, dy), weight)


def weight_gradient(
    problem: ConvProblem, x: Array, dy: Array, *, threads: int | None = None, algorithm: str | None = None
) -> Array:
    """The gradient of the weights of a convolution, plain or transposed, without its epilogue.

    `x` and `dy` are dense, `problem.x_shape` and `problem.y_shape` (channels last); returns `problem.w_shape`. `algorithm`
    forces a row of `sevenloops.gradients`. Raises `ArrayError`, `DtypeError`, `Unsupported`, `CompileError`.
    """
    dtype = np.dtype(problem.dtype)
    check_array("x", x, problem.x_shape, dtype)
    check_array("dy", dy, problem.y_shape, dtype)
    forward, operands = problem, [x, dy]
    if problem.transposed:
        forward, operands = adjoint(problem), [_reached(problem, dy), x]
    gradient = WeightGradient(replace(forward, out_pitch=0))
    schedule = gradient_schedule(gradient, Machine.host(), algorithm) if algorithm else None
    out = aligned_empty(problem.w_shape, problem.dtype)
    if compile_gradient(gradient, resolve_threads(threads), schedule).run(*map(address, [*operands, out])):
        raise KernelError(f"{gradient} failed (out of memory?)")
    return out


def _reached(problem: ConvProblem, dy: Array) -> Array:
    """`dy` without the rows at the end that no input reaches; dense."""
    cut = beyond(problem)
    if not any(cut):
        return dy
    return np.ascontiguousarray(dy[(slice(None), *(slice(0, size - by) for size, by in zip(problem.out_size, cut)))])
