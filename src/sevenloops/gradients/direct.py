"""gradient_direct: the gradient of the weights as a register-tiled product whose sum runs over the pixels.

    dw[oc, ic, k] = sum over n, o of dy[n, oc, o] * x[n, ic, o*stride + k*dilation - before]

Channels are innermost in both operands, so a pixel is a row of each: a tile of sums takes a few vectors of one operand and
broadcasts a few values of the other, pixel by pixel. From the outside in::

    for task (parallel): parts of the pixels, groups, parts of the panels
      for block: rows of pixels, copied in panels, with their zeros
        for panel: a few vectors of channels of one operand, which stay in L1
          for tile: a few channels of the other operand
            for tap
              for pixel: the hot loop

The copies have no borders, and neighbouring pixels of a tile lie side by side: as they lie in memory they would be a power of
two apart and share a few sets of L1. Of images with few channels the taps and channels are one axis: a tile may begin in
one row of the kernel and end in the next. With `vectors="x"` a kernel of one tap has its sums in PyTorch's order already.

Wins for all but depthwise problems and kernels that Winograd has. Cannot run: float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Algorithm, Definition, Geometry, ceil_div
from ..algorithms.cost import FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, with_memory_s
from ..machine import Machine
from ..schedule import Schedule
from .blocks import Blocks, add_parts, block_sizes, first_of_tile, over_parts, pixel_space, unrolled, vector_width

PARAMETERS = {
    "vectors": "the operand whose channels are vectors, 'dy' or 'x'; the other's are broadcast",
    "tile_x": "channels of x in the register tile",
    "tile_dy": "channels of dy in the register tile",
    "block_rows": "rows of pixels in a block",
    "parts": "parts of the pixels that have sums of their own",
    "splits": "into how many parts the panels of vectors are divided among tasks",
    "unroll": "pixels in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Any) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, WeightGradient):
        return "it computes gradients of weights"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; gradient_naive computes float64"
    return None


# --------------------------------------------------------------------------------------------------- define


def by_rows(g: Geometry) -> bool:
    """Whether taps and channels of x are one axis: an image, whose few channels would leave tiles half empty."""
    return g.groups == 1 and g.ic < 6 and g.dilation[2] == 1 and g.kernel[2] > 1


@dataclass(frozen=True)
class Tiling:
    """How a schedule divides the channels: of each operand, those of a group, of a tile, and the tiles."""

    g: Geometry
    s: Schedule

    @property
    def rows(self) -> bool:
        """See `by_rows`."""
        return by_rows(self.g)

    @property
    def x(self) -> int:
        """Channels of x in a group, times all taps where these are one axis."""
        return self.g.taps if self.rows else self.g.ic

    @property
    def taps(self) -> tuple[int, int, int]:
        """The loop over taps (x, y, z)."""
        return (1, 1, 1) if self.rows else (self.g.kernel[2], self.g.kernel[1], self.g.kernel[0])

    @property
    def tiles_x(self) -> int:
        """Tiles along x; the last one is moved inwards."""
        return ceil_div(self.x, self.s.tile_x)

    @property
    def tiles_dy(self) -> int:
        """Tiles along dy; the last one is moved inwards."""
        return ceil_div(self.g.oc, self.s.tile_dy)

    @property
    def vector(self) -> tuple[int, int]:
        """Channels of a tile and tiles of the operand in vectors."""
        return (self.s.tile_x, self.tiles_x) if self.s.vectors == "x" else (self.s.tile_dy, self.tiles_dy)

    @property
    def scalar(self) -> tuple[int, int]:
        """The same of the operand that is broadcast."""
        return (self.s.tile_dy, self.tiles_dy) if self.s.vectors == "x" else (self.s.tile_x, self.tiles_x)


def define(problem: WeightGradient, schedule: Schedule, machine: Machine) -> Definition:
    """Register tiles over blocks of pixels, their sums, and PyTorch's order at the end."""
    import halide as hl

    from ..algorithms.funcs import image
    from ..layers.base import definition

    forward, s = problem.forward, schedule
    g = pixel_space(forward)
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
        staged.compute_at(total, rb[0])
    return definition(out, [("x", x, x_shape), ("dy", dy, dy_shape)], w_shape)


def in_order(t: Tiling) -> bool:
    """Whether the sums of a vector lie side by side in the result."""
    return t.s.vectors == "x" and math.prod(t.taps) == 1 and not t.rows


def _x_access(problem: WeightGradient, t: Tiling, x: Any, lanes: int) -> tuple[Any, Any]:
    """`x` by channel of a tile, tile, group, output pixel and tap; and the Func of its copy."""
    import halide as hl

    from ..algorithms.funcs import moved_by, padded_input, padded_rows

    g, width = t.g, t.s.tile_x
    place = lambda o, k: [o[i] * g.stride[2 - i] + k[i] * g.dilation[2 - i] for i in range(3)]  # noqa: E731
    if t.rows:
        source = padded_rows(x, g)
        source.vectorize(source.args()[0], lanes, hl.TailStrategy.RoundUp)
        row = g.kernel[2] * g.ic

        def by_row(u: Any, tile: Any, group: Any, o: Any, k: Any) -> Any:
            j = first_of_tile(tile, width, t.x) + u
            y, z = j // row % g.kernel[1], j // (row * g.kernel[1])
            at = place(o, (0, y, z))
            return source[o[0] * (g.stride[2] * g.ic) + j % row, at[1], at[2], o[3]]

        return by_row, source
    shift = problem.forward.shift
    padded = padded_input(x, g) if g.padded or shift else x
    u, ix, iy, iz, n, tile, group = (hl.Var(v) for v in ("u", "ix", "iy", "iz", "n", "tile", "group"))
    channel = first_of_tile(tile, width, t.x) + u
    at = [ix, iy, iz]
    # Of a kernel with one tap the copy has the pixels that the stride leaves.
    apart = [kernel == 1 and stride > 1 for kernel, stride in zip(reversed(g.kernel), reversed(g.stride))]
    at = [i * stride if alone else i for i, stride, alone in zip(at, reversed(g.stride), apart)]
    if shift:
        moved = moved_by(shift, g.ic, channel)
        at = [i + by for i, by in zip(at, [*moved, 0, 0])]
    staged = hl.Func("x_panels")
    staged[u, ix, iy, iz, n, tile, group] = padded[(group * g.ic + channel, *at, n)]
    staged.bound(u, 0, width).reorder(u, tile, ix, iy, iz, n, group)
    staged.vectorize(u)

    def by_tile(u: Any, tile: Any, group: Any, o: Any, k: Any) -> Any:
        spots = [o[i] if alone else spot for i, (spot, alone) in enumerate(zip(place(o, k), apart))]
        return staged[(u, *spots, o[3], tile, group)]

    return by_tile, staged


def _dy_access(t: Tiling, dy: Any) -> tuple[Any, Any]:
    """As `_x_access`, of `dy`."""
    import halide as hl

    g, width = t.g, t.s.tile_dy
    staged = hl.Func("dy_panels")
    u, ox, oy, oz, n, tile, group = (hl.Var(v) for v in ("u", "ox", "oy", "oz", "n", "tile", "group"))
    staged[u, ox, oy, oz, n, tile, group] = dy[group * g.oc + first_of_tile(tile, width, g.oc) + u, ox, oy, oz, n]
    staged.bound(u, 0, width).reorder(u, tile, ox, oy, oz, n, group)
    staged.vectorize(u)
    return lambda u, tile, group, o, k: staged[(u, *o, tile, group)], staged


def _scatter(t: Tiling, out: Any, total: Any) -> dict[str, Any]:
    """Define `out[kx, ky, kz, ic, oc]` from the sums of all parts; returns the loops of its update by name."""
    import halide as hl

    g, s = t.g, t.s
    kernel = (g.kernel[2], g.kernel[1], g.kernel[0])
    kx, ky, kz, ic, oc = (hl.Var(v) for v in ("kx", "ky", "kz", "ic", "oc"))
    out[kx, ky, kz, ic, oc] = hl.undef(hl.Float(32))
    (width, panels), (height, tiles) = t.vector, t.scalar
    sizes = dict(zip(("v", "u", "kx", "ky", "kz"), (width, height, *t.taps)))
    order = ("v", "kx", "ky", "kz", "u") if in_order(t) else ("kx", "ky", "kz", "u", "v")
    sizes = {**{name: sizes[name] for name in order}, "tile": tiles, "panel": panels // s.splits}
    sizes |= {"split": s.splits, "group": g.groups}
    o = hl.RDom([hl.Range(0, extent) for extent in sizes.values()], "o")
    loops = {name: o[axis] for axis, name in enumerate(sizes)}
    panel = loops["split"] * (panels // s.splits) + loops["panel"]
    along_x, along_dy = ((loops["v"], panel), (loops["u"], loops["tile"]))
    if s.vectors == "dy":
        along_x, along_dy = along_dy, along_x
    j, channel = (first_of_tile(i, w, n) + u for (u, i), w, n in ((along_x, s.tile_x, t.x), (along_dy, s.tile_dy, g.oc)))
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

    g, s = t.g, t.s
    (width, panels), (height, _) = t.vector, t.scalar
    lanes = min(width, machine.lanes)
    (sums, total, out), (r, rb, dims, part, o) = funcs, loops
    scatter = out.update(0)
    v, u, kx, ky, kz, tile, panel, group = dims
    # The sums of all parts become the result.
    scatter.allow_race_conditions()  # where tiles overlap, the same sums are stored again, by the same task
    scatter.vectorize(o["v"]) if in_order(t) else scatter.unroll(o["kx"])
    task = hl.RVar("task")
    scatter.fuse(o["split"], o["group"], task)
    if s.parallel:
        scatter.parallel(task)
    # The sums of a part, block by block.
    if s.parts == 1:
        total.compute_at(out, task)
    else:
        total.compute_root()
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


# ------------------------------------------------------------------------------------------------ schedules

#: cycles to copy a vector, or less than one, into a panel
COPY_CYCLES = 2.0
#: cycles of a tile outside its pixels for each of its vectors, and besides; of a row of pixels
SUM_CYCLES, TILE_CYCLES, ROW_CYCLES = 1.5, 25.0, 4.0
#: cycles of a result in the last stage, for each part that it is added up from, and in PyTorch's order
ADD_CYCLES, PLACE_CYCLES = 0.4, 1.6
#: latency of a multiply-add, registers that the tile must leave
FMA_LATENCY, SPARE = 4, 1
#: register tiles that are tried
TILES = 4
#: share of a task that a core waits for at the end
TAIL = 0.3


def hot_cycles(height: int, vectors: int) -> float:
    """Cycles of a pixel in the hot loop: multiply-adds on two ports, loads on two, and the latency of a sum."""
    fma, loads = height * vectors / 2, (height + vectors) / 2
    return max(fma, loads, FMA_LATENCY) + 0.1 * loads + 0.3


def _cycles(problem: WeightGradient, s: Schedule, machine: Machine) -> float:
    """Cycles on all cores by the model."""
    g = pixel_space(problem.forward)
    t, blocks = Tiling(g, s), Blocks(g, s.block_rows, s.parts)
    (width, panels), (height, tiles) = t.vector, t.scalar
    vectors, panels = ceil_div(width, machine.lanes), panels // s.splits
    taps = math.prod(t.taps)
    tile_sums = height * vectors
    rows = blocks.pixels // g.out[2]
    tile = blocks.pixels * hot_cycles(height, vectors) + rows * ROW_CYCLES + tile_sums * SUM_CYCLES + TILE_CYCLES
    # What is copied: the operand in vectors for the panels of the task, the other one whole.
    tiles_x = panels if s.vectors == "x" else tiles
    tiles_dy = tiles if s.vectors == "x" else panels
    seen = blocks.staged_pixels()
    copies_x = seen * (g.ic / machine.lanes if t.rows else tiles_x * ceil_div(s.tile_x, machine.lanes))
    copies_dy = blocks.pixels * tiles_dy * ceil_div(s.tile_dy, machine.lanes)
    copies = copies_x + copies_dy
    x_bytes, dy_bytes = 4 * seen * g.ic, 4 * blocks.pixels * g.oc
    level = L2_BYTES_PER_CYCLE if x_bytes + dy_bytes < 0.7 * machine.l2_bytes else L3_BYTES_PER_CYCLE
    panel_bytes = 4 * (blocks.pixels if s.vectors == "dy" else seen) * width
    tile_bytes = 4 * (seen if s.vectors == "dy" and not t.rows else blocks.pixels) * height
    # A panel is read from L1 if it stays there beside a tile of the other operand, which comes once for all taps.
    tile = max(tile, (panel_bytes / L2_BYTES_PER_CYCLE) * (panel_bytes + 2 * tile_bytes > machine.l1_bytes))
    sums_bytes = 4 * panels * width * tiles * height * taps
    sums_level = L2_BYTES_PER_CYCLE if sums_bytes < 0.4 * machine.l2_bytes else L3_BYTES_PER_CYCLE
    block = panels * tiles * (taps * tile + 0.3 * tile_bytes / level) + copies * COPY_CYCLES
    block += 0.5 * 2 * sums_bytes / sums_level + (x_bytes + dy_bytes) / L3_BYTES_PER_CYCLE * 0.3
    task = math.prod(blocks.each) * block + 500
    tasks = s.parts * s.splits * g.groups
    results = g.groups * g.oc * g.taps
    last = results * (s.parts * ADD_CYCLES + (0.5 if in_order(t) else PLACE_CYCLES))
    if not s.parallel:
        return tasks * task + last
    cores = machine.cores
    return (ceil_div(tasks, cores) + TAIL) * task + last / cores + FORK_CYCLES * (1 if s.parts == 1 else 3)


def tile_sizes(g: Geometry, machine: Machine) -> list[tuple[str, int, int]]:
    """The best few tiles `(vectors, tile_x, tile_dy)` that fit the registers, by the cycles of a pixel."""
    found: dict[tuple[str, int, int], float] = {}
    x = g.taps if by_rows(g) else g.ic
    for operand, along, across in (("dy", g.oc, x), ("x", x, g.oc)):
        lanes = vector_width(along, machine.lanes)
        if operand == "x" and by_rows(g):
            continue
        for vectors in range(1, min(7 if machine.vector_registers >= 32 else 4, along // lanes + 1)):
            for height in range(1, min(across, (machine.vector_registers - SPARE - vectors) // vectors) + 1):
                tiles = ceil_div(along, vectors * lanes) * ceil_div(across, height)
                tile = (height, vectors * lanes) if operand == "dy" else (vectors * lanes, height)
                found[(operand, *tile)] = tiles * hot_cycles(height, vectors)
    return sorted(found, key=lambda tile: (found[tile], tile))[:TILES]


def _shares(t: Tiling, count: int, machine: Machine) -> list[tuple[int, int]]:
    """Pairs of `parts` and `splits` that make a few tasks for each core."""
    panels, groups = t.vector[1], t.g.groups
    found = []
    for splits in sorted({d for d in (1, 2, 4, 8, panels) if panels % d == 0}):
        wanted = [p for p in (1, 2, 4, 8, 16, 32) if p <= count]
        enough = [p for p in wanted if 4 * machine.cores <= p * splits * groups <= 32 * machine.cores]
        found += [(p, splits) for p in sorted({*enough[:2], *([1] if splits * groups >= machine.cores else wanted[-1:])})]
    return found


def schedules(problem: WeightGradient, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the model."""
    g = pixel_space(problem.forward)
    parallel = machine.cores > 1 and problem.macs > 200_000
    found: dict[Schedule, float] = {}
    for operand, tile_x, tile_dy in tile_sizes(g, machine):
        t = Tiling(g, Schedule("", vectors=operand, tile_x=tile_x, tile_dy=tile_dy))
        for block_rows in block_sizes(g):
            for parts, splits in _shares(t, Blocks(g, block_rows, 1).count, machine):
                if Blocks(g, block_rows, parts).reason() is not None:
                    continue
                s = Schedule(
                    "gradient_direct",
                    vectors=operand,
                    tile_x=tile_x,
                    tile_dy=tile_dy,
                    block_rows=block_rows,
                    parts=parts,
                    splits=splits,
                    unroll=unrolled(g.out[2]),
                    parallel=parallel,
                )
                found[s] = _cycles(problem, s, machine)
    return sorted(found, key=lambda s: (found[s], repr(s)))[:12]


def check(problem: WeightGradient, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    if set(schedule.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(schedule.params)}"
    return None


# ------------------------------------------------------------------------------------------------- the row


def _macs(problem: WeightGradient, s: Schedule) -> int:
    g = pixel_space(problem.forward)
    t = Tiling(g, s)
    tiles = t.tiles_x * s.tile_x * t.tiles_dy * s.tile_dy * math.prod(t.taps)
    return int(tiles * g.groups * g.slices * g.pixels)


def _workspace(problem: WeightGradient, s: Schedule, threads: int) -> int:
    return 0


DIRECT = Algorithm(
    name="gradient_direct",
    equation="dw[oc, ic, k] = sum over pixels p of dy[p, oc] * x[p*stride + k*dilation - before, ic]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    kinds=(WeightGradient,),
    cost=lambda problem, s, machine: with_memory_s(machine, _cycles(problem, s, machine), problem.unique_bytes),
)
