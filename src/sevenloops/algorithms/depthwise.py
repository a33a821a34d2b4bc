"""depthwise: every channel for itself.

    y[n, c, oy, ox] = sum over ky, kx of x[n, c // multiplier, oy*sh + ky*dh - pt, ox*sw + kx*dw - pl] * w[c, ky, kx]

K*K multiplications per input element and no sum over channels, so memory is the limit (Howard et al., MobileNets, arXiv
1704.04861). Channels are the vector axis; a tile of `tile_rows` x `tile_pixels` outputs of a few vectors of channels is
unrolled, so that inputs which neighbouring outputs share are loaded once. The rows that a task needs are copied with
their padding into scratch that stays in cache; a channel multiplier repeats the channels in that copy.

Wins for groups = in_channels. Cannot run: anything else, transposed problems, float64.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div, only_conv
from .cost import FORK_CYCLES, with_memory_s

#: what 3x3 layers of MobileNetV2 took, over the model, which counts ports alone (Ice Lake; 1.8 to 3.6)
MEASURED = 2.2
PARAMETERS = {
    "tile_pixels": "outputs of a row in the register tile",
    "tile_rows": "rows of the register tile",
    "tile_channels": "channels of the register tile",
    "task_rows": "output rows of one task",
    "stage": "whether the task's input rows are copied into scratch (needed with padding or a channel multiplier)",
    "parallel": "whether tasks run on the thread pool",
}

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is None and isinstance(problem, ConvProblem) and not problem.is_depthwise:
        return f"it needs groups = in_channels > 1, got groups={problem.groups}, in_channels={problem.in_channels}"
    return reason


# --------------------------------------------------------------------------------------------------- define


def needs_staging(problem: ConvProblem) -> bool:
    """Padding and channel multipliers exist only in the copy."""
    g = Geometry.of(problem)
    return g.padded or g.oc > 1


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(kd, kh, kw, channels rounded up to tile_channels)`."""
    nr = schedule.tile_channels
    return (*Geometry.of(problem).kernel, ceil_div(problem.out_channels, nr) * nr)


def define_pack(problem: ConvProblem, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[c, kx, ky, kz]` from `w[kx, ky, kz, 0, c]`, zero past the last channel."""
    import halide as hl

    from .funcs import dense, image

    g, oc = Geometry.of(problem), problem.out_channels
    w_shape, shape = (oc, 1, *g.kernel), packed_shape(problem, schedule)
    w = image("w", w_shape)
    c, kx, ky, kz = (hl.Var(v) for v in ("c", "kx", "ky", "kz"))
    packed = hl.Func("packed")
    packed[c, kx, ky, kz] = hl.select(c < oc, w[kx, ky, kz, 0, hl.min(c, oc - 1)], hl.f32(0))
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Taps under the sum, channels innermost."""
    import halide as hl

    from .funcs import apply_epilogue, dense, epilogue_inputs, image

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
    sums[c, ox, oy, oz, n] += packed[c, taps[0], taps[1], taps[2]] * source[(c, *at, n)]
    channel = c if oc % nr == 0 else hl.min(c, oc - 1)
    residual = named["residual"][channel, ox, oy, oz, n] if "residual" in named else None
    bias = named["bias"][channel] if "bias" in named else None
    out[c, ox, oy, oz, n] = apply_epilogue(problem.epilogue, hl.Expr(sums[c, ox, oy, oz, n]), bias, residual)
    _schedule(g, oc, schedule, machine, (c, ox, oy, oz, n), sums, out, taps, source if schedule.stage else None)
    dense(out.output_buffer(), y_shape)
    buffers = [Buffer("x", x_shape), Buffer("packed", packed_shape(problem, schedule))]
    buffers += [Buffer(name, shape) for name, shape in specs] + [Buffer("y", y_shape)]
    return Definition(out, [x, packed, *extra], buffers, *define_pack(problem, schedule))


def _source(x: Any, g: Geometry, oc: int, nr: int, stage: bool) -> Any:
    """`source[c, ix, iy, iz, n]` by output channel, in padded coordinates."""
    import halide as hl

    from .funcs import padded_input

    if not stage:
        return x
    c, ix, iy, iz, n = (hl.Var(v) for v in ("c", "ix", "iy", "iz", "n"))
    padded, staged = padded_input(x, g), hl.Func("staged")
    channel = c if oc % nr == 0 else hl.min(c, oc - 1)
    staged[c, ix, iy, iz, n] = padded[channel // g.oc if g.oc > 1 else channel, ix, iy, iz, n]
    return staged


def _schedule(
    g: Geometry, oc: int, s: Schedule, machine: Machine, dims: Any, sums: Any, out: Any, taps: Any, staged: Any
) -> None:
    import halide as hl

    c, ox, oy, oz, n = dims
    tail, lanes = hl.TailStrategy, machine.lanes
    task, row, rows, tile, px, ty, block, lane = (
        hl.Var(v) for v in ["task", "row", "rows", "tile", "px", "ty", "block", "lane"]
    )
    for var, extent in zip(dims, (oc, g.out[2], g.out[1], g.out[0], g.batch)):
        out.bound(var, 0, extent)
    if oc % s.tile_channels:
        out.split(c, block, lane, s.tile_channels, tail.PredicateStores).vectorize(lane)
    else:
        out.split(c, block, lane, s.tile_channels).vectorize(lane, lanes).unroll(lane)
    out.split(oy, task, rows, s.task_rows, tail.ShiftInwards).split(rows, row, ty, s.tile_rows, tail.ShiftInwards)
    out.split(ox, tile, px, s.tile_pixels, tail.ShiftInwards)
    out.reorder(*([lane] if oc % s.tile_channels else []), px, ty, tile, row, block, task, oz, n)
    if oc % s.tile_channels == 0:
        out.reorder(lane, px, ty, tile, row, block, task, oz, n)
    out.unroll(px).unroll(ty).fuse(task, oz, task).fuse(task, n, task)
    if s.parallel:
        out.parallel(task)
    sums.compute_at(out, tile).bound_extent(c, s.tile_channels).bound_extent(ox, s.tile_pixels)
    sums.bound_extent(oy, s.tile_rows).vectorize(c, lanes).unroll(c).unroll(ox).unroll(oy)
    hot = sums.update(0).reorder(c, ox, oy, taps[0], taps[1], taps[2]).vectorize(c, lanes).unroll(c)
    hot.unroll(ox).unroll(oy)
    if math.prod(g.kernel) <= 49:
        hot.unroll(taps[0])
        if math.prod(g.kernel[1:]) * s.tile_pixels * s.tile_rows * s.tile_channels // lanes <= 288:
            hot.unroll(taps[1])
    if staged is not None:
        staged.compute_at(out, task).vectorize(staged.args()[0], lanes)


# ------------------------------------------------------------------------------------------------ schedules


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the loads that a tile needs per output and by whole tiles."""
    g, oc = Geometry.of(problem), problem.out_channels
    stage = needs_staging(problem)
    parallel = machine.cores > 1 and problem.macs > 200_000
    names = ("task_rows", "tile_channels", "tile_pixels", "tile_rows")
    found: list[tuple[float, tuple[int, ...]]] = []
    for vectors in (1, 2, 4):
        nr = vectors * machine.lanes
        if (vectors - 1) * machine.lanes >= oc:
            break
        for px in (2, 3, 4, 5, 6, 7, 8, 14):
            for rows in (1, 2):
                if px > g.out[2] or rows > g.out[1] or px * rows * vectors > machine.vector_registers - 6:
                    continue
                for task_rows in sorted({min(g.out[1], t) for t in (2, 4, 7, 8, 14, 28, 56)}):
                    if task_rows >= rows:
                        cycles = _cost(g, oc, px, rows, nr, task_rows, stage, parallel, machine)
                        found.append((cycles, (task_rows, nr, px, rows)))
    if not found:
        found, parallel = [(0.0, (g.out[1], machine.lanes, 1, 1))], False
    ranked = [tiling for _, tiling in sorted(found)[:12]]
    return [Schedule("depthwise", stage=stage, parallel=parallel, **dict(zip(names, tiling))) for tiling in ranked]


def cost(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Seconds by the model, and `MEASURED` times that."""
    tiling = (s.tile_pixels, s.tile_rows, s.tile_channels, s.task_rows)
    cycles = _cost(Geometry.of(problem), problem.out_channels, *tiling, s.stage, s.parallel, machine)
    return with_memory_s(machine, MEASURED * cycles, problem.unique_bytes)


def _cost(
    g: Geometry, oc: int, px: int, rows: int, nr: int, task_rows: int, stage: bool, parallel: bool, machine: Machine
) -> float:
    """Cycles by the model: FMAs and loads of a tile on two ports each, staging, whole tiles, tasks over cores."""
    vectors = nr // machine.lanes
    taps = math.prod(g.kernel)
    reach = lambda tile, axis: (tile - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis] + 1  # noqa: E731
    inputs = min(reach(px, 2) * reach(rows, 1), taps * px * rows) * g.kernel[0]
    sums, registers = px * rows * vectors, machine.vector_registers
    # Inputs that several outputs share want registers too: half of them for sums is best, and one vector of channels.
    pressed = 0.1 * max(0, sums - registers // 2 + 2) + 1.5 * max(0, sums + 4 - registers)
    tile = vectors * max(taps * px * rows / 2, (inputs + taps) / 2) * (1.2 if vectors > 1 else 1.0) + 6 + taps * pressed
    tiles = ceil_div(g.out[2], px) * ceil_div(task_rows, rows) * ceil_div(oc, nr)
    staged_rows = reach(task_rows, 1)
    staged = staged_rows * g.size[2] * oc / machine.lanes * 1.5 if stage else 0
    working_set = 4 * staged_rows * g.size[2] * oc
    penalty = 1.0 if working_set < 0.6 * machine.l2_bytes else 1.5
    tasks = ceil_div(g.out[1], task_rows) * g.slices
    task = (tiles * tile + staged) * penalty + 300
    return float(ceil_div(tasks, machine.cores) * task + FORK_CYCLES if parallel else tasks * task)


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    g = Geometry.of(problem)
    if set(schedule.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(schedule.params)}"
    for name in ("tile_pixels", "tile_rows", "tile_channels", "task_rows"):
        value = schedule.params[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{name} must be an integer of at least 1, got {value!r}"
    if not isinstance(schedule.parallel, bool) or not isinstance(schedule.stage, bool):
        return "parallel and stage must be True or False"
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
        return "stage must be True for a problem with padding or a channel multiplier"
    if not schedule.stage and problem.out_channels % schedule.tile_channels:
        return f"stage must be True when tile_channels does not divide the {problem.out_channels} channels"
    return None


# ------------------------------------------------------------------------------------------------- the row


def _macs(problem: ConvProblem, s: Schedule) -> int:
    g = Geometry.of(problem)
    channels = ceil_div(problem.out_channels, s.tile_channels) * s.tile_channels
    rows = ceil_div(g.out[1], s.task_rows) * ceil_div(s.task_rows, s.tile_rows) * s.tile_rows
    pixels = ceil_div(g.out[2], s.tile_pixels) * s.tile_pixels
    return int(g.slices * channels * rows * pixels * math.prod(g.kernel))


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    if not s.stage:
        return 0
    g = Geometry.of(problem)
    rows = (s.task_rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    return int(4 * rows * width * g.kernel[0] * problem.out_channels * (threads if s.parallel else 1))


DEPTHWISE = Algorithm(
    name="depthwise",
    equation="y[c, o] = sum over k of w[c, k] * x[c // multiplier, o*stride + k*dilation - before]",
    supports=supports,
    schedules=schedules,  # type: ignore[arg-type]
    check=check,
    define=define,
    packed_shape=packed_shape,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    cost=cost,
)
