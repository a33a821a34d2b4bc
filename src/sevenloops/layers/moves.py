"""Layers that only move values: slice, pad and concat, each one copy with the address as a formula.

    slice     y[i] = x[start + i * step], steps may be negative
    pad       y[i] = x[i - before], outside a constant or a value of the array (ONNX's modes of Pad)
    concat    y = the inputs behind each other along one axis

Inner axes that are copied whole become one. Limit: memory.
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
from .base import as_integers, as_shape, check_float32, definition, dims, layer_row, table, tasks, vectorize

__all__ = ["CONCAT", "PAD", "PAD_MODES", "SLICE", "Concat", "Pad", "Slice"]

PAD_MODES = ("constant", "edge", "reflect", "wrap")


# --------------------------------------------------------------------------------------------------- slice


@dataclass(frozen=True)
class Slice:
    """`sizes[a]` values of each axis, from `starts[a]` in steps of `steps[a]`, which may be negative.

    Raises `ProblemError` where that reads outside of the array.
    """

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        rank = len(as_shape("shape", self.shape))
        object.__setattr__(self, "shape", as_shape("shape", self.shape))
        for name in ("starts", "steps"):
            object.__setattr__(self, name, as_integers(name, getattr(self, name), rank))
        object.__setattr__(self, "sizes", as_integers("sizes", as_shape("sizes", self.sizes), rank))
        for axis, (extent, start, step, size) in enumerate(zip(self.shape, self.starts, self.steps, self.sizes)):
            if not (0 <= start < extent and 0 <= start + (size - 1) * step < extent):
                raise ProblemError(f"axis {axis} has {extent} values; {size} from {start} in steps of {step} leave it")
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return self.sizes

    def __str__(self) -> str:
        words = [f"{start}:{step}:{size}" for start, step, size in zip(self.starts, self.steps, self.sizes)]
        return f"slice {dims(self.shape)} {','.join(words)}"


def _whole_inner(shape: tuple[int, ...], cut: list[bool]) -> int:
    """How many axes, from the outside, there are up to the last that is cut; those inside of it are one."""
    last = max((axis for axis, on in enumerate(cut) if on), default=-1)
    return last + 1


def define_slice(problem: Slice, schedule: Schedule, machine: Machine) -> Definition:
    """The copy; axes inside of the last that is cut are one."""
    import halide as hl

    from ..algorithms.funcs import image

    p = problem
    cut = [(s, st, n) != (0, 1, extent) and extent > 1 for s, st, n, extent in zip(p.starts, p.steps, p.sizes, p.shape)]
    keep = _whole_inner(p.shape, cut)
    tail = math.prod(p.shape[keep:])
    x_shape, y_shape = (*p.shape[:keep], tail), (*p.sizes[:keep], tail)
    merge = tail > 1 and keep > 0 and p.steps[keep - 1] == 1  # a run of the last cut axis is dense too
    starts, steps = [*p.starts[:keep], 0], [*p.steps[:keep], 1]
    if merge or (tail == 1 and keep > 0):
        starts = [*starts[: keep - 1], starts[keep - 1] * tail]
        x_shape, y_shape = (*x_shape[: keep - 1], x_shape[keep - 1] * tail), (*y_shape[: keep - 1], y_shape[keep - 1] * tail)
        steps = steps[:keep]
    x = image("x", x_shape)
    names = [hl.Var(f"i{axis}") for axis in range(len(y_shape))]
    out = hl.Func("out")
    out[names[::-1]] = x[[name * step + start for name, step, start in zip(names, steps, starts)][::-1]]
    _copy_schedule(out, names, y_shape, schedule, machine)
    return definition(out, [("x", x, x_shape)], y_shape)


def _copy_schedule(out: Any, names: list[Any], shape: tuple[int, ...], schedule: Schedule, machine: Machine) -> None:
    """Vectors along the innermost axis, the others as tasks."""
    block = vectorize(out, names[-1], shape[-1], machine.lanes)
    outer = list(zip(names[-2::-1], shape[-2::-1])) or [(block, -(-shape[-1] // min(machine.lanes, shape[-1])))]
    if schedule.parallel:
        tasks(out, outer, machine)


SLICE = layer_row("slice", "y[i] = x[start + i * step]", Slice, define_slice, work=lambda p: math.prod(p.sizes))

# ----------------------------------------------------------------------------------------------------- pad


@dataclass(frozen=True)
class Pad:
    """`pads` is one `(before, after)` pair an axis, negative to crop. `mode` as ONNX's Pad, `value` for "constant".

    A mode that repeats the array sees it as cropped. Raises `ProblemError`.
    """

    shape: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    mode: str = "constant"
    value: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape("shape", self.shape))
        rows = list(self.pads) if isinstance(self.pads, Iterable) else []
        if len(rows) != len(self.shape):
            raise ProblemError(f"pads needs a (before, after) pair for each of {len(self.shape)} axes, got {self.pads!r}")
        object.__setattr__(self, "pads", tuple(as_integers("a pair of pads", row, 2) for row in rows))
        object.__setattr__(self, "value", float(self.value))
        if self.mode not in PAD_MODES:
            raise ProblemError(f"mode of a pad must be one of {', '.join(PAD_MODES)}, got {self.mode!r}")
        if any(size + before + after < 1 for size, (before, after) in zip(self.shape, self.pads)):
            raise ProblemError(f"the pads {self.pads} leave nothing of {self.shape}")
        as_shape("output", self.y_shape)
        for axis in range(len(self.shape)):
            first, last = self.source(axis)
            if self.mode != "constant" and last <= first:
                raise ProblemError(f"the pads of axis {axis}, {self.pads[axis]}, leave no value to repeat")
        check_float32(self.dtype)

    def source(self, axis: int) -> tuple[int, int]:
        """The part of an axis that is left when negative pads have cropped it: `[first, end)`."""
        before, after = self.pads[axis]
        return max(0, -before), self.shape[axis] + min(0, after)

    def reads(self, axis: int) -> list[int]:
        """The coordinate that each output reads, -1 for the constant."""
        first, end = self.source(axis)
        size, found = end - first, []
        for o in range(self.y_shape[axis]):
            i = o - self.pads[axis][0] - first
            if self.mode == "edge":
                i = min(max(i, 0), size - 1)
            elif self.mode == "wrap":
                i %= size
            elif self.mode == "reflect":
                period = max(1, 2 * (size - 1))
                i = i % period if i % period < size else period - i % period
            found.append(first + i if 0 <= i < size else -1)
        return found

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return tuple(size + before + after for size, (before, after) in zip(self.shape, self.pads))

    def __str__(self) -> str:
        pads = ",".join(f"{before}:{after}" for before, after in self.pads)
        return f"pad {dims(self.shape)} by {pads} {self.mode} {self.value!r}"


def define_pad(problem: Pad, schedule: Schedule, machine: Machine) -> Definition:
    """The copy; axes inside of the last that is padded are one, and coordinates come from a table where they repeat."""
    import halide as hl

    from ..algorithms.funcs import image

    p = problem
    keep = _whole_inner(p.shape, [pair != (0, 0) for pair in p.pads])
    tail = math.prod(p.shape[keep:])
    x_shape, y_shape = (*p.shape[:keep], tail), (*p.y_shape[:keep], tail)
    x = image("x", x_shape)
    names = [hl.Var(f"i{axis}") for axis in range(keep + 1)]
    at, inside = [], None
    for axis in range(keep):
        if p.mode == "constant":
            i = names[axis] - p.pads[axis][0]
            first, end = p.source(axis)
            ok = (i >= first) & (i < end)
            inside = ok if inside is None else inside & ok
            at.append(hl.clamp(hl.likely(i), 0, p.shape[axis] - 1))
        else:
            at.append(hl.clamp(table(p.reads(axis), f"reads{axis}")[names[axis]], 0, p.shape[axis] - 1))
    value = x[[*at, names[keep]][::-1]]
    out = hl.Func("out")
    out[names[::-1]] = value if inside is None else hl.select(inside, value, hl.f32(p.value))
    _copy_schedule(out, names, y_shape, schedule, machine) if tail > 1 else _row_schedule(
        out, names, y_shape, schedule, machine
    )
    return definition(out, [("x", x, x_shape)], y_shape)


def _row_schedule(out: Any, names: list[Any], shape: tuple[int, ...], schedule: Schedule, machine: Machine) -> None:
    """As `_copy_schedule` where the innermost axis of size one follows the rows."""
    if len(shape) == 1:
        return
    vectorize(out, names[-2], shape[-2], machine.lanes)
    if schedule.parallel and len(shape) > 2:
        tasks(out, list(zip(names[-3::-1], shape[-3::-1])), machine)


PAD = layer_row("pad", "y[i] = x[i - before], else a constant", Pad, define_pad, work=lambda p: math.prod(p.y_shape))

# -------------------------------------------------------------------------------------------------- concat


@dataclass(frozen=True)
class Concat:
    """Arrays of `shapes` behind each other along `axis`; the other axes agree. Raises `ProblemError`."""

    shapes: tuple[tuple[int, ...], ...]
    axis: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.shapes, Iterable) or not self.shapes:
            raise ProblemError(f"concat needs the shape of one input at least, got {self.shapes!r}")
        object.__setattr__(self, "shapes", tuple(as_shape(f"shape of input {i}", s) for i, s in enumerate(self.shapes)))
        rank = len(self.shapes[0])
        axis = as_int("axis", self.axis, -rank)
        if axis >= rank:
            raise ProblemError(f"axis must be below {rank}, got {axis}")
        object.__setattr__(self, "axis", axis % rank)
        without = {(len(s), *s[: self.axis], *s[self.axis + 1 :]) for s in self.shapes}
        if len(without) > 1:
            raise ProblemError(f"shapes {self.shapes} differ in other axes than {self.axis}")
        as_shape("output", self.y_shape)
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return self.shapes

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        first, axis = self.shapes[0], self.axis
        return (*first[:axis], sum(shape[axis] for shape in self.shapes), *first[axis + 1 :])

    def __str__(self) -> str:
        return f"concat {' '.join(map(dims, self.shapes))} axis{self.axis}"


def define_concat(problem: Concat, schedule: Schedule, machine: Machine) -> Definition:
    """One copy after the other, each its own loop over the rows."""
    import halide as hl

    from ..algorithms.funcs import image

    p = problem
    rows = math.prod(p.y_shape[: p.axis])
    widths = [math.prod(shape[p.axis :]) for shape in p.shapes]
    e, row, out = hl.Var("e"), hl.Var("row"), hl.Func("out")
    out[e, row] = hl.undef(hl.Float(32))
    inputs, start = [], 0
    for at, width in enumerate(widths):
        x = image(f"x{at}", (rows, width))
        domain = hl.RDom([hl.Range(0, width)], f"r{at}")
        out[domain[0] + start, row] = x[domain[0], row]
        stage, block, lane, chunk, within = out.update(at), hl.RVar("b"), hl.RVar("l"), hl.Var("chunk"), hl.Var("within")
        stage.allow_race_conditions().split(domain[0], block, lane, machine.lanes, hl.TailStrategy.Predicate).vectorize(lane)
        if schedule.parallel and rows > 1:
            stage.split(row, chunk, within, max(1, rows // (4 * machine.cores)), hl.TailStrategy.GuardWithIf).parallel(chunk)
        inputs.append((f"x{at}", x, (rows, width)))
        start += width
    return definition(out, inputs, (rows, start))


CONCAT = layer_row(
    "concat", "y = x0, x1, .. along one axis", Concat, define_concat, work=lambda p: math.prod(p.y_shape) // len(p.shapes)
)
