"""The gradients of convolutions as functions of arrays, channels last: what a training step calls backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import records
from .adjoint import WeightGradient, adjoint, beyond
from .arrays import address, allocator, check_array
from .compile import compile, resolve_threads
from .compile.gradient import compile_gradient, gradient_schedule
from .errors import KernelError
from .gradients import GRADIENTS
from .machine import Machine
from .problem import ConvProblem
from .recent import Recent

__all__ = ["InputGradient", "WeightsGradient", "input_gradient", "weight_gradient"]

Array = np.ndarray[Any, Any]


class InputGradient:
    """`input_gradient` of one problem with its kernel at hand: what depends on sizes alone is worked out once.

    `algorithm` and `schedule` say what computes it, `macs_executed` how many multiply-adds its code really does.
    Raises `ProblemError`, `Unsupported`, `CompileError`.
    """

    def __init__(self, problem: ConvProblem, threads: int | None = None, algorithm: str | None = None) -> None:
        self.kernel = compile(adjoint(problem), algorithm=algorithm, threads=threads, weights="varying")
        self.algorithm, self.schedule = self.kernel.algorithm, self.kernel.schedule
        self.macs_executed = self.kernel.macs_executed
        self._problem, self._shape, self._dtype = problem, problem.y_shape, np.dtype(problem.dtype)
        self._cut = any(beyond(problem))

    def __call__(self, dy: Array, weight: Array) -> Array:
        """Arguments, result and errors as `input_gradient`."""
        check_array("dy", dy, self._shape, self._dtype)
        return self.kernel.once(_reached(self._problem, dy) if self._cut else dy, weight)


class WeightsGradient:
    """`weight_gradient` of one problem with its kernel at hand; as `InputGradient`."""

    def __init__(self, problem: ConvProblem, threads: int | None = None, algorithm: str | None = None) -> None:
        self.gradient = WeightGradient(adjoint(problem) if problem.transposed else problem)
        self.schedule = gradient_schedule(self.gradient, Machine.host(), algorithm)
        self.algorithm = self.schedule.algorithm
        self.macs_executed = GRADIENTS[self.algorithm].macs_executed(self.gradient, self.schedule)
        self._kernel = compile_gradient(self.gradient, resolve_threads(threads), self.schedule)
        self._problem, self._dtype = problem, np.dtype(problem.dtype)
        self._x_shape, self._y_shape = problem.x_shape, problem.y_shape
        self._new_output = allocator(problem.w_shape, problem.dtype)

    def __call__(self, x: Array, dy: Array) -> Array:
        """Arguments, result and errors as `weight_gradient`."""
        check_array("x", x, self._x_shape, self._dtype)
        check_array("dy", dy, self._y_shape, self._dtype)
        first, second = (_reached(self._problem, dy), x) if self._problem.transposed else (x, dy)
        out = self._new_output()
        if self._kernel.run(address(first), address(second), address(out)):
            raise KernelError(f"{self.gradient} failed (out of memory?)")
        return out


_inputs: Recent[Any, InputGradient] = Recent()
_weights: Recent[Any, WeightsGradient] = Recent()


def input_gradient(
    problem: ConvProblem, dy: Array, weight: Array, *, threads: int | None = None, algorithm: str | None = None
) -> Array:
    """The gradient of the input of a convolution, plain or transposed, without its epilogue.

    `dy` is dense, `problem.y_shape` (channels last), `weight` is `problem.w_shape`; returns `problem.x_shape`. `algorithm`
    forces one that computes the `adjoint`. Raises `ArrayError`, `DtypeError`, `Unsupported`, `CompileError`.
    """
    key = (problem, threads, algorithm, records.generation)
    prepared = _inputs.find(key) or _inputs.keep(key, InputGradient(problem, threads, algorithm))
    return prepared(dy, weight)


def weight_gradient(
    problem: ConvProblem, x: Array, dy: Array, *, threads: int | None = None, algorithm: str | None = None
) -> Array:
    """The gradient of the weights of a convolution, plain or transposed, without its epilogue.

    `x` and `dy` are dense, `problem.x_shape` and `problem.y_shape` (channels last); returns `problem.w_shape`. `algorithm`
    forces a row of `sevenloops.gradients`. Raises `ArrayError`, `DtypeError`, `Unsupported`, `CompileError`.
    """
    key = (problem, threads, algorithm, records.generation)
    prepared = _weights.find(key) or _weights.keep(key, WeightsGradient(problem, threads, algorithm))
    return prepared(x, dy)


def _reached(problem: ConvProblem, dy: Array) -> Array:
    """`dy` without the rows at the end that no input reaches; dense."""
    cut = beyond(problem)
    if not any(cut):
        return dy
    return np.ascontiguousarray(dy[(slice(None), *(slice(0, size - by) for size, by in zip(problem.out_size, cut)))])
