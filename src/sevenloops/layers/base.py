"""What the layers share: problems as shapes, vectors over the innermost axis, tasks, tables, comparisons that keep NaN.

Arrays are dense, row-major, float32. A layer's problem has `x_shapes` (inputs in calling order) and `y_shape`, both
outermost axis first; Halide's arguments run the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..algorithms.base import Algorithm, Buffer, Definition, strides_of
from ..errors import DtypeError, ProblemError
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int

__all__ = [
    "PARALLEL_ELEMENTS",
    "as_expr",
    "as_integers",
    "as_shape",
    "check_float32",
    "collapsed",
    "definition",
    "dims",
    "is_nan",
    "keep_nan_max",
    "keep_nan_update",
    "layer_row",
    "padded_to",
    "table",
    "tasks",
    "vectorize",
    "width",
]

Shape = tuple[int, ...]
#: Elements from which on a fork (about 2 us) pays.
PARALLEL_ELEMENTS = 30_000
#: Tasks for each core, so that the cores end together.
TASKS_PER_CORE = 4
#: Compiled kernels index with signed 32-bit integers, and Halide counts a buffer's bytes in them too.
MAX_ELEMENTS = (2**31 - 1) // 4


def as_shape(name: str, value: Any, minimum: int = 1) -> Shape:
    """A tuple of plain integers of at least `minimum`, of few enough elements; raises `ProblemError`."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ProblemError(f"{name} must be a tuple of sizes, got {value!r}")
    shape = tuple(as_int(f"{name}[{axis}]", size, minimum) for axis, size in enumerate(value))
    if math.prod(shape) > MAX_ELEMENTS:
        raise ProblemError(f"{name} {shape} has more than the {MAX_ELEMENTS:,} elements that 32-bit indices reach")
    return shape


def as_integers(name: str, values: Any, rank: int) -> tuple[int, ...]:
    """One integer of any sign for each axis."""
    found = tuple(values) if isinstance(values, Iterable) else ()
    if len(found) != rank:
        raise ProblemError(f"{name} needs {rank} integers, got {values!r}")
    return tuple(as_int(name, value, -(2**31)) for value in found)


def check_float32(dtype: Any) -> None:
    """Raise `DtypeError` for another dtype."""
    if dtype != "float32":
        raise DtypeError(f"layers are compiled for float32, got {dtype!r}")


def dims(shape: Sequence[int]) -> str:
    """A shape as one word: `1x55x55x96`, `scalar` without axes."""
    return "x".join(map(str, shape)) or "scalar"


def padded_to(shape: Sequence[int], rank: int) -> Shape:
    """The shape with leading axes of size one."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def collapsed(size: Sequence[int], kinds: Sequence[Any]) -> list[tuple[int, Any]]:
    """Neighbouring axes of the same kind as one, axes of size one left out: `(size, kind)` outermost first."""
    merged: list[tuple[int, Any]] = []
    for extent, kind in zip(size, kinds):
        if extent == 1:
            continue
        if merged and merged[-1][1] == kind:
            merged[-1] = (merged[-1][0] * extent, kind)
        else:
            merged.append((extent, kind))
    return merged


def definition(
    out: Any, inputs: Sequence[tuple[str, Any, Shape]], shape: Shape, more: Sequence[tuple[str, Any, Shape]] = ()
) -> Definition:
    """A scheduled Func with inputs `(name, ImageParam, shape)` as a definition; `shape` is the output's. No weights.

    `more` are further outputs, `(name, Func, shape)`, scheduled too. A Func of tuples has one output for each element.
    Inputs and outputs may be uint8.
    """
    import halide as hl

    from ..algorithms.funcs import dense, image

    outputs = []
    for name, func, size in (("y", out, shape), *more):
        for var, extent in zip(func.args(), reversed(size)):
            func.bound(var, 0, extent)
        dense(func.output_buffers()[0], size)  # Halide gives the other elements of a tuple the same bounds
        for buffer in func.output_buffers():
            for axis, stride in enumerate(reversed(strides_of(size))):
                buffer.dim(axis).set_stride(stride)
            outputs.append((name, buffer, size))
    dtype = lambda value: "uint8" if value.type() == hl.UInt(8) else None  # noqa: E731
    nothing, i, w = hl.Func("nothing"), hl.Var("i"), image("w", (1,))
    nothing[i] = w[i]
    dense(nothing.output_buffer(), (1,))
    buffers = [Buffer(name, size, dtype=dtype(value)) for name, value, size in (*inputs, *outputs)]
    params = [param for _, param, _ in inputs]
    return Definition(
        hl.Pipeline([out, *(func for _, func, _ in more)]) if more else out,
        params,
        buffers,
        nothing,
        [w],
        [Buffer("w", (1,)), Buffer("packed", (1,))],
    )


def width(extent: int, lanes: int) -> int:
    """The widest vector of at most `lanes` elements that fits into `extent`."""
    while lanes > extent:
        lanes //= 2
    return max(1, lanes)


def vectorize(stage: Any, var: Any, extent: int, lanes: int, unrolled: int = 1) -> Any:
    """Whole vectors, the last one moved inwards; narrower ones where there is less than one.

    `unrolled` vectors stand side by side where there are so many. Returns the loop variable over them.
    """
    import halide as hl

    lanes = width(extent, lanes)
    while unrolled * lanes > extent:
        unrolled -= 1
    block, lane = hl.Var(f"{var.name()}_block"), hl.Var(f"{var.name()}_lane")
    stage.split(var, block, lane, lanes * unrolled, hl.TailStrategy.ShiftInwards)
    if unrolled > 1:
        stage.vectorize(lane, lanes).unroll(lane)
    else:
        stage.vectorize(lane)
    return block


def tasks(stage: Any, outer: Sequence[tuple[Any, int]], machine: Machine) -> Any:
    """Fuse loops (innermost first, with their extents) and run them as tasks; returns what loops inside of a task."""
    import halide as hl

    (task, count), *rest = outer
    for var, extent in rest:
        fused = hl.Var(f"{task.name()}_{var.name()}")
        stage.fuse(task, var, fused)
        task, count = fused, count * extent
    each = count // (machine.cores * TASKS_PER_CORE)
    if each > 1:
        chunk, within = hl.Var("chunk"), hl.Var("within")
        stage.split(task, chunk, within, each, hl.TailStrategy.GuardWithIf)
        stage.parallel(chunk)
        return within
    stage.parallel(task)
    return task


def table(values: Any, name: str) -> Any:
    """Numbers known when the code is made: integers or float32, one or two axes (the last one innermost)."""
    import halide as hl
    import numpy as np

    array = np.ascontiguousarray(values)
    kind = hl.Float(32) if array.dtype.kind == "f" else hl.Int(32)
    buffer = hl.Buffer(kind, list(reversed(array.shape)), name)
    np.asarray(buffer)[...] = array.T
    return buffer


def as_expr(value: Any) -> Any:
    """A call of a Func, whose comparisons Halide's Python knows nothing of, as an expression."""
    import halide as hl

    return value if isinstance(value, hl.Expr) else hl.Expr(value)


def is_nan(value: Any) -> Any:
    """Whether a value is NaN, which no fast-math flag may assume away."""
    import halide as hl

    return hl.strict_float(hl.is_nan(value))


def any_of(conditions: Iterable[Any]) -> Any:
    """The disjunction of at least one condition."""
    found = None
    for condition in conditions:
        found = condition if found is None else found | condition
    return found


def keep_nan_max(values: Sequence[Any], sign: int = 1) -> Any:
    """The largest value (the smallest with `sign` -1), NaN where one is NaN; as few instructions as that takes.

    A comparison with NaN is false, so the running maximum keeps a NaN that it has: only the others are looked at.
    """
    import halide as hl

    values = [as_expr(value) for value in values]
    best = values[0]
    for value in values[1:]:
        best = hl.select(value > best if sign > 0 else value < best, value, best)
    if len(values) > 1:
        best = hl.select(any_of(hl.is_nan(value) for value in values[1:]), hl.f32(math.nan), best)
    return hl.strict_float(best)


def keep_nan_update(best: Any, value: Any, sign: int = 1) -> Any:
    """One step of a running maximum (minimum): the value where it is larger or NaN."""
    import halide as hl

    best, value = as_expr(best), as_expr(value)
    better = value > best if sign > 0 else value < best
    return hl.strict_float(hl.select(better | hl.is_nan(value), value, best))


def layer_row(
    name: str,
    equation: str,
    kind: type,
    define: Callable[[Any, Schedule, Machine], Definition],
    work: Callable[[Any], int],
    schedules: Callable[[Any, Machine], list[Schedule]] | None = None,
) -> Algorithm:
    """A row of `LAYERS`. `work` counts the elements that a call touches; without `schedules` there is one, parallel if
    they are many."""

    def one(problem: Any, machine: Machine) -> list[Schedule]:
        return [Schedule(name, parallel=machine.cores > 1 and work(problem) > PARALLEL_ELEMENTS)]

    return Algorithm(
        name=name,
        equation=equation,
        supports=lambda problem: None if isinstance(problem, kind) else f"it computes {kind.__name__} problems",
        schedules=schedules or one,
        check=lambda problem, schedule, machine: None,
        define=define,
        macs_executed=lambda problem, schedule: 0,
        workspace_bytes=lambda problem, schedule, threads: 0,
        kinds=(kind,),
    )
