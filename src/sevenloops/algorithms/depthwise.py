"""depthwise: every channel for itself.

    y[n, c, oy, ox] = sum over ky, kx of x[n, c // multiplier, oy*sh + ky*dh - pt, ox*sw + kx*dw - pl] * w[c, ky, kx]

K*K multiplications per input element and no sum over channels, so memory is the limit (Howard et al., MobileNets, arXiv
1704.04861). Channels are the vector axis; a tile of `tile_rows` x `tile_pixels` outputs of a few vectors of channels is
unrolled, so that inputs which neighbouring outputs share are loaded once. Small images are copied with their padding into
scratch that stays in cache (a channel multiplier repeats the channels in that copy). Large ones are read where they lie:
only the tiles at the borders test what is inside. Large kernels copy one block of channels at a time, whose pixels then lie
side by side: every sum stays in a register while the taps, each loaded once for a tile, run past it.

Wins for groups = in_channels. Cannot run: anything else, transposed problems, float64.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div, only_conv
from .cost import FORK_CYCLES, with_memory_s
from .tiles import tiles_computed

PARAMETERS = {
    "tile_pixels": "outputs of a row in the register tile",
    "tile_rows": "rows of the register tile",
    "tile_channels": "channels of the register tile",
    "task_rows": "output rows of one task",
    "stage": "whether a task's input rows are copied into scratch with their padding (needed for a channel multiplier)",
    "channels": "where the loop over blocks of channels stands: 'inner' (around each tile), 'task' (around the rows of a "
    "task) or 'outer' (each block is a task of its own)",
    "skip_padding": "whether taps that see padding are left out: by rows, and along them where a row has few tiles",
    "parallel": "whether tasks run on the thread pool",
}

#: what 3x3 layers of MobileNetV2 took, over the model, which counts ports alone (Ice Lake; 1.1 to 5)
MEASURED = 1.8
#: multiply-adds of a tile that are unrolled for a row of the kernel, and for all of its rows
MOST_UNROLLED, MOST_UNROLLED_ROWS = 512, 288
#: tiles of a row that are unrolled, so that each loses its own terms
MOST_TILES_UNROLLED = 4
#: vectors that a core really loads from L1 in a cycle (seen on Ice Lake: 1.1, though it has two ports)
LOADS_PER_CYCLE = 1.1
#: cycles to copy a vector with its padding; what a tile at a border costs more
COPY_CYCLES, BORDER = 4.0, 0.5
#: what tasks cost whose number of rows is known only at run time, as the last has fewer: 96 channels at 55 x 55 took 1.34
#: times as long (Zen 3, AVX2)
UNEVEN = 1.3

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is None and isinstance(problem, ConvProblem) and not problem.is_depthwise:
        return f"it needs groups = in_channels > 1, got groups={problem.groups}, in_channels={problem.in_channels}"
    return reason


# --------------------------------------------------------------------------------------------------- define


def needs_staging(problem: ConvProblem) -> bool:
    """Channel multipliers exist only in the copy."""
    return Geometry.of(problem).oc > 1


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(blocks of channels, kd, kh, kw, tile_channels)`."""
    nr = schedule.tile_channels
    return (ceil_div(problem.out_channels, nr), *Geometry.of(problem).kernel, nr)


def define_pack(problem: ConvProblem, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, tap, panel]` from `w[tap, c]`, zero past the last channel; tap = (kz*kh + ky)*kw + kx."""
    from .packing import pack_rows

    return pack_rows("w", (problem.out_channels, Geometry.of(problem).taps), schedule.tile_channels)


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Taps under the sum, channels innermost."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image

    g, oc, nr = Geometry.of(problem), problem.out_channels, schedule.tile_channels
    x_shape, y_shape = (g.batch, *g.size, g.groups), (g.batch, *g.out, oc)
    x, packed = image("x", x_shape), image("packed", packed_shape(problem, schedule))
    extra, specs = epilogue_inputs(problem, oc, y_shape)
    named = dict(zip((name for name, _ in specs), extra))

    c, ox, oy, oz, n = (hl.Var(v) for v in ("c", "ox", "oy", "oz", "n"))
    source = _source(x, g, oc, nr, schedule.stage)
    taps = hl.RDom([hl.Range(0, extent) for extent in reversed(g.kernel)], "tap")
    sums, out = hl.Func("sums"), hl.Func("out")  # [c, ox, oy, oz, n]
    at = [o * g.stride[2 - i] + taps[i] * g.dilation[2 - i] for i, o in enumerate((ox, oy, oz))]
    for axis in skipped_axes(g, schedule):
        inside = at[2 - axis] - g.before[axis]
        taps.where((inside >= 0) & (inside < g.size[axis]))
    sums[c, ox, oy, oz, n] += packed[c % nr, taps[0], taps[1], taps[2], c // nr] * source[(c, *at, n)]
    channel = c if oc % nr == 0 else hl.min(c, oc - 1)
    residual = named["residual"][channel, ox, oy, oz, n] if "residual" in named else None
    bias = named["bias"][channel] if "bias" in named else None
    out[c, ox, oy, oz, n] = apply_epilogue(problem.epilogue, hl.Expr(sums[c, ox, oy, oz, n]), bias, residual)
    _schedule(g, oc, schedule, machine, (c, ox, oy, oz, n), sums, out, taps, source if schedule.stage else None)
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", packed_shape(problem, schedule)))]
    return definition(problem, out, y_shape, operands, (extra, specs), define_pack(problem, schedule))


def _source(x: Any, g: Geometry, oc: int, nr: int, stage: bool) -> Any:
    """`source[c, ix, iy, iz, n]` by output channel, in padded coordinates."""
    import halide as hl

    from .funcs import padded_input

    if not stage:
        return bordered(x, g) if g.padded else x
    c, ix, iy, iz, n = (hl.Var(v) for v in ("c", "ix", "iy", "iz", "n"))
    padded, staged = padded_input(x, g), hl.Func("staged")
    channel = c if oc % nr == 0 else hl.clamp(c, 0, oc - 1)  # whole vectors are copied, from below the first channel even
    staged[c, ix, iy, iz, n] = padded[channel // g.oc if g.oc > 1 else channel, ix, iy, iz, n]
    return staged


def bordered(x: Any, g: Geometry) -> Any:
    """As `padded_input`, to be inlined: Halide gives loops over the inside of the image a body without tests."""
    import halide as hl

    c, *axes, n = (hl.Var(v) for v in ("c", "ix", "iy", "iz", "n"))
    func, inside, at = hl.Func("bordered"), None, []
    for var, size, before, pair in zip(axes, reversed(g.size), reversed(g.before), reversed(g.padded_axes)):
        place = var - before
        at.append(hl.clamp(hl.likely(place), 0, size - 1) if pair else place)
        if pair:
            ok = (place >= 0) & (place < size)
            inside = ok if inside is None else inside & ok
    func[(c, *axes, n)] = hl.select(inside, x[(c, *at, n)], hl.f32(0))
    return func


def skipped_axes(g: Geometry, s: Schedule) -> list[int]:
    """The axes along which taps that see padding are left out: a loop over kernel rows gets bounds, a tile loses terms."""
    if not s.skip_padding:
        return []
    return [1] + [2] * (g.padded_axes[2] and ceil_div(g.out[2], s.tile_pixels) <= MOST_TILES_UNROLLED)


@cache
def seen(g: Geometry, axis: int, run: int) -> int:
    """Pairs of an output and a tap inside the image, along an axis whose outputs are computed in runs, shifted inwards."""
    starts = [min(start, g.out[axis] - run) for start in range(0, g.out[axis], run)]
    first = [o * g.stride[axis] - g.before[axis] for start in starts for o in range(start, start + run)]
    return sum(0 <= i + k * g.dilation[axis] < g.size[axis] for i in first for k in range(g.kernel[axis]))


def unrolled(g: Geometry, s: Schedule, machine: Machine) -> int:
    """How many axes of the kernel are unrolled: inputs that neighbouring outputs share then stay in registers."""
    row = g.kernel[2] * s.tile_pixels * s.tile_rows * s.tile_channels // machine.lanes
    if s.skip_padding:
        return 1
    if row > MOST_UNROLLED:
        return 0
    return 2 if row * g.kernel[1] <= MOST_UNROLLED_ROWS else 1


def _schedule(
    g: Geometry, oc: int, s: Schedule, machine: Machine, dims: Any, sums: Any, out: Any, taps: Any, staged: Any
) -> None:
    import halide as hl

    from .funcs import split_tasks

    c, ox, oy, oz, n = dims
    tail, lanes = hl.TailStrategy, machine.lanes
    task, row, tile, px, ty, block, lane = (hl.Var(v) for v in ("task", "row", "tile", "px", "ty", "block", "lane"))
    for var, extent in zip(dims, (oc, g.out[2], g.out[1], g.out[0], g.batch)):
        out.bound(var, 0, extent)
    if oc % s.tile_channels:
        out.split(c, block, lane, s.tile_channels, tail.PredicateStores).vectorize(lane)
    else:
        out.split(c, block, lane, s.tile_channels).vectorize(lane, lanes).unroll(lane)
    split_tasks(out, oy, (task, row, ty), g.out[1], s.tile_rows, s.task_rows)
    out.split(ox, tile, px, s.tile_pixels, tail.ShiftInwards)
    order = {"inner": (block, tile, row, task), "task": (tile, row, block, task), "outer": (tile, row, task, block)}
    out.reorder(lane, px, ty, *order[s.channels], oz, n)
    out.unroll(px).unroll(ty)
    if 2 in skipped_axes(g, s):
        out.unroll(tile)
    for var in ([block] if s.channels == "outer" else []) + [oz, n]:
        out.fuse(task, var, task)
    if s.parallel:
        out.parallel(task)
    sums.compute_at(out, block if s.channels == "inner" else tile).bound_extent(c, s.tile_channels).bound_extent(
        ox, s.tile_pixels
    )
    sums.bound_extent(oy, s.tile_rows).vectorize(c, lanes).unroll(c).unroll(ox).unroll(oy)
    hot = sums.update(0).reorder(c, ox, oy, taps[0], taps[1], taps[2]).vectorize(c, lanes).unroll(c)
    hot.unroll(ox).unroll(oy)
    for axis in range(unrolled(g, s, machine)):
        hot.unroll(taps[axis])
    if staged is not None:
        staged.compute_at(out, task).vectorize(staged.args()[0], lanes)


# ------------------------------------------------------------------------------------------------ schedules


def _ways(problem: ConvProblem, nr: int) -> list[tuple[bool, str]]:
    """Pairs of `stage` and `channels` worth trying."""
    g = Geometry.of(problem)
    in_place = not needs_staging(problem) and problem.out_channels % nr == 0
    if math.prod(g.kernel) > 49:
        return [(True, "outer")] if g.padded or not in_place else [(True, "outer"), (False, "task")]
    if not in_place:
        return [(True, "task")]
    return [(True, "task"), (False, "inner")] if g.padded else [(False, "task"), (False, "inner")]


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the loads that a tile needs per output and by whole tiles."""
    g, oc = Geometry.of(problem), problem.out_channels
    sizes = {min(g.out[1], t) for t in (2, 4, 7, 8, 14, 28, 56)} | {t for t in (3, 5, 9, 11) if g.out[1] % t == 0}
    found: dict[Schedule, float] = {}
    for vectors in (1, 2, 4):
        nr = vectors * machine.lanes
        if (vectors - 1) * machine.lanes >= oc:
            break
        for px in (2, 3, 4, 5, 6, 7, 8, 14):
            for rows in (1, 2):
                if px > g.out[2] or rows > g.out[1] or px * rows * vectors > machine.vector_registers - 6:
                    continue
                for task_rows in sorted(sizes):
                    if task_rows < rows:
                        continue
                    parallel = machine.cores > 1 and problem.macs > 200_000
                    for stage, channels in _ways(problem, nr):
                        large = channels == "outer" and g.padded_axes[1] and rows == 1
                        s = Schedule(
                            "depthwise",
                            tile_pixels=px,
                            tile_rows=rows,
                            tile_channels=nr,
                            task_rows=task_rows,
                            stage=stage,
                            channels=channels,
                            skip_padding=large and g.kernel[2] * px * vectors <= MOST_UNROLLED,
                            parallel=parallel,
                        )
                        found[s] = _cost(g, oc, s, machine)
    if not found:
        return [
            Schedule(
                "depthwise",
                tile_pixels=1,
                tile_rows=1,
                tile_channels=machine.lanes,
                task_rows=g.out[1],
                stage=True,
                channels="task",
                skip_padding=False,
                parallel=False,
            )
        ]
    return sorted(found, key=lambda s: (found[s], repr(s)))[:12]


def _cost(g: Geometry, oc: int, s: Schedule, machine: Machine) -> float:
    """Cycles by the model: FMAs and loads of a tile, the copy, borders, whole tiles, tasks over cores."""
    vectors = s.tile_channels // machine.lanes
    taps, outputs = math.prod(g.kernel), s.tile_pixels * s.tile_rows
    reach = lambda tile, axis: (tile - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis] + 1  # noqa: E731
    if unrolled(g, s, machine) == 2:
        inputs = min(reach(s.tile_pixels, 2) * reach(s.tile_rows, 1), taps * outputs) * g.kernel[0]
    else:  # one row of the kernel after the other; its window of inputs stays in registers if it fits beside the sums
        inputs = taps * outputs
        if unrolled(g, s, machine) and 2 * outputs * vectors + 2 < machine.vector_registers:
            inputs = min(inputs, math.prod(g.kernel[:2]) * s.tile_rows * reach(s.tile_pixels, 2))
    # Inputs that several outputs share want registers too: half of them for sums is best, and one vector of channels.
    sums, registers = outputs * vectors, machine.vector_registers
    pressed = 0.1 * max(0, sums - registers // 2 + 2) + 1.5 * max(0, sums + 4 - registers)
    tile = vectors * max(taps * outputs / 2, (inputs + taps) / LOADS_PER_CYCLE) * (1.1 if vectors > 1 else 1.0) + 6
    tile += taps * pressed if unrolled(g, s, machine) == 2 else 0
    for axis, run in zip(skipped_axes(g, s), (s.tile_rows, s.tile_pixels)):
        tile *= seen(g, axis, run) / (ceil_div(g.out[axis], run) * run * g.kernel[axis])
    tiles = ceil_div(g.out[2], s.tile_pixels) * ceil_div(s.task_rows, s.tile_rows)
    blocks = ceil_div(oc, s.tile_channels)
    staged_rows = reach(s.task_rows, 1)
    staged = staged_rows * (g.size[2] + g.kernel[2]) * vectors * COPY_CYCLES * g.kernel[0] if s.stage else 0.0
    if g.padded and not s.stage:  # tiles at the borders test every input
        tile *= 1 + 2 * BORDER / max(2, ceil_div(g.out[2], s.tile_pixels))
    working_set = 4 * staged_rows * g.size[2] * (s.tile_channels if s.channels == "outer" else oc)
    penalty = 1.0 if working_set < 0.6 * machine.l2_bytes else 1.5
    if g.out[1] % s.task_rows:
        penalty *= UNEVEN
    if not s.stage and s.channels != "inner":  # pixels are read in pieces
        penalty *= 1.1
    tasks = ceil_div(g.out[1], s.task_rows) * g.slices
    task = (tiles * tile + staged) * penalty
    if s.channels == "outer":
        tasks *= blocks
    else:
        task *= blocks
    if not s.parallel:
        return float(tasks * (task + 300))
    return float((ceil_div(tasks, machine.cores) + 0.1) * (task + 300) + FORK_CYCLES)


def cost(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Seconds by the model, `MEASURED` times that for small kernels."""
    g = Geometry.of(problem)
    factor = MEASURED if unrolled(g, s, machine) == 2 else 1.0
    return with_memory_s(machine, factor * _cost(g, problem.out_channels, s, machine), problem.unique_bytes)


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    g = Geometry.of(problem)
    if set(schedule.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(schedule.params)}"
    for name in ("tile_pixels", "tile_rows", "tile_channels", "task_rows"):
        value = schedule.params[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{name} must be an integer of at least 1, got {value!r}"
    if schedule.channels not in ("inner", "task", "outer"):
        return f"channels must be 'inner', 'task' or 'outer', got {schedule.channels!r}"
    if not all(isinstance(schedule.params[name], bool) for name in ("parallel", "stage", "skip_padding")):
        return "parallel, stage and skip_padding must be True or False"
    if schedule.skip_padding and (schedule.tile_rows > 1 or not g.padded_axes[1]):
        return "skip_padding needs rows of padding and tile_rows=1"
    if schedule.tile_channels % machine.lanes:
        return f"tile_channels={schedule.tile_channels} must be a multiple of the {machine.lanes} lanes of {machine.isa}"
    if schedule.tile_pixels > g.out[2]:
        return f"tile_pixels={schedule.tile_pixels} is more than the {g.out[2]} outputs of a row"
    if not schedule.tile_rows <= schedule.task_rows <= g.out[1]:
        return f"tile_rows <= task_rows <= {g.out[1]} (output rows) does not hold"
    tile = schedule.tile_pixels * schedule.tile_rows * schedule.tile_channels // machine.lanes
    if tile > 4 * machine.vector_registers:
        return f"a tile of {tile} vectors is over four times the {machine.vector_registers} registers"
    if needs_staging(problem) and not schedule.stage:
        return "stage must be True for a problem with a channel multiplier"
    if not schedule.stage and problem.out_channels % schedule.tile_channels:
        return f"stage must be True when tile_channels does not divide the {problem.out_channels} channels"
    return None


# ------------------------------------------------------------------------------------------------- the row


def _macs(problem: ConvProblem, s: Schedule) -> int:
    g = Geometry.of(problem)
    channels = ceil_div(problem.out_channels, s.tile_channels) * s.tile_channels
    skipped = skipped_axes(g, s)
    if 1 in skipped:
        rows = seen(g, 1, s.tile_rows)
    else:
        rows = tiles_computed(g.out[1], s.tile_rows, s.task_rows) * s.tile_rows * g.kernel[1]
    pixels = ceil_div(g.out[2], s.tile_pixels) * s.tile_pixels * g.kernel[2]
    return int(g.slices * channels * rows * (seen(g, 2, s.tile_pixels) if 2 in skipped else pixels) * g.kernel[0])


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    if not s.stage:
        return 0
    g = Geometry.of(problem)
    rows = (s.task_rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    channels = s.tile_channels if s.channels == "outer" else problem.out_channels
    return int(4 * rows * width * g.kernel[0] * channels * (threads if s.parallel else 1))


DEPTHWISE = Algorithm(
    name="depthwise",
    equation="y[c, o] = sum over k of w[c, k] * x[c // multiplier, o*stride + k*dilation - before]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    edges="either",
    cost=cost,
)
