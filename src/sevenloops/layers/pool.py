"""pool: the largest value or the mean of each window, channels last.

    y[n, o, c] = max over k (or mean) of x[n, o*stride + k*dilation - before, c]

Padding counts as minus infinity for the largest value; what the mean is divided by is `Pool.counts`. Columns of a window
are reduced first, and neighbouring windows of a row share them; channels are the vector axis. Limit: memory.
(ONNX operators MaxPool, AveragePool.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int, as_tuple
from .base import (
    as_expr,
    as_shape,
    check_float32,
    definition,
    dims,
    keep_nan_max,
    keep_nan_update,
    layer_row,
    table,
    tasks,
    vectorize,
)

__all__ = ["POOL", "Pool"]

KINDS = ("max", "average")
#: Taps of a column, or columns of a window, that are unrolled; larger windows are loops.
MOST_UNROLLED = 16
#: Outputs of a row that are computed together, and the vectors of columns that they may take.
TILE, COLUMN_VECTORS = 4, 20


@dataclass(frozen=True)
class Pool:
    """Windows over one to three spatial axes of `(batch, *in_size, channels)`, sizes outermost axis first.

    `padding` is one `(before, after)` pair an axis. `out_size` is explicit, as windows may hang over the end (ceil mode).
    Raises `ProblemError` for sizes without meaning, and for a mean over a window that has nothing to divide by.
    """

    kind: str
    batch: int
    channels: int
    in_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    out_size: tuple[int, ...]
    count_include_pad: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        if self.kind not in KINDS:
            raise ProblemError(f"kind of a pool must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("batch", "channels"):
            put(name, as_int(name, getattr(self, name), 1))
        put("in_size", as_shape("in_size", self.in_size))
        if not 1 <= self.rank <= 3:
            raise ProblemError(f"a pool has one to three spatial axes, got in_size={self.in_size}")
        for name in ("kernel", "stride", "dilation", "out_size"):
            put(name, as_tuple(name, getattr(self, name), self.rank, 1))
        pairs = list(self.padding) if isinstance(self.padding, Iterable) else []
        if len(pairs) != self.rank or any(not isinstance(p, Iterable) or len(tuple(p)) != 2 for p in pairs):
            raise ProblemError(f"padding needs a (before, after) pair for each of {self.rank} axes, got {self.padding!r}")
        put("padding", tuple((as_int("padding", b, 0), as_int("padding", a, 0)) for b, a in pairs))
        check_float32(self.dtype)
        as_shape("input", self.x_shapes[0])
        as_shape("output", self.y_shape)
        as_shape("padded input", [i + b + a for i, (b, a) in zip(self.in_size, self.padding)])
        reach = max((o - 1) * s + k * d for o, s, k, d in zip(self.out_size, self.stride, self.kernel, self.dilation))
        if reach > 2**30:
            raise ProblemError(f"windows reach over {reach} pixels, more than 32-bit indices hold")
        if self.kind == "average" and any(0 in self.counts(axis) for axis in range(self.rank)):
            raise ProblemError(f"a window of {self} sees no pixel: there is no mean")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.in_size)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return ((self.batch, *self.in_size, self.channels),)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return (self.batch, *self.out_size, self.channels)

    def taps(self, axis: int, o: int) -> list[int]:
        """Where the window of output `o` reads on an axis, padding and what hangs over included."""
        start = o * self.stride[axis] - self.padding[axis][0]
        return [start + k * self.dilation[axis] for k in range(self.kernel[axis])]

    def counts(self, axis: int) -> list[int]:
        """Taps of each window on an axis that the mean counts: those inside, with `count_include_pad` the padding too.

        What hangs over the padded end is never counted.
        """
        before, after = self.padding[axis] if self.count_include_pad else (0, 0)
        end = self.in_size[axis] + after
        return [sum(-before <= i < end for i in self.taps(axis, o)) for o in range(self.out_size[axis])]

    def __str__(self) -> str:
        padding = ",".join(f"{before}:{after}" for before, after in self.padding)
        sizes = f"k{dims(self.kernel)} s{dims(self.stride)} d{dims(self.dilation)} p{padding} out{dims(self.out_size)}"
        counted = " count_include_pad" if self.count_include_pad else ""
        return f"pool {self.kind} mb{self.batch} {dims(self.in_size)} c{self.channels} {sizes}{counted}"


@dataclass(frozen=True)
class _Axis:
    """One of three spatial axes, in numbers."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int
    counts: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]  # coordinates of each output's window

    @property
    def inside(self) -> bool:
        """Whether no window leaves the image."""
        return all(0 <= i < self.size for window in self.reads for i in (window[0], window[-1]))

    @property
    def sees(self) -> list[bool]:
        """Whether each window sees a pixel."""
        return [any(0 <= i < self.size for i in window) for window in self.reads]

    @property
    def nearest(self) -> list[int]:
        """For each output and tap, the pixel of the window's taps inside the image that is nearest (0 if it sees none)."""
        found = []
        for window in self.reads:
            seen = [i for i in window if 0 <= i < self.size] or [0]
            found += [min(max(i, seen[0]), seen[-1]) for i in window]
        return found


def _axes(p: Pool) -> list[_Axis]:
    """Three axes, outermost first; missing ones have size one."""
    found = [_Axis(1, 1, 1, 1, 1, 0, (1,), ((0,),))] * (3 - p.rank)
    for a in range(p.rank):
        reads = tuple(tuple(p.taps(a, o)) for o in range(p.out_size[a]))
        sizes = (p.in_size[a], p.out_size[a], p.kernel[a], p.stride[a], p.dilation[a], p.padding[a][0])
        found.append(_Axis(*sizes, tuple(p.counts(a)), reads))
    return found


class _Reader:
    """Where taps read. For the largest value a tap outside reads another one of its window, which changes nothing."""

    def __init__(self, axes: list[_Axis], largest: bool) -> None:
        self.axes, self.largest = axes, largest
        spread = [largest and axis.dilation > 1 and not axis.inside for axis in axes]
        self.tables = [
            table(axis.nearest, f"nearest{at}") if on else None for at, (axis, on) in enumerate(zip(axes, spread))
        ]

    def tap(self, at: int, o: Any, k: Any) -> tuple[Any, Any]:
        """The pixel that tap `k` of output `o` on axis `at` reads, and whether it counts (None: always)."""
        axis = self.axes[at]
        nearest = self.tables[at]
        if nearest is not None:
            import halide as hl

            return hl.clamp(nearest[o * axis.kernel + k], 0, axis.size - 1), None
        return self.pixel(at, o * axis.stride + k * axis.dilation - axis.before)

    def pixel(self, at: int, i: Any) -> tuple[Any, Any]:
        """As `tap`, for the coordinate that it would read if nothing were outside."""
        import halide as hl

        axis = self.axes[at]
        if axis.inside:
            return i, None
        near = hl.clamp(hl.likely(i), 0, axis.size - 1)
        return near, None if self.largest else (i >= 0) & (i < axis.size)


def _masked(value: Any, *conditions: Any) -> Any:
    """The value where all conditions hold that are given, else zero."""
    import halide as hl

    for condition in conditions:
        value = value if condition is None else hl.select(condition, value, hl.f32(0))
    return value


def _reduced(values: list[Any], largest: bool) -> Any:
    return keep_nan_max(values) if largest else sum(values[1:], as_expr(values[0]))


def _shared_columns(x: Any, reader: _Reader, names: Any) -> tuple[Any, Any]:
    """`(columns, window)`: columns reduced at each padded x coordinate, then windows of neighbouring columns."""
    import halide as hl

    c, ox, oy, oz, n = names
    depth, high, wide = reader.axes
    u = hl.Var("u")
    columns, window = hl.Func("columns"), hl.Func("window")
    ix, ok_x = reader.pixel(2, u - wide.before)
    values = []
    for kz in range(depth.kernel):
        iz, ok_z = reader.tap(0, oz, kz)
        for ky in range(high.kernel):
            iy, ok_y = reader.tap(1, oy, ky)
            values.append(_masked(x[c, ix, iy, iz, n], ok_y, ok_z, ok_x))
    columns[c, u, oy, oz, n] = _reduced(values, reader.largest)
    row = [columns[c, ox * wide.stride + k, oy, oz, n] for k in range(wide.kernel)]
    window[c, ox, oy, oz, n] = _reduced(row, reader.largest)
    return columns, window


def _separate_windows(x: Any, reader: _Reader, names: Any) -> Any:
    """Every window for itself, unrolled."""
    import halide as hl

    c, ox, oy, oz, n = names
    window, values = hl.Func("window"), []
    for kz, ky, kx in itertools.product(*(range(axis.kernel) for axis in reader.axes)):
        (iz, ok_z), (iy, ok_y), (ix, ok_x) = reader.tap(0, oz, kz), reader.tap(1, oy, ky), reader.tap(2, ox, kx)
        values.append(_masked(x[c, ix, iy, iz, n], ok_y, ok_z, ok_x))
    window[c, ox, oy, oz, n] = _reduced(values, reader.largest)
    return window


def _looped_windows(x: Any, reader: _Reader, names: Any) -> Any:
    """Every window for itself, tap after tap."""
    import halide as hl

    c, ox, oy, oz, n = names
    k = hl.RDom([hl.Range(0, axis.kernel) for axis in reversed(reader.axes)], "k")
    (iz, ok_z), (iy, ok_y), (ix, ok_x) = reader.tap(0, oz, k[2]), reader.tap(1, oy, k[1]), reader.tap(2, ox, k[0])
    value = _masked(x[c, ix, iy, iz, n], ok_y, ok_z, ok_x)
    window = hl.Func("window")
    window[c, ox, oy, oz, n] = hl.f32(-math.inf if reader.largest else 0.0)
    before = window[c, ox, oy, oz, n]
    window[c, ox, oy, oz, n] = keep_nan_update(before, value) if reader.largest else before + value
    return window


def _finished(value: Any, axes: list[_Axis], largest: bool, coordinates: list[Any]) -> Any:
    """A window's sum over its count; minus infinity where a window sees nothing."""
    import halide as hl

    if largest:
        for at, (axis, o) in enumerate(zip(axes, coordinates)):
            if not all(axis.sees):
                seen = table([int(s) for s in axis.sees], f"sees{at}")
                value = hl.select(seen[o] != 0, value, hl.f32(-math.inf))
        return value
    fixed, divisor = 1, None
    for at, (axis, o) in enumerate(zip(axes, coordinates)):
        if len(set(axis.counts)) == 1:
            fixed *= axis.counts[0]
        else:
            count = table(list(axis.counts), f"counts{at}")[o]
            divisor = count if divisor is None else divisor * count
    if divisor is None:
        return value * hl.f32(1 / fixed)
    return value * (hl.f32(1) / hl.cast(hl.Float(32), divisor * fixed))


def define(problem: Pool, schedule: Schedule, machine: Machine) -> Definition:
    """Columns, windows, and the loops over them."""
    import halide as hl

    from ..algorithms.funcs import image

    p, largest, axes = problem, problem.kind == "max", _axes(problem)
    lifted = (p.batch, *(axis.size for axis in axes), p.channels)
    x = image("x", lifted)
    names = [hl.Var(v) for v in ("c", "ox", "oy", "oz", "n")]
    c, ox, oy, oz, n = names
    reader, columns = _Reader(axes, largest), None
    if schedule.form == "columns":
        columns, window = _shared_columns(x, reader, names)
    else:
        form = _separate_windows if schedule.form == "windows" else _looped_windows
        window = form(x, reader, names)
    out = hl.Func("out")
    out[c, ox, oy, oz, n] = _finished(as_expr(window[c, ox, oy, oz, n]), axes, largest, [oz, oy, ox])
    tile, px = hl.Var("tile"), hl.Var("px")
    out.split(ox, tile, px, schedule.tile, hl.TailStrategy.ShiftInwards)
    block = vectorize(out, c, p.channels, machine.lanes)
    out.reorder(hl.Var("c_lane"), px, block, tile, oy, oz, n)
    if schedule.form != "loops":
        out.unroll(px)
    if columns is not None:
        columns.compute_at(out, block).vectorize(c).unroll(columns.args()[1])
        columns.bound_extent(columns.args()[1], (schedule.tile - 1) * axes[2].stride + axes[2].kernel)
    if schedule.form == "loops":
        window.compute_at(out, px).vectorize(c)
        window.update().vectorize(c)
    if schedule.parallel:
        tasks(out, [(oy, axes[1].out), (oz, axes[0].out), (n, p.batch)], machine)
    return definition(out, [("x", x, lifted)], (p.batch, *(axis.out for axis in axes), p.channels))


def schedules(problem: Pool, machine: Machine) -> list[Schedule]:
    """One: columns are shared where windows overlap along the row; large windows are loops."""
    axes = _axes(problem)
    wide = axes[2]
    column = axes[0].kernel * axes[1].kernel
    taps = math.prod(problem.y_shape) * column * wide.kernel
    parallel = machine.cores > 1 and taps + math.prod(problem.x_shapes[0]) > 60_000
    if column > MOST_UNROLLED or wide.kernel > MOST_UNROLLED:
        return [Schedule("pool", form="loops", tile=1, parallel=parallel)]
    shares = wide.dilation == 1 and wide.stride < wide.kernel and (all(wide.sees) or problem.kind == "average")
    tile = min(TILE, wide.out)
    if shares:
        room = COLUMN_VECTORS * machine.vector_registers // 32
        while tile > 1 and (tile - 1) * wide.stride + wide.kernel > room:
            tile -= 1
        return [Schedule("pool", form="columns", tile=tile, parallel=parallel)]
    return [Schedule("pool", form="windows", tile=min(tile, 2), parallel=parallel)]


POOL = layer_row(
    "pool",
    "y[n, o, c] = max or mean over k of x[n, o*stride + k*dilation - before, c]",
    Pool,
    define,
    work=lambda problem: math.prod(problem.x_shapes[0]),
    schedules=schedules,
)
