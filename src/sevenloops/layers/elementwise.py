"""elementwise: one expression of broadcast inputs for each element, `y[i] = f(x0[i], x1[i], ...)`.

Shapes broadcast as NumPy's do (ONNX, multidirectional broadcasting). Neighbouring axes that all inputs have, or lack, alike
become one, so that nearly every case is a loop over one or two axes. Limit: memory, or the polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from .base import (
    PARALLEL_ELEMENTS,
    as_expr,
    as_shape,
    check_float32,
    collapsed,
    definition,
    dims,
    layer_row,
    padded_to,
    tasks,
    vectorize,
    width,
)
from .expression import Expression, as_expression, cost, evaluate

__all__ = ["ELEMENTWISE", "Elementwise"]

#: Additions for an element up to which several vectors stand side by side.
CHEAP = 12


@dataclass(frozen=True)
class Elementwise:
    """`shapes` of the inputs, each broadcast to `out_shape`; `expression` as in `sevenloops.layers.expression`.

    Raises `ProblemError` for shapes that do not broadcast and for what is no expression.
    """

    shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    expression: Expression
    dtype: str = "float32"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        if not isinstance(self.shapes, Iterable) or not self.shapes:
            raise ProblemError(f"an expression needs the shape of one input at least, got {self.shapes!r}")
        put("shapes", tuple(as_shape(f"shape of input {i}", shape) for i, shape in enumerate(self.shapes)))
        put("out_shape", as_shape("out_shape", self.out_shape))
        for shape in self.shapes:
            whole = padded_to(shape, len(self.out_shape))
            if len(shape) > len(self.out_shape) or any(a not in (1, b) for a, b in zip(whole, self.out_shape)):
                raise ProblemError(f"shape {shape} does not broadcast to {self.out_shape}")
        put("expression", as_expression(self.expression, len(self.shapes)))
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return self.shapes

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return self.out_shape

    @property
    def loops(self) -> list[tuple[int, tuple[bool, ...]]]:
        """Axes left when neighbours that broadcast alike are one: `(size, which inputs have it)`, outermost first."""
        rank = len(self.out_shape)
        present = [[size > 1 for size in padded_to(shape, rank)] for shape in self.shapes]
        found = collapsed(self.out_shape, [tuple(column) for column in zip(*present)] if rank else [])
        return found or [(1, (True,) * len(self.shapes))]

    def __str__(self) -> str:
        return f"elementwise {' '.join(map(dims, self.shapes))} to {dims(self.out_shape)} {self.expression!r}"


def define(problem: Elementwise, schedule: Schedule, machine: Machine) -> Definition:
    """One loop nest."""
    import halide as hl

    from ..algorithms.funcs import image
    from .floats import FUNCTIONS

    loops = problem.loops
    shape = tuple(size for size, _ in loops)
    names = [hl.Var(f"i{axis}") for axis in range(len(loops))]  # outermost first
    inputs, values = [], []
    for at in range(len(problem.shapes)):
        axes = [axis for axis, (_, present) in enumerate(loops) if present[at]]
        size = tuple(shape[axis] for axis in axes) or (1,)
        param = image(f"x{at}", size)
        inputs.append((f"x{at}", param, size))
        values.append(param[[names[axis] for axis in reversed(axes)] or [0]])
    value = evaluate(problem.expression, values, _functions(FUNCTIONS), float)
    out = hl.Func("out")
    out[list(reversed(names))] = hl.strict_float(_as_value(value))
    block = vectorize(out, names[-1], shape[-1], machine.lanes, schedule.unroll)
    if schedule.parallel:
        lanes = width(shape[-1], machine.lanes)
        outer = [(names[axis], shape[axis]) for axis in range(len(names) - 2, -1, -1)]
        if math.prod(size for _, size in outer) < 8 * machine.cores:
            unrolled = max(1, min(schedule.unroll, shape[-1] // lanes))
            outer.insert(0, (block, -(-shape[-1] // (lanes * unrolled))))
        tasks(out, outer, machine)
    return definition(out, inputs, shape)


def _as_value(value: Any) -> Any:
    import halide as hl

    return hl.f32(value) if isinstance(value, float) else as_expr(value)


def _functions(table: dict[str, Any]) -> Any:
    """Operators on expressions and literals: a literal stays a float only where it is the exponent of a power."""

    def operator(name: str) -> Any:
        def apply(*arguments: Any) -> Any:
            from .expression import OPERATORS

            count = OPERATORS[name].operands
            operands = [a if name == "pow" and at == 1 else _as_value(a) for at, a in enumerate(arguments[:count])]
            return table[name](*operands, *arguments[count:])

        return apply

    return operator


def schedules(problem: Elementwise, machine: Machine) -> list[Schedule]:
    """One; expensive expressions run in parallel from fewer elements on."""
    each = cost(problem.expression)
    work = math.prod(problem.out_shape) * max(1, each // 4)
    unroll = 4 if each <= CHEAP else 1
    return [Schedule("elementwise", unroll=unroll, parallel=machine.cores > 1 and work > PARALLEL_ELEMENTS)]


ELEMENTWISE = layer_row(
    "elementwise",
    "y[i] = f(x0[i], x1[i], ...)",
    Elementwise,
    define,
    work=lambda problem: math.prod(problem.out_shape),
    schedules=schedules,
)
