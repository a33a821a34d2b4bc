"""reduce: a sum, mean, norm, product, maximum or minimum over some axes.

    y[kept] = finish(sum over the reduced axes of prepare(x))

The global average pool of channels-last images is the mean over the middle axes, with channels as the vector axis. The
reduced axes are left out of the result (ONNX's keepdims = 0; with 1 only the shape differs). Limit: memory.
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
from ..sizes import as_int
from .base import as_shape, check_float32, collapsed, definition, dims, layer_row, tasks, vectorize, width

__all__ = ["REDUCE", "Reduce", "as_axes", "reduction_loops"]

#: kind -> what is reduced
OPERATIONS = {
    "sum": "sum", "mean": "sum", "l1": "sum", "l2": "sum", "sumsq": "sum", "logsum": "sum", "logsumexp": "sum",
    "max": "max", "min": "min", "prod": "prod",
}  # fmt: skip
#: Vectors of a kept innermost axis that are reduced side by side.
VECTORS = 4


def as_axes(axes: Any, rank: int) -> tuple[int, ...]:
    """Distinct axes in order, negative ones counted from the end; raises `ProblemError`."""
    if not isinstance(axes, Iterable):
        raise ProblemError(f"axes must be a tuple of integers, got {axes!r}")
    given = [as_int("axis", axis, -rank) for axis in axes]
    found = tuple(sorted(axis + rank if axis < 0 else axis for axis in given))
    if len(set(found)) != len(found) or any(axis >= rank for axis in found):
        raise ProblemError(f"axes of an array of {rank} axes must be distinct and below {rank}, got {tuple(given)}")
    return found


def reduction_loops(loops: list[tuple[int, Any]], kept: Any, reduced: Any) -> list[tuple[int, Any]]:
    """With one axis of each kind at least, in front where one is missing; `kind[0]` says whether it is reduced."""
    for kind in (kept, reduced):
        if all(other[0] != kind[0] for _, other in loops):
            loops = [(1, kind), *loops]
    return loops


@dataclass(frozen=True)
class Reduce:
    """`kind` over `axes` of an array of `shape`; no axes means none. Raises `ProblemError`."""

    kind: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in OPERATIONS:
            raise ProblemError(f"kind of a reduction must be one of {', '.join(OPERATIONS)}, got {self.kind!r}")
        object.__setattr__(self, "shape", as_shape("shape", self.shape))
        object.__setattr__(self, "axes", as_axes(self.axes, len(self.shape)))
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory, without the reduced axes."""
        return tuple(size for axis, size in enumerate(self.shape) if axis not in self.axes)

    @property
    def loops(self) -> list[tuple[int, bool]]:
        """Axes left when neighbours of a kind are one: `(size, whether it is reduced)`, outermost first."""
        kinds = [(axis in self.axes,) for axis in range(len(self.shape))]
        found = reduction_loops(collapsed(self.shape, kinds), (False,), (True,))
        return [(size, kind[0]) for size, kind in found]

    def __str__(self) -> str:
        return f"reduce {self.kind} {dims(self.shape)} axes {','.join(map(str, self.axes))}"


def _prepared(kind: str, value: Any) -> Any:
    import halide as hl

    if kind == "l1":
        return hl.abs(value)
    return value * value if kind in ("l2", "sumsq") else value


def _finished(problem: Reduce, value: Any) -> Any:
    import halide as hl

    from .floats import log

    if problem.kind == "mean":
        return value * hl.f32(1 / math.prod(problem.shape[axis] for axis in problem.axes))
    if problem.kind == "l2":
        return hl.sqrt(value)
    return hl.strict_float(log(value)) if problem.kind == "logsum" else value


def define(problem: Reduce, schedule: Schedule, machine: Machine) -> Definition:
    """The stages of the reduction inside a loop over what is kept."""
    import halide as hl

    from ..algorithms.funcs import image
    from .floats import exp, log
    from .reduction import Reduction

    loops = problem.loops
    shape = tuple(size for size, _ in loops)
    x = image("x", shape)
    kept = [hl.Var(f"k{at}") for at, (_, reduced) in enumerate(loops) if not reduced]
    extents = [size for size, reduced in loops if not reduced]
    args, out, operation = list(reversed(kept)), hl.Func("out"), OPERATIONS[problem.kind]
    read = lambda at: _prepared(problem.kind, x[list(reversed(at))])  # noqa: E731
    stages = []
    if problem.kind == "logsumexp":
        largest = Reduction("largest", loops, kept, read, "max", machine.lanes)
        finite = hl.strict_float(hl.select(hl.abs(largest.value(args)) < hl.f32(math.inf), largest.value(args), hl.f32(0)))
        moved = lambda at: hl.strict_float(exp(x[list(reversed(at))] - finite))  # noqa: E731
        total = Reduction("total", loops, kept, moved, "sum", machine.lanes)
        out[args] = hl.strict_float(log(total.value(args)) + finite)
        stages = [largest, total]
    else:
        stages = [Reduction("total", loops, kept, read, operation, machine.lanes)]
        out[args] = _finished(problem, stages[0].value(args))
    outer = list(zip(args, reversed(extents)))
    place, vectors = args[0], 1
    if not loops[-1][1]:
        lanes = width(extents[-1], machine.lanes)
        vectors = max(1, min(VECTORS, extents[-1] // lanes))
        place = vectorize(out, args[0], extents[-1], machine.lanes, vectors)
        outer[0] = (place, -(-extents[-1] // (lanes * vectors)))
    if schedule.parallel:
        place = tasks(out, outer, machine)
    for stage in stages:
        stage.compute_at(out, place, vectors)
    return definition(out, [("x", x, shape)], tuple(extents))


REDUCE = layer_row(
    "reduce",
    "y[kept] = finish(sum over the reduced axes of prepare(x))",
    Reduce,
    define,
    work=lambda problem: math.prod(problem.shape) if math.prod(problem.y_shape) > 1 else 0,
)
