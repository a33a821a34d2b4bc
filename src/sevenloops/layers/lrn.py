"""lrn: local response normalisation across channels, channels last.

    y[p, c] = x[p, c] / (bias + alpha / size * sum over |j| in the window of x[p, c + j]^2)^beta

(Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 3.3; ONNX operator LRN,
whose window is c - floor((size - 1) / 2) to c + ceil((size - 1) / 2), cut off at the ends.) The squares of a pixel are
written between zeros, so that every window is a few loads that overlap. Limit: memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int
from .base import as_expr, as_shape, check_float32, definition, dims, layer_row, tasks, vectorize, width

__all__ = ["LRN", "LRN_LAYER", "power"]

#: Windows up to this size are unrolled.
MOST_UNROLLED = 16


@dataclass(frozen=True)
class LRN:
    """An array of `shape` with channels innermost; a window of `size` channels. Raises `ProblemError`."""

    shape: tuple[int, ...]
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape("shape", self.shape))
        object.__setattr__(self, "size", as_int("size", self.size, 1))
        for name in ("alpha", "beta", "bias"):
            object.__setattr__(self, name, float(getattr(self, name)))
            if not math.isfinite(getattr(self, name)):
                raise ProblemError(f"{name} must be finite, got {getattr(self, name)}")
        if not self.shape:
            raise ProblemError("local response normalisation needs an axis of channels")
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return self.shape

    @property
    def window(self) -> tuple[int, int]:
        """Channels before and after the one in the middle, no more than there are."""
        most = self.shape[-1] - 1
        return min((self.size - 1) // 2, most), min(self.size // 2, most)

    def __str__(self) -> str:
        return f"lrn {dims(self.shape)} size{self.size} alpha={self.alpha!r} beta={self.beta!r} bias={self.bias!r}"


def power(base: Any, beta: float) -> Any:
    """`base` to the power `beta`, by roots where that can be done."""
    import halide as hl

    from .floats import exp, log

    base = as_expr(base)
    if beta == 0.75:
        return hl.sqrt(base) * hl.sqrt(hl.sqrt(base))
    if beta == 0.5:
        return hl.sqrt(base)
    return base if beta == 1 else exp(hl.f32(beta) * log(base))


def define(problem: LRN, schedule: Schedule, machine: Machine) -> Definition:
    """Squares of a pixel, then windows over them."""
    import halide as hl

    from ..algorithms.funcs import image

    channels, pixels = problem.shape[-1], math.prod(problem.shape[:-1])
    x = image("x", (pixels, channels))
    c, p, place = hl.Var("c"), hl.Var("p"), hl.Var("place")
    before, after = problem.window
    lanes = width(channels, machine.lanes)
    # Blocks before and behind the channels, of whole vectors, hold the zeros.
    left = -(-before // lanes) * lanes
    squares, scale, out = hl.Func("squares"), hl.Func("scale"), hl.Func("out")
    at = place - left
    value = x[hl.clamp(hl.likely(at), 0, channels - 1), p]
    squares[place, p] = hl.strict_float(hl.select((at >= 0) & (at < channels), value * value, hl.f32(0)))
    if before + after < MOST_UNROLLED:
        total = sum((squares[c + left + j, p] for j in range(1 - before, after + 1)), squares[c + left - before, p])
    else:
        window, j = hl.Func("window"), hl.RDom([hl.Range(-before, before + after + 1)], "j")
        window[c, p] = hl.f32(0)
        window[c, p] = hl.strict_float(window[c, p] + squares[c + left + j[0], p])
        total = window[c, p]
    scale[c, p] = hl.strict_float(hl.f32(problem.bias) + hl.f32(problem.alpha / problem.size) * total)
    out[c, p] = hl.strict_float(x[c, p] / power(scale[c, p], problem.beta))
    vectorize(out, c, channels, machine.lanes)
    row = tasks(out, [(p, pixels)], machine) if schedule.parallel else p
    squares.compute_at(out, row).vectorize(place, lanes)
    if before + after >= MOST_UNROLLED:
        window.compute_at(out, row).vectorize(c, lanes)
        window.update(0).reorder(c, j[0]).vectorize(c, lanes)
    return definition(out, [("x", x, (pixels, channels))], (pixels, channels))


LRN_LAYER = layer_row(
    "lrn",
    "y[p, c] = x[p, c] / (bias + alpha / size * sum over the window of x[p, j]^2)^beta",
    LRN,
    define,
    work=lambda problem: 2 * math.prod(problem.shape),
)
