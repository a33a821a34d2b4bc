"""What benchmarks and the tuner compute on, built in each process from the same seed, and the float64 answer to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .problem import ConvProblem, Problem
from .reference import reference_conv, reference_gemm

__all__ = ["Inputs", "largest_error", "make_inputs", "reference_output"]

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Inputs:
    """Operands of one problem. `x` is `x_shape` (channels last) or `a_shape`, `w` is `w_shape` or `b_shape`."""

    x: FloatArray
    w: FloatArray
    bias: FloatArray | None
    residual: FloatArray | None
    c: FloatArray | None


def make_inputs(problem: Problem, seed: int) -> Inputs:
    """Normally distributed operands; the weights are divided by the square root of the fan-in, so outputs are near one.

    The same seed gives the same arrays in every process. None of them holds denormal numbers, so it does not matter
    that engines differ in flushing those to zero.
    """
    rng = np.random.default_rng(seed)
    dtype = np.dtype(problem.dtype)

    def normal(*shape: int) -> FloatArray:
        return rng.standard_normal(shape, dtype=dtype)

    epilogue = problem.epilogue
    if isinstance(problem, ConvProblem):
        fan_in = problem.in_channels // problem.groups * math.prod(problem.kernel)
        x, w, channels = normal(*problem.x_shape), normal(*problem.w_shape), problem.out_channels
    else:
        fan_in, channels = problem.k, problem.n
        x, w = normal(*problem.a_shape), normal(*problem.b_shape)
    w /= dtype.type(math.sqrt(fan_in))
    bias = normal(channels) if epilogue.bias else None
    residual = normal(*problem.y_shape) if epilogue.residual else None
    wants_c = not isinstance(problem, ConvProblem) and problem.beta != 0
    return Inputs(x, w, bias, residual, normal(*problem.y_shape) if wants_c else None)


def reference_output(problem: Problem, inputs: Inputs) -> npt.NDArray[np.float64]:
    """The answer in float64, shaped `y_shape`."""
    if isinstance(problem, ConvProblem):
        return reference_conv(problem, inputs.x, inputs.w, inputs.bias, inputs.residual)
    return reference_gemm(problem, inputs.x, inputs.w, inputs.bias, inputs.residual, inputs.c)


def largest_error(output: npt.ArrayLike, reference: npt.NDArray[np.float64]) -> float:
    """The largest absolute difference, relative to the largest output. NaN anywhere gives NaN."""
    output = np.asarray(output)
    if output.shape != reference.shape:
        raise AssertionError(f"an output of shape {output.shape} where {reference.shape} was expected")
    largest = float(np.max(np.abs(reference)))
    difference = float(np.max(np.abs(output - reference)))
    return difference / largest if largest else difference
