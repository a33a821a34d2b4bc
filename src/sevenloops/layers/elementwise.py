"""elementwise: one expression of broadcast inputs for each element, `y[i] = f(x0[i], x1[i], ...)`.

Shapes broadcast as NumPy's do (ONNX, multidirectional broadcasting). Neighbouring axes that all inputs have, or lack, alike
become one, so that nearly every case is a loop over one or two axes. Limit: memory, or the polynomials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
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
from .expression import OPERATORS, READS_ONCE, Expression, as_expression, cost, evaluate

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
    expression: Expression = field(compare=False)
    dtype: str = "float32"
    written: str = field(init=False, repr=False)  # compared in its place: to Python the input 0 and the number 0.0 are equal

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
        put("written", repr(self.expression))
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
        return f"elementwise {' '.join(map(dims, self.shapes))} to {dims(self.out_shape)} {self.written}"


def define(problem: Elementwise, schedule: Schedule, machine: Machine) -> Definition:
    """One loop nest. Values that are read more than once are stages of their own, computed vector by vector.

    Halide walks through expressions as trees. Put into each other, formulas that read their operand several times would
    grow exponentially. The stages cost nothing: LLVM keeps their vectors in registers.
    """
    import halide as hl

    from ..algorithms.funcs import image

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
    stages, repeated = list[Any](), _repeated(problem)

    def stage(name: str, value: Any) -> Any:
        func = hl.Func(name)
        func[list(reversed(names))] = hl.strict_float(_as_value(value))
        return func

    def apply(node: Any, *operands: Any) -> Any:
        value = _apply(node, *operands)
        if repr(node) not in repeated:
            return value
        stages.append(stage(f"s{len(stages)}", value))
        return stages[-1][list(reversed(names))]

    out = stage("out", evaluate(problem.expression, values, apply))
    block = vectorize(out, names[-1], shape[-1], machine.lanes, schedule.unroll)
    lanes = width(shape[-1], machine.lanes)
    if schedule.parallel:
        outer = [(names[axis], shape[axis]) for axis in range(len(names) - 2, -1, -1)]
        alone = math.prod(size for _, size in outer) < 8 * machine.cores
        if alone:
            unrolled = max(1, min(schedule.unroll, shape[-1] // lanes))
            outer.insert(0, (block, -(-shape[-1] // (lanes * unrolled))))
        task = tasks(out, outer, machine)
        block = task if alone else block
    for func in stages:
        func.compute_at(out, block).vectorize(names[-1], lanes).unroll(names[-1])
    return definition(out, inputs, shape)


def _repeated(problem: Elementwise) -> set[str]:
    """The operators' values that are read more than once, as they are written."""
    uses: Counter[str] = Counter()

    def count(node: Any, *_: Any) -> None:
        for operand in node[1 : 1 + OPERATORS[node[0]].operands]:
            uses[repr(operand)] += 1 if node[0] in READS_ONCE else 2

    evaluate(problem.expression, problem.shapes, count)
    return {part for part, times in uses.items() if times > 1}


def _as_value(value: Any) -> Any:
    import halide as hl

    return hl.f32(value) if isinstance(value, float) else as_expr(value)


def _apply(node: Any, *operands: Any) -> Any:
    """An operator on expressions and literals: a literal stays a float only where it is the exponent of a power."""
    from .floats import FUNCTIONS

    name = node[0]
    given = [a if name == "pow" and at == 1 else _as_value(a) for at, a in enumerate(operands)]
    return FUNCTIONS[name](*given, *node[1 + len(operands) :])


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
