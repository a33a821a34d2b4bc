"""gradient_direct: the gradient of the weights as a register-tiled product whose sum runs over the pixels.

    dw[oc, ic, k] = sum over n, o of dy[n, oc, o] * x[n, ic, o*stride + k*dilation - before]

Channels are innermost in both operands, so a pixel is a row of each: a tile of sums takes a few vectors of one operand and
broadcasts a few values of the other, pixel by pixel. From the outside in::

    for task (parallel): parts of the pixels, groups, parts of the panels
      for block: rows of pixels, copied in panels, with their zeros (`stage`)
        for panel: a few vectors of channels of one operand, which stay in L1
          for tile: a few channels of the other operand
            for tap
              for pixel: the hot loop

The copies have no borders, and the pixels of a tile lie side by side; in memory they are often a power of two apart and
share a few sets of L1. Of images with few channels the taps and channels are one axis: a tile may begin in one row of the
kernel and end in the next. A shift moves the addresses of the values that are broadcast. With `vectors="x"` a kernel of
one tap has its sums in PyTorch's order already.

Wins for all but depthwise problems and kernels that Winograd has. Cannot run: float64.
"""

from __future__ import annotations

from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Algorithm, Definition, Geometry
from ..algorithms.cost import with_memory_s
from ..machine import Machine
from ..schedule import Schedule
from ..shift import Shift, channel_offsets
from .blocks import Blocks, add_parts, first_of_tile, odd_rows, over_parts, pixel_space
from .direct_plan import PARAMETERS, Tiling, check, cost_cycles, macs_executed, schedules, workspace_bytes

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Any) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, WeightGradient):
        return "it computes gradients of weights"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; gradient_naive computes float64"
    return None


# --------------------------------------------------------------------------------------------------- define


def define(problem: WeightGradient, schedule: Schedule, machine: Machine) -> Definition:
    """Register tiles over blocks of pixels, their sums, and PyTorch's order at the end."""
    import halide as hl

    from ..algorithms.funcs import image
    from ..layers.base import definition

    g, s = pixel_space(problem.forward), schedule
    t, blocks = Tiling(g, s), Blocks(g, s.block_rows, s.parts)
    x_shape: tuple[int, ...] = (g.batch, *g.size, g.groups * g.ic)
    dy_shape = (g.batch, *g.out, g.groups * g.oc)
    w_shape = (g.groups * g.oc, g.ic, *g.kernel)
    if t.rows:
        x_shape = (g.batch, g.size[0], g.size[1], g.size[2] * g.ic)
    x, dy = image("x", x_shape), image("dy", dy_shape)
    x_of, x_staged = _x_access(problem, t, x, machine.lanes)
    dy_of, dy_staged = _dy_access(t, dy)
    v, u, kx, ky, kz, tile, panel, group = (hl.Var(name) for name in ("v", "u", "kx", "ky", "kz", "tile", "panel", "group"))
    block, part = (tuple(hl.Var(f"{name}_{axis}") for axis in "yzn") for name in ("block", "part"))
    r, pixel = blocks.pixel(block)
    sums, total, out = hl.Func("sums"), hl.Func("total"), hl.Func("out")
    a, b = (x_of, dy_of) if s.vectors == "x" else (dy_of, x_of)
    dims = (v, u, kx, ky, kz, tile, panel, group)
    sums[(*dims, *block)] += a(v, panel, group, pixel, (kx, ky, kz)) * b(u, tile, group, pixel, (kx, ky, kz))
    rb = add_parts(blocks, sums, total, dims, part)
    loops = _scatter(t, out, total)
    _schedule(t, machine, (sums, total, out), (r, rb, dims, part, loops))
    for staged in (x_staged, dy_staged):
        if staged is not None:
            staged.compute_at(total, rb[0])
    return definition(out, [("x", x, x_shape), ("dy", dy, dy_shape)], w_shape)


def _place(g: Geometry, o: Any, k: Any) -> list[Any]:
    """Where in padded coordinates an output pixel sees a tap, innermost axis first."""
    return [o[i] * g.stride[2 - i] + k[i] * g.dilation[2 - i] for i in range(3)]


def _x_access(problem: WeightGradient, t: Tiling, x: Any, lanes: int) -> tuple[Any, Any]:
    """`x` by channel of a tile, tile, group, output pixel and tap; and the Func of its copy, or None."""
    if t.rows:
        return _x_rows(t, x, lanes)
    if not t.s.stage:
        return lambda u, tile, group, o, k: x[(group * t.g.ic + t.x_channel(u, tile), *_place(t.g, o, k), o[3])], None
    return _x_panels(problem.forward.shift, t, x)


def _x_rows(t: Tiling, x: Any, lanes: int) -> tuple[Any, Any]:
    """Rows with pixel and channel as one axis: neighbouring taps of a kernel row are neighbours there."""
    import halide as hl

    from ..algorithms.funcs import padded_rows

    g, rows, row = t.g, padded_rows(x, t.g), t.g.kernel[2] * t.g.ic
    rows.vectorize(rows.args()[0], lanes, hl.TailStrategy.RoundUp)

    def access(u: Any, tile: Any, group: Any, o: Any, k: Any) -> Any:
        j = t.x_channel(u, tile)
        at = _place(g, o, (0, j // row % g.kernel[1], j // (row * g.kernel[1])))
        return rows[o[0] * (g.stride[2] * g.ic) + j % row, at[1], at[2], o[3]]

    return access, rows


def _x_panels(shift: Shift | None, t: Tiling, x: Any) -> tuple[Any, Any]:
    """Panels of a tile's channels, in padded coordinates."""
    import halide as hl

    from ..algorithms.funcs import padded_input

    g = t.g
    padded = padded_input(x, g) if g.padded or shift else x
    u, ix, iy, iz, n, tile, group = (hl.Var(v) for v in ("u", "ix", "iy", "iz", "n", "tile", "group"))
    # Of an axis with one tap the copy has the pixels that the stride leaves.
    apart = [kernel == 1 and stride > 1 and not shift for kernel, stride in zip(reversed(g.kernel), reversed(g.stride))]
    at = [i * stride if alone else i for i, stride, alone in zip((ix, iy, iz), reversed(g.stride), apart)]
    panels = hl.Func("x_panels")
    panels[u, ix, iy, iz, n, tile, group] = padded[(group * g.ic + t.x_channel(u, tile), *at, n)]
    panels.bound(u, 0, t.s.tile_x).reorder(u, tile, ix, iy, iz, n, group).vectorize(u)
    row = g.out[2] if apart[0] else (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    offsets = [by[-1] for by in channel_offsets(shift, g.ic)] if shift else [0]
    odd_rows(panels, ix, row + max(offsets) - min(offsets))

    def access(u: Any, tile: Any, group: Any, o: Any, k: Any) -> Any:
        spots = [o[i] if alone else spot for i, (spot, alone) in enumerate(zip(_place(g, o, k), apart))]
        if shift:
            spots = [spot + by for spot, by in zip(spots, [*_moved(shift, g.ic, t.x_channel(u, tile)), 0, 0])]
        return panels[(u, *spots, o[3], tile, group)]

    return access, panels


def _moved(shift: Shift, channels: int, c: Any) -> list[Any]:
    """As `funcs.moved_by`, with bounds, by which the copy knows what it needs."""
    import halide as hl

    from ..algorithms.funcs import moved_by

    reach = zip(*channel_offsets(shift, channels))
    bounds = [(min(offsets), max(offsets)) for offsets in reach][::-1]
    return [hl.unsafe_promise_clamped(by, *bound) for by, bound in zip(moved_by(shift, channels, c), bounds)]


def _dy_access(t: Tiling, dy: Any) -> tuple[Any, Any]:
    """As `_x_access`, of `dy`."""
    import halide as hl

    g = t.g
    if not t.s.stage:
        return lambda u, tile, group, o, k: dy[(group * g.oc + t.dy_channel(u, tile), *o)], None
    panels = hl.Func("dy_panels")
    u, ox, oy, oz, n, tile, group = (hl.Var(v) for v in ("u", "ox", "oy", "oz", "n", "tile", "group"))
    panels[u, ox, oy, oz, n, tile, group] = dy[group * g.oc + t.dy_channel(u, tile), ox, oy, oz, n]
    panels.bound(u, 0, t.s.tile_dy).reorder(u, tile, ox, oy, oz, n, group).vectorize(u)
    odd_rows(panels, ox, g.out[2])
    return lambda u, tile, group, o, k: panels[(u, *o, tile, group)], panels


def _scatter(t: Tiling, out: Any, total: Any) -> dict[str, Any]:
    """Define `out[kx, ky, kz, ic, oc]` from the sums of all parts; returns the loops of its update by name."""
    import halide as hl

    g, s = t.g, t.s
    kernel = (g.kernel[2], g.kernel[1], g.kernel[0])
    kx, ky, kz, ic, oc = (hl.Var(v) for v in ("kx", "ky", "kz", "ic", "oc"))
    out[kx, ky, kz, ic, oc] = hl.undef(hl.Float(32))
    (width, panels), (height, tiles) = t.vector, t.scalar
    channels = t.x if s.vectors == "x" else g.oc
    sizes = dict(zip(("v", "u", "kx", "ky", "kz"), (width, height, *t.taps)))
    order = ("v", "kx", "ky", "kz", "u") if t.in_order else ("kx", "ky", "kz", "u", "v")
    sizes = {**{name: sizes[name] for name in order}, "tile": tiles, "panel": panels // s.splits}
    sizes |= {"split": s.splits, "group": g.groups}
    o = hl.RDom([hl.Range(0, extent) for extent in sizes.values()], "o")
    loops = {name: o[axis] for axis, name in enumerate(sizes)}
    panel = loops["split"] * (panels // s.splits) + loops["panel"]
    if s.splits > 1 and channels % width:
        # The last panel is moved inwards; what it has in common with the panel before it is stored by that one's task.
        o.where(first_of_tile(panel, width, channels) + loops["v"] >= panel * width)
    along = [(loops["v"], panel), (loops["u"], loops["tile"])]
    along_x, along_dy = along if s.vectors == "x" else along[::-1]
    j, channel = t.x_channel(*along_x), t.dy_channel(*along_dy)
    if t.rows:
        row = g.kernel[2] * g.ic
        place = [j % row // g.ic, j // row % kernel[1], j // (row * kernel[1]), j % g.ic]
    else:
        place = [loops["kx"], loops["ky"], loops["kz"], j]
    place = [hl.unsafe_promise_clamped(i, 0, n - 1) for i, n in zip(place, (*kernel, g.ic))]
    sums_of = [*(loops[name] for name in ("v", "u", "kx", "ky", "kz", "tile")), panel, loops["group"]]
    out[(*place, loops["group"] * g.oc + channel)] = over_parts(Blocks(g, s.block_rows, s.parts), total, sums_of)
    for var, extent in zip((kx, ky, kz, ic, oc), (*kernel, g.ic, g.groups * g.oc)):
        out.bound(var, 0, extent)
    return loops


def _schedule(t: Tiling, machine: Machine, funcs: Any, loops: Any) -> None:
    import halide as hl

    s, (width, panels), (height, _) = t.s, t.vector, t.scalar
    lanes = min(width, machine.lanes)
    (sums, total, out), (r, rb, dims, part, o) = funcs, loops
    scatter = out.update(0)
    v, u, kx, ky, kz, tile, panel, group = dims
    # The sums of all parts become the result.
    scatter.allow_race_conditions()  # where tiles overlap, the same sums are stored again, by the same task
    scatter.vectorize(o["v"]) if t.in_order else scatter.unroll(o["kx"])
    task = hl.RVar("task")
    scatter.fuse(o["split"], o["group"], task)
    if s.parallel:
        scatter.parallel(task)
    # The sums of a part, block by block.
    if s.parts == 1:
        total.compute_at(out, task)
    else:
        total.compute_root()
    total.bound(v, 0, width).bound(u, 0, height)
    split = hl.Var("split")
    for stage in (total, total.update(0)):
        blocks = [] if stage is total else [rb[0], rb[1], rb[2]]
        if s.parts > 1:
            stage.split(panel, split, panel, panels // s.splits)
            stage.reorder(v, u, kx, ky, kz, tile, panel, *blocks, split, group, *part)
            for var in (group, *part):
                stage.fuse(split, var, split)
            if s.parallel:
                stage.parallel(split)
        else:
            stage.reorder(v, u, kx, ky, kz, tile, panel, *blocks, group, *part)
        stage.vectorize(v, lanes).unroll(v).unroll(u)
    sums.compute_at(total, kx).bound_extent(v, width).bound_extent(u, height)
    sums.vectorize(v, lanes).unroll(v).unroll(u)
    hot = sums.update(0).reorder(v, u, r[0], r[1], r[2], r[3]).vectorize(v, lanes).unroll(v).unroll(u)
    if s.unroll > 1:
        hot.unroll(r[0], s.unroll)


# ------------------------------------------------------------------------------------------------- the row


DIRECT = Algorithm(
    name="gradient_direct",
    equation="dw[oc, ic, k] = sum over pixels p of dy[p, oc] * x[p*stride + k*dilation - before, ic]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=macs_executed,
    workspace_bytes=workspace_bytes,
    parameters=PARAMETERS,
    kinds=(WeightGradient,),
    cost=lambda problem, s, machine: with_memory_s(machine, cost_cycles(problem, s, machine), problem.unique_bytes),
)
