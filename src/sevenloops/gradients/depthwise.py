"""gradient_depthwise: the gradient of a depthwise convolution's weights.

    dw[c, k] = sum over n, o of dy[n, c, o] * x[n, c // multiplier, o*stride + k*dilation - before]

Both operands are read once for K*K multiply-adds a pixel, so memory is the limit (Howard et al., MobileNets, arXiv
1704.04861). Channels are the vector axis. The sums of a few taps stay in registers while the pixels of a block run past:
a pixel loads one vector of `dy`, and one of `x` for each tap. A block of rows is copied first, with its padding, vector by
vector of channels: the copy reads memory in order, which takes half the time of reading a vector of each pixel where it
lies. It repeats the channels of a multiplier.

Wins for groups = in_channels. Cannot run: anything else, float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Algorithm, Definition, Geometry, ceil_div
from ..algorithms.cost import FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, with_memory_s
from ..machine import Machine
from ..schedule import Schedule
from .blocks import (
    Blocks,
    add_parts,
    block_sizes,
    check_parameters,
    first_of_tile,
    over_parts,
    vector_width,
)

PARAMETERS = {
    "tile_width": "taps of a kernel row in the register tile",
    "tile_height": "kernel rows of the register tile",
    "block_rows": "rows of pixels in a block",
    "parts": "parts of the pixels that have sums of their own",
    "unroll": "pixels in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Any) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, WeightGradient):
        return "it computes gradients of weights"
    forward = problem.forward
    if not forward.is_depthwise:
        return f"it needs groups = in_channels > 1, got groups={forward.groups}, in_channels={forward.in_channels}"
    if forward.shift is not None:
        return "it does not shift channels; gradient_direct does"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; gradient_naive computes float64"
    return None


# --------------------------------------------------------------------------------------------------- define


@dataclass(frozen=True)
class Taps:
    """How a schedule divides channels and taps; a last tile is moved inwards."""

    g: Geometry
    s: Schedule
    lanes: int

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.g.groups * self.g.oc

    @property
    def width(self) -> int:
        """Channels of a vector."""
        return vector_width(self.channels, self.lanes)

    @property
    def extents(self) -> tuple[int, int, int, int, int, int, int]:
        """Loops of a block's sums: channels and taps (x, y) of a tile, tiles (x, y), taps (z), blocks of channels."""
        (kd, kh, kw), s = self.g.kernel, self.s
        tiles = ceil_div(kw, s.tile_width), ceil_div(kh, s.tile_height)
        return self.width, s.tile_width, s.tile_height, *tiles, kd, ceil_div(self.channels, self.width)


def define(problem: WeightGradient, schedule: Schedule, machine: Machine) -> Definition:
    """Taps in registers, channels in vectors, pixels under the sum."""
    import halide as hl

    from ..algorithms.funcs import image
    from ..layers.base import definition

    g, s = Geometry.of(problem.forward), schedule
    t, blocks = Taps(g, s, machine.lanes), Blocks(g, s.block_rows, s.parts)
    x_shape, dy_shape = (g.batch, *g.size, g.groups), (g.batch, *g.out, t.channels)
    x, dy = image("x", x_shape), image("dy", dy_shape)
    x_of, dy_of, staged = _operands(t, x, dy)
    dims = [hl.Var(v) for v in ("v", "jx", "jy", "tx", "ty", "kz", "cb")]
    block, part = (tuple(hl.Var(f"{name}_{axis}") for axis in "yzn") for name in ("block", "part"))
    r, pixel = blocks.pixel(block)
    taps = _place(t, dims)[1]
    at = [pixel[i] * g.stride[2 - i] + taps[i] * g.dilation[2 - i] for i in range(3)]
    sums, total, out = hl.Func("sums"), hl.Func("total"), hl.Func("out")
    sums[(*dims, *block)] += dy_of(dims[0], dims[-1], *pixel) * x_of(dims[0], dims[-1], *at, pixel[3])
    rb = add_parts(blocks, sums, total, dims, part)
    kx, ky, kz, ic, oc = (hl.Var(v) for v in ("kx", "ky", "kz", "ic", "oc"))
    o = hl.RDom([hl.Range(0, extent) for extent in t.extents], "o")
    loops = [o[axis] for axis in range(len(t.extents))]
    channel, taps = _place(t, loops)
    added = hl.Func("added")  # of all parts
    added[dims] = over_parts(blocks, total, dims)
    out[kx, ky, kz, ic, oc] = hl.undef(hl.Float(32))
    out[(*taps, 0, channel)] = added[loops]
    _schedule(t, (sums, total, added, out), (r, rb, dims, part, loops))
    for copy in staged:
        copy.compute_at(total, rb[0])
    shape = (t.channels, 1, *g.kernel)
    return definition(out, [("x", x, x_shape), ("dy", dy, dy_shape)], shape)


def _schedule(t: Taps, funcs: Any, loops: Any) -> None:
    import halide as hl

    s, (sums, total, added, out), (r, rb, dims, part, o) = t.s, funcs, loops
    v, jx, jy, tx, *_ = dims
    added.compute_at(out, o[-1]).vectorize(v)
    if s.parallel and t.channels % t.width == 0:  # else the last vector is moved inwards, over another task's channels
        out.update(0).allow_race_conditions()  # tiles of taps overlap in one task
        out.update(0).parallel(o[-1])
    total.compute_root()
    for stage in (total, total.update(0)):
        stage.reorder(*dims, *([] if stage is total else [rb[0], rb[1], rb[2]]), *part)
        stage.vectorize(v).unroll(jx).unroll(jy)
        if s.parallel:
            task = hl.Var("task")
            stage.fuse(part[0], part[1], task).fuse(task, part[2], task).parallel(task)
    sums.compute_at(total, tx).bound_extent(jx, s.tile_width).bound_extent(jy, s.tile_height)
    sums.vectorize(v).unroll(jx).unroll(jy)
    hot = sums.update(0).reorder(v, jx, jy, r[0], r[1], r[2], r[3]).vectorize(v).unroll(jx).unroll(jy)
    if s.unroll > 1:
        hot.unroll(r[0], s.unroll)


def _operands(t: Taps, x: Any, dy: Any) -> tuple[Any, Any, list[Any]]:
    """`x` (in padded coordinates) and `dy` by lane, block of channels and pixel, and the Funcs of their copies."""
    import halide as hl

    from ..algorithms.funcs import padded_input

    g = t.g
    v, cb, *at = (hl.Var(name) for name in ("v", "cb", "ix", "iy", "iz", "n"))
    copies, channel = [], first_of_tile(cb, t.width, t.channels) + v
    for name, source, c in (
        ("x_panels", padded_input(x, g) if g.padded else x, channel // g.oc),
        ("dy_panels", dy, channel),
    ):
        copy = hl.Func(name)
        copy[(v, *at, cb)] = source[(c, *at)]
        copy.bound(v, 0, t.width).reorder(v, cb, *at).vectorize(v)
        copies.append(copy)
    return lambda v, cb, *at: copies[0][(v, *at, cb)], lambda v, cb, *at: copies[1][(v, *at, cb)], copies


def _place(t: Taps, dims: list[Any]) -> tuple[Any, list[Any]]:
    """The channel, and the tap (x, y, z), of the loops of `Taps.extents`."""
    v, jx, jy, tx, ty, kz, cb = dims
    kw, kh = t.g.kernel[2], t.g.kernel[1]
    taps = [first_of_tile(tx, t.s.tile_width, kw) + jx, first_of_tile(ty, t.s.tile_height, kh) + jy, kz]
    return first_of_tile(cb, t.width, t.channels) + v, taps


# ------------------------------------------------------------------------------------------------ schedules

#: cycles of a tile outside its pixels for each of its vectors, and besides; of a row of pixels
SUM_CYCLES, TILE_CYCLES, ROW_CYCLES = 2.0, 20.0, 8.0
#: cycles to copy a vector
COPY_CYCLES = 2.0
#: loads of a core in a cycle; share of a task that a core waits for at the end
LOADS_PER_CYCLE, TAIL = 2.0, 0.3


def _cycles(problem: WeightGradient, s: Schedule, machine: Machine) -> float:
    """Cycles on all cores by the model: loads, multiply-adds and their latency; blocks that come from L3."""
    g = Geometry.of(problem.forward)
    t, blocks = Taps(g, s, machine.lanes), Blocks(g, s.block_rows, s.parts)
    taps = s.tile_width * s.tile_height
    *_, tx, ty, kz, cb = t.extents
    hot = max((taps + 1) / LOADS_PER_CYCLE, taps / 2, 4.0) + 0.5
    spilled = max(0, taps + 2 - machine.vector_registers)
    rows = blocks.pixels // g.out[2]
    tile = blocks.pixels * (hot + spilled) + rows * ROW_CYCLES + taps * SUM_CYCLES + TILE_CYCLES
    seen = blocks.staged_pixels()
    held = 4 * (blocks.pixels * t.channels + seen * g.groups)
    block = tx * ty * kz * cb * tile + held / L3_BYTES_PER_CYCLE
    if held > 0.7 * machine.l1_bytes:
        block += held / (L2_BYTES_PER_CYCLE if held < 0.7 * machine.l2_bytes else L3_BYTES_PER_CYCLE)
    repeated = t.width / 2 if g.oc > 1 else 1.0
    block += COPY_CYCLES * cb * (seen * repeated + blocks.pixels)
    task = math.prod(blocks.each) * block + 500
    last = t.channels * g.taps * (1.5 + 0.1 * s.parts)
    if not s.parallel:
        return float(s.parts * task + last)
    last /= machine.cores
    return float((ceil_div(s.parts, machine.cores) + TAIL) * task + last + 3 * FORK_CYCLES)


def schedules(problem: WeightGradient, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the model."""
    g = Geometry.of(problem.forward)
    kw, kh, found = g.kernel[2], g.kernel[1], dict[Schedule, float]()
    most = machine.vector_registers - 2
    widths = [w for w in range(1, min(kw, most) + 1) if ceil_div(kw, w) * w < kw + 2]
    tiles = {(w, min(kh, max(1, most // w))) for w in widths}
    for (width, height), rows in itertools.product(sorted(tiles, reverse=True)[:4], block_sizes(g, 14)):
        for parts in (1, 2, 4, 8, 16, 32, 64):
            if Blocks(g, rows, parts).reason() is not None:
                continue
            s = Schedule(
                "gradient_depthwise",
                tile_width=width,
                tile_height=height,
                block_rows=rows,
                parts=parts,
                unroll=1 + (g.out[2] % 2 == 0),  # with more, inputs that pixels share are kept, and spilled
                parallel=machine.cores > 1 and problem.macs > 200_000,
            )
            found[s] = _cycles(problem, s, machine)
    return sorted(found, key=lambda s: (found[s], repr(s)))[:12]


def check(problem: WeightGradient, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    s, g = schedule, Geometry.of(problem.forward)
    reason = check_parameters(s, PARAMETERS, flags=("parallel",))
    if reason is not None:
        return reason
    if s.tile_width > g.kernel[2] or s.tile_height > g.kernel[1]:
        return f"a tile of {s.tile_height} x {s.tile_width} taps is larger than the kernel {g.kernel[1]} x {g.kernel[2]}"
    if s.tile_width * s.tile_height > 4 * machine.vector_registers:
        return f"{s.tile_height} x {s.tile_width} taps are over four times the {machine.vector_registers} registers"
    if s.unroll > g.out[2]:
        return f"unroll={s.unroll} is more than the {g.out[2]} pixels of a row"
    return Blocks(g, s.block_rows, s.parts).reason()


# ------------------------------------------------------------------------------------------------- the row


def _macs(problem: WeightGradient, s: Schedule) -> int:
    g = Geometry.of(problem.forward)
    tiles = ceil_div(g.kernel[2], s.tile_width) * s.tile_width * ceil_div(g.kernel[1], s.tile_height) * s.tile_height
    return int(g.groups * g.oc * tiles * g.kernel[0] * g.slices * g.pixels)


def _workspace(problem: WeightGradient, s: Schedule, threads: int) -> int:
    """The sums of all parts, and the copies of one block in each thread."""
    g = Geometry.of(problem.forward)
    blocks, channels = Blocks(g, s.block_rows, s.parts), g.groups * g.oc
    at_once = min(threads, s.parts) if s.parallel else 1
    sums = _macs(problem, s) // (g.slices * g.pixels)
    return int(4 * (sums * s.parts + at_once * channels * (blocks.staged_pixels() + blocks.pixels)))


DEPTHWISE = Algorithm(
    name="gradient_depthwise",
    equation="dw[c, k] = sum over pixels p of dy[p, c] * x[p*stride + k*dilation - before, c // multiplier]",
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
