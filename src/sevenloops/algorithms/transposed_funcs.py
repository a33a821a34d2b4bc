"""The Halide code of transposed_winograd: transforms and products of one phase after the other.

Shape comments give the innermost axis first. `t` numbers the tiles of a block through its rows, `i` and `j` the points down
and along the image, `rx, ry` the phases, `b` the blocks of an image, `g` the groups, `n` the images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import halide as hl

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import ceil_div
from .funcs import apply_epilogue
from .phases import by_phase
from .transposed_plan import Plan
from .transposed_winograd import chosen, combination

__all__ = ["pipeline"]

FLOAT = hl.Float(32)


def staged_input(x: Any, plan: Plan, lanes: int) -> Any:
    """`staged[ic, ix, iy, g, n]`, zero outside the image; channels may be asked for up to whole vectors."""
    c, ix, iy, g, n = (hl.Var(v) for v in ("c", "ix", "iy", "g", "n"))
    high, wide = (axis.size for axis in plan.axes)
    channel = c if plan.ic % lanes == 0 else hl.min(hl.likely(c), plan.ic - 1)
    value = x[channel, g, hl.clamp(ix, 0, wide - 1), hl.clamp(iy, 0, high - 1), n]
    staged = hl.Func("staged")
    staged[c, ix, iy, g, n] = hl.select((ix >= 0) & (ix < wide) & (iy >= 0) & (iy < high), value, hl.f32(0))
    return staged


def origin(plan: Plan, which: int, t: Any, b: Any) -> Any:
    """The first output (within its phase) of tile `t` of block `b` on an axis."""
    if which == 1:
        return ((b % plan.blocks_x) * plan.columns + t % plan.columns) * plan.m[1]
    return ((b // plan.blocks_x) * plan.rows + t // plan.columns) * plan.m[0]


def input_transform(plan: Plan, staged: Any, v: dict[str, Any]) -> tuple[Any, Any, Callable[[Any], Any]]:
    """`V[ic, j, i, t(, rx, ry), b, g, n]` = BT d B, the Func of BT d, and how to read V at a channel.

    Phases have a V each, unless their windows are the same.
    """
    phases = [] if plan.one_window else [v["rx"], v["ry"]]
    rest = [v["t"], *phases, v["b"], v["g"], v["n"]]
    c, i, j = v["c"], v["i"], v["j"]
    y0, x0 = (
        origin(plan, which, v["t"], v["b"]) + by_phase(v[phase], [axis.window(r) for r in axis.phases])
        for which, (axis, phase) in enumerate(zip(plan.axes, ("ry", "rx")))
    )
    my, mx = plan.matrices
    rows, V = hl.Func("bt_d"), hl.Func("V")
    inputs = [staged[c, x0 + j, y0 + k, v["g"], v["n"]] for k in range(plan.alpha[0])]
    rows[(c, j, i, *rest)] = chosen(i, [combination(row, inputs, FLOAT) for row in my.bt])
    inputs = [rows[(c, k, i, *rest)] for k in range(plan.alpha[1])]
    V[(c, j, i, *rest)] = chosen(j, [combination(row, inputs, FLOAT) for row in mx.bt])
    return V, rows, lambda channel: V[(channel, j, i, *rest)]


def output_transform(plan: Plan, M: Any) -> tuple[Any, Any, Any]:
    """`Y[oc, xi, yi, t, rx, ry, b, g, n]` = AT M A and the Funcs of its steps, M's missing points taken as zero."""
    c, xi, yi, t, rx, ry, b, g, n = dims = [hl.Var(v) for v in ("c", "xi", "yi", "t", "rx", "ry", "b", "g", "n")]
    my, mx = plan.matrices
    rest = dims[3:]

    def at(which: int, phase: Any, k: int) -> tuple[Any, Any]:
        """Index k, or the last one that a phase has; and whether it has k (None: always)."""
        used = plan.used(which)
        if k < min(used):
            return k, None
        return hl.min(k, by_phase(phase, used) - 1), by_phase(phase, [int(k < u) for u in used]) == 1

    def read(func: Any, which: int, phase: Any, k: int, index: Any) -> Any:
        place, exists = at(which, phase, k)
        value = func[index(place)]
        return value if exists is None else hl.select(exists, value, hl.f32(0))

    rows, Y = hl.Func("at_m"), hl.Func("Y")
    j = hl.min(xi, at(1, rx, plan.alpha[1] - 1)[0])  # no more of M is asked for than the phase has
    terms = [read(M, 0, ry, k, lambda place: (c, j, place, *rest)) for k in range(plan.alpha[0])]
    rows[c, xi, yi, t, rx, ry, b, g, n] = chosen(yi, [combination(row, terms, FLOAT) for row in my.at])
    terms = [read(rows, 1, rx, k, lambda place: (c, place, yi, *rest)) for k in range(plan.alpha[1])]
    Y[dims] = chosen(xi, [combination(row, terms, FLOAT) for row in mx.at])
    return Y, rows, dims


def pipeline(
    problem: ConvProblem, plan: Plan, s: Schedule, machine: Machine, x: Any, packed: Any, named: dict[str, Any]
) -> Any:
    """The scheduled output `out[oc, g, x, y, n]`."""
    nr, lanes = s.tile_channels, machine.lanes
    staged = staged_input(x, plan, lanes)
    v = {name: hl.Var(name) for name in ("c", "j", "i", "t", "rx", "ry", "b", "g", "n")}
    c, j, i, _, rx, ry, _, g, _ = dims = list(v.values())
    V, bt_d, read_v = input_transform(plan, staged, v)
    r = hl.RDom([hl.Range(0, plan.ic)], "ic")
    sums, M = hl.Func("sums"), hl.Func("M")  # [oc, j, i, t, rx, ry, b, g, n]
    weight = packed[c % nr, r[0], i * plan.alpha[1] + j, rx, ry, g * plan.panels + c // nr]
    sums[dims] += weight * read_v(r[0])
    M[dims] = sums[dims]
    Y, at_m, _ = output_transform(plan, M)

    extents = (plan.m[1], plan.m[0], plan.tiles, *(len(a.phases) for a in reversed(plan.axes)), plan.blocks)
    o = hl.RDom([hl.Range(0, extent) for extent in (*extents, plan.groups, plan.batch)], "o")
    xi, yi, tile, px, py, block, group, image = loops = [o[index] for index in range(8)]
    spot = []
    for which, inner, phase in ((1, xi, px), (0, yi, py)):
        axis = plan.axes[which]
        u = origin(plan, which, tile, block) + inner
        lasts = [axis.last(r) for r in axis.phases]
        covered = ceil_div(axis.cells, (plan.rows, plan.columns)[which] * plan.m[which])
        if covered * (plan.rows, plan.columns)[which] * plan.m[which] > min(lasts) + 1:
            o.where(u <= by_phase(phase, lasts))
        spot.append(hl.unsafe_promise_clamped(u * axis.stride + phase, 0, axis.out - 1))
    channel = c if plan.oc % nr == 0 else hl.min(c, plan.oc - 1)
    bias = named["bias"][group * plan.oc + channel] if "bias" in named else None
    residual = named["residual"][(channel, group, *spot, image)] if "residual" in named else None
    out = hl.Func("out")
    out[tuple(hl.Var(v) for v in ("c", "g", "x", "y", "n"))] = hl.undef(FLOAT)
    out[(c, group, *spot, image)] = apply_epilogue(problem.epilogue, hl.Expr(Y[(c, *loops)]), bias, residual)
    _schedule(plan, s, lanes, dims, loops, out, (Y, at_m), (M, sums, r), (V, bt_d, staged))
    return out


def _schedule(
    plan: Plan, s: Schedule, lanes: int, dims: Any, loops: Any, out: Any, outputs: Any, products: Any, inputs: Any
) -> None:
    nr, tail = s.tile_channels, hl.TailStrategy
    c = dims[0]
    panel, lane, part, cv, task = hl.Var("panel"), hl.Var("lane"), hl.Var("part"), hl.Var("cv"), hl.RVar("task")
    xi, yi, tile, px, py, *outer = loops
    store = out.update(0)
    if plan.oc % nr:
        # Halide does not split what a predicated split made, so a partial panel is stored in one piece.
        store.split(c, panel, lane, nr, tail.PredicateStores).vectorize(lane)
        parts = [] if s.channel_parts == 1 else [panel]
        store.reorder(lane, xi, yi, tile, *([] if parts else [panel]), px, py, outer[0], *parts, *outer[1:])
        at, level = tile, (px if parts else panel)
    else:
        store.split(c, panel, lane, nr).split(panel, part, panel, plan.panels // s.channel_parts)
        store.split(lane, cv, lane, lanes).vectorize(lane)
        parts = [part]
        store.reorder(lane, xi, yi, cv, tile, panel, px, py, outer[0], part, *outer[1:])
        at, level = cv, panel
    store.unroll(xi).unroll(yi)
    fused = outer[0]
    for var in (*parts, *outer[1:]):
        store.fuse(fused, var, task)
        fused = task
    store.allow_race_conditions()  # every output is stored once
    if s.parallel:
        store.parallel(task)
    for func, extents in zip(outputs, (plan.m, (plan.m[0], plan.alpha[1]))):
        fc, fx, fy = func.args()[:3]
        func.compute_at(out, at).bound_extent(fc, nr if at is tile else lanes).vectorize(fc, lanes)
        func.bound(fx, 0, extents[1]).bound(fy, 0, extents[0]).unroll(fx).unroll(fy)
    _schedule_products(plan, s, lanes, dims, out, level, products)
    _schedule_input(plan, s, lanes, out, task, task if plan.one_window else px, inputs)


def _schedule_input(plan: Plan, s: Schedule, lanes: int, out: Any, task: Any, level: Any, inputs: Any) -> None:
    """V at the root or in each task (`level`: in each phase of it); the copy with zeros for a row of tiles, or a task."""
    V, bt_d, staged = inputs
    vc, j, i, tile, *others = V.args()
    cv, row = hl.Var("cv"), hl.Var("row")
    V.split(tile, row, tile, plan.columns).split(vc, cv, vc, lanes, hl.TailStrategy.RoundUp)
    V.reorder(vc, j, i, cv, tile, row).vectorize(vc).unroll(j).unroll(i)
    if s.shared_input:
        V.compute_root()
        for var in others:
            V.fuse(row, var, row)
        if s.parallel:
            V.parallel(row)
        staged.compute_at(V, row)
    else:
        V.compute_at(out, level)
        staged.compute_at(out, task)
    bt_d.compute_at(V, cv).vectorize(bt_d.args()[0], lanes).unroll(bt_d.args()[1]).unroll(bt_d.args()[2])
    staged.vectorize(staged.args()[0], lanes, hl.TailStrategy.RoundUp)


def _schedule_products(plan: Plan, s: Schedule, lanes: int, dims: Any, out: Any, level: Any, products: Any) -> None:
    c, j, i, t = dims[:4]
    M, sums, r = products
    to, ti = hl.Var("to"), hl.Var("ti")
    M.compute_at(out, level).bound_extent(c, s.tile_channels)
    M.split(t, to, ti, s.tile_tiles, hl.TailStrategy.ShiftInwards).reorder(c, ti, to, j, i)
    M.vectorize(c, lanes).unroll(c).unroll(ti)
    sums.compute_at(M, to).bound_extent(c, s.tile_channels).bound_extent(t, s.tile_tiles)
    sums.vectorize(c, lanes).unroll(c).unroll(t)
    hot = sums.update(0).reorder(c, t, r[0]).vectorize(c, lanes).unroll(c).unroll(t)
    if s.unroll > 1:
        hot.unroll(r[0], s.unroll)
