"""softmax: exponentials over their sum along the middle axis of `(outer, n, inner)`.

    y[o, j, i] = exp(x[o, j, i] - m) / sum over k of exp(x[o, k, i] - m),    m = max over k of x[o, k, i]

or the logarithm of that. (ONNX operators Softmax, LogSoftmax.) Limit: the exponentials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..algorithms.base import Definition
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int
from .base import as_shape, check_float32, definition, layer_row, tasks, vectorize

__all__ = ["SOFTMAX", "Softmax"]


@dataclass(frozen=True)
class Softmax:
    """Over `n` values that lie `inner` apart; `log` gives the logarithm. NaN and what has no limit give NaN."""

    outer: int
    n: int
    inner: int
    log: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("outer", "n", "inner"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), 1))
        as_shape("input", self.y_shape)
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.y_shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return (self.outer, self.n, self.inner)

    def __str__(self) -> str:
        return f"{'log_' if self.log else ''}softmax {self.outer}x{self.n}x{self.inner}"


def define(problem: Softmax, schedule: Schedule, machine: Machine) -> Definition:
    """The largest value, the exponentials kept in scratch, their sum, the quotient."""
    import halide as hl

    from ..algorithms.funcs import image
    from .floats import exp, log
    from .reduction import Reduction

    rows = problem.inner == 1
    shape = (problem.outer, problem.n) if rows else problem.y_shape
    axes = list(zip(shape, (False, True, False)))
    x = image("x", shape)
    o, j, i = hl.Var("o"), hl.Var("j"), hl.Var("i")
    kept, args = ([o], [j, o]) if rows else ([o, i], [i, j, o])
    powers, out = hl.Func("powers"), hl.Func("out")
    largest = Reduction("largest", axes, kept, lambda at: x[at[::-1]], "max", machine.lanes)
    moved = x[args] - largest.value(kept[::-1])
    powers[args] = hl.strict_float(exp(moved))
    total = Reduction("total", axes, kept, lambda at: powers[at[::-1]], "sum", machine.lanes)
    if problem.log:
        out[args] = hl.strict_float(moved - log(total.value(kept[::-1])))
    else:
        out[args] = hl.strict_float(powers[args] * (hl.f32(1) / total.value(kept[::-1])))
    block = vectorize(out, args[0], shape[-1], machine.lanes)
    if rows:
        outer, place = [(o, problem.outer)], o
    else:
        out.reorder(hl.Var("i_lane"), j, block, o)
        outer, place = [(block, -(-problem.inner // min(problem.inner, machine.lanes))), (o, problem.outer)], block
    if schedule.parallel:
        place = tasks(out, outer, machine)
    for stage in (largest, total):
        stage.compute_at(out, place)
    powers.compute_at(out, place)
    if rows:
        vectorize(powers, j, problem.n, machine.lanes)
    else:
        powers.bound_extent(i, total.lanes).vectorize(i, total.lanes)
    return definition(out, [("x", x, shape)], shape)


SOFTMAX = layer_row(
    "softmax",
    "y[o, j, i] = exp(x[o, j, i] - m) / sum over k of exp(x[o, k, i] - m)",
    Softmax,
    define,
    work=lambda problem: 4 * math.prod(problem.y_shape) if problem.outer * problem.inner > 1 else 0,
)
