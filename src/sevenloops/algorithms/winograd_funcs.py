"""The Halide code of winograd: linear maps with few additions, and the pipeline around the products.

Shape comments give the innermost axis first. `t` numbers the tiles of a block through its rows, `p = i * alpha_x + j` the
points, `b` the blocks of an image, `g` the groups, `n` the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import halide as hl

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import ceil_div
from .funcs import apply_epilogue
from .winograd_plan import Plan

__all__ = ["LinearMap", "linear_map", "winograd_pipeline"]

Rows = tuple[tuple[Fraction, ...], ...]


@dataclass
class LinearMap:
    """A Func that applies a matrix along one axis, and the Funcs that it shares terms through."""

    func: Any
    dims: list[Any]
    axis: int
    steps: list[Any] = field(default_factory=list)  # Funcs to schedule, inputs first

    def bound(self, var: Any, extent: int) -> None:
        """All steps are computed for the whole extent of a dimension other than the map's."""
        for step in self.steps:
            step.bound(var, 0, extent)

    def schedule_at(self, func: Any, var: Any, lanes: int = 0, unroll: Any = ()) -> None:
        """Compute all steps at a loop level, vectorised along the first axis, `unroll` unrolled."""
        for step in self.steps:
            step.compute_at(func, var)
            if lanes:
                step.vectorize(self.dims[0], lanes)
            for index in range(step.num_update_definitions()):
                stage = step.update(index)
                if lanes:
                    stage.vectorize(self.dims[0], lanes)
                for name in unroll:
                    stage.unroll(name)


def _combination(row: list[tuple[Fraction, Any]], dtype: Any) -> Any:
    """The sum of the terms whose coefficient is not zero; a coefficient is rounded once, to `dtype`."""
    total = None
    for coefficient, term in row:
        if coefficient == 0:
            continue
        sign, size = (1, coefficient) if coefficient > 0 else (-1, -coefficient)
        value = term if size == 1 else term * hl.cast(dtype, hl.f64(float(size)))
        signed = value if sign > 0 else -value
        total = signed if total is None else total + signed
    return hl.cast(dtype, 0) if total is None else total


def _row_pairs(matrix: Rows) -> dict[int, int]:
    """Rows i -> i2 that agree but for signs in some columns (the rows of points a and -a): they share two half sums."""
    pairs: dict[int, int] = {}
    for i, first in enumerate(matrix):
        for i2 in range(i + 1, len(matrix)):
            second = matrix[i2]
            taken = i in pairs or i2 in pairs.values() or i in pairs.values()
            mixed = any(a == b != 0 for a, b in zip(first, second)) and any(a == -b != 0 for a, b in zip(first, second))
            if not taken and mixed and all(abs(a) == abs(b) for a, b in zip(first, second)):
                pairs[i] = i2
    return pairs


def linear_map(
    name: str, matrix: Rows, dims: list[Any], axis: int, source: Callable[[int], Any], bits: int = 32
) -> LinearMap:
    """`f[dims]` with `f[.., i, ..] = sum over k of matrix[i][k] * source(k)`, i being the index at `axis`.

    Rows and columns that belong to a pair of points a, -a are computed from shared halves, sum and difference.
    """
    at = lambda index: tuple(index if d == axis else var for d, var in enumerate(dims))  # noqa: E731
    dtype = hl.Float(bits)
    read = lambda k: hl.cast(dtype, source(k))  # noqa: E731
    columns = _row_pairs(tuple(zip(*matrix)))
    result = LinearMap(hl.Func(name), dims, axis)
    terms: Callable[[tuple[Fraction, ...]], list[tuple[Fraction, Any]]]
    if columns:
        halves = hl.Func(name + "_halves")
        halves[tuple(dims)] = hl.undef(dtype)
        for k, k2 in columns.items():
            halves[at(k)] = read(k) + read(k2)
            halves[at(k2)] = read(k) - read(k2)
        result.steps.append(halves)

        def terms(row: tuple[Fraction, ...]) -> list[tuple[Fraction, Any]]:
            alone = [k for k in range(len(row)) if k not in columns and k not in columns.values()]
            paired = [(row[k], halves[at(k if row[k] == row[k2] else k2)]) for k, k2 in columns.items()]
            return [(row[k], read(k)) for k in alone] + paired
    else:
        terms = lambda row: [(row[k], read(k)) for k in range(len(row))]  # noqa: E731

    rows = {} if columns else _row_pairs(matrix)
    if rows:
        parts = hl.Func(name + "_parts")
        parts[tuple(dims)] = hl.undef(dtype)
        for i, i2 in rows.items():
            same = tuple(a if a == b else Fraction(0) for a, b in zip(matrix[i], matrix[i2]))
            other = tuple(a if a != b else Fraction(0) for a, b in zip(matrix[i], matrix[i2]))
            parts[at(i)] = _combination(terms(same), dtype)
            parts[at(i2)] = _combination(terms(other), dtype)
        result.steps.append(parts)
    func = result.func
    func[tuple(dims)] = hl.undef(dtype)
    for i, row in enumerate(matrix):
        if i in rows:
            func[at(i)] = parts[at(i)] + parts[at(rows[i])]
            func[at(rows[i])] = parts[at(i)] - parts[at(rows[i])]
        elif i not in rows.values():
            func[at(i)] = _combination(terms(row), dtype)
    result.steps.append(func)
    return result


def _padded(x: Any, plan: Plan, lanes: int, c: Any, at: tuple[Any, Any, Any, Any]) -> Any:
    """The input of stride 1 at (ix, iy, g, n) in padded coordinates, zero outside; `c` may go up to whole vectors.

    Channel c of a strided problem is channel c % ic of phase c // ic.
    """
    g, (ix, iy, gr, n) = plan.source, at
    c = c if plan.g.ic % lanes == 0 else hl.min(hl.likely(c), plan.g.ic - 1)
    if plan.g.ic > g.ic:
        phase, c = c // g.ic, c % g.ic
        ix, iy = ix * g.stride[2] + phase % g.stride[2], iy * g.stride[1] + phase // g.stride[2]
    at_x, at_y = ix - g.before[2], iy - g.before[1]
    inside = (at_x >= 0) & (at_x < g.size[2]) & (at_y >= 0) & (at_y < g.size[1])
    value = x[c, gr, hl.clamp(at_x, 0, g.size[2] - 1), hl.clamp(at_y, 0, g.size[1] - 1), n]
    return hl.select(inside, value, hl.f32(0))


class _Vars(NamedTuple):
    """The variables of the pipeline."""

    c: Any
    t: Any
    p: Any
    b: Any
    g: Any
    n: Any
    i: Any
    j: Any
    k: Any
    panel: Any
    stream: Any


def _input_transform(x: Any, plan: Plan, s: Schedule, lanes: int, v: _Vars) -> tuple[Any, Any, list[LinearMap]]:
    """`V[ic, t, p, b, g, n]` = BT d B of tile t, and the staged input that it reads; tiles beyond the last repeat it.

    Staged are the rows of a whole block, where each task transforms its own, or else the patch of one tile.
    """
    my, mx = plan.matrices()
    tile = hl.min(v.t, plan.tiles - 1) if plan.padded_tiles > plan.tiles else v.t
    ox = ((v.b % plan.blocks_x) * plan.columns + tile % plan.columns) * plan.mx
    oy = ((v.b // plan.blocks_x) * plan.rows + tile // plan.columns % plan.rows) * plan.my
    image = v.n * plan.images + tile // (plan.columns * plan.rows)
    staged = hl.Func("staged")
    if s.shared_input:
        staged[v.c, v.i, v.j, v.t, v.b, v.g, v.n] = _padded(x, plan, lanes, v.c, (ox + v.j, oy + v.i, v.g, image))
        read = lambda i, j: staged[v.c, i, j, v.t, v.b, v.g, v.n]  # noqa: E731
    else:
        ix, iy = hl.Var("ix"), hl.Var("iy")
        staged[v.c, ix, iy, v.g, v.n] = _padded(x, plan, lanes, v.c, (ix, iy, v.g, v.n))
        read = lambda i, j: staged[v.c, ox + j, oy + i, v.g, image]  # noqa: E731
    dims = [v.c, v.i, v.j, v.t, v.b, v.g, v.n]
    rows = linear_map("bt_d", my.bt, dims, 1, lambda k: read(k, v.j))
    both = linear_map("bt_d_b", mx.bt, dims, 2, lambda k: rows.func[v.c, v.i, k, v.t, v.b, v.g, v.n])
    V = hl.Func("V")
    V[v.c, v.t, v.p, v.b, v.g, v.n] = both.func[v.c, v.p // plan.ax, v.p % plan.ax, v.t, v.b, v.g, v.n]
    return staged, V, [rows, both]


def _weights(plan: Plan, s: Schedule, packed: Any, v: _Vars) -> tuple[Any, list[LinearMap]]:
    """`U[lane, ic, stream, p, panel]`: the packed weights, or transformed from raw ones."""
    if s.weights == "transformed":
        return packed, []
    my, mx = plan.matrices()
    dims = [v.c, v.k, v.stream, v.i, v.j, v.panel]
    rows = linear_map("g_w", my.g, dims, 3, lambda k: packed[v.c, v.k, v.stream, k * plan.kw + v.j, v.panel])
    both = linear_map("g_w_gt", mx.g, dims, 4, lambda k: rows.func[v.c, v.k, v.stream, v.i, k, v.panel])
    U = hl.Func("U")
    U[v.c, v.k, v.stream, v.p, v.panel] = both.func[v.c, v.k, v.stream, v.p // plan.ax, v.p % plan.ax, v.panel]
    return U, [rows, both]


def _output(
    problem: ConvProblem, plan: Plan, tile_channels: int, M: Any, v: _Vars, named: dict[str, Any]
) -> tuple[Any, list[Any], list[LinearMap]]:
    """`out[oc, g, x, y, n]` from AT M A, the loops that store it, and the steps of the transform.

    The loops over blocks, tiles and pixels are the definition's own (an RDom), not made by splits of the image: where
    blocks do not divide the image, bounds inference would not see that a task needs one block, and compute several.
    """
    g, (my, mx) = plan.g, plan.matrices()
    dims = [v.c, v.i, v.j, v.t, v.b, v.g, v.n]
    rows = linear_map("at_m", my.at, dims, 1, lambda k: M[v.c, v.t, k * plan.ax + v.j, v.b, v.g, v.n])
    both = linear_map("at_m_a", mx.at, dims, 2, lambda k: rows.func[v.c, v.i, k, v.t, v.b, v.g, v.n])
    rows.bound(v.j, plan.ax)
    both.bound(v.i, plan.my)
    both.func.bound(v.j, 0, plan.mx)

    extents = (plan.mx, plan.my, plan.columns, plan.rows, plan.images, plan.blocks_x, plan.blocks_y, g.groups)
    o = hl.RDom([hl.Range(0, extent) for extent in (*extents, g.batch // plan.images)], "o")
    xi, yi, tx, ty, image, bx, by, gr, n = loops = [o[index] for index in range(9)]
    spot = []
    for block, tile, pixel, count, m, size in (
        (bx, tx, xi, plan.columns, plan.mx, g.out[2]), (by, ty, yi, plan.rows, plan.my, g.out[1]),
    ):  # fmt: skip
        at_pixel = (block * count + tile) * m + pixel
        if size % (count * m):
            o.where(at_pixel < size)
        spot.append(hl.unsafe_promise_clamped(at_pixel, 0, size - 1))
    t, b, at_image = (image * plan.rows + ty) * plan.columns + tx, by * plan.blocks_x + bx, n * plan.images + image
    out = hl.Func("out")
    channel = v.c if g.oc % tile_channels == 0 else hl.min(v.c, g.oc - 1)
    bias = named["bias"][gr * g.oc + channel] if "bias" in named else None
    residual = named["residual"][(channel, gr, *spot, at_image)] if "residual" in named else None
    out[tuple(hl.Var(name) for name in ("c", "g", "x", "y", "n"))] = hl.undef(hl.Float(32))
    value = hl.Expr(both.func[v.c, yi, xi, t, b, gr, n])
    out[(v.c, gr, *spot, at_image)] = apply_epilogue(problem.epilogue, value, bias, residual)
    return out, loops, [rows, both]


def winograd_pipeline(
    problem: ConvProblem, plan: Plan, s: Schedule, machine: Machine, x: Any, packed: Any, named: dict[str, Any]
) -> Any:
    """The scheduled output `out[oc, g, x, y, n]`."""
    g, nr, lanes, v = plan.g, s.tile_channels, machine.lanes, _Vars(*map(hl.Var, _Vars._fields))
    staged, V, input_maps = _input_transform(x, plan, s, lanes, v)
    U, weight_maps = _weights(plan, s, packed, v)

    depth = g.ic // s.k_blocks
    r = hl.RDom([hl.Range(0, depth)], "ic")
    sums, M = hl.Func("sums"), hl.Func("M")  # [oc, t, p, b, g, n(, block)]
    at = (v.c, v.t, v.p, v.b, v.g, v.n)
    weight = lambda k: U[v.c % plan.stream_lanes, k, v.c % nr // plan.stream_lanes, v.p, v.g * plan.panels + v.c // nr]  # noqa: E731
    if s.k_blocks == 1:
        sums[at] += weight(r.x) * V[r.x, v.t, v.p, v.b, v.g, v.n]
        M[at] = sums[at]
    else:
        block = hl.Var("block")
        k = block * depth + r.x
        sums[(*at, block)] += weight(k) * V[k, v.t, v.p, v.b, v.g, v.n]
        blocks = hl.RDom([hl.Range(0, s.k_blocks)], "block")
        M[at] = hl.f32(0)
        M[at] += sums[(*at, blocks.x)]

    out, loops, output_maps = _output(problem, plan, nr, M, v, named)
    stages = _Stages(out, staged, V, U, M, sums, input_maps, weight_maps, output_maps, r)
    _schedule(plan, s, lanes, v, loops, stages)
    return out


@dataclass
class _Stages:
    out: Any
    staged: Any
    V: Any
    U: Any
    M: Any
    sums: Any
    input_maps: list[LinearMap]
    weight_maps: list[LinearMap]
    output_maps: list[LinearMap]
    r: Any


def _schedule(plan: Plan, s: Schedule, lanes: int, v: _Vars, loops: list[Any], st: _Stages) -> None:
    task, panel = _schedule_output(plan, s, lanes, v, loops, st)
    _schedule_products(plan, s, lanes, v, st, panel if panel is not None else task)
    _schedule_input(plan, s, lanes, v, st, task)


def _schedule_output(plan: Plan, s: Schedule, lanes: int, v: _Vars, loops: list[Any], st: _Stages) -> tuple[Any, Any]:
    nr, store = s.tile_channels, st.out.update(0)
    xi, yi, tx, ty, image, bx, by, *others = loops
    panel, cv, lane, part = (hl.Var(name) for name in ("opanel", "cv", "lane", "part"))
    if plan.g.oc % nr:
        # Halide does not split what a predicated split made, so a partial panel is stored in one piece.
        store.split(v.c, panel, lane, nr, hl.TailStrategy.PredicateStores).vectorize(lane)
        inner, outer = ([panel], []) if s.channel_parts == 1 else ([], [panel])
        store.reorder(lane, xi, yi, tx, ty, image, *inner, bx, by, *outer, *others)
        at = tx
    else:
        store.split(v.c, panel, lane, nr).split(panel, part, panel, plan.panels // s.channel_parts)
        store.split(lane, cv, lane, lanes).vectorize(lane)
        inner, outer = [panel], [part]
        store.reorder(lane, xi, yi, cv, tx, ty, image, panel, bx, by, part, *others)
        at = cv
    store.unroll(xi).unroll(yi)
    task = hl.RVar("task")
    store.fuse(bx, by, task)
    for var in (*outer, *others):
        store.fuse(task, var, task)
    store.allow_race_conditions()  # every output is stored once
    if s.parallel:
        store.parallel(task)
    for step, other in zip(st.output_maps, (v.j, v.i)):
        step.schedule_at(st.out, at, lanes, (other,))
    return task, panel if inner else None


def _schedule_products(plan: Plan, s: Schedule, lanes: int, v: _Vars, st: _Stages, at: Any) -> None:
    nr, mr, M, sums = s.tile_channels, s.tile_tiles, st.M, st.sums
    to, ti = hl.Var("to"), hl.Var("ti")
    M.compute_at(st.out, at).bound_extent(v.c, nr)
    if s.k_blocks == 1:
        stage = M
        stage.split(v.t, to, ti, mr, hl.TailStrategy.ShiftInwards).reorder(v.c, ti, to, v.p, v.b, v.g, v.n)
    else:
        M.bound_extent(v.t, plan.padded_tiles).vectorize(v.c, lanes)
        stage = M.update(0)
        kb = M.rvars(0)[0]
        stage.split(v.t, to, ti, mr).reorder(v.c, ti, to, v.p, kb, v.b, v.g, v.n)
    stage.vectorize(v.c, lanes).unroll(v.c).unroll(ti)
    _spread(M, v.t, plan.padded_tiles, 1)
    sums.compute_at(M, to).bound_extent(v.c, nr).bound_extent(v.t, mr)
    sums.vectorize(v.c, lanes).unroll(v.c).unroll(v.t)
    hot = sums.update(0).reorder(v.c, v.t, st.r.x).vectorize(v.c, lanes).unroll(v.c).unroll(v.t)
    if s.unroll > 1:
        hot.unroll(st.r.x, s.unroll)
    if s.weights == "raw":
        U = st.U
        U.compute_at(*((st.out, at) if s.k_blocks == 1 else (M, kb)))
        _spread(U, v.k, plan.g.ic // s.k_blocks, 1)
        cv = hl.Var("cv")
        U.split(v.c, cv, v.c, lanes).reorder(v.c, v.p, cv, v.k, v.stream, v.panel).vectorize(v.c).unroll(v.p)
        for step, other in zip(st.weight_maps, (v.j, v.i)):
            step.schedule_at(U, cv, lanes, (other,))


def _schedule_input(plan: Plan, s: Schedule, lanes: int, v: _Vars, st: _Stages, task: Any) -> None:
    V, staged, cv = st.V, st.staged, hl.Var("cv")
    V.split(v.c, cv, v.c, lanes, hl.TailStrategy.RoundUp).reorder(v.c, v.p, cv, v.t, v.b, v.g, v.n).vectorize(v.c).unroll(
        v.p
    )
    if s.shared_input:
        V.compute_root()
        if s.parallel:
            job = hl.Var("job")
            V.fuse(v.t, v.b, job).fuse(job, v.g, job).fuse(job, v.n, job).parallel(job)
            staged.compute_at(V, job)
        else:
            staged.compute_at(V, v.t)
    else:
        V.compute_at(st.out, task)
        staged.compute_at(st.out, task)
    staged.vectorize(staged.args()[0], lanes, hl.TailStrategy.RoundUp)
    _spread(V, v.c, ceil_div(plan.g.ic, lanes) * lanes, lanes)
    _spread(V, v.t, plan.padded_tiles, 1)
    for step, other in zip(st.input_maps, (v.j, v.i)):
        step.schedule_at(V, cv, lanes, (other,))


def _spread(func: Any, var: Any, extent: int, unit: int) -> None:
    """Make a stored extent an odd number of units: else the planes of all points begin in the same set of the L1 cache."""
    func.bound_storage(var, extent if extent // unit % 2 else extent + unit)
