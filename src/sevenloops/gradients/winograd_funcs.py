"""The Halide code of gradient_winograd.

Shape comments give the innermost axis first. `c` numbers the input channels of a panel and `k` the panels of a block, `o`
the output channels of a block, `t` the tiles of a chunk, `p = i * alpha_x + j` the points, `q` the chunks of a part;
`bi` and `bo` are the blocks of channels (`bo` those of all groups), `s` the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import halide as hl

from ..algorithms.base import ceil_div
from ..algorithms.winograd_funcs import LinearMap, linear_map
from ..machine import Machine
from ..schedule import Schedule
from .winograd_plan import Plan

__all__ = ["gradient_pipeline"]


class _Vars(NamedTuple):
    """The variables of the pipeline."""

    c: Any
    o: Any
    k: Any
    t: Any
    p: Any
    q: Any
    bi: Any
    bo: Any
    s: Any
    i: Any
    j: Any


@dataclass
class _Transformed:
    """Tiles of one operand, point by point, and what they are made of."""

    func: Any
    staged: Any
    maps: list[LinearMap]
    lane: Any  # the innermost variable: channels


def _channel(index: Any, count: int, lanes: int) -> Any:
    """A channel of `count`; whole vectors beyond the last one repeat it, so that no load leaves the image."""
    if count % lanes == 0:
        return hl.min(index // lanes * lanes, count - lanes) + index % lanes
    return hl.min(hl.likely(index), count - 1)


def _pixel(source: Any, channel: Any, group: Any, at: tuple[Any, Any, Any], size: tuple[int, int], batch: Any) -> Any:
    """`source` at (x, y, n), zero outside of the image and, where `batch` is given, after the last of the images."""
    x, y, n = at
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    if batch is not None:
        inside = inside & (n < batch)
        n = hl.min(n, batch - 1)
    value = source[channel, group, hl.clamp(x, 0, size[1] - 1), hl.clamp(y, 0, size[0] - 1), n]
    return hl.select(inside, value, hl.f32(0))


def _transforms(plan: Plan, lanes: int, x: Any, dy: Any, v: _Vars) -> tuple[_Transformed, _Transformed]:
    """`V[c, t, p, k, q, bi, bo, s]` = BT x B and `U[o, t, p, q, bo, s]` = G dy GT.

    Staged is one vector of channels of a tile, with its padding.
    """
    g, (my, mx) = plan.g, plan.matrices()
    tile = (v.s * plan.chunks + v.q) * plan.block_tiles + v.t
    tx, ty, n = tile % plan.tiles_x, tile // plan.tiles_x % plan.tiles_y, tile // (plan.tiles_x * plan.tiles_y)
    batch = g.batch if plan.parts * plan.chunks * plan.block_tiles > plan.tiles else None
    group = v.bo // (plan.blocks_out // g.groups)

    ic = _channel((v.bi * plan.panels + v.k) * plan.nr + v.c, g.ic, lanes)
    pixel = (tx * plan.mx + v.j - g.before[2], ty * plan.my + v.i - g.before[1], n)
    V = _transformed(
        "x", (my.bt, mx.bt), [v.c, v.i, v.j, v.t, v.k, v.q, v.bi, v.bo, v.s], [v.c, v.t, v.p, v.k, v.q, v.bi, v.bo, v.s],
        _pixel(x, ic, group, pixel, (g.size[1], g.size[2]), batch), v,
    )  # fmt: skip
    oc = _channel(v.bo % (plan.blocks_out // g.groups) * plan.block_out + v.o, g.oc, lanes)
    pixel = (tx * plan.mx + v.j, ty * plan.my + v.i, n)
    U = _transformed(
        "dy", (my.g, mx.g), [v.o, v.i, v.j, v.t, v.q, v.bo, v.s], [v.o, v.t, v.p, v.q, v.bo, v.s],
        _pixel(dy, oc, group, pixel, (g.out[1], g.out[2]), batch), v,
    )  # fmt: skip
    return V, U


def _transformed(name: str, rows: Any, dims: list[Any], at: list[Any], value: Any, v: _Vars) -> _Transformed:
    staged, func = hl.Func(name + "_tile"), hl.Func(name + "_points")
    staged[tuple(dims)] = value
    read = lambda source, i, j: source[tuple(i if d is v.i else j if d is v.j else d for d in dims)]  # noqa: E731
    down = linear_map(name + "_down", rows[0], dims, 1, lambda k: read(staged, k, v.j))
    both = linear_map(name + "_both", rows[1], dims, 2, lambda k: read(down.func, v.i, k))
    across = len(rows[1])
    func[tuple(at)] = read(both.func, v.p // across, v.p % across)
    return _Transformed(func, staged, [down, both], dims[0])


def gradient_pipeline(plan: Plan, s: Schedule, machine: Machine, x: Any, dy: Any) -> Any:
    """The scheduled gradient `out[kx, ky, ic, oc]`."""
    lanes, v = machine.lanes, _Vars(*map(hl.Var, _Vars._fields))
    V, U = _transforms(plan, lanes, x, dy, v)
    tiles, chunks = hl.RDom([hl.Range(0, plan.block_tiles)], "tile"), hl.RDom([hl.Range(0, plan.chunks)], "chunk")
    sums, M, total = hl.Func("sums"), hl.Func("M"), hl.Func("total")  # M[c, o, p, k, bi, bo, s]
    at = (v.c, v.o, v.p, v.k, v.bi, v.bo, v.s)
    sums[(*at, v.q)] += V.func[v.c, tiles.x, v.p, v.k, v.q, v.bi, v.bo, v.s] * U.func[v.o, tiles.x, v.p, v.q, v.bo, v.s]
    M[at] = hl.f32(0)
    M[at] += sums[(*at, chunks.x)]

    kx, ky, ic, oc = (hl.Var(name) for name in ("kx", "ky", "ic", "oc"))
    width = plan.panels * plan.nr
    of_weight = (ic % plan.nr, oc % plan.block_out, v.p, ic % width // plan.nr, ic // width, oc // plan.block_out)
    if plan.blocks_in == 1:
        of_weight = (ic % plan.nr, oc % plan.block_out, v.p, ic // plan.nr, 0, oc // plan.block_out)
    value = hl.Expr(M[(*of_weight, 0)])
    for part in range(1, plan.parts):
        value = value + M[(*of_weight, part)]
    total[ic, v.p, oc] = value
    (my, mx), out = plan.matrices(), hl.Func("out")
    dims = [ic, v.i, v.j, oc]
    down = linear_map("at_m", my.at, dims, 1, lambda k: total[ic, k * plan.ax + v.j, oc])
    both = linear_map("at_m_a", mx.at, dims, 2, lambda k: down.func[ic, v.i, k, oc])
    out[kx, ky, ic, oc] = both.func[ic, ky, kx, oc]

    task = _schedule_out(plan, s, lanes, v, (kx, ky, ic, oc), out, total, [down, both])
    _schedule_products(plan, s, lanes, v, M, sums, tiles, (out, task))
    _schedule_transform(plan, lanes, v, V, (M, M.rvars(0)[0]), plan.nr)
    _schedule_transform(plan, lanes, v, U, (M, M.rvars(0)[0]), plan.rows_out)
    return out


def _schedule_out(
    plan: Plan, s: Schedule, lanes: int, v: _Vars, dims: tuple[Any, Any, Any, Any], out: Any, total: Any, maps: list[Any]
) -> Any:
    """Vectors run over input channels: nine vectors of a 3x3 kernel are one piece of the result, stored element by element.

    Returns the loop over the tasks of one part, or None if parts are added up.
    """
    (kx, ky, ic, oc), g = dims, plan.g
    out.bound(kx, 0, g.kernel[2]).bound(ky, 0, g.kernel[1])
    task, bi, vectors, lane = (hl.Var(name) for name in ("task", "block_ic", "vectors", "lane"))
    if plan.parts == 1:
        out.split(oc, task, oc, plan.block_out)
        if plan.blocks_in > 1:
            out.split(ic, bi, ic, plan.panels * plan.nr)
        out.split(ic, vectors, lane, lanes, hl.TailStrategy.GuardWithIf)
        if plan.blocks_in > 1:
            out.reorder(lane, kx, ky, vectors, oc, bi, task).fuse(bi, task, task)
        else:
            out.reorder(lane, kx, ky, vectors, oc, task)
    else:
        out.split(ic, vectors, lane, lanes, hl.TailStrategy.GuardWithIf)
        out.reorder(lane, kx, ky, vectors, oc)
        total.compute_at(out, vectors).vectorize(total.args()[0], lanes)
    out.vectorize(lane).unroll(kx).unroll(ky)
    if s.parallel:
        out.parallel(task if plan.parts == 1 else oc)
    for step, other in zip(maps, (v.j, v.i)):
        step.schedule_at(out, vectors, lanes, (other,))
    maps[0].bound(v.j, plan.ax)
    maps[1].bound(v.i, g.kernel[1])
    maps[1].func.bound(v.j, 0, g.kernel[2])
    return task if plan.parts == 1 else None


def _schedule_products(
    plan: Plan, s: Schedule, lanes: int, v: _Vars, M: Any, sums: Any, tiles: Any, at: tuple[Any, Any]
) -> None:
    out, task = at
    if task is None:
        M.compute_root()
    else:
        M.compute_at(out, task)
    oo, oi = hl.Var("oo"), hl.Var("oi")
    chunk = M.rvars(0)[0]
    for stage, inner in ((M, ()), (M.update(0), (chunk,))):
        stage.split(v.o, oo, oi, s.tile_out)
        stage.reorder(v.c, oi, oo, v.k, v.p, *inner, v.bi, v.bo, v.s).vectorize(v.c, lanes).unroll(v.c)
        if s.parallel and task is None:
            job = hl.Var("job")
            stage.fuse(v.bi, v.bo, job).fuse(job, v.s, job).parallel(job)
    M.update(0).unroll(oi)
    M.bound(v.p, 0, plan.points).bound_extent(v.c, plan.nr).bound_extent(v.o, plan.rows_out)
    sums.compute_at(M, oo).bound_extent(v.c, plan.nr).bound_extent(v.o, s.tile_out)
    sums.vectorize(v.c, lanes).unroll(v.c).unroll(v.o)
    hot = sums.update(0).reorder(v.c, v.o, tiles.x).vectorize(v.c, lanes).unroll(v.c).unroll(v.o)
    if s.unroll > 1:
        hot.unroll(tiles.x, s.unroll)


def _schedule_transform(plan: Plan, lanes: int, v: _Vars, T: _Transformed, at: tuple[Any, Any], width: int) -> None:
    func, lane, vectors = T.func, T.lane, hl.Var("vectors")
    func.compute_at(*at).bound(v.p, 0, plan.points)
    func.split(lane, vectors, lane, lanes, hl.TailStrategy.RoundUp)
    inner = [lane, v.p, vectors, *([v.k] if lane is v.c else []), v.t]
    func.reorder(*inner).vectorize(lane).unroll(v.p)
    # Planes of points must not begin in the same set of a cache: each is an odd number of lines apart.
    func.bound_storage(lane, ceil_div(width, lanes) * lanes).bound_storage(v.t, plan.block_tiles | 1)
    T.staged.compute_at(func, vectors).vectorize(lane, lanes).unroll(v.i).unroll(v.j)
    for step, other in zip(T.maps, (v.j, v.i)):
        step.schedule_at(func, vectors, lanes, (other,))
