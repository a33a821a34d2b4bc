"""shift: the shift operator alone, `y[o, c] = x[o*stride + offset(c), c]`, zero outside (see `sevenloops.shift`).

Its adjoint, the shift back, takes the gradient of `y` to that of `x`: `dx[i, c] = dy[(i - offset(c)) / stride, c]`, zero
where that is no pixel of `dy`.

Channels last, a vector of channels is put together from one vector of each pixel that one of its groups is read from; the
lanes of each are known when the code is made. With so many groups that this would be too much code, lanes are gathered.
Channels first, a plane is copied by rows. Limit: memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Algorithm, Buffer, Definition
from ..machine import Machine
from ..schedule import Schedule
from ..shift import Shift, channel_offsets

__all__ = ["SHIFT_LAYER", "ShiftLayer"]

#: Offsets times vectors of channels from which on lanes are gathered.
MAX_SELECTS = 2_000


@dataclass(frozen=True)
class ShiftLayer:
    """The shift of `batch` images of `channels` x `height` x `width` values, stored channels last or channels first.

    With `stride` the output has every so many rows and columns. With `back` it is the adjoint, and `height` x `width` are
    the sizes of its output.
    """

    batch: int
    height: int
    width: int
    channels: int
    shift: Shift
    channels_last: bool = True
    dtype: str = "float32"
    stride: tuple[int, int] = (1, 1)
    back: bool = False

    def __str__(self) -> str:
        layout = "nhwc" if self.channels_last else "nchw"
        sizes = f"mb{self.batch} c{self.channels} h{self.height} w{self.width}"
        stride = f" sh{self.stride[0]} sw{self.stride[1]}" if self.stride != (1, 1) else ""
        return f"{self.shift.word()} {layout} {sizes}{stride}{' back' if self.back else ''} {self.dtype}"

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Input in memory."""
        return self._shape(self.back)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Output in memory."""
        return self._shape(not self.back)

    def _shape(self, strided: bool) -> tuple[int, ...]:
        sizes = [(size - 1) // step + 1 if strided else size for size, step in zip((self.height, self.width), self.stride)]
        return (self.batch, *sizes, self.channels) if self.channels_last else (self.batch, self.channels, *sizes)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """`(dy, dx)` of each channel; one that moves beyond the image is moved just beyond."""
        limit = lambda by, size: max(-size, min(size, by))  # noqa: E731
        moves = channel_offsets(self.shift, self.channels)
        return [(limit(dy, self.height), limit(dx, self.width)) for dy, dx in moves]


def define(problem: ShiftLayer, schedule: Schedule, machine: Machine) -> Definition:
    """The copy, in one of its three forms."""
    import halide as hl

    from ..algorithms.funcs import dense, image

    lanes = max(1, machine.lanes * (4 if problem.dtype == "float32" else 2) // 4)
    x = image("x", problem.x_shape, problem.dtype)
    form = _planes if not problem.channels_last else _gathered if _selects(problem, lanes) > MAX_SELECTS else _blended
    out = form(problem, x, lanes)
    if schedule.parallel:
        task = out.args()[3]
        out.fuse(out.args()[2], task, task).parallel(task)
    for var, extent in zip(out.args(), reversed(problem.y_shape)):
        out.bound(var, 0, extent)
    dense(out.output_buffer(), problem.y_shape)
    nothing, i, w = hl.Func("nothing"), hl.Var("i"), image("w", (1,), problem.dtype)
    nothing[i] = w[i]
    dense(nothing.output_buffer(), (1,))
    buffers = [Buffer("x", problem.x_shape), Buffer("y", problem.y_shape)]
    return Definition(out, [x], buffers, nothing, [w], [Buffer("w", (1,)), Buffer("packed", (1,))])


def _selects(problem: ShiftLayer, lanes: int) -> int:
    return len(set(problem.offsets)) * math.ceil(problem.channels / lanes)


def _zero(problem: ShiftLayer) -> Any:
    import halide as hl

    return hl.f32(0) if problem.dtype == "float32" else hl.f64(0)


def _read(problem: ShiftLayer, at: Any, ox: Any, oy: Any, dx: Any, dy: Any) -> Any:
    """What output pixel (ox, oy) of a channel that moves by (dx, dy) is read from, by `at(ix, iy)`; zero outside."""
    import halide as hl

    inside, place = None, []
    for o, by, size, step in zip((ox, oy), (dx, dy), (problem.width, problem.height), reversed(problem.stride)):
        i = o - by if problem.back else o * step + by
        ok = (i >= 0) & (i < size)
        i = hl.clamp(i, 0, size - 1)
        if problem.back and step > 1:
            ok = ok & (i % step == 0)
            i = i // step
        inside = ok if inside is None else inside & ok
        place.append(i)
    return hl.select(hl.likely(inside), at(*place), _zero(problem))


def _vectorize(func: Any, var: Any, extent: int, lanes: int) -> None:
    """In whole vectors, the last one moved inwards; narrower ones where there is less than one."""
    import halide as hl

    while lanes > extent:
        lanes //= 2
    func.vectorize(var, lanes, hl.TailStrategy.ShiftInwards)


def _blended(problem: ShiftLayer, x: Any, lanes: int) -> Any:
    import halide as hl

    c, ox, oy, n = (hl.Var(v) for v in ("c", "ox", "oy", "n"))
    offsets = problem.offsets
    value = _zero(problem)
    for by in dict.fromkeys(offsets):
        runs = _runs([ic for ic, other in enumerate(offsets) if other == by])
        moved = _read(problem, lambda ix, iy: x[c, ix, iy, n], ox, oy, by[1], by[0])
        value = hl.select(_any_of(c, runs), moved, value)
    out = hl.Func("out")
    out[c, ox, oy, n] = value
    _vectorize(out, c, problem.channels, lanes)
    return out.unroll(c)


def _runs(channels: list[int]) -> list[tuple[int, int, int]]:
    """Channels as `(first, last, step)`, as few runs as the two conventions need."""
    runs: list[tuple[int, int, int]] = []
    for channel in channels:
        if runs and (runs[-1][0] == runs[-1][1] or channel - runs[-1][1] == runs[-1][2]):
            runs[-1] = (runs[-1][0], channel, channel - runs[-1][1])
        else:
            runs.append((channel, channel, 1))
    return runs


def _any_of(c: Any, runs: list[tuple[int, int, int]]) -> Any:
    found = None
    for first, last, step in runs:
        one = (c >= first) & (c <= last)
        one = one & ((c - first) % step == 0) if step > 1 else one
        found = one if found is None else found | one
    return found


def _table(values: list[int], name: str) -> Any:
    import halide as hl
    import numpy as np

    buffer = hl.Buffer(hl.Int(32), [len(values)], name)
    np.asarray(buffer)[:] = values
    return buffer


def _tables(problem: ShiftLayer, c: Any) -> tuple[Any, Any]:
    """`(dy, dx)` of channel `c` out of tables."""
    dy, dx = (_table([by[axis] for by in problem.offsets], name) for axis, name in enumerate(("dy", "dx")))
    return dy[c], dx[c]


def _gathered(problem: ShiftLayer, x: Any, lanes: int) -> Any:
    import halide as hl

    c, ox, oy, n = (hl.Var(v) for v in ("c", "ox", "oy", "n"))
    dy, dx = _tables(problem, c)
    out = hl.Func("out")
    out[c, ox, oy, n] = _read(problem, lambda ix, iy: x[c, ix, iy, n], ox, oy, dx, dy)
    _vectorize(out, c, problem.channels, lanes)
    return out


def _planes(problem: ShiftLayer, x: Any, lanes: int) -> Any:
    import halide as hl

    ox, oy, c, n = (hl.Var(v) for v in ("ox", "oy", "c", "n"))
    dy, dx = _tables(problem, c)
    out = hl.Func("out")
    out[ox, oy, c, n] = _read(problem, lambda ix, iy: x[ix, iy, c, n], ox, oy, dx, dy)
    _vectorize(out, ox, problem.y_shape[-1], lanes)
    return out


def schedules(problem: ShiftLayer, machine: Machine) -> list[Schedule]:
    """One; small images do not pay for the thread pool."""
    return [Schedule("shift_layer", parallel=machine.cores > 1 and math.prod(problem.y_shape) > 100_000)]


SHIFT_LAYER = Algorithm(
    name="shift_layer",
    equation="y[o, c] = x[o*stride + offset(c), c]",
    supports=lambda problem: None if isinstance(problem, ShiftLayer) else "it shifts channels",
    schedules=schedules,
    check=lambda problem, schedule, machine: None,
    define=define,
    macs_executed=lambda problem, schedule: 0,
    workspace_bytes=lambda problem, schedule, threads: 0,
)
