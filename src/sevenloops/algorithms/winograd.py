"""winograd: minimal filtering F(m x m, r x r), fused over blocks of tiles.

    Y = AT [ sum over ic of (G g GT) * (BT d B) ] A          for each tile of m x m outputs, alpha = m + r - 1

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308. A tile of m x m outputs costs alpha^2
instead of m^2 r^2 multiplications per pair of channels: F(4, 3) needs 36 for 144. For each of the alpha^2 points, the sum
over input channels is a matrix product of tiles and channels; the transformed inputs V and the products M stay in cache,
block by block.

Transformed weights U are alpha^2 / r^2 times as large as the weights. Where they, and not arithmetic, bind (many channels,
small images), smaller tiles need fewer of them, and `weights="raw"` reads the weights as they are and transforms each panel
just before its products: a few additions per weight instead of four times the bytes.

Strides are taken apart: with stride s, each of the s^2 phases of the pixels is an input channel of its own, and the kernel
is ceil(r / s) (polyphase).

Wins for 3x3 and 5x5 with enough channels, and for large strided kernels over few. Its sums are not those of the definition:
errors are larger, by the points chosen (docs/winograd.md).
Cannot run: dilation, three spatial axes, transposed or shifted problems, kernels no larger than their stride or over seven
times as large, float64.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, only_conv
from .cost import PERMUTED_BYTES_PER_CYCLE, TRANSFORMED_BYTES_PER_CYCLE, with_memory_s
from .winograd_cost import winograd_cost_cycles, winograd_schedules
from .winograd_plan import PARAMETERS, Plan, check_plan, unit_stride, winograd_macs, winograd_workspace

#: of the raw weights that are transformed at once: four times as many points stay in L2, and go to memory in longer runs
TRANSFORMED_BLOCK_BYTES = 32 << 10

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is not None:
        return reason
    assert isinstance(problem, ConvProblem)
    if problem.rank == 3:
        return "it tiles one or two spatial axes, and this problem has three"
    if any(d != 1 for d in problem.dilation):
        return f"it computes dilation 1, and the dilation is {problem.dilation}"
    kernel = unit_stride(Geometry.of(problem)).kernel
    if max(kernel) == 1:
        return "a kernel that is no larger than its stride has nothing to save"
    if max(kernel) > 7:
        return f"rounding errors grow with the kernel: 7 is the largest at stride 1, and this one is {problem.kernel}"
    return None


# --------------------------------------------------------------------------------------------------- define


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(panels of all groups, points or taps, weight_streams, ic, tile_channels / weight_streams)`.

    The columns of a panel lie apart: the hardware fetches several streams ahead faster than one.
    """
    plan = Plan.of(problem, schedule)
    taps = plan.points if schedule.weights == "transformed" else plan.kh * plan.kw
    return (plan.g.groups * plan.panels, taps, schedule.weight_streams, plan.g.ic, plan.stream_lanes)


def packing(problem: ConvProblem, schedule: Schedule) -> tuple[int, float]:
    """Bytes of the packed weights, and what a core moves in a cycle."""
    rate = TRANSFORMED_BYTES_PER_CYCLE if schedule.weights == "transformed" else PERMUTED_BYTES_PER_CYCLE
    return 4 * math.prod(packed_shape(problem, schedule)), rate


def define_pack(problem: ConvProblem, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, ic, phase, stream, point, panel]` of `w[ic * taps + tap, oc]`, raw or transformed in float64."""
    import halide as hl

    from .funcs import dense, image
    from .packing import BLOCK_BYTES, Turned, channels_of_block, parallel_tasks, vector
    from .winograd_funcs import linear_map

    plan = Plan.of(problem, schedule)
    g, source, nr, width = plan.g, plan.source, schedule.tile_channels, plan.stream_lanes
    (_, kh, kw), (_, sy, sx) = source.kernel, source.stride
    w_shape = (g.groups * g.oc, source.taps)
    w = image("w", w_shape)
    names = ("lane", "ic", "phase", "stream", "p", "panel", "i", "j", "block", "vectors", "row")
    lane, ic, phase, stream, p, panel, i, j, block, vectors, row = (hl.Var(v) for v in names)
    channel = (panel % plan.panels) * nr + stream * width + lane
    turned = Turned(w, lane, [stream, panel], (panel // plan.panels) * g.oc + hl.min(channel, g.oc - 1))

    def raw(kx: Any, ky: Any) -> Any:
        kx, ky = kx * sx + phase % sx, ky * sy + phase // sx
        value = turned.func[lane, ic * (kh * kw) + hl.min(ky, kh - 1) * kw + hl.min(kx, kw - 1), stream, panel]
        return value if sy * sx == 1 else hl.select((kx < kw) & (ky < kh), value, hl.f32(0))

    packed, point = hl.Func("packed"), hl.Func("point")
    transformed = schedule.weights == "transformed"
    if transformed:
        my, mx = plan.matrices()
        dims = [lane, ic, phase, stream, i, j, panel]
        rows = linear_map("rows", my.g, dims, 4, lambda k: raw(j, k), 64)
        both = linear_map("both", mx.g, dims, 5, lambda k: rows.func[lane, ic, phase, stream, i, k, panel], 64)
        both_at = both.func[lane, ic, phase, stream, p // plan.ax, p % plan.ax, panel]
        point[lane, p, ic, phase, stream, panel] = hl.cast(hl.Float(32), both_at)
        value = point[lane, p, ic, phase, stream, panel]
    else:
        value = raw(p % plan.kw, p // plan.kw)
    at = (lane, ic, phase, stream, p, panel)
    packed[at] = value if g.oc % nr == 0 else hl.select(channel < g.oc, value, hl.f32(0))
    panels, points, streams, _, _ = packed_shape(problem, schedule)
    shape = (panels, points, streams, sy * sx, source.ic, width)
    for var, extent in zip(at, reversed(shape)):
        packed.bound(var, 0, extent)
    block_bytes = TRANSFORMED_BLOCK_BYTES if transformed else BLOCK_BYTES
    depth = channels_of_block(source.ic, kh * kw, width, block_bytes)
    packed.split(ic, block, ic, depth, hl.TailStrategy.ShiftInwards).vectorize(lane, vector(width))
    packed.reorder(lane, ic, p, phase, block, stream, panel)
    if transformed:  # points lie a power of two apart in memory, in the same sets of the caches: each gets a run of lines
        point.compute_at(packed, phase).bound_extent(lane, width).bound_extent(p, plan.points)
        point.split(lane, vectors, lane, vector(width)).vectorize(lane).split(p, row, p, plan.ax).unroll(p)
        point.reorder(lane, p, row, vectors, ic)
        rows.schedule_at(point, vectors, vector(width), [j])
        both.schedule_at(point, row, vector(width))  # a row of points, whose terms stay in registers
    task = parallel_tasks(packed, [block, stream, panel], shape)
    turned.schedule_at(packed, task, width, depth * kh * kw)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Input transform, products, output transform and epilogue."""
    from .funcs import definition, epilogue_inputs, image
    from .winograd_funcs import winograd_pipeline

    plan = Plan.of(problem, schedule)
    g = plan.source
    x_shape = (g.batch, g.size[1], g.size[2], g.groups, g.ic)
    y_shape = (g.batch, g.out[1], g.out[2], g.groups, g.oc)
    p_shape = packed_shape(problem, schedule)
    x, packed = image("x", x_shape), image("packed", p_shape)
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    out = winograd_pipeline(problem, plan, schedule, machine, x, packed, dict(zip((name for name, _ in specs), extra)))
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", p_shape))]
    return definition(problem, out, y_shape, operands, (extra, specs), define_pack(problem, schedule))


# ------------------------------------------------------------------------------------------------- the row

WINOGRAD = Algorithm(
    name="winograd",
    equation="Y = AT [ sum over ic of (G g GT) * (BT d B) ] A, tile by tile",
    supports=supports,
    schedules=winograd_schedules,
    check=check_plan,
    define=define,
    macs_executed=winograd_macs,
    workspace_bytes=winograd_workspace,
    parameters=PARAMETERS,
    tolerance=2e-5,
    exact_on_integers=False,
    accumulates_as_defined=False,
    spreads=lambda problem, s: (Plan.of(problem, s).my, Plan.of(problem, s).mx),
    cost=lambda p, s, machine: with_memory_s(machine, winograd_cost_cycles(p, s, machine), p.unique_bytes),
    packing=packing,
)
