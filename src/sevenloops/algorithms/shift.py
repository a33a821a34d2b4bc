"""shift: channels moved and a 1x1 convolution behind it, as one product; no shifted tensor is ever stored.

    y[oc, o] = epilogue(sum over the ic that o sees of w[oc, ic] * x[ic, o*stride + offset(ic)])

The shift operator (Wu et al., Shift, arXiv 1711.08141) costs no arithmetic, so all that remains of it here is addressing:
the hot loop of the pointwise product takes the distance of each channel out of a small table, two loads a tap that hide
behind the multiply-adds. The input is read where it is. At the border the tables list fewer channels (see `shift_plan`).
Any convention, dilation and leftover channels are just other tables. (AddressNet, arXiv 1809.08458, fused the two for
GPUs.)

Wins where a shift stands before a 1x1 kernel; nothing else but naive computes that. Cannot run: problems without a shift,
float64, and kernels so large that the tables would be.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from . import direct
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div, only_conv
from .cost import FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, with_memory_s
from .shift_plan import Plan, bands, class_tiles, plan, table_entries
from .tiles import (
    EXPOSED_WEIGHTS,
    PARAMETERS,
    TAIL_OF_A_TASK,
    TILE_OVERHEAD,
    ProductShape,
    check_tiled,
    tap_cycles,
    tiled_schedules,
)

#: Entries of a table: they are part of the kernel's code.
MAX_TABLE = 2**18
#: Pixels of a tile by its vectors of channels: they lie anywhere, so each takes a general register, and two tables need
#: theirs. With more LLVM spills (seen: 9 x 32, 10 x 32, 7 x 48 and 8 x 48 at 40 % of the speed of 8 x 32).
MAX_PIXELS = (10, 8, 6)
#: The share of the time to read a task's input that the hot loop does not hide: the processor's own prefetching follows a
#: row of pixels, and not the steps between the groups of channels.
EXPOSED_INPUT = 0.3
#: Cycles that the two tables add to a tap, and that a band costs besides its tiles (measured on a Xeon with AVX-512)
TABLE_CYCLES, BAND_CYCLES = 1.0, 1_500

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, ConvProblem) or problem.shift is None:
        return "it computes convolutions with shifted channels only"
    reason = only_conv(replace(problem, shift=None))
    if reason is None and problem.out_size[-1] > MAX_TABLE:
        return f"a row of {problem.out_size[-1]} pixels does not fit its tables of {MAX_TABLE} entries"
    if reason is None and table_entries(problem) > MAX_TABLE:
        return f"its borders need tables of {table_entries(problem):,} entries, and it makes at most {MAX_TABLE:,}"
    return reason


# --------------------------------------------------------------------------------------------------- define


class Tables:
    """A plan as constants of the Halide code; each entry is given as an expression that keeps its bounds."""

    def __init__(self, p: Plan, tile_channels: int) -> None:
        import halide as hl
        import numpy as np

        self._buffers = {}
        values_of = {**vars(p), "tap_weight": [channel * tile_channels for channel in p.tap_channel]}
        for name, values in values_of.items():
            if name != "slots":
                buffer = hl.Buffer(hl.Int(32), [len(values)], name)  # owns its memory: it is needed until the code is made
                np.asarray(buffer)[:] = values
                self._buffers[name] = (buffer, min(values), max(values), len(values))

    def __call__(self, name: str, index: Any) -> Any:
        """The entry of a table at an index, an integer expression."""
        import halide as hl

        buffer, low, high, size = self._buffers[name]
        return hl.unsafe_promise_clamped(buffer[hl.unsafe_promise_clamped(index, 0, size - 1)], low, high)


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Tiles of pixels that see the same channels, each a short product of its own."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image

    g, nr, mr = Geometry.of(problem), schedule.tile_channels, schedule.tile_pixels
    p = plan(problem, mr, schedule.task_pixels)
    panels, elements, pixels = ceil_div(g.oc, nr), g.ic * g.size[0] * g.size[1] * g.size[2], g.pixels * g.out[0]
    x_shape, y_shape, packed_shape = (g.batch, elements), (g.batch, pixels, g.oc), (panels, g.ic * nr)
    x, packed = image("x", x_shape), image("packed", packed_shape)
    extra, specs = epilogue_inputs(problem, g.oc, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    at = Tables(p, nr)

    c, q, b, n = (hl.Var(v) for v in ("c", "q", "b", "n"))
    sums = hl.Func("sums")  # sums[oc, slot of a pixel, band, n]: the register tile
    slot = b * p.slots + q // mr
    pixel = at("band_in", b) + at("pixel_in", at("pattern", b) * (p.slots * mr) + q)

    def term(tap: Any) -> Any:
        weight = packed[at("tap_weight", tap) + c % nr, c // nr]
        return weight * x[hl.unsafe_promise_clamped(pixel + at("tap_in", tap), 0, elements - 1), n]

    unroll = schedule.unroll
    turns = hl.RDom([hl.Range(0, unroll), hl.Range(0, ceil_div(g.ic, unroll))], "tap")
    turns.where(turns[1] < at("count", slot) // unroll)
    sums[c, q, b, n] += term(at("first", slot) + turns[1] * unroll + turns[0])
    hot = [[turns[0], turns[1]]]
    if unroll > 1:
        rest = hl.RDom([hl.Range(0, unroll - 1)], "rest")
        rest.where(rest[0] < at("count", slot) % unroll)
        sums[c, q, b, n] += term(at("first", slot) + at("count", slot) // unroll * unroll + rest[0])
        hot.append([rest[0]])

    out = hl.Func("out")  # out[oc, pixel, n]
    y = hl.Var("y")
    out[c, y, n] = hl.undef(hl.Float(32))
    parts = schedule.channel_parts
    sizes = (nr, mr, p.slots, panels // parts, parts, len(p.pattern), g.batch)
    o = hl.RDom([hl.Range(0, size) for size in sizes], "o")
    lane, px, tile, panel, part, band, image_n = (o[axis] for axis in range(len(sizes)))
    o.where(tile < at("tiles", band))
    channel = (part * (panels // parts) + panel) * nr + lane
    if g.oc % nr:
        o.where(channel < g.oc)
        channel = hl.unsafe_promise_clamped(channel, 0, g.oc - 1)
    place = at("band_out", band) + at("pixel_out", (at("pattern", band) * p.slots + tile) * mr + px)
    place = hl.unsafe_promise_clamped(place, 0, pixels - 1)
    residual = named["residual"][channel, place, image_n] if "residual" in named else None
    bias = named["bias"][channel] if "bias" in named else None
    value = hl.Expr(sums[channel, tile * mr + px, band, image_n])
    out[channel, place, image_n] = apply_epilogue(problem.epilogue, value, bias, residual)

    for var, extent in zip((c, y, n), reversed(y_shape)):
        out.bound(var, 0, extent)
    vector, task = hl.RVar("vector"), hl.RVar("task")
    stage = out.update(0)
    stage.allow_race_conditions()  # no two bands have a pixel in common
    stage.split(lane, lane, vector, machine.lanes).vectorize(vector)
    stage.reorder(vector, lane, px, tile, panel, part, band, image_n).unroll(lane).unroll(px)
    stage.fuse(part, band, task).fuse(task, image_n, task)
    if schedule.parallel:
        stage.parallel(task)
    sums.compute_at(out, tile).bound_extent(c, nr).bound_extent(q, mr)
    sums.vectorize(c, machine.lanes).unroll(c).unroll(q)
    for index, taps in enumerate(hot):
        sums.update(index).reorder(c, q, *taps).vectorize(c, machine.lanes).unroll(c).unroll(q)
    sums.update(0).unroll(hot[0][0])
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", packed_shape))]
    return definition(problem, out, y_shape, operands, (extra, specs), direct.define_pack(problem, schedule))


# ------------------------------------------------------------------------------------------------ schedules


def product_shape(problem: ConvProblem) -> ProductShape:
    """The problem as the cost model sees it: a pointwise product by whole lines."""
    g = Geometry.of(problem)
    return ProductShape(g.oc, g.pixels * g.out[0], g.batch, g.ic, 1, row=g.out[2])


def cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles: the model of `tiles` with the tiles and taps of the plan, which knows the borders."""
    vectors, panels = s.tile_channels // machine.lanes, ceil_div(problem.out_channels, s.tile_channels)
    tiles, taps = (panels * problem.batch * count for count in class_tiles(problem, s.tile_pixels, s.task_pixels))
    tap = tap_cycles(s.tile_pixels, vectors) + TABLE_CYCLES
    panel_bytes = 4 * problem.in_channels * s.tile_channels
    if panel_bytes > machine.l1_bytes * 0.6:
        tap = max(tap, 4 * s.tile_channels / L2_BYTES_PER_CYCLE)
    tasks = problem.batch * len(bands(problem, s.task_pixels)) * s.channel_parts
    passes = ceil_div(panels, s.channel_parts)  # over the input of a task
    x_bytes = 4 * math.prod(problem.x_shape) * s.channel_parts // tasks

    def cycles_per_byte(n_bytes: float) -> float:
        return 1 / (L2_BYTES_PER_CYCLE if n_bytes < machine.l2_bytes / 2 else L3_BYTES_PER_CYCLE)

    first, again = cycles_per_byte(4 * math.prod(problem.x_shape)), cycles_per_byte(x_bytes)
    task = (tiles * TILE_OVERHEAD + taps * tap) / tasks + BAND_CYCLES
    task += EXPOSED_INPUT * x_bytes * (first + (passes - 1) * again)
    task += EXPOSED_WEIGHTS * passes * panel_bytes * cycles_per_byte(panels * panel_bytes)
    if not s.parallel:
        return float(tasks * task)
    return float(task * (ceil_div(tasks, machine.cores) + TAIL_OF_A_TASK) + FORK_CYCLES)


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first."""

    def fits(s: Schedule) -> bool:
        vectors = min(s.tile_channels // machine.lanes, len(MAX_PIXELS))
        return s.tile_pixels <= MAX_PIXELS[vectors - 1] and check(problem, s, machine) is None

    candidates = filter(fits, tiled_schedules("shift", product_shape(problem), machine, limit=100))
    return sorted(candidates, key=lambda s: cost_cycles(problem, s, machine))[:12]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    reason = check_tiled(product_shape(problem), schedule, machine)
    if reason is None and schedule.k_blocks > 1:
        return f"the sums of shift stay in registers: k_blocks must be 1, got {schedule.k_blocks}"
    if reason is None and schedule.task_pixels > MAX_TABLE:
        return f"task_pixels={schedule.task_pixels} needs tables of more than {MAX_TABLE} entries"
    return reason


# ------------------------------------------------------------------------------------------------- the row


def macs_executed(problem: ConvProblem, schedule: Schedule) -> int:
    """Multiply-accumulates really done: none with the zeros around the image, all lanes of partial tiles and panels."""
    _, taps = class_tiles(problem, schedule.tile_pixels, schedule.task_pixels)
    lanes = ceil_div(problem.out_channels, schedule.tile_channels) * schedule.tile_channels
    return int(problem.batch * taps * schedule.tile_pixels * lanes)


SHIFT = Algorithm(
    name="shift",
    equation="y[oc, o] = sum over the ic that o sees of w[oc, ic] * x[ic, o*stride + offset(ic)]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=macs_executed,
    workspace_bytes=lambda problem, s, threads: 0,
    parameters=PARAMETERS,
    edges="either",
    cost=lambda problem, s, machine: with_memory_s(machine, cost_cycles(problem, s, machine), problem.unique_bytes),
)
