"""pool_indices and pool_gradient: pools of a training step, channels last.

    y[o] = max over k of x[o*stride + k - before],    index[o] = the first k in raster order where it is
    dx[i] = sum over the windows o that see i of dy[o] * (index[o] == k(i, o), or 1 / count[o] for the mean)

Indices are numbers of taps in one byte (PyTorch keeps eight). As in PyTorch, of equal values the first counts, of several
NaN the last. The gradient is gathered: each input adds up the windows that see it, in a fixed order, so nothing is written
twice. Limit: memory.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from .base import as_expr, definition, is_nan, layer_row, table, tasks, vectorize, width
from .pool import Pool

__all__ = ["POOL_GRADIENT", "POOL_INDICES", "PoolGradient", "PoolIndices"]

#: Taps are numbered in one byte; 255 is none of them.
NO_TAP = 255
#: Taps up to which the search for the largest is unrolled.
MOST_UNROLLED = 16
#: Windows that see one input; they are unrolled.
MOST_WINDOWS = 64
#: Vectors of channels that one pixel of the input takes at once.
VECTORS = 2


def _check(pool: Pool) -> None:
    """Raise `ProblemError` for a pool without a compiled gradient."""
    if any(d != 1 for d in pool.dilation):
        raise ProblemError(f"gradients of pools are compiled without dilation, got {pool}")
    if pool.kind == "max" and math.prod(pool.kernel) > NO_TAP:
        raise ProblemError(f"gradients of largest values are compiled for windows of at most {NO_TAP} taps, got {pool}")
    if math.prod(map(len, map(_windows, _axes(pool)))) > MOST_WINDOWS:
        raise ProblemError(f"gradients of pools are compiled for at most {MOST_WINDOWS} windows over an input, got {pool}")
    for axis in range(pool.rank):
        if any(all(not 0 <= i < pool.in_size[axis] for i in pool.taps(axis, o)) for o in range(pool.out_size[axis])):
            raise ProblemError(f"a window of {pool} sees no pixel: it has no gradient")


@dataclass(frozen=True)
class PoolIndices:
    """The largest values of a pool and their taps: x -> y, index (uint8). Raises `ProblemError`."""

    pool: Pool

    def __post_init__(self) -> None:
        if self.pool.kind != "max":
            raise ProblemError(f"only the largest value has an index, got {self.pool}")
        _check(self.pool)

    @property
    def dtype(self) -> str:
        """That of the values."""
        return self.pool.dtype

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return self.pool.x_shapes

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The outputs in memory."""
        return (self.pool.y_shape, self.pool.y_shape)

    def __str__(self) -> str:
        return f"indices of {self.pool}"


@dataclass(frozen=True)
class PoolGradient:
    """The gradient of a pool: dy, and for the largest value index (uint8) -> dx. Raises `ProblemError`."""

    pool: Pool

    def __post_init__(self) -> None:
        _check(self.pool)

    @property
    def dtype(self) -> str:
        """That of the values."""
        return self.pool.dtype

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return (self.pool.y_shape,) * (2 if self.pool.kind == "max" else 1)

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The output in memory."""
        return self.pool.x_shapes

    def __str__(self) -> str:
        return f"gradient of {self.pool}"


@dataclass(frozen=True)
class _Axis:
    """One of three spatial axes, in numbers; `counts` is what the mean divides by."""

    size: int
    out: int
    kernel: int
    stride: int
    before: int
    counts: tuple[int, ...]

    @property
    def inside(self) -> bool:
        """Whether no window leaves the image."""
        return self.before == 0 and (self.out - 1) * self.stride + self.kernel <= self.size


def _axes(pool: Pool) -> list[_Axis]:
    """Three axes, outermost first; missing ones have size one."""
    found = [_Axis(1, 1, 1, 1, 0, (1,))] * (3 - pool.rank)
    for a in range(pool.rank):
        counts = tuple(pool.counts(a))
        found.append(_Axis(pool.in_size[a], pool.out_size[a], pool.kernel[a], pool.stride[a], pool.padding[a][0], counts))
    return found


def _windows(axis: _Axis) -> range:
    """How far before the last window that begins at or before an input the windows lie that may see it."""
    return range(min(axis.out, -(-axis.kernel // axis.stride)))


def _lifted(pool: Pool, axes: list[_Axis]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output with three spatial axes."""
    sizes = ((axis.size for axis in axes), (axis.out for axis in axes))
    big, small = ((pool.batch, *size, pool.channels) for size in sizes)
    return big, small


def define_indices(problem: PoolIndices, schedule: Schedule, machine: Machine) -> Definition:
    """Tap after tap: the largest value so far and the number of its tap.

    A tap outside of the image reads the nearest pixel of its window and has that pixel's number, which changes nothing.
    """
    import halide as hl

    from ..algorithms.funcs import image

    axes = _axes(problem.pool)
    big, small = _lifted(problem.pool, axes)
    x = image("x", big)
    c, ox, oy, oz, n = names = [hl.Var(v) for v in ("c", "ox", "oy", "oz", "n")]

    def tap(ks: Any) -> tuple[Any, Any]:
        """A number and its value; `ks` outermost first."""
        number, at = hl.i32(0), []
        for axis, o, k in zip(axes, (oz, oy, ox), ks):
            first = o * axis.stride - axis.before
            i = first + k if axis.inside else hl.clamp(hl.likely(first + k), 0, axis.size - 1)
            at.append(i)
            number = number * axis.kernel + (i - first)
        return number, as_expr(x[c, at[2], at[1], at[0], n])

    found, out = hl.Func("found"), hl.Func("out")
    found[names] = hl.Tuple(list(tap((0, 0, 0))))
    k = hl.RDom([hl.Range(0, axis.kernel) for axis in reversed(axes)], "k")
    number, value = tap((k[2], k[1], k[0]))
    where, largest = (as_expr(found[names][at]) for at in range(2))
    better = hl.strict_float((value > largest) | is_nan(value))
    # The number first: Halide 21 does not see through strict_float that it depends on the value, and stores one by one.
    found[names] = hl.Tuple([hl.select(better, number, where), hl.strict_float(hl.select(better, value, largest))])
    out[names] = hl.Tuple([as_expr(found[names][1]), hl.cast(hl.UInt(8), found[names][0])])
    block = vectorize(out, c, problem.pool.channels, machine.lanes)
    lanes = width(problem.pool.channels, machine.lanes)
    found.compute_at(out, block).bound_extent(c, lanes).vectorize(c)
    update = found.update(0).reorder(c, k[0], k[1], k[2]).vectorize(c)
    if math.prod(problem.pool.kernel) <= MOST_UNROLLED:
        for at in range(3):
            update.unroll(k[at])
    if schedule.parallel:
        tasks(out, [(oy, axes[1].out), (oz, axes[0].out), (n, problem.pool.batch)], machine)
    return definition(out, [("x", x, big)], small)


def define_gradient(problem: PoolGradient, schedule: Schedule, machine: Machine) -> Definition:
    """For each input the windows that may see it, from the last back."""
    import halide as hl

    from ..algorithms.funcs import image

    pool, axes = problem.pool, _axes(problem.pool)
    big, small = _lifted(pool, axes)
    dy = image("dy", small)
    inputs = [("dy", dy, small)]
    if pool.kind == "max":
        inputs.append(("index", image("index", small, "uint8"), small))
    c, ix, iy, iz, n = names = [hl.Var(v) for v in ("c", "ix", "iy", "iz", "n")]
    shares = [table([1 / count for count in axis.counts], f"share{at}") for at, axis in enumerate(axes)]

    def term(backs: tuple[int, ...]) -> Any:
        """What one window adds."""
        sees, number, share, at = None, hl.i32(0), hl.f32(1), []
        for axis, i, back, shared in zip(axes, (iz, iy, ix), backs, shares):
            o = hl.min((i + axis.before) // axis.stride, axis.out - 1) - back
            k = i + axis.before - o * axis.stride
            ok = (o >= 0) & (k < axis.kernel)
            sees, number = ok if sees is None else sees & ok, number * axis.kernel + k
            at.append(hl.clamp(o, 0, axis.out - 1))
            share = share * shared[at[-1]]
        window = (c, at[2], at[1], at[0], n)
        if pool.kind == "max":
            sees = hl.cast(hl.Int(32), inputs[1][1][window]) == hl.select(sees, number, NO_TAP)
            return hl.select(sees, dy[window], hl.f32(0))
        return hl.select(sees, dy[window] * share, hl.f32(0))

    out = hl.Func("out")
    terms = [term(backs) for backs in itertools.product(*map(_windows, axes))]
    out[names] = hl.strict_float(sum(terms[1:], as_expr(terms[0])))
    vectorize(out, c, pool.channels, machine.lanes, VECTORS)
    if schedule.parallel:
        tasks(out, [(iy, axes[1].size), (iz, axes[0].size), (n, pool.batch)], machine)
    return definition(out, inputs, big)


POOL_INDICES = layer_row(
    "pool_indices",
    "y[o] = max over k of x[o*stride + k - before], index[o] = the first k where it is",
    PoolIndices,
    define_indices,
    work=lambda problem: math.prod(problem.pool.x_shapes[0]),
)
POOL_GRADIENT = layer_row(
    "pool_gradient",
    "dx[i] = sum over the windows o that see i of dy[o] * (index[o] == k(i, o), or 1 / count[o])",
    PoolGradient,
    define_gradient,
    work=lambda problem: math.prod(problem.pool.x_shapes[0]),
)
