"""The Halide code of `fft`: weights transformed, products of a frequency, and how all of it is scheduled."""

from __future__ import annotations

from typing import Any

import halide as hl
import numpy as np

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Buffer, Definition, Geometry, ceil_div
from .dft import Complex, times
from .fft_passes import Forward, Inverse, table
from .fft_plan import Plan
from .funcs import apply_epilogue, definition, dense, epilogue_inputs, image

__all__ = ["define"]


def packed_shape(plan: Plan, tile_channels: int) -> tuple[int, ...]:
    """`(kx, ky, panels of all groups, ic, 2, tile_channels)`."""
    panels = plan.groups * ceil_div(plan.oc, tile_channels)
    return (plan.columns, plan.y.size, panels, plan.ic, 2, tile_channels)


def define_pack(problem: ConvProblem, plan: Plan, nr: int, parallel: bool) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, h, ic, panel, ky, kx]`: conjugate spectra of the kernels, in float64 until they are rounded once.

    The scale of the inverse transform and the doubling of the forward one are in them.
    """
    g, shape = Geometry.of(problem), packed_shape(plan, nr)
    w_shape = (g.groups * g.oc, g.ic, *g.kernel)
    w = image("w", w_shape)
    lane, h, ic, panel, ky, kx, ty = (hl.Var(v) for v in ("lane", "h", "ic", "panel", "ky", "kx", "ty"))
    panels = ceil_div(plan.oc, nr)
    lanes_used = panel % panels * nr + lane
    channel = panel // panels * plan.oc + hl.min(lanes_used, plan.oc - 1)

    def angle(axis: Any, tap: Any, k: Any) -> Any:
        place = (axis.taps[0] + tap) * axis.dilation - axis.shift
        return (place + axis.size * ceil_div(axis.shift, axis.size)) % axis.size * k % axis.size

    tables = {axis.size: table(axis.size, 1, np.float64, axis.size) for axis in (plan.x, plan.y)}
    tx, sy = hl.RDom([hl.Range(0, plan.x.taps[1])], "tx"), hl.RDom([hl.Range(0, plan.y.taps[1])], "sy")
    rows, sums, packed = hl.Func("rows"), hl.Func("sums"), hl.Func("packed")
    tap = w[plan.x.taps[0] + tx[0], plan.y.taps[0] + ty, 0, ic, channel]
    rows[lane, h, ty, ic, panel, kx] = hl.f64(0)
    rows[lane, h, ty, ic, panel, kx] += hl.f64(tap) * tables[plan.x.size][angle(plan.x, tx[0], kx), h]
    at = lambda part: rows[lane, part, sy[0], ic, panel, kx]  # noqa: E731
    turn = [tables[plan.y.size][angle(plan.y, sy[0], ky), part] for part in (0, 1)]
    sums[lane, h, ic, panel, ky, kx] = hl.f64(0)
    turned = hl.select(h == 0, at(0) * turn[0] - at(1) * turn[1], at(0) * turn[1] + at(1) * turn[0])
    sums[lane, h, ic, panel, ky, kx] += turned
    value = hl.f32(sums[lane, h, ic, panel, ky, kx] * hl.f64(1 / (2 * plan.x.size * plan.y.size)))
    packed[lane, h, ic, panel, ky, kx] = hl.select(lanes_used < plan.oc, value, hl.f32(0))

    for var, extent in zip((lane, h, ic, panel, ky, kx), reversed(shape)):
        packed.bound(var, 0, extent)
    packed.reorder(lane, h, ky, kx, ic, panel).unroll(h).vectorize(lane, min(nr, 8))
    rows.compute_at(packed, kx).vectorize(lane, min(nr, 8))
    rows.update(0).vectorize(lane, min(nr, 8))
    sums.compute_at(packed, ky).vectorize(lane, min(nr, 8)).unroll(h)
    sums.update(0).reorder(lane, h, sy[0]).vectorize(lane, min(nr, 8)).unroll(h)
    if parallel:
        packed.fuse(ic, panel, panel).parallel(panel)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


class _Product:
    """`product[c, h, ky, kx, g, p]`: for each frequency a complex matrix product over channels, register-tiled."""

    def __init__(self, forward: Forward, packed: Any, plan: Plan, s: Schedule) -> None:
        self.plan, self.s = plan, s
        nr, panels = s.tile_channels, ceil_div(plan.oc, s.tile_channels)
        c, h, p, ky, kx, g = (hl.Var(v) for v in ("c", "h", "p", "ky", "kx", "g"))
        self.r = hl.RDom([hl.Range(0, 2), hl.Range(0, plan.ic)], "ic")  # part of the input, channel
        part, ic = self.r[0], self.r[1]
        weight = packed[c % nr, (h + part) % 2, ic, g * panels + c // nr, ky, kx]
        signed = hl.select((h == 0) & (part == 1), -weight, weight)
        self.sums, self.out = hl.Func("sums"), hl.Func("product")
        self.sums[c, h, p, ky, kx, g] += signed * forward.spectrum[g * plan.ic + ic, part, ky, kx, p]
        self.out[c, h, ky, kx, g, p] = self.sums[c, h, p, ky, kx, g]

    def value(self, c: Any, ky: Any, kx: Any, g: Any, p: Any) -> Complex:
        """The product at one frequency."""
        return self.out[c, 0, ky, kx, g, p], self.out[c, 1, ky, kx, g, p]

    def schedule(self, block: tuple[Any, Any] | None, lanes: int) -> None:
        """Compute a block of tiles: all frequencies in parallel, weights read once."""
        s, tail = self.s, hl.TailStrategy
        c, h, p, ky, kx, g = (hl.Var(v) for v in ("c", "h", "p", "ky", "kx", "g"))
        panel, lane, tile, ti, f, part = (hl.Var(v) for v in ("panel", "lane", "tile", "ti", "f", "part"))
        out = self.out.compute_root() if block is None else self.out.compute_at(*block)
        out.bound_extent(h, 2).bound_extent(ky, self.plan.y.size).bound_extent(kx, self.plan.columns)
        out.reorder_storage(c, h, p, ky, kx, g)
        out.split(c, panel, lane, s.tile_channels, tail.RoundUp)
        out.split(p, tile, ti, s.tile_tiles, tail.ShiftInwards)
        out.reorder(lane, h, ti, tile, panel, ky, kx, g).fuse(ky, kx, f).fuse(f, g, f)
        out.vectorize(lane, lanes).unroll(lane).unroll(h).unroll(ti)
        if s.parallel:
            out.split(f, f, part, s.task_frequencies, tail.GuardWithIf).parallel(f)
        sums = self.sums.compute_at(out, tile).bound_extent(c, s.tile_channels).bound_extent(p, s.tile_tiles)
        sums.vectorize(c, lanes).unroll(c).unroll(h).unroll(p)
        hot = sums.update(0).reorder(c, h, p, self.r[0], self.r[1]).vectorize(c, lanes)
        # The loop over channels is not unrolled: LLVM would reassociate the two channels' sums and spill.
        hot.unroll(c).unroll(h).unroll(p).unroll(self.r[0])


def define(problem: ConvProblem, plan: Plan, schedule: Schedule, machine: Machine) -> Definition:
    """Forward transforms, products, inverse transforms and epilogue."""
    g, lanes = Geometry.of(problem), machine.lanes
    nr = lanes if plan.depthwise else schedule.tile_channels
    x_shape = (g.batch, g.size[1], g.size[2], g.groups * g.ic)
    y_shape = (g.batch, g.out[1], g.out[2], plan.groups, plan.oc)
    x, packed = image("x", x_shape), image("packed", packed_shape(plan, nr))
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    forward = Forward(x, plan, (g.size[1], g.size[2]), lanes)
    product = None if plan.depthwise else _Product(forward, packed, plan, schedule)

    def elementwise(c: Any, ky: Any, kx: Any, gr: Any, p: Any) -> Complex:
        value = (forward.spectrum[c, 0, ky, kx, p], forward.spectrum[c, 1, ky, kx, p])
        weight = [packed[c % lanes, h, 0, c // lanes, ky, kx] for h in (0, 1)]
        return times(value, (weight[0], weight[1]))

    inverse = Inverse(product.value if product else elementwise, plan, lanes)
    c, gr, ox, oy, n = (hl.Var(v) for v in ("c", "g", "ox", "oy", "n"))
    ax, ay = plan.x, plan.y
    p = (n * ay.tiles + oy // ay.outputs) * ax.tiles + ox // ax.outputs
    at = (ox % ax.outputs * ax.stride, oy % ay.outputs * ay.stride)
    channel = c if plan.oc % lanes == 0 else hl.min(c, plan.oc - 1)
    residual = named["residual"][channel, gr, ox, oy, n] if "residual" in named else None
    bias = named["bias"][gr * plan.oc + channel] if "bias" in named else None
    out = hl.Func("out")
    value = hl.Expr(inverse.result[c, at[0], at[1], gr, p])
    out[c, gr, ox, oy, n] = apply_epilogue(problem.epilogue, value, bias, residual)
    _schedule(plan, schedule, lanes, y_shape, out, forward, product, inverse)
    pack = define_pack(problem, plan, nr, schedule.parallel)
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", packed_shape(plan, nr)))]
    return definition(problem, out, y_shape, operands, (extra, specs), pack)


def _schedule(
    plan: Plan, s: Schedule, lanes: int, y_shape: tuple[int, ...], out: Any, forward: Forward, product: Any, inverse: Any
) -> None:
    c, gr, ox, oy, n = (hl.Var(v) for v in ("c", "g", "ox", "oy", "n"))
    vector, lane, tx, ty, xi, yi, block, task = (
        hl.Var(v) for v in ("vector", "lane", "tx", "ty", "xi", "yi", "block", "task")
    )
    tail = hl.TailStrategy
    for var, extent in zip((c, gr, ox, oy, n), reversed(y_shape)):
        out.bound(var, 0, extent)
    out.split(ox, tx, xi, plan.x.outputs, tail.GuardWithIf).split(oy, ty, yi, plan.y.outputs, tail.GuardWithIf)
    out.split(c, vector, lane, lanes, tail.PredicateStores).vectorize(lane)
    out.reorder(lane, xi, yi, vector, gr, tx, ty, n)
    whole: tuple[Any, Any] | None = None
    if product is not None and s.blocks > 1:
        inner = hl.Var("inner")
        if plan.batch % s.blocks == 0:
            out.split(n, block, inner, plan.batch // s.blocks)
            out.reorder(lane, xi, yi, vector, gr, tx, ty, inner, block)
        else:
            out.split(ty, ty, inner, plan.batch * plan.y.tiles // s.blocks)
            out.reorder(lane, xi, yi, vector, gr, tx, inner, ty, n).fuse(ty, n, block)
        out.fuse(vector, gr, task).fuse(task, tx, task)
        if plan.batch % s.blocks == 0:
            out.fuse(task, ty, task)
        out.fuse(task, inner, task)
        whole = (out, block)
    else:
        out.fuse(vector, gr, task).fuse(task, tx, task).fuse(task, ty, task).fuse(task, n, task)
    if s.parallel:
        out.parallel(task)
    inverse.schedule((out, task))
    _schedule_forward(plan, s, lanes, forward, (out, task) if product is None else whole, product is None)
    if product is not None:
        product.schedule(whole, lanes)


def _schedule_forward(plan: Plan, s: Schedule, lanes: int, forward: Forward, level: Any, inside: bool) -> None:
    """The spectrum of one tile inside the task of a depthwise problem, or of a block of tiles before the products."""
    c, h, ky, kx, p, vector, task = (hl.Var(v) for v in ("c", "h", "ky", "kx", "p", "vector", "ftask"))
    spectrum, q = forward.spectrum, forward.spectrum_q
    spectrum = spectrum.compute_root() if level is None else spectrum.compute_at(*level)
    stage = spectrum.update(0)
    if inside:
        spectrum.align_storage(ky, plan.y.size + 1)
        stage.reorder(c, q, kx, p).vectorize(c, lanes)
        forward.schedule((spectrum, p), c)
        return
    lane = hl.Var("lane")
    spectrum.reorder_storage(c, h, p, ky, kx)
    stage.split(c, vector, lane, lanes, hl.TailStrategy.RoundUp).reorder(lane, q, kx, vector, p).vectorize(lane)
    stage.fuse(vector, p, task)
    if s.parallel:
        stage.parallel(task)
    forward.schedule((spectrum, task), c)
