"""lrn_gradient: the gradient of local response normalisation (`lrn`), channels last.

    s[c] = bias + alpha / size * sum over j in window(c) of x[j]^2
    t[j] = dy[j] * x[j] * s[j]^(-beta-1)
    dx[c] = dy[c] * s[c]^-beta - 2 * alpha * beta / size * x[c] * sum over j with c in window(j) of t[j]

The scales are computed again from x, so nothing is kept from the forward pass. Limit: memory, and the roots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..machine import Machine
from ..schedule import Schedule
from .base import definition, layer_row, tasks, vectorize, width
from .lrn import LRN, power

__all__ = ["LRN_GRADIENT", "LRNGradient"]


@dataclass(frozen=True)
class LRNGradient:
    """The gradient of an `LRN`: dy, x -> dx."""

    forward: LRN

    @property
    def dtype(self) -> str:
        """That of the forward problem."""
        return self.forward.dtype

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return (self.forward.shape, self.forward.shape)

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The output in memory."""
        return (self.forward.shape,)

    def __str__(self) -> str:
        return f"gradient of {self.forward}"


def define(problem: LRNGradient, schedule: Schedule, machine: Machine) -> Definition:
    """For each pixel: squares, their windows, powers, and the windows over the products, each between zeros."""
    import halide as hl

    from ..algorithms.funcs import image

    forward = problem.forward
    channels, pixels = forward.shape[-1], math.prod(forward.shape[:-1])
    shape = (pixels, channels)
    dy, x = image("dy", shape), image("x", shape)
    c, p, place = hl.Var("c"), hl.Var("p"), hl.Var("place")
    before, after = forward.window
    lanes = width(channels, machine.lanes)
    left = -(-max(before, after) // lanes) * lanes  # whole vectors of zeros before the channels

    def between_zeros(name: str, value: Any) -> Any:
        """`value(c)` at `place = c + left`, zero where there is no such channel."""
        func, at = hl.Func(name), place - left
        near = hl.clamp(hl.likely(at), 0, channels - 1)
        func[place, p] = hl.strict_float(hl.select((at >= 0) & (at < channels), value(near), hl.f32(0)))
        return func

    def window(name: str, source: Any, before: int, after: int) -> Any:
        """The sum of `source` from `c - before` to `c + after`."""
        func, j = hl.Func(name), hl.RDom([hl.Range(-before, before + after + 1)], f"{name}_j")
        func[c, p] = hl.f32(0)
        func[c, p] = hl.strict_float(func[c, p] + source[c + left + j[0], p])
        func.update(0).reorder(c, j[0]).vectorize(c, lanes)
        if before + after < 16:
            func.update(0).unroll(j[0])
        return func

    squares = between_zeros("squares", lambda c: x[c, p] * x[c, p])
    total = window("total", squares, before, after)
    scale, powers, product = hl.Func("scale"), hl.Func("powers"), hl.Func("product")
    scale[c, p] = hl.strict_float(hl.f32(forward.bias) + hl.f32(forward.alpha / forward.size) * total[c, p])
    powers[c, p] = hl.strict_float(hl.f32(1) / power(scale[c, p], forward.beta))
    product[c, p] = hl.strict_float(dy[c, p] * x[c, p] * powers[c, p] / scale[c, p])
    products = between_zeros("products", lambda c: product[c, p])
    around = window("around", products, after, before)
    slope = hl.f32(-2 * forward.alpha * forward.beta / forward.size)
    out = hl.Func("out")
    out[c, p] = hl.strict_float(dy[c, p] * powers[c, p] + slope * x[c, p] * around[c, p])
    block = vectorize(out, c, channels, machine.lanes)
    row = tasks(out, [(p, pixels)], machine) if schedule.parallel else p
    for func in (squares, products):
        func.compute_at(out, row).vectorize(place, lanes)
    for func in (total, scale, powers, product):
        func.compute_at(out, row).vectorize(c, lanes)
    around.compute_at(out, block).bound_extent(c, lanes).vectorize(c, lanes)
    return definition(out, [("dy", dy, shape), ("x", x, shape)], shape)


LRN_GRADIENT = layer_row(
    "lrn_gradient",
    "dx[c] = dy[c] * s[c]^-beta - 2 * alpha * beta / size * x[c] * sum of dy[j] * x[j] * s[j]^(-beta-1)",
    LRNGradient,
    define,
    work=lambda problem: 3 * math.prod(problem.forward.shape),
)
