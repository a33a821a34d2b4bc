"""transposed: a transposed convolution as its sub-pixel phases, without a zero stuffed in between.

    y[n, oc, u*s + r] = sum over j < T(r), ic of x[n, ic, u + first(r) - j*step] * w[ic, oc, k0(r) + j*(s/gcd(s, d))]

The outputs of one phase r (o mod s on every axis) see the same taps, those with k*d = r + before modulo s: each phase is
a small convolution of stride one with its share of the taps, and all phases together multiply only what the definition
does (Shi et al., arXiv 1609.05158 and 1609.07009; Dumoulin and Visin, arXiv 1603.07285, chapter 4). Phases are loops
around one register-tiled product: a task stages its input rows once and computes every phase from them, tile by tile,
and stores each pixel where it belongs. A phase without taps still gets the epilogue of zero. Where the kernel is as wide
as the stride, the phases of a row see the same pixel and lie side by side in memory, so they become channels.

Wins for every transposed problem with some channels to sum over. Cannot run: plain convolutions, float64.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div
from .phases import Phased, by_phase
from .tiles import (
    PARAMETERS,
    ProductShape,
    check_tiled,
    tiled_schedules,
    tiled_seconds,
    tiled_workspace,
    tiles_per_task,
)

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if isinstance(problem, GemmProblem):
        return "it computes transposed convolutions, and this is a matrix product"
    if not problem.transposed:
        return "it computes transposed convolutions only"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; naive computes float64"
    return None


# --------------------------------------------------------------------------------------------------- define


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(panels of all groups, kz, ky, kx, input channels, tile_channels)`, the taps of an axis sorted by phase."""
    f = Phased.of(problem)
    kernel = (axis.kernel for axis in f.axes)
    return (f.groups * ceil_div(f.oc, schedule.tile_channels), *kernel, f.ic, schedule.tile_channels)


def define_pack(problem: ConvProblem, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, ic, kx, ky, kz, panel]` from `w[kx, ky, kz, oc, ic]`."""
    import halide as hl

    from .funcs import dense, image
    from .packing import channels_of_block, parallel_tasks, vector

    f, nr = Phased.of(problem), schedule.tile_channels
    panels, oc = ceil_div(f.oc, nr), f.oc // f.merged
    w_shape = (f.groups * f.ic, oc, *Geometry.of(problem).kernel)
    w = image("w", w_shape)
    lane, ic, block, kx, ky, kz, panel = (hl.Var(v) for v in ("lane", "ic", "block", "kx", "ky", "kz", "panel"))
    channel = (panel % panels) * nr + lane
    inside = hl.min(channel, f.oc - 1) if f.oc % nr else channel
    z, y, x = (axis.sorted_tap(place) for axis, place in zip(f.axes, (kz, ky, kx)))
    value = w[x if f.merged == 1 else inside // oc, y, z, inside % oc, (panel // panels) * f.ic + ic]
    packed = hl.Func("packed")
    packed[lane, ic, kx, ky, kz, panel] = value if f.oc % nr == 0 else hl.select(channel < f.oc, value, hl.f32(0))
    shape = packed_shape(problem, schedule)
    for var, extent in zip((lane, ic, kx, ky, kz, panel), reversed(shape)):
        packed.bound(var, 0, extent)
    taps = math.prod(axis.kernel for axis in f.axes)
    packed.split(ic, block, ic, channels_of_block(f.ic, taps, nr), hl.TailStrategy.ShiftInwards)
    packed.reorder(lane, kx, ky, kz, ic, block, panel).vectorize(lane, vector(nr))
    parallel_tasks(packed, [block, panel], shape)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """The product of every phase; its pixels are stored one by one, `stride` apart."""
    import halide as hl

    from .funcs import definition, epilogue_inputs, image, padded_input

    f = Phased.of(problem)
    az, ay, ax = f.axes
    x_shape = (f.batch, az.size, ay.size, ax.size, f.groups * f.ic)
    y_shape = (f.batch, az.out, ay.out, ax.out, f.groups, f.oc)
    x, packed = image("x", x_shape), image("packed", packed_shape(problem, schedule))
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    plain = replace(Geometry.of(problem), size=(az.size, ay.size, ax.size), before=(0, 0, 0))
    source = padded_input(x, plain) if f.pads else x

    sums, inner, r = define_sums(f, schedule, source, packed)
    out, c, loops = define_stores(f, problem, schedule, sums, named)
    task = _schedule(schedule, machine.lanes, f, c, inner, sums, out, loops, r)
    if f.pads:
        source.compute_at(out, task).vectorize(source.args()[0], machine.lanes, hl.TailStrategy.GuardWithIf)
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", packed_shape(problem, schedule)))]
    return definition(problem, out, y_shape, operands, (extra, specs), define_pack(problem, schedule))


def define_sums(f: Phased, s: Schedule, source: Any, packed: Any) -> tuple[Any, list[Any], Any]:
    """`sums[oc, px, tile, rx, ry, rz, run, z, g, n]`, the register tile, its variables but the first, and the taps."""
    import halide as hl

    c, sums = hl.Var("c"), hl.Func("sums")
    inner = [hl.Var(name) for name in ("px", "tile", "rx", "ry", "rz", "run", "z", "g", "n")]
    group, batch = inner[-2:]
    axes = list(reversed(f.axes))
    r = hl.RDom([hl.Range(0, extent) for extent in (f.ic, *(axis.most_taps for axis in axes))], "tap")
    at, place = [group * f.ic + r[0]], []
    for axis, cell, phase, j in zip(axes, cells(f, s, inner), inner[2:5], (r[1], r[2], r[3])):
        counts = [axis.taps(phase) for phase in axis.phases]
        if min(counts) < axis.most_taps:
            r.where(j < by_phase(phase, counts))
        first = by_phase(phase, [axis.first(phase) for phase in axis.phases])
        low, high = axis.reach
        at.append(hl.unsafe_promise_clamped(cell + first - j * axis.step, cell + low, cell + high))
        first_place = by_phase(phase, [axis.place(phase) for phase in axis.phases])
        place.append(hl.unsafe_promise_clamped(first_place + j, 0, axis.kernel - 1))
    panel = group * ceil_div(f.oc, s.tile_channels) + c // s.tile_channels
    sums[(c, *inner)] += packed[(c % s.tile_channels, r[0], *place, panel)] * source[(*at, batch)]
    return sums, inner, r


def define_stores(f: Phased, problem: ConvProblem, s: Schedule, sums: Any, named: dict[str, Any]) -> tuple[Any, Any, Any]:
    """`out[oc, g, x, y, z, n]`, written where each sum belongs; with its channel variable and its loops."""
    import halide as hl

    from .funcs import apply_epilogue
    from .tiled import Extents, channel_bias, clamped_channel

    c, axes = hl.Var("c"), list(reversed(f.axes))
    slices = (f.axes[0].cells, f.groups, f.batch)
    tiles, each = run_tiles(f, s)
    extents = [s.tile_pixels, each, *(len(axis.phases) for axis in axes), ceil_div(tiles, each), *slices]
    o = hl.RDom([hl.Range(0, extent) for extent in extents], "o")
    loops = [o[index] for index in range(len(extents))]
    group, batch = loops[-2:]
    if tiles % each:
        o.where(loops[5] * each + loops[1] < tiles)
    spot = []
    for axis, cell, phase in zip(axes, cells(f, s, loops), loops[2:5]):
        lasts = [axis.last(r) for r in axis.phases]
        if min(lasts) + 1 < axis.cells:
            o.where(cell <= by_phase(phase, lasts))
        spot.append(hl.unsafe_promise_clamped(cell * axis.stride + phase, 0, axis.out - 1))
    bias = None
    if "bias" in named:
        repeated, i = hl.Func("repeated"), hl.Var("i")
        repeated[i] = named["bias"][i % problem.out_channels]
        e = Extents(f.oc, f.pixels, f.groups, f.axes[0].cells, f.batch, (f.ic,))
        bias = channel_bias(named["bias"] if f.merged == 1 else repeated.compute_root(), e, s.tile_channels)(c, group)
    residual = None
    if "residual" in named:
        residual = named["residual"][(clamped_channel(c, f.oc, s.tile_channels), group, *spot, batch)]
    out = hl.Func("out")
    out[tuple(hl.Var(v) for v in ("c", "g", "x", "y", "z", "n"))] = hl.undef(hl.Float(32))
    out[(c, group, *spot, batch)] = apply_epilogue(problem.epilogue, hl.Expr(sums[(c, *loops)]), bias, residual)
    return out, c, loops


def run_tiles(f: Phased, s: Schedule) -> tuple[int, int]:
    """The tiles of a phase, and of a run, which is what a task computes of it (see `tiles.tiles_per_task`)."""
    if f.pixels % s.task_pixels:
        return ceil_div(f.pixels, s.tile_pixels), tiles_per_task(f.pixels, s.tile_pixels, s.task_pixels)
    each = ceil_div(s.task_pixels, s.tile_pixels)
    return f.pixels // s.task_pixels * each, each


def cells(f: Phased, s: Schedule, loops: list[Any]) -> list[Any]:
    """The output within its phase, `[x, y, z]`, that the loops `[px, tile, rx, ry, rz, run, z, ...]` stand for.

    The last tile (of each run, where runs divide the pixels) is shifted inwards. Phases that end before the others have
    cells that belong to no output.
    """
    import halide as hl

    ax, (px, tile), run = f.axes[2], loops[:2], loops[5]
    if f.pixels % s.task_pixels:
        p = hl.min((run * run_tiles(f, s)[1] + tile) * s.tile_pixels, f.pixels - s.tile_pixels) + px
    else:
        p = run * s.task_pixels + hl.min(tile * s.tile_pixels, s.task_pixels - s.tile_pixels) + px
    return [p % ax.cells, p // ax.cells, loops[6]]


def _schedule(
    s: Schedule, lanes: int, f: Phased, c: Any, inner: list[Any], sums: Any, out: Any, loops: list[Any], r: Any
) -> Any:
    """Loops from the inside: lanes, pixels, tiles, phases, panels, tasks; returns the loop of tasks."""
    import halide as hl

    panel, lane, part = hl.Var("panel"), hl.Var("lane"), hl.Var("part")
    task = hl.RVar("task")
    store = out.update(0)
    px, tile, *phases = loops[:5]
    outer = loops[5:]
    if f.oc % s.tile_channels:
        store.split(c, panel, lane, s.tile_channels, hl.TailStrategy.PredicateStores).vectorize(lane)
        parts = [] if s.channel_parts == 1 else [panel]
        store.reorder(lane, px, tile, *phases, *([] if parts else [panel]), outer[0], *parts, *outer[1:])
    else:
        store.split(c, panel, lane, s.tile_channels)
        store.split(panel, part, panel, ceil_div(f.oc, s.tile_channels) // s.channel_parts)
        parts = [part]
        store.reorder(lane, px, tile, *phases, panel, outer[0], part, *outer[1:])
        store.vectorize(lane, lanes).unroll(lane)
    store.unroll(px)
    fused = outer[0]
    for var in (*parts, *outer[1:]):
        store.fuse(fused, var, task)
        fused = task
    store.allow_race_conditions()  # every output belongs to one task
    if s.parallel:
        store.parallel(task)
    sums.compute_at(out, tile).bound_extent(c, s.tile_channels).bound_extent(inner[0], s.tile_pixels)
    sums.vectorize(c, lanes).unroll(c).unroll(inner[0])
    hot = sums.update(0).reorder(c, inner[0], r[0], r[1], r[2], r[3]).vectorize(c, lanes).unroll(c).unroll(inner[0])
    if s.unroll > 1:
        hot.unroll(r[0], s.unroll)
    return task


# ------------------------------------------------------------------------------------------------ schedules


def product_shape(problem: ConvProblem) -> ProductShape:
    """The problem as the cost model sees it: all phases of a pixel together."""
    f = Phased.of(problem)
    az, ay, ax = f.axes
    row_bytes = 4.0 * f.ic * (ax.cells + ax.reach[1] - ax.reach[0]) * (1 + az.reach[1] - az.reach[0]) if f.pads else 0.0
    return ProductShape(
        oc=f.oc,
        pixels=f.pixels,
        slices=f.groups * f.batch * az.cells,
        inner_taps=f.ic,
        outer_taps=max(f.outer_taps, 1),
        row=ax.cells if f.pads else 1,
        staged_bytes_per_pixel=row_bytes / ax.cells,
        staged_bytes_per_task=row_bytes * (ay.reach[1] - ay.reach[0]),
        phases=f.phases,
    )


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first."""
    found = tiled_schedules("transposed", product_shape(problem), machine, limit=40)
    return [s for s in found if s.k_blocks == 1][:12]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    reason = check_tiled(product_shape(problem), schedule, machine)
    return "k_blocks must be 1" if reason is None and schedule.k_blocks > 1 else reason


# ------------------------------------------------------------------------------------------------- the row


def macs_executed(problem: ConvProblem, s: Schedule) -> int:
    """Multiply-accumulates really done: every phase computes all pixels with its own taps, in whole tiles and panels."""
    f = Phased.of(problem)
    tiles, _ = run_tiles(f, s)
    lanes = ceil_div(f.oc, s.tile_channels) * s.tile_channels
    slices = f.groups * f.batch * f.axes[0].cells
    return int(slices * tiles * s.tile_pixels * lanes * f.ic * f.outer_taps)


TRANSPOSED = Algorithm(
    name="transposed",
    equation="y[oc, u*s + r] = sum over the taps j of phase r of w[ic, oc, k(r, j)] * x[ic, u + first(r) - j*step]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=macs_executed,
    workspace_bytes=lambda problem, s, threads: tiled_workspace(product_shape(problem), s, threads),
    parameters=PARAMETERS,
    cost=lambda problem, s, machine: tiled_seconds(problem, product_shape(problem), s, machine),
)
