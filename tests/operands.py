"""Random operands for a problem, placed so that reading or writing outside of them shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sevenloops.problem import GemmProblem, Problem
from sevenloops.reference import reference_conv, reference_gemm

Array = npt.NDArray[Any]

#: Elements of NaN before and after every array: more than the widest tile, and a whole number of cache lines.
GUARD = 1024


def _reference(problem: Problem, x: Array, w: Array, extra: dict[str, Array]) -> Array:
    compute: Any = reference_gemm if isinstance(problem, GemmProblem) else reference_conv
    result: Array = compute(problem, x, w, **extra)
    return result


def shapes(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of the first operand, of the weights and of the output."""
    if isinstance(problem, GemmProblem):
        return problem.a_shape, problem.b_shape, problem.y_shape
    return problem.x_shape, problem.w_shape, problem.y_shape


class Operands:
    """Inputs by name, and a poisoned output, each between guards of NaN.

    `integers` draws whole numbers from -4 to 4, whose products and sums float32 holds exactly.
    """

    def __init__(self, problem: Problem, *, integers: bool, seed: int = 0) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(seed)
        self.integers = integers
        self._guarded: list[tuple[str, Array, Array]] = []
        x_shape, w_shape, y_shape = shapes(problem)
        self.x = self._random("x", x_shape)
        self.w = self._random("w", w_shape)
        self.extra: dict[str, Array] = {}
        if problem.epilogue.bias:
            self.extra["bias"] = self._random("bias", y_shape[-1:])
        if problem.epilogue.residual:
            self.extra["residual"] = self._random("residual", y_shape)
        if isinstance(problem, GemmProblem) and problem.beta != 0:
            self.extra["c"] = self._random("c", y_shape)
        pitch = max(getattr(problem, "out_pitch", 0), y_shape[-1])
        self._around = self._place("out", np.full((*y_shape[:-1], pitch), np.nan, problem.dtype))
        self.out = self._around[..., pitch - y_shape[-1] :]

    def expected(self) -> Array:
        """What the definition gives, in float64."""
        return _reference(self.problem, self.x, self.w, self.extra)

    def largest_sum_of_magnitudes(self) -> float:
        """The largest sum before the activation if all terms were positive: rounding errors are in proportion to it."""
        linear = replace(self.problem, epilogue=replace(self.problem.epilogue, activation="none", params=()))
        if isinstance(linear, GemmProblem):
            linear = replace(linear, alpha=abs(linear.alpha), beta=abs(linear.beta))
        extra = {name: np.abs(value) for name, value in self.extra.items()}
        return float(_reference(linear, np.abs(self.x), np.abs(self.w), extra).max())

    def poison(self) -> None:
        """Make the output NaN again."""
        self.out[...] = np.nan

    def check_nothing_else_was_written(self) -> None:
        """Assert that the guards are still NaN, the channels beside the output too, and the inputs what they were."""
        beside = self._around[..., : self._around.shape[-1] - self.out.shape[-1]]
        assert np.isnan(beside).all(), "something was written beside the output"
        for name, whole, original in self._guarded:
            assert np.isnan(whole[:GUARD]).all(), f"something was written before {name}"
            assert np.isnan(whole[-GUARD:]).all(), f"something was written behind {name}"
            inside = whole[GUARD:-GUARD].reshape(original.shape)
            assert name == "out" or np.array_equal(inside, original), f"the input {name} was changed"

    def _random(self, name: str, shape: tuple[int, ...]) -> Array:
        values = self.rng.integers(-4, 5, shape) if self.integers else self.rng.standard_normal(shape)
        return self._place(name, values.astype(self.problem.dtype))

    def _place(self, name: str, values: Array) -> Array:
        whole = np.full(math.prod(values.shape) + 2 * GUARD, np.nan, values.dtype)
        inside = whole[GUARD:-GUARD].reshape(values.shape)
        inside[...] = values
        self._guarded.append((name, whole, values))
        return inside
