"""direct: register-tiled convolution, nothing stored between (implicit GEMM).

    y[n, oc, oy, ox] = sum over ky, kx, ic of x[n, ic, oy*sh + ky*dh - pt, ox*sw + kx*dw - pl] * w[oc, ic, ky, kx]

The column matrix of im2col exists only as addresses: the tile of sums reads its pixels from the input rows where they
are (Chetlur et al., cuDNN, arXiv 1410.0759, section 3, form it in on-chip memory). A padded problem first copies the
rows that a task needs, with their zeros, into scratch that stays in L2, so the hot loop has no borders.

Wins where a sum is long and no cheaper algorithm fits: large channel counts, strides, small images.
Cannot run: transposed problems, matrix products, float64.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, only_conv
from .tiles import (
    PARAMETERS,
    ProductShape,
    check_tiled,
    tiled_macs,
    tiled_schedules,
    tiled_seconds,
    tiled_workspace,
    weight_streams,
)

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    return only_conv(problem)


# --------------------------------------------------------------------------------------------------- define


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(panels of all groups, taps, tile_channels)`."""
    g = Geometry.of(problem)
    return (g.groups * -(-g.oc // schedule.tile_channels), g.taps, schedule.tile_channels)


def define_pack(problem: ConvProblem, schedule: Schedule, streams: int = 1) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, ic, tap, stream, panel]` from `w[ic * taps + tap, oc]`; tap = (kz*kh + ky)*kw + kx.

    With one stream these are the bytes of `packed_shape`, which im2col and mec read.
    """
    import halide as hl

    from .funcs import dense, image
    from .packing import Turned, channels_of_block, parallel_tasks, vector

    g, nr = Geometry.of(problem), schedule.tile_channels
    panels, taps, width = -(-g.oc // nr), math.prod(g.kernel), nr // streams
    w_shape = (g.groups * g.oc, g.taps)
    w = image("w", w_shape)
    lane, ic, block, tap, stream, panel = (hl.Var(name) for name in ("lane", "ic", "block", "tap", "stream", "panel"))
    channel = (panel % panels) * nr + stream * width + lane
    turned = Turned(w, lane, [stream, panel], (panel // panels) * g.oc + hl.min(channel, g.oc - 1))
    value = turned.func[lane, ic * taps + tap, stream, panel]
    packed = hl.Func("packed")
    packed[lane, ic, tap, stream, panel] = value if g.oc % nr == 0 else hl.select(channel < g.oc, value, hl.f32(0))
    shape = (g.groups * panels, streams, taps, g.ic, width)
    for var, extent in zip((lane, ic, tap, stream, panel), reversed(shape)):
        packed.bound(var, 0, extent)
    depth = channels_of_block(g.ic, taps, width)
    packed.split(ic, block, ic, depth, hl.TailStrategy.ShiftInwards)
    packed.reorder(lane, ic, tap, block, stream, panel).vectorize(lane, vector(width))
    turned.schedule_at(packed, parallel_tasks(packed, [block, stream, panel], shape), width, depth * taps)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def by_rows(g: Geometry) -> bool:
    """Whether pixel and channel are treated as one axis.

    With few channels (an image) a tap loop over them is too short to be fast; without dilation the taps of a whole
    kernel row lie side by side in the input row, and are summed in one loop of kw * ic.
    """
    return g.groups == 1 and g.ic < 16 and g.dilation[2] == 1 and g.kernel[2] > 1


def define(problem: ConvProblem, schedule: Schedule, machine: Machine, *, by_position: bool = False) -> Definition:
    """The convolution as a tiled product over the (staged) input.

    `by_position` counts all taps as one axis, so that `k_blocks` may be the number of kernel positions (kn2row).
    """
    import halide as hl

    from .funcs import definition, epilogue_inputs, image, padded_input, padded_rows
    from .tiled import Extents, conv_epilogue, tiled_product

    g = Geometry.of(problem)
    kd, kh, kw = g.kernel
    x_shape = (g.batch, *g.size, g.groups * g.ic)
    y_shape = (g.batch, g.out[0], g.pixels, g.groups, g.oc)
    rows = by_rows(g) and not by_position
    x = image("x", (g.batch, g.size[0], g.size[1], g.size[2] * g.ic) if rows else x_shape)
    nr = schedule.tile_channels
    streams = weight_streams(nr, machine)
    width, panels = nr // streams, -(-g.oc // nr)
    p_shape = (g.groups * panels, streams, g.taps, width)
    packed = image("packed", p_shape)
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    taps = (g.taps,) if by_position else (kw * g.ic, 1, kh, kd) if rows else (g.ic, kw, kh, kd)
    e = Extents(g.oc, g.pixels, g.groups, g.out[0], g.batch, taps, blocks_apart=by_position)
    source = x
    if g.padded:
        source = padded_rows(x, g) if rows else padded_input(x, g)
    finish = conv_epilogue(problem, e, nr, named)

    def term(r: list[Any], c: Any, p: Any, gr: Any, z: Any, n: Any) -> Any:
        if by_position:
            r = [r[0], r[1] % kw, r[1] // kw % kh, r[1] // (kw * kh)]
        ic, kx, ky, kz = r
        tap = (kz * kh + ky) * (kw * g.ic) + (ic if rows else kx * g.ic + ic)
        weight = packed[c % width, tap, c % nr // width, gr * panels + c // nr]
        at = [
            (p % g.out[2]) * g.stride[2] + kx * g.dilation[2],
            (p // g.out[2]) * g.stride[1] + ky * g.dilation[1],
            z * g.stride[0] + kz * g.dilation[0],
        ]
        if rows:
            return weight * source[(p % g.out[2]) * (g.stride[2] * g.ic) + ic, at[1], at[2], n]
        return weight * source[(gr * g.ic + ic, *at, n)]

    product = tiled_product(schedule, machine.lanes, e, term, finish)
    if g.padded:
        source.compute_at(product.output, product.task)
        source.vectorize(source.args()[0], machine.lanes, hl.TailStrategy.RoundUp if rows else hl.TailStrategy.GuardWithIf)
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", p_shape))]
    return definition(problem, product.output, y_shape, operands, (extra, specs), define_pack(problem, schedule, streams))


# ------------------------------------------------------------------------------------------------ schedules


def product_shape(problem: ConvProblem) -> ProductShape:
    """The problem as the cost model sees it."""
    g = Geometry.of(problem)
    row_bytes = 4 * g.groups * g.ic * (g.size[2] + sum(problem.padding[-1])) if g.padded else 0
    halo_rows = max((g.kernel[1] - 1) * g.dilation[1] + 1 - g.stride[1], 0)
    return ProductShape(
        oc=g.oc,
        pixels=g.pixels,
        slices=g.groups * g.slices,
        inner_taps=g.ic * (g.kernel[2] if by_rows(g) else 1),
        outer_taps=math.prod(g.kernel[: 2 if by_rows(g) else 3]),
        row=g.out[2],
        staged_bytes_per_pixel=row_bytes * g.stride[1] * g.kernel[0] / g.out[2] / g.groups,
        staged_bytes_per_task=row_bytes * halo_rows * g.kernel[0] / g.groups,
    )


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first."""
    return tiled_schedules("direct", product_shape(problem), machine)


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    return check_tiled(product_shape(problem), schedule, machine)


# ------------------------------------------------------------------------------------------------- the row

DIRECT = Algorithm(
    name="direct",
    equation="y[oc, p] = sum over taps of w[oc, tap] * x[address(p, tap)]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=lambda problem, s: tiled_macs(product_shape(problem), s),
    workspace_bytes=lambda problem, s, threads: tiled_workspace(product_shape(problem), s, threads),
    parameters=PARAMETERS,
    cost=lambda problem, s, machine: tiled_seconds(problem, product_shape(problem), s, machine),
)
